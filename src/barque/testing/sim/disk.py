"""A disk in memory that loses what a real one may lose (`barque.log.disk.Disk`).

A write goes to a cache; a sync moves it to the disk. A crash keeps or loses each 512-byte sector of each
unsynced write by itself, and each unsynced change of a directory by itself. A failed sync drops the writes
that it should have synced, and the cache goes on showing them. The same `random.Random` gives the same
faults.
"""

import errno
import os
import random
from collections.abc import Callable, Sequence

from barque.errors import StorageError

SECTOR = 512

Fault = Callable[[str, str], OSError | None]
"""Called before each operation with its name and path; an error makes the operation fail."""


_SIZE = 1 << 40
"""Of a disk without faults, in bytes."""


class _Inode:
    """One file's bytes: as the cache shows them, as the disk has them, and the difference."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.unsynced: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None): truncated

    def write(self, offset: int, data: bytes) -> None:
        _apply(self.cache, offset, data)
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        _apply(self.cache, size, None)
        self.unsynced.append((size, None))

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _apply(self.disk, offset, data)
        self.unsynced.clear()

    def crash(self, chance: random.Random) -> None:
        for offset, data in self.unsynced:
            if data is None:
                if chance.random() < 0.5:
                    _apply(self.disk, offset, None)
                continue
            start = 0
            while start < len(data):
                end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
                if chance.random() < 0.5:
                    _apply(self.disk, offset + start, data[start:end])
                start = end
        self.unsynced.clear()
        self.cache = bytearray(self.disk)


def _apply(target: bytearray, offset: int, data: bytes | None) -> None:
    size = offset if data is None else offset + len(data)
    if len(target) < size:
        target.extend(bytes(size - len(target)))
    if data is None:
        del target[size:]
    else:
        target[offset:size] = data


_Change = tuple[str, _Inode | None, str | None]
"""A name, what it means now (None: nothing), and the name from which it was renamed."""


class SimFile:
    """One open file of a `SimDisk`. It is useless after a crash."""

    def __init__(self, disk: "SimDisk", path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._boots = disk.boots
        disk.handles[self] = None

    def _check(self, operation: str) -> None:
        if self._boots != self._disk.boots:
            raise OSError(errno.EBADF, "opened before the crash", self._path)
        self._disk.check(operation, self._path)

    def size(self) -> int:
        """The present length of the file."""
        return len(self._inode.cache)

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`."""
        self._check("pread")
        return bytes(self._inode.cache[offset : offset + length])

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        """Write, and sync if asked. A failed write may have put a part of the data into the cache."""
        data = b"".join(buffers)
        try:
            self._check("pwritev")
            self._disk.take_space(offset + len(data) - len(self._inode.cache), self._path)
        except OSError:
            if self._boots == self._disk.boots:
                part = self._disk.random.randrange(len(data) + 1)
                room = len(self._inode.cache) - offset
                self._inode.write(offset, data[: min(part, max(room, 0))])
            raise
        self._inode.write(offset, data)
        if sync:
            self.datasync()

    def datasync(self) -> None:
        """Make the file durable. A failed sync drops the unsynced pages, but the cache still shows them."""
        try:
            self._check("datasync")
        except OSError:
            self._inode.unsynced.clear()
            raise
        self._inode.sync()

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long."""
        self._check("truncate")
        self._inode.truncate(size)

    def close(self) -> None:
        """Close the file; a lock on it ends."""
        self._disk.handles.pop(self, None)
        self._disk.unlock(self._path, self._boots)

    def __repr__(self) -> str:
        return f"open file {self._path}"


class SimDisk:
    """A file system in memory, with crashes. A new directory is durable at once.

    `fault` makes operations fail. `space` is how many bytes files may still grow by (None: no limit).
    """

    def __init__(self, chance: random.Random) -> None:
        self.random = chance
        self.fault: Fault | None = None
        self.space: int | None = None
        self.boots = 0
        self.operations = 0
        self.handles: dict[SimFile, None] = {}
        """The files that the process has open."""
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._changes: list[_Change] = []
        self._directories: set[str] = {"/"}
        self._locks: set[str] = set()

    def check(self, operation: str, path: str) -> None:
        """Count an operation, and raise the error of the fault, if there is one."""
        self.operations += 1
        if self.fault is not None:
            error = self.fault(operation, path)
            if error is not None:
                raise error

    def take_space(self, growth: int, path: str) -> None:
        """Use up space for a growing file. Raises ENOSPC."""
        if growth > 0 and self.space is not None:
            if growth > self.space:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            self.space -= growth

    def open(self, path: str) -> SimFile:
        """Open an existing file."""
        self.check("open", path)
        return SimFile(self, path, self._inode(path))

    def create(self, path: str) -> SimFile:
        """Create an empty file, and open it."""
        self.check("create", path)
        inode = self._names.get(path)
        if inode is None:
            inode = _Inode()
            self._change(path, inode, None)
        else:
            inode.truncate(0)
        return SimFile(self, path, inode)

    def lock(self, path: str) -> SimFile:
        """Hold a lock on `path` until it is closed or the process dies."""
        if path in self._locks:
            raise StorageError(f"{path}: another process uses this data directory")
        if path not in self._names:
            self.create(path).close()
        self._locks.add(path)
        return SimFile(self, path, self._names[path])

    def unlock(self, path: str, boots: int) -> None:
        """Release a lock that was taken since the last crash."""
        if boots == self.boots:
            self._locks.discard(path)

    def read_file(self, path: str) -> bytes:
        """All bytes of a file."""
        self.check("read_file", path)
        return bytes(self._inode(path).cache)

    def rename(self, source: str, target: str) -> None:
        """Rename a file. After a crash, either both names have changed or neither."""
        self.check("rename", source)
        self._change(target, self._inode(source), source)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self.check("unlink", path)
        self._inode(path)
        self._change(path, None, None)

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents."""
        self.check("mkdir", path)
        while path not in self._directories:
            self._directories.add(path)
            path = os.path.dirname(path)

    def protect(self, path: str) -> None:
        """There are no other users."""
        self.check("protect", path)

    def free_bytes(self, path: str) -> int:
        """What files may still grow by."""
        return _SIZE if self.space is None else self.space

    def total_bytes(self, path: str) -> int:
        """A large disk: what nodes leave free does not depend on it."""
        return _SIZE

    def rmdir(self, path: str) -> None:
        """Remove an empty directory, durably at once."""
        self.check("rmdir", path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if any(os.path.dirname(name) == path for name in [*self._names, *self._directories]):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self._directories.discard(path)

    def is_dir(self, path: str) -> bool:
        """Whether a directory has that name."""
        return path in self._directories

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        self.check("listdir", path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        names = [*self._names, *self._directories]
        return sorted(os.path.basename(n) for n in names if n != path and os.path.dirname(n) == path)

    def exists(self, path: str) -> bool:
        """Whether something has that name."""
        return path in self._names or path in self._directories

    def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        self.check("fsync_dir", path)
        rest: list[_Change] = []
        for change in self._changes:
            if os.path.dirname(change[0]) == path:
                _rename(self._durable_names, change)
            else:
                rest.append(change)
        self._changes = rest

    def salt(self) -> int:
        """Draw 32 bits from the given generator."""
        return self.random.getrandbits(32)

    def crash(self) -> None:
        """Lose power: each unsynced sector and name is kept or lost by chance."""
        self.kill()
        for change in self._changes:
            if self.random.random() < 0.5:
                _rename(self._durable_names, change)
        self._changes.clear()
        self._names = dict(self._durable_names)
        for path in sorted(self._names):
            self._names[path].crash(self.random)

    def kill(self) -> None:
        """End the process but not the machine: the cache stays, locks and open files do not."""
        self.boots += 1
        self.handles.clear()
        self._locks.clear()

    def survivor(self, below: str = "/") -> "SimDisk":
        """Copy what a crash now would leave of this disk at worst: nothing unsynced.

        Only files whose paths begin with `below` are copied.
        """
        other = SimDisk(random.Random(0))  # noqa: S311  # draws nothing that matters
        other._directories = set(self._directories)
        for path, inode in self._durable_names.items():
            if path.startswith(below):
                other.set_content(path, bytes(inode.disk))
        return other

    def content(self, below: str) -> dict[str, bytes]:
        """The bytes of every file below a directory, as a process would read them; without the lock."""
        return {
            path: bytes(inode.cache)
            for path, inode in sorted(self._names.items())
            if path.startswith(f"{below}/") and not path.endswith("/lock")
        }

    @property
    def has_unsynced(self) -> bool:
        """Whether a loss of power now could lose anything."""
        return bool(self._changes) or any(inode.unsynced for inode in self._names.values())

    def durable(self, path: str) -> bytearray | None:
        """The bytes of a file that a crash now would leave at worst; read them, do not change them."""
        inode = self._durable_names.get(path)
        return None if inode is None else inode.disk

    def flip(self, path: str, offset: int, mask: int = 0x01) -> None:
        """Change the byte at `offset`, on the disk and in the cache (bit rot)."""
        inode = self._inode(path)
        for data in (inode.cache, inode.disk):
            if offset < len(data):
                data[offset] ^= mask

    def set_content(self, path: str, data: bytes) -> None:
        """Make a file hold exactly these bytes, durably; create it if necessary."""
        inode = self._names.get(path)
        if inode is None:
            inode = self._names[path] = self._durable_names[path] = _Inode()
        inode.cache, inode.disk = bytearray(data), bytearray(data)
        inode.unsynced.clear()

    def remove(self, path: str) -> None:
        """Delete a file durably, as an operator could behind the node's back."""
        self._names.pop(path, None)
        self._durable_names.pop(path, None)

    def _inode(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode

    def _change(self, path: str, inode: _Inode | None, source: str | None) -> None:
        change = (path, inode, source)
        _rename(self._names, change)
        self._changes.append(change)


def _rename(names: dict[str, _Inode], change: _Change) -> None:
    path, inode, source = change
    if source is not None:
        names.pop(source, None)
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
