"""When a snapshot may be made (§5.1; SNAP-01 to SNAP-04, CKPT-01, CKPT-02, EFF-14 to EFF-17).

The machine says from which entry on it can be rebuilt; the snapshot store decides whether a
snapshot is worth it now. A log without a store keeps everything, and such hints change nothing.
"""

from typing import Any

from barque.core.peers import PeerStatus, records_of
from barque.core.server import Server
from barque.core.snapshots import SnapshotMeta
from barque.errors import InvariantViolation
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.types import Index, IndexTerm


def update_release_cursor(server: Server, wish: ReleaseCursor) -> None:
    """Ra's `update_release_cursor`: now if all conditions hold, or later; only the latest waits (EFF-15)."""
    server.pending_release_cursor = wish
    try_pending_release(server)


def try_pending_release(server: Server) -> None:
    """Look again: after progress, and after a snapshot was sent."""
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
    sending = any(peer.status is PeerStatus.SENDING_SNAPSHOT for _, peer in server.peers())
    return not (wish.no_snapshot_sends and sending)


def make_checkpoint(server: Server, wish: Checkpoint) -> None:
    """EFF-17: keep a state without truncating the log."""
    meta = _meta_at(server, wish.index)
    if server.log.snapshots is not None and meta is not None:
        server.log.snapshots.checkpoint(meta, server.machine.encode_state(wish.state))


def _meta_at(server: Server, index: Index) -> SnapshotMeta | None:
    """SNAP-03. None for an entry that is not applied or no longer there: an old hint, repeated.

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
