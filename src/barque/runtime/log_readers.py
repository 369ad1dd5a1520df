"""Programs in a node's process that read the logs of its members (§20 of Ra's features; API-29).

Theory of operation. Everything here is called on the node's loop, and nothing here reads a file on it. A
*plan* is made on the loop and executed in a thread (`log.read_plan`). `log_read` and `log_fold` make a plan,
execute it in a thread, and close it. An *external reader* follows the log: it is told when other segments
count, and may read all that it was told of until it acknowledges that it needs it no longer.
"""

import asyncio
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from barque.core.state import Server
from barque.errors import UnknownCluster
from barque.log.log import WalLog
from barque.log.log_views import LogViews, View
from barque.log.read_plan import Decode, LogEntry, ReadPlan
from barque.runtime.server_process import ServerProcess
from barque.runtime.system import System
from barque.types import Index, Uid

Accumulator = TypeVar("Accumulator")

_BREATH_ENTRIES = 100
_BREATH_S = 1e-6


class SegmentRange(msgspec.Struct, frozen=True):
    """A segment file, by its path, and the first and last entry of it that count."""

    path: str
    first_index: Index
    last_index: Index


class LogUpdate(msgspec.Struct, frozen=True):
    """What a member had in segments at a moment (EXT-01): all files, from the lowest entry to the highest.

    From `first_index` on, no entry is missing up to `last_index`; `first_index` is one above it if there is
    none. Entries up to `committed_index` never change; others may be replaced by entries of a later leader,
    and an update follows. `number` counts the updates of one reader.
    """

    number: int
    first_index: Index
    last_index: Index
    committed_index: Index
    segments: tuple[SegmentRange, ...]


class LogReaders:
    """Makes plans and readers for the members on one node."""

    def __init__(self, node: str, system: System) -> None:
        self._node = node
        self._system = system

    def read_entries(self, cluster: str, indexes: Iterable[int]) -> ReadPlan:
        """See `Node.read_entries`."""
        process, log = self._member(cluster)
        return log.plan_read(indexes, command_decoder_of(process.server))

    async def log_read(self, cluster: str, indexes: Iterable[int]) -> list[LogEntry]:
        """See `Node.log_read`."""
        with self.read_entries(cluster, indexes) as plan:
            return await asyncio.to_thread(_fold, plan, _collect, [])

    async def log_fold(
        self, cluster: str, function: Callable[[LogEntry, Accumulator], Accumulator], initial: Accumulator
    ) -> Accumulator:
        """See `Node.log_fold`."""
        _, log = self._member(cluster)
        indexes = range(log.snapshot_index_term().index + 1, log.next_index())
        with self.read_entries(cluster, indexes) as plan:
            return await asyncio.to_thread(_fold, plan, function, initial)

    def register(self, cluster: str) -> "ExternalLogReader":
        """See `Node.register_external_log_reader`."""
        return ExternalLogReader(*self._member(cluster))

    def _member(self, cluster: str) -> tuple[ServerProcess, WalLog]:
        process = self._system.servers.member_of(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._node}")
        return process, self._system.storage.log(process.uid)


def command_decoder_of(server: Server) -> Decode:
    """Decodes a command as the machine version does that is in force."""
    return server.decode_commands.one


def _collect(entry: LogEntry, found: list[LogEntry]) -> list[LogEntry]:
    found.append(entry)
    return found


def _fold(
    plan: ReadPlan, function: Callable[[LogEntry, Accumulator], Accumulator], accumulator: Accumulator
) -> Accumulator:
    """Fold over a plan, in a thread that lets the loop's have the interpreter's lock now and then."""
    try:
        for count, entry in enumerate(plan.execute(), 1):
            accumulator = function(entry, accumulator)
            if count % _BREATH_ENTRIES == 0:
                time.sleep(_BREATH_S)
    except StopIteration as error:  # no future can carry one
        raise RuntimeError(f"{function!r} raised StopIteration") from error
    return accumulator


class ExternalLogReader:
    """Follows the segments of one member's log: an async iterator of `LogUpdate` (EXT-01, API-29).

    It belongs to the task that has registered it, and is dropped when that task ends, when it is closed, when
    the server is deleted, when the node stops, or when it keeps too much (EXT-02).
    """

    def __init__(self, process: ServerProcess, log: WalLog) -> None:
        self._server = server = process.server
        self._log = log
        self._closed = True
        self._news = asyncio.Event()
        self._task = asyncio.current_task()
        self._views = LogViews(log, lambda: server.commit_index, self._news.set)
        self._closed = False
        if self._task is not None:
            self._task.add_done_callback(self._task_ended)

    @property
    def uid(self) -> Uid:
        """The incarnation of the server whose log this is."""
        return self._log.uid

    @property
    def directory(self) -> str:
        """Where the server's segments are."""
        return self._log.segments.directory

    def __aiter__(self) -> "ExternalLogReader":
        return self

    async def __anext__(self) -> LogUpdate:
        """Wait until other entries are in segments than the last update has told; the first comes at once.

        Updates that were not waited for become one, unless a snapshot has dropped entries in between. Raises
        `Stopped` with the reason if the reader was dropped; the iterator just ends if the reader was closed.
        """
        while not self._closed:
            self._news.clear()
            view = self._views.take()
            if view is not None:
                return self._update(view)
            await self._news.wait()
        raise StopAsyncIteration

    def _update(self, view: View) -> LogUpdate:
        ranges = (SegmentRange(part.segment.path, Index(part.first), Index(part.last)) for part in view.parts)
        return LogUpdate(view.number, view.first, view.last, view.committed, tuple(ranges))

    def read_entries(self, indexes: Iterable[int]) -> ReadPlan:
        """Plan to read user commands at these indexes, of those that the newest update has told.

        Raises `Stopped` if the reader was dropped or closed. The plan is good for as long as it is open, also
        after `acknowledge`.
        """
        return self._views.plan_read(indexes, command_decoder_of(self._server))

    def acknowledge(self, update: LogUpdate) -> None:
        """Let go of the files that only updates before this one have told. No error if it was dropped."""
        self._views.acknowledge(update.number)

    def close(self) -> None:
        """Drop the reader, and let go of all files (Ra's `handle_down`). A second time is harmless."""
        if self._closed:
            return
        self._closed = True
        self._views.close()
        if self._task is not None:
            self._task.remove_done_callback(self._task_ended)
        self._news.set()

    def _task_ended(self, _task: "asyncio.Task[Any]") -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn("a reader of the log was never closed", ResourceWarning, 2, source=self)
            self._views.hold.end("this reader was collected")

    async def __aenter__(self) -> "ExternalLogReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
