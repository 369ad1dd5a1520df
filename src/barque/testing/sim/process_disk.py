"""A disk as one process sees it: operations take time, and the process may die in any of them.

The `SimDisk` behind it outlives the process. Once the process is dead, none of its code can reach the disk,
not even its clean-up.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from barque.log.disk import DiskFile
from barque.testing.sim.disk import SimDisk
from barque.testing.sim.loop import Crashed, VirtualProcess

T = TypeVar("T")


class Spent:
    """The time that operations took beside the loop of their process."""

    def __init__(self) -> None:
        self.seconds = 0.0


class ProcessDisk:
    """`barque.log.disk.Disk` over a `SimDisk`, for one process.

    `crash_in`: the process dies at the start of its n-th operation from now (None: it does not).
    `sync_seconds`: how long a sync takes, least and most.
    `hang_s`: how much longer the next sync takes.
    """

    def __init__(self, disk: SimDisk, process: VirtualProcess, rng: random.Random) -> None:
        self.disk = disk
        self.crash_in: int | None = None
        self.sync_seconds = (0.0, 0.0)
        self.hang_s = 0.0
        self._process = process
        self._rng = rng
        self._spent: Spent | None = None  # set while a thread of the process works beside the loop

    def enter(self, sync: bool = False) -> None:
        """Begin an operation: it takes time, or fails, or the process dies."""
        if not self._process.alive:
            raise Crashed
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self._process.on_crash()
                raise Crashed
        if sync and (seconds := self.sync_time()):
            if self._spent is not None:
                self._spent.seconds += seconds
            else:
                self._process.charge(seconds)

    @property
    def is_gone(self) -> bool:
        """Whether the process has died."""
        return not self._process.alive

    def sync_time(self) -> float:
        """Draw how many seconds the next sync takes."""
        seconds, self.hang_s = self.hang_s, 0.0
        if self.sync_seconds[1]:
            seconds += self._rng.uniform(*self.sync_seconds)
        return seconds

    def randomness(self, purpose: str) -> random.Random:
        """Random numbers for another purpose of this process."""
        return random.Random(f"{purpose}/{self._rng.getrandbits(64)}")  # noqa: S311  # repeatable on purpose

    @contextlib.contextmanager
    def beside(self) -> Iterator[Spent]:
        """Run the block as a thread would: it takes time, and the loop does not wait for it."""
        self._spent = spent = Spent()
        try:
            yield spent
        finally:
            self._spent = None

    def _do(self, function: Callable[..., T], *args: str) -> T:
        self.enter()
        return function(*args)

    def open(self, path: str) -> DiskFile:
        """See `Disk`."""
        return _File(self, self._do(self.disk.open, path))

    def create(self, path: str) -> DiskFile:
        """See `Disk`."""
        return _File(self, self._do(self.disk.create, path))

    def lock(self, path: str) -> DiskFile:
        """See `Disk`."""
        return _File(self, self._do(self.disk.lock, path))

    def read_file(self, path: str) -> bytes:
        """See `Disk`."""
        return self._do(self.disk.read_file, path)

    def rename(self, source: str, target: str) -> None:
        """See `Disk`."""
        self._do(self.disk.rename, source, target)

    def link(self, source: str, target: str) -> None:
        """See `Disk`."""
        self._do(self.disk.link, source, target)

    def unlink(self, path: str) -> None:
        """See `Disk`."""
        self._do(self.disk.unlink, path)

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """See `Disk`."""
        self.enter()
        self.disk.mkdir(path, parents=parents)

    def protect(self, path: str) -> None:
        """See `Disk`."""
        self._do(self.disk.protect, path)

    def make_private(self, path: str) -> None:
        """See `Disk`."""
        self._do(self.disk.make_private, path)

    def free_bytes(self, path: str) -> int:
        """See `Disk`."""
        return self.disk.free_bytes(path)

    def total_bytes(self, path: str) -> int:
        """See `Disk`."""
        return self.disk.total_bytes(path)

    def rmdir(self, path: str) -> None:
        """See `Disk`."""
        self._do(self.disk.rmdir, path)

    def is_dir(self, path: str) -> bool:
        """See `Disk`."""
        return self.disk.is_dir(path)

    def listdir(self, path: str) -> list[str]:
        """See `Disk`."""
        return self._do(self.disk.listdir, path)

    def exists(self, path: str) -> bool:
        """See `Disk`."""
        return self.disk.exists(path)

    def fsync_dir(self, path: str) -> None:
        """See `Disk`."""
        self.enter(sync=True)
        self.disk.fsync_dir(path)

    def fsync_dirs(self, paths: Sequence[str]) -> None:
        """See `Disk`: one after the other, so that a crash may come between any two."""
        for path in paths:
            self.fsync_dir(path)

    def salt(self) -> int:
        """See `Disk`."""
        return self.disk.salt()


class _File:
    """An open file of a `ProcessDisk`. A synced write is two operations: a process may die between them."""

    def __init__(self, disk: ProcessDisk, file: DiskFile) -> None:
        self._disk = disk
        self._file = file

    def size(self) -> int:
        return self._file.size()

    def pread(self, length: int, offset: int) -> bytes:
        self._disk.enter()
        return self._file.pread(length, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        self._disk.enter()
        self._file.pwritev(buffers, offset, False)
        if sync:
            self.datasync()

    def datasync(self) -> None:
        self._disk.enter(sync=True)
        self._file.datasync()

    def truncate(self, size: int) -> None:
        self._disk.enter()
        self._file.truncate(size)

    def close(self) -> None:
        if self._disk.is_gone:
            return  # the file went with its process; garbage is still collected
        self._disk.enter()
        self._file.close()
