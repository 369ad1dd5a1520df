"""The snapshots of one server in memory: the naive model of `core.log_contract.Snapshots`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from barque.core.entries import EntryBatch
from barque.core.log_contract import Accepts, Capture, Restore, SnapshotKind, SnapshotMeta
from barque.core.messages import AcceptFailed, LogEvent, SnapshotAccepted, SnapshotFailed, SnapshotWritten
from barque.errors import StorageError
from barque.machine.snapshot_module import BoundModule, ModuleCapture
from barque.testing.core.module_bytes import read_out, take_in
from barque.types import Index, IndexTerm

if TYPE_CHECKING:
    from barque.testing.core.memory_log import MemoryLog


class Snapshot(NamedTuple):
    """One snapshot or checkpoint in the store."""

    meta: SnapshotMeta
    state: bytes
    """As the machine encodes it, or as its snapshot module reads it out."""
    live: tuple[EntryBatch, ...] = ()


class MemoryOutgoing:
    """A snapshot that is being sent; it does not change any more."""

    module = False

    def __init__(self, snapshot: Snapshot, chunk_bytes: int) -> None:
        self.meta = snapshot.meta
        self._snapshot = snapshot
        self._chunk_bytes = chunk_bytes

    def agree(self, accepts: Accepts) -> None:
        """See `Outgoing.agree`."""

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """See `Outgoing.chunk`."""
        state, size = self._snapshot.state, self._chunk_bytes
        start = (number - 1) * size
        if start and start >= len(state):
            return None
        return state[start : start + size], start + size >= len(state)

    def live(self, after: Index, count: int) -> list[EntryBatch]:
        """See `Outgoing.live`."""
        return [batch for batch in self._snapshot.live if batch.first_index > after][:count]

    def close(self) -> None:
        """See `Outgoing.close`."""


class MemorySnapshots:
    """One snapshot, some checkpoints, and at most one of each being written.

    What is begun becomes durable with the log's next sync, and a received snapshot is checked then. With
    `full`, the disk refuses everything. With `interval`, a snapshot is due after so many entries.
    """

    def __init__(self, log: "MemoryLog", *, chunk_bytes: int = 8) -> None:
        self._log = log
        self.chunk_bytes = chunk_bytes
        self.interval = 1
        self._current: Snapshot | None = None
        self._writing: dict[SnapshotKind, Snapshot] = {}
        self._captures: dict[SnapshotKind, Capture] = {}
        self._accepting: SnapshotMeta | None = None
        self._pieces: list[bytes] = []
        self._live: list[EntryBatch] = []
        self._completing: tuple[Restore, BoundModule | None] | None = None
        self._accepted: list[Any] = []
        self.checkpoints: list[Snapshot] = []
        self.full = False

    def current(self) -> SnapshotMeta | None:
        """See `Snapshots.current`."""
        return None if self._current is None else self._current.meta

    def recovery_point(self, log: object) -> SnapshotMeta | None:
        """See `Snapshots.recovery_point`."""
        usable = [c.meta for c in self.checkpoints if self._log.holds(c.meta.position)]
        return max([*usable, *self._currents()], key=lambda meta: meta.position.index, default=None)

    def _currents(self) -> list[SnapshotMeta]:
        return [] if self._current is None else [self._current.meta]

    def load(self, meta: SnapshotMeta, restore: Restore, module: BoundModule | None = None) -> Any:
        """See `Snapshots.load`."""
        [found] = [s for s in (self._current, *self.checkpoints) if s is not None and s.meta == meta][:1]
        return restore(iter([found.state])) if module is None else take_in(module, [found.state])

    # --- making --------------------------------------------------------------------------

    def wants(self, kind: SnapshotKind, index: Index) -> bool:
        """See `Snapshots.wants`."""
        current = 0 if self._current is None else self._current.meta.position.index
        return not self.full and kind not in self._writing and index >= current + self.interval

    def begin(self, kind: SnapshotKind, meta: SnapshotMeta, pieces: Capture, live: Sequence[Index]) -> bool:
        """See `Snapshots.begin`. The capture is read when it is written, not now."""
        if not self.wants(kind, meta.position.index):
            return False
        entries = tuple(self._log.read_sparse(live))
        assert len(entries) == len(live), "a snapshot needs entries that are gone"
        self._writing[kind] = Snapshot(meta, b"", entries)
        self._captures[kind] = pieces
        return True

    def promote_checkpoint(self, index: Index) -> bool:
        """See `Snapshots.promote_checkpoint`."""
        kind = SnapshotKind.SNAPSHOT
        old = [c for c in self.checkpoints if self._is_newer(c.meta) and c.meta.position.index <= index]
        if not old or kind in self._writing:
            return False
        self._writing[kind] = old[-1]
        return True

    def _is_newer(self, meta: SnapshotMeta) -> bool:
        return self._current is None or meta.position.index > self._current.meta.position.index

    # --- sending -------------------------------------------------------------------------

    def open_outgoing(
        self, module: BoundModule | None = None, ready: Callable[[], None] = lambda: None
    ) -> MemoryOutgoing:
        """See `Snapshots.open_outgoing`."""
        assert self._current is not None
        return MemoryOutgoing(self._current, self.chunk_bytes)

    def doubt(self, position: IndexTerm) -> None:
        """See `Snapshots.doubt`. Memory does not rot."""

    # --- receiving -----------------------------------------------------------------------

    def begin_accept(self, meta: SnapshotMeta) -> None:
        """See `Snapshots.begin_accept`."""
        self._check_space()
        self.abort_accept()
        self._accepting = meta

    def _check_space(self) -> None:
        if self.full:
            raise StorageError("the disk is full")

    def accept_live(self, entries: Sequence[EntryBatch]) -> None:
        """See `Snapshots.accept_live`."""
        self._check_space()
        self._live += entries

    def accept_chunk(self, number: int, data: bytes) -> bool:
        """See `Snapshots.accept_chunk`."""
        self._check_space()
        if number <= len(self._pieces):
            return True
        if number > len(self._pieces) + 1:
            return False
        self._pieces.append(data)
        return True

    def complete_accept(self, restore: Restore, module: BoundModule | None = None) -> None:
        """See `Snapshots.complete_accept`."""
        self._check_space()
        self._completing = restore, module

    def install_accepted(self) -> Any:
        """See `Snapshots.install_accepted`. Durable at once: a real store syncs before it returns."""
        self._check_space()
        assert self._accepting is not None
        [state] = self._accepted
        own = self._current.live if self._current is not None else ()
        have = {batch.first_index for batch in self._live}
        live = [*(b for b in own if b.first_index not in have), *self._live]
        self._current = Snapshot(self._accepting, b"".join(self._pieces), tuple(live))
        self._forget_older()
        self._log.start_after(self._accepting.position)
        self.abort_accept()
        return state

    def _forget_older(self) -> None:
        self.checkpoints = [c for c in self.checkpoints if self._is_newer(c.meta)]

    def abort_accept(self) -> None:
        """See `Snapshots.abort_accept`."""
        self._accepting, self._completing = None, None
        self._pieces, self._live, self._accepted = [], [], []

    @property
    def unsynced(self) -> int:
        """How many snapshots wait for the next sync."""
        return len(self._writing) + (self._completing is not None)

    @property
    def accepting(self) -> bool:
        """Whether a snapshot is being received."""
        return self._accepting is not None

    # --- the disk ------------------------------------------------------------------------

    def live_entries(self) -> tuple[EntryBatch, ...]:
        """The entries below the snapshot that survived it."""
        return () if self._current is None else self._current.live

    def sync(self) -> list[LogEvent]:
        """Make what was being written durable, and check what was received; return the events."""
        uid = self._log.uid
        events: list[LogEvent] = []
        for kind, begun in self._writing.items():
            snapshot = begun
            if kind in self._captures:
                captured = self._captures.pop(kind)
                written = read_out(captured) if isinstance(captured, ModuleCapture) else captured
                snapshot = begun._replace(state=b"".join(written))
            if kind is SnapshotKind.SNAPSHOT:
                if not self._is_newer(snapshot.meta):
                    events.append(SnapshotFailed(uid, kind, snapshot.meta.position, "a newer one is here"))
                    continue
                self._current = snapshot
                self._forget_older()
            elif self._is_newer(snapshot.meta):
                self.checkpoints.append(snapshot)
            events.append(SnapshotWritten(uid, kind, snapshot.meta.position))
        self._writing.clear()
        if self._completing is not None and self._accepting is not None:
            events.append(self._check(*self._completing, self._accepting))
            self._completing = None
        return events

    def _check(self, restore: Restore, module: BoundModule | None, meta: SnapshotMeta) -> LogEvent:
        try:
            pieces = self._pieces
            self._accepted = [restore(iter(pieces)) if module is None else take_in(module, pieces)]
        except Exception as error:
            return AcceptFailed(self._log.uid, meta.position, repr(error))
        return SnapshotAccepted(self._log.uid, meta.position)

    def crash(self) -> None:
        """Lose what was not durable."""
        self._writing.clear()
        self._captures.clear()
        self.abort_accept()
