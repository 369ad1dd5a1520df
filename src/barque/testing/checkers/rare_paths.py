"""The rare paths of core, log, runtime and client that a campaign should take. See `probes`.

`where` names a function, `before` is a condition on its arguments, `after` one on its result. Neither
changes anything.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from barque.core.configuration import may_change, recognises
from barque.core.effects import Rejected, SendRpc, StartElectionTimeout, StartSnapshotRetry
from barque.core.events import SenderOutcome
from barque.core.log_contract import Found
from barque.core.messages import (
    AppendEntriesReply,
    ChunkOutcome,
    HeartbeatReply,
    RequestVoteResult,
    TimeoutNow,
)
from barque.core.quorum import agreed
from barque.core.state import Peer, PeerStatus, RaftState, Server
from barque.types import Membership


class RarePath(NamedTuple):
    """A path in words, and how to recognise it."""

    text: str
    where: str
    before: Callable[..., bool] | None = None
    after: Callable[[Any], bool] | None = None


def _asks(kind: type, **wanted: Any) -> Callable[[Any], bool]:
    """Some effect is of this kind, or sends a message of this kind."""

    def look(effects: Any) -> bool:
        for effect in effects:
            said = effect.message if isinstance(effect, SendRpc) else effect
            if any(isinstance(it, kind) and _has(it, wanted) for it in (effect, said)):
                return True
        return False

    return look


def _has(value: Any, wanted: dict[str, Any]) -> bool:
    return all(getattr(value, name) == what for name, what in wanted.items())


def _some(result: Any) -> bool:
    return bool(result)


def _older_term_agreed(server: Server) -> bool:
    """Figure 3.7: a majority has the entry, but the leader must not commit it by counting."""
    from_peers = [peer.match_index for _, peer in server.peers if peer.voter]
    index = agreed([server.log.last_written().index, *from_peers])
    return index > server.commit_index and server.log.fetch_term(index) != server.current_term  # type: ignore[arg-type]


def _term_at(server: Server, reply: Any) -> Any:
    return server.log.fetch_term(reply.last_index)


ELECTIONS = (
    RarePath("a vote splits, and the candidate starts another term", "core.candidate:_on_election_timeout"),
    RarePath("a member starts another round of pre-votes", "core.candidate:_on_pre_vote_timeout"),
    RarePath(
        "a voter refuses, because it voted for another candidate",
        "core.elections:on_request_vote",
        before=lambda s, m: s.voted_for not in (None, m.candidate_id),
    ),
    RarePath(
        "a voter refuses, because the candidate's log is behind",
        "core.elections:on_request_vote",
        before=lambda s, m: s.voted_for is None and not s.is_up_to_date(m.last_log_index, m.last_log_term),
    ),
    RarePath(
        "a voter repeats its vote for the same candidate",
        "core.elections:on_request_vote",
        before=lambda s, m: s.voted_for == m.candidate_id,
    ),
    RarePath(
        "a voter with a better log campaigns itself",
        "core.elections:on_pre_vote",
        before=lambda s, m: not s.is_up_to_date(m.last_log_index, m.last_log_term),
        after=lambda effects: any(isinstance(e, StartElectionTimeout) for e in effects),
    ),
    RarePath(
        "a result of an earlier round of pre-votes arrives",
        "core.elections:on_pre_vote_result",
        before=lambda s, m: m.token != s.role.token,
    ),
    RarePath(
        "a vote of an earlier term arrives",
        "core.terms:drop",
        before=lambda _s, m: isinstance(m, RequestVoteResult) and m.vote_granted,
    ),
    RarePath(
        "a candidate gives way to the leader of its own term",
        "core.terms:_hear_leader",
        before=lambda s, _l, _e: s.raft_state is RaftState.CANDIDATE,
    ),
    RarePath(
        "a message of a higher term deposes a leader",
        "core.terms:_adopt_higher_term",
        before=lambda s, kind, _m, _e: s.raft_state is RaftState.LEADER and not kind.counted,
    ),
    RarePath(
        "a reply deposes a leader",
        "core.terms:_adopt_higher_term",
        before=lambda s, kind, m, _e: (
            s.raft_state is RaftState.LEADER and kind.counted and m.sender in s.cluster
        ),
    ),
    RarePath(
        "a node comes back, and a candidate asks its members again",
        "core.elections:on_node_up",
        after=_some,
    ),
)
REPLICATION = (
    RarePath(
        "a follower lacks the entries before an RPC",
        "core.append_entries:_await_catch_up",
        before=lambda _s, _m, found: found is Found.MISSING,
    ),
    RarePath(
        "a follower has another entry at the previous index",
        "core.append_entries:_await_catch_up",
        before=lambda _s, _m, found: found is not Found.MISSING,
    ),
    RarePath(
        "a follower replaces conflicting entries",
        "core.append_entries:_write_new",
        before=lambda s, _m, new: new[0].first_index < s.log.next_index(),
    ),
    RarePath(
        "a follower replaces entries that were on its disk",
        "core.append_entries:_write_new",
        before=lambda s, _m, new: new[0].first_index <= s.log.last_written().index,
    ),
    RarePath(
        "an RPC proves a part of the log, which the follower acknowledges",
        "core.append_entries:_nothing_new",
        before=lambda s, _m, matched: s.log.last_index_term().index > matched,
    ),
    RarePath(
        "a follower already has all entries of an RPC",
        "core.append_entries:drop_present",
        before=lambda _s, m: bool(m.entries),
        after=lambda result: not result[0],
    ),
    RarePath(
        "an RPC of an old leader arrives",
        "core.append_entries:refuse_append_entries",
    ),
    RarePath(
        "a follower's log cannot be written",
        "core.append_entries:_write_new",
        before=lambda s, _m, _n: not s.log.can_write(),
    ),
    RarePath(
        "a refusal names an entry that the leader lacks",
        "core.commitment:_rewind",
        before=lambda s, _p, m: _term_at(s, m) is None,
    ),
    RarePath(
        "a refusal names the place where the logs meet",
        "core.commitment:_rewind",
        before=lambda s, p, m: _term_at(s, m) == m.last_term and m.last_index >= p.match_index,
    ),
    RarePath(
        "a refusal names less than was acknowledged before",
        "core.commitment:_rewind",
        before=lambda s, p, m: _term_at(s, m) is not None and m.last_index < p.match_index,
    ),
    RarePath(
        "a refusal names an entry of another term",
        "core.commitment:_rewind",
        before=lambda s, p, m: _term_at(s, m) not in (None, m.last_term) and m.last_index >= p.match_index,
    ),
    RarePath(
        "an acknowledgement of an earlier term arrives",
        "core.terms:drop",
        before=lambda _s, m: isinstance(m, AppendEntriesReply),
    ),
    RarePath(
        "an acknowledged log still ends with another leader's entry",
        "core.commitment:_note",
        before=lambda s, _p, m: m.success and _term_at(s, m) != m.last_term,
    ),
    RarePath(
        "a majority has an entry of an earlier term, which the leader must not count",
        "core.commitment:advance_commit_index",
        before=_older_term_agreed,
    ),
    RarePath("a waiting follower asks again", "core.await_condition:_on_timeout"),
    RarePath("a waiting leader learns the position of a peer", "core.commitment:note_position"),
    RarePath(
        "a follower has missed a commit index",
        "core.replication:is_stale",
        before=lambda s, p: (
            p.match_index == s.log.last_index_term().index and p.commit_index < p.commit_index_sent
        ),
    ),
    RarePath(
        "a server hears a candidate with an unknown uid, as its log names it",
        "core.configuration:hears_candidate",
        before=lambda s, sender, uid, in_own_config: in_own_config and not recognises(s, sender, uid),
        after=lambda heard: bool(heard),
    ),
    RarePath(
        "a leader cannot write its log, and offers the leadership",
        "core.commands:await_wal",
        after=_asks(TimeoutNow),
    ),
    RarePath(
        "a leader resumes with its noop still to write",
        "core.commands:on_resume",
        before=lambda s: s.role.noop_due is not None,
    ),
)
LEADERSHIP = (
    RarePath(
        "a leader suspects that it has lost its quorum",
        "core.check_quorum:_begin",
        after=_some,
    ),
    RarePath(
        "a majority answers, and the suspicion ends",
        "core.check_quorum:note_acked",
        before=lambda s, m: _is_doubting(s) and s.has_quorum({*s.role.acked, m}),
    ),
    RarePath(
        "a leader without a quorum steps down",
        "core.check_quorum:on_quorum_timeout",
        after=_some,
    ),
    RarePath(
        "a leader answers that an outcome is unknown",
        "core.check_quorum:unresolved_from",
        after=_some,
    ),
    RarePath("a leader hands over", "core.transfer:on_transfer_leadership", after=_asks(TimeoutNow)),
    RarePath(
        "a transfer is refused: the target lags",
        "core.transfer:on_transfer_leadership",
        after=_asks(Rejected),
    ),
    RarePath(
        "a read waits for the noop of the term",
        "core.queries:_prove",
        before=lambda s, _w: not s.role.established,
    ),
    RarePath(
        "one round proves several reads",
        "core.queries:_start_round",
        before=lambda _s, _role, pending: len(pending) > 1,
    ),
    RarePath(
        "a reply to a heartbeat of an earlier term arrives",
        "core.terms:drop",
        before=lambda _s, m: isinstance(m, HeartbeatReply),
    ),
    RarePath(
        "a leader cuts a batch of low priority",
        "core.commands:on_flush_commands",
        before=lambda s, _m: (
            bool(s.role.low_priority)
            and s.role.low_priority[0].count > s.cfg.low_priority_commands_flush_size
        ),
    ),
)


def _is_doubting(server: Server) -> bool:
    return getattr(server.role, "acked", None) is not None


MEMBERS = (
    RarePath(
        "a leader names members by their uids",
        "core.membership:name_members",
        after=_some,
    ),
    RarePath(
        "a configuration is overwritten",
        "core.configuration:revert_overwritten",
        before=lambda s, first: first <= s.cluster_index_term.index,
    ),
    RarePath(
        "a leader refuses a change while another is under way",
        "core.membership:on_leave",
        before=lambda s, _m: not may_change(s),
    ),
    RarePath(
        "a leader is removed",
        "core.membership:on_leave",
        before=lambda s, m: may_change(s) and m.member == s.id,
    ),
    RarePath(
        "a leader without a vote leaves",
        "core.membership:leave_if_removed",
        before=lambda s, _e: s.membership is not Membership.VOTER,
    ),
    RarePath(
        "a member has caught up, and gets its vote",
        "core.membership:promotions_due",
        after=_some,
    ),
    RarePath("a cluster is deleted", "core.terminating:begin_termination"),
)
SNAPSHOTS = (
    RarePath(
        "a receiving member answers a trial election",
        "core.elections:on_pre_vote",
        before=lambda s, _m: s.raft_state is RaftState.RECEIVE_SNAPSHOT,
    ),
    RarePath(
        "a waiting member answers a trial election",
        "core.elections:on_pre_vote",
        before=lambda s, _m: s.raft_state is RaftState.AWAIT_CONDITION,
    ),
    RarePath(
        "a leader hears a trial election, and asserts itself",
        "core.elections:on_pre_vote_as_leader",
        after=_some,
    ),
    RarePath(
        "a failed transfer waits before the next attempt",
        "core.snapshots:on_sender_down",
        after=_asks(StartSnapshotRetry),
    ),
    RarePath("a snapshot is tried again after a pause", "core.snapshots:on_snapshot_retry", after=_some),
    RarePath(
        "a leader that asserts itself tries a snapshot again",
        "core.replication:_reach_again",
        after=_some,
    ),
    RarePath(
        "a member to whom a snapshot is sent is further than thought",
        "core.snapshots:on_install_snapshot_result",
        before=lambda s, m: (
            m.outcome is ChunkOutcome.AHEAD
            and m.sender in s.cluster
            and s.cluster[m.sender].status is PeerStatus.SENDING_SNAPSHOT
        ),
    ),
    RarePath(
        "a piece of a snapshot comes twice",
        "core.receive_snapshot:_take_piece",
        before=lambda _s, role, m: m.chunk.number - (role.live_chunks or 0) <= role.pieces,
        after=_some,
    ),
    RarePath(
        "a sender ends with its node, and the peer waits for it",
        "core.snapshots:on_sender_down",
        before=lambda _s, m: m.outcome is SenderOutcome.DISCONNECTED,
    ),
)
PIPELINE = (
    RarePath(
        "the first entry of a term goes through a full pipeline",
        "core.replication:pipelined_rpcs",
        before=lambda s, force=False: force and any(_is_full(s, peer) for _, peer in s.peers),
        after=lambda result: bool(result[0]),
    ),
    RarePath(
        "a queue of low priority ends with its leadership",
        "core.transitions:_refuse_what_waits",
        before=lambda leader, _reason, _now: bool(leader.low_priority),
    ),
    RarePath(
        "a tick asks a stale peer with one entry",
        "core.replication:make_rpc",
        before=lambda _s, _m, _p, most: most == 1,
    ),
)


def _is_full(server: Server, peer: Peer) -> bool:
    return peer.next_index - peer.match_index - 1 >= server.cfg.max_pipeline_count


LOG = (
    RarePath("a file is full, and the next one begins", "log.wal_files:WalFiles.start_next"),
    RarePath(
        "the log gives up a file after an error",
        "log.wal_files:WalFiles.start_next",
        before=lambda _self, abandon=False: abandon,
    ),
    RarePath("the log cannot create a file", "log.wal_files:WalFiles._undo"),
    RarePath("the log uses a spare file", "log.wal_files:WalFiles._blank", after=lambda made: not made[2]),
    RarePath(
        "the log recycles files",
        "log.wal_files:WalFiles.retire",
        after=_some,
    ),
    RarePath("the log fails", "log.wal:Wal._fail"),
    RarePath(
        "a failed log opens again",
        "log.wal:Wal.try_reopen",
        before=lambda self, _r: self.failed_reason is not None and not self._reopening,
    ),
    RarePath("pending entries are written again", "log.log:WalLog.resubmit"),
    RarePath("a write would leave a gap", "log.wal:Wal._on_gap"),
    RarePath(
        "entries are overwritten during their sync",
        "log.log:WalLog._on_written",
        before=lambda self, event: self._memtable.fetch_term(event.last) != event.term,
    ),
    RarePath("recovery cuts a torn tail", "log.wal_recovery:_make_durable"),
    RarePath("recovery finds a file that no manifest lists", "log.wal_recovery:_Recovery._look_at_unlisted"),
    RarePath("recovery finds damage, and names it", "log.wal_recovery:_damage_text"),
    RarePath("the meta store is rewritten", "log.meta:MetaStore._rewrite"),
    RarePath(
        "the meta store cannot sync terms and votes",
        "runtime.system:System._note_failure",
        before=lambda _self, text: text.startswith("the meta store"),
    ),
)
NODES = (
    RarePath(
        "messages wait for the sync of a vote", "runtime.server_process:ServerProcess.defer_until_synced"
    ),
    RarePath("commands wait for a leader", "runtime.requests:RequestRouter.take"),
    RarePath("a refused batch goes to the named leader", "runtime.requests:RequestRouter._redirect"),
    RarePath("a refused batch is tried again later", "runtime.requests:RequestRouter._retry_later"),
    RarePath("a command is past its deadline", "runtime.requests:RequestRouter._give_up"),
    RarePath(
        "a leader's node is lost",
        "runtime.requests:RequestRouter.node_lost",
    ),
    RarePath("a leader is lost, but not its node", "runtime.requests:RequestRouter.leader_lost"),
    RarePath(
        "the failure detector changes its mind",
        "runtime.failure_detector:FailureDetector.poll",
        after=_some,
    ),
    RarePath("a stopping node hands over its leaderships", "runtime.admin:Admin.hand_over"),
    RarePath("a message of another incarnation arrives", "runtime.dispatcher:Dispatcher._note_unknown"),
    RarePath("a node tells a removed server to go", "runtime.dispatcher:Dispatcher.notify_removed"),
    RarePath("a server learns that it was removed", "runtime.removals:Removals.suspect"),
    RarePath(
        "a client suspects a silent node",
        "client.connection:Connection.suspect",
        after=_some,
    ),
    RarePath(
        "a stopping node tells the clients in its process",
        "runtime.client_session:ClientSessions.stop",
        before=lambda self, _reason: bool(self._in_process),
    ),
    RarePath(
        "a client in the process ends with commands under way",
        "runtime.requests:RequestRouter.end_session",
        before=lambda self, session, _reason: any(
            request.session is session and not request.is_read
            for route in self._routes.values()
            for request in route.unanswered.values()
        ),
    ),
)
RARE_PATHS: tuple[RarePath, ...] = (
    *ELECTIONS,
    *REPLICATION,
    *LEADERSHIP,
    *MEMBERS,
    *SNAPSHOTS,
    *PIPELINE,
    *LOG,
    *NODES,
)
"""All rare paths."""
