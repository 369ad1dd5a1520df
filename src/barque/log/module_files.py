"""A snapshot whose state a user's module keeps: its files, beside Barque's own file (SNAP-04).

The module fills `state/` and nothing else. Barque then syncs each file, takes its size and checksum, and
lists them in its own file, which is written last. So what a module does wrong is a failed snapshot, and
damage of its files is found without it. See `machine.snapshot_module` and docs/formats/snapshot.md.
"""

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from barque.errors import StorageError
from barque.log.background import Job
from barque.log.disk import Disk, DiskFile, join
from barque.log.snapshot_format import (
    FILES_MAX,
    Description,
    FileRecord,
    MalformedSnapshot,
    ModuleRecord,
    encode_snapshot,
)
from barque.machine.snapshot_module import BoundModule
from barque.types import is_valid_name

STATE = "state"
"""The module's directory, in that of the snapshot."""

_READ_BYTES = 1024 * 1024


def state_path(path: str) -> Path:
    """The module's directory in the directory of a snapshot."""
    return Path(join(path, STATE))


def compatible(bound: BoundModule | None, record: ModuleRecord, path: str) -> BoundModule:
    """The module that reads this snapshot. Raises `StorageError` if ours is not it."""
    if bound is None:
        raise StorageError(
            f"{path}: {record} wrote this snapshot, and the machine no longer has a snapshot module; install "
            "code that has it, with the machine version of the snapshot"
        )
    if bound.name != record.name or bound.version < record.version:
        raise StorageError(f"{path}: {record} wrote this snapshot, and {bound} cannot read it")
    return bound


def seal_job(disk: Disk, path: str, bound: BoundModule) -> Job:
    """Sync and checksum what a module has written in `path`; returns its `ModuleRecord`.

    Raises `StorageError` for anything but plain files, and for things beside the module's directory.
    """
    strangers = set(disk.listdir(path)) - {STATE, "snapshot", "live.segment"}
    if strangers:
        raise StorageError(f"{bound}: it has written outside its directory: {', '.join(sorted(strangers))}")
    directory = join(path, STATE)
    names = disk.listdir(directory)
    if not names:
        raise StorageError(f"{bound}: it has written nothing")
    if len(names) > FILES_MAX:
        raise StorageError(f"{bound}: it has written {len(names)} files, more than {FILES_MAX}")
    files: list[FileRecord] = []
    for name in names:
        file_path = join(directory, name)
        file = _plain_file(disk, file_path, bound)
        try:
            disk.make_private(file_path)
            file.datasync()
            yield
            size = crc = 0
            for data in _content(file):
                crc, size = crc32(data, crc), size + len(data)
                yield
        finally:
            file.close()
        files.append(FileRecord(name, size, crc))
    disk.fsync_dir(directory)
    yield
    return ModuleRecord(bound.name, bound.version, bound.facts(state_path(path)), tuple(files))


def _plain_file(disk: Disk, path: str, bound: BoundModule) -> DiskFile:
    name = path.rpartition("/")[2]
    if not is_valid_name(name) or disk.is_dir(path):
        raise StorageError(f"{bound}: it has written {name!r}, which is no file that a snapshot may have")
    try:
        return disk.open(path)
    except OSError as error:
        raise StorageError(f"{bound}: {name!r} is no plain file: {error}") from error


def _content(file: DiskFile) -> Iterator[bytes]:
    offset = 0
    while data := file.pread(_READ_BYTES, offset):
        yield data
        offset += len(data)


def check_files(disk: Disk, path: str, record: ModuleRecord) -> None:
    """Compare the files of a complete snapshot with their list. Raises `MalformedSnapshot` and `OSError`."""
    directory = join(path, STATE)
    names = disk.listdir(directory) if disk.is_dir(directory) else []
    if not record.files or names != [file.name for file in record.files]:
        raise MalformedSnapshot(0, f"{STATE}/ does not hold the files that the {record} has written")
    for listed in record.files:
        file = disk.open(join(directory, listed.name))
        try:
            crc = 0
            for data in _content(file) if file.size() == listed.size else ():
                crc = crc32(data, crc)
            if file.size() != listed.size or crc != listed.crc:
                raise MalformedSnapshot(0, f"{STATE}/{listed.name} has other bytes than were written")
        finally:
            file.close()


def describe_with(description: Description, record: ModuleRecord) -> Description:
    """The same description with a module."""
    return msgspec.structs.replace(description, module=record)


def encode_outgoing(description: Description, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes that carry a module's state to another member."""
    record = description.module
    assert record is not None
    return encode_snapshot(describe_with(description, msgspec.structs.replace(record, files=())), chunks)


def accept_job(disk: Disk, path: str, bound: BoundModule, sent: Description, pieces: Iterator[bytes]) -> Job:
    """Let the module make its files of what has arrived; returns the description of what is here now.

    The file that has arrived gives way to one that lists the module's files. Raises `StorageError`, and
    what `pieces` raises.
    """
    assert sent.module is not None
    disk.mkdir(join(path, STATE), parents=False)
    yield
    bound.accept_chunks(state_path(path), pieces)
    yield
    record: ModuleRecord = yield from seal_job(disk, path, bound)
    if record.facts != sent.module.facts:
        raise StorageError(
            f"{bound}: read_meta: the state that has arrived is not as the sender described it"
        )
    bound.validate(state_path(path))
    described = describe_with(sent, record)  # with our version: a newer module may have written newer files
    replacement = join(path, "snapshot.sealed")
    file = disk.create(replacement)
    try:
        size = 0
        for buffer in encode_snapshot(described, ()):
            file.pwritev([buffer], size, sync=False)
            size += len(buffer)
        file.datasync()
    finally:
        file.close()
    disk.rename(replacement, join(path, "snapshot"))
    disk.fsync_dir(path)
    return described
