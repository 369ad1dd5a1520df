"""Members that others call removed: confirmed by several nodes before anything is deleted.

Theory of operation
-------------------

A member that was out of reach does not hear of its own removal, or of the deletion of its cluster:
nobody sends it entries any longer. Leaders and tombstones tell its node (`MemberRemoved`, `LeaderIs`).
That is one node's word, and deletion is for good. So the node *suspects* the member first, and asks all
nodes (`RemovalAsked`). Each answers by what its own server of that cluster has committed, or by its
tombstone (`RemovalAnswer`). The member is deleted once

- two nodes have confirmed it, or one if its configuration names fewer than three nodes, and
- those nodes hold a majority of the voters in the newest configuration that they tell of. (A deleted
  cluster has no configuration; there the first condition is enough.)

A node whose own member was removed for good has no configuration to tell of (`FORMER_MEMBER`), but it is a
second witness: its member will never serve ours again. So a cluster may shrink to one member, and leave no
ghosts.

An answer counts only if its configuration is not older than the member's own, and newer than the
position at which the member joined. A node that knows nothing says nothing. Questions are repeated each
second while the suspicion lasts. It ends after a minute, and begins anew with the next notice. It also ends
with an answer that lists the member in a newer configuration than any that leaves it out. But not in the
first seconds: the node may only be late to commit the removal, and the notice is not repeated. Until then
the member runs on: it wins no election without the others, and loses nothing.
"""

import logging

from barque.core.configuration import committed_configuration
from barque.core.quorum import majority
from barque.core.state import Server
from barque.runtime.clock import Clock
from barque.runtime.directory import Directory
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import Ending, ServerTable
from barque.transport.contract import Transport
from barque.transport.wire import MemberRemoved, RemovalAnswer, RemovalAsked
from barque.types import Index, Membership, Uid

logger = logging.getLogger("barque.dispatcher")

_ASK_INTERVAL_S = 1.0
_PATIENCE_S = 60.0
_ROUNDS_MIN = 3
"""A suspicion outlasts so many questions, even if a node lists the member."""


FORMER_MEMBER = ("",)
"""In the place of voters: the node had a member of this cluster, which was removed."""


class Suspicion:
    """Since when it lasts, and which nodes have confirmed it."""

    __slots__ = ("asked_at", "confirmed", "rounds", "since")

    def __init__(self, since: float) -> None:
        self.since = self.asked_at = since
        self.rounds = 0  # how often all nodes were asked
        self.confirmed: dict[str, RemovalAnswer] = {}


class Removals:
    """The suspicions of one node. `name` is the node's."""

    def __init__(
        self, name: str, servers: ServerTable, directory: Directory, transport: Transport, clock: Clock
    ) -> None:
        self._name = name
        self._servers = servers
        self._directory = directory
        self._transport = transport
        self._clock = clock
        self._suspicions: dict[ServerProcess, Suspicion] = {}

    # --- the node of the member ----------------------------------------------------------

    def suspect(self, node: str, removed: MemberRemoved) -> None:
        """A node says that a member here was removed, or its cluster deleted. Ask all nodes."""
        now = self._clock.monotonic()
        for process in self._servers.all():
            if process.cluster_id != removed.cluster_id or removed.uid not in ("", process.uid):
                continue
            suspicion = self._suspicions.get(process)
            if suspicion is None:
                logger.info("%s: node %s says that it is gone; asking others", process.server.id, node)
                suspicion = self._suspicions[process] = Suspicion(now)
            elif now - suspicion.asked_at < _ASK_INTERVAL_S:
                continue
            self._ask(process, suspicion, now)

    def is_suspected(self, process: ServerProcess) -> bool:
        """Whether a node has said that this member is gone, and others have not decided it yet."""
        return process in self._suspicions

    def tick(self) -> None:
        """Ask again; answers may have been lost, or a node was out of reach."""
        now = self._clock.monotonic()
        for process, suspicion in list(self._suspicions.items()):
            gone = self._servers.by_uid.get(process.uid) is not process
            if gone or now - suspicion.since > _PATIENCE_S:
                del self._suspicions[process]
            elif now - suspicion.asked_at >= _ASK_INTERVAL_S:
                self._ask(process, suspicion, now)

    def _ask(self, process: ServerProcess, suspicion: Suspicion, now: float) -> None:
        suspicion.asked_at = now
        suspicion.rounds += 1
        server = process.server
        joined_at = server.cfg.min_vote_position.index
        since = max(server.cluster_index_term.index, joined_at + 1 if joined_at else 0)
        question = RemovalAsked(process.cluster_id, process.uid, Index(since))
        for node in self._transport.connected():
            self._transport.send(node, "", question)
        self.on_asked(self._name, question)  # another member of the cluster may live here

    def on_answer(self, node: str, answer: RemovalAnswer) -> None:
        """Count what a node says, and delete the member if that is enough."""
        process = self._servers.by_uid.get(Uid(answer.uid))
        suspicion = self._suspicions.get(process) if process is not None else None
        if process is None or suspicion is None or process.cluster_id != answer.cluster_id:
            return
        if not answer.removed:
            known = max((other.index for other in suspicion.confirmed.values()), default=Index(0))
            if suspicion.rounds < _ROUNDS_MIN or answer.index <= known:
                return
            logger.info("%s: node %s lists it as a member; it stays", process.server.id, node)
            del self._suspicions[process]
            return
        suspicion.confirmed[node] = answer
        if is_confirmed(process.server, suspicion.confirmed):
            del self._suspicions[process]
            deleted = any(not a.voters for a in suspicion.confirmed.values())
            names = ", ".join(sorted(suspicion.confirmed))
            what = "its cluster was deleted" if deleted else "it was removed from its cluster, or replaced"
            reason = f"{what}: confirmed by {names}"
            self._servers.finish(process, Ending(reason, delete=True, whole_cluster=deleted))

    # --- the nodes that are asked --------------------------------------------------------

    def on_asked(self, node: str, question: RemovalAsked) -> None:
        """Answer by what is committed here; say nothing if nothing is known."""
        answer = self._answer(question)
        if answer is None:
            return
        if node == self._name:
            self.on_answer(node, answer)
        else:
            self._transport.send(node, "", answer)

    def _answer(self, question: RemovalAsked) -> RemovalAnswer | None:
        cluster_id, uid = question.cluster_id, question.uid
        if self._directory.deleted_cluster(cluster_id) is not None:
            return RemovalAnswer(cluster_id, uid, True, Index(0), ())
        here = [process for process in self._servers.all() if process.cluster_id == cluster_id]
        for process in here:
            if process.uid == uid or process.failure is not None:
                continue
            position, records = committed_configuration(process.server)
            if position.index < question.since:
                continue  # the member may know more than we do
            if any(record.uid == uid for record in records):
                if position.index == question.since:
                    continue  # we know the same, and perhaps a later one leaves it out
                return RemovalAnswer(cluster_id, uid, False, position.index, ())
            if all(record.uid is not None for record in records):
                voters = sorted(r.id.node for r in records if r.membership is Membership.VOTER)
                return RemovalAnswer(cluster_id, uid, True, position.index, tuple(voters))
        if here:
            return None
        former = self._directory.last_tombstone(cluster_id)
        if former is None or former.uid == uid:
            return None
        return RemovalAnswer(cluster_id, uid, True, Index(0), FORMER_MEMBER)


def is_confirmed(server: Server, confirmed: dict[str, RemovalAnswer]) -> bool:
    """Whether these answers are enough to delete this member's data."""
    nodes = {member.node for member in server.cluster} | {server.id.node}
    if len(confirmed) < (2 if len(nodes) >= 3 else 1):
        return False
    told = [answer for answer in confirmed.values() if answer.voters != FORMER_MEMBER]
    if not told:
        return False
    newest = max(told, key=lambda answer: answer.index)
    if not newest.voters:
        return True  # tombstones of the whole cluster
    held = sum(voter in confirmed for voter in newest.voters)
    return held >= majority(len(newest.voters))
