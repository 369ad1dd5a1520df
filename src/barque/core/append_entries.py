"""AppendEntries, as a follower takes it (Figure 2; F-1, F-2, F-5; REPL-13 to REPL-20).

The consistency check (§3.5) compares the entry before the new ones with our log. If it is there, both
logs are equal up to it, and the follower writes what it lacks. If it is not, the follower says where to
continue and waits. A follower acknowledges only what its disk has: the reply to new entries leaves with
their `Written` event.
"""

from barque.core.applying import apply_to
from barque.core.configuration import revert_overwritten, take_up_written
from barque.core.effects import AuxEval, Effect, SendRpc
from barque.core.entries import EntryBatch
from barque.core.events import ApplyRest, LogEvent
from barque.core.log_contract import Found, WalDown, find_entry
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc
from barque.core.roles import CatchUp, WalWritable
from barque.core.snapshots import try_pending_release
from barque.core.state import Server
from barque.core.transitions import become_waiting
from barque.errors import InvariantViolation
from barque.types import Index, IndexTerm


def append_entries_reply(server: Server, *, success: bool) -> AppendEntriesReply:
    """Where our log stands: the index that we expect next, and the last entry on our disk."""
    return _reply(server, server.log.next_index(), server.log.last_written(), success=success)


def _reply(server: Server, next_index: Index, last: IndexTerm, *, success: bool) -> AppendEntriesReply:
    return AppendEntriesReply(
        server.id, server.current_term, success, next_index, last.index, last.term, server.commit_index
    )


def refuse_append_entries(server: Server, rpc: AppendEntriesRpc) -> list[Effect]:
    """Figure 2, AppendEntries receiver 1: that leader's term is over (F-2, L-21, C-5)."""
    return [SendRpc(rpc.leader_id, append_entries_reply(server, success=False))]


def on_append_entries(server: Server, rpc: AppendEntriesRpc) -> list[Effect]:
    """Figure 2, AppendEntries receiver 2 to 5; F-1."""
    found = find_entry(server.log, rpc.prev_log_index, rpc.prev_log_term)
    if found is not Found.OK:
        return _await_catch_up(server, rpc, found)
    new, matched = drop_present(server, rpc)
    return _write_new(server, rpc, new) if new else _nothing_new(server, rpc, matched)


def drop_present(server: Server, rpc: AppendEntriesRpc) -> tuple[list[EntryBatch], Index]:
    """The entries that we lack, and the last position where both logs are known to agree.

    Entries that agree in index and term are the same (Log Matching, §3.5), so a batch whose
    last entry is ours is ours as a whole. What our snapshot covers is committed, so it is the leader's, too.
    """
    matched = rpc.prev_log_index
    if matched == server.log.last_index_term().index:
        return [*rpc.entries], matched  # nearly always
    # Only the position before all entries is known although the entries behind it are gone.
    covered = server.log.snapshot_index_term().index if matched == 0 else 0
    for position, batch in enumerate(rpc.entries):
        if batch.last_index <= covered or server.log.fetch_term(batch.last_index) == batch.term:
            matched = batch.last_index
            continue
        first = batch.first_index
        while first <= covered or server.log.fetch_term(first) == batch.term:
            matched, first = first, Index(first + 1)
        return [batch.cut(first, batch.last_index), *rpc.entries[position + 1 :]], matched
    return [], matched


def _nothing_new(server: Server, rpc: AppendEntriesRpc, matched: Index) -> list[Effect]:
    """F-1 (a): adopt the commit index only if our whole log is known to match (REPL-15).

    Unlike Ra we drop nothing when an empty RPC ends before our log does: a later RPC, whose entries we
    have acknowledged, may have overtaken it. A stale end is replaced when an entry conflicts with it,
    and the noop of each new leader does.
    """
    if server.log.last_index_term().index <= matched:
        applied = advance_commit(server, rpc.leader_commit, matched)
        return [SendRpc(rpc.leader_id, append_entries_reply(server, success=True)), *applied]
    # Part of our log is still unproven: claim only what is proven, and durable.
    proven = min(max(server.last_applied, matched), server.log.last_written().index)
    term = server.log.fetch_term(proven)
    assert term is not None, "what is durable here is in the log"
    partial = _reply(server, Index(proven + 1), IndexTerm(proven, term), success=True)
    return [SendRpc(rpc.leader_id, partial)]


def _write_new(server: Server, rpc: AppendEntriesRpc, new: list[EntryBatch]) -> list[Effect]:
    """F-1 (a): write the new entries. The reply waits for the disk (REPL-18)."""
    if new[0].first_index <= server.commit_index:
        raise InvariantViolation(f"{server.id}: asked to overwrite committed entry {new[0].first_index}")
    try:
        server.log.write(new)
    except WalDown:
        return become_waiting(server, WalWritable(), server.cfg.await_condition_timeout_ms)
    revert_overwritten(server, new[0].first_index)
    take_up_written(server, new)
    return advance_commit(server, rpc.leader_commit, new[-1].last_index)


def advance_commit(server: Server, leader_commit: Index, matched: Index) -> list[Effect]:
    """Figure 2, AppendEntries receiver 5: commit what the leader has, as far as we match."""
    known = min(leader_commit, matched)
    if known > server.commit_index:
        server.commit_index = known
    before = server.last_applied
    effects = apply_to(server, server.commit_index)
    if server.pending_release_cursor is not None:
        try_pending_release(server)
    if server.has_aux and server.last_applied > before:
        effects.append(AuxEval())
    return effects


def on_apply_rest(server: Server, _message: ApplyRest) -> list[Effect]:
    """Go on applying a long commit; no leader is needed for that."""
    return advance_commit(server, server.commit_index, server.commit_index)


def _await_catch_up(server: Server, rpc: AppendEntriesRpc, found: Found) -> list[Effect]:
    """F-1 (b), (c): say where to continue, then wait for an RPC that does (REPL-16, REPL-17).

    RPCs that are already on their way do not fit either. If we answered each, each answer would rewind the
    leader again. So the follower ignores all but the fitting one, and repeats its answer after about a tick
    (Ra: 30 s): a lost answer would keep it out for all that time.
    """
    missing = found is Found.MISSING
    reply = append_entries_reply(server, success=False) if missing else rewind_to_applied(server)
    answer = SendRpc(rpc.leader_id, reply)
    waiting = become_waiting(
        server,
        CatchUp(missing=missing),
        server.cfg.catch_up_timeout_ms,
        timeout_effects=(answer,),
    )
    return [answer, *waiting]


def rewind_to_applied(server: Server) -> AppendEntriesReply:
    """After a mismatch only the applied entries are sure to agree, so ask for those behind them.

    Claim only what is also on disk: a follower may apply before its own sync.
    """
    durable = min(server.last_applied, server.log.last_written().index)
    term = server.log.fetch_term(durable)
    assert term is not None, "what is durable and applied is in the log, or its snapshot"
    return _reply(server, Index(server.last_applied + 1), IndexTerm(durable, term), success=False)


def on_follower_log_event(server: Server, event: LogEvent) -> list[Effect]:
    """F-5: tell the leader when more of our log is on disk."""
    before = server.log.last_written()
    server.log.handle_event(event)
    if server.pending_release_cursor is not None:
        try_pending_release(server)
    leader = server.leader_id
    if leader is None or server.log.last_written() == before:
        return []
    return [SendRpc(leader, append_entries_reply(server, success=True))]
