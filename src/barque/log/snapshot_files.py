"""Where the snapshots of a server lie, and the jobs that write, move and remove them.

See docs/formats/snapshot.md. A directory gets its name when its file is complete and synced, by one rename:
at that point the snapshot begins to exist. A crash before it leaves a directory that the next start removes.
A job never makes the server's own directory, so that nothing of a deleted server comes back.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import msgspec

from barque.core.log_contract import SnapshotKind, SnapshotMeta
from barque.errors import StorageError
from barque.log.background import Job, advance
from barque.log.disk import Disk, DiskFile, join, remove_tree
from barque.log.lease import Lease, LeaseEndedError
from barque.log.module_files import STATE, check_files, describe_with, seal_job, state_path
from barque.log.snapshot_format import (
    Description,
    MalformedSnapshot,
    Opened,
    digest_of,
    encode_snapshot,
    parse_name,
    ranges_of,
    read_description,
    read_state,
    snapshot_name,
)
from barque.machine.snapshot_module import ModuleCapture
from barque.types import Index, IndexTerm

FILE = "snapshot"
LIVE = "live.segment"
"""The entries that survive below a received snapshot, in its directory until the log has taken them over."""

ACCEPTING = "accepting"
DISCARDED = "discarded-"
WRITING = ".writing"

FOLDERS = {
    SnapshotKind.SNAPSHOT: "snapshots",
    SnapshotKind.CHECKPOINT: "checkpoints",
    SnapshotKind.RECOVERY: "recovery_checkpoint",
}

_SYNC_BYTES = 32 * 1024 * 1024
"""Written between two syncs, so that no sync of a large file keeps others waiting for long."""


class Kept(msgspec.Struct, frozen=True):
    """A complete snapshot or checkpoint: what it says, its directory, and the size of its files in bytes.

    `digest` is the checksum of all that it holds, if it was written in this life and can be compared.
    """

    description: Description
    path: str
    size: int
    digest: int | None = None

    @property
    def meta(self) -> SnapshotMeta:
        """What it stands for."""
        return self.description.meta

    @property
    def index(self) -> Index:
        """The last entry that it covers."""
        return self.description.meta.position.index


class Stopped(Exception):
    """The job was told to stop: its result is no longer wanted."""


def stoppable(job: Job, stopped: Callable[[], bool], lease: Lease | None = None) -> Job:
    """The same job, which ends with `Stopped` at its next step once `stopped` says so.

    A job that makes or removes names holds the server's lease in each step.
    """
    try:
        while not stopped():
            with lease.step() if lease is not None else contextlib.nullcontext():
                result, failure, ended = advance(job)
            if failure is not None:
                raise failure
            if ended:
                return result
            yield
    finally:
        job.close()
    raise Stopped


def cleaned_up(job: Job, disk: Disk, made: list[str], lease: Lease) -> Job:
    """The same job; what it has `made` is removed if it fails, or is stopped, while the server is there."""
    try:
        return (yield from job)
    except BaseException:
        with contextlib.suppress(OSError, LeaseEndedError), lease.step():
            for path in made:
                remove_if_there(disk, path)
        raise


# --- reading ---------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(disk: Disk, path: str) -> Iterator[tuple[DiskFile, Opened]]:
    """The file in this directory, and its description. Raises `MalformedSnapshot` or `OSError`."""
    try:
        file = disk.open(join(path, FILE))
    except FileNotFoundError:
        raise MalformedSnapshot(0, "the file is missing") from None
    try:
        description = read_description(file.pread)
        name = path.rpartition("/")[2]
        position = description.description.meta.position
        if parse_name(name) not in (None, position):
            raise MalformedSnapshot(0, f"the file is of entry {position.index}, term {position.term}")
        yield file, description
    finally:
        file.close()


def examine(disk: Disk, path: str, *, whole: bool) -> Kept:
    """Read the description in this directory, or check the whole file.

    Raises `MalformedSnapshot` or `OSError`.
    """
    with opened(disk, path) as (file, found):
        module = found.description.module
        if whole:
            pieces = sum(1 for _ in read_state(file.pread, found))
            if module is not None and pieces:
                raise MalformedSnapshot(0, f"a state and the files of the {module} in one snapshot")
            if module is not None:
                check_files(disk, path, module)
        return Kept(found.description, path, file.size() + (module.size if module is not None else 0))


def positions_in(disk: Disk, folder: str) -> list[IndexTerm]:
    """The positions of the complete directories in a folder, newest first."""
    if not disk.is_dir(folder):
        return []
    found = [parse_name(name) for name in disk.listdir(folder)]
    return sorted((p for p in found if p is not None), key=lambda p: (p.index, p.term), reverse=True)


def remove_leftovers(disk: Disk, server_dir: str) -> bool:
    """Remove what a crash has left of writing, receiving and removing. Raises `OSError`.

    Returns whether there is a folder of snapshots of any kind: most servers of many have none.
    """
    names = disk.listdir(server_dir)
    for name in names:
        if name == ACCEPTING or name.startswith(DISCARDED):
            remove_tree(disk, join(server_dir, name))
    paths = [join(server_dir, folder) for folder in FOLDERS.values() if folder in names]
    present = [path for path in paths if disk.is_dir(path)]
    for path in present:
        disk.fsync_dir(path)  # the names in it may have survived a kill without being durable
        for name in disk.listdir(path):
            inner = join(path, name)
            if name.endswith(WRITING) or (parse_name(name) is not None and not disk.listdir(inner)):
                remove_tree(disk, inner)  # an empty one was being removed
    return bool(present)


# --- jobs ------------------------------------------------------------------------------------


def write_job(
    disk: Disk,
    folder: str,
    meta: SnapshotMeta,
    live: Iterable[Index],
    state: Iterable[bytes],
    made: list[str],
) -> Job:
    """Write a snapshot into its place; returns it as `Kept`. After a failure, remove what it has `made`."""
    description = Description(meta, ranges_of(live))
    writing = _begin_writing(disk, folder, meta, made)
    return (yield from _write_into_place(disk, folder, writing, description, state, made))


def module_write_job(
    disk: Disk,
    folder: str,
    meta: SnapshotMeta,
    live: Iterable[Index],
    captured: ModuleCapture,
    made: list[str],
    lease: Lease,
) -> Job:
    """As `write_job`, with the files of a snapshot module.

    It holds the server's lease in each step of its own, not while the module works: that may take long, and a
    deletion would wait. What the module writes into a deleted directory has no place to come back to.
    """
    description = Description(meta, ranges_of(live))
    with lease.step():
        writing = _begin_writing(disk, folder, meta, made)
        disk.mkdir(join(writing, STATE), parents=False)
    yield
    captured.write(state_path(writing))
    yield

    def rest() -> Job:
        record = yield from seal_job(disk, writing, captured.bound)
        known = describe_with(description, record)
        kept: Kept = yield from _write_into_place(disk, folder, writing, known, (), made)
        return Kept(known, kept.path, kept.size + record.size)

    return (yield from stoppable(rest(), lambda: False, lease))


def _begin_writing(disk: Disk, folder: str, meta: SnapshotMeta, made: list[str]) -> str:
    """Make the directory that a snapshot has until it is complete."""
    writing = join(folder, snapshot_name(meta.position)) + WRITING
    disk.mkdir(folder, parents=False)
    remove_if_there(disk, writing)
    made.append(writing)
    disk.mkdir(writing, parents=False)
    return writing


def _write_into_place(
    disk: Disk, folder: str, writing: str, description: Description, state: Iterable[bytes], made: list[str]
) -> Job:
    target = join(folder, snapshot_name(description.meta.position))
    file = disk.create(join(writing, FILE))
    try:
        size = unsynced = 0
        buffer = b""
        for buffer in encode_snapshot(description, state):
            file.pwritev([buffer], size, sync=False)
            size += len(buffer)
            unsynced += len(buffer)
            yield
            if unsynced >= _SYNC_BYTES:
                file.datasync()
                unsynced = 0
                yield
        file.datasync()
    finally:
        file.close()
    yield
    disk.fsync_dir(writing)
    yield
    remove_if_there(disk, target)  # a damaged one; a good one of this position would have been kept
    made.append(target)
    disk.rename(writing, target)
    disk.fsync_dir(folder)
    return Kept(description, target, size, digest_of(buffer) if _is_comparable(description) else None)


def _is_comparable(description: Description) -> bool:
    """Whether members with equal states write equal bytes.

    Files of a module may differ. And until the log names all members by their uids, each knows only its own.
    """
    return description.module is None and all(record.uid is not None for record in description.meta.cluster)


def promote_job(disk: Disk, checkpoint: Kept, folder: str) -> Job:
    """Move a checkpoint to the snapshots (CKPT-02); returns it as `Kept`. It stays one if that fails."""
    target = join(folder, snapshot_name(checkpoint.meta.position))
    disk.mkdir(folder, parents=False)
    remove_if_there(disk, target)
    yield
    disk.rename(checkpoint.path, target)
    try:
        disk.fsync_dir(folder)
        disk.fsync_dir(checkpoint.path.rpartition("/")[0])
    except OSError:
        with contextlib.suppress(OSError):
            disk.rename(target, checkpoint.path)
        raise
    return Kept(checkpoint.description, target, checkpoint.size, checkpoint.digest)


def remove_job(disk: Disk, path: str) -> Job:
    """Remove a directory. What is left after an error or a crash, the next start removes."""
    yield
    remove_if_there(disk, path)


def tidy_job(disk: Disk, server_dir: str, current: IndexTerm, in_use: frozenset[str] = frozenset()) -> Job:
    """Remove what this snapshot replaces: older ones, and checkpoints that it covers (CKPT-05, CKPT-08).

    The directories `in_use` stay: a module reads their files while they are sent.
    """
    for kind, name in FOLDERS.items():
        folder = join(server_dir, name)
        for position in positions_in(disk, folder):
            path = join(folder, snapshot_name(position))
            is_current = kind is SnapshotKind.SNAPSHOT and position == current
            if position.index <= current.index and not is_current and path not in in_use:
                yield
                remove_if_there(disk, path)


def remove_if_there(disk: Disk, path: str) -> None:
    """Remove a directory and what it holds, if there is one."""
    if disk.exists(path):
        remove_tree(disk, path)


@contextlib.contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turn what the disk, or a leader's order, refuses into a `StorageError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: the snapshot cannot be received: {error}") from error
