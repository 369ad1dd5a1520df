"""AppendEntries, as a follower takes it (Figure 2; F-1, F-2, F-5; REPL-13 to REPL-20)."""

from barque.core.applying import apply_to
from barque.core.conditions import CatchUp, WalWritable
from barque.core.configuration import revert_overwritten, take_up_written
from barque.core.consistency import Found, drop_present, has_entry
from barque.core.effects import AuxEval, Effect, SendRpc, StartConditionTimeout
from barque.core.entries import EntryBatch
from barque.core.events import LogEvent
from barque.core.log_contract import WalDown
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc
from barque.core.release_cursor import try_pending_release
from barque.core.roles import WaitingRole
from barque.core.server import RaftState, Server, Transition
from barque.errors import InvariantViolation
from barque.types import Index, IndexTerm, ServerId


def append_entries_reply(server: Server, *, success: bool) -> AppendEntriesReply:
    """Where our log stands: what comes next, and what is on disk."""
    return _reply(server, server.log.next_index(), server.log.last_written(), success=success)


def _reply(server: Server, next_index: Index, last: IndexTerm, *, success: bool) -> AppendEntriesReply:
    return AppendEntriesReply(
        server.id, server.current_term, success, next_index, last.index, last.term, server.commit_index
    )


def refuse_append_entries(server: Server, rpc: AppendEntriesRpc) -> Transition:
    """Figure 2, AppendEntries receiver 1: that leader's term is over (F-2, L-21, C-5)."""
    assert rpc.term < server.current_term
    return server.stay(SendRpc(rpc.leader_id, append_entries_reply(server, success=False)))


def on_append_entries(server: Server, rpc: AppendEntriesRpc) -> Transition:
    """Figure 2, AppendEntries receiver; F-1, F-2."""
    if rpc.term < server.current_term:
        return refuse_append_entries(server, rpc)
    effects = server.adopt_term(rpc.term)
    effects.append(server.follow(rpc.leader_id))
    found = has_entry(server, rpc.prev_log_index, rpc.prev_log_term)
    if found is not Found.OK:
        return _await_catch_up(server, rpc, found, effects)
    new, matched = drop_present(server, rpc)
    if new:
        return _write_new(server, rpc, new, effects)
    return _nothing_new(server, rpc, matched, effects)


def _nothing_new(server: Server, rpc: AppendEntriesRpc, matched: Index, effects: list[Effect]) -> Transition:
    """F-1 (a): adopt the commit index only if our whole log is known to match (REPL-15).

    Unlike Ra we drop nothing when an empty RPC ends before our log does: the RPC may have been
    overtaken by a later one whose entries we have acknowledged. A stale end is replaced when
    an entry conflicts with it, and the noop of each new leader does.
    """
    if server.log.last_index_term().index <= matched:
        applied = advance_commit(server, rpc.leader_commit, matched)
        effects.append(SendRpc(rpc.leader_id, append_entries_reply(server, success=True)))
        return server.stay(*effects, *applied)
    # Part of our log is still unproven: say only how far it is proven, and durable.
    proven = min(max(server.last_applied, matched), server.log.last_written().index)
    term = server.log.fetch_term(proven)
    assert term is not None, "what is durable here is in the log"
    partial = _reply(server, Index(proven + 1), IndexTerm(proven, term), success=True)
    return server.stay(*effects, SendRpc(rpc.leader_id, partial))


def _write_new(
    server: Server, rpc: AppendEntriesRpc, new: list[EntryBatch], effects: list[Effect]
) -> Transition:
    """F-1 (a): write; the answer waits for the disk (REPL-18)."""
    if new[0].first_index <= server.last_applied:
        raise InvariantViolation(f"{server.id}: asked to overwrite applied entry {new[0].first_index}")
    try:
        server.log.write(new)
    except WalDown:
        server.role = WaitingRole(WalWritable())
        timeout = StartConditionTimeout(server.cfg.await_condition_timeout_ms)
        return Transition(RaftState.AWAIT_CONDITION, [*effects, timeout])
    revert_overwritten(server, new[0].first_index)
    take_up_written(server, new)
    effects += advance_commit(server, rpc.leader_commit, new[-1].last_index)
    return server.stay(*effects)


def advance_commit(server: Server, leader_commit: Index, matched: Index) -> list[Effect]:
    """Figure 2, AppendEntries receiver 5: commit what the leader has, as far as we match."""
    server.commit_index = max(server.commit_index, min(leader_commit, matched))
    before = server.last_applied
    effects = apply_to(server, server.commit_index)
    try_pending_release(server)
    return [*effects, AuxEval()] if server.last_applied > before else effects


def _await_catch_up(server: Server, rpc: AppendEntriesRpc, found: Found, effects: list[Effect]) -> Transition:
    """F-1 (b), (c): say where to continue, then wait for an RPC that does (REPL-16, REPL-17).

    RPCs already under way do not fit either; answering each would rewind the leader again and
    again. So all but the fitting one are ignored, and the answer is repeated after a while: after
    a tick, not after Ra's 30 s, since a lost answer would keep us out for all that time.
    """
    if found is Found.MISSING:
        reply = append_entries_reply(server, success=False)
    else:
        reply = rewind_to_applied(server)
    server.role = WaitingRole(
        CatchUp(missing=found is Found.MISSING),
        timeout_effects=lambda _server: [SendRpc(rpc.leader_id, reply)],
    )
    timeout = StartConditionTimeout(server.cfg.catch_up_timeout_ms)
    return Transition(RaftState.AWAIT_CONDITION, [*effects, SendRpc(rpc.leader_id, reply), timeout])


def rewind_to_applied(server: Server) -> AppendEntriesReply:
    """After a mismatch only what is applied is sure to agree, so ask from there on.

    What we claim to have is only what is also on disk: a follower may apply before its sync.
    """
    durable = min(server.last_applied, server.log.last_written().index)
    term = server.log.fetch_term(durable)
    assert term is not None, "what is durable and applied is in the log, or its snapshot"
    return _reply(server, Index(server.last_applied + 1), IndexTerm(durable, term), success=False)


def on_follower_log_event(server: Server, event: LogEvent) -> Transition:
    """F-5: what is on disk has changed; tell the leader we know."""
    before = server.log.last_written()
    server.log.handle_event(event)
    try_pending_release(server)
    leader: ServerId | None = server.leader_id
    if leader is None or server.log.last_written() == before:
        return server.stay()
    return server.stay(SendRpc(leader, append_entries_reply(server, success=True)))
