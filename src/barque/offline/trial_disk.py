"""A disk over another one, whose writes stay in memory.

A node's recovery may write what it likes here, and the disk below does not notice. So a tool asks the
recovery itself whether a node would start.
"""

import errno
import os
from collections.abc import Sequence

from barque.log.disk import Disk, DiskFile, join

_PLENTY = 1 << 40


class _Inode:
    """A file of a trial, under whatever name: what the disk below has at `source`, or else `content`."""

    def __init__(self, source: str, content: bytearray | None = None) -> None:
        self.source = source
        self.content = content


class _TrialFile:
    """An open file of a trial: the real bytes until the first write, then a copy in memory."""

    def __init__(self, inode: _Inode, below: Disk) -> None:
        self._inode = inode
        self._below = below.open(inode.source) if inode.content is None else None

    def size(self) -> int:
        """How long the file is now."""
        content = self._inode.content
        if content is not None:
            return len(content)
        assert self._below is not None
        return self._below.size()

    def pread(self, length: int, offset: int) -> bytes:
        """At most `length` bytes at `offset`."""
        content = self._inode.content
        if content is not None:
            return bytes(content[offset : offset + length])
        assert self._below is not None
        return self._below.pread(length, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        """Write into the copy."""
        content, data = self._copy(), b"".join(buffers)
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        """Cut the copy, or fill it with zeros."""
        content = self._copy()
        del content[size:]
        content.extend(bytes(size - len(content)))

    def _copy(self) -> bytearray:
        if self._inode.content is None:
            self._inode.content = bytearray(self.pread(self.size(), 0))
        return self._inode.content

    def datasync(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Close the real file."""
        if self._below is not None:
            self._below.close()
            self._below = None


class TrialDisk:
    """A disk over another one. Everything written stays in memory, and is forgotten with this object.

    `_inodes` are the files that were opened, made, renamed or removed (None), by path; `_directories` the
    directories that were made (True) or removed (False). For every other name the disk below counts.
    """

    def __init__(self, below: Disk) -> None:
        self._below = below
        self._inodes: dict[str, _Inode | None] = {}
        self._directories: dict[str, bool] = {}

    def _get(self, path: str) -> _Inode:
        inode = self._inodes[path] if path in self._inodes else _Inode(path)
        if inode is None or not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._inodes[path] = inode
        return inode

    def open(self, path: str) -> DiskFile:
        """Open an existing file."""
        return _TrialFile(self._get(path), self._below)

    def create(self, path: str) -> DiskFile:
        """Make an empty file."""
        inode = self._inodes[path] = _Inode(path, bytearray())
        return _TrialFile(inode, self._below)

    def lock(self, path: str) -> DiskFile:
        """Lock nothing: nobody else can see this disk."""
        return self.create(path)

    def read_file(self, path: str) -> bytes:
        """All bytes of a file."""
        file = self.open(path)
        try:
            return file.pread(file.size(), 0)
        finally:
            file.close()

    def rename(self, source: str, target: str) -> None:
        """Rename a file, or a directory with all that it holds."""
        if self.is_dir(source):
            self.mkdir(target)
            for name in self.listdir(source):
                self.rename(join(source, name), join(target, name))
            self.rmdir(source)
        else:
            self._inodes[target] = self._get(source)
            self._inodes[source] = None

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        self._inodes[target] = self._get(source)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self._get(path)
        self._inodes[path] = None

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """Make a directory, and its parents."""
        if not parents and not self.exists(path.rpartition("/")[0]):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        while path and not self.exists(path):
            self._directories[path] = True
            path = path.rpartition("/")[0]

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        if self.listdir(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self._directories[path] = False

    def is_dir(self, path: str) -> bool:
        """Whether a directory has that name."""
        return self._directories[path] if path in self._directories else self._below.is_dir(path)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        made = self._directories.get(path)
        if made is False:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        below = [] if made else self._below.listdir(path)
        known = (known.rpartition("/") for known in (*self._inodes, *self._directories))
        names = {*below, *(name for parent, _, name in known if parent == path)}
        return sorted(name for name in names if self.exists(join(path, name)))

    def exists(self, path: str) -> bool:
        """Whether something has that name."""
        if path in self._inodes:
            return self._inodes[path] is not None
        return self._directories[path] if path in self._directories else self._below.exists(path)

    def protect(self, path: str) -> None:
        """Nobody else can see this disk."""

    def make_private(self, path: str) -> None:
        """Nobody else can see this disk."""

    def free_bytes(self, path: str) -> int:
        """Plenty: the memory is the limit."""
        return _PLENTY

    def total_bytes(self, path: str) -> int:
        """The same."""
        return _PLENTY

    def fsync_dir(self, path: str) -> None:
        """Nothing is kept."""

    def fsync_dirs(self, paths: Sequence[str]) -> None:
        """Nothing is kept."""

    def salt(self) -> int:
        """Any number: nothing is kept."""
        return 1
