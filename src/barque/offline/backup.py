"""Copy a stopped node's data directory, check the copy, and make a data directory of it again.

Theory of operation. A backup is a directory with the files of the data directory (`data/`) and a list of them
with their checksums (`backup`). What a start would remove, the lock and prepared log files are left out.
A backup, and a directory that is restored, appear under their names when they are complete and synced.
Nothing that exists is ever written over.

A restore for another node or installation renames the owner and its own member, and gives every cluster
another id, so that the members of the former cluster are strangers. Entries and snapshots still name the
former members: `barque recover force-shrink` makes the restored member the whole cluster, and is the
operator's to call. All copies of one installation that are restored under one new installation fit together.
"""

import base64
import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from barque.errors import ConfigurationError, Damaged, StorageError
from barque.log.checked_text import MalformedText
from barque.log.disk import Disk, OsDisk, ReadingDisk, join, remove_tree, replace_file
from barque.log.identity import IDENTITY, Owner, encode_identity
from barque.log.linked_copy import LINKED, is_unfinished
from barque.log.wal_files import is_spare
from barque.offline.backup_format import (
    DATA,
    MANIFEST,
    BackedUpFile,
    BackupManifest,
    decode_manifest,
    encode_manifest,
)
from barque.offline.findings import Finding, Severity, damage
from barque.offline.inspection import SERVERS, WAL, Heard, ignore, inspect
from barque.runtime.server_record import (
    ServerRecord,
    check_name,
    check_record,
    configured_cluster_id,
    decode_record,
    encode_record,
)
from barque.types import ServerId

_CHUNK = 1 << 20
_WRITING = ".writing"
_AGAIN = "make another backup; this one cannot be restored"
_SHOWN_MAX = 5


def create_backup(
    data_dir: str, target: str, *, at_ms: int, release: str, heard: Heard = ignore
) -> BackupManifest:
    """Copy a stopped node's directory to `target`, which must not exist.

    Raises `StorageError` if a node runs there or the disk fails, and `Damaged` for a directory that a node
    would refuse: a backup of it would only hide that.
    """
    disk, writing = ReadingDisk(), OsDisk()
    with ExitStack() as undo:
        lock = join(data_dir, "lock")
        if disk.exists(lock):
            held = disk.open(lock)
            undo.callback(held.close)
            try:
                held.try_lock(fcntl.LOCK_SH)
            except BlockingIOError:
                raise StorageError(f"{lock}: a node runs in this data directory; stop it first") from None
        report = inspect(disk, data_dir)
        if report.worst is Severity.DAMAGE or report.owner is None:
            causes = [f.cause for f in report.findings if f.severity is Severity.DAMAGE][:_SHOWN_MAX]
            raise Damaged(
                f"{data_dir}: not copied, since a node would not start with it: {'; '.join(causes)}. What to "
                "do: look at `barque doctor`; to keep the damaged files, copy them with `cp -a`"
            )
        with new_directory(writing, target) as temporary:
            files = _copy_all(disk, data_dir, writing, join(temporary, DATA), heard)
            manifest = BackupManifest(owner=report.owner, at_ms=at_ms, release=release, files=tuple(files))
            replace_file(writing, temporary, MANIFEST, encode_manifest(manifest))
        return manifest


def _copy_all(source_disk: Disk, data_dir: str, disk: Disk, target: str, heard: Heard) -> list[BackedUpFile]:
    files, done = [], 0
    disk.mkdir(target)
    for path in files_of(source_disk, data_dir):
        size, digest = copy_file(source_disk, join(data_dir, path), disk, join(target, path))
        files.append(BackedUpFile(path, size, digest))
        done += size
        heard(done)
    _sync_directories(disk, target, files)
    return files


def files_of(disk: Disk, root: str, below: str = "") -> Iterator[str]:
    """The files that a backup holds, by their paths below the data directory."""
    for name in disk.listdir(join(root, below) if below else root):
        path = f"{below}/{name}" if below else name
        if path in ("lock", LINKED) or is_unfinished(name) or (below == WAL and is_spare(name)):
            continue
        if disk.is_dir(join(root, path)) or (not below and path == WAL):
            yield from files_of(disk, root, path)
        else:
            yield path


def copy_file(source_disk: Disk, source: str, disk: Disk, target: str) -> tuple[int, str]:
    """Copy a file durably, but for its name; returns its size and SHA-256. Raises `OSError`."""
    digest = hashlib.sha256()
    disk.mkdir(target.rpartition("/")[0])
    read, written = source_disk.open(source), disk.create(target)
    try:
        offset = 0
        while chunk := read.pread(_CHUNK, offset):
            digest.update(chunk)
            written.pwritev([chunk], offset, sync=False)
            offset += len(chunk)
        written.datasync()
        return offset, digest.hexdigest()
    finally:
        read.close()
        written.close()


@contextmanager
def new_directory(disk: Disk, target: str) -> Iterator[str]:
    """Make a directory that gets the name `target` when it is complete, and goes if that fails.

    Raises `ConfigurationError` if something is there.
    """
    temporary = target + _WRITING
    if disk.exists(target):
        raise ConfigurationError(f"{target}: there is something already; name a path where nothing is")
    if disk.exists(temporary):
        raise ConfigurationError(
            f"{temporary}: an earlier copy was interrupted, or is under way; remove it if no copy is made now"
        )
    disk.mkdir(temporary)
    try:
        yield temporary
    except BaseException:
        with suppress(OSError):
            remove_tree(disk, temporary)
        raise
    disk.fsync_dir(temporary)
    disk.rename(temporary, target)
    disk.fsync_dir(target.rpartition("/")[0] or "/")


def _sync_directories(disk: Disk, root: str, files: list[BackedUpFile]) -> None:
    folders = {file.path.rpartition("/")[0] for file in files}
    parents = {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, 5)}
    for folder in sorted({*folders, *parents}, reverse=True):
        disk.fsync_dir(join(root, folder) if folder else root)
    disk.fsync_dir(root)


def read_manifest(disk: Disk, backup: str) -> BackupManifest:
    """The list of a backup's files. Raises `Damaged`, and `ConfigurationError` if this is no backup."""
    path = join(backup, MANIFEST)
    if not disk.exists(path):
        raise ConfigurationError(f"{backup} is no backup: {path} is missing")
    try:
        return decode_manifest(disk.read_file(path))
    except MalformedText as error:
        raise Damaged(f"{path}: damaged: {error}. What to do: {_AGAIN}") from error


def verify_backup(backup: str, heard: Heard = ignore) -> Iterator[Finding]:
    """What is wrong with a backup: files that changed, are missing or were added, and all of `inspect`.

    Raises what `read_manifest` raises.
    """
    disk = ReadingDisk()
    manifest, root = read_manifest(disk, backup), join(backup, DATA)
    listed = {file.path for file in manifest.files}
    done = 0
    for file in manifest.files:
        path = join(root, file.path)
        if not disk.exists(path):
            yield damage("missing", path, "the backup lists this file, and it is gone", remedy=_AGAIN)
            continue
        size, digest = _digest(disk, path)
        if (size, digest) != (file.size, file.sha256):
            yield damage("changed", path, "it is not the file that was copied", remedy=_AGAIN)
        done += size
        heard(done)
    for name in files_of(disk, root) if disk.is_dir(root) else ():
        if name not in listed:
            yield damage("added", join(root, name), "the backup does not list it", remedy=_AGAIN)
    yield from inspect(disk, root).findings


def _digest(disk: Disk, path: str) -> tuple[int, str]:
    digest, offset = hashlib.sha256(), 0
    file = disk.open(path)
    try:
        while chunk := file.pread(_CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
    finally:
        file.close()
    return offset, digest.hexdigest()


def restore_backup(
    backup: str,
    target: str,
    *,
    node: str | None = None,
    installation: str | None = None,
    heard: Heard = ignore,
) -> Owner:
    """Make a data directory of a backup at `target`, where nothing may be; returns its owner.

    With another `node` or `installation`, the clusters get other ids (see above). Raises `ConfigurationError`
    for a path where something is and for names that are none, `Damaged` for a backup that has changed, and
    `OSError`.
    """
    disk, reading = OsDisk(), ReadingDisk()
    manifest = read_manifest(reading, backup)
    old = manifest.owner
    owner = Owner(installation or old.installation, node or old.node)
    check_name("node", owner.node)
    check_name("installation", owner.installation)
    with new_directory(disk, target) as temporary:
        done = 0
        for file in manifest.files:
            source = join(join(backup, DATA), file.path)
            if copy_file(reading, source, disk, join(temporary, file.path)) != (file.size, file.sha256):
                raise Damaged(f"{source}: it is not the file that was copied. What to do: {_AGAIN}")
            done += file.size
            heard(done)
        if owner != old:
            _change_owner(disk, temporary, old, owner)
        _sync_directories(disk, temporary, list(manifest.files))
    return owner


def _change_owner(disk: Disk, data_dir: str, old: Owner, new: Owner) -> None:
    """Rename the owner of a directory that is being restored, and its members."""
    for uid in disk.listdir(join(data_dir, SERVERS)):
        folder = join(join(data_dir, SERVERS), uid)
        if disk.is_dir(folder) and disk.exists(join(folder, "config")):
            record = decode_record(disk.read_file(join(folder, "config")), old.installation)
            replace_file(disk, folder, "config", encode_record(renamed(record, old, new)))
    replace_file(disk, data_dir, IDENTITY, encode_identity(new))


def renamed(record: ServerRecord, old: Owner, new: Owner) -> ServerRecord:
    """The record of a server that moves to another node or installation, and of a cluster with another id."""

    def at_home(member: ServerId) -> ServerId:
        return ServerId(member.name, new.node) if member.node == old.node else member

    names = {str(member): str(at_home(member)) for member in record.initial_members}
    changed = msgspec.structs.replace(
        record,
        initial_members=tuple(map(at_home, record.initial_members)),
        initial_uids={names.get(member, member): uid for member, uid in record.initial_uids.items()},
        cluster_id=_other_cluster_id(record, old, new),
    )
    check_record(changed, new.node)
    return changed


def _other_cluster_id(record: ServerRecord, old: Owner, new: Owner) -> str:
    """The id of the restored cluster. All its members in one new installation compute the same id."""
    if old.installation == new.installation:
        made_of = f"{record.cluster_id}\0{new.installation}\0{new.node}"
    elif record.cluster_id == configured_cluster_id(old.installation, record.cluster):
        return configured_cluster_id(new.installation, record.cluster)
    else:
        made_of = f"{record.cluster_id}\0{new.installation}"
    return (
        "R" + base64.b32encode(hashlib.sha256(f"barque restore\0{made_of}".encode()).digest())[:19].decode()
    )
