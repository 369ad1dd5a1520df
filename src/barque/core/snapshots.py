"""Snapshots that a server makes, and snapshots that a leader sends (§5; SNAP, CKPT, SEND rows; L-14 to L-17).

The machine says from which entry on it can be rebuilt (`ReleaseCursor`), or asks to keep a state
(`Checkpoint`). Its state is captured at that moment (`captures`); whether a snapshot is due, the store
decides. The store writes it outside the loop, and the log lets go of what it covers when it is durable.

A leader sends its newest snapshot to a peer that needs entries which the log no longer has. The performer
keeps a `SnapshotSender` for each transfer and tells the leader if it fails. Each answer names the leader's
term, the snapshot and the chunk that it answers, so a late one changes nothing (K3).
"""

import contextlib
from collections.abc import Sequence

from barque.core.captures import Captured, capture, capture_effect
from barque.core.check_quorum import note_acked
from barque.core.effects import Effect, SnapshotAcked, StartSnapshotRetry
from barque.core.entries import EntryBatch
from barque.core.events import SenderOutcome, SnapshotRetryTimeout, SnapshotSenderDown
from barque.core.log_contract import Accepts, ChunkFlag, ChunkState, NotReadyError, Outgoing, SnapshotKind
from barque.core.membership import promotions_due
from barque.core.messages import ChunkOutcome, InstallSnapshotResult, InstallSnapshotRpc
from barque.core.packing import Packing, pack
from barque.core.replication import make_rpc, pipelined_rpcs
from barque.core.state import PeerStatus, Server
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.types import Index, IndexTerm, ServerId, Term

_BACKOFF_MAX_MS = 60_000
_LIVE_ENTRIES = 16
"""Live entries in one chunk (SEND-05)."""


# --- making ---------------------------------------------------------------------------------


def update_release_cursor(server: Server, wish: ReleaseCursor) -> None:
    """Ra's `update_release_cursor`: act on the latest wish once its conditions hold (EFF-15)."""
    wish = capture_effect(server, wish, server.last_applied)
    if wish.promote or isinstance(wish.state, Captured):
        server.pending_release_cursor = wish
        try_pending_release(server)


def try_pending_release(server: Server) -> None:
    """Act on the pending wish if its conditions hold now: after progress, and after a snapshot was sent."""
    wish: ReleaseCursor | None = server.pending_release_cursor
    if wish is None or not _conditions_hold(server, wish):
        return
    server.pending_release_cursor = None
    if wish.promote:
        server.log.snapshots.promote_checkpoint(wish.index)
    else:
        _begin(server, SnapshotKind.SNAPSHOT, wish.state)


def _conditions_hold(server: Server, wish: ReleaseCursor) -> bool:
    if wish.written is not None and wish.written > server.log.last_written().index:
        return False
    return not (wish.no_snapshot_sends and sends_snapshots(server))


def make_checkpoint(server: Server, wish: Checkpoint) -> None:
    """EFF-17: keep a state without truncating the log."""
    wish = capture_effect(server, wish, server.last_applied)
    if isinstance(wish.state, Captured):
        _begin(server, SnapshotKind.CHECKPOINT, wish.state)


def make_recovery_checkpoint(server: Server) -> None:
    """CKPT-06: at an orderly stop, keep the state for the next start, if that saves enough replaying.

    Raises `StorageError`; the next start replays then.
    """
    applied = server.last_applied
    kept = capture(server, SnapshotKind.RECOVERY, applied, server.machine_state, applied)
    if kept is not None:
        _begin(server, SnapshotKind.RECOVERY, kept)


def _begin(server: Server, kind: SnapshotKind, kept: Captured) -> bool:
    return server.log.snapshots.begin(kind, kept.meta, kept.pieces, kept.live)


# --- sending --------------------------------------------------------------------------------


def sends_snapshots(server: Server) -> bool:
    """Whether a snapshot is on its way to some member."""
    return any(peer.status is PeerStatus.SENDING_SNAPSHOT for _, peer in server.peers)


def on_install_snapshot_result(server: Server, result: InstallSnapshotResult) -> list[Effect]:
    """L-14, L-15: an answer to a chunk of ours; the last one tells what the peer has now."""
    peer = server.cluster.get(result.sender)
    if peer is None or result.sender == server.id:
        return []
    note_acked(server, result.sender)
    if result.request_term != server.current_term:
        return []  # it answers an earlier leadership: what was sent then proves nothing now
    acked = SnapshotAcked(result.sender, result.position, result.chunk, result.outcome, result.accepts)
    if result.outcome is ChunkOutcome.AHEAD and peer.status is PeerStatus.SENDING_SNAPSHOT:
        peer.status, peer.attempts = PeerStatus.NORMAL, 0  # its AppendEntries reply says where to go on
    if result.outcome is not ChunkOutcome.INSTALLED:
        return [acked]
    installed = result.position.index
    ours = server.log.fetch_term(installed)
    replaced = ours is None and installed < server.log.snapshot_index_term().index
    if ours != result.position.term and not replaced:
        return [acked]  # not a snapshot of ours: it proves nothing
    peer.status, peer.attempts = PeerStatus.NORMAL, 0
    peer.match_index = max(peer.match_index, installed)
    peer.commit_index = peer.commit_index_sent = installed
    peer.next_index = max(Index(peer.match_index + 1), Index(installed + 1))
    try_pending_release(server)
    rpcs, _ = pipelined_rpcs(server)
    return [acked, *promotions_due(server, result.sender), *rpcs]


def on_sender_down(server: Server, event: SnapshotSenderDown) -> list[Effect]:
    """`handle_down` of a snapshot sender (SEND-07, REPL-23). Also while a leader waits."""
    peer = server.cluster.get(event.member)
    if peer is None or peer.status is not PeerStatus.SENDING_SNAPSHOT:
        return []
    if event.outcome is SenderOutcome.NORMAL:
        peer.status = PeerStatus.NORMAL
        try_pending_release(server)
        return []
    if event.outcome is SenderOutcome.DISCONNECTED:
        peer.status = PeerStatus.DISCONNECTED  # until its node is back
        return []
    peer.attempts += 1
    peer.status = PeerStatus.SNAPSHOT_BACKOFF
    delay = min(server.cfg.snapshot_backoff_ms << min(peer.attempts - 1, 20), _BACKOFF_MAX_MS)
    return [StartSnapshotRetry(event.member, delay)]


def on_snapshot_retry(server: Server, event: SnapshotRetryTimeout) -> list[Effect]:
    """L-17: the wait is over, if it still is one."""
    peer = server.cluster.get(event.member)
    if peer is None or peer.status is not PeerStatus.SNAPSHOT_BACKOFF:
        return []
    peer.status = PeerStatus.NORMAL
    return [make_rpc(server, event.member, peer, 1)]


class SnapshotSender:
    """The chunks of one snapshot, each sent after the reply to the one before (SEND-05).

    The performer of `SendSnapshot` keeps one for each transfer. It sends `rpc`, again after a tick without an
    answer, and the next one after the answer. One chunk is in flight at a time: that is the flow control, and
    a lost message costs the repetition of one chunk. `rpc` is None while the next piece is being read.

    A transfer begins with an announcement if live entries follow, or if the sender must know first what the
    receiver accepts: for a snapshot module, or for compressed chunks (SEND-02).
    """

    __slots__ = (
        *("_after", "_leader", "_live", "_live_chunks", "_next", "_outgoing", "_packing", "_term"),
        *("rpc", "silent_ticks"),
    )

    def __init__(
        self, leader: ServerId, term: Term, outgoing: Outgoing, wanted: Packing = Packing.NONE
    ) -> None:
        self._leader, self._term, self._outgoing = leader, term, outgoing
        self._after = Index(0)  # the last live entry that was read
        self._live_chunks = 0
        self._live = self._next_live()
        self._packing = wanted
        self._next = 1  # the number of the piece that `resume` makes
        self.silent_ticks = 0
        self.rpc: InstallSnapshotRpc | None = None
        if self._live or outgoing.module or wanted is not Packing.NONE:
            self.rpc = self._make(ChunkState(0, ChunkFlag.INIT))
        else:
            self.resume()

    def take(self, answer: SnapshotAcked) -> bool:
        """Take an answer; whether it answers the chunk that is in flight. `rpc` is the next one then.

        Raises `StorageError` if the receiver cannot use this snapshot, or if it cannot be read.
        """
        if self.rpc is None or answer.position != self.position:
            return False
        sent = self.rpc.chunk
        if answer.chunk != sent:
            return False
        self.silent_ticks = 0
        if answer.outcome is ChunkOutcome.TAKEN and sent.flag is not ChunkFlag.LAST:
            if sent.flag is ChunkFlag.INIT:
                self._agree(answer.accepts or Accepts())
            self._follow(sent)
        return True

    def _agree(self, accepts: Accepts) -> None:
        if self._packing not in accepts.packings:
            self._packing = Packing.NONE
        self._outgoing.agree(accepts)

    def _follow(self, sent: ChunkState) -> None:
        if sent.flag is ChunkFlag.NEXT or not self._live:
            self._next, self.rpc = sent.number + 1, None
            self.resume()
            return
        entries, self._live = self._live, self._next_live()
        self._live_chunks += 1
        self.rpc = self._make(ChunkState(sent.number + 1, ChunkFlag.PRE), entries=entries)

    def resume(self) -> bool:
        """Make the piece that was not ready, if it is there now. Raises `StorageError`."""
        if self.rpc is not None:
            return False
        with contextlib.suppress(NotReadyError):
            self.rpc = self._piece(self._next)
        return self.rpc is not None

    @property
    def position(self) -> IndexTerm:
        """Of the snapshot that is being sent."""
        return self._outgoing.meta.position

    def close(self) -> None:
        """The transfer is over."""
        self._outgoing.close()

    def _next_live(self) -> list[EntryBatch]:
        live = self._outgoing.live(self._after, _LIVE_ENTRIES)
        if live:
            self._after = live[-1].last_index
        return live

    def _piece(self, number: int) -> InstallSnapshotRpc:
        found = self._outgoing.chunk(number - self._live_chunks)
        assert found is not None, "a piece beyond the last was asked for"
        data, last = found
        packed, packing = pack(data, self._packing)
        chunk = ChunkState(number, ChunkFlag.LAST if last else ChunkFlag.NEXT)
        return self._make(chunk, data=packed, packing=packing)

    def _make(
        self,
        chunk: ChunkState,
        data: bytes = b"",
        entries: Sequence[EntryBatch] = (),
        packing: Packing = Packing.NONE,
    ) -> InstallSnapshotRpc:
        meta = self._outgoing.meta
        return InstallSnapshotRpc(self._term, self._leader, meta, chunk, data, tuple(entries), packing)
