"""AppendEntries, from both ends (§3.5; REPL-01 to REPL-20)."""

from collections.abc import Sequence

from barque.core.applying import apply_to
from barque.core.commitment import evaluate_quorum
from barque.core.conditions import CatchUp, WalWritable
from barque.core.consistency import Found, drop_present, has_entry
from barque.core.effects import AuxEval, Cast, Effect, NextEvent, SendRpc, StartConditionTimeout
from barque.core.entries import EntryBatch
from barque.core.log_contract import WalDown
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, LogEvent, PipelineRpcs, Written
from barque.core.queries import heartbeats_due, process_pending
from barque.core.server import Peer, RaftState, Server, Transition, WaitingRole
from barque.errors import InvariantViolation
from barque.types import Index, ServerId

# --- the leader sends ----------------------------------------------------------------------


def pipelined_rpcs(server: Server, *, force: bool = False) -> tuple[list[Effect], bool]:
    """Send each peer what it lacks, up to the pipeline's limit (REPL-03 to REPL-09).

    Moves `next_index` on without waiting for answers. Also returns whether more could be
    sent at once. `force` lets a noop through a full pipeline (ELEC-24).
    """
    effects: list[Effect] = []
    more = False
    next_index, limit = server.log.next_index(), server.cfg.max_pipeline_count
    for member, peer in server.peers():
        if peer.next_index >= next_index and peer.commit_index_sent >= server.commit_index:
            continue
        in_flight = peer.next_index - peer.match_index - 1
        if in_flight >= limit and not force:
            continue
        room = max(1, min(server.cfg.max_append_entries_rpc_batch_size, limit - in_flight))
        rpc = make_rpc(server, peer, room)
        if rpc.entries:
            peer.next_index = Index(rpc.entries[-1].last_index + 1)
        peer.commit_index_sent = server.commit_index
        effects.append(SendRpc(member, rpc))
        sent = peer.next_index - peer.match_index - 1
        more = more or (peer.next_index < next_index and sent < limit)
    return effects, more


def has_entries_to_send(server: Server) -> bool:
    """Whether some peer lacks entries that it could be sent now; a leader only."""
    if server.raft_state is not RaftState.LEADER:
        return False
    next_index, limit = server.log.next_index(), server.cfg.max_pipeline_count
    return any(
        peer.next_index < next_index and peer.next_index - peer.match_index - 1 < limit
        for _, peer in server.peers()
    )


def make_rpc(server: Server, peer: Peer, max_entries: int) -> AppendEntriesRpc:
    """The RPC that continues this peer's log, with at most `max_entries` entries."""
    prev_index = Index(peer.next_index - 1)
    prev_term = server.log.fetch_term(prev_index)
    if prev_term is None:
        raise InvariantViolation(
            f"{server.id}: the log no longer holds entry {prev_index}, and snapshots cannot be sent yet"
        )
    entries: Sequence[EntryBatch] = ()
    if max_entries and peer.next_index < server.log.next_index():
        last = server.log.last_index_term().index
        entries = server.log.read(peer.next_index, last, max_entries, server.cfg.max_append_entries_rpc_bytes)
    return AppendEntriesRpc(
        server.current_term, server.id, server.commit_index, prev_index, prev_term, tuple(entries)
    )


def make_rpcs(server: Server) -> list[Effect]:
    """One small RPC to each stale peer, and the heartbeats due; Ra's `make_rpcs` (REPL-10).

    Silent when all peers are in sync. Moves no index: what was lost is found out by the answer.
    """
    rpcs: list[Effect] = [
        SendRpc(member, make_rpc(server, peer, 1))
        for member, peer in server.peers()
        if is_stale(server, peer)
    ]
    return rpcs + heartbeats_due(server)


def greet(server: Server, node: str) -> list[Effect]:
    """A node came within reach: tell its members who leads, and hear how far they are."""
    rpcs: list[Effect] = [
        SendRpc(member, make_rpc(server, peer, 1)) for member, peer in server.peers() if member.node == node
    ]
    return rpcs + heartbeats_due(server)


def make_all_rpcs(server: Server) -> list[Effect]:
    """Assert leadership to everybody (ELEC-10)."""
    rpcs: list[Effect] = [SendRpc(member, make_rpc(server, peer, 1)) for member, peer in server.peers()]
    return rpcs + heartbeats_due(server)


def is_stale(server: Server, peer: Peer) -> bool:
    """Whether an answer from this peer, or a commit index at it, is missing."""
    behind = peer.match_index < peer.next_index - 1 or peer.next_index < server.log.next_index()
    return behind or peer.commit_index_sent < server.commit_index


def on_pipeline_rpcs(server: Server) -> Transition:
    """L-16: one round of replication, and another if there is more."""
    rpcs, more = pipelined_rpcs(server)
    return server.stay(*([NextEvent(PipelineRpcs())] if more else []), *rpcs)


# --- the leader hears ----------------------------------------------------------------------


def on_append_entries_reply(server: Server, reply: AppendEntriesReply) -> Transition:
    """Figure 2, Leaders: what a follower says it has on disk; L-1 to L-6."""
    peer = server.cluster.get(reply.sender)
    if peer is None or reply.sender == server.id:
        return server.stay()  # no member: it cannot depose us, nor be counted (ELEC-11)
    if reply.term > server.current_term:
        return Transition(RaftState.FOLLOWER, server.step_down(reply.term))
    if reply.term < server.current_term:
        # What it had then it may have lost since, to a leader between that term and ours.
        return server.stay()
    if reply.success:
        return _on_success(server, peer, reply)
    _rewind(server, peer, reply)
    rpcs, _ = pipelined_rpcs(server)
    return server.stay(*rpcs)


def _on_success(server: Server, peer: Peer, reply: AppendEntriesReply) -> Transition:
    if server.log.fetch_term(reply.last_index) != reply.last_term:
        # The end of its log is still a former leader's. Equal index and term at the end prove
        # equal logs (Log Matching); anything else proves nothing, and must not be counted.
        return server.stay()
    peer.match_index = max(peer.match_index, reply.last_index)
    expected = min(reply.next_index, server.log.next_index())
    peer.next_index = max(peer.next_index, expected, Index(peer.match_index + 1))
    return server.stay(NextEvent(PipelineRpcs()), *_progress(server))


def _progress(server: Server) -> list[Effect]:
    """Something became durable somewhere: commit, apply, and start the queries that may."""
    effects = evaluate_quorum(server)
    return effects + process_pending(server)


def _rewind(server: Server, peer: Peer, reply: AppendEntriesReply) -> None:
    """L-6: where to continue after a refusal, by our own term at the peer's last entry."""
    ours = server.log.fetch_term(reply.last_index)
    if ours is None:  # (a) an entry that we do not have
        peer.next_index = reply.next_index
    elif ours == reply.last_term and reply.last_index >= peer.match_index:  # (b) the logs meet there
        peer.match_index, peer.next_index = reply.last_index, reply.next_index
    elif reply.last_index < peer.match_index:  # (c) it lost what it once had
        peer.match_index, peer.next_index = reply.last_index, Index(reply.last_index + 1)
    else:  # (d) the logs have parted before that entry
        peer.next_index = max(min(Index(peer.next_index - 1), reply.last_index), Index(peer.match_index + 1))
    peer.next_index = max(min(peer.next_index, server.log.next_index()), Index(peer.match_index + 1))


def on_leader_log_event(server: Server, event: LogEvent) -> Transition:
    """L-11, L-12: our own entries are on disk; they count from now on."""
    server.log.handle_event(event)
    if not isinstance(event, Written):
        return server.stay()
    return server.stay(NextEvent(PipelineRpcs()), *_progress(server))


# --- the follower --------------------------------------------------------------------------


def append_entries_reply(server: Server, *, success: bool) -> AppendEntriesReply:
    """Where our log stands: what comes next, and what is on disk."""
    written = server.log.last_written()
    return AppendEntriesReply(
        server.id, server.current_term, success, server.log.next_index(), written.index, written.term
    )


def refuse_append_entries(server: Server, rpc: AppendEntriesRpc) -> Transition:
    """Figure 2, AppendEntries receiver 1: that leader's term is over (F-2, L-21, C-5)."""
    assert rpc.term < server.current_term
    return server.stay(Cast(rpc.leader_id, append_entries_reply(server, success=False)))


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
        effects.append(Cast(rpc.leader_id, append_entries_reply(server, success=True)))
        return server.stay(*effects, *_advance(server, rpc.leader_commit, matched))
    # Part of our log is still unproven: say only how far it is proven, and durable.
    proven = min(max(server.last_applied, matched), server.log.last_written().index)
    term = server.log.fetch_term(proven)
    assert term is not None, "what is durable here is in the log"
    partial = AppendEntriesReply(server.id, server.current_term, True, Index(proven + 1), proven, term)
    return server.stay(*effects, Cast(rpc.leader_id, partial))


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
    effects += _advance(server, rpc.leader_commit, new[-1].last_index)
    return server.stay(*effects)


def _advance(server: Server, leader_commit: Index, matched: Index) -> list[Effect]:
    """Figure 2, AppendEntries receiver 5: commit what the leader has, as far as we match."""
    server.commit_index = max(server.commit_index, min(leader_commit, matched))
    before = server.last_applied
    effects = apply_to(server, server.commit_index)
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
        reply = _rewind_to_applied(server)
    server.role = WaitingRole(
        CatchUp(missing=found is Found.MISSING),
        timeout_effects=lambda _server: [Cast(rpc.leader_id, reply)],
    )
    timeout = StartConditionTimeout(server.cfg.catch_up_timeout_ms)
    return Transition(RaftState.AWAIT_CONDITION, [*effects, Cast(rpc.leader_id, reply), timeout])


def _rewind_to_applied(server: Server) -> AppendEntriesReply:
    """After a mismatch only what is applied is sure to agree, so ask from there on.

    What we claim to have is only what is also on disk: a follower may apply before its sync.
    """
    durable = min(server.last_applied, server.log.last_written().index)
    term = server.log.fetch_term(durable)
    assert term is not None, "what is durable and applied is in the log"
    next_index = Index(server.last_applied + 1)
    return AppendEntriesReply(server.id, server.current_term, False, next_index, durable, term)


def on_follower_log_event(server: Server, event: LogEvent) -> Transition:
    """F-5: what is on disk has changed; tell the leader we know."""
    before = server.log.last_written()
    server.log.handle_event(event)
    leader: ServerId | None = server.leader_id
    if leader is None or server.log.last_written() == before:
        return server.stay()
    return server.stay(Cast(leader, append_entries_reply(server, success=True)))
