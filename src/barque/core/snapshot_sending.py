"""A leader and the snapshots that it sends (§5; SEND-01 to SEND-09; L-14, L-15, L-17)."""

from barque.core.check_quorum import note_heard
from barque.core.effects import SnapshotAcked, StartSnapshotRetry
from barque.core.entries import EntryBatch
from barque.core.events import SenderOutcome, SnapshotRetryTimeout, SnapshotSenderDown
from barque.core.membership import promotions_due
from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc
from barque.core.peers import PeerStatus
from barque.core.release_cursor import try_pending_release
from barque.core.replication import make_rpc, pipelined_rpcs
from barque.core.server import RaftState, Server, Transition
from barque.core.snapshots import ChunkFlag, ChunkState, SnapshotMeta, Snapshots
from barque.types import Index, ServerId, Term

_BACKOFF_MAX_MS = 60_000
_LIVE_ENTRIES = 16
"""Live entries in one chunk (SEND-05)."""


def on_install_snapshot_result(server: Server, result: InstallSnapshotResult) -> Transition:
    """L-14, L-15. The answer to any chunk but the last only lets the sending go on."""
    peer = server.cluster.get(result.sender)
    if peer is None or result.sender == server.id:
        return server.stay()
    if result.term > server.current_term:
        return Transition(RaftState.FOLLOWER, server.step_down(result.term))
    if result.term < server.current_term:
        return server.stay()
    note_heard(server, result.sender)
    if result.chunk.flag is not ChunkFlag.LAST:
        return server.stay(SnapshotAcked(result.sender, result.chunk))
    ours = server.log.fetch_term(result.last_index)
    replaced = ours is None and result.last_index < server.log.snapshot_index_term().index
    if ours != result.last_term and not replaced:
        return server.stay()  # not a snapshot of ours: it proves nothing
    peer.status, peer.attempts = PeerStatus.NORMAL, 0
    peer.match_index = max(peer.match_index, result.last_index)
    peer.commit_index = peer.commit_index_sent = result.last_index
    peer.next_index = max(Index(peer.match_index + 1), Index(result.last_index + 1))
    try_pending_release(server)
    rpcs, _ = pipelined_rpcs(server)
    return server.stay(*promotions_due(server, result.sender), *rpcs)


def on_sender_down(server: Server, event: SnapshotSenderDown) -> Transition:
    """`handle_down` of a snapshot sender (SEND-07, REPL-23). Also while a leader waits."""
    peer = server.cluster.get(event.member)
    if peer is None or peer.status is not PeerStatus.SENDING_SNAPSHOT:
        return server.stay()
    if event.outcome is SenderOutcome.NORMAL:
        peer.status = PeerStatus.NORMAL
        try_pending_release(server)
        return server.stay()
    if event.outcome is SenderOutcome.DISCONNECTED:
        peer.status = PeerStatus.DISCONNECTED  # until its node is back
        return server.stay()
    peer.attempts += 1
    peer.status = PeerStatus.SNAPSHOT_BACKOFF
    delay = min(server.cfg.snapshot_backoff_ms << min(peer.attempts - 1, 20), _BACKOFF_MAX_MS)
    return server.stay(StartSnapshotRetry(event.member, delay))


def on_snapshot_retry(server: Server, event: SnapshotRetryTimeout) -> Transition:
    """L-17: the wait is over, if it still is one."""
    peer = server.cluster.get(event.member)
    if peer is None or peer.status is not PeerStatus.SNAPSHOT_BACKOFF:
        return server.stay()
    peer.status = PeerStatus.NORMAL
    return server.stay(make_rpc(server, event.member, peer, 1))


class SnapshotSender:
    """The chunks of one snapshot, one after the other, each after the answer to the one before.

    Whoever performs `SendSnapshot` keeps one, sends `first()`, hands it each `SnapshotAcked`, and
    tells the leader how it ended.
    """

    __slots__ = ("_leader", "_live", "_meta", "_number", "_snapshots", "_term")

    def __init__(self, leader: ServerId, term: Term, meta: SnapshotMeta, snapshots: Snapshots) -> None:
        self._leader, self._term, self._meta, self._snapshots = leader, term, meta, snapshots
        self._live = snapshots.live_entries()
        self._number = 0

    def first(self) -> InstallSnapshotRpc:
        """The first chunk: an announcement if live entries go ahead of the pieces (SEND-05)."""
        if self._live:
            return self._rpc(ChunkState(0, ChunkFlag.INIT))
        return self._piece()

    def after(self, acked: ChunkState) -> InstallSnapshotRpc | None:
        """What to send when this chunk is answered; None for an answer that is not the awaited one."""
        if acked.flag in (ChunkFlag.INIT, ChunkFlag.PRE) and self._number == 0:
            if not self._live:
                return self._piece()
            entries, self._live = self._live[:_LIVE_ENTRIES], self._live[_LIVE_ENTRIES:]
            return self._rpc(ChunkState(0, ChunkFlag.PRE), entries=tuple(entries))
        if acked.number != self._number or acked.flag is not ChunkFlag.NEXT:
            return None
        return self._piece()

    def is_current(self) -> bool:
        """Whether this is still the snapshot that the store has (SEND-06)."""
        return self._snapshots.current() == self._meta

    def _piece(self) -> InstallSnapshotRpc:
        self._number += 1
        found = self._snapshots.chunk(self._number)
        assert found is not None, "a piece beyond the last was asked for"
        data, last = found
        return self._rpc(ChunkState(self._number, ChunkFlag.LAST if last else ChunkFlag.NEXT), data=data)

    def _rpc(
        self, chunk: ChunkState, data: bytes = b"", entries: tuple[EntryBatch, ...] = ()
    ) -> InstallSnapshotRpc:
        return InstallSnapshotRpc(self._term, self._leader, self._meta, chunk, data, entries)
