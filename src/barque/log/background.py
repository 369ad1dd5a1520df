"""Where the log's slow work runs, beside the loop: flushes of segments, compactions, snapshots.

Theory of operation. A *job* is a generator. What it does between two `yield`s is a *step*: short (about one
MiB read or written), because a worker turns to another job only between steps, so that a snapshot of a
gigabyte does not hold up the flush of a segment. One worker serves all servers of a data directory.

- A job touches only what was handed to it, and files that nobody else touches meanwhile: the loop goes on.
- It gets its result to the loop by returning it: `finished(result, None)` runs there, or
  `finished(None, error)` with whatever the job raised. A worker survives every failure of a job.
- A worker that is closed stops between two steps. It closes the jobs that are left, so that they let go of
  what they hold (`finally`); their `finished` never comes. So a job must leave files that the next start
  understands, wherever it stops: a crash stops it anywhere too.
"""

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias

from barque.log.wal_writer import Wake

logger = logging.getLogger("barque.storage")

Job: TypeAlias = Generator[None, None, Any]
"""Work in steps. Its result is what it returns."""

Finished: TypeAlias = Callable[[Any, Exception | None], None]
"""Called on the loop with a job's result, or with the reason why there is none."""

_Task: TypeAlias = tuple[Job, Finished]


class Worker(Protocol):
    """Runs jobs, a step of each in turn, and reports their ends on the loop."""

    busy: bool
    """Whether the end of some job is still to be reported."""

    def submit(self, job: Job, finished: Finished) -> None:
        """Begin a job. After `close`, it is closed at once and never begins."""

    def yield_if_busy(self) -> None:
        """Give a thread that waits for the interpreter's lock a chance to take it."""

    def close(self, patience_s: float | None = None) -> None:
        """Wait for the step under way, at most so long, and stop. No `finished` is called from now on."""


MakeWorker: TypeAlias = Callable[[Wake], Worker]
"""Makes the worker of a data directory; `wake(fn)` runs `fn` on its loop."""


class InlineWorker:
    """Works where it is called, for tests and for programs without a loop.

    With `at_once`, a job has ended and reported when `submit` returns; else it waits for `run_step`.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self._at_once = at_once
        self._tasks: deque[_Task] = deque()
        self._closed = False
        self.busy = False

    def submit(self, job: Job, finished: Finished) -> None:
        """Run the job now, or keep it."""
        if self._closed:
            job.close()
            return
        self._tasks.append((job, finished))
        self.busy = True
        if self._at_once:
            self.run_until_idle()

    def run_step(self) -> bool:
        """Run one step of the job whose turn it is; False if there is none."""
        if not self._tasks:
            return False
        job, finished = self._tasks.popleft()
        result, failure, ended = advance(job)
        if not ended:
            self._tasks.append((job, finished))
        self.busy = bool(self._tasks)
        if ended:
            finished(result, failure)
        return True

    def run_until_idle(self) -> None:
        """Run all jobs to their ends, also those that their ends begin."""
        while self.run_step():
            pass

    def yield_if_busy(self) -> None:
        """Nobody waits for the lock."""

    def close(self, patience_s: float | None = None) -> None:
        """Close the jobs that are left."""
        self._closed = True
        self.busy = False
        while self._tasks:
            self._tasks.popleft()[0].close()


class ThreadWorker:
    """Works in one daemon thread, which begins with the first job."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._submitted: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._tasks: deque[_Task] = deque()  # the thread's own, until it has ended
        self._thread: threading.Thread | None = None
        self._unfinished = 0  # counted on the loop
        self._closed = False
        self.busy = False

    def submit(self, job: Job, finished: Finished) -> None:
        """Hand the job to the thread."""
        if self._closed:
            job.close()
            return
        self._unfinished += 1
        self.busy = True
        self._submitted.put((job, finished))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="barque-background", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._receive():
            job, finished = self._tasks.popleft()
            result, failure, ended = advance(job)
            if ended:
                self._hand_back(finished, result, failure)
            else:
                self._tasks.append((job, finished))

    def _receive(self) -> bool:
        """Take what was submitted, and wait for it if there is nothing else to do; False to end."""
        while not self._closed:
            try:
                task = self._submitted.get(block=not self._tasks)
            except queue.Empty:
                return True
            if task is not None:
                self._tasks.append(task)
        return False

    def _hand_back(self, finished: Finished, result: Any, failure: Exception | None) -> None:
        def finish() -> None:
            if self._closed:
                return
            self._unfinished -= 1
            self.busy = self._unfinished > 0
            finished(result, failure)

        with contextlib.suppress(RuntimeError):  # the loop is closed: no receiver is left
            self._wake(finish)

    def yield_if_busy(self) -> None:
        """Sleep for a moment while there are jobs: only a real sleep lets go of the lock."""
        if self.busy:
            time.sleep(1e-6)

    def close(self, patience_s: float | None = None) -> None:
        """Wait for the step under way, end the thread, and close the jobs that are left.

        A step that outlasts our patience is left alone: the thread ends after it, or with the process.
        """
        self._closed = True
        self.busy = False
        if self._thread is not None:
            self._submitted.put(None)
            self._thread.join(patience_s)
            if self._thread.is_alive():
                logger.error("work beside the loop does not end; it is left behind")
                return
            self._thread = None
        while not self._submitted.empty():
            task = self._submitted.get()
            if task is not None:
                self._tasks.append(task)
        while self._tasks:
            self._tasks.popleft()[0].close()


def advance(job: Job) -> tuple[Any, Exception | None, bool]:
    """Run one step of a job: its result, or why it has failed, and whether it has ended."""
    try:
        next(job)
    except StopIteration as end:
        return end.value, None, True
    except Exception as error:
        return None, error, True  # whatever it is: its owner hears of it, and the worker goes on
    return None, None, False
