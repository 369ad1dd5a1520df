"""The seam to the operating system's files: no other code in Barque opens one.

`OsDisk` is the one production implementation; the simulator's is `barque.testing.sim.disk`.
Both raise `OSError` as the system does: what a failure means is for their callers to say.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from barque.errors import StorageError

IOV_MAX = 1024
"""How many buffers Linux takes in one vectored write."""

TEMPORARY = ".tmp"
"""What the name of a file ends with until the file is complete."""

_DSYNC = getattr(os, "RWF_DSYNC", 0)
_REFUSED = frozenset((errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP))
"""The answers of a kernel, a file system or a sandbox that does not let a call pass."""

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


_SYNCS_MAX = 16
"""How many directories are synced at the same time."""
_NO_DIRECTORY_SYNC = (
    "this file system cannot sync directories, so that files could be gone after a loss of power; keep the "
    "data directory on ext4, XFS or Btrfs"
)


class DiskFile(Protocol):
    """One open file. Offsets and sizes are in bytes."""

    def size(self) -> int:
        """How long the file is now."""

    def pread(self, length: int, offset: int) -> bytes:
        """At most `length` bytes at `offset`; fewer only at the end of the file."""

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        """Write all buffers, in order, from `offset` on.

        With `sync` they are on disk when this returns. Raises `OSError` when not all could
        be written (and synced); how much was is then unknown.
        """

    def datasync(self) -> None:
        """Make everything written so far durable."""

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long."""

    def close(self) -> None:
        """Close the file. A lock on it ends too."""


class Disk(Protocol):
    """A file system. Paths are absolute; created files and directories are private."""

    def open(self, path: str) -> DiskFile:
        """Open an existing file to read and write."""

    def create(self, path: str) -> DiskFile:
        """Create a file, or empty the file of that name."""

    def lock(self, path: str) -> DiskFile:
        """Lock `path` for this process until it is closed. Raises `StorageError` if another one holds it."""

    def read_file(self, path: str) -> bytes:
        """All bytes of a (small) file."""

    def rename(self, source: str, target: str) -> None:
        """Rename a file, replacing a file of the new name, or a directory with all that it holds.

        Durable after `fsync_dir` of the directory of the new name.
        """

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, which must be new; durable after `fsync_dir`."""

    def unlink(self, path: str) -> None:
        """Remove a name; durable after `fsync_dir`."""

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """Make a directory durably, unless it exists; also its parents, unless `parents` is false."""

    def protect(self, path: str) -> None:
        """Keep other users from changing the names in a directory. Raises `PermissionError` if they can."""

    def make_private(self, path: str) -> None:
        """Let only the owner use a file that other code has made."""

    def free_bytes(self, path: str) -> int:
        """How much this process may still write below `path`."""

    def total_bytes(self, path: str) -> int:
        """How large the file system of `path` is."""

    def rmdir(self, path: str) -> None:
        """Remove an empty directory; durable after `fsync_dir` of its parent."""

    def is_dir(self, path: str) -> bool:
        """Whether a directory has that name."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """Whether something has that name."""

    def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""

    def fsync_dirs(self, paths: Sequence[str]) -> None:
        """The same for many directories, in any order. Raises the `OSError` of one of them."""

    def salt(self) -> int:
        """32 unpredictable bits, to tell this file's records from copies of them in user data."""


class OsFile:
    """A file of the operating system."""

    __slots__ = ("_fd", "_path", "_sync_flag", "_vectored")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._sync_flag = _DSYNC
        self._vectored = True

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Add the path to an error: the system knows only a descriptor and names no file."""
        try:
            yield
        except OSError as error:
            error.filename = self._path
            raise

    def size(self) -> int:
        """How long the file is now."""
        with self._named():
            return os.fstat(self._fd).st_size

    def pread(self, length: int, offset: int) -> bytes:
        """At most `length` bytes at `offset`; fewer only at the end of the file."""
        try:
            data = os.pread(self._fd, length, offset)
            if len(data) == length or not data:
                return data
            parts = [data]  # a signal or the 2 GiB limit of a call may cut a read short
            got = len(data)
            while got < length and (data := os.pread(self._fd, length - got, offset + got)):
                parts.append(data)
                got += len(data)
            return b"".join(parts)
        except OSError as error:  # as `_named`, which would cost more than the call
            error.filename = self._path
            raise

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        """One system call where possible; then the sync is part of it (`RWF_DSYNC`).

        Where that call is not let pass, `pwrite` and `fdatasync` do the same.
        """
        try:
            self._pwritev(buffers, offset, sync)
        except OSError as error:  # as `_named`, which would cost microseconds on the hottest path
            error.filename = self._path
            raise

    def _pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        total = sum(map(len, buffers))
        done = 0
        if self._vectored and len(buffers) <= IOV_MAX and (self._sync_flag or not sync):
            try:
                done = os.pwritev(self._fd, buffers, offset, self._sync_flag if sync else 0)
            except NotImplementedError:
                self._sync_flag = 0
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                if sync:
                    self._sync_flag = 0  # perhaps the flag only: sync by a call of its own
                else:
                    self._vectored = False
            if done == total:
                return
        self._pwritev_in_pieces(buffers, offset, done)
        if sync:
            # Also after pieces that were DSYNC: only a sync at the end covers them all.
            os.fdatasync(self._fd)

    def _pwritev_in_pieces(self, buffers: Sequence[bytes], offset: int, done: int) -> None:
        """Write what is left after the first `done` bytes, however short the writes are."""
        views = [memoryview(buffer) for buffer in buffers]
        position = 0
        while position < len(views):
            if done >= len(views[position]):
                done -= len(views[position])
                offset += len(views[position])
                position += 1
                continue
            piece = views[position : position + IOV_MAX]
            piece[0] = piece[0][done:]
            written = self._write_some(piece, offset + done)
            if written == 0:
                raise OSError(5, "the system wrote nothing", self._path)
            done += written

    def _write_some(self, piece: "list[memoryview[int]]", offset: int) -> int:
        """Write a part of these bytes; returns how many."""
        if self._vectored:
            try:
                return os.pwritev(self._fd, piece, offset)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._vectored = False
        return os.pwrite(self._fd, b"".join(piece), offset)

    def datasync(self) -> None:
        """Make everything written so far durable."""
        with self._named():
            os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Make the file exactly `size` bytes long."""
        with self._named():
            os.ftruncate(self._fd, size)

    def try_lock(self, how: int) -> None:
        """Take an `flock` until this is closed. Raises `BlockingIOError` if another process has one."""
        with self._named():
            fcntl.flock(self._fd, how | fcntl.LOCK_NB)

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsDisk:
    """The real file system. Files are 0600, directories 0700, links are not followed."""

    def open(self, path: str) -> OsFile:
        """Open an existing regular file to read and write."""
        return self._regular(os.open(path, _FLAGS), path)

    def create(self, path: str) -> DiskFile:
        """Create an empty file in the place of a file or link of that name; what was there stays as it is."""
        flags = _FLAGS | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            os.unlink(path)
            fd = os.open(path, flags, 0o600)
        os.fchmod(fd, 0o600)  # whatever the umask is
        return OsFile(fd, path)

    @staticmethod
    def _regular(fd: int, path: str) -> OsFile:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(22, "not a regular file", path)
        return OsFile(fd, path)

    def lock(self, path: str) -> DiskFile:
        """Lock `path` by `flock`; the system releases it when the process ends."""
        file = OsFile(os.open(path, _FLAGS | os.O_CREAT, 0o600), path)
        try:
            file.try_lock(fcntl.LOCK_EX)
        except BlockingIOError as error:
            file.close()
            raise StorageError(
                f"{path}: another process uses this data directory. Stop it, or give this node its own"
            ) from error
        except OSError:
            file.close()
            raise
        return file

    def read_file(self, path: str) -> bytes:
        """All bytes of a (small) file."""
        file = self.open(path)
        try:
            return file.pread(file.size(), 0)
        finally:
            file.close()

    def rename(self, source: str, target: str) -> None:
        """Rename a file, replacing a file of the new name, or a directory with all that it holds."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Make a hard link."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        os.unlink(path)

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """Make a directory durably, unless it exists; also its parents, unless `parents` is false."""
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if parents and parent and parent != path:
            self.mkdir(parent)
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # whatever the umask is
        except FileExistsError as error:  # nodes that start together share a parent
            if not os.path.isdir(path):
                raise NotADirectoryError(
                    errno.ENOTDIR, "there is something, and it is no directory", path
                ) from error
        self.fsync_dir(parent)

    def protect(self, path: str) -> None:
        """Take the right to write from others, if all of them have it."""
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & stat.S_IWOTH:
            try:
                os.chmod(path, mode & ~(stat.S_IWOTH | stat.S_IWGRP))
            except PermissionError as error:
                raise PermissionError(
                    errno.EACCES,
                    "every user may write here, and its owner is another one; use a directory in it",
                    path,
                ) from error

    def make_private(self, path: str) -> None:
        """As `create` makes files, whatever the umask is."""
        os.chmod(path, 0o600)

    def free_bytes(self, path: str) -> int:
        """What the file system has left for users without privileges."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def total_bytes(self, path: str) -> int:
        """The size of the file system."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def is_dir(self, path: str) -> bool:
        """Whether it is a directory; a link to one is not."""
        return os.path.isdir(path) and not os.path.islink(path)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted: nothing may depend on the file system's order."""
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        """Whether something has that name."""
        return os.path.lexists(path)

    def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                error.strerror = f"{error.strerror}: {_NO_DIRECTORY_SYNC}"
            error.filename = path
            raise
        finally:
            os.close(fd)

    def fsync_dirs(self, paths: Sequence[str]) -> None:
        """The same for many directories, side by side: file systems write what waits together at once.

        A thousand directories took 3 s one after the other, and 0.1 s so (ext4).
        """
        if len(paths) < 2:
            for path in paths:
                self.fsync_dir(path)
            return
        with ThreadPoolExecutor(min(len(paths), _SYNCS_MAX)) as pool:
            done = [pool.submit(self.fsync_dir, path) for path in paths]
        for one in done:
            one.result()

    def salt(self) -> int:
        """32 bits from the system's source of randomness."""
        return int.from_bytes(os.urandom(4), "little")


class ReadingDisk(OsDisk):
    """The real file system, to read only: for tools that must not change a directory."""

    def open(self, path: str) -> OsFile:
        """Open an existing regular file to read."""
        return self._regular(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path)

    def is_locked(self, path: str) -> bool:
        """Whether a process holds a lock on `path`, as a running node does on the file `lock`."""
        try:
            file = self.open(path)
        except FileNotFoundError:
            return False
        try:
            file.try_lock(fcntl.LOCK_SH)
        except BlockingIOError:
            return True
        finally:
            file.close()
        return False

    def create(self, path: str) -> DiskFile:
        """Refuse: this disk is read only."""
        raise _read_only(path)

    def rename(self, source: str, target: str) -> None:
        """Refuse."""
        raise _read_only(source)

    def link(self, source: str, target: str) -> None:
        """Refuse."""
        raise _read_only(target)

    def unlink(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """Refuse."""
        raise _read_only(path)

    def rmdir(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)

    def protect(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)

    def make_private(self, path: str) -> None:
        """Refuse."""
        raise _read_only(path)


def _read_only(path: str) -> OSError:
    return OSError(errno.EROFS, "a tool that only reads wanted to write", path)


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}"


def replace_file(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Make `name` hold exactly `data`, durably; after a crash it holds that or its old bytes (ALICE).

    Content first, then the name, then the directory: no crash shows a name without content.
    """
    temporary = join(directory, name + TEMPORARY)
    file = disk.create(temporary)
    try:
        file.pwritev([data], 0, sync=True)
    finally:
        file.close()
    disk.rename(temporary, join(directory, name))
    disk.fsync_dir(directory)


def remove_temporary(disk: Disk, directory: str, name: str) -> None:
    """Remove what a crash in `replace_file` has left."""
    temporary = join(directory, name + TEMPORARY)
    if disk.exists(temporary):
        disk.unlink(temporary)


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory and everything in it, durably. After a crash, call this again."""
    for name in disk.listdir(path):
        inner = join(path, name)
        if disk.is_dir(inner):
            remove_tree(disk, inner)
        else:
            disk.unlink(inner)
    disk.fsync_dir(path)
    disk.rmdir(path)
    disk.fsync_dir(path.rpartition("/")[0])
