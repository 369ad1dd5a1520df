"""The observers of a run: they see what servers do, and hand it to the checkers.

There is one `ClusterObserver` for each cluster id. `sim.host` calls it whenever a server sends a message
(`sent`), takes up a role (`role`), applies a command (`applied`) or restarts (`restarted`). These calls come
from outside the code under test: the effect sink, transport and machine of a simulated node report them.
The observer passes each event to the checkers that it concerns:

| checker | judges |
|---|---|
| `safety.Elections` | one leader and one vote a term, terms that only grow (I1 to I3) |
| `safety.LogMatching` | index and term determine an entry (I5) |
| `safety.Committed` | one command an index, in order, held by later leaders (I6, I7, I9) |
| `safety.Durability` | claims, votes and commits against the disks (I8, I11, I12) |
| `members.Configurations` | changes of members (I22) |
| `members.Departures` | removed and deleted servers stay away (I23) |
| `effects.Messages`, `effects.Timeouts` | effects of machines (I21) |
| `clocks.Stamps` | the time that machines see (I33) |

A checker reports a `Violation`, and the first violation ends the run. All clusters share `Durability`,
`Departures` and `Clocks`, since several clusters live on one disk and go by one clock. Other checkers do not
depend on these events: `reports` asks nodes about themselves, `resources` and `members.check_registry` look
at nodes that stop or rest, and `sim.operations` judges the clients' histories.
"""

from collections.abc import Callable
from typing import Any

from barque.core.entries import EntryKind, kind_of
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    HeartbeatReply,
    HeartbeatRpc,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.state import RaftState, Server
from barque.machine.machine import CommandMeta
from barque.testing.checkers.clocks import Clocks, Stamps
from barque.testing.checkers.effects import Messages, Timeouts
from barque.testing.checkers.members import Configurations, Departures
from barque.testing.checkers.safety import (
    Committed,
    Durability,
    Elections,
    LogMatching,
    Report,
    UidOf,
    Violation,
    incarnation,
)
from barque.types import Index, IndexTerm, ServerId

NowMs = Callable[[], int]
"""Tells the true time in milliseconds."""


class ClusterObserver:
    """All checkers of one cluster. The hosts tell it what happens."""

    def __init__(
        self, report: Report, durability: Durability, departures: Departures, stamps: Stamps, now_ms: NowMs
    ) -> None:
        self.elections = Elections(report)
        self.matching = LogMatching(report)
        self.committed = Committed(report)
        self.configurations = Configurations(report)
        self.messages = Messages(report)
        self.timeouts = Timeouts(report)
        self.ends: dict[Index, None] = {}  # the entries by which machines heard of the end of a process
        self.durability = durability
        self.departures = departures
        self.stamps = stamps
        self._now_ms = now_ms
        self._report = report
        self._servers: dict[ServerId, Server] = {}  # as they started last
        self._looks: dict[type, Callable[[Server, ServerId, Any], None]] = {
            AppendEntriesRpc: self._append_entries,
            AppendEntriesReply: self._append_entries_reply,
            RequestVoteRpc: self._request_vote,
            RequestVoteResult: self._request_vote_result,
            HeartbeatRpc: self._heartbeat,
            HeartbeatReply: self._heartbeat_reply,
        }

    def sent(self, server: Server, to: ServerId, message: object) -> None:
        """A server hands a message to the transport. It counts whether or not it arrives."""
        look = self._looks.get(type(message))
        if look is not None:
            self.departures.lives(server, "speaks")
            look(server, to, message)

    def _append_entries(self, server: Server, to: ServerId, rpc: AppendEntriesRpc) -> None:
        self.elections.speaks(incarnation(server), rpc.term)
        self.elections.leads(incarnation(server), rpc.term)
        for batch in self.matching.sent(rpc.leader_id, rpc):
            if kind_of(batch.body) is EntryKind.CLUSTER_CHANGE:
                self.configurations.sent(server, batch)
        self.durability.may_overwrite(to, rpc)

    def _append_entries_reply(self, server: Server, to: ServerId, reply: AppendEntriesReply) -> None:
        # A repeated refusal may be of an earlier term; it promises nothing.
        if reply.success:
            self.elections.speaks(incarnation(server), reply.term)
        position = IndexTerm(reply.last_index, reply.last_term)
        # Neither does a report to a leader that has other entries at this position.
        leader = self._servers.get(to)
        shared = leader is not None and leader.log.fetch_term(position.index) == position.term
        promised_in = reply.term if reply.success and shared else None
        self.durability.ack(reply.sender, server.cfg.uid, position, promised_in=promised_in)

    def _request_vote(self, server: Server, _to: ServerId, rpc: RequestVoteRpc) -> None:
        self.elections.speaks(incarnation(server), rpc.term)
        self.elections.votes(incarnation(server), rpc.candidate_id, rpc.term)
        self.durability.vote(rpc.candidate_id, server.cfg.uid, rpc.candidate_id, rpc.term)

    def _request_vote_result(self, server: Server, to: ServerId, result: RequestVoteResult) -> None:
        self.elections.speaks(incarnation(server), result.term)
        if result.vote_granted:
            self.elections.votes(incarnation(server), to, result.term)
            self.durability.vote(result.sender, server.cfg.uid, to, result.term)

    def _heartbeat(self, server: Server, _to: ServerId, rpc: HeartbeatRpc) -> None:
        self.elections.speaks(incarnation(server), rpc.term)
        self.elections.leads(incarnation(server), rpc.term)

    def _heartbeat_reply(self, server: Server, _to: ServerId, reply: HeartbeatReply) -> None:
        self.elections.speaks(incarnation(server), reply.term)

    def role(self, server: Server) -> None:
        """A server has taken up a role, or has learned of a leader."""
        self.departures.lives(server, f"is {server.raft_state}")
        if server.raft_state is RaftState.LEADER:
            self.elections.leads(incarnation(server), server.current_term)
            self.committed.leader(server)
            self.stamps.leads(server.id, server.current_term, self._now_ms())

    def applied(self, server: Server, uid_of: UidOf, meta: CommandMeta, command: str) -> None:
        """A server applies a command. `uid_of` knows members that no configuration names with a uid."""
        first = self.committed.applied(str(server.id), meta.index, meta.term, command, server.current_term)
        if first:
            self.stamps.applied(meta.term, meta.system_time_ms, self._now_ms())
        if first and self.departures.deleted_on(server.cfg.cluster_id):
            states = (f"{server.id} commits {command} at {meta.index} in {server.cfg.cluster_id}",)
            self._report(Violation("the removed stay away (I23)", "a deleted cluster commits", states))
        if first and server.raft_state is RaftState.LEADER:
            voters = [(member, peer.uid) for member, peer in server.cluster.items() if peer.voter]
            known = [(member.node, uid or uid_of(member)) for member, uid in voters]
            holders = [(node, uid) for node, uid in known if uid is not None]
            self.durability.committed(meta.index, meta.term, holders, len(voters) // 2 + 1)

    def restarted(self, server: Server) -> None:
        """A server has recovered from its disk."""
        self.departures.lives(server, "starts again")
        self._servers[server.id] = server
        self.elections.restarted(incarnation(server), server.current_term)
        self.durability.restarted(server)
        self.configurations.restarted(server)


class Observers:
    """An observer for each cluster that ever existed, by id, and the checkers that all of them share."""

    def __init__(self, report: Report, durability: Durability, now_ms: NowMs) -> None:
        self.durability = durability
        self.departures = Departures(report)
        self.clocks = Clocks()
        self.now_ms = now_ms
        self._report = report
        self._all: dict[str, ClusterObserver] = {}

    def of(self, server: Server) -> ClusterObserver:
        """The observer of this server's cluster."""
        known = self._all.get(server.cfg.cluster_id)
        if known is None:
            known = self._all[server.cfg.cluster_id] = ClusterObserver(
                self._report,
                self.durability,
                self.departures,
                Stamps(self._report, self.clocks),
                self.now_ms,
            )
        return known

    def all(self) -> list[ClusterObserver]:
        """The observers of all clusters that ever existed."""
        return list(self._all.values())

    @property
    def elections(self) -> int:
        """How many elections were won."""
        return sum(observer.elections.count for observer in self._all.values())

    @property
    def commits(self) -> int:
        """How many commands were committed."""
        return sum(len(observer.committed.entries) for observer in self._all.values())
