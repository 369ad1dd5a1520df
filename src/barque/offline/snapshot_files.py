"""The snapshots and checkpoints of a data directory, as files: list them, copy one, begin with one."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from barque.core.log_contract import SnapshotKind
from barque.errors import ConfigurationError, Damaged
from barque.log import snapshot_format
from barque.log.background import InlineWorker
from barque.log.disk import Disk, OsDisk, ReadingDisk, join
from barque.log.identity import Owner
from barque.log.snapshot_files import FILE, FOLDERS, write_job
from barque.log.snapshot_format import Description
from barque.log.storage import Storage, StorageConfig
from barque.machine.arguments import canonical_arguments
from barque.offline.backup import copy_file, new_directory
from barque.offline.inspection import SERVERS, SNAPSHOTS
from barque.runtime.directory import Directory, new_cluster_id, new_uid
from barque.runtime.server_record import ServerRecord, check_name, check_record
from barque.types import MemberRecord, ServerId, Term


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
    module: str = ""
    """The snapshot module that wrote the state, and its version; empty for Barque's own format."""


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
            bytes=file.size() + (described.module.size if described.module is not None else 0),
            module=str(described.module or ""),
        )
    except snapshot_format.MalformedSnapshot as error:
        return msgspec.structs.replace(found, bytes=file.size(), damage=str(error))
    finally:
        file.close()


def export_snapshot(source: str, target: str) -> Description:
    """Copy the file of a snapshot to `target`, where nothing may be, and check every byte of it.

    Raises `Damaged` for a damaged file, `ConfigurationError` if something is at `target`, or if the snapshot
    still needs entries of its log or the files of a snapshot module, and `OSError`.
    """
    reading, disk = ReadingDisk(), OsDisk()
    described = read_whole(reading, source)
    if disk.exists(target):
        raise ConfigurationError(f"{target}: there is something already; name a path where nothing is")
    copy_file(reading, source, disk, target)
    disk.fsync_dir(target.rpartition("/")[0] or "/")
    return described


def read_whole(disk: Disk, path: str) -> Description:
    """The description of a snapshot that is whole and needs no entries. Raises as `export_snapshot` does."""
    file = disk.open(path)
    try:
        described = snapshot_format.verify(file.pread)
    except snapshot_format.MalformedSnapshot as error:
        raise Damaged(f"{path}: damaged {error}; look for another: barque snapshot list") from error
    finally:
        file.close()
    if described.module is not None:
        raise ConfigurationError(
            f"{path}: {described.module} keeps this state in files beside this one; copy the whole directory "
            "instead: barque backup create"
        )
    if described.live:
        raise ConfigurationError(
            f"{path}: this machine still needs entries of its log, which are not in the file; copy the whole "
            "directory instead: barque backup create"
        )
    return described


def import_snapshot(
    source: str, target: str, owner: Owner, cluster: str, machine: str, arguments: dict[str, Any]
) -> ServerRecord:
    """Make a data directory of one member, alone in its cluster, whose state is that of a snapshot.

    The cluster is a new one: it has an id of its own. Raises `ConfigurationError` for names that are none and
    a target where something is, `Damaged` for a damaged file, `StorageError` and `OSError`.
    """
    reading, disk, rng = ReadingDisk(), OsDisk(), random.SystemRandom()
    described = read_whole(reading, source)
    check_name("node", owner.node)
    check_name("installation", owner.installation)
    member, uid = ServerId(cluster, owner.node), new_uid(cluster, rng)
    record = ServerRecord(
        name=cluster,
        uid=uid,
        cluster=cluster,
        machine=machine,
        arguments=canonical_arguments(arguments),
        initial_members=(member,),
        cluster_id=new_cluster_id(rng),
        initial_uids={str(member): uid},
    )
    check_record(record, owner.node)
    meta = msgspec.structs.replace(described.meta, cluster=(MemberRecord(member, uid),))
    with new_directory(disk, target) as temporary:
        _make_server(disk, temporary, owner, record, meta.position.term)
        folder = join(join(join(temporary, SERVERS), uid), FOLDERS[SnapshotKind.SNAPSHOT])
        disk.mkdir(folder, parents=False)
        file = reading.open(source)
        try:
            state = snapshot_format.read_state(file.pread, snapshot_format.read_description(file.pread))
            for _ in write_job(disk, folder, meta, (), state, []):
                pass
        finally:
            file.close()
    return record


def _make_server(disk: Disk, data_dir: str, owner: Owner, record: ServerRecord, term: Term) -> None:
    """A data directory with one server that has a term and nothing else."""
    directory = Directory(disk, data_dir, owner)
    storage = Storage.open(
        disk,
        data_dir,
        owner,
        StorageConfig(wal_writer="inline", wal_prefill=False),
        lambda _event: None,
        lambda _function: None,
        make_worker=lambda _wake: InlineWorker(),
        complete=directory.create,
    )
    try:
        directory.load()
        directory.add(record)
        storage.meta.store(record.uid, term, None)
        storage.sync_meta()
    finally:
        storage.close()
