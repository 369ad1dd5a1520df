"""The whole log of a server against a naive list: segments, snapshots, installs, faults and crashes.

The worker runs a step of a job only when an operation says so; reports wait until they are delivered. So a
flush, a snapshot and an install are under way while the log is overwritten, fails, or dies.
"""

import errno
import random
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings, strategies as st
from tests.kit.snapshots import EAGER, MEMBERS, SNAPSHOT, file_at, meta_at, state_at
from tests.kit.storage import UID, Node, batch

from barque.core.entries import EntryBatch, decode_head, payloads_of
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import (
    AcceptFailed,
    LogEvent,
    ResendWrite,
    SnapshotAccepted,
    SnapshotFailed,
    SnapshotWritten,
    Written,
)
from barque.errors import StorageError
from barque.log.log import WalLog
from barque.log.segment import segment_name
from barque.log.storage import StorageConfig
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term

CONFIG = StorageConfig(
    wal_writer="inline",
    wal_prefill=False,
    wal_max_size_bytes=1200,
    wal_flush_bytes_max=700,
    segment_max_entries=12,
    snapshots=EAGER,
)
SECOND = 1.0


class Model:
    """What the log must be.

    `terms` has the term of each entry, by index, for all that the log ever committed or still holds; the
    snapshot stands for what is at or below `snapshot`, except `live`. `pending` is a snapshot under way.
    """

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}
        self.last = 0
        self.term = 1
        self.snapshot = IndexTerm(Index(0), Term(0))
        self.live: list[int] = []
        self.pending: tuple[IndexTerm, list[int]] | None = None
        self.history: set[tuple[int, int]] = set()

    def fork(self) -> "Model":
        """A copy that goes its own way."""
        other = Model()
        other.terms, other.last, other.term = dict(self.terms), self.last, self.term
        other.snapshot, other.live, other.pending = self.snapshot, self.live, self.pending
        other.history = set(self.history)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and vars(self) == vars(other)

    def put(self, first: int, count: int) -> None:
        """Replace what is there from `first` on by entries of the present term."""
        for index in range(first, self.last + 1):
            del self.terms[index]
        for index in range(first, first + count):
            self.terms[index] = self.term
            self.history.add((index, self.term))
        self.last = first + count - 1

    def adopt_snapshot(self) -> None:
        """The snapshot under way is there."""
        assert self.pending is not None
        self.snapshot, self.live = self.pending
        self.pending = None


def entries_of(batches: Sequence[EntryBatch]) -> dict[int, tuple[int, bytes]]:
    """Term and payload of each entry, by index."""
    found = {}
    for part in batches:
        for offset, payload in enumerate(payloads_of(part.body, part.count, decode_head(part.body))):
            found[part.first_index + offset] = (int(part.term), bytes(payload))
    return found


class Checker:
    """Runs the same operations on a node and on the model, and compares."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.node = Node(SimDisk(random.Random(seed)), CONFIG, at_once=False)
        self.model = Model()
        self.node.disk.mkdir(f"/data/servers/{UID}")
        self.log.append(batch(1))
        self.model.put(1, 1)
        self.node.sync()
        self.installs = 0
        self.installing: IndexTerm | None = None
        self.sent: tuple[list[int], dict[int, int]] = ([], {})
        self.perhaps: dict[IndexTerm, tuple[list[int], dict[int, int]]] = {}

    @property
    def log(self) -> WalLog:
        """The real log."""
        return self.node.storage.log(UID)

    def step(self, operation: str) -> None:
        """Do one thing, then compare. A log that cannot be read ends its server: it starts again."""
        try:
            getattr(self, operation)()
        except StorageError:
            assert self.node.disk.fault is not None or self.node.disk.space is not None
            self.kill()
        self.compare()

    # --- operations ----------------------------------------------------------------------

    def append(self) -> None:
        """A leader appends."""
        if self.log.can_write() and self.installing is None:
            count = self.random.randint(1, 6)
            self.log.append(batch(self.log.next_index(), self.model.term, count, b"x" * 20))
            self.model.put(self.model.last + 1, count)

    def overwrite(self) -> None:
        """A follower takes batches of a newer leader, in the place of others."""
        if not self.log.can_write() or self.installing is not None:
            return
        self.model.term += 1
        start = first = self.random.randint(self.committed() + 1, self.model.last + 1)
        parts = []
        for _ in range(self.random.randint(1, 3)):
            parts.append(batch(start, self.model.term, self.random.randint(1, 3)))
            start += parts[-1].count
        self.log.write(parts)
        self.model.put(first, start - first)

    def truncate(self) -> None:
        """Forget the end of the log, as a server does that receives a snapshot (S-3), or before an append."""
        last = self.random.randint(self.committed(), self.model.last)
        self.log.set_last_index(Index(last))
        for index in range(last + 1, self.model.last + 1):
            del self.model.terms[index]
        self.model.last = last
        self.model.term += 1

    def committed(self) -> int:
        """What is not overwritten: the snapshot, and one that is under way."""
        pending = self.model.pending[0].index if self.model.pending is not None else 0
        installing = self.installing.index if self.installing is not None else 0
        return min(max(self.model.snapshot.index, pending, installing), self.model.last)

    def flush(self) -> None:
        """Write and sync, as a turn of the loop does."""
        self.node.storage.flush()

    def work(self) -> None:
        """One step of the worker."""
        self.node.worker.run_step()

    def work_on(self) -> None:
        """All that the worker has to do."""
        self.node.worker.run_until_idle()

    def tick(self) -> None:
        """A second passes."""
        self.node.now += SECOND
        self.node.storage.tick(self.node.now)

    def deliver(self) -> None:
        """The server hears of everything."""
        events, self.node.events[:] = list(self.node.events), []
        for event in events:
            self.hear(event)

    def hear(self, event: LogEvent) -> None:
        """As the core does."""
        match event:
            case Written() | ResendWrite():
                self.log.handle_event(event)
            case SnapshotWritten():
                if self.model.pending is not None and self.model.pending[0] == event.position:
                    self.model.adopt_snapshot()
                self.log.handle_event(event)
            case SnapshotFailed():
                if self.model.pending is not None and self.model.pending[0] == event.position:
                    self.model.pending = None
            case SnapshotAccepted():
                self.install()
            case AcceptFailed():
                self.installing = None

    def snapshot(self) -> None:
        """The machine releases its cursor somewhere, and still needs some of the entries below."""
        top = min(self.log.last_written().index, self.model.last)
        lowest = self.model.snapshot.index + 1
        if top < lowest or self.installing is not None or self.model.pending is not None:
            return
        index = self.random.randint(lowest, top)
        position = IndexTerm(Index(index), Term(self.model.terms[index]))
        known = self.readable(index)
        live = sorted(self.random.sample(known, min(len(known), self.random.choice((0, 1, 3)))))
        store = self.log.snapshots
        if store.wants(SNAPSHOT, Index(index)) and store.begin(
            SNAPSHOT, SnapshotMeta(position, MEMBERS, 1), [state_at(index)], [Index(i) for i in live]
        ):
            self.model.pending = (position, live)

    def readable(self, last: int) -> list[int]:
        """The entries up to `last` that are there."""
        snapshot, live = self.model.snapshot.index, self.model.live
        return [i for i in self.model.terms if i <= last and (i > snapshot or i in live)]

    def receive(self) -> None:
        """A leader sends a snapshot, with the entries that survive below it."""
        if self.installing is not None or self.model.pending is not None:
            return
        base = max(self.model.snapshot.index, self.model.last - 3)
        agreeing = base + 1 <= self.model.last and self.random.random() < 0.4
        if agreeing:  # the leader does not know how far we are
            index = self.random.randint(self.model.snapshot.index + 1, self.model.last)
            term = self.model.terms[index]
            known = self.readable(index)
        else:
            self.model.term += 1
            index, term = base + self.random.randint(1, 8), self.model.term
            known = list(range(1, index + 1))
        live = sorted(self.random.sample(known, min(len(known), self.random.choice((0, 1, 3)))))
        self.sent = (live, {i: self.model.terms[i] if agreeing else 1 if i <= base else term for i in live})
        self.installing = IndexTerm(Index(index), Term(term))
        try:
            self.send(self.installing)
        except StorageError:  # the server gives up, and the leader sends it again
            self.log.snapshots.abort_accept()
            self.installing = None

    def send(self, position: IndexTerm) -> None:
        """Everything that the leader sends arrives."""
        store, (live, terms) = self.log.snapshots, self.sent
        store.begin_accept(meta_at(position.index, position.term))
        store.accept_live([batch(i, terms[i]) for i in live])
        data = file_at(position.index, live, position.term)
        for number, start in enumerate(range(0, len(data), 64), 1):
            assert store.accept_chunk(number, data[start : start + 64])
        store.complete_accept(b"".join)

    def install(self) -> None:
        """The core lets the snapshot take the place of the log."""
        assert self.installing is not None
        position, self.installing = self.installing, None
        if position.index <= self.model.snapshot.index:
            return
        self.perhaps[position] = self.sent
        try:
            self.log.snapshots.install_accepted()
        except StorageError:  # it may be there at the next start, or not
            return
        self.installed(position, self.sent)
        try:
            self.log.install(position)
        except OSError:
            self.kill()

    def installed(self, position: IndexTerm, sent: tuple[list[int], dict[int, int]]) -> None:
        """A snapshot has taken the place of the log."""
        self.installs += 1
        self.model.snapshot, self.model.live, self.model.pending = position, sent[0], None
        self.model.terms = dict(sent[1])
        self.model.history |= set(sent[1].items())
        self.model.last = position.index

    def compact(self) -> None:
        """Begin a major compaction, if it is worth it."""
        self.node.storage.segment_writer.compact(UID)

    def fail(self) -> None:
        """One of the next operations of the disk fails."""
        target = self.node.disk.operations + self.random.randint(1, 12)
        self.node.disk.fault = lambda _op, path: (
            OSError(errno.EIO, "EIO", path) if self.node.disk.operations == target else None
        )

    def full(self) -> None:
        """The disk becomes full, or is no longer."""
        self.node.disk.space = 0 if self.node.disk.space is None else None

    def crash(self) -> None:
        """The power fails."""
        self.restart(power=True)

    def kill(self) -> None:
        """The process dies."""
        self.restart(power=False)

    def restart(self, *, power: bool) -> None:
        """Everything confirmed is there again; whatever else is there was once handed over."""
        confirmed = self.confirmed()
        self.node.disk.fault = self.node.disk.space = None
        _ = self.node.crash() if power else self.node.kill()
        self.judge(confirmed)

    def confirmed(self) -> int:
        """Up to where the log says that it is on disk; 0 if it has not heard of its new snapshot."""
        heard = self.log.snapshot_index_term() == self.model.snapshot
        return self.log.last_written().index if heard else 0

    def judge(self, confirmed: int) -> None:
        """Check what a start has found, and go on from there."""
        model, log = self.model, self.log
        found = log.snapshot_index_term()
        if model.pending is not None and found == model.pending[0]:
            model.adopt_snapshot()
        if found != model.snapshot and found in self.perhaps:
            self.installed(found, self.perhaps[found])
            confirmed = 0
        assert found == model.snapshot
        self.perhaps.clear()
        model.pending = self.installing = None
        entries = entries_of(log.read(Index(found.index + 1), log.last_index_term().index, 1 << 30, 1 << 40))
        assert sorted(entries) == list(range(found.index + 1, log.last_index_term().index + 1))
        for index in range(found.index + 1, confirmed + 1):
            assert entries[index][0] == model.terms[index], "a confirmed entry is lost"
        assert {(index, term) for index, (term, _) in entries.items()} <= model.history
        terms = [entries[index][0] for index in sorted(entries)]
        assert terms == sorted(terms)
        model.terms = {i: t for i, t in model.terms.items() if i <= found.index}
        model.terms |= {index: term for index, (term, _) in entries.items()}
        model.last = log.last_index_term().index
        model.term += 1
        assert log.last_written() == log.last_index_term()

    # --- comparing -----------------------------------------------------------------------

    def compare(self) -> None:
        """The log is exactly the list; survivors can be read; the marks are where they must be."""
        disk = self.node.disk
        fault, done, disk.fault = disk.fault, disk.operations, None  # the test reads here, not the node
        model, log = self.model, self.log
        assert log.last_index_term().index == model.last
        low = max(model.snapshot.index, log.snapshot_index_term().index)
        found = entries_of(log.read(Index(low + 1), Index(model.last), 1 << 30, 1 << 40))
        wanted = {i: model.terms[i] for i in range(low + 1, model.last + 1)}
        assert {index: term for index, (term, _) in found.items()} == wanted
        for index, (term, payload) in found.items():
            assert payload.endswith(f":{index}:{term}".encode())
        for index in range(log.first_index(), model.last + 1):
            assert log.fetch_term(Index(index)) == model.terms.get(index, log.fetch_term(Index(index)))
            assert log.fetch_term(Index(index)) is not None
        if log.snapshot_index_term() == model.snapshot:
            live = entries_of(log.read_sparse([Index(i) for i in model.live]))
            assert {i: term for i, (term, _) in live.items()} == {i: model.terms[i] for i in model.live}
        written = log.last_written()
        assert written.index <= model.last
        assert written == model.snapshot or model.terms.get(written.index, written.term) == written.term
        disk.fault, disk.operations = fault, done


OPERATIONS = [
    *("append", "append", "append", "overwrite", "truncate", "flush", "flush", "flush", "deliver", "deliver"),
    *(
        "work",
        "work",
        "work_on",
        "tick",
        "tick",
        "snapshot",
        "receive",
        "compact",
        "compact",
        "fail",
        "full",
        "crash",
        "kill",
    ),
]


def calm(checker: Checker) -> None:
    """Let everything that is under way come to its end."""
    checker.node.disk.fault = checker.node.disk.space = None
    for _ in range(12):
        checker.step("append")  # so that the disk learns of a cut
        for operation in ("flush", "deliver", "tick", "work_on", "deliver"):
            checker.step(operation)


def run(seed: int, operations: Sequence[str]) -> Checker:
    """Run these operations, let everything come to rest, and look at what is left.

    At rest, everything is confirmed, no file of the write-ahead log waits for a flush, and each segment file
    on the disk is one that counts.
    """
    checker = Checker(seed)
    for operation in operations:
        checker.step(operation)
    calm(checker)
    log, storage, disk = checker.log, checker.node.storage, checker.node.disk
    assert log.last_written() == log.last_index_term()
    assert storage.overview()["segment_writer"]["closed_files"] == 0
    directory = log.segments.directory
    names = disk.listdir(directory) if disk.is_dir(directory) else []
    counted = [segment_name(part.segment.number) for part in log.segments._parts]
    assert [name for name in names if not name.endswith(".tmp")] == counted
    checker.step("crash")
    assert all(
        name.endswith(".segment") for name in (disk.listdir(directory) if disk.is_dir(directory) else [])
    )
    return checker


def random_history(seed: int) -> Checker:
    """Run a history that this seed draws."""
    chance = random.Random(f"history {seed}")
    return run(seed, chance.choices(OPERATIONS, k=chance.randint(20, 120)))


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.lists(st.sampled_from(OPERATIONS), max_size=70))
def test_the_whole_log_is_a_list_that_survives(seed: int, operations: list[str]) -> None:
    """After anything: confirmed entries and survivors are there, nothing is invented, nothing comes back."""
    run(seed, operations)


def test_histories_do_everything() -> None:
    """Flushes, snapshots, installs and restarts happen, so that the histories can show something."""
    checkers = [random_history(seed) for seed in range(60)]
    assert sum(checker.log.snapshot_index_term().index > 0 for checker in checkers) > 10
    assert sum(checker.installs for checker in checkers) > 5
    assert sum(len(checker.log.segments.parts) for checker in checkers) > 50
