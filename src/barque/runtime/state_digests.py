"""Whether the members of a cluster have the same state: compared at the entries of their snapshots.

A machine must do the same on every member (`barque.machine.machine`), and Raft cannot tell if it does not. A
snapshot file holds the state and nothing that differs between members, so its checksum is a digest of the
state. Each member tells the nodes of the others the digest of each snapshot and checkpoint that it makes, and
compares what it hears with its own of the same entry. A difference is logged once, and `status` has it with
the first entry at which it was seen. Nothing is stopped or mended: only people can say which member is right.

Members make snapshots at the same entries as long as they count from the same one. What they make at other
entries is not compared. A state that msgpack encodes in an order of its own, such as a set, differs in vain.
"""

import logging
from collections.abc import Callable

from barque.core.events import SnapshotWritten
from barque.runtime.server_process import ServerProcess
from barque.transport.wire import NodeMessage, StateDigest
from barque.types import Index

logger = logging.getLogger("barque.node")

_KEPT = 16
"""Digests of so many entries are kept, for a member that is late."""


class StateDigests:
    """Compares the members of this node with those of others.

    `member_of` finds the member of a cluster here, and `send` sends a message to another node.
    """

    def __init__(
        self,
        member_of: Callable[[str], ServerProcess | None],
        send: Callable[[str, NodeMessage], object],
    ) -> None:
        self._member_of = member_of
        self._send = send

    def made(self, process: ServerProcess, event: SnapshotWritten) -> None:
        """A member here has made a snapshot or checkpoint. One without a digest is not compared."""
        if event.digest is None:
            return
        server, index = process.server, event.position.index
        digests = process.digests
        _keep(digests.own, index, event.digest)
        message = StateDigest(server.cfg.cluster_name, server.cfg.cluster_id, index, event.digest)
        for member, _ in server.peers:
            self._send(member.node, message)
        for node in digests.told:
            _compare(process, node, index)

    def heard(self, node: str, message: StateDigest) -> None:
        """A member on another node has made one."""
        process = self._member_of(message.cluster)
        if process is None or process.cluster_id != message.cluster_id:
            return
        if all(member.node != node for member in process.server.cluster):
            return
        _keep(process.digests.told.setdefault(node, {}), message.index, message.digest)
        _compare(process, node, message.index)


def _keep(digests: dict[Index, int], index: Index, digest: int) -> None:
    digests[index] = digest
    if len(digests) > _KEPT:
        del digests[min(digests)]


def _compare(process: ServerProcess, node: str, index: Index) -> None:
    digests, server = process.digests, process.server
    ours, theirs = digests.own.get(index), digests.told[node].get(index)
    if ours is None or theirs is None or ours == theirs or node in digests.differing:
        return
    digests.differing[node] = index
    logger.error(
        "%s: the state after entry %d is another one on node %s. The machine %s has not done the same on "
        "both: see docs/how-to/test-my-machine.md for the usual causes. Find the member that is wrong, mend "
        "the machine, and replace that member: barque member replace",
        server.id,
        index,
        node,
        type(server.machine).__name__,
    )
