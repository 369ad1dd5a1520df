"""A snapshot store in memory, beside `MemoryLog`: the naive model of `core.snapshots`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from barque.core.entries import EntryBatch
from barque.core.events import SnapshotWritten, Written
from barque.core.log_contract import SnapshotMeta
from barque.errors import StorageError
from barque.types import Index

if TYPE_CHECKING:
    from barque.testing.core.memory_log import MemoryLog


class Snapshot(NamedTuple):
    """One snapshot or checkpoint in the store."""

    meta: SnapshotMeta
    state: bytes
    live: tuple[EntryBatch, ...] = ()


class MemorySnapshots:
    """One snapshot, some checkpoints, and at most one of each being written.

    A `release` becomes durable with the log's next sync. With `full`, the disk refuses new snapshots.
    """

    def __init__(self, log: "MemoryLog", *, chunk_bytes: int = 8) -> None:
        self._log = log
        self.chunk_bytes = chunk_bytes
        self._current: Snapshot | None = None
        self._writing: Snapshot | None = None
        self._accepting: SnapshotMeta | None = None
        self._pieces: list[bytes] = []
        self._live: list[EntryBatch] = []
        self._live_unsynced = False
        self.checkpoints: list[Snapshot] = []
        self.full = False

    def current(self) -> SnapshotMeta | None:
        """See `Snapshots.current`."""
        return None if self._current is None else self._current.meta

    def load(self) -> bytes:
        """See `Snapshots.load`."""
        assert self._current is not None
        return self._current.state

    def release(self, meta: SnapshotMeta, state: bytes, live: Sequence[Index]) -> bool:
        """See `Snapshots.release`. This store accepts every snapshot that is newer."""
        current = self.current()
        if self.full or self._writing or (current and meta.position.index <= current.position.index):
            return False
        entries = [batch for i in live for batch in self._log.read_any(Index(i))]
        self._writing = Snapshot(meta, state, tuple(entries))
        return True

    def checkpoint(self, meta: SnapshotMeta, state: bytes) -> bool:
        """See `Snapshots.checkpoint`."""
        if self.full or self._writing:
            return False
        self.checkpoints.append(Snapshot(meta, state))
        return True

    def promote_checkpoint(self, index: Index) -> bool:
        """See `Snapshots.promote_checkpoint`."""
        old = [c for c in self.checkpoints if c.meta.position.index <= index]
        if not old or self._writing:
            return False
        self._writing = old[-1]
        return True

    def live_entries(self) -> list[EntryBatch]:
        """See `Snapshots.live_entries`."""
        return list(self._current.live) if self._current is not None else []

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """See `Snapshots.chunk`."""
        assert self._current is not None
        state, size = self._current.state, self.chunk_bytes
        start = (number - 1) * size
        if start and start >= len(state):
            return None
        return state[start : start + size], start + size >= len(state)

    # --- receiving -----------------------------------------------------------------------

    def begin_accept(self, meta: SnapshotMeta) -> None:
        """See `Snapshots.begin_accept`."""
        if self.full:
            raise StorageError("the disk is full")
        self._accepting, self._pieces, self._live, self._live_unsynced = meta, [], [], False

    def accept_live(self, entries: Sequence[EntryBatch]) -> None:
        """See `Snapshots.accept_live`."""
        self._live += entries
        self._live_unsynced = self._live_unsynced or bool(entries)

    def accept_chunk(self, number: int, data: bytes) -> bool:
        """See `Snapshots.accept_chunk`."""
        if self.full:
            raise StorageError("the disk is full")
        if number <= len(self._pieces):
            return True
        if number > len(self._pieces) + 1:
            return False
        self._pieces.append(data)
        return True

    def live_pending(self) -> bool:
        """See `Snapshots.live_pending`."""
        return self._live_unsynced

    def complete_accept(self) -> bytes:
        """See `Snapshots.complete_accept`. Durable at once: a real store syncs before it returns."""
        assert self._accepting is not None
        own = self.live_entries()
        self._current = Snapshot(self._accepting, b"".join(self._pieces), (*own, *self._live))
        self._log.start_after(self._accepting.position)
        self.abort_accept()
        return self._current.state

    def abort_accept(self) -> None:
        """See `Snapshots.abort_accept`."""
        self._accepting, self._pieces, self._live, self._live_unsynced = None, [], [], False

    # --- the disk ------------------------------------------------------------------------

    def sync(self) -> list[Written | SnapshotWritten]:
        """Make the snapshots that were being written durable, and return their events."""
        uid = self._log.uid
        events: list[Written | SnapshotWritten] = []
        if self._live_unsynced:
            self._live_unsynced = False
            events += [Written(uid, b.term, b.first_index, b.last_index) for b in self._live]
        if self._writing is not None:
            self._current, self._writing = self._writing, None
            events.append(SnapshotWritten(uid, self._current.meta.position))
        return events

    def crash(self) -> None:
        """Lose the snapshots that were not durable."""
        self._writing = None
        self.abort_accept()
