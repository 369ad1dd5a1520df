"""Where the write-ahead log's writes and syncs run: in the loop, or in a thread beside it.

Inline is the simplest, cannot be starved, and within 15 % of the best on a disk that syncs
in well under a millisecond; its price is that the loop stands still for one sync. A thread
keeps the loop going on slower disks and during large writes, but a busy loop can starve it of
the interpreter's lock for a second (measured), so the loop calls `yield_if_busy` each turn.
"""

import contextlib
import queue
import statistics
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from barque.log.disk import Disk, join

Work = Callable[[], None]
Done = Callable[[Exception | None], None]
Wake = Callable[[Callable[[], None]], None]
Clock = Callable[[], float]
WriterKind = Literal["auto", "inline", "thread"]
MakeWriter = Callable[[WriterKind, float, Wake], "Writer"]
"""Makes a writer for a disk that syncs in so many seconds (`choose_writer`)."""

INLINE_SYNC_SECONDS_MAX = 0.001
"""A disk that syncs faster than this is written from the loop itself."""

LARGE_WRITE_BYTES = 256 * 1024
"""Such a write takes milliseconds, mostly without the interpreter's lock: the loop goes on meanwhile."""

_PROBES = 9


class Writer(Protocol):
    """Runs one piece of work at a time, and reports its end on the loop."""

    kind: str

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        ...

    def run(self, work: Work, done: Done, size: int = 0) -> None:
        """Do `work`, which writes `size` bytes; then call `done(None)`, or `done(error)`, on the loop.

        Never while `busy`. An inline writer has called `done` when this returns.
        """

    def yield_if_busy(self) -> None:
        """Give a thread that waits for the interpreter's lock a chance to take it."""

    def close(self) -> None:
        """Finish what is under way, and stop. Its `done` may still be called."""


class InlineWriter:
    """Works where it is called; `done` has been called when `run` returns."""

    kind = "inline"

    def __init__(self) -> None:
        self.busy = False

    def run(self, work: Work, done: Done, size: int = 0) -> None:
        """Do the work now."""
        self.busy = True
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error  # whatever it is, the log must not go on as if it were written
        self.busy = False
        done(failure)

    def yield_if_busy(self) -> None:
        """Nobody waits for the lock."""

    def close(self) -> None:
        """Nothing runs between calls."""


class ThreadWriter:
    """Works in one dedicated thread; `wake(fn)` must run `fn` on the loop soon."""

    kind = "thread"

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._jobs: queue.SimpleQueue[tuple[Work, Done] | None] = queue.SimpleQueue()
        self._working = False
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="barque-wal", daemon=True)
        self._thread.start()

    def run(self, work: Work, done: Done, size: int = 0) -> None:
        """Hand the work to the thread."""
        assert not self.busy, "one piece of work at a time"
        self.busy = self._working = True
        self._jobs.put((work, done))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            failure: Exception | None = None
            try:
                work()
            except Exception as error:
                failure = error  # a thread must not die silently
            self._working = False
            self._hand_back(done, failure)

    def _hand_back(self, done: Done, failure: Exception | None) -> None:
        def finish() -> None:
            self.busy = False
            done(failure)

        with contextlib.suppress(RuntimeError):  # the loop is closed: no receiver is left
            self._wake(finish)

    def yield_if_busy(self) -> None:
        """Sleep for a moment while the thread works: only a real sleep lets go of the lock."""
        if self._working:
            time.sleep(1e-6)

    def close(self) -> None:
        """Wait for the work under way, then end the thread."""
        self._jobs.put(None)
        self._thread.join()


class WriterBySize(InlineWriter):
    """Does small writes where it is called, and large ones in a thread, made for the first of them."""

    kind = "by size"

    def __init__(self, make_thread: Callable[[], Writer], large_bytes: int = LARGE_WRITE_BYTES) -> None:
        super().__init__()
        self._make_thread = make_thread
        self._thread: Writer | None = None
        self._large_bytes = large_bytes

    def run(self, work: Work, done: Done, size: int = 0) -> None:
        """Do the work now, or hand it to the thread."""
        if size < self._large_bytes:
            super().run(work, done)
            return

        def ended(error: Exception | None) -> None:
            self.busy = False
            done(error)

        if self._thread is None:
            self._thread = self._make_thread()
        self.busy = True
        self._thread.run(work, ended, size)

    def yield_if_busy(self) -> None:
        """Give the thread a chance, while it works."""
        if self._thread is not None:
            self._thread.yield_if_busy()

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._thread is not None:
            self._thread.close()


def measure_sync(disk: Disk, directory: str, clock: Clock) -> float:
    """The median time, in seconds, of a small synced overwrite in that directory."""
    path = join(directory, "probe.tmp")
    file = disk.create(path)
    try:
        block = [bytes(4096)]
        file.pwritev(block, 0, sync=True)
        times = []
        for _ in range(_PROBES):
            start = clock()
            file.pwritev(block, 0, sync=True)
            times.append(clock() - start)
    finally:
        file.close()
        disk.unlink(path)
    return statistics.median(times)


def choose_writer(kind: WriterKind, sync_seconds: float, wake: Wake) -> Writer:
    """Make the requested writer; for `auto`, the writer that suits this disk."""
    if kind == "inline":
        return InlineWriter()
    if kind == "auto" and sync_seconds < INLINE_SYNC_SECONDS_MAX:
        return WriterBySize(lambda: ThreadWriter(wake))
    return ThreadWriter(wake)
