"""When snapshots and checkpoints of a server are due."""

import msgspec

_ENTRY_BYTES = 1024
"""The work that an entry saves is counted as that of so many bytes of a snapshot."""


class SnapshotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When snapshots are due, in entries and bytes of the log; 0 recovery interval: never.

    A snapshot is due after `min_snapshot_interval` entries or `snapshot_bytes` of them, and not before the
    log has grown about as much as the last snapshot was large: a large state is not written for few entries.
    """

    min_snapshot_interval: int = 4096
    snapshot_bytes: int = 64 * 1024 * 1024
    min_checkpoint_interval: int = 16_384
    max_checkpoints: int = 10
    min_recovery_checkpoint_interval: int = 0
    chunk_bytes: int = 1_000_000

    def is_due(self, entries: int, grown: int, size: int) -> bool:
        """Whether a snapshot is due after so many `entries` and bytes, if the last one has `size` bytes."""
        if entries <= 0 or (entries < self.min_snapshot_interval and grown < self.snapshot_bytes):
            return False
        return max(entries * _ENTRY_BYTES, grown) >= size
