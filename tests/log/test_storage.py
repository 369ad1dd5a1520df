"""The data directory as a whole: made, opened, refused, deleted from and closed."""

import random
import re
import threading

import pytest
from tests.kit.snapshots import meta_at
from tests.kit.storage import DATA, INLINE, OTHER, UID, WAL, Node, batch, content

from barque.core.log_contract import SnapshotKind
from barque.core.messages import WalFailed, WalUp, Written
from barque.errors import Damaged, StorageError
from barque.log.storage import StorageConfig
from barque.testing.sim.disk import SimDisk, SimFile
from barque.types import Index, IndexTerm, ServerId, Term

SIZE = 1 << 20


def test_a_crash_at_any_point_of_the_first_start_leaves_a_directory_that_starts() -> None:
    """Half-made directories hold nothing, and are made again."""
    for seed in range(4):
        for nth in range(1, 60):
            disk = SimDisk(random.Random(seed))
            disk.fault = lambda op, path, disk=disk, nth=nth: (  # type: ignore[misc]
                OSError(5, "EIO") if disk.operations >= nth else None
            )
            try:
                Node(disk)
            except StorageError as error:
                assert not isinstance(error, Damaged)  # noqa: PT017
            disk.fault = None
            disk.crash()
            node = Node(disk)
            node.storage.log(UID).append(batch(1))
            node.sync()
            node.crash()
            assert [entry[0] for entry in content(node.storage)] == [1]


def test_a_crash_at_any_point_of_a_later_start_loses_nothing() -> None:
    """Recovery may be interrupted anywhere, again and again."""
    for nth in range(1, 60):
        node = Node(SimDisk(random.Random(nth)))
        for uid in (UID, OTHER):
            node.storage.log(uid).append(batch(1, count=3))
        node.storage.meta.store(UID, Term(4), ServerId("m", "n"))
        node.storage.sync_meta()
        node.sync()
        node.disk.crash()
        target = node.disk.operations + nth
        node.disk.fault = lambda op, path, node=node, target=target: (  # type: ignore[misc]
            OSError(5, "EIO") if node.disk.operations >= target else None
        )
        try:
            node.open()
        except StorageError as error:
            assert not isinstance(error, Damaged)  # noqa: PT017
        node.disk.fault = None
        node.crash()
        for uid in (UID, OTHER):
            assert [entry[0] for entry in content(node.storage, uid)] == [1, 2, 3]
        assert node.storage.meta.read(UID).current_term == 4  # type: ignore[union-attr]


def test_a_directory_has_one_user() -> None:
    """A second storage is refused while the first is open, and welcome afterwards."""
    node = Node()
    with pytest.raises(StorageError, match="another process"):
        Node(node.disk)
    node.storage.close()
    Node(node.disk)


def test_a_meta_file_that_cannot_be_written_stops_the_log_of_new_servers() -> None:
    """Entries never get ahead of their server's first meta record; both resume together."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1))
    node.disk.fault = lambda op, path: OSError(28, "ENOSPC") if path.endswith("meta") else None
    assert [type(event) for event in node.sync()] == [WalFailed]
    assert not log.can_write()
    node.disk.fault = None
    # The failed file is replaced, not appended to.
    assert node.tick()[-1] == WalUp()
    assert log.last_written().index == 1
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == [1]


def test_deleting_a_server_drops_what_it_had_queued() -> None:
    """Nothing of it is written, reported or found again; its neighbour goes on."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    node.storage.log(OTHER).append(batch(1))
    node.storage.delete(UID)
    assert [event.uid for event in node.sync()] == [OTHER]  # type: ignore[union-attr]
    node.crash()
    assert node.storage.recovered_uids() == {OTHER}


def test_restarts_do_not_pile_up_files() -> None:
    """A start that wrote nothing leaves no file that counts."""
    node = Node(config=INLINE)
    for _ in range(20):
        node.storage.close()
        node.open()
    assert node.storage.overview()["files"] == 1
    assert len(node.disk.listdir(WAL)) <= 5


def test_an_idle_system_writes_nothing() -> None:
    """After one mark, ticks touch no disk."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    node.sync()
    for _ in range(3):
        node.tick()
    before = node.disk.operations
    for _ in range(100):
        node.tick()
    assert node.disk.operations == before


def test_the_overview_says_what_people_ask() -> None:
    """Writer, measured sync, files, counts and the reason of a failure."""
    overview = Node().storage.overview()
    assert {"writer", "sync_seconds_measured", "files", "syncs", "longest_sync_seconds"} <= set(overview)
    assert overview["failed_reason"] is None
    assert overview["data_dir"] == DATA


def test_a_failing_disk_keeps_no_file_open_when_the_storage_is_closed() -> None:
    """Whichever operation of `close` fails, all are closed, and the directory can be opened again."""
    failures = 0
    for nth in range(30):
        node = Node(SimDisk(random.Random(nth)))
        node.storage.log(UID).append(batch(1))
        node.sync()
        last = node.disk.operations + nth
        node.disk.fault = lambda op, path, disk=node.disk, last=last: (  # type: ignore[misc]
            OSError(5, "EIO", path) if disk.operations == last else None
        )
        try:
            node.storage.close()
        except StorageError:
            failures += 1
        assert not node.disk.handles, f"operation {nth}"
        node.disk.fault = None
        assert [entry[0] for entry in content(node.open())] == [1]
    assert failures > 5


def test_a_start_that_fails_keeps_no_file_open() -> None:
    """Whichever operation fails: a program that tries again for days must not run out of descriptors."""
    failures = 0
    for nth in range(40):
        node = Node(SimDisk(random.Random(nth)))
        node.storage.log(UID).append(batch(1))
        node.sync()
        node.kill()
        node.storage.close()
        last = node.disk.operations + nth
        node.disk.fault = lambda op, path, disk=node.disk, last=last: (  # type: ignore[misc]
            OSError(5, "EIO", path) if disk.operations == last else None
        )
        try:
            node.open()
        except StorageError:
            failures += 1
            assert not node.disk.handles, f"operation {nth}"
    assert failures > 20


def filled_ahead(node: Node) -> None:
    """Wait until the thread has made the next file, and begin it."""
    storage = node.storage
    while not storage._files.spares:
        node.tick()
    node.storage.log(UID).append(batch(node.storage.log(UID).next_index()))
    node.sync()


@pytest.mark.parametrize("power", [False, True])
def test_d2_the_log_stays_bounded_over_unclean_ends(power: bool) -> None:
    """Each life ends with a zero-filled file in use and another one ready: 60 fit into three files."""
    node = Node(config=StorageConfig(wal_writer="inline", wal_max_size_bytes=SIZE))
    for life in range(60):
        node.storage.log(UID).append(batch(life * 3 + 1))
        node.sync()
        filled_ahead(node)
        filled_ahead(node)
        node.storage._preparer.close()  # type: ignore[union-attr]  # its process is dead, and so is its thread
        node.disk.crash() if power else node.disk.kill()
        node.open()
        sizes = {name: len(node.disk.read_file(f"{WAL}/{name}")) for name in node.disk.listdir(WAL)}
        assert sum(sizes.values()) <= 3 * SIZE, (life, sizes)
    assert [entry[0] for entry in content(node.storage)] == list(range(1, 181))
    node.storage.close()


def test_d2_whatever_a_crash_leaves_is_gone_after_the_next_start() -> None:
    """Temporary files of every kind, spares that are short or too many, and folders of no server."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    node.sync()
    node.disk.kill()
    left = ["identity.tmp", "meta.tmp", "wal/manifest.tmp", "wal/probe.tmp"]
    left += [f"wal/spare-{number:017}.wal" for number in range(50, 60)]
    for path in left:
        node.disk.set_content(f"{DATA}/{path}", b"left")
    node.open()
    assert not [path for path in left if node.disk.exists(f"{DATA}/{path}")]
    assert [entry[0] for entry in content(node.storage)] == [1]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_sec9_a_log_that_ends_before_what_was_applied_is_damage(kept: int) -> None:
    """Its tail reads as zeros: a clean end, had the meta file not said how far the machine was."""
    node = Node()
    ends = [0x40]
    for index in (1, 2, 3):
        node.storage.log(UID).append(batch(index))
        node.sync()
        ends.append(node.storage._files.current.end)
    node.storage.log(OTHER)
    node.storage.meta.store_last_applied(UID, Index(3))
    node.storage.meta.store(UID, Term(2), None)
    node.storage.sync_meta()
    node.disk.kill()
    path = max(f"{WAL}/{name}" for name in node.disk.listdir(WAL) if name.endswith(".wal"))
    data = node.disk.read_file(path)
    node.disk.set_content(path, data[: ends[kept]] + bytes(len(data) - ends[kept]))
    with pytest.raises(Damaged, match=rf"ends with entry {kept}, but /data/meta says that entry 3") as caught:
        node.open()
    assert f"Servers concerned: {UID}. What to do" in str(caught.value)
    node.disk.set_content(path, data)
    node.open()
    assert [entry[0] for entry in content(node.storage)] == [1, 2, 3]


class CountingDisk(SimDisk):
    """A disk with little space that counts what is written into spare files."""

    zeros = 0

    def create(self, path: str) -> SimFile:
        """Count the writes to a spare."""
        file = super().create(path)
        if "spare-" in path:
            write = file.pwritev

            def counted(buffers: list[bytes], offset: int, sync: bool) -> None:
                self.zeros += sum(map(len, buffers))
                write(buffers, offset, sync)

            file.pwritev = counted  # type: ignore[method-assign, assignment]
        return file


@pytest.mark.parametrize("space_files", [0.5, 1.5, 3.9])
def test_d8_a_nearly_full_disk_gets_no_zeros(space_files: float) -> None:
    """Spare files are made only where there is space for several; the log has what is left for itself."""
    disk = CountingDisk(random.Random(1))
    disk.space = int(space_files * SIZE)
    node = Node(disk, StorageConfig(wal_writer="inline", wal_max_size_bytes=SIZE, disk_free_min_bytes=0))
    for index in range(1, 100):
        node.storage.log(UID).append(batch(index))
        assert WalFailed not in map(type, node.sync())
        node.tick()
    assert disk.zeros < SIZE / 10
    node.storage.close()


def test_d8_spares_that_fail_are_tried_less_and_less_often() -> None:
    """Whatever the disk claims to have free: an hour of failures writes little."""
    disk = CountingDisk(random.Random(1))

    def full(operation: str, path: str) -> OSError | None:
        in_thread = threading.current_thread().name == "barque-wal-spare"
        return OSError(28, "ENOSPC", path) if operation == "pwritev" and in_thread else None

    node = Node(disk, StorageConfig(wal_writer="inline", wal_max_size_bytes=SIZE))
    node.storage.log(UID).append(batch(1))
    node.sync()
    disk.fault = full
    while node.storage._preparer._thread is not None:  # type: ignore[union-attr]
        node.tick()
    node.storage._files.spares.clear()
    before = disk.zeros
    for _ in range(3_600):
        node.tick()
        thread = node.storage._preparer._thread  # type: ignore[union-attr]
        if thread is not None:
            thread.join()
    attempts = (disk.zeros - before) / SIZE
    assert 5 <= attempts <= 20
    disk.fault = None
    for _ in range(700):
        node.tick()
    while not node.storage._files.spares:
        node.tick()
    node.storage.close()


@pytest.mark.parametrize("has_spare", [True, False])
def test_spare_files_leave_the_space_that_the_guard_wants(has_spare: bool) -> None:
    """No spare is made where it would bring the guard close; and the guard's limit takes a spare away."""
    disk = CountingDisk(random.Random(1))
    limit = 100 * SIZE
    config = StorageConfig(wal_writer="inline", wal_max_size_bytes=SIZE, disk_free_min_bytes=limit)
    disk.space = None if has_spare else limit + limit // 4 + SIZE // 2
    node = Node(disk, config)
    storage = node.storage
    assert storage._preparer is not None

    def pass_time() -> None:
        for _ in range(20):
            node.tick()
            if storage._preparer is not None and storage._preparer._thread is not None:
                storage._preparer._thread.join()

    pass_time()
    assert bool(storage._files.spares) is has_spare
    disk.space = limit - 1
    pass_time()
    assert storage.guard.full
    assert storage._files.spares == []
    assert not [name for name in disk.listdir("/data/wal") if name.startswith("spare-")]
    storage.log(UID).append(batch(1))
    assert [type(event) for event in node.sync()] == [Written], "what the node must write is written"
    storage.close()


def test_a_damaged_snapshot_is_named_when_the_log_needs_it() -> None:
    """Whether the log goes on behind it or ends with it: the node does not start, and names the file."""
    for behind in (0, 3):
        node = Node(at_once=True)
        node.disk.mkdir(f"{DATA}/servers/{UID}")
        log = node.storage.log(UID)
        log.append(batch(1, count=5))
        node.sync()
        log.snapshots.begin(SnapshotKind.SNAPSHOT, meta_at(5), [b"state"], [])
        for event in list(node.events):
            log.handle_event(event)
        log.install(IndexTerm(Index(5), Term(1)))
        if behind:
            log.append(batch(6, count=behind))
        node.sync()
        path = f"{DATA}/servers/{UID}/snapshots/{1:016X}_{5:016X}/snapshot"
        node.storage.close()
        node.disk.flip(path, 40)
        with pytest.raises(Damaged, match=re.escape(path)) as refused:
            node.open()
        assert str(UID) in str(refused.value)
        node.disk.flip(path, 40)
        assert node.open().log(UID).last_index_term().index == 5 + behind
