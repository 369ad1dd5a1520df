"""Moves the entries of closed write-ahead log files into segments, and says which files may go.

Theory of operation. When the write-ahead log begins a new file, the one before is *closed*: it holds entries
of any number of servers, up to some index of each. `step`, on the loop, begins a flush for each server whose
entries in closed files are nowhere else, a few at a time; a flush takes all that the closed files hold of its
server. When a flush ends, the server's log takes the new files, and its memtable lets go of the entries.

A file is *done* when no log needs it any more: each log has flushed what the file holds of it, or no longer
holds that, or its server was deleted. So an idle server pins no file. Done files are retired from the oldest
on, so that what is left always tells how a log continues its segments.

A failed flush changes nothing: the files stay, and the next tick tries again. Its server may be deleted
meanwhile: then the lease of its files has ended, and nobody waits for the flush.
"""

from collections.abc import Callable, Mapping
from typing import Any

from barque.errors import StorageError
from barque.log.background import Worker
from barque.log.compaction import Compaction, plan_compaction, run_compaction
from barque.log.disk import Disk
from barque.log.flush import FlushPlan, SegmentLimits, run_flush
from barque.log.lease import LeaseEndedError
from barque.log.log import WalLog
from barque.log.segment import Segment
from barque.types import Index, Uid

MINORS = 8
"""After so many minor compactions of a log, a major one is considered (COMP-04)."""
FLUSHES_MAX = 4
"""Flushes under way at a time. Each has a file open."""

LOOKS_MAX = 1_000
"""Logs that one tick looks at: ten thousand idle ones would cost a hundredth of the loop's time."""

Retire = Callable[[list[int], Callable[[Exception | None], None]], bool]
"""Takes files out of the manifest and recycles them; False if that cannot begin now."""


class SegmentWriter:
    """Flushes the logs in `logs`. Everything is called on the loop. The counts have Ra's names (CNT-07)."""

    def __init__(
        self, disk: Disk, worker: Worker, logs: Mapping[Uid, WalLog], limits: SegmentLimits, retire: Retire
    ) -> None:
        self._disk = disk
        self._worker = worker
        self._logs = logs
        self._limits = limits
        self._retire = retire
        self._closed: dict[int, dict[Uid, Index]] = {}  # oldest first; servers whose entries may be unflushed
        self._waiting: dict[Uid, Index] = {}  # to flush next, with its highest index in there
        self._flushing: set[Uid] = set()
        self._cleaning: set[Uid] = set()
        self._compacting: set[Uid] = set()  # at most one: it is the least urgent work
        self._failed: set[Uid] = set()  # they wait for the next tick, and then merge nothing
        self._cautious: set[Uid] = set()
        self._to_look_at: list[Uid] = []  # by coming ticks
        self._retiring = False
        self.due = False
        """Whether `step` may have something to do."""
        self.mem_tables = self.segments = self.entries = self.bytes_written = self.failures = 0
        self.major_compactions = 0
        self.last_failure = ""

    def add(self, number: int, holds: Mapping[Uid, Index]) -> None:
        """A file is closed. It holds entries of these servers, up to these indexes."""
        self._closed[number] = dict(holds)
        self.due = True

    def tick(self) -> None:
        """Try again what has failed, and look at all logs; at some of them in each tick, if they are many."""
        self._cautious = self._failed
        self._failed = set()
        logs = self._next_logs()
        for log in logs:
            if log.segments.holds:
                log.segments.holds.sweep()
            if log.segments.retains:
                log.trim()  # perhaps nobody needs what was kept below the snapshot any more
        self.step()
        self._clean(logs)

    def _next_logs(self) -> list[WalLog]:
        """The logs to look at in this tick."""
        if len(self._logs) <= LOOKS_MAX:
            return list(self._logs.values())
        if not self._to_look_at:
            self._to_look_at = list(self._logs)
        uids, self._to_look_at = self._to_look_at[:LOOKS_MAX], self._to_look_at[LOOKS_MAX:]
        return [log for uid in uids if (log := self._logs.get(uid)) is not None]

    def step(self) -> None:
        """Look through the closed files; begin flushes, and retire the files that are done."""
        self.due = False
        for holds in self._closed.values():
            for uid in [uid for uid in holds if self._is_done(uid, holds[uid])]:
                del holds[uid]
        self._waiting = self._wanted()
        self._go_on()

    def _go_on(self) -> None:
        """Retire files that are done, and begin flushes; `step` looks at every server first."""
        done = []
        for number, holds in self._closed.items():
            if holds:
                break
            done.append(number)
        if done and not self._retiring:
            self._retiring = True
            if not self._retire(done, lambda error: self._retired(done, error)):
                self._retiring = False
        while self._waiting and len(self._flushing) < FLUSHES_MAX:
            uid = next(iter(self._waiting))
            limit = self._waiting.pop(uid)
            if uid in self._flushing or uid in self._compacting or self._is_done(uid, limit):
                self.due = True  # what has changed since `step` looked is for another look
            else:
                self._begin(uid, limit)

    def _is_done(self, uid: Uid, limit: Index) -> bool:
        log = self._logs.get(uid)
        return log is None or not log.unflushed(limit)

    def _wanted(self) -> dict[Uid, Index]:
        """The servers to flush, each with the highest index that a closed file holds of it."""
        wanted: dict[Uid, Index] = {}
        busy = self._flushing | self._failed | self._compacting
        for holds in self._closed.values():
            for uid, last in holds.items():
                if uid not in busy:
                    wanted[uid] = max(last, wanted.get(uid, last))
        return wanted

    def _begin(self, uid: Uid, limit: Index) -> None:
        log = self._logs[uid]
        plan = log.begin_flush(limit, self._limits, merge=uid not in self._cautious)
        if plan is None:
            return  # what the file holds is not confirmed yet: a later step finds it
        self._flushing.add(uid)
        self._worker.submit(
            run_flush(self._disk, log.segments, plan),
            lambda result, error: self._finished(uid, log, plan, result, error),
        )

    def _finished(
        self, uid: Uid, log: WalLog, plan: FlushPlan, result: list[Segment] | None, error: Exception | None
    ) -> None:
        self._flushing.discard(uid)
        if isinstance(error, LeaseEndedError) or self._logs.get(uid) is not log:
            self.due = True
            return
        if error is not None or result is None:
            log.abandon_flush()
            self._failed.add(uid)
            self.failures += 1
            self.last_failure = f"{type(error).__name__}: {error}"
            return
        log.end_flush(plan, result)
        self.mem_tables += 1
        self.segments += len(result)
        self.entries += sum(segment.tail.entries for segment in result)
        self.bytes_written += sum(segment.size_bytes for segment in result)
        self.clean(uid)
        for holds in self._closed.values():
            if uid in holds and self._is_done(uid, holds[uid]):
                del holds[uid]
        if self._waiting:
            self._go_on()
        else:
            self.step()

    def _retired(self, numbers: list[int], error: Exception | None) -> None:
        self._retiring = False
        if error is None:
            for number in numbers:
                self._closed.pop(number, None)

    # --- files of the logs that go -------------------------------------------------------

    def clean(self, uid: Uid) -> None:
        """Delete a server's files that no longer count, beside the loop."""
        log = self._logs.get(uid)
        if log is None or uid in self._cleaning or not log.segments.has_garbage:
            return
        job, ended = log.segments.remove_garbage()
        self._cleaning.add(uid)

        def finished(_result: Any, error: Exception | None) -> None:
            self._cleaning.discard(uid)
            ended(error)  # after an error, the next tick tries it again
            self.due = True

        self._worker.submit(job, finished)

    # --- compaction ----------------------------------------------------------------------

    def compact(self, uid: Uid) -> bool:
        """Begin a major compaction of this server's files, if one is worth it and none is under way."""
        log = self._logs.get(uid)
        if log is None or self._compacting or uid in self._flushing or log.segments.settling:
            return False
        segments = log.segments
        plan = plan_compaction(segments, self._limits)
        segments.looks = 0
        if plan is None:
            return False
        sources = [source.segment for source in plan.sources]
        try:
            segments.pin(sources)
        except StorageError:
            return False
        segments.holds.keep(sources)
        self._compacting.add(uid)

        def finished(made: Segment | None, error: Exception | None) -> None:
            self._compacting.discard(uid)
            self.due = True
            if self._logs.get(uid) is log:
                self._compacted(log, plan, made, error)
            segments.unpin(sources)

        self._worker.submit(run_compaction(self._disk, segments, plan), finished)
        return True

    def _compacted(
        self, log: WalLog, plan: Compaction, made: Segment | None, error: Exception | None
    ) -> None:
        segments = log.segments
        if made is None:
            self.failures += 1
            self.last_failure = f"{type(error).__name__}: {error}"
        elif plan.generation != segments.generation:
            segments.reject([made])
        else:
            segments.replace([source.segment for source in plan.sources], made)
            self.major_compactions += 1
            segments.compact()
        self.clean(log.uid)

    def _clean(self, logs: list[WalLog]) -> None:
        for log in logs:
            if log.segments.settling:
                log.segments.settle()
            if log.segments.has_garbage:
                self.clean(log.uid)
            elif log.segments.looks >= MINORS:
                self.compact(log.uid)

    @property
    def backlog(self) -> int:
        """How many closed files wait."""
        return len(self._closed)

    def overview(self) -> dict[str, Any]:
        """Facts for an operator, sizes in bytes; by Ra's names those that Ra counts (CNT-07)."""
        return {
            "closed_files": len(self._closed),
            "flushing": len(self._flushing),
            "mem_tables": self.mem_tables,
            "segments": self.segments,
            "entries": self.entries,
            "bytes_written": self.bytes_written,
            "major_compactions": self.major_compactions,
            "failures": self.failures,
            "last_failure": self.last_failure,
        }
