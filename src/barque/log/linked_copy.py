"""A copy of a running node's directory by links, as of one moment: a backup of that node is made from it.

Theory of operation. Nearly all files never change: closed log files, segments, snapshots; the records of
servers and the tombstones are replaced, never written into. So a second name (a hard link) for each file is a
copy that costs no space and nearly no time, and it stays whole when the node removes or replaces the first
name. Three things are special. The log file that is being written is closed first. The meta file grows, so
its content is written anew. And a closed log file that is linked must not be recycled, since that would write
into it: `WalFiles.linked`.

All of it happens in one call on the loop, when nothing waits to be written. What workers make or remove
meanwhile does no harm: unfinished files are left out, and a file that is gone no longer counted.
"""

import contextlib
from collections.abc import Sequence

from barque.log import wal_format
from barque.log.disk import TEMPORARY, Disk, join, remove_tree, replace_file
from barque.log.identity import IDENTITY
from barque.log.snapshot_files import ACCEPTING, DISCARDED, WRITING
from barque.log.wal_files import MANIFEST, file_name
from barque.log.wal_format import FileEntry

LINKED = "linked-copy"
"""The directory's name, in the data directory. A start removes it."""

_UNFINISHED = (TEMPORARY, WRITING, ".compacting")


def is_unfinished(name: str) -> bool:
    """Whether a name is of something that the next start would remove."""
    return name.endswith(_UNFINISHED) or name == ACCEPTING or name.startswith(DISCARDED)


def make_linked_copy(disk: Disk, data_dir: str, closed: Sequence[FileEntry], meta: bytes) -> str:
    """Make the copy, with these log files and this meta file; returns its path. Raises `OSError`.

    There is one at a time: an older one goes.
    """
    target = join(data_dir, LINKED)
    remove_linked_copy(disk, data_dir)
    disk.mkdir(join(target, "wal"))
    for entry in closed:
        name = file_name(entry.number)
        disk.link(join(join(data_dir, "wal"), name), join(join(target, "wal"), name))
    replace_file(disk, join(target, "wal"), MANIFEST, wal_format.encode_manifest(closed))
    _link_tree(disk, join(data_dir, "servers"), join(target, "servers"))
    replace_file(disk, target, "meta", meta)
    disk.link(join(data_dir, IDENTITY), join(target, IDENTITY))
    return target


def _link_tree(disk: Disk, source: str, target: str) -> None:
    disk.mkdir(target, parents=False)
    with contextlib.suppress(FileNotFoundError):  # a worker has removed it: it no longer counted
        for name in disk.listdir(source):
            inner, copied = join(source, name), join(target, name)
            if is_unfinished(name):
                continue
            if disk.is_dir(inner):
                _link_tree(disk, inner, copied)
            else:
                with contextlib.suppress(FileNotFoundError):
                    disk.link(inner, copied)


def remove_linked_copy(disk: Disk, data_dir: str) -> None:
    """Remove the copy, if there is one. Raises `OSError`."""
    if disk.exists(join(data_dir, LINKED)):
        remove_tree(disk, join(data_dir, LINKED))
