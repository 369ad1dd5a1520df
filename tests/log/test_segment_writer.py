"""The segment writer: what goes into segments and when, and which files of the write-ahead log go."""

import errno
import random
from collections.abc import Sequence

import msgspec
import pytest
from tests.kit.snapshots import EAGER, MEMBERS, SNAPSHOT, file_at, meta_at, state_at
from tests.kit.storage import OTHER, SMALL, UID, Node, batch, content

from barque.core.log_contract import SnapshotMeta
from barque.core.messages import Written
from barque.errors import Damaged
from barque.log import segment_writer
from barque.log.segment import OpenSegment
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term, Uid

SEGMENTS = f"/data/servers/{UID}/segments"
TINY = msgspec.structs.replace(SMALL, wal_max_size_bytes=600, segment_max_entries=8, snapshots=EAGER)


def grow(node: Node, last: int, uid: Uid = UID, term: int = 1) -> None:
    """Append entries up to `last`, each in a write of its own."""
    log = node.storage.log(uid)
    for index in range(log.next_index(), last + 1):
        log.append(batch(index, term))
        node.sync()


def rest(node: Node) -> None:
    """Let seconds pass in which the worker does all that it has to."""
    for _ in range(4):
        node.worker.run_until_idle()
        node.sync()
        node.tick()


def writer(node: Node) -> dict[str, object]:
    """What the segment writer says of itself."""
    found: dict[str, object] = node.storage.overview()["segment_writer"]
    return found


def indexes(node: Node, uid: Uid = UID) -> list[int]:
    """The indexes of all entries of a log."""
    return [entry[0] for entry in content(node.storage, uid)]


def fail_once(node: Node, operation: str, part: str) -> None:
    """Let the next operation of this kind fail, on a path with this part in it."""

    def fault(op: str, path: str) -> OSError | None:
        if op == operation and part in path:
            node.disk.fault = None
            return OSError(errno.EIO, "EIO", path)
        return None

    node.disk.fault = fault


def test_memory_and_log_files_do_not_grow_with_the_log() -> None:
    """Closed files go to segments, and are used again; everything is still there."""
    node = Node(config=TINY)
    grow(node, 200)
    rest(node)
    overview = node.storage.overview()
    assert overview["files"] == 1
    assert node.storage.log(UID).overview()["batches"] < 10
    assert len(node.disk.listdir("/data/wal")) <= 4
    assert indexes(node) == list(range(1, 201))
    node.crash()
    assert indexes(node) == list(range(1, 201))
    grow(node, 210)
    assert indexes(node) == list(range(1, 211))


def test_an_idle_server_pins_no_log_file() -> None:
    """What it has in a closed file goes to a segment, as everything else does."""
    node = Node(config=TINY)
    grow(node, 1, OTHER)
    grow(node, 60)
    rest(node)
    assert node.storage.overview()["files"] == 1
    assert indexes(node, OTHER) == [1]
    node.crash()
    assert indexes(node, OTHER) == [1]
    grow(node, 3, OTHER)
    assert indexes(node, OTHER) == [1, 2, 3]


def test_small_segments_are_merged() -> None:
    """However often a log is flushed, it has few files, and none is larger than the limit."""
    config = msgspec.structs.replace(TINY, segment_max_entries=4096)
    node = Node(config=config)
    grow(node, 300)
    rest(node)
    assert writer(node)["mem_tables"] > 30  # type: ignore[operator]
    assert len(node.disk.listdir(SEGMENTS)) < 10
    grown = Node(config=TINY)
    grow(grown, 100)
    rest(grown)
    for part in grown.storage.log(UID).segments.parts:
        assert part.segment.tail.entries <= 8
        OpenSegment(grown.disk, part.segment).verify()


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    """B44: it is written once, and the next one begins another file."""
    node = Node(config=TINY)
    log = node.storage.log(UID)
    for first in (1, 21, 41):
        log.append(batch(first, count=20))
        node.sync()
    grow(node, 65)
    rest(node)
    assert indexes(node) == list(range(1, 66))
    assert [p.segment.tail.entries for p in log.segments.parts][:3] == [20, 20, 20]


def test_a_failed_flush_keeps_the_log_file_and_is_tried_again() -> None:
    """B28: whatever fails, on the way to a durable file."""
    for operation, part in (
        ("create", ".segment"),
        ("pwritev", ".segment"),
        ("datasync", ".segment"),
        ("rename", ".segment"),
        ("fsync_dir", "segments"),
        ("mkdir", "segments"),
    ):
        node = Node(config=TINY, at_once=False)
        grow(node, 40)
        node.tick()
        files = node.storage.overview()["files"]
        fail_once(node, operation, part)
        node.worker.run_until_idle()
        assert node.disk.fault is None, f"no {operation} on the way"
        assert writer(node)["failures"] == 1
        assert "EIO" in str(writer(node)["last_failure"])
        assert node.storage.overview()["files"] == files
        assert indexes(node) == list(range(1, 41))
        survivor = Node(node.disk.survivor(), TINY, at_once=False)
        assert indexes(survivor) == list(range(1, 41))
        rest(node)
        assert node.storage.overview()["files"] == 1
        assert not [name for name in node.disk.listdir(SEGMENTS) if name.endswith(".tmp")]
        node.crash()
        assert indexes(node) == list(range(1, 41))


def test_a_damaged_segment_does_not_stop_later_flushes() -> None:
    """A small file that cannot be copied into the next one is left alone."""
    config = msgspec.structs.replace(TINY, segment_max_entries=4096)
    node = Node(config=config, at_once=False)
    grow(node, 10)
    rest(node)
    part = node.storage.log(UID).segments.parts[-1]
    node.disk.flip(part.segment.path, part.segment.tail.index_offset - 3)
    grow(node, 30)
    rest(node)
    for _ in range(4):
        rest(node)
    assert "damaged" in str(writer(node)["last_failure"])
    assert writer(node)["closed_files"] == 0


def test_a_deleted_server_harms_nobody_and_nothing_of_it_returns() -> None:
    """B26, B49, B50: between any two steps of its flush."""
    for steps in range(12):
        node = Node(config=TINY, at_once=False)
        for index in range(1, 40):
            grow(node, index)
            grow(node, index, OTHER)
        node.tick()
        for _ in range(steps):
            node.worker.run_step()
        node.storage.delete(UID)
        for directory in (SEGMENTS, f"/data/servers/{UID}"):
            for name in node.disk.listdir(directory) if node.disk.is_dir(directory) else ():
                if not node.disk.is_dir(f"{directory}/{name}"):
                    node.disk.unlink(f"{directory}/{name}")
            if node.disk.is_dir(directory):
                node.disk.rmdir(directory)
        rest(node)
        assert not node.disk.is_dir(f"/data/servers/{UID}")
        assert node.storage.overview()["files"] == 1
        assert indexes(node, OTHER) == list(range(1, 40))
        node.crash()
        assert node.storage.recovered_uids() == {OTHER}


def test_entries_overwritten_during_their_flush_stay_overwritten() -> None:
    """B12, B13, B20: at any step; in this life and in the next."""
    for steps in range(10):
        node = Node(config=TINY, at_once=False)
        grow(node, 20)
        node.tick()
        for _ in range(steps):
            node.worker.run_step()
        node.storage.log(UID).write([batch(5, 2, 3)])
        assert node.storage.log(UID).last_written().index <= 4
        node.worker.run_until_idle()
        assert [entry[:2] for entry in content(node.storage)][3:] == [(4, 1), (5, 2), (6, 2), (7, 2)]
        node.sync()
        rest(node)
        assert node.storage.log(UID).last_written() == IndexTerm(Index(7), Term(2))
        node.crash()
        assert [entry[:2] for entry in content(node.storage)][3:] == [(4, 1), (5, 2), (6, 2), (7, 2)]


def take_snapshot(node: Node, index: int, live: Sequence[int]) -> None:
    """Write a snapshot at this entry, and let the log hear of it."""
    log = node.storage.log(UID)
    node.disk.mkdir(f"/data/servers/{UID}")
    meta = SnapshotMeta(IndexTerm(Index(index), Term(1)), MEMBERS, 1)
    assert log.snapshots.begin(SNAPSHOT, meta, [state_at(index)], [Index(i) for i in live])
    node.worker.run_until_idle()
    assert log.snapshots.current() == meta
    log.trim()


def parts(node: Node) -> list[tuple[int, int]]:
    """The ranges of the segments that count."""
    return [(part.first, part.last) for part in node.storage.log(UID).segments.parts]


def test_only_live_entries_are_written_below_a_snapshot() -> None:
    """B29, B30: exactly what is above the snapshot, and what it needs; the latter in files of its own."""
    config = msgspec.structs.replace(TINY, wal_max_size_bytes=1 << 20, segment_max_entries=4096)
    for live in ([3, 4, 12], [14, 15], []):
        node = Node(config=config, at_once=False)
        grow(node, 20)
        take_snapshot(node, 15, live)
        node.crash()  # a start closes the file
        rest(node)
        log = node.storage.log(UID)
        held = [
            index
            for part in log.segments.parts
            for one in OpenSegment(node.disk, part.segment).batches(part.first, part.last)
            for index in range(one.first_index, one.last_index + 1)
        ]
        assert held == [*live, 16, 17, 18, 19, 20]
        before = parts(node)
        grow(node, 24)
        node.crash()
        rest(node)
        if live:
            assert parts(node)[0] == before[0], "survivors are not copied to what is newer"
        wanted = [Index(i) for i in (*live, 23)]
        assert [one.first_index for one in node.storage.log(UID).read_sparse(wanted)] == wanted
        assert node.storage.log(UID).first_index() <= 16


def test_an_install_forgets_what_waits_to_be_written() -> None:
    """B14, B19: entries of the log that was replaced are neither written nor confirmed."""
    node = Node(config=TINY, at_once=False)
    grow(node, 3)
    log = node.storage.log(UID)
    log.append(batch(4, 1, 3))
    node.disk.mkdir(f"/data/servers/{UID}")
    store = log.snapshots
    store.begin_accept(meta_at(5, 2))
    assert store.accept_chunk(1, file_at(5, (), 2))
    store.complete_accept(b"".join)
    node.worker.run_until_idle()
    store.install_accepted()
    log.install(IndexTerm(Index(5), Term(2)))
    log.append(batch(6, 2, 2))
    node.events.clear()
    events = node.sync()
    assert [event.first for event in events if isinstance(event, Written)] == [6]
    node.crash()
    assert node.storage.log(UID).last_index_term() == IndexTerm(Index(7), Term(2))
    assert node.storage.log(UID).first_index() == 6


def test_a_flush_that_comes_too_late_takes_nothing_along() -> None:
    """It was to replace a small file; everything was cut off meanwhile, and the disk does not know that."""
    node = Node(config=msgspec.structs.replace(TINY, segment_max_entries=4096), at_once=False)
    grow(node, 8)
    rest(node)
    grow(node, 20)
    node.tick()
    assert writer(node)["flushing"] == 1
    node.storage.log(UID).set_last_index(Index(0))
    rest(node)
    node.crash()
    found = indexes(node)
    assert found == list(range(1, len(found) + 1))
    grow(node, 25, term=2)


def test_a_missing_segment_is_damage() -> None:
    """Absent is not empty: the start names the directory and the gap."""
    for missing in (0, 1, -1):
        node = Node(config=TINY)
        grow(node, 60)
        names = node.disk.listdir(SEGMENTS)
        node.disk.kill()
        node.disk.remove(f"{SEGMENTS}/{names[missing]}")
        with pytest.raises(Damaged, match=f"{SEGMENTS}.*missing"):
            node.open()


def test_a_directory_with_other_letters_works() -> None:
    """B31: the data directory's name is no part of any rule."""
    disk = SimDisk(random.Random(1))
    node = Node(disk, TINY)
    grow(node, 40, Uid("Ünïcode 123 × 00000000000000007"))
    rest(node)
    node.crash()
    assert indexes(node, Uid("Ünïcode 123 × 00000000000000007")) == list(range(1, 41))


def test_numbers_do_not_run_out() -> None:
    """B32: files are ordered by number far beyond what a log can ever write."""
    node = Node(config=TINY)
    grow(node, 20)
    node.storage.log(UID).segments._next_number = 10**16 + 1
    grow(node, 60)
    node.crash()
    assert indexes(node) == list(range(1, 61))
    assert node.storage.log(UID).segments.take_number() > 10**16


def test_a_log_with_many_files_is_recovered_while_it_is_flushed() -> None:
    """B7: recovery reads every file once, before any flush begins."""
    node = Node(config=TINY, at_once=False)
    grow(node, 60)
    node.crash()
    assert writer(node)["closed_files"] > 5  # type: ignore[operator]
    for _ in range(20):
        node.tick()
        node.worker.run_step()
        assert indexes(node) == list(range(1, 61))
    node.crash()
    assert indexes(node) == list(range(1, 61))


def test_a_tick_looks_at_some_of_many_logs_and_ticks_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more logs than a tick looks at, each log has its turn, also a new one."""
    monkeypatch.setattr(segment_writer, "LOOKS_MAX", 2)
    node = Node(config=TINY)
    uids = [Uid(f"SERVER{number}") for number in range(5)]
    for uid in uids:
        node.storage.log(uid)
    looks = node.storage.segment_writer._next_logs
    assert [[log.uid for log in looks()] for _ in range(2)] == [uids[:2], uids[2:4]]
    node.storage.delete(uids[4])
    node.storage.log(UID)
    assert looks() == []
    assert [log.uid for _ in range(3) for log in looks()] == [*uids[:4], UID]
    monkeypatch.setattr(segment_writer, "LOOKS_MAX", 5)
    assert [log.uid for log in looks()] == [*uids[:4], UID]
