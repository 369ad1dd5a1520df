"""A disk in memory that loses what a real one may lose (`barque.log.disk.Disk`).

A write goes to a cache; a sync moves it to the disk. A crash keeps or loses each 512-byte sector of each
unsynced write by itself, and each unsynced change of a directory by itself; by chance, or as a `Fate` says. A
failed sync drops the writes that it should have synced, and the cache goes on showing them. The same
`random.Random` gives the same faults.
"""

import copy
import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from barque.errors import StorageError

SECTOR = 512

Fault = Callable[[str, str], OSError | None]
"""Called before each operation with its name and path; an error makes the operation fail."""

_SIZE = 1 << 40
"""Of a disk without faults, in bytes."""


class Fate(Protocol):
    """Decides what a loss of power keeps of what was not synced."""

    def keeps(self, file: str, order: int) -> bool:
        """Whether a sector of a write to this file, or a change of a name (file ""), has reached the disk.

        `order` is the number of the operation. Within a file, and among names, earlier ones are asked first.
        """


class Write(NamedTuple):
    """An unsynced write at `offset`; without data, a truncation to that size. `order`: see `Fate`."""

    offset: int
    data: bytes | None
    order: int


class _Chance:
    """Each sector and name by itself."""

    def __init__(self, chance: random.Random) -> None:
        self._random = chance

    def keeps(self, _file: str, _order: int) -> bool:
        return self._random.random() < 0.5


class _Inode:
    """One file's bytes: as the cache shows them, as the disk has them, and the difference."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.unsynced: list[Write] = []

    def write(self, offset: int, data: bytes, order: int) -> None:
        _apply(self.cache, offset, data)
        self.unsynced.append(Write(offset, data, order))

    def truncate(self, size: int, order: int) -> None:
        _apply(self.cache, size, None)
        self.unsynced.append(Write(size, None, order))

    def sync(self) -> None:
        for offset, data, _order in self.unsynced:
            _apply(self.disk, offset, data)
        self.unsynced.clear()

    def crash(self, path: str, fate: Fate) -> None:
        for offset, data, order in self.unsynced:
            if data is None:
                if fate.keeps(path, order):
                    _apply(self.disk, offset, None)
                continue
            start = 0
            while start < len(data):
                end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
                if fate.keeps(path, order):
                    _apply(self.disk, offset + start, data[start:end])
                start = end
        self.unsynced.clear()
        self.cache = bytearray(self.disk)

    def fork(self) -> "_Inode":
        other = _Inode()
        other.cache, other.disk = bytearray(self.cache), bytearray(self.disk)
        other.unsynced = list(self.unsynced)
        return other


def _apply(target: bytearray, offset: int, data: bytes | None) -> None:
    size = offset if data is None else offset + len(data)
    if len(target) < size:
        target.extend(bytes(size - len(target)))
    if data is None:
        del target[size:]
    else:
        target[offset:size] = data


class _Directory:
    """Names, as the cache shows them, and as a crash would leave them at worst."""

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}


_Node = _Inode | _Directory


class _Change(NamedTuple):
    """A name, what it means now (None: nothing), and the directory and name from which it was renamed."""

    directory: _Directory
    name: str
    node: _Node | None
    source: tuple[_Directory, str] | None
    order: int

    def reach_cache(self) -> None:
        """Let processes see it."""
        if self.source is not None:
            self.source[0].names.pop(self.source[1], None)
        self._set(self.directory.names)

    def reach_disk(self) -> None:
        """Make it durable. What has come to the old name since then stays."""
        if self.source is not None and self.source[0].durable.get(self.source[1]) is self.node:
            del self.source[0].durable[self.source[1]]
        self._set(self.directory.durable)

    def _set(self, names: dict[str, _Node]) -> None:
        if self.node is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.node


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def _files(directory: _Directory, path: str, *, durable: bool = False) -> Iterator[tuple[str, _Inode]]:
    """The files in and below a directory, by their paths."""
    for name, node in (directory.durable if durable else directory.names).items():
        if isinstance(node, _Directory):
            yield from _files(node, f"{path}/{name}", durable=durable)
        else:
            yield f"{path}/{name}", node


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
        data = self._inode.cache[offset : offset + length]
        at = self._disk.rot.get(self._path, -1) - offset
        if 0 <= at < len(data):
            data[at] ^= 1
        return bytes(data)

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
                self._inode.write(offset, data[: min(part, max(room, 0))], self._disk.operations)
            raise
        self._inode.write(offset, data, self._disk.operations)
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
        self._inode.truncate(size, self._disk.operations)

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
        self.rot: dict[str, int] = {}
        """By path: the byte that processes read wrong from now on, while checkers see what was written."""
        self.space: int | None = None
        self.boots = 0
        self.operations = 0
        self.handles: dict[SimFile, None] = {}
        """The files that the process has open."""
        self._root = _Directory()
        self._changes: list[_Change] = []
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
        return SimFile(self, path, self._create(path))

    def _create(self, path: str) -> _Inode:
        node = self._find(path)
        if isinstance(node, _Directory):
            raise _error(errno.EISDIR, path)
        if node is None:
            node = _Inode()
            self._change(path, node, None)
        else:
            node.truncate(0, self.operations)
        return node

    def lock(self, path: str) -> SimFile:
        """Hold a lock on `path` until it is closed or the process dies."""
        if path in self._locks:
            raise StorageError(f"{path}: another process uses this data directory")
        if self._find(path) is None:
            self.create(path).close()
        self._locks.add(path)
        return SimFile(self, path, self._inode(path))

    def unlock(self, path: str, boots: int) -> None:
        """Release a lock that was taken since the last crash."""
        if boots == self.boots:
            self._locks.discard(path)

    def read_file(self, path: str) -> bytes:
        """All bytes of a file."""
        self.check("read_file", path)
        return bytes(self._inode(path).cache)

    def rename(self, source: str, target: str) -> None:
        """Rename a file, or a directory with all that it holds.

        After a crash, either both names have changed or neither. A sync of the new directory decides it.
        """
        self.check("rename", source)
        node, replaced = self._node(source), self._find(target)
        if isinstance(node, _Directory):
            if isinstance(replaced, _Inode):
                raise _error(errno.ENOTDIR, target)
            if replaced is not None and replaced.names:
                raise _error(errno.ENOTEMPTY, target)
        elif isinstance(replaced, _Directory):
            raise _error(errno.EISDIR, target)
        self._change(target, node, source)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        self.check("link", target)
        if self._find(target) is not None:
            raise _error(errno.EEXIST, target)
        self._change(target, self._inode(source), None)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self.check("unlink", path)
        self._inode(path)
        self._change(path, None, None)

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """Make a directory durably, unless it exists; also its parents, unless `parents` is false."""
        self.check("mkdir", path)
        if not parents:
            self._directory(os.path.dirname(path))
        self._make_directory(path)

    def _make_directory(self, path: str) -> _Directory:
        found = self._root
        for name in _names_of(path):
            node = found.names.get(name)
            if node is None:
                node = found.names[name] = found.durable[name] = _Directory()
            if not isinstance(node, _Directory):
                raise _error(errno.ENOTDIR, path)
            found = node
        return found

    def protect(self, path: str) -> None:
        """There are no other users."""
        self.check("protect", path)

    def make_private(self, path: str) -> None:
        """There are no other users."""
        self.check("make_private", path)

    def free_bytes(self, path: str) -> int:
        """What files may still grow by."""
        return _SIZE if self.space is None else self.space

    def total_bytes(self, path: str) -> int:
        """A large disk: what nodes leave free does not depend on it."""
        return _SIZE

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self.check("rmdir", path)
        if self._directory(path).names:
            raise _error(errno.ENOTEMPTY, path)
        self._change(path, None, None)

    def is_dir(self, path: str) -> bool:
        """Whether a directory has that name."""
        return isinstance(self._find(path), _Directory)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        self.check("listdir", path)
        return sorted(self._directory(path).names)

    def exists(self, path: str) -> bool:
        """Whether something has that name."""
        return self._find(path) is not None

    def fsync_dirs(self, paths: Sequence[str]) -> None:
        """The same for many directories."""
        for path in paths:
            self.fsync_dir(path)

    def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        self.check("fsync_dir", path)
        directory = self._directory(path)
        rest: list[_Change] = []
        for change in self._changes:
            if change.directory is not directory:
                rest.append(change)
                continue
            change.reach_disk()
            # A file that was created and moved away before its name was durable has its new name only.
            rest = [r for r in rest if r.node is None or (r.directory, r.name) != change.source]
        self._changes = rest

    def salt(self) -> int:
        """Draw 32 bits from the given generator."""
        return self.random.getrandbits(32)

    def crash(self, fate: Fate | None = None) -> None:
        """Lose power: each unsynced sector and name is kept or lost by chance, or as `fate` says."""
        fate = _Chance(self.random) if fate is None else fate
        self.kill()
        for change in self._changes:
            if fate.keeps("", change.order):
                change.reach_disk()
        self._changes.clear()
        _reread(self._root)
        for path, inode in sorted(_files(self._root, ""), key=lambda found: found[0]):
            inode.crash(path, fate)

    def kill(self) -> None:
        """End the process but not the machine: the cache stays, locks and open files do not."""
        self.boots += 1
        self.handles.clear()
        self._locks.clear()

    def fork(self, chance: random.Random | None = None) -> "SimDisk":
        """Copy the disk with all that is not synced, for a process of its own: no file of it is open."""
        other = SimDisk(copy.deepcopy(self.random) if chance is None else chance)
        other.space, other.boots, other.operations = self.space, self.boots, self.operations
        known: dict[_Node, _Node] = {}
        other._root = _fork(self._root, known)
        for change in self._changes:
            directory, source = _fork(change.directory, known), change.source
            other._changes.append(
                change._replace(
                    directory=directory,
                    node=None if change.node is None else _fork(change.node, known),
                    source=None if source is None else (_fork(source[0], known), source[1]),
                )
            )
        return other

    @property
    def unsynced_orders(self) -> list[int]:
        """The operations of which a loss of power now could lose something, in order."""
        files = (*_files(self._root, ""), *_files(self._root, "", durable=True))
        writes = {write.order for _, inode in files for write in inode.unsynced}
        return sorted(writes | {change.order for change in self._changes})

    def survivor(self, below: str = "/") -> "SimDisk":
        """Copy what a crash now would leave of this disk at worst: nothing unsynced.

        Only files whose paths begin with `below` are copied.
        """
        other = SimDisk(random.Random(0))  # noqa: S311  # draws nothing that matters
        _copy_directories(self._root, other._root)
        for path, inode in _files(self._root, "", durable=True):
            if path.startswith(below):
                other.set_content(path, bytes(inode.disk))
        return other

    def content(self, below: str) -> dict[str, bytes]:
        """The bytes of every file below a directory, as a process would read them; without the lock."""
        found = self._find(below)
        if not isinstance(found, _Directory):
            return {}
        return {
            path: bytes(inode.cache)
            for path, inode in sorted(_files(found, below), key=lambda pair: pair[0])
            if not path.endswith("/lock")
        }

    @property
    def has_unsynced(self) -> bool:
        """Whether a loss of power now could lose anything."""
        return bool(self._changes) or any(inode.unsynced for _, inode in _files(self._root, ""))

    def durable(self, path: str) -> bytearray | None:
        """The bytes of a file that a crash now would leave at worst; read them, do not change them."""
        node: _Node | None = self._root
        for name in _names_of(path):
            node = node.durable.get(name) if isinstance(node, _Directory) else None
        return node.disk if isinstance(node, _Inode) else None

    def flip(self, path: str, offset: int, mask: int = 0x01) -> None:
        """Change the byte at `offset`, on the disk and in the cache (bit rot)."""
        inode = self._inode(path)
        for data in (inode.cache, inode.disk):
            if offset < len(data):
                data[offset] ^= mask

    def set_content(self, path: str, data: bytes) -> None:
        """Make a file hold exactly these bytes, durably; create it and its directories if necessary."""
        directory, name = self._make_directory(os.path.dirname(path)), os.path.basename(path)
        inode = directory.names.get(name)
        if not isinstance(inode, _Inode):
            inode = directory.names[name] = directory.durable[name] = _Inode()
        inode.cache, inode.disk = bytearray(data), bytearray(data)
        inode.unsynced.clear()

    def remove(self, path: str) -> None:
        """Delete a file durably, as an operator could behind the node's back."""
        directory = self._find(os.path.dirname(path))
        if isinstance(directory, _Directory):
            directory.names.pop(os.path.basename(path), None)
            directory.durable.pop(os.path.basename(path), None)

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in _names_of(path):
            node = node.names.get(name) if isinstance(node, _Directory) else None
        return node

    def _node(self, path: str) -> _Node:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _inode(self, path: str) -> _Inode:
        node = self._node(path)
        if isinstance(node, _Directory):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _change(self, path: str, node: _Node | None, source: str | None) -> None:
        origin = (
            None if source is None else (self._directory(os.path.dirname(source)), os.path.basename(source))
        )
        directory = self._directory(os.path.dirname(path))
        change = _Change(directory, os.path.basename(path), node, origin, self.operations)
        change.reach_cache()
        self._changes.append(change)


def _names_of(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _fork(node: Any, known: dict[_Node, _Node]) -> Any:
    """Copy a file, or a directory with all that is in it, once: what has two names keeps two names."""
    copied = known.get(node)
    if copied is not None:
        return copied
    if isinstance(node, _Inode):
        known[node] = copied = node.fork()
        return copied
    known[node] = directory = _Directory()
    directory.names = {name: _fork(each, known) for name, each in node.names.items()}
    directory.durable = {name: _fork(each, known) for name, each in node.durable.items()}
    return directory


def _reread(directory: _Directory) -> None:
    """Show what the disk has, here and below."""
    directory.names = dict(directory.durable)
    for node in directory.names.values():
        if isinstance(node, _Directory):
            _reread(node)


def _copy_directories(source: _Directory, target: _Directory) -> None:
    for name, node in source.durable.items():
        if isinstance(node, _Directory):
            copied = target.names[name] = target.durable[name] = _Directory()
            _copy_directories(node, copied)
