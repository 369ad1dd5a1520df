"""Whether a message of a server may reach a server of this node (MEMB-10).

Every message of a server carries the id of its cluster and the incarnation (uid) of the server that sent it.
Names are not enough: a cluster may be deleted and created again under its name, and a member may come back
with an empty disk or with an old copy of it. docs/explanation/identity.md has the histories.

`judge` answers with a verdict and does nothing else. The dispatcher acts on the verdict.
"""

import enum

from barque.core.configuration import is_removed, recognises
from barque.core.messages import RemoteMessage
from barque.core.terms import ASKS_FOR_VOTES, admits
from barque.runtime.server_process import ServerProcess
from barque.types import ServerId, Uid


class Verdict(enum.Enum):
    """The judgement on a message of a server."""

    ADMIT = enum.auto()
    """The sender is the member that our server knows, or our server's configuration does not name it."""
    ADMIT_CANDIDATE = enum.auto()
    """A candidate that our configuration knows under another uid. Its log says that it is a member, and ours
    may be older; a leader would have told us (`hears_candidate`)."""
    ADMIT_UNKNOWN = enum.auto()
    """Another incarnation than the member's, whose message makes no majority: a leader, elected by others."""
    DROP_UNKNOWN = enum.auto()
    """Another incarnation than the member's: its vote or acknowledgement must not count."""
    REMOVED = enum.auto()
    """Our server leads, and its committed configuration leaves the sender out. The sender is to be told."""
    FOREIGN = enum.auto()
    """It belongs to another cluster than our server of that name."""
    ABSENT = enum.auto()
    """There is no server of that name here."""
    STOPPED = enum.auto()
    """Our server has failed, or has ended."""


def judge(
    process: ServerProcess | None, message: RemoteMessage, sender: ServerId, cluster_id: str, uid: Uid
) -> Verdict:
    """Judge a message for `process` (None: no such server here) from this cluster and incarnation."""
    if process is None:
        return Verdict.ABSENT
    if cluster_id != process.cluster_id:
        return Verdict.FOREIGN
    if process.failure is not None:
        return Verdict.STOPPED
    server = process.server
    asks = type(message) in ASKS_FOR_VOTES
    if not asks:
        peer = server.cluster.get(sender)
        if peer is not None and peer.uid == uid:
            return Verdict.ADMIT  # nearly always
    # A candidate of a higher term may come from a newer configuration than ours: it is not told to go.
    if asks and message.term <= server.current_term and is_removed(server, sender, uid):  # type: ignore[union-attr]  # both have a term
        return Verdict.REMOVED
    if uid and recognises(server, sender, uid):
        return Verdict.ADMIT
    if not uid or not admits(server, sender, uid, message):
        return Verdict.DROP_UNKNOWN
    return Verdict.ADMIT_CANDIDATE if asks else Verdict.ADMIT_UNKNOWN
