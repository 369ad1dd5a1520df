"""The log's background thread (`barque.log.background.ThreadWorker`) on virtual time, without a thread.

The model: one step of one job at a time, in turn. The operations of a step happen when it begins; the next
step begins after the time that their syncs take, and the loop of the process goes on meanwhile. A frozen
process freezes the worker; a blocked loop does not. When the process dies, some first operations of the step
whose turn it is have still happened, any number of them, so that a crash falls between any two.

Not in the model: calls of the loop that fall between two operations of one step. A job touches only what
nobody else touches meanwhile, so no such call could tell.
"""

import contextlib
import random
from collections import deque

from barque.log.background import Finished, Job, advance
from barque.log.wal_writer import Wake
from barque.testing.sim.loop import Crashed, VirtualProcess
from barque.testing.sim.process_disk import ProcessDisk

_STEP_S = (0.00005, 0.002)
_OPERATIONS_MAX = 8
"""A dying worker has done fewer operations of its step than this, or all."""


class SimWorker:
    """See `Worker`; one for each process."""

    def __init__(self, process: VirtualProcess, disk: ProcessDisk, wake: Wake) -> None:
        self._process = process
        self._disk = disk
        self._wake = wake
        self._tasks: deque[tuple[Job, Finished]] = deque()
        self.busy = False
        self._unreported = 0
        self._waiting = False  # for a call of `_step`
        self._stepping = False
        self._closed = False
        self._drawn: random.Random | None = None
        process.at_death.append(self._die)

    @property
    def _rng(self) -> random.Random:
        """Drawn with the first job, so that a node without jobs runs as it always did."""
        if self._drawn is None:
            self._drawn = self._disk.randomness("background")
        return self._drawn

    def submit(self, job: Job, finished: Finished) -> None:
        """Begin a job."""
        if self._closed:
            job.close()
            return
        self._tasks.append((job, finished))
        self._unreported += 1
        self.busy = True
        self._schedule(0.0)

    def _schedule(self, after_s: float) -> None:
        if self._tasks and not self._waiting:
            self._waiting = True
            loop = self._process.loop
            loop.at(loop.now + after_s + self._rng.uniform(*_STEP_S), self._step)

    def _step(self) -> None:
        """Run one step of the job whose turn it is."""
        process = self._process
        if process.alive and process.frozen_until > process.loop.now:
            process.loop.at(process.frozen_until, self._step)
            return
        self._waiting = False
        if not process.alive or not self._tasks:
            return
        job, finished = self._tasks.popleft()
        self._stepping = True
        with self._disk.beside() as spent:
            try:
                result, failure, ended = advance(job)
            except Crashed:
                return  # the process has died between two operations
        self._stepping = False
        if ended:
            finish = process.loop.now + spent.seconds
            process.loop.at(finish, self._hand_back, finished, result, failure)
        else:
            self._tasks.append((job, finished))
        self._schedule(spent.seconds)

    def _hand_back(self, finished: Finished, result: object, failure: Exception | None) -> None:
        process = self._process
        if process.alive and process.frozen_until > process.loop.now:
            process.loop.at(process.frozen_until, self._hand_back, finished, result, failure)
            return

        def finish() -> None:
            if self._closed:
                return
            self._unreported -= 1
            self.busy = self._unreported > 0
            finished(result, failure)

        process.call(self._wake, finish)

    def _die(self) -> None:
        """The process is about to die: do the part of the next step that the thread has done by now.

        If it dies in a step, that is the step; a thread does one at a time.
        """
        if self._tasks and not self._stepping:
            self._process.on_crash = lambda: None
            self._disk.crash_in = self._rng.randrange(1, _OPERATIONS_MAX)
            with self._disk.beside(), contextlib.suppress(Exception, Crashed):
                advance(self._tasks[0][0])
        self._process.loop.left_behind += [job for job, _ in self._tasks]
        self._tasks.clear()

    def yield_if_busy(self) -> None:
        """Do nothing: there is no lock to release."""

    def close(self, patience_s: float | None = None) -> None:
        """Close the jobs that are left."""
        self._closed = True
        self.busy = False
        while self._tasks:
            self._tasks.popleft()[0].close()
