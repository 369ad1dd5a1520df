"""The rare paths of core, log, runtime and client that a campaign should reach. See `probes`.

`where` names a function; `before` looks at its arguments, `after` at its result. Both only look.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from barque.core.configuration import recognises
from barque.core.consistency import Found
from barque.core.effects import Rejected, SendRpc, StartElectionTimeout
from barque.core.messages import TimeoutNow
from barque.core.quorum import agreed
from barque.core.server import RaftState, Server
from barque.types import Membership


class RarePath(NamedTuple):
    """What happens there, in words, and how to see it."""

    text: str
    where: str
    before: Callable[..., bool] | None = None
    after: Callable[[Any], bool] | None = None


def _becomes(state: RaftState) -> Callable[[Any], bool]:
    return lambda transition: transition.state is state


def _asks(kind: type, **wanted: Any) -> Callable[[Any], bool]:
    """A transition with an effect of this kind, or that sends a message of it."""

    def look(transition: Any) -> bool:
        for effect in transition.effects:
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
    """Figure 3.7: a majority has it, and yet it must not be committed by counting."""
    from_peers = [peer.match_index for _, peer in server.peers() if peer.voter]
    index = agreed([server.log.last_written().index, *from_peers])
    return index > server.commit_index and server.log.fetch_term(index) != server.current_term  # type: ignore[arg-type]


def _term_at(server: Server, reply: Any) -> Any:
    return server.log.fetch_term(reply.last_index)


ELECTIONS = (
    RarePath("a split vote: the candidate begins another term", "core.candidate:_on_election_timeout"),
    RarePath("a pre-vote round is begun again", "core.pre_vote:_on_election_timeout"),
    RarePath(
        "a vote is refused: it was given to another",
        "core.elections:on_request_vote",
        before=lambda s, m: m.term == s.current_term and s.voted_for not in (None, m.candidate_id),
    ),
    RarePath(
        "a vote is refused: the candidate's log is behind",
        "core.elections:on_request_vote",
        before=lambda s, m: (
            m.term > s.current_term and not s.is_up_to_date(m.last_log_index, m.last_log_term)
        ),
    ),
    RarePath(
        "a vote is given twice to the same candidate, who asked twice",
        "core.elections:on_request_vote",
        before=lambda s, m: m.term == s.current_term and s.voted_for == m.candidate_id,
    ),
    RarePath(
        "who is asked has the better log, and stands itself",
        "core.elections:on_pre_vote",
        before=lambda s, m: not s.is_up_to_date(m.last_log_index, m.last_log_term),
        after=lambda t: any(isinstance(e, StartElectionTimeout) for e in t.effects),
    ),
    RarePath(
        "an answer to an earlier round of pre-votes",
        "core.elections:on_pre_vote_result",
        before=lambda s, m: m.term == s.current_term and m.token != s.role.token,
    ),
    RarePath(
        "a vote of an earlier term arrives",
        "core.elections:on_request_vote_result",
        before=lambda s, m: m.term < s.current_term and m.vote_granted,
    ),
    RarePath(
        "a candidate gives way to the leader of its own term",
        "core.candidacy:_on_append_entries",
        before=lambda s, m: m.term == s.current_term and s.raft_state is RaftState.CANDIDATE,
    ),
    RarePath(
        "a leader is deposed by a higher term",
        "core.elections:yield_to_member",
        after=_becomes(RaftState.FOLLOWER),
    ),
    RarePath(
        "a leader is deposed by an answer",
        "core.progress:on_append_entries_reply",
        before=lambda s, m: m.term > s.current_term and m.sender in s.cluster,
    ),
    RarePath(
        "a node comes back, and its members are asked for their votes again",
        "core.elections:on_node_up",
        after=lambda t: bool(t.effects),
    ),
)
REPLICATION = (
    RarePath(
        "a follower lacks the entries before",
        "core.reception:_await_catch_up",
        before=lambda _s, _m, found, _e: found is Found.MISSING,
    ),
    RarePath(
        "a follower has another entry there",
        "core.reception:_await_catch_up",
        before=lambda _s, _m, found, _e: found is not Found.MISSING,
    ),
    RarePath(
        "conflicting entries are replaced",
        "core.reception:_write_new",
        before=lambda s, _m, new, _e: new[0].first_index < s.log.next_index(),
    ),
    RarePath(
        "replaced entries had been on the disk",
        "core.reception:_write_new",
        before=lambda s, _m, new, _e: new[0].first_index <= s.log.last_written().index,
    ),
    RarePath(
        "only a part of the log is proved, and acknowledged",
        "core.reception:_nothing_new",
        before=lambda s, _m, matched, _e: s.log.last_index_term().index > matched,
    ),
    RarePath(
        "all entries of an RPC are there already",
        "core.consistency:drop_present",
        before=lambda _s, m: bool(m.entries),
        after=lambda result: not result[0],
    ),
    RarePath(
        "an RPC of an old leader",
        "core.reception:refuse_append_entries",
    ),
    RarePath(
        "a follower's log cannot be written",
        "core.reception:_write_new",
        after=_becomes(RaftState.AWAIT_CONDITION),
    ),
    RarePath(
        "a refusal names an entry that the leader does not have",
        "core.progress:_rewind",
        before=lambda s, _p, m: _term_at(s, m) is None,
    ),
    RarePath(
        "a refusal names the place where the logs meet",
        "core.progress:_rewind",
        before=lambda s, p, m: _term_at(s, m) == m.last_term and m.last_index >= p.match_index,
    ),
    RarePath(
        "a refusal names less than was acknowledged before",
        "core.progress:_rewind",
        before=lambda s, p, m: _term_at(s, m) is not None and m.last_index < p.match_index,
    ),
    RarePath(
        "a refusal names an entry of another term",
        "core.progress:_rewind",
        before=lambda s, p, m: _term_at(s, m) not in (None, m.last_term) and m.last_index >= p.match_index,
    ),
    RarePath(
        "an acknowledgement of an earlier term",
        "core.progress:on_append_entries_reply",
        before=lambda s, m: m.term < s.current_term,
    ),
    RarePath(
        "an acknowledged log still ends with another leader's entry",
        "core.progress:_advance",
        before=lambda s, _p, m: _term_at(s, m) != m.last_term,
    ),
    RarePath(
        "a majority has an entry of an earlier term, which counting must not commit",
        "core.commitment:advance_commit_index",
        before=_older_term_agreed,
    ),
    RarePath("a follower waits, and asks once more", "core.await_condition:_on_timeout"),
    RarePath("a leader that waits learns how far a peer is", "core.progress:note_while_waiting"),
    RarePath(
        "a commit index that was told has not arrived",
        "core.replication:is_stale",
        before=lambda s, p: (
            p.match_index == s.log.last_index_term().index and p.commit_index < p.commit_index_sent
        ),
    ),
    RarePath(
        "a candidate of an unknown uid is heard, as its log names it",
        "core.configuration:hears_candidate",
        before=lambda s, sender, uid, named: named and not recognises(s, sender, uid),
        after=lambda heard: bool(heard),
    ),
    RarePath(
        "a leader's log cannot be written: it offers the leadership",
        "core.commands:await_wal",
        after=_asks(TimeoutNow),
    ),
    RarePath(
        "a leader is back from waiting with its noop still to write",
        "core.commands:on_resume",
        before=lambda s: s.role.noop_due is not None,
    ),
)
LEADERSHIP = (
    RarePath(
        "a leader doubts that a majority hears it",
        "core.check_quorum:_begin",
        after=_some,
    ),
    RarePath(
        "a doubt is over: a majority answered",
        "core.check_quorum:note_heard",
        before=lambda s, m: _is_doubting(s) and s.has_quorum({*s.role.heard, m}),
    ),
    RarePath(
        "a leader that no majority hears steps down",
        "core.check_quorum:on_quorum_timeout",
        after=_becomes(RaftState.FOLLOWER),
    ),
    RarePath(
        "callers are told that the outcome is unknown",
        "core.check_quorum:unresolved_from",
        after=_some,
    ),
    RarePath("leadership is handed over", "core.transfer:on_transfer_leadership", after=_asks(TimeoutNow)),
    RarePath(
        "a transfer is refused: the target lags",
        "core.transfer:on_transfer_leadership",
        after=_asks(Rejected),
    ),
    RarePath(
        "a read waits for the noop of the term",
        "core.queries:_prove",
        before=lambda s, _w: not s.cluster_change_permitted,
    ),
    RarePath(
        "one round proves several reads",
        "core.queries:_start_round",
        before=lambda _s, pending: len(pending) > 1,
    ),
    RarePath(
        "a heartbeat's answer of an earlier term",
        "core.queries:on_heartbeat_reply",
        before=lambda s, m: m.term < s.current_term,
    ),
    RarePath(
        "a batch of low priority is cut",
        "core.commands:on_flush_commands",
        before=lambda s, _m: (
            bool(s.role.low_priority)
            and s.role.low_priority[0].count > s.cfg.low_priority_commands_flush_size
        ),
    ),
)


def _is_doubting(server: Server) -> bool:
    return getattr(server.role, "heard", None) is not None


MEMBERS = (
    RarePath(
        "members are named by their uids",
        "core.membership:name_members",
        after=_some,
    ),
    RarePath(
        "a configuration is void: it was overwritten",
        "core.configuration:revert_overwritten",
        before=lambda s, first: first <= s.cluster_index_term.index,
    ),
    RarePath(
        "a configuration is refused: another is under way",
        "core.membership:on_leave",
        before=lambda s, _m: not s.cluster_change_permitted,
    ),
    RarePath(
        "a leader is removed",
        "core.membership:on_leave",
        before=lambda s, m: s.cluster_change_permitted and m.member == s.id,
    ),
    RarePath(
        "a leader that is no voter any more leaves",
        "core.membership:leave_if_removed",
        before=lambda s, _e: s.membership is not Membership.VOTER,
    ),
    RarePath(
        "a member has caught up, and gets its vote",
        "core.membership:promotions_due",
        after=_some,
    ),
    RarePath("a cluster is deleted", "core.termination:begin_termination"),
)
LOG = (
    RarePath("a file is full, and the next is begun", "log.wal_files:WalFiles.start_next"),
    RarePath(
        "a file is given up after an error",
        "log.wal_files:WalFiles.start_next",
        before=lambda _self, abandon=False: abandon,
    ),
    RarePath("a file could not be begun", "log.wal_files:WalFiles._undo"),
    RarePath("a spare file is used", "log.wal_files:WalFiles._blank", after=lambda made: not made[2]),
    RarePath(
        "files that nobody needs are recycled",
        "log.wal_files:WalFiles.retire",
        after=_some,
    ),
    RarePath("the log fails", "log.wal:Wal._fail"),
    RarePath(
        "a failed log is begun anew",
        "log.wal:Wal.try_reopen",
        before=lambda self, _r: self.failed_reason is not None and not self._reopening,
    ),
    RarePath("pending entries are written once more", "log.log:WalLog.resubmit"),
    RarePath("a gap in what is to be written", "log.wal:Wal._on_gap"),
    RarePath(
        "entries are overwritten while they are being synced",
        "log.log:WalLog._on_written",
        before=lambda self, event: self._memtable.fetch_term(event.last) != event.term,
    ),
    RarePath("a torn tail is cut", "log.wal_recovery:_make_durable"),
    RarePath("a file that no manifest lists is found", "log.wal_recovery:_Recovery._look_at_unlisted"),
    RarePath("damage is found, and named", "log.wal_recovery:_damage_text"),
    RarePath("the meta store is rewritten", "log.meta:MetaStore._rewrite"),
    RarePath(
        "terms and votes cannot be synced",
        "runtime.system:System._note_failure",
        before=lambda _self, text: text.startswith("the meta store"),
    ),
)
NODES = (
    RarePath(
        "messages wait for a vote to be synced", "runtime.server_process:ServerProcess.defer_until_synced"
    ),
    RarePath("commands wait for a leader", "runtime.requests:RequestRouter.take"),
    RarePath("a refused batch goes to the leader that was named", "runtime.requests:RequestRouter._redirect"),
    RarePath("a refused batch is tried again later", "runtime.requests:RequestRouter._retry_later"),
    RarePath("a caller's time is over", "runtime.requests:RequestRouter._give_up"),
    RarePath(
        "the node of a leader is lost",
        "runtime.requests:RequestRouter.node_lost",
    ),
    RarePath("a leader is lost, and its node is not", "runtime.requests:RequestRouter.leader_lost"),
    RarePath(
        "the failure detector changes its mind",
        "runtime.failure_detector:FailureDetector.poll",
        after=_some,
    ),
    RarePath("leaderships are handed over at a stop", "runtime.admin:Admin.hand_over"),
    RarePath("another incarnation of a member speaks", "runtime.dispatcher:Dispatcher._note_unknown"),
    RarePath("a ghost is told to go", "runtime.dispatcher:Dispatcher.notify_removed"),
    RarePath("a server is told that it is gone", "runtime.dispatcher:Dispatcher.on_member_removed"),
    RarePath(
        "a client suspects a node that says nothing",
        "client.connection:Connection.suspect",
        after=_some,
    ),
    RarePath(
        "a node that stops tells the clients in its process",
        "runtime.client_session:ClientSessions.stop",
        before=lambda self, _reason: bool(self._in_process),
    ),
    RarePath(
        "a client inside ends while commands are under way",
        "runtime.requests:RequestRouter.end_session",
        before=lambda self, session, _reason: any(
            request.session is session and not request.is_read
            for route in self._routes.values()
            for request in route.unanswered.values()
        ),
    ),
)
RARE_PATHS: tuple[RarePath, ...] = (*ELECTIONS, *REPLICATION, *LEADERSHIP, *MEMBERS, *LOG, *NODES)
"""All of them."""
