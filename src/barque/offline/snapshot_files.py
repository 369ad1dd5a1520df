"""The snapshots and checkpoints of a data directory, as files."""

from collections.abc import Iterator

import msgspec

from barque.log import snapshot_format
from barque.log.disk import Disk, join
from barque.log.snapshot_files import FILE
from barque.offline.inspection import SERVERS, SNAPSHOTS


class FoundSnapshot(msgspec.Struct, frozen=True):
    """One snapshot or checkpoint. `damage` says what is wrong with its description, or is empty."""

    kind: str
    uid: str
    index: int
    term: int
    machine_version: int
    live_entries: int
    bytes: int
    path: str
    damage: str = ""


def find_snapshots(disk: Disk, place: str) -> Iterator[FoundSnapshot]:
    """The snapshots below a data directory, or in the directory of one server, oldest first.

    Only descriptions are read; a snapshot that cannot be read is in the result, with the reason.
    """
    servers = join(place, SERVERS)
    if disk.is_dir(servers):
        for uid in disk.listdir(servers):
            yield from _of_server(disk, join(servers, uid), uid)
    else:
        yield from _of_server(disk, place, place.rpartition("/")[2])


def _of_server(disk: Disk, path: str, uid: str) -> Iterator[FoundSnapshot]:
    for folder, kind in SNAPSHOTS.items():
        inner = join(path, folder)
        for name in disk.listdir(inner) if disk.is_dir(inner) else []:
            position = snapshot_format.parse_name(name)
            if position is not None:
                file = join(join(inner, name), FILE)
                yield _describe(disk, FoundSnapshot(kind, uid, position.index, position.term, 0, 0, 0, file))


def _describe(disk: Disk, found: FoundSnapshot) -> FoundSnapshot:
    try:
        file = disk.open(found.path)
    except OSError as error:
        return msgspec.structs.replace(found, damage=f"it cannot be read: {error.strerror}")
    try:
        described = snapshot_format.read_description(file.pread).description
        return msgspec.structs.replace(
            found,
            machine_version=described.meta.machine_version,
            live_entries=sum(last - first + 1 for first, last in described.live),
            bytes=file.size(),
        )
    except snapshot_format.MalformedSnapshot as error:
        return msgspec.structs.replace(found, bytes=file.size(), damage=str(error))
    finally:
        file.close()
