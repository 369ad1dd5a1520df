"""The store of one server's snapshots: making, promoting, thinning, opening, and every failure on the way."""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import msgspec
import pytest
from tests.kit.snapshots import (
    CHECKPOINT,
    DIR,
    EAGER,
    RECOVERY,
    SNAPSHOT,
    UID,
    Node,
    file_at,
    meta_at,
    state_at,
)

from barque.core.log_contract import Log, SnapshotKind
from barque.core.messages import SnapshotFailed, SnapshotWritten
from barque.errors import Damaged, StorageError
from barque.log import snapshot_files
from barque.log.background import InlineWorker, ThreadWorker
from barque.log.disk import OsDisk
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshots import SnapshotStore
from barque.testing.sim.disk import SimDisk
from barque.types import Index

KINDS = [SNAPSHOT, CHECKPOINT]
FOLDER = {SNAPSHOT: "snapshots", CHECKPOINT: "checkpoints", RECOVERY: "recovery_checkpoint"}


def reports(events: list[Any]) -> list[Any]:
    """The events without digests, which depend on the state's bytes."""
    return [msgspec.structs.replace(e, digest=None) if isinstance(e, SnapshotWritten) else e for e in events]


def path_of(kind: SnapshotKind, index: int) -> str:
    """The file of a snapshot of term 1."""
    return f"{DIR}/{FOLDER[kind]}/{1:016X}_{index:016X}/snapshot"


def sim(node: Node) -> SimDisk:
    """The node's disk."""
    assert isinstance(node.disk, SimDisk)
    return node.disk


def recovery_point(node: Node) -> int:
    """The entry from which a start would begin; 0 for the first."""
    meta = node.store.recovery_point(cast(Log, node.log))
    return 0 if meta is None else meta.position.index


# --- making ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_there_after_a_crash(kind: SnapshotKind) -> None:
    """The event comes when the state is on disk, under its name, with all that it stands for."""
    node = Node()
    assert node.begin(kind, 10, live=[3, 4] if kind is SNAPSHOT else [])
    assert node.take_events() == []
    assert reports(node.run()) == [SnapshotWritten(UID, kind, meta_at(10).position)]
    assert not sim(node).has_unsynced
    assert sim(node).content(DIR) == {path_of(kind, 10): file_at(10, [3, 4] if kind is SNAPSHOT else [])}
    node.crash()
    assert recovery_point(node) == 10
    assert node.current() == (10 if kind is SNAPSHOT else 0)
    assert node.store.load(meta_at(10), b"".join) == state_at(10)
    assert node.store.live_ranges() == (((3, 4),) if kind is SNAPSHOT else ())


def test_the_capture_is_read_in_the_worker_a_piece_at_a_time() -> None:
    """`begin` reads nothing, and a step reads no more than fills a piece: a state never exists twice."""
    read: list[int] = []

    def capture() -> Iterator[bytes]:
        for number in range(8):
            read.append(number)
            yield bytes(512 * 1024)

    node = Node()
    assert node.begin(SNAPSHOT, 10, state=capture())
    assert read == []
    most = before = 0
    while node.worker.run_step():
        most, before = max(most, len(read) - before), len(read)
    assert len(read) == 8
    assert most <= 3


def test_a_newer_snapshot_replaces_the_older_one_and_what_it_covers() -> None:
    """CKPT-05, CKPT-08: checkpoints and the recovery checkpoint at or below it go; later ones stay."""
    node = Node()
    node.write(SNAPSHOT, 10)
    node.write(CHECKPOINT, 15)
    node.write(CHECKPOINT, 20)
    assert node.begin(RECOVERY, 21)
    node.write(CHECKPOINT, 30)
    node.write(SNAPSHOT, 25)
    assert node.indexes(SNAPSHOT) == [25]
    assert node.indexes(CHECKPOINT) == [30]
    assert node.indexes(RECOVERY) == []
    node.crash()
    assert (node.current(), recovery_point(node)) == (25, 30)


def test_an_older_snapshot_never_replaces_a_newer_one() -> None:
    """K11: not even one whose writing began first, when a leader's snapshot is installed meanwhile."""
    for kind in KINDS:
        for steps in range(12):
            node = Node()
            node.receive(50)
            node.store.complete_accept(b"".join)
            node.run()
            assert node.begin(kind, 10)
            for _ in range(steps):  # in the end the snapshot is complete, and only the loop does not know
                node.worker.run_step()
            assert node.store.install_accepted() == state_at(50)
            [event] = node.run()
            assert isinstance(event, SnapshotFailed)
            assert event.position == meta_at(10).position
            assert node.current() == 50
            assert (node.indexes(SNAPSHOT), node.indexes(CHECKPOINT)) == ([50], [])
            assert not node.begin(SNAPSHOT, 50)
            assert not node.begin(CHECKPOINT, 49)
            assert node.store.wants(kind, Index(51))


def test_one_thing_is_written_at_a_time() -> None:
    """CKPT-01: while a snapshot or checkpoint is being written, no other one is due, and none begins."""
    for first in KINDS:
        node = Node()
        assert node.begin(first, 10)
        for second in KINDS:
            assert not node.store.wants(second, Index(20))
            assert not node.begin(second, 20)
        node.run()
        assert node.begin(first, 20)


def test_an_entry_that_must_survive_is_on_disk_before_the_snapshot() -> None:
    """A crash may lose the log's unsynced end, and with it what the snapshot needs of it."""
    node = Node()
    node.log.written = 8
    assert not node.begin(SNAPSHOT, 10, live=[3, 9])
    node.log.written = 9
    assert node.begin(SNAPSHOT, 10, live=[3, 9])


def test_impossible_survivors_make_no_snapshot() -> None:
    """A machine that names an entry above its state is told so; nothing is written."""
    node = Node()
    assert node.begin(SNAPSHOT, 10, live=[11])
    [event] = node.run()
    assert isinstance(event, SnapshotFailed)
    assert "live entries" in event.reason
    assert node.directories(SNAPSHOT) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_capture_that_fails_leaves_nothing(kind: SnapshotKind) -> None:
    """The reason is reported, the directory removed, and the next one is due an interval later."""

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the machine's own")

    node = Node(config=SnapshotConfig(min_snapshot_interval=5, min_checkpoint_interval=5))
    assert node.begin(kind, 10, state=broken())
    [event] = node.run()
    assert event == SnapshotFailed(UID, kind, meta_at(10).position, "the machine's own")
    assert node.directories(kind) == []
    assert not node.store.wants(kind, Index(14))
    assert node.store.wants(kind, Index(15))


@pytest.mark.parametrize("kind", KINDS)
def test_every_disk_error_leaves_what_was(kind: SnapshotKind) -> None:
    """Whichever operation fails: the old snapshot stays, the failure is told, and a later try succeeds."""
    seen: list[str] = []

    def count() -> int:
        node = Node()
        node.write(SNAPSHOT, 5)
        start = sim(node).operations
        node.write(kind, 10)
        return sim(node).operations - start

    for number in range(1, count() + 1):
        node = Node()
        node.write(SNAPSHOT, 5)
        disk = sim(node)
        target = disk.operations + number

        def fault(operation: str, path: str, disk: SimDisk = disk, target: int = target) -> OSError | None:
            if disk.operations == target:
                seen.append(operation)
                return OSError(5, "EIO", path)
            return None

        disk.fault = fault
        assert node.begin(kind, 10)
        events = node.run()
        disk.fault = None
        written = [event for event in events if isinstance(event, SnapshotWritten)]
        if not written:  # else only the removal of the old one failed
            assert [type(event) for event in events] == [SnapshotFailed], (number, seen[-1])
            assert node.current() == 5
            assert node.state() == state_at(5)
            assert node.indexes(kind) == ([5] if kind is SNAPSHOT else [])
        node.write(kind, 20)
        node.crash()
        assert recovery_point(node) == 20
        assert node.indexes(SNAPSHOT) == ([20] if kind is SNAPSHOT else [5])
    assert {"mkdir", "create", "pwritev", "datasync", "fsync_dir", "rename"} <= set(seen)


def test_a_full_disk_changes_nothing() -> None:
    """SNAP-05: the log keeps its entries, since no event says otherwise; nothing of the attempt is left."""
    node = Node()
    node.write(SNAPSHOT, 5)
    sim(node).space = 100
    assert node.begin(SNAPSHOT, 10)
    [event] = node.run()
    assert isinstance(event, SnapshotFailed)
    assert "space" in event.reason
    assert node.indexes(SNAPSHOT) == [5]


# --- when ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "index", "appended", "due"),
    [
        (SNAPSHOT, 100, 0, False),  # at the last one
        (SNAPSHOT, 4195, 0, False),
        (SNAPSHOT, 4196, 0, True),
        (SNAPSHOT, 101, 1 << 26, True),  # bytes count as well
        (SNAPSHOT, 101, (1 << 26) - 1, False),
        (SNAPSHOT, 100, 1 << 30, False),
        (CHECKPOINT, 16_483, 1 << 30, False),
        (CHECKPOINT, 16_484, 0, True),
        (RECOVERY, 1_000_000, 0, False),  # off unless configured
    ],
)
def test_when_one_is_due(kind: SnapshotKind, index: int, appended: int, due: bool) -> None:
    """SNAP-01, CKPT-01, CKPT-06: so many entries, or bytes, after the last one."""
    node = Node(config=SnapshotConfig())
    node.write(SNAPSHOT, 100)
    node.log.appended += appended
    assert node.store.wants(kind, Index(index)) == due


def test_a_large_state_waits_for_a_long_log() -> None:
    """A snapshot of many MiB is not written for some thousand small entries; for as many bytes it is."""
    node = Node(config=SnapshotConfig(min_snapshot_interval=10, snapshot_bytes=1000))
    assert node.begin(SNAPSHOT, 100, state=[bytes(1 << 20)])
    node.run()
    assert not node.store.wants(SNAPSHOT, Index(1100))
    assert node.store.wants(SNAPSHOT, Index(1200))
    node.log.appended += 2 << 20
    assert node.store.wants(SNAPSHOT, Index(101))


def test_intervals_count_from_the_newest_of_all() -> None:
    """A checkpoint after a snapshot, a recovery checkpoint after either."""
    node = Node(config=SnapshotConfig(min_checkpoint_interval=10, min_recovery_checkpoint_interval=10))
    node.write(SNAPSHOT, 100)
    node.write(CHECKPOINT, 110)
    assert not node.store.wants(CHECKPOINT, Index(119))
    assert not node.store.wants(RECOVERY, Index(119))
    assert node.store.wants(RECOVERY, Index(120))
    assert node.begin(RECOVERY, 120)
    assert node.store.wants(CHECKPOINT, Index(120))
    assert not node.store.wants(RECOVERY, Index(129))


# --- checkpoints -----------------------------------------------------------------------------


def test_the_newest_checkpoint_in_reach_is_promoted() -> None:
    """CKPT-02: the newest one at or below the index becomes the snapshot, durably; the older ones go."""
    node = Node()
    for index in (10, 20, 30):
        node.write(CHECKPOINT, index)
    assert not node.store.promote_checkpoint(Index(9))
    assert node.store.promote_checkpoint(Index(29))
    assert reports(node.run()) == [SnapshotWritten(UID, SNAPSHOT, meta_at(20).position)]
    assert (node.indexes(SNAPSHOT), node.indexes(CHECKPOINT)) == ([20], [30])
    node.crash()
    assert node.current() == 20
    assert node.state() == state_at(20)
    assert not node.store.promote_checkpoint(Index(20))  # never backwards


def test_a_promotion_and_a_checkpoint_each_end_once() -> None:
    """B40: in whichever order they end, each end is its own, and the next ones can begin."""
    for steps in range(12):
        node = Node()
        node.write(CHECKPOINT, 10)
        assert node.begin(CHECKPOINT, 20)
        for _ in range(steps):
            node.worker.run_step()
        assert node.store.promote_checkpoint(Index(19))
        assert not node.store.wants(SNAPSHOT, Index(30))
        while node.worker.run_step():
            pass
        while len(node.events) < 2:
            assert not node.store.wants(SNAPSHOT, Index(30))
            assert not node.begin(SNAPSHOT, 30)
            assert node.worker.deliver()
        events = node.run()
        assert {
            (event.kind, event.position.index) for event in events if isinstance(event, SnapshotWritten)
        } == {
            (SNAPSHOT, 10),
            (CHECKPOINT, 20),
        }
        assert len(events) == 2
        assert (node.indexes(SNAPSHOT), node.indexes(CHECKPOINT)) == ([10], [20])
        assert node.store.wants(SNAPSHOT, Index(30))
        assert node.store.wants(CHECKPOINT, Index(30))


def test_a_promotion_that_fails_leaves_the_checkpoint() -> None:
    """Whichever operation fails, a later promotion succeeds."""
    for number in range(1, 6):
        node = Node()
        node.write(CHECKPOINT, 10)
        disk = sim(node)
        target = disk.operations + number
        disk.fault = lambda op, path, disk=disk, target=target: (  # type: ignore[misc]
            OSError(5, "EIO") if disk.operations == target else None
        )
        assert node.store.promote_checkpoint(Index(10))
        events = node.run()
        disk.fault = None
        if isinstance(events[0], SnapshotFailed):
            assert node.current() == 0
            assert node.indexes(CHECKPOINT) == [10]
            assert node.store.promote_checkpoint(Index(10))
            events = node.run()
        assert reports(events) == [SnapshotWritten(UID, SNAPSHOT, meta_at(10).position)]
        assert node.indexes(SNAPSHOT) == [10]


def test_too_many_checkpoints_are_thinned() -> None:
    """CKPT-03: the newest stays, the oldest stays, and there are never more than the limit."""
    node = Node()
    for index in range(10, 110, 10):
        node.write(CHECKPOINT, index)
        assert len(node.indexes(CHECKPOINT)) <= EAGER.max_checkpoints
        assert node.indexes(CHECKPOINT)[-1] == index
        assert node.indexes(CHECKPOINT)[0] == 10
    before = node.store.overview()["checkpoints"]
    node.crash()
    assert node.store.overview()["checkpoints"] == before == node.indexes(CHECKPOINT)


def test_a_recovery_checkpoint_is_complete_at_once_and_replaces_the_last() -> None:
    """CKPT-06, CKPT-08: the process is about to end."""
    node = Node()
    assert node.begin(RECOVERY, 10)
    assert node.begin(RECOVERY, 20)
    node.crash()
    assert node.indexes(RECOVERY) == [20]
    assert (node.current(), recovery_point(node)) == (0, 20)
    sim(node).space = 10
    assert not node.begin(RECOVERY, 30)
    assert recovery_point(node) == 20
    assert "no recovery checkpoint was written" in node.store.overview()["notes"][0]


def test_a_start_begins_at_a_checkpoint_only_if_its_entry_is_in_the_log() -> None:
    """CKPT-04, CKPT-07: a checkpoint replaces no entries, so one of another log does not count."""
    node = Node()
    node.write(SNAPSHOT, 10)
    for index in (20, 30):
        node.write(CHECKPOINT, index)
    assert node.begin(RECOVERY, 35)
    node.crash()
    for end, expected in ((100, 35), (34, 30), (29, 20), (19, 10), (5, 10)):
        node.log.end = end
        assert recovery_point(node) == expected
    node.log.end = 100
    node.log.removed = {35, 30}
    assert recovery_point(node) == 20


# --- opening ---------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing", "other"])
@pytest.mark.parametrize("kind", [SNAPSHOT, CHECKPOINT, RECOVERY])
def test_a_damaged_one_is_skipped_and_reported(
    kind: SnapshotKind, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SNAP-10: the next older one counts. A damaged snapshot stays until a newer one is there."""
    node = Node()
    node.write(SNAPSHOT, 5)
    disk = sim(node)
    path = path_of(kind, 20)
    data = file_at(20)
    broken = {
        "flip": data[:100] + bytes([data[100] ^ 4]) + data[101:],
        "cut": data[:-1],
        "empty": b"",
        "missing": data,
        "other": file_at(19),
    }[harm]
    disk.set_content(path, broken)
    if harm == "missing":
        disk.set_content(path + ".bak", broken)
        disk.remove(path)
    node.open()
    assert (node.current(), recovery_point(node)) == (5, 5)
    [note] = node.store.notes
    assert path.removesuffix("/snapshot") in note
    assert note in caplog.text
    node.write(SNAPSHOT, 30)
    assert node.indexes(SNAPSHOT) == [30]
    node.open()
    assert node.store.notes == []


def test_a_damaged_snapshot_without_an_older_one_is_no_snapshot() -> None:
    """Whether the log can do without it is for the log to say."""
    node = Node()
    node.write(SNAPSHOT, 20)
    sim(node).flip(path_of(SNAPSHOT, 20), 90)
    node.open()
    assert (node.current(), len(node.store.notes)) == (0, 1)
    node.write(SNAPSHOT, 20)  # the same one, made again
    node.open()
    assert (node.current(), node.store.notes) == (20, [])


@pytest.mark.parametrize("kind", [SNAPSHOT, CHECKPOINT, RECOVERY])
def test_a_file_of_a_later_release_stops_the_start(kind: SnapshotKind) -> None:
    """It is not damage, and is neither skipped nor removed."""
    node = Node()
    node.write(SNAPSHOT, 5)
    data = file_at(20)
    head = data[:8] + b"\x03" + data[9:16]
    later = head + struct.pack("<I", crc32(head)) + data[20:]
    sim(node).set_content(path_of(kind, 20), later)
    with pytest.raises(Damaged, match="later release"):
        node.open()
    assert sim(node).read_file(path_of(kind, 20)) == later


def test_leftovers_are_removed_at_start() -> None:
    """Half-written, half-removed and half-received directories; and what the snapshot covers."""
    node = Node()
    node.write(SNAPSHOT, 20)
    disk = sim(node)
    for name in (
        "snapshots/0000000000000001_0000000000000030.writing/snapshot",
        "checkpoints/0000000000000001_0000000000000030.writing/snapshot",
        "recovery_checkpoint/0000000000000001_0000000000000030.writing/snapshot",
        "accepting/snapshot",
        "discarded-1/snapshot",
        "checkpoints/0000000000000001_0000000000000010/snapshot",
        "snapshots/0000000000000001_0000000000000010/snapshot",
    ):
        disk.set_content(f"{DIR}/{name}", b"half")
    disk.mkdir(f"{DIR}/snapshots/0000000000000001_0000000000000001")
    disk.set_content(f"{DIR}/config", b"not ours")
    disk.set_content(f"{DIR}/segments/1.segment", b"not ours")
    node.open()
    node.run()
    assert set(disk.content(DIR)) == {path_of(SNAPSHOT, 20), f"{DIR}/config", f"{DIR}/segments/1.segment"}
    assert disk.listdir(DIR) == ["checkpoints", "config", "recovery_checkpoint", "segments", "snapshots"]
    assert disk.listdir(f"{DIR}/snapshots") == [f"{1:016X}_{20:016X}"]
    assert node.store.notes == []


def test_a_name_that_a_kill_left_unsynced_is_made_durable_at_start() -> None:
    """The process died between the rename and the sync of the directory. Later the machine loses power."""
    node = Node()
    disk = sim(node)
    final = path_of(SNAPSHOT, 10).removesuffix("/snapshot")
    disk.set_content(f"{final}.writing/snapshot", file_at(10))
    disk.rename(f"{final}.writing", final)
    disk.kill()
    node.open()
    assert node.current() == 10
    assert not disk.has_unsynced
    node.crash()
    assert node.current() == 10


def test_opening_without_a_directory_makes_none() -> None:
    """A new server's directory is made by the layer above; a store that is only opened leaves nothing."""
    disk = SimDisk(random.Random(1))
    store = SnapshotStore.open(disk, "/nowhere/alpha", UID, EAGER, InlineWorker(), lambda event: None)
    assert store.current() is None
    assert not disk.exists("/nowhere")


def test_loading_checks_the_whole_file() -> None:
    """A file that changes after the start is found, even by a machine that does not read to the end."""
    node = Node()
    node.write(SNAPSHOT, 10)
    sim(node).flip(path_of(SNAPSHOT, 10), len(file_at(10)) - 1)
    with pytest.raises(Damaged, match="alpha"):
        node.store.load(meta_at(10), lambda pieces: next(pieces))
    sim(node).fault = lambda op, path: OSError(5, "EIO")
    with pytest.raises(StorageError, match="cannot be read"):
        node.store.load(meta_at(10), b"".join)


# --- deletion --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["snapshot", "checkpoint", "promotion", "complete", "removal", "abort"])
def test_b50_a_server_deleted_at_any_step_stays_deleted(what: str) -> None:
    """The directory is removed while a job runs: it is gone, stays gone, and nobody is told anything."""
    for steps in range(14):
        node = Node()
        node.write(CHECKPOINT, 5)
        if what == "promotion":
            assert node.store.promote_checkpoint(Index(5))
        elif what in ("complete", "abort"):
            node.receive(10, live=[3])
            node.store.complete_accept(b"".join)
            if what == "abort":
                node.store.abort_accept()
        elif what == "removal":
            node.write(SNAPSHOT, 4)
            assert node.begin(SNAPSHOT, 6)
        else:
            assert node.begin(SNAPSHOT if what == "snapshot" else CHECKPOINT, 10)
        for _ in range(steps):
            node.worker.run_step()
        node.take_events()
        node.store.close()
        snapshot_files.remove_if_there(node.disk, DIR)
        assert node.run() == []
        assert not node.disk.exists(DIR)
        assert not node.worker.busy
        assert not sim(node).handles


def test_b50_no_thread_brings_a_deleted_server_back(tmp_path: Path) -> None:
    """A real thread writes while the loop deletes: the deletion succeeds at once, and nothing comes back."""
    calls: list[Callable[[], None]] = []
    worker, disk = ThreadWorker(calls.append), OsDisk()
    pause = random.Random(1)
    for number in range(60):
        home = str(tmp_path / f"server{number}")
        disk.mkdir(home)
        store = SnapshotStore.open(disk, home, UID, EAGER, worker, lambda event: None)
        pieces = (bytes(200_000) for _ in range(5))
        assert store.begin(KINDS[number % 2], meta_at(10), pieces, [])
        time.sleep(pause.random() * 0.004)  # anywhere in the job
        store.close()
        snapshot_files.remove_if_there(disk, home)
    while worker.busy:
        while calls:
            calls.pop(0)()
        time.sleep(0.001)
    worker.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_ends_everything() -> None:
    """Nothing is due, nothing begins, and no end of a job is reported."""
    node = Node()
    node.write(SNAPSHOT, 5)
    assert node.begin(SNAPSHOT, 10)
    node.worker.run_step()
    node.store.close()
    assert not node.store.wants(SNAPSHOT, Index(1000))
    assert not node.begin(SNAPSHOT, 1000)
    assert node.run() == []
    assert not sim(node).handles
    node.open()
    assert node.indexes(SNAPSHOT) == [5]


def test_the_overview_tells_an_operator() -> None:
    """SNAP-12: sizes, positions, and what is under way."""
    node = Node()
    node.write(SNAPSHOT, 5)
    node.write(CHECKPOINT, 9)
    assert node.begin(CHECKPOINT, 12)
    overview = node.store.overview()
    assert overview["snapshot_index"] == 5
    assert overview["snapshot_size"] == len(file_at(5))
    assert overview["checkpoints"] == [9]
    assert overview["writing"] == {"checkpoint": 12}


def test_on_the_real_disk(tmp_path: Path) -> None:
    """Everything once, on a real file system, in a directory with letters that are not ASCII (B31)."""
    home = str(tmp_path / "é 0000000000000001_0000000000000001")
    node = Node(OsDisk(), path=home)
    node.write(SNAPSHOT, 10, live=[3])
    node.write(CHECKPOINT, 20)
    assert node.store.promote_checkpoint(Index(20))
    node.run()
    assert node.install(40, live=[7, 9]) == state_at(40)
    node.run()
    assert sorted(os.listdir(f"{home}/snapshots/{1:016X}_{40:016X}")) == ["live.segment", "snapshot"]
    assert node.begin(RECOVERY, 50)
    node.open()
    assert (node.current(), recovery_point(node), node.store.notes) == (40, 50, [])
    outgoing = node.store.open_outgoing()
    chunk = outgoing.chunk(1)
    assert chunk is not None
    assert file_at(40, [7, 9]).startswith(chunk[0])
    outgoing.close()


def test_ckpt_03_a_start_thins_checkpoints_that_a_crash_has_left_beyond_the_limit() -> None:
    """The crash came after a checkpoint had its name, and before an older one was removed."""
    node = Node()
    for index in (10, 12, 14):
        node.write(CHECKPOINT, index)
    assert EAGER.max_checkpoints == 3
    assert node.begin(CHECKPOINT, 16)
    while 16 not in [int(name[17:33], 16) for name in node.directories(CHECKPOINT) if len(name) == 33]:
        assert node.worker.run_step()
    sim(node).kill()
    assert node.indexes(CHECKPOINT) == [10, 12, 14, 16]
    node.open()
    node.run()
    assert node.indexes(CHECKPOINT) == [10, 14, 16]
    assert node.store.overview()["checkpoints"] == [10, 14, 16]


# --- rot while a server runs ------------------------------------------------------------------


def rot(node: Node, index: int) -> None:
    """Change one byte in the middle of a snapshot."""
    path = path_of(SNAPSHOT, index)
    data = bytearray(sim(node).read_file(path))
    data[len(data) // 2] ^= 1
    sim(node).set_content(path, bytes(data))


LAZY = msgspec.structs.replace(EAGER, min_snapshot_interval=1_000)


def test_a_snapshot_that_rots_is_found_when_it_is_doubted_and_the_next_one_is_due_at_once() -> None:
    """SNAP-10: it is no longer sent; the damage is counted, noted once, and gone with the next snapshot."""
    node = Node(config=LAZY)
    node.write(SNAPSHOT, 10)
    rot(node, 10)
    assert not node.store.wants(SNAPSHOT, Index(11))
    node.store.doubt(meta_at(10).position)
    node.store.open_outgoing().close()  # nothing is known yet
    node.run()
    for _ in range(2):
        node.store.doubt(meta_at(10).position)
        node.run()
        assert node.store.counters()["snapshots_damaged"] == 1
        [note] = node.store.notes
        assert path_of(SNAPSHOT, 10).removesuffix("/snapshot") in note
        with pytest.raises(StorageError, match="damaged; the next state that the machine offers"):
            node.store.open_outgoing()
    assert not node.store.wants(SNAPSHOT, Index(10))
    assert node.store.wants(SNAPSHOT, Index(11))
    node.write(SNAPSHOT, 11)
    node.store.open_outgoing().close()
    assert not node.store.wants(SNAPSHOT, Index(12))
    assert node.indexes(SNAPSHOT) == [11]


def test_a_sound_snapshot_that_is_doubted_stays_as_it_is() -> None:
    """A receiver may refuse it for reasons of its own; nothing is noted, and no other is due."""
    node = Node(config=LAZY)
    node.write(SNAPSHOT, 10)
    for _ in range(2):
        node.store.doubt(meta_at(10).position)
        node.run()
    assert node.store.notes == []
    assert node.store.counters()["snapshots_damaged"] == 0
    assert not node.store.wants(SNAPSHOT, Index(11))
    node.store.open_outgoing().close()


def test_a_doubt_about_a_snapshot_that_has_been_replaced_meanwhile_means_nothing() -> None:
    """The damaged file may be gone before it is read; then a missing file is no damage."""
    node = Node()
    node.write(SNAPSHOT, 10)
    rot(node, 10)
    assert node.begin(SNAPSHOT, 11)
    while node.worker.run_step():
        pass  # the end of this job reaches the loop before that of the check
    node.store.doubt(meta_at(10).position)
    node.run()
    node.store.doubt(meta_at(10).position)
    node.run()
    assert node.store.counters()["snapshots_damaged"] == 0
    node.store.open_outgoing().close()


def test_a_snapshot_that_cannot_be_read_for_a_while_is_sent_again_and_replaced_soon() -> None:
    """An error of the disk may pass: it is no damage. But a new snapshot lies elsewhere."""
    node = Node(config=LAZY)
    node.write(SNAPSHOT, 10)
    node.store.doubt(meta_at(10).position)

    sim(node).fault = lambda _operation, _path: OSError(5, "Input/output error")
    node.run()
    sim(node).fault = None
    assert node.store.counters()["snapshots_damaged"] == 0
    assert "cannot be read" in node.store.notes[0]
    node.store.open_outgoing().close()
    assert node.store.wants(SNAPSHOT, Index(11))


def test_a_damaged_snapshot_that_an_operator_restores_is_sent_again() -> None:
    """Each attempt to send it is a reason to look again."""
    node = Node(config=LAZY)
    node.write(SNAPSHOT, 10)
    whole = sim(node).read_file(path_of(SNAPSHOT, 10))
    rot(node, 10)
    node.store.doubt(meta_at(10).position)
    node.run()
    sim(node).set_content(path_of(SNAPSHOT, 10), whole)
    with pytest.raises(StorageError, match="damaged"):
        node.store.open_outgoing()
    node.store.doubt(meta_at(10).position)
    node.run()
    node.store.open_outgoing().close()
    assert not node.store.wants(SNAPSHOT, Index(11))
    assert node.store.counters()["snapshots_damaged"] == 1
