"""Snapshots that a server makes, and snapshots that a leader sends (§5; SNAP, CKPT, SEND rows; L-14 to L-17).

The machine says from which entry on it can be rebuilt (`ReleaseCursor`), or asks to keep a state
(`Checkpoint`). The snapshot store decides whether a snapshot is worth it now. A log without a store keeps
everything, and such wishes change nothing.

A leader sends its newest snapshot to a peer that needs entries which the log no longer has. The runtime
keeps a `SnapshotSender` for each transfer and tells the leader how it ended.
"""

from typing import Any

from barque.core.check_quorum import note_acked
from barque.core.effects import Effect, SnapshotAcked, StartSnapshotRetry
from barque.core.entries import EntryBatch
from barque.core.events import SenderOutcome, SnapshotRetryTimeout, SnapshotSenderDown
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta, Snapshots
from barque.core.membership import promotions_due
from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc
from barque.core.replication import make_rpc, pipelined_rpcs
from barque.core.state import PeerStatus, Server, records_of
from barque.errors import InvariantViolation
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.types import Index, IndexTerm, ServerId, Term

_BACKOFF_MAX_MS = 60_000
_LIVE_ENTRIES = 16
"""Live entries in one chunk (SEND-05)."""


# --- making ---------------------------------------------------------------------------------


def update_release_cursor(server: Server, wish: ReleaseCursor) -> None:
    """Ra's `update_release_cursor`: act on the latest wish once its conditions hold (EFF-15)."""
    server.pending_release_cursor = wish
    try_pending_release(server)


def try_pending_release(server: Server) -> None:
    """Act on the pending wish if its conditions hold now: after progress, and after a snapshot was sent."""
    wish: ReleaseCursor | None = server.pending_release_cursor
    if wish is None or not _conditions_hold(server, wish):
        return
    server.pending_release_cursor = None
    snapshots = server.log.snapshots
    if snapshots is None:
        return
    if wish.promote:
        snapshots.promote_checkpoint(wish.index)
        return
    meta = _meta_at(server, wish.index)
    if meta is not None:
        machine = server.machine
        snapshots.release(meta, machine.encode_state(wish.state), list(machine.live_indexes(wish.state)))


def _conditions_hold(server: Server, wish: ReleaseCursor) -> bool:
    if wish.written is not None and wish.written > server.log.last_written().index:
        return False
    sending = any(peer.status is PeerStatus.SENDING_SNAPSHOT for _, peer in server.peers)
    return not (wish.no_snapshot_sends and sending)


def make_checkpoint(server: Server, wish: Checkpoint) -> None:
    """EFF-17: keep a state without truncating the log."""
    meta = _meta_at(server, wish.index)
    if server.log.snapshots is not None and meta is not None:
        server.log.snapshots.checkpoint(meta, server.machine.encode_state(wish.state))


def _meta_at(server: Server, index: Index) -> SnapshotMeta | None:
    """SNAP-03: what a snapshot at this entry stands for; None if the entry is not applied or no longer there.

    The snapshot carries the *current* members, as Ra's does, but never a change that is not committed.
    """
    term = server.log.fetch_term(index)
    if term is None or index > server.last_applied or index == 0:
        return None
    members: Any = records_of(server.cluster)
    if server.cluster_index_term.index > server.last_applied and server.previous_cluster is not None:
        members = server.previous_cluster[1]
    return SnapshotMeta(IndexTerm(index, term), tuple(members), version_at(server, index))


def version_at(server: Server, index: Index) -> int:
    """VER-08: the machine version that was in force at this entry."""
    for since, version in reversed(server.machine_versions):
        if since <= index:
            return version
    raise InvariantViolation(f"{server.id}: no machine version is known for entry {index}")


# --- sending --------------------------------------------------------------------------------


def on_install_snapshot_result(server: Server, result: InstallSnapshotResult) -> list[Effect]:
    """L-14, L-15: the reply to any chunk but the last lets the transfer go on."""
    peer = server.cluster.get(result.sender)
    if peer is None or result.sender == server.id:
        return []
    note_acked(server, result.sender)
    if result.chunk.flag is not ChunkFlag.LAST:
        return [SnapshotAcked(result.sender, result.chunk)]
    ours = server.log.fetch_term(result.last_index)
    replaced = ours is None and result.last_index < server.log.snapshot_index_term().index
    if ours != result.last_term and not replaced:
        return []  # not a snapshot of ours: it proves nothing
    peer.status, peer.attempts = PeerStatus.NORMAL, 0
    peer.match_index = max(peer.match_index, result.last_index)
    peer.commit_index = peer.commit_index_sent = result.last_index
    peer.next_index = max(Index(peer.match_index + 1), Index(result.last_index + 1))
    try_pending_release(server)
    rpcs, _ = pipelined_rpcs(server)
    return [*promotions_due(server, result.sender), *rpcs]


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
    """The chunks of one snapshot, each sent after the reply to the one before.

    The performer of `SendSnapshot` keeps one for each transfer, sends `first()`, hands it each
    `SnapshotAcked`, and tells the leader how the transfer ended (`SnapshotSenderDown`).
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
        """The chunk that follows this acknowledged one; None if another acknowledgement is due."""
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
