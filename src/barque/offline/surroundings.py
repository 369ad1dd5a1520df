"""Who may read and change the files of a data directory, and how much space there is."""

import os
import stat
from collections.abc import Iterator

from barque.log.disk import Disk, join
from barque.log.disk_guard import DiskGuard, default_limit
from barque.log.storage import StorageConfig
from barque.offline.findings import Finding, warning

_SHOWN_MAX = 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def permission_findings(disk: Disk, data_dir: str) -> Iterator[Finding]:
    """Files of another user than the directory's, and files that others may read or change."""
    owner = os.stat(data_dir).st_uid
    foreign: list[str] = []
    open_to_others: list[str] = []
    for path in _walk(disk, data_dir):
        found = os.lstat(path)
        if found.st_uid != owner:
            foreign.append(path)
        if found.st_mode & _OTHERS and not stat.S_ISLNK(found.st_mode):
            open_to_others.append(path)
    for path in foreign[:_SHOWN_MAX]:
        cause = f"it belongs to another user than the data directory ({len(foreign)} such files in all)"
        yield warning("owner", path, cause, f"chown -R the directory's user {data_dir}")
    for path in open_to_others[:_SHOWN_MAX]:
        cause = (
            f"other users may use it ({len(open_to_others)} such files in all); it holds the machines' data"
        )
        yield warning("permissions", path, cause, f"chmod -R go= {data_dir}")


def _walk(disk: Disk, path: str) -> Iterator[str]:
    """Every file and directory below this one."""
    try:
        names = disk.listdir(path)
    except OSError:
        return  # the inspection tells of it
    for name in names:
        inner = join(path, name)
        yield inner
        if disk.is_dir(inner):
            yield from _walk(disk, inner)


def space_findings(disk: Disk, data_dir: str) -> Iterator[Finding]:
    """Too little space for a node that has the default limit of its disk guard."""
    limit = default_limit(StorageConfig().wal_max_size_bytes, disk.total_bytes(data_dir))
    guard = DiskGuard(disk, data_dir, limit)
    guard.look()
    if guard.full:
        cause = f"only {guard.free_bytes} bytes are free: a node refuses new commands below {limit}"
        yield warning("space", data_dir, cause, "free some space, or move the directory to a larger disk")
