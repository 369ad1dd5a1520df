"""A snapshot store on a simulated disk, with a worker that the test drives and a log that it fills."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from barque.core.entries import EntryBatch
from barque.core.log_contract import Capture, SnapshotKind, SnapshotMeta
from barque.core.messages import LogEvent
from barque.log.background import Finished, InlineWorker, Job
from barque.log.disk import OsDisk
from barque.log.segment_format import SegmentEncoder
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshot_format import Description, encode_snapshot, ranges_of
from barque.log.snapshots import SnapshotStore
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, MemberRecord, ServerId, Term, Uid
from tests.kit.storage import batch

DIR = "/data/servers/alpha"
UID = Uid("alpha")
SNAPSHOT, CHECKPOINT, RECOVERY = SnapshotKind.SNAPSHOT, SnapshotKind.CHECKPOINT, SnapshotKind.RECOVERY
MEMBERS = (MemberRecord(ServerId("kv", "n1"), UID), MemberRecord(ServerId("kv", "n2"), Uid("beta")))
EAGER = SnapshotConfig(
    min_snapshot_interval=1,
    min_checkpoint_interval=1,
    max_checkpoints=3,
    min_recovery_checkpoint_interval=1,
    chunk_bytes=64,
)
"""Everything is due after each entry, and a snapshot is sent in many chunks."""


def meta_at(index: int, term: int = 1) -> SnapshotMeta:
    """What a snapshot at this entry stands for."""
    return SnapshotMeta(IndexTerm(Index(index), Term(term)), MEMBERS, 1, 1_700_000_000_000 + index)


def state_at(index: int, size: int = 200) -> bytes:
    """An encoded state that names its entry."""
    return f"<{index}>".encode() * (size // 4 + 1)


def file_at(index: int, live: Sequence[int] = (), term: int = 1, state: bytes | None = None) -> bytes:
    """The bytes of the file of a snapshot."""
    description = Description(meta_at(index, term), ranges_of(map(Index, live)))
    return b"".join(encode_snapshot(description, [state_at(index) if state is None else state]))


def live_segment(indexes: Iterable[int]) -> bytes:
    """The file of the entries at these indexes."""
    encoder = SegmentEncoder(UID)
    parts = [encoder.head]
    for index in indexes:
        parts += encoder.add(batch(index))
    return b"".join([*parts, encoder.finish()[0]])


class LogBeside:
    """The log beside a store: it holds the entries 1 to `end` of term 1, without the removed ones."""

    def __init__(self, end: int = 1_000_000) -> None:
        self.end = end
        self.written = end
        self.removed: set[int] = set()
        self.appended = 0

    def last_written(self) -> IndexTerm:
        """See `Survivors`."""
        return IndexTerm(Index(self.written), Term(1))

    def read_sparse(self, indexes: Sequence[Index]) -> list[EntryBatch]:
        """See `Survivors`."""
        return [batch(index) for index in indexes if index <= self.end and index not in self.removed]

    def bytes_appended(self) -> int:
        """See `Survivors`."""
        return self.appended

    def fetch_term(self, index: int) -> Term | None:
        """As a log does."""
        return Term(1) if 0 < index <= self.end and index not in self.removed else None


class LateWorker(InlineWorker):
    """A worker whose reports reach the loop when the test says so, in order, as a thread's do."""

    def __init__(self) -> None:
        super().__init__(at_once=False)
        self.ends: deque[Callable[[], None]] = deque()

    def submit(self, job: Job, finished: Finished) -> None:
        """Keep the job, and later its end."""
        super().submit(job, lambda result, error: self.ends.append(partial(finished, result, error)))

    def deliver(self) -> bool:
        """Let the loop hear of one end; False if there is none."""
        if not self.ends:
            return False
        self.ends.popleft()()
        return True

    def run_until_idle(self) -> None:
        """Run all jobs, and deliver all ends."""
        while self.run_step() or self.deliver():
            pass

    def close(self, patience_s: float | None = None) -> None:
        """No end is delivered any more."""
        super().close(patience_s)
        self.ends.clear()


class Node:
    """One process with a store. Its worker runs when the test says so."""

    def __init__(
        self, disk: SimDisk | OsDisk | None = None, config: SnapshotConfig = EAGER, path: str = DIR
    ) -> None:
        self.disk = disk if disk is not None else SimDisk(random.Random(1))
        self.config = config
        self.path = path
        self.log = LogBeside()
        self.events: list[LogEvent] = []
        self.disk.mkdir(path)
        self.open()

    def open(self) -> SnapshotStore:
        """Start, or start again."""
        self.events.clear()
        self.worker = LateWorker()
        self.store = SnapshotStore.open(
            self.disk, self.path, UID, self.config, self.worker, self.events.append
        )
        self.store.attach(self.log)
        return self.store

    def begin(
        self, kind: SnapshotKind, index: int, live: Sequence[int] = (), state: Capture | None = None
    ) -> bool:
        """Begin to write a state at this entry."""
        pieces = [state_at(index)] if state is None else state
        return self.store.begin(kind, meta_at(index), pieces, [Index(i) for i in live])

    def write(self, kind: SnapshotKind, index: int, live: Sequence[int] = ()) -> None:
        """Write a snapshot or checkpoint to its end."""
        assert self.begin(kind, index, live)
        self.run()

    def run(self) -> list[LogEvent]:
        """Let the worker do all its work; returns the events so far."""
        self.worker.run_until_idle()
        return self.take_events()

    def take_events(self) -> list[LogEvent]:
        """The events since the last call."""
        events, self.events[:] = list(self.events), []
        return events

    def current(self) -> int:
        """The index of the current snapshot; 0 for none."""
        meta = self.store.current()
        return 0 if meta is None else meta.position.index

    def state(self) -> bytes:
        """The state of the current snapshot."""
        meta = self.store.current()
        assert meta is not None
        return bytes(self.store.load(meta, b"".join))

    def directories(self, kind: SnapshotKind) -> list[str]:
        """The names of what is on the disk of this kind."""
        folder = {SNAPSHOT: "snapshots", CHECKPOINT: "checkpoints", RECOVERY: "recovery_checkpoint"}[kind]
        path = f"{self.path}/{folder}"
        return self.disk.listdir(path) if self.disk.is_dir(path) else []

    def indexes(self, kind: SnapshotKind) -> list[int]:
        """The entries of what is on the disk of this kind; fails for a leftover."""
        return [int(name[17:], 16) for name in self.directories(kind)]

    def receive(self, index: int, live: Sequence[int] = (), data: bytes | None = None) -> None:
        """Take all chunks of a snapshot, without completing it."""
        data = file_at(index, live) if data is None else data
        self.store.begin_accept(meta_at(index))
        self.store.accept_live([batch(i) for i in live])
        size = self.config.chunk_bytes
        for number, start in enumerate(range(0, len(data), size), 1):
            assert self.store.accept_chunk(number, data[start : start + size])

    def install(self, index: int, live: Sequence[int] = ()) -> bytes:
        """Receive and install a snapshot; returns its state."""
        self.receive(index, live)
        self.store.complete_accept(b"".join)
        self.run()
        return bytes(self.store.install_accepted())

    def crash(self) -> SnapshotStore:
        """Lose power and start again."""
        assert isinstance(self.disk, SimDisk)
        self.disk.crash()
        return self.open()
