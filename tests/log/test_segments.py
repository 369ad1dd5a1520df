"""Segment files, the cache that opens them, and the set of one server's files."""

import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st
from tests.kit.storage import UID, batch

from barque.core.entries import EntryBatch
from barque.errors import Damaged, StorageError
from barque.log.background import advance
from barque.log.lease import Lease, LeaseEndedError
from barque.log.memtable import Memtable
from barque.log.segment import (
    OpenSegment,
    ReadAhead,
    Segment,
    SegmentCache,
    inspect_segment,
    segment_name,
    segment_number,
    write_segment,
)
from barque.log.segment_set import SegmentSet, SnapshotState
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term, Uid

DIRECTORY = "/data/servers/alpha/segments"


@pytest.fixture
def disk() -> SimDisk:
    """A disk with the directory of a server."""
    made = SimDisk(random.Random(1))
    made.mkdir(DIRECTORY)
    return made


def write(disk: SimDisk, number: int, *batches: EntryBatch, directory: str = DIRECTORY) -> Segment:
    """A complete segment file."""
    job = write_segment(disk, Lease(), directory, number, UID, batches)
    try:
        while True:
            next(job)
    except StopIteration as end:
        segment: Segment = end.value
    disk.rename(segment.path + ".tmp", segment.path)
    disk.fsync_dir(directory)
    return segment


def fresh(disk: SimDisk, cache: SegmentCache | None = None) -> SegmentSet:
    """The set of what is on the disk, up to its last entry."""
    found = SegmentSet(disk, DIRECTORY, UID, SegmentCache(disk) if cache is None else cache)
    found.load()
    if found.parts:
        last = found.parts[-1].last
        found.join(Index(last), IndexTerm(Index(last), found.stored_term(last) or Term(0)), Index(0))
    return found


def indexes(found: SegmentSet) -> list[tuple[int, int, int]]:
    """Number and range of each file that counts."""
    return [(part.segment.number, part.first, part.last) for part in found.parts]


def remove(found: SegmentSet) -> None:
    """Run the job that deletes files."""
    job, ended = found.remove_garbage()
    error, over = None, False
    while not over:
        _, error, over = advance(job)
    ended(error)


# --- one file ------------------------------------------------------------------------------


def test_a_file_says_what_it_holds(disk: SimDisk) -> None:
    """What is written is what a later life finds, by the ends of the file alone."""
    written = write(disk, 7, batch(5, 2, 3), batch(8, 4, 1))
    found = inspect_segment(disk, written.path, 7, UID)
    assert (found.tail, found.size_bytes) == (written.tail, written.size_bytes)
    assert (found.tail.first, found.tail.last) == (IndexTerm(5, 2), IndexTerm(8, 4))  # type: ignore[arg-type]
    assert segment_number(segment_name(7)) == 7
    assert segment_number("x.segment") is segment_number("٠" * 17 + ".segment") is None


def test_single_entries_are_found_in_a_file_with_gaps(disk: SimDisk) -> None:
    """By bisection: inside batches, at their edges, and in no gap."""
    opened = OpenSegment(disk, write(disk, 1, batch(3, 1, 2), batch(9, 2, 3), batch(12, 2, 1)))
    there = {3: 1, 4: 1, 9: 2, 10: 2, 11: 2, 12: 2}
    for index in range(15):
        assert opened.fetch_term(index) == there.get(index)
        assert [part.first_index for part in opened.batches(index, index)] == [index][: index in there]
    assert [(p.first_index, p.last_index) for p in opened.batches(4, 10)] == [(4, 4), (9, 10)]
    opened.verify()


def test_batches_that_follow_one_another_are_read_together(
    disk: SimDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay reads a file in few calls, and no further than it was asked; backwards works, too."""
    written = [batch(index, 1, 2) for index in range(1, 41, 2)]
    opened = OpenSegment(disk, write(disk, 1, *written))
    calls: list[tuple[int, int]] = []
    real = OpenSegment.raw

    def raw(self: OpenSegment, start: int, end: int) -> bytes:
        calls.append((start, end))
        return real(self, start, end)

    monkeypatch.setattr(OpenSegment, "raw", raw)
    ahead = ReadAhead(opened, 20)
    assert [ahead.batch(number) for number in range(10)] == written[:10]
    assert calls == [(opened.place(0).offset, opened.place(9).end)]
    assert [ahead.batch(number) for number in (10, 4)] == [written[10], written[4]]
    assert len(calls) == 3
    size = opened.place(3).end - opened.place(0).offset
    monkeypatch.setattr("barque.log.segment._AHEAD_BYTES", size)
    ahead = ReadAhead(opened, 40)
    assert [ahead.batch(number) for number in range(20)] == written
    assert len(calls) < 3 + 10


def test_one_bad_sector_harms_one_batch(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that cannot be read together are read alone; damage is found in the batch that has it."""
    segment = write(disk, 1, batch(1, 1, 3), batch(4, 2, 3), batch(7, 2, 3))
    opened = OpenSegment(disk, segment)
    bad = opened.place(2)
    real = OpenSegment.raw

    def raw(self: OpenSegment, start: int, end: int) -> bytes:
        if end > bad.offset:
            raise OSError(5, "Input/output error")
        return real(self, start, end)

    with monkeypatch.context() as patched:
        patched.setattr(OpenSegment, "raw", raw)
        ahead = ReadAhead(opened, 9)
        assert [ahead.batch(0), ahead.batch(1)] == [batch(1, 1, 3), batch(4, 2, 3)]
        with pytest.raises(OSError, match="Input/output"):
            ahead.batch(2)
    disk.flip(segment.path, opened.place(1).offset + 20)
    ahead = ReadAhead(opened, 9)
    assert ahead.batch(0) == batch(1, 1, 3)
    with pytest.raises(Damaged, match=segment.path):
        ahead.batch(1)
    assert ahead.batch(2) == batch(7, 2, 3)


@pytest.mark.parametrize("at", ["head", "batch", "index", "tail"])
def test_damage_names_the_file_and_the_server(disk: SimDisk, at: str) -> None:
    """A flipped byte in any part is found when that part is read, and never passed on."""
    segment = write(disk, 1, batch(1, 1, 3), batch(4, 2, 3))
    places = {
        "head": 3,
        "batch": segment.tail.index_offset - 5,
        "index": segment.tail.index_offset + 9,
        "tail": segment.size_bytes - 3,
    }
    disk.flip(segment.path, places[at])
    with pytest.raises(Damaged, match=f"{segment.path}.*{UID}"):
        list(OpenSegment(disk, inspect_segment(disk, segment.path, 1, UID)).batches(1, 6))
    assert len(disk.handles) <= 1


def test_a_file_of_another_server_is_refused(disk: SimDisk) -> None:
    """It was moved here by mistake; its entries must not become ours."""
    segment = write(disk, 1, batch(1))
    with pytest.raises(Damaged, match="of server alpha"):
        inspect_segment(disk, segment.path, 1, Uid("beta"))


def test_a_file_that_cannot_be_written_is_not_left_open(disk: SimDisk) -> None:
    """B28: an error of the sync, or of the close, is the error of the file; nothing stays open."""
    for operation in ("pwritev", "datasync"):
        disk.fault = lambda op, _path, bad=operation: OSError(5, "EIO") if op == bad else None  # type: ignore[misc]
        with pytest.raises(OSError, match="EIO"):
            write(disk, 1, batch(1))
        disk.fault = None
        assert not disk.handles
    assert segment_name(1) not in disk.listdir(DIRECTORY)


def test_no_step_of_a_job_comes_after_the_end_of_its_lease(disk: SimDisk) -> None:
    """B26, B50: a server that is deleted while its file is written gets no file any more."""
    lease = Lease()
    job = write_segment(disk, lease, DIRECTORY, 1, UID, [batch(i, payload=b"x" * 600_000) for i in (1, 2, 3)])
    next(job)
    lease.end()
    for name in disk.listdir(DIRECTORY):
        disk.unlink(f"{DIRECTORY}/{name}")
    with pytest.raises(LeaseEndedError):
        next(job)
    assert disk.listdir(DIRECTORY) == []


# --- open files ----------------------------------------------------------------------------


def test_open_files_are_bounded(disk: SimDisk) -> None:
    """B48: after any reads, at most so many files are open, also when a read fails."""
    segments = [write(disk, number, batch(number)) for number in range(1, 20)]
    cache = SegmentCache(disk, 4)
    for segment in segments * 2:
        assert cache.open(segment).batch(0).first_index == segment.number
    assert cache.files == len(disk.handles) == 4
    disk.flip(segments[0].path, segments[0].tail.index_offset)
    with pytest.raises(Damaged):
        cache.open(segments[0])
    disk.fault = lambda operation, _path: OSError(24, "EMFILE") if operation == "open" else None
    with pytest.raises(StorageError, match="cannot be read"):
        cache.open(segments[1])
    disk.fault = None
    assert len(disk.handles) == 4
    cache.close()
    assert not disk.handles


def test_a_pinned_file_is_read_after_its_end(disk: SimDisk) -> None:
    """A reader goes on when its file is deleted, and the file is closed when the reader is done."""
    cache = SegmentCache(disk, 1)
    found = fresh(disk, cache)
    first, second = write(disk, 1, batch(1, 1, 3)), write(disk, 2, batch(1, 2, 3))
    found.adopt([first], IndexTerm(Index(3), Term(1)))
    cache.pin(first)
    found.adopt([second], IndexTerm(Index(3), Term(2)))
    remove(found)
    assert not disk.exists(first.path)
    cache.open(second)
    assert [part.term for part in cache.open(first).batches(1, 3)] == [1]
    cache.unpin(first)
    assert len(disk.handles) == 1


# --- which file counts ----------------------------------------------------------------------


def test_a_newer_file_replaces_what_it_overlaps(disk: SimDisk) -> None:
    """B25: in this life and in the next; a file of which nothing is left goes."""
    found = fresh(disk)
    found.adopt([write(disk, 1, batch(1, 1, 5))], IndexTerm(Index(5), Term(1)))
    found.adopt([write(disk, 2, batch(6, 1, 5))], IndexTerm(Index(10), Term(1)))
    found.adopt([write(disk, 3, batch(4, 2, 3))], IndexTerm(Index(6), Term(2)))
    assert indexes(found) == indexes(fresh(disk)) == [(1, 1, 3), (3, 4, 6)]
    assert found.has_garbage
    assert [found.fetch_term(index) for index in range(8)] == [0, 1, 1, 1, 2, 2, 2, None]
    remove(found)
    assert disk.listdir(DIRECTORY) == [segment_name(1), segment_name(3)]
    assert [found.fetch_term(index) for index in range(1, 7)] == [1, 1, 1, 2, 2, 2]


def test_a_shortened_file_stays(disk: SimDisk) -> None:
    """B6, B24: a file that is hidden in part is no file that can go."""
    write(disk, 1, batch(1, 1, 5))
    write(disk, 2, batch(3, 2, 2))
    found = fresh(disk)
    assert not found.has_garbage
    found.compact()
    assert not found.has_garbage
    assert [part.term for part in found.read(1, 4, 99, 1 << 20)] == [1, 2]


def test_truncation_deletes_nothing(disk: SimDisk) -> None:
    """A crash brings the entries back, until something newer hides them; the set never shows them."""
    found = fresh(disk)
    found.adopt([write(disk, 1, batch(1, 1, 5))], IndexTerm(Index(5), Term(1)))
    found.adopt([write(disk, 2, batch(6, 1, 5))], IndexTerm(Index(10), Term(1)))
    found.truncate(IndexTerm(Index(3), Term(1)))
    assert indexes(found) == [(1, 1, 3)]
    assert not found.has_garbage
    assert found.read(1, 10, 99, 1 << 20)[-1].last_index == 3
    assert indexes(fresh(disk)) == [(1, 1, 5), (2, 6, 10)]
    found.adopt([write(disk, 3, batch(4, 2, 1))], IndexTerm(Index(4), Term(2)))
    remove(found)
    assert indexes(found) == indexes(fresh(disk)) == [(1, 1, 3), (3, 4, 4)]


def test_a_file_counts_only_as_far_as_the_log_still_holds_it(disk: SimDisk) -> None:
    """The log was truncated while the file was written (B12, B20)."""
    found = fresh(disk)
    found.adopt(
        [write(disk, 1, batch(1, 1, 5)), write(disk, 2, batch(6, 1, 5))], IndexTerm(Index(4), Term(1))
    )
    assert indexes(found) == [(1, 1, 4)]
    remove(found)
    assert disk.listdir(DIRECTORY) == [segment_name(1)]


def test_deletions_become_durable_in_their_order(disk: SimDisk) -> None:
    """B35: a file must not come back from behind the one that hid it, when that is gone, too."""
    found = fresh(disk)
    found.adopt([write(disk, 1, batch(1, 1, 5))], IndexTerm(Index(5), Term(1)))
    found.adopt([write(disk, 2, batch(1, 2, 3))], IndexTerm(Index(3), Term(2)))  # hides 1
    found.snapshot = SnapshotState(IndexTerm(Index(3), Term(2)), Index(3))
    found.compact()  # lets 2 go
    job, _ = found.remove_garbage()
    names = [disk.survivor().listdir(DIRECTORY)]
    with contextlib.suppress(StopIteration):
        while True:
            next(job)
            names.append(disk.survivor().listdir(DIRECTORY))
    assert names == [[segment_name(1), segment_name(2)], [segment_name(2)], []]


def test_a_failed_deletion_is_tried_again_whatever_is_gone_already(disk: SimDisk) -> None:
    """B21: deleting twice, or what somebody else has deleted, is no failure."""
    found = fresh(disk)
    found.adopt([write(disk, n, batch(n)) for n in (1, 2, 3)], IndexTerm(Index(3), Term(1)))
    found.adopt([write(disk, 4, batch(1, 2, 3))], IndexTerm(Index(3), Term(2)))
    disk.remove(f"{DIRECTORY}/{segment_name(2)}")
    disk.fault = lambda operation, _path: OSError(5, "EIO") if operation == "fsync_dir" else None
    remove(found)
    disk.fault = None
    assert found.has_garbage
    remove(found)
    assert not found.has_garbage
    assert disk.listdir(DIRECTORY) == [segment_name(4)]


def test_what_a_crash_left_over_is_removed(disk: SimDisk) -> None:
    """Temporary files go at the start; names that are not ours stay."""
    for name in ("00000000000000009.segment.tmp", "00000000000000001.segment.compacting", "note.txt"):
        disk.create(f"{DIRECTORY}/{name}").close()
    found = fresh(disk)
    assert disk.listdir(DIRECTORY) == ["note.txt"]
    assert found.take_number() == 1


def test_files_go_when_the_snapshot_does_not_need_them(disk: SimDisk) -> None:
    """COMP-02, B30: what ends at or below the floor and holds nothing live; not what hides an older file."""
    found = fresh(disk)
    files = [write(disk, n, batch(10 * n - 9, 1, 10)) for n in range(1, 6)]
    found.adopt(files, IndexTerm(Index(50), Term(1)))
    live = ((Index(12), Index(12)), (Index(35), Index(36)))
    found.snapshot = SnapshotState(IndexTerm(Index(40), Term(1)), Index(30), live)
    found.compact()
    assert indexes(found) == [(2, 11, 20), (4, 31, 40), (5, 41, 50)]
    assert found.first == 31
    assert [found.fetch_term(index) for index in (12, 30, 31, 40)] == [None, None, 1, 1]
    assert found.read_entry(Index(12)) is not None
    assert found.read_entry(Index(22)) is None
    remove(found)
    assert indexes(fresh(disk)) == indexes(found)


def test_a_file_that_hides_stale_entries_of_a_needed_one_stays(disk: SimDisk) -> None:
    """Without it, a start would take the stale entries for good ones."""
    found = fresh(disk)
    found.adopt([write(disk, 1, batch(1, 1, 10))], IndexTerm(Index(10), Term(1)))
    found.adopt([write(disk, 2, batch(6, 2, 5))], IndexTerm(Index(10), Term(2)))
    found.snapshot = SnapshotState(IndexTerm(Index(10), Term(2)), Index(10), ((Index(3), Index(3)),))
    found.compact()
    assert indexes(found) == [(1, 1, 5), (2, 6, 10)]
    found.snapshot = SnapshotState(IndexTerm(Index(10), Term(2)), Index(10))
    found.compact()
    assert indexes(found) == []


LIVE = st.lists(st.integers(1, 40), unique=True).map(sorted)


@given(LIVE, st.integers(1, 45), st.integers(0, 10))
def test_live_ranges_are_what_their_indexes_are(live: list[int], first: int, span: int) -> None:
    """Any set of live indexes, asked for any range."""
    state = SnapshotState(IndexTerm(Index(50), Term(1)), Index(50), tuple((Index(i), Index(i)) for i in live))
    inside = [i for i in live if first <= i <= first + span]
    assert state.needs(first, first + span) == bool(inside)
    assert [i for a, b in state.live_within(first, first + span) for i in range(a, b + 1)] == inside
    assert min([i for i in live if i >= first], default=1 << 62) == state.next_live(first)


def parts_of(data: st.DataObject) -> Iterator[tuple[int, int, int]]:
    """Files to write, one after the other: first index, count, term; each adjoins or overlaps."""
    last, term = 0, 1
    for _ in range(data.draw(st.integers(1, 6))):
        first = data.draw(st.integers(max(1, last - 4), last + 1))
        term += first <= last
        count = data.draw(st.integers(1, 6))
        yield first, count, term
        last = first + count - 1


@given(st.data())
def test_a_set_of_files_reads_as_a_memtable_does(data: st.DataObject) -> None:
    """The same entries within the same bounds, whatever overwrote what; and so does a log with both."""
    disk = SimDisk(random.Random(1))
    disk.mkdir(DIRECTORY)
    found, model = fresh(disk), Memtable()
    for number, (first, count, term) in enumerate(parts_of(data), 1):
        model.truncate(first - 1)
        added = [batch(i, term) for i in range(first, first + count)]
        for one in added:
            model.append(one)
        found.adopt([write(disk, number, *added)], model.last())
    both = Memtable(model.last(), found)
    for index in range(model.last().index + 1, model.last().index + data.draw(st.integers(1, 4))):
        model.append(batch(index, 99))
        both.append(batch(index, 99))
    last = model.last().index
    first, end = data.draw(st.integers(1, last + 1)), data.draw(st.integers(1, last + 2))
    entries, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 300))
    assert both.read(first, end, entries, size) == model.read(first, end, entries, size)
    assert [both.fetch_term(i) for i in range(last + 2)] == [model.fetch_term(i) for i in range(last + 2)]
    again = fresh(disk)
    assert [again.fetch_term(i) for i in range(again.end.index + 1)] == [
        model.fetch_term(i) for i in range(again.end.index + 1)
    ]
