"""Plans to read a log: what they yield stays the same while its files move; what they keep is bounded."""

import gc
import threading
import warnings
from collections.abc import Iterator

import pytest
from tests.kit.snapshots import MEMBERS, SNAPSHOT, file_at, meta_at, state_at
from tests.kit.storage import SMALL, UID, Node, batch

from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import SnapshotWritten
from barque.errors import Stopped, StorageError
from barque.log.log import WalLog
from barque.log.read_plan import LogEntry, PlanInfo, ReadPlan, runs_of
from barque.log.storage import StorageConfig
from barque.types import Index, IndexTerm, Term

CONFIG = StorageConfig(wal_writer="inline", wal_prefill=False, wal_max_size_bytes=2048, segment_max_entries=8)


def filled(count: int = 60, config: StorageConfig = CONFIG) -> Node:
    """A log of so many entries, the older ones in segments."""
    node = Node(config=config)
    log = node.storage.log(UID)
    for index in range(1, count + 1):
        log.append(batch(index))
        node.sync()
    node.tick()
    return node


def plan(log: WalLog, indexes: "range | list[int]") -> ReadPlan:
    """A plan whose commands are the payloads."""
    return log.plan_read(indexes, bytes)


def payload(index: int, term: int = 1) -> bytes:
    """What the entry at an index holds."""
    return f"payload:{index}:{term}".encode()


def read(made: ReadPlan) -> list[tuple[int, int, bytes]]:
    """What a plan yields, without times."""
    return [(entry.index, entry.term, entry.command) for entry in made.execute()]


def snapshot(node: Node, index: int, live: "list[int]") -> None:
    """Make a snapshot at an index that still needs some entries below it."""
    log = node.storage.log(UID)
    position = IndexTerm(Index(index), Term(1))
    meta = SnapshotMeta(position, MEMBERS, 1)
    assert log.snapshots.begin(SNAPSHOT, meta, [state_at(index)], [Index(i) for i in live])
    for event in node.events:
        if isinstance(event, SnapshotWritten):
            log.handle_event(event)
    node.events.clear()


def install(log: WalLog, index: int, term: int, live: "list[int]") -> None:
    """Let a leader's snapshot take the place of the log."""
    store = log.snapshots
    store.begin_accept(meta_at(index, term))
    store.accept_live([batch(i) for i in live])
    assert store.accept_chunk(1, file_at(index, live, term))
    store.complete_accept(b"".join)
    store.install_accepted()
    log.install(IndexTerm(Index(index), Term(term)))


def test_a_plan_reads_from_memory_and_from_segments() -> None:
    """EXT-03, EXT-04: entries in the order that was asked for; `info` says where they come from."""
    node = filled()
    log = node.storage.log(UID)
    base = log.segments.end.index
    assert 8 < base < 60
    with plan(log, range(1, 61)) as made:
        assert read(made) == [(i, 1, payload(i)) for i in range(1, 61)]
        assert read(made) == [(i, 1, payload(i)) for i in range(1, 61)], "as often as one likes"
        assert made.info() == PlanInfo(60 - base, base, len(log.segments.parts))
    with plan(log, [59, 3, 4, 99, 0, 60, 3]) as made:
        assert [entry.index for entry in made.execute()] == [59, 3, 4, 60, 3]
        assert made.info() == PlanInfo(2, 3, 1)
    [entry] = plan_of_one(log)
    assert entry == LogEntry(Index(2), Term(1), 1_700_000_000_000, payload(2))


def plan_of_one(log: WalLog) -> list[LogEntry]:
    """The entry at index 2, whole."""
    with plan(log, [2]) as made:
        return list(made.execute())


def test_runs_keep_the_order() -> None:
    """Consecutive indexes are one run, whichever kind of sequence they come in."""
    assert list(runs_of(range(3, 9))) == [(3, 8)]
    assert list(runs_of(range(3, 3))) == []
    assert list(runs_of(range(9, 3, -3))) == [(9, 9), (6, 6)]
    assert list(runs_of(iter([1, 2, 3, 7, 8, 2, 2]))) == [(1, 3), (7, 8), (2, 2), (2, 2)]


def test_entries_of_barques_own_are_left_out() -> None:
    """EXT-05: only user commands are yielded, one by one, from batches of any size."""
    node = filled(1)
    log = node.storage.log(UID)
    log.append(EntryBatch(Index(2), Term(1), 1, 0, encode_body([b"\x01"], EntryKind.NOOP)))
    log.append(batch(3, 1, 5))
    with plan(log, [2, 3, 5, 7, 8]) as made:
        assert [entry.index for entry in made.execute()] == [3, 5, 7]


def test_a_plan_stays_valid_while_files_move() -> None:
    """EXT-03: a truncation, a snapshot, compactions and the next flushes change nothing for a plan."""
    node = filled(90)
    log = node.storage.log(UID)
    with plan(log, range(1, 91)) as made:
        before = read(made)
        reading = made.execute()  # half-way through a file, too
        first = [next(reading) for _ in range(3)]
        snapshot(node, 40, [2, 11, 23, 33])
        assert node.storage.segment_writer.compact(UID)
        node.tick()
        assert log.segments.major_compactions == 1
        log.set_last_index(Index(60))
        for index in range(61, 200):
            log.append(batch(index, 2))
            node.sync()
        node.tick()
        assert log.segments.holds.kept
        assert read(made) == before
        assert [e.index for e in first] + [e.index for e in reading] == list(range(1, 91))
    node.tick()
    assert not log.segments.holds.kept
    with plan(log, range(1, 200)) as made:
        found = read(made)
        assert 33 < log.first_index() <= 41
        assert [i for i, _, _ in found if i < log.first_index()] == [2, 11, 23, 33]
        assert [each for each in found if each[0] > 40] == [
            (i, 1 + (i > 60), payload(i, 1 + (i > 60))) for i in range(41, 200)
        ]


def test_a_plan_that_is_made_during_a_compaction_is_valid() -> None:
    """EXT-03: the name of a file may come to mean another file before the loop hears of it."""
    node = Node(config=CONFIG, at_once=False)
    log = node.storage.log(UID)
    for index in range(1, 61):
        log.append(batch(index))
        node.sync()
        node.worker.run_until_idle()
    begun = log.snapshots.begin(
        SNAPSHOT,
        SnapshotMeta(IndexTerm(Index(40), Term(1)), MEMBERS, 1),
        [state_at(40)],
        [Index(2), Index(9)],
    )
    assert begun
    node.worker.run_until_idle()
    for event in list(node.events):
        if isinstance(event, SnapshotWritten):
            log.handle_event(event)
    node.worker.run_until_idle()
    assert node.storage.segment_writer.compact(UID)
    with plan(log, [2, 9]) as made:
        while node.worker.run_step():
            assert read(made) == [(2, 1, payload(2)), (9, 1, payload(9))]
        node.tick()
        node.worker.run_until_idle()
        assert log.segments.major_compactions == 1
        assert read(made) == [(2, 1, payload(2)), (9, 1, payload(9))]


def test_a_plan_of_survivors_stays_valid_when_their_file_moves() -> None:
    """EXT-03: survivors of an installed snapshot lie in its directory until the old files may go."""
    node = filled()
    log = node.storage.log(UID)
    install(log, 80, 2, [2, 9])
    survivors = log.segments.parts[0].segment
    assert "/segments/" not in survivors.path
    with plan(log, range(1, 80)) as made:
        assert read(made) == [(2, 1, payload(2)), (9, 1, payload(9))]
        log.append(batch(81, 2))
        node.sync()
        node.tick()
        assert not node.disk.exists(survivors.path)
        assert "/segments/" in log.segments.parts[0].segment.path
        assert read(made) == [(2, 1, payload(2)), (9, 1, payload(9))]


def test_a_closed_plan_says_so() -> None:
    """EXT-03: a plan that is closed in the midst of reading yields nothing more, and its files are let go."""
    node = filled()
    log = node.storage.log(UID)
    made = plan(log, range(1, 61))
    reading = made.execute()
    next(reading)
    made.close()
    made.close()
    with pytest.raises(Stopped, match="this plan is closed"):
        list(reading)
    with pytest.raises(Stopped, match="this plan is closed"):
        next(made.execute())
    node.tick()
    assert len(log.segments.holds) == 0


@pytest.mark.parametrize("indexes", [range(1, 61), range(60, 61), range(1, 2)])
def test_a_plan_of_a_deleted_server_says_so(indexes: range) -> None:
    """EXT-03: be its entries in memory or in files, it raises, and names the reason."""
    node = filled()
    made = plan(node.storage.log(UID), indexes)
    node.storage.delete(UID)
    with pytest.raises(Stopped, match=f"server {UID} was deleted"):
        list(made.execute())


def test_a_plan_of_a_closed_storage_says_so() -> None:
    """EXT-03: when the node has stopped, a plan raises."""
    node = filled()
    made = plan(node.storage.log(UID), range(1, 61))
    node.storage.close()
    with pytest.raises(Stopped, match="the node has stopped"):
        list(made.execute())


def test_a_forgotten_plan_warns_and_lets_go() -> None:
    """EXT-03: a plan that is collected without having been closed warns, and its files go."""
    node = filled(config=SMALL)
    log = node.storage.log(UID)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan(log, range(1, 61))
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    node.tick()
    assert len(log.segments.holds) == 0


def replaced(node: Node) -> Iterator[int]:
    """Replace all files again and again; yields how many readers were dropped so far."""
    log = node.storage.log(UID)
    for term in range(2, 30):
        log.set_last_index(Index(0))
        for index in range(1, 41):
            log.append(batch(index, term))
            node.sync()
        node.tick()
        yield log.segments.holds.dropped


@pytest.mark.parametrize("bound", ["files", "bytes"])
def test_plans_that_keep_too_much_are_dropped(bound: str) -> None:
    """EXT-01, EXT-03: the files that forgotten plans keep are bounded; who keeps most is dropped and told."""
    node = filled()
    log = node.storage.log(UID)
    if bound == "files":
        log.segments.holds.files_max = 12
    else:
        log.segments.holds.bytes_max = 3 * log.segments.size_bytes
    plans = [plan(log, range(1, 41))]
    small = plan(log, [1])
    for dropped in replaced(node):
        holds = log.segments.holds
        assert len(holds.kept) <= holds.files_max
        assert holds.kept_bytes <= holds.bytes_max
        assert log.overview()["readers"]["dropped"] == dropped
        if dropped:
            break
        plans.append(plan(log, range(1, 41)))
    assert dropped
    ended = [made for made in plans if made._hold.ended is not None]
    assert len(ended) == dropped
    for made in ended:
        with pytest.raises(Stopped, match=r"a reader of the log was dropped: .* were kept for it"):
            list(made.execute())
    assert read(small) == [(1, 1, payload(1))], "it kept one file"
    for made in [*plans, small]:
        made.close()
    node.tick()
    assert log.segments.holds.kept_bytes == 0


def test_a_file_that_cannot_be_kept_ends_the_plan() -> None:
    """EXT-03: if the disk fails when a file is to be kept, its plan ends and says why; the log goes on."""
    node = filled()
    log = node.storage.log(UID)
    made = plan(log, range(1, 61))
    node.storage._cache.close()
    log.set_last_index(Index(0))
    node.disk.fault = lambda op, path: (
        OSError(5, "EIO", path) if op == "open" and path.endswith(".segment") else None
    )
    for index in range(1, 61):
        log.append(batch(index, 2))
        node.sync()
    node.tick()
    node.disk.fault = None
    with pytest.raises(Stopped, match=r"a file could not be kept for its reader: .*EIO"):
        list(made.execute())
    made.close()
    assert log.last_index_term() == IndexTerm(Index(60), Term(2))


def test_a_file_that_cannot_be_read_is_a_storage_error() -> None:
    """EXT-03: an error of the disk is the reader's own affair."""
    node = filled()
    with plan(node.storage.log(UID), range(1, 61)) as made:
        node.disk.fault = lambda op, path: OSError(5, "EIO", path) if op in ("open", "pread") else None
        with pytest.raises(StorageError, match="cannot be read"):
            list(made.execute())


def test_plans_are_executed_in_threads_while_files_move() -> None:
    """EXT-03: threads read while the loop flushes, compacts and truncates; nothing wrong is ever yielded."""
    node = filled(90)
    log = node.storage.log(UID)
    plans = [plan(log, range(1, 91)) for _ in range(4)]
    expected = [(i, 1, payload(i)) for i in range(1, 91)]
    failures: list[object] = []
    rounds = threading.Semaphore(0)

    def work(made: ReadPlan) -> None:
        for _ in range(25):
            found = read(made)
            if found != expected:
                failures.append(found)
            rounds.release()

    threads = [threading.Thread(target=work, args=(made,)) for made in plans]
    for thread in threads:
        thread.start()
    snapshot(node, 40, [2, 11, 23, 33])
    for term in range(2, 6):
        node.storage.segment_writer.compact(UID)
        log.set_last_index(Index(45))
        for index in range(46, 120):
            log.append(batch(index, term))
            node.sync()
        node.tick()
        rounds.acquire()
    for thread in threads:
        thread.join(30)
    assert failures == []
    for made in plans:
        made.close()
