"""The seam: the real file system keeps its promises, and the simulated one breaks the right ones."""

import errno
import os
import random
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kit.crashes import crashed
from tests.kit.storage import OWNER, UID, batch, content

from barque.errors import StorageError
from barque.log import disk as disk_module
from barque.log.disk import Disk, OsDisk, replace_file
from barque.log.storage import Storage, StorageConfig
from barque.log.wal_files import OpenFile
from barque.log.wal_format import FILE_HEAD_SIZE, FileHead, Record, encode_file_head, encode_record
from barque.log.wal_recovery import WalReader
from barque.testing.sim.disk import SECTOR, SimDisk
from barque.types import Index, IndexTerm, Term


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    """IOV_MAX is no limit for callers."""
    file = OsDisk().create(str(tmp_path / "f"))
    buffers = [bytes([i % 256]) * (i % 7) for i in range(3000)]
    file.pwritev(buffers, 10, sync=True)
    assert file.pread(1 << 20, 10) == b"".join(buffers)
    assert file.size() == 10 + sum(map(len, buffers))
    file.close()


@pytest.mark.parametrize("sync_flag", [disk_module._DSYNC, 0])
def test_short_writes_are_continued_and_then_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_flag: int
) -> None:
    """The system may write less than asked; then a sync of its own covers all pieces."""
    real = os.pwritev
    syncs: list[int] = []

    def short(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        return real(fd, [b"".join(buffers)[:5]], offset, flags)

    monkeypatch.setattr(os, "pwritev", short)
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    monkeypatch.setattr(disk_module, "_DSYNC", sync_flag)
    file = OsDisk().create(str(tmp_path / "f"))
    file.pwritev([b"abc", b"", b"defghij", b"k" * 20], 3, sync=True)
    assert file.pread(100, 3) == b"abcdefghij" + b"k" * 20
    assert len(syncs) == 1
    file.close()


def test_files_are_private_and_links_are_not_followed(tmp_path: Path) -> None:
    """Nobody else reads the log, and nobody leads us elsewhere."""
    disk = OsDisk()
    disk.mkdir(str(tmp_path / "a" / "b"))
    disk.create(str(tmp_path / "a" / "b" / "f")).close()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "f").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "f")
    with pytest.raises(OSError, match="link"):
        disk.open(str(tmp_path / "link"))
    with pytest.raises(OSError, match=r"regular|directory"):
        disk.open(str(tmp_path / "a"))


def test_two_nodes_may_make_their_common_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes it between our look and our call. A file in its place stays an error."""
    path, make = tmp_path / "data", os.mkdir

    def too_late(name: str, mode: int) -> None:
        make(name, mode)  # the other process
        make(name, mode)

    monkeypatch.setattr(os, "mkdir", too_late)
    OsDisk().mkdir(str(path))
    assert path.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        OsDisk().mkdir(str(tmp_path / "file"))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The lock names the directory and says what to do; it ends with its holder."""
    disk = OsDisk()
    held = disk.lock(str(tmp_path / "lock"))
    with pytest.raises(StorageError, match="another process uses this data directory"):
        disk.lock(str(tmp_path / "lock"))
    held.close()
    disk.lock(str(tmp_path / "lock")).close()


def test_a_storage_on_the_real_disk(tmp_path: Path) -> None:
    """Written, stopped, started: the entries and the spare file are there."""
    config = StorageConfig(wal_max_size_bytes=1 << 16)

    def start() -> Storage:
        path = str(tmp_path / "data")
        return Storage.open(OsDisk(), path, OWNER, config, lambda event: None, lambda fn: fn())

    storage = start()
    log = storage.log(UID)
    for index in range(1, 200):
        log.append(batch(index, payload=b"x" * 1000))
        storage.flush()
        storage.tick(float(index))
    with pytest.raises(StorageError, match="another process"):
        start()
    while storage.wal.busy:
        for worker in storage.beside:
            worker.yield_if_busy()
    storage.close()
    storage = start()
    assert [entry[0] for entry in content(storage)] == list(range(1, 200))
    assert storage.overview()["sync_seconds_measured"] > 0
    storage.close()


def test_offsets_beyond_four_gibibytes(tmp_path: Path) -> None:
    """A record behind 2**32 bytes is where it was written, and not at the front of the file."""
    far = 5 << 30
    head = FileHead(epoch=1, salt=7)
    opened = OpenFile(OsDisk().create(str(tmp_path / "f")), head, growing=True)
    opened.file.pwritev([encode_file_head(head)], 0, sync=False)
    opened.end = far  # what is before is a hole in the file, and takes no space
    buffers: list[bytes] = []
    opened.write(
        buffers, encode_record(buffers, head, far, far, b"alpha", IndexTerm(Index(6), Term(1)), [batch(7)])
    )
    reader = WalReader(opened.file)
    record = reader.at(far)
    assert isinstance(record, Record)
    assert (record.offset, record.batches[0].first_index) == (far, 7)
    assert not isinstance(reader.at(FILE_HEAD_SIZE), Record)
    opened.file.close()


def test_replacing_a_file_is_atomic_on_a_disk_that_loses_things() -> None:
    """After a crash at any point the old content is there, or the new, whole."""
    for seed in range(200):
        disk = SimDisk(random.Random(seed))
        disk.mkdir("/d")
        replace_file(disk, "/d", "f", b"old" * 500)
        target = disk.operations + seed % 5 + 1
        disk.fault = lambda op, path, disk=disk, target=target: (  # type: ignore[misc]
            OSError(5, "EIO") if disk.operations == target else None
        )
        try:
            replace_file(disk, "/d", "f", b"new" * 500)
            complete = True
        except OSError:
            complete = False
        disk.fault = None
        disk.crash()
        assert disk.read_file("/d/f") in ((b"new" * 500,) if complete else (b"old" * 500, b"new" * 500))


def test_the_simulated_disk_loses_unsynced_sectors_and_names() -> None:
    """The model is worth something only if it does lose what was not synced."""
    lost_names = lost_sectors = 0
    for seed in range(50):
        disk = SimDisk(random.Random(seed))
        disk.mkdir("/d")
        disk.create("/d/kept").pwritev([b"a" * 2048], 0, sync=True)
        disk.fsync_dir("/d")
        disk.open("/d/kept").pwritev([b"b" * 2048], 0, sync=False)
        disk.create("/d/unnamed").pwritev([b"c"], 0, sync=True)
        disk.crash()
        lost_names += not disk.exists("/d/unnamed")
        kept = disk.read_file("/d/kept")
        assert all(kept[i : i + 512] in (b"a" * 512, b"b" * 512) for i in range(0, 2048, 512))
        lost_sectors += kept not in (b"a" * 2048, b"b" * 2048)
    assert lost_names > 10
    assert lost_sectors > 10


def written_disk(operations: int) -> SimDisk:
    """A disk with two files, and that many unsynced writes of one sector each, in turn."""
    disk = SimDisk(random.Random(1))
    disk.mkdir("/d")
    files = [disk.create(f"/d/{name}") for name in "ab"]
    for number in range(operations):
        files[number % 2].pwritev([bytes([number + 1]) * SECTOR], number // 2 * SECTOR, sync=False)
        disk.fsync_dir("/d")
    return disk


def sectors_kept(disk: SimDisk, operations: int) -> list[bool]:
    """Which of these writes are there."""
    found = [disk.read_file(f"/d/{name}") for name in "ab"]
    return [bytes([number + 1]) * SECTOR in found[number % 2] for number in range(operations)]


def test_a_loss_of_power_may_keep_a_prefix_of_each_file() -> None:
    """What is kept of a file is the beginning of its writes; the files differ in how far they came."""
    ends = set()
    for operations in range(1, 60):
        kept = sectors_kept(crashed(written_disk(operations), "prefix of each file"), operations)
        for of_file in (kept[::2], kept[1::2]):
            assert of_file == sorted(of_file, reverse=True)
        ends.add((sum(kept[::2]), sum(kept[1::2])))
    assert len(ends) > 15
    assert any(abs(first - second) > 2 for first, second in ends)


def test_a_loss_of_power_may_keep_a_prefix_of_all_operations() -> None:
    """No write is there whose predecessor, in whatever file, is missing."""
    ends = set()
    for operations in range(1, 60):
        kept = sectors_kept(crashed(written_disk(operations), "prefix of all"), operations)
        assert kept == sorted(kept, reverse=True)
        ends.add(sum(kept))
    assert len(ends) > 15


def test_a_forked_disk_goes_its_own_way() -> None:
    """A copy has what is synced and what is not, two names of one file too, and shares no byte with it."""
    disk = written_disk(4)
    disk.link("/d/a", "/d/c")
    other = disk.fork()
    other.open("/d/a").pwritev([b"other"], 0, sync=True)
    assert other.read_file("/d/c")[:5] == b"other"
    assert sectors_kept(disk, 4) == [True] * 4
    other.crash()
    assert disk.exists("/d/c")
    assert disk.has_unsynced
    disk.crash(_Nothing())
    assert not disk.exists("/d/c")
    assert sectors_kept(disk, 4) == [False] * 4


class _Nothing:
    """Nothing survives."""

    def keeps(self, _file: str, _order: int) -> bool:
        """See `Fate`."""
        return False


def test_errors_of_an_open_file_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system knows only a descriptor; the reader of the text needs to know which file it was."""
    path = str(tmp_path / "f")
    file = OsDisk().create(path)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    operations: dict[str, Callable[[], object]] = {
        "fstat": file.size,
        "pread": lambda: file.pread(1, 0),
        "pwritev": lambda: file.pwritev([b"x"], 0, sync=True),
        "fdatasync": file.datasync,
        "ftruncate": lambda: file.truncate(0),
    }
    for call, operation in operations.items():
        with monkeypatch.context() as system:
            system.setattr(os, call, fail)
            with pytest.raises(OSError, match=re.escape(path)):
                operation()
    file.close()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("lets_pass", ["no flag", "no vectors"])
@pytest.mark.parametrize("count", [1, 3, 1500])
@pytest.mark.parametrize("sync", [False, True])
def test_s3_a_filter_of_system_calls_stops_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lets_pass: str, count: int, sync: bool
) -> None:
    """A sandbox or file system that refuses `pwritev2`, or its flag: `pwrite` and `fdatasync` do the work."""
    real, synced = os.pwritev, []

    def filtered(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        if flags or lets_pass == "no vectors":
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", filtered)
    real_sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real_sync(fd)))
    file = OsDisk().create(str(tmp_path / "f"))
    data = [bytes([65 + i % 26]) * (i % 7 + 1) for i in range(count)]
    for _ in range(2):
        file.pwritev(data, 0, sync=sync)
    assert (tmp_path / "f").read_bytes() == b"".join(data)
    assert len(synced) == (2 if sync else 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_s3_a_write_that_really_fails_is_no_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is never tried in another way: the pages may be gone."""

    def fails(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwritev", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        OsDisk().create(str(tmp_path / "f")).pwritev([b"a"], 0, sync=True)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_s7_a_directory_that_cannot_be_synced_names_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The text says what is wrong with it, and which file systems do."""

    def fails(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"cannot sync directories.*ext4, XFS or Btrfs") as caught:
        OsDisk().mkdir(str(tmp_path / "new"))
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_sec17_files_and_directories_are_private_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    """0600 and 0700, and they can be opened again."""
    disk, before = OsDisk(), os.umask(umask)
    try:
        disk.mkdir(str(tmp_path / "one" / "two"))
        replace_file(disk, str(tmp_path / "one" / "two"), "f", b"content")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "one", *(tmp_path / "one").rglob("*"))]
    assert modes == [0o700, 0o700, 0o600]
    assert disk.read_file(str(tmp_path / "one" / "two" / "f")) == b"content"


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "file of mode 0666"])
def test_sec17_a_temporary_file_is_never_written_through_what_was_there(tmp_path: Path, kind: str) -> None:
    """Whatever has its name is replaced, not filled."""
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    temporary = tmp_path / "f.tmp"
    if kind == "symbolic link":
        temporary.symlink_to(other)
    elif kind == "hard link":
        os.link(other, temporary)
    else:
        temporary.write_bytes(b"left")
        temporary.chmod(0o666)
    replace_file(OsDisk(), str(tmp_path), "f", b"content")
    assert other.read_bytes() == b"precious"
    assert (tmp_path / "f").read_bytes() == b"content"
    assert not (tmp_path / "f").is_symlink()
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o772, 0o702])
def test_sec17_a_directory_that_everybody_may_change_is_mended(tmp_path: Path, mode: int) -> None:
    """Its owner takes the right away; a directory of others is refused with the cure."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    OsDisk().protect(str(tmp_path / "data"))
    assert not stat.S_IMODE((tmp_path / "data").stat().st_mode) & 0o022


def test_sec17_a_directory_of_somebody_else_that_everybody_may_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private directory inside it would do."""

    def not_ours(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    tmp_path.chmod(0o777)
    monkeypatch.setattr(os, "chmod", not_ours)
    with pytest.raises(PermissionError, match="use a directory in it"):
        OsDisk().protect(str(tmp_path))


class Kept(random.Random):
    """A crash that keeps everything (True) or loses everything (False) that is not synced."""

    def __new__(cls, *_: object) -> "Kept":
        return super().__new__(cls)

    def __init__(self, keep: bool) -> None:
        super().__init__(0)
        self.keep = keep

    def random(self) -> float:
        """Below 0.5: kept."""
        return 0.0 if self.keep else 1.0


def _file(disk: Disk, path: str, data: bytes = b"data") -> None:
    file = disk.create(path)
    file.pwritev([data], 0, sync=True)
    file.close()


def _disks(tmp_path: Path) -> list[tuple[Disk, str]]:
    return [(OsDisk(), str(tmp_path)), (SimDisk(random.Random(1)), "/root")]


def test_both_disks_rename_directories_alike(tmp_path: Path) -> None:
    """What a directory holds comes along; a file, or a directory that is not empty, is not replaced."""
    for disk, root in _disks(tmp_path):
        disk.mkdir(f"{root}/a/inner")
        _file(disk, f"{root}/a/inner/f")
        disk.mkdir(f"{root}/empty")
        disk.mkdir(f"{root}/full")
        _file(disk, f"{root}/full/f")
        for target, number in (("full", errno.ENOTEMPTY), ("full/f", errno.ENOTDIR)):
            with pytest.raises(OSError) as caught:  # noqa: PT011  # its number is compared
                disk.rename(f"{root}/a", f"{root}/{target}")
            assert caught.value.errno == number
        with pytest.raises(IsADirectoryError):
            disk.rename(f"{root}/full/f", f"{root}/empty")
        disk.rename(f"{root}/a", f"{root}/empty")
        disk.fsync_dir(root)
        assert not disk.exists(f"{root}/a")
        assert disk.listdir(f"{root}/empty") == ["inner"]
        assert disk.read_file(f"{root}/empty/inner/f") == b"data"


def test_both_disks_miss_what_is_not_there(tmp_path: Path) -> None:
    """No file is made, and no name synced, in a directory that is gone."""
    for disk, root in _disks(tmp_path):
        disk.mkdir(root)
        for call in (
            lambda d, r: d.create(f"{r}/gone/f"),
            lambda d, r: d.open(f"{r}/gone"),
            lambda d, r: d.rename(f"{r}/gone", f"{r}/new"),
            lambda d, r: d.fsync_dir(f"{r}/gone"),
            lambda d, r: d.listdir(f"{r}/gone"),
            lambda d, r: d.rmdir(f"{r}/gone"),
            lambda d, r: d.unlink(f"{r}/gone"),
            lambda d, r: d.mkdir(f"{r}/gone/inner", parents=False),
        ):
            with pytest.raises(FileNotFoundError):
                call(disk, root)


def test_many_directories_are_synced_at_once(tmp_path: Path) -> None:
    """An error of one of them is the error of all, and names it."""
    for disk, root in _disks(tmp_path):
        names = [f"{root}/d{i}" for i in range(40)]
        for name in names:
            disk.mkdir(name)
        disk.fsync_dirs(names)
        disk.fsync_dirs([])
        with pytest.raises(FileNotFoundError, match="gone"):
            disk.fsync_dirs([names[0], f"{root}/gone", names[1]])
        with pytest.raises(FileNotFoundError, match="gone"):
            disk.fsync_dirs([f"{root}/gone"])


@pytest.mark.parametrize("keep", [False, True])
def test_a_directory_is_renamed_for_good_when_its_parent_is_synced(keep: bool) -> None:
    """A crash before that may undo it. What was synced below the new name is there under either name."""
    disk = SimDisk(Kept(keep))
    disk.mkdir("/d/new.writing")
    _file(disk, "/d/new.writing/f", b"content")
    disk.fsync_dir("/d/new.writing")
    disk.rename("/d/new.writing", "/d/new")
    _file(disk, "/d/new/later", b"later")
    disk.fsync_dir("/d/new")
    assert disk.listdir("/d") == ["new"]
    assert disk.durable("/d/new/f") is None
    disk.crash()
    name = "new" if keep else "new.writing"
    assert disk.listdir("/d") == [name]
    assert disk.content("/d") == {f"/d/{name}/f": b"content", f"/d/{name}/later": b"later"}

    disk.rename(f"/d/{name}", "/d/last")
    disk.fsync_dir("/d")
    disk.crash()
    assert disk.content("/d") == {"/d/last/f": b"content", "/d/last/later": b"later"}


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_that_moved_to_another_directory_is_in_one_of_them(keep: bool) -> None:
    """The sync of the new directory decides it; never is the file in both, or in none."""
    disk = SimDisk(Kept(keep))
    disk.mkdir("/a")
    disk.mkdir("/b")
    _file(disk, "/a/f")
    disk.fsync_dir("/a")
    disk.rename("/a/f", "/b/f")
    disk.fsync_dir("/a")
    disk.crash()
    assert (disk.listdir("/a"), disk.listdir("/b")) == (([], ["f"]) if keep else (["f"], []))

    _file(disk, "/a/g")
    disk.rename("/a/g", "/b/g")  # before its first name was durable
    disk.fsync_dir("/b")
    disk.crash()
    assert "g" not in disk.listdir("/a")
    assert "g" in disk.listdir("/b")


@pytest.mark.parametrize("keep", [False, True])
def test_a_removed_directory_is_gone_for_good_when_its_parent_is_synced(keep: bool) -> None:
    """A crash before that may bring it back."""
    disk = SimDisk(Kept(keep))
    disk.mkdir("/d/inner")
    disk.rmdir("/d/inner")
    assert not disk.exists("/d/inner")
    disk.crash()
    assert disk.exists("/d/inner") == (not keep)
    if not keep:
        disk.rmdir("/d/inner")
        disk.fsync_dir("/d")
        disk.crash()
        assert not disk.exists("/d/inner")
