"""What members have on disk, and when an entry is committed (§3.5, §3.6.2; L-1 to L-12).

A leader keeps two positions for each peer. `match_index` is proved: the peer's disk holds our log up to
it, in this term. `next_index` is a guess: the next entry to send. A reply moves both.

An entry is committed when a majority of the voters has it on disk *and* it is of the current term; earlier
entries are committed with it (§3.6.2, Figure 3.7). The leader counts itself by what its own disk has.
"""

from barque.core.applying import apply_to
from barque.core.check_quorum import note_acked
from barque.core.effects import AuxEval, Defer, Effect
from barque.core.events import ApplyRest, LogEvent, PipelineRpcs, Written
from barque.core.membership import leave_if_removed, promotions_due
from barque.core.messages import AppendEntriesReply
from barque.core.queries import answer_proven, process_pending
from barque.core.quorum import agreed
from barque.core.replication import pipelined_rpcs
from barque.core.snapshots import try_pending_release
from barque.core.state import Peer, PeerStatus, Server
from barque.types import Index, Membership

# --- a peer's reply --------------------------------------------------------------------------


def on_append_entries_reply(server: Server, reply: AppendEntriesReply) -> list[Effect]:
    """Figure 2, Leaders: a follower says what it has on disk; L-1 to L-6."""
    peer = server.cluster.get(reply.sender)
    if peer is None or reply.sender == server.id:
        return []  # not a member: it cannot be counted
    note_acked(server, reply.sender)
    was_full = (
        peer.next_index - peer.match_index > server.cfg.max_pipeline_count
        or peer.bytes_in_flight >= server.cfg.max_pipeline_bytes
    )  # then it may not even have been told a commit index
    proved = _note(server, peer, reply)
    if not reply.success:
        rpcs, _ = pipelined_rpcs(server)
        return rpcs
    if not proved:
        return []
    effects: list[Effect] = []
    before = server.commit_index
    if peer.match_index > before or server.membership is not Membership.VOTER:
        effects = progress(server)
    # Otherwise there is nothing to count: these entries are committed already, as with half of all replies.
    if server.commit_index > before or was_full or peer.next_index < server.log.next_index():
        effects.append(Defer(PipelineRpcs()))
    if not peer.voter:
        effects += promotions_due(server, reply.sender)
    return effects if server.membership is Membership.VOTER else leave_if_removed(server, effects)


def note_position(server: Server, reply: AppendEntriesReply) -> None:
    """Only keep the peer's positions, as a leader that waits needs them to choose a successor (L-1, L-6)."""
    peer = server.cluster.get(reply.sender)
    if peer is not None and reply.sender != server.id:
        _note(server, peer, reply)


def _note(server: Server, peer: Peer, reply: AppendEntriesReply) -> bool:
    """Move the peer's positions; return whether the reply proves that its log's end is ours."""
    if (
        peer.status is PeerStatus.SENDING_SNAPSHOT
        and reply.next_index > server.log.snapshot_index_term().index
    ):
        peer.status, peer.attempts = PeerStatus.NORMAL, 0  # SEND-08: it needs no snapshot
    peer.commit_index = reply.commit_index
    if not reply.success:
        _rewind(server, peer, reply)
        return False
    if server.log.fetch_term(reply.last_index) != reply.last_term:
        # The end of its log is still a former leader's. Equal index and term at the end prove equal
        # logs (Log Matching); anything else proves nothing, and must not be counted.
        return False
    peer.acknowledge(reply.last_index)
    if peer.next_index <= peer.match_index or peer.next_index < reply.next_index:
        expected = min(reply.next_index, server.log.next_index())
        peer.next_index = max(peer.next_index, expected, Index(peer.match_index + 1))
    return True


def _rewind(server: Server, peer: Peer, reply: AppendEntriesReply) -> None:
    """L-6: where to continue after a refusal, by our own term at the peer's last durable entry.

    The digits are terms; `last` is the peer's last durable entry, `next` the entry it asks for::

        index        1 2 3 4 5 6 7
        ours         1 1 2 2 3 3
        (a) peer's   1 1 1 1 1 1 1    we have no entry at last (7): take the peer's own next
        (b) peer's   1 1 2 2          last (4) is ours, at or behind match: the logs meet; go on there
        (c) peer's   1 1 2            last (3) is below match: it lost entries that it once had
        (d) peer's   1 1 1 1          last (4) is of another term: the logs parted before; step back
    """
    ours = server.log.fetch_term(reply.last_index)
    if ours is None:  # (a)
        peer.next_index = reply.next_index
    elif ours == reply.last_term and reply.last_index >= peer.match_index:  # (b)
        peer.match_index, peer.next_index = reply.last_index, reply.next_index
    elif reply.last_index < peer.match_index:  # (c)
        peer.match_index, peer.next_index = reply.last_index, Index(reply.last_index + 1)
    else:  # (d)
        peer.next_index = max(min(Index(peer.next_index - 1), reply.last_index), Index(peer.match_index + 1))
    peer.next_index = max(min(peer.next_index, server.log.next_index()), Index(peer.match_index + 1))
    peer.give_up_sent()


# --- our own disk ----------------------------------------------------------------------------


def on_leader_log_event(server: Server, event: LogEvent) -> list[Effect]:
    """L-11, L-12: our own entries are on disk; they count from now on."""
    server.log.handle_event(event)
    if not isinstance(event, Written):
        try_pending_release(server)
        return []
    before = server.commit_index
    effects = progress(server)
    if server.commit_index > before:
        effects.append(Defer(PipelineRpcs()))
    return effects if server.membership is Membership.VOTER else leave_if_removed(server, effects)


# --- counting --------------------------------------------------------------------------------


def progress(server: Server) -> list[Effect]:
    """Something became durable somewhere: commit, apply, and start the reads that waited for the noop."""
    effects = evaluate_quorum(server)
    if server.pending_release_cursor is not None:
        try_pending_release(server)
    if server.leader_role().pending_queries:
        effects += process_pending(server)
    return effects


def evaluate_quorum(server: Server) -> list[Effect]:
    """Advance the commit index, then apply what that allows; Ra's `evaluate_quorum`."""
    moved, before = advance_commit_index(server), server.last_applied
    if not moved and before >= server.commit_index:
        return []
    effects = apply_to(server, server.commit_index)
    if server.has_aux and (moved or server.last_applied > before):
        effects.append(AuxEval())
    return effects


def on_apply_rest(server: Server, _message: ApplyRest) -> list[Effect]:
    """Go on applying a long commit; reads may have waited for it."""
    return leave_if_removed(server, [*progress(server), *answer_proven(server)])


def advance_commit_index(server: Server) -> bool:
    """Figure 2, Leaders' last rule (COMMIT-01 to COMMIT-04). Returns whether the commit index moved."""
    candidate = agreed(match_indexes(server))
    if candidate <= server.commit_index or server.log.fetch_term(Index(candidate)) != server.current_term:
        return False
    server.commit_index = Index(candidate)
    return True


def match_indexes(server: Server) -> list[Index]:
    """What each voter has on disk, the leader included.

    A leader that is being removed, or has given up its vote, does not count itself (§4.2.2).
    """
    matched: list[Index] = []
    if server.membership is Membership.VOTER:
        matched.append(server.log.last_written().index)
    for _, peer in server.peers:
        if peer.voter:
            matched.append(peer.match_index)
    return matched
