"""The log's writer thread (`barque.log.wal_writer.ThreadWriter`) on virtual time, without a thread.

The model: the work takes the time of its syncs while the loop of its process goes on. Its completion comes
later, as a call of that process. A frozen process freezes the work; a blocked loop does not. The operations
of the work happen at the end of its first sync, with all faults of the disk. If the process dies earlier,
only some first operations have happened, any number of them, so that a crash falls between any two.

Not in the model: a loop that reads what the thread has half done (the log forbids it), and a loop that keeps
the interpreter's lock from the thread.
"""

import contextlib
import random
from typing import NamedTuple

from barque.log.wal_writer import Done, InlineWriter, Wake, Work, Writer, WriterBySize, WriterKind
from barque.testing.sim.loop import Crashed, VirtualProcess
from barque.testing.sim.process_disk import ProcessDisk

_HANDOVER_S = (0.00001, 0.0001)
_LARGE_BYTES = 512  # simulated commands are small
_OPERATIONS_MAX = 20
"""A dying thread has done fewer operations than this, or all. A roll-over has about this many."""


class _Job(NamedTuple):
    """Work for the thread. `seconds`: how long its first sync takes."""

    work: Work
    done: Done
    seconds: float


class SimThreadWriter:
    """See `Writer`; one for each process."""

    kind = "thread"

    def __init__(self, process: VirtualProcess, disk: ProcessDisk, wake: Wake, rng: random.Random) -> None:
        self.busy = False
        self._process = process
        self._disk = disk
        self._wake = wake
        self._rng = rng
        self._waiting: _Job | None = None  # handed over, without any operation on the disk yet
        process.at_death.append(self._die)

    def run(self, work: Work, done: Done, size: int = 0) -> None:
        """Hand the work to the thread."""
        assert not self.busy, "one piece of work at a time"
        self.busy = True
        job = self._waiting = _Job(work, done, self._disk.sync_time())
        start = self._process.busy_until + self._rng.uniform(*_HANDOVER_S)
        self._process.loop.at(start + job.seconds, self._perform, job)

    def _perform(self, job: _Job) -> None:
        """The first sync is over: do the whole work now, and add the time of its further syncs."""
        process = self._process
        if self._waiting is not job or not process.alive:
            return
        if process.frozen_until > process.loop.now:
            process.loop.at(process.frozen_until, self._perform, job)
            return
        self._waiting = None
        failure: Exception | None = None
        with self._disk.beside() as spent:
            try:
                job.work()
            except Exception as error:
                failure = error  # as in the thread, the log learns of it
            except Crashed:
                return  # the process has died between two operations
        more_s = max(0.0, spent.seconds - job.seconds)
        process.loop.at(process.busy_until + more_s, self._hand_back, job.done, failure)

    def _hand_back(self, done: Done, failure: Exception | None) -> None:
        def finish() -> None:
            self.busy = False
            done(failure)

        self._process.call(self._wake, finish)

    def _die(self) -> None:
        """The process is about to die: do the part of the work that the thread has done by now."""
        job, self._waiting = self._waiting, None
        if job is not None:
            self._process.on_crash = lambda: None
            self._disk.crash_in = self._rng.randrange(1, _OPERATIONS_MAX)
            with self._disk.beside(), contextlib.suppress(Exception, Crashed):
                job.work()

    def yield_if_busy(self) -> None:
        """Do nothing: there is no lock to release."""

    def close(self) -> None:
        """Block the loop until the work under way is done; its completion comes afterwards."""
        job = self._waiting
        if job is not None:
            self._process.charge(job.seconds)
            self._perform(job)


def sim_writer(
    process: VirtualProcess,
    disk: ProcessDisk,
    kind: WriterKind,
    _sync_seconds: float,
    wake: Wake,
) -> Writer:
    """The writer of a simulated node (`MakeWriter`): the real inline writer, this thread, or both."""

    def thread() -> SimThreadWriter:
        return SimThreadWriter(process, disk, wake, disk.randomness("thread"))

    if kind == "inline":
        return InlineWriter()
    return WriterBySize(thread, _LARGE_BYTES) if kind == "auto" else thread()
