"""What a leader hears of its peers' logs, and of its own (§3.5; L-1 to L-6, L-11, L-12)."""

from barque.core.check_quorum import note_heard
from barque.core.commitment import evaluate_quorum
from barque.core.effects import Defer, Effect
from barque.core.events import LogEvent, PipelineRpcs, Written
from barque.core.membership import leave_if_removed, promotions_due
from barque.core.messages import AppendEntriesReply
from barque.core.peers import Peer, PeerStatus
from barque.core.queries import process_pending
from barque.core.release_cursor import try_pending_release
from barque.core.replication import pipelined_rpcs
from barque.core.server import RaftState, Server, Transition
from barque.types import Index


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
    note_heard(server, reply.sender)
    if (
        peer.status is PeerStatus.SENDING_SNAPSHOT
        and reply.next_index > server.log.snapshot_index_term().index
    ):
        peer.status, peer.attempts = PeerStatus.NORMAL, 0  # SEND-08: it needs no snapshot
    proved = _note(server, peer, reply)
    if not reply.success:
        rpcs, _ = pipelined_rpcs(server)
        return server.stay(*rpcs)
    if not proved:
        return server.stay()
    promotions = promotions_due(server, reply.sender)
    return leave_if_removed(server, [Defer(PipelineRpcs()), *progress(server), *promotions])


def note_while_waiting(server: Server, reply: AppendEntriesReply) -> None:
    """A leader that waits goes on to learn how far its peers are, to choose its successor well (L-1, L-6)."""
    peer = server.cluster.get(reply.sender)
    if peer is not None and reply.sender != server.id and reply.term == server.current_term:
        _note(server, peer, reply)


def _note(server: Server, peer: Peer, reply: AppendEntriesReply) -> bool:
    """Where the peer stands; whether its answer proves that the ends of our logs are equal."""
    peer.commit_index = reply.commit_index
    if reply.success:
        return _advance(server, peer, reply)
    _rewind(server, peer, reply)
    return False


def _advance(server: Server, peer: Peer, reply: AppendEntriesReply) -> bool:
    """What it has on disk, if the end of its log proves it to be ours."""
    if server.log.fetch_term(reply.last_index) != reply.last_term:
        # The end of its log is still a former leader's. Equal index and term at the end prove
        # equal logs (Log Matching); anything else proves nothing, and must not be counted.
        return False
    peer.match_index = max(peer.match_index, reply.last_index)
    expected = min(reply.next_index, server.log.next_index())
    peer.next_index = max(peer.next_index, expected, Index(peer.match_index + 1))
    return True


def progress(server: Server) -> list[Effect]:
    """Something became durable somewhere: commit, apply, and start the queries that may."""
    effects = evaluate_quorum(server)
    try_pending_release(server)
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
        try_pending_release(server)
        return server.stay()
    return leave_if_removed(server, [Defer(PipelineRpcs()), *progress(server)])
