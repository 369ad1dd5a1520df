"""The write-ahead log of a system: group commit for all its servers.

All batches that servers submit between two flushes become one vectored write and one sync. The log reports
a record only after that sync. When a write or sync fails, pages may be gone: the log abandons the file
and acknowledges nothing. Only a new file, into which every server's pending entries are written again from
its memtable, ends the failure.

Ownership: while the writer is busy, the files and `_perform` belong to it. Everything else always belongs
to the loop.
"""

from collections.abc import Callable
from typing import Any

from barque.core.entries import EntryBatch
from barque.core.messages import LogEvent, ResendWrite, WalFailed, WalUp, Written
from barque.log.wal_files import OpenFile, WalFiles
from barque.log.wal_format import (
    BASE,
    ENTRIES,
    FILE_HEAD_SIZE,
    MARK,
    TERMINATOR,
    UID_BYTES_MAX,
    encode_record,
    record_size,
)
from barque.log.wal_writer import Clock, Writer
from barque.types import NOWHERE, Index, IndexTerm, Uid

FLUSH_BYTES_MAX = 16 * 1024 * 1024
"""The most that one flush writes (at least one batch). It bounds how long the loop or thread is away."""


class _Stream:
    """The state of one server's writes.

    `last` is the last index submitted. `queued` are the consecutive batches that wait for the
    next flush, behind the entry `previous`; None when there are none. `clip` is the lowest
    index overwritten since the flush under way began: that flush may no longer confirm it. `base` is the
    position behind which the log begins anew, which the next write says before anything else.
    """

    __slots__ = ("base", "clip", "gap_reported", "gone", "last", "name", "previous", "queued", "uid")

    def __init__(self, uid: Uid, last: int) -> None:
        self.uid = uid
        self.name = uid.encode()
        assert 0 < len(self.name) <= UID_BYTES_MAX, uid
        self.last = last
        self.previous = NOWHERE
        self.queued: list[EntryBatch] | None = None
        self.base: _Base | None = None
        self.clip: int | None = None
        self.gap_reported = False
        self.gone = False

    def overwrite(self, first: int) -> None:
        """Drop queued entries from `first` on: the last writer wins."""
        if self.clip is None or first < self.clip:
            self.clip = first
        queued = self.queued
        while queued and queued[-1].first_index >= first:
            queued.pop()
        if queued and queued[-1].last_index >= first:
            queued[-1] = queued[-1].cut(queued[-1].first_index, first - 1)


_Base = tuple[IndexTerm, Callable[[], None]]
"""A new base, and what to call when it is on disk."""

_Item = tuple[_Stream, IndexTerm, list[EntryBatch], int, _Base | None]
"""One record to write: its stream, previous position, batches and size in bytes; a base has no batches."""


class Wal:
    """Takes batches of any number of servers, and reports the entries that are on disk.

    `report` is called from `flush`, `try_reopen` or a completion of the writer, always on
    the loop, with exact events; it may call `submit`.
    """

    def __init__(
        self,
        files: WalFiles,
        writer: Writer,
        report: Callable[[LogEvent], None],
        clock: Clock,
        flush_bytes_max: int = FLUSH_BYTES_MAX,
    ) -> None:
        self._files = files
        self.writer = writer
        self._report = report
        self._clock = clock
        self._flush_bytes_max = flush_bytes_max
        self._streams: dict[Uid, _Stream] = {}
        self.dirty: list[_Stream] = []
        """The servers with queued batches."""
        self.gaps: list[_Stream] = []
        """The servers that have to submit something again."""
        self._reopening = False
        self._marked_to = 0
        self.failed_reason: str | None = None
        self.on_closed: Callable[[int, dict[Uid, Index]], None] = lambda _number, _holds: None
        """Hears of each file that has been closed: its number, and the last index of each server in it."""
        self.continue_flush: Callable[[], None] = self.flush
        """The threaded writer's completion calls this if more was queued meanwhile."""
        self._flushes = 0
        self._batches = self._records = 0
        self._bytes = 0
        self._longest_sync_seconds = 0.0

    @property
    def accepting(self) -> bool:
        """Whether new entries may be submitted."""
        return self.failed_reason is None

    @property
    def pending(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self.gaps) or (bool(self.dirty) and not self.writer.busy)

    @property
    def busy(self) -> bool:
        """Whether a write is under way in a thread."""
        return self.writer.busy

    def register(self, uid: Uid, last: int) -> None:
        """Say that a server's entries up to `last` are on disk already.

        The base of gap detection: a server that never registered starts from index 0.
        """
        stream = self._streams.get(uid)
        if stream is None:
            self._streams[uid] = _Stream(uid, last)
        else:
            if stream.last > last:
                stream.overwrite(last + 1)  # what is queued beyond it will be submitted again
            stream.last = last
            stream.gap_reported = False

    def rebase(self, uid: Uid, base: IndexTerm, done: Callable[[], None]) -> None:
        """Begin a server's log anew behind `base`; `done` is called when that is on disk.

        What is queued or under way is of the log that was replaced. After a failure, call this again.
        """
        stream = self._streams[uid]
        stream.overwrite(0)
        stream.last = base.index
        stream.gap_reported = False
        if self.failed_reason is not None and not self._reopening:
            return
        stream.base = (base, done)
        if stream.queued is None:
            stream.queued = []
            self.dirty.append(stream)

    def forget(self, uid: Uid) -> None:
        """Stop writing and reporting for a deleted server."""
        stream = self._streams.pop(uid, None)
        if stream is not None:
            stream.gone = True
            stream.queued = stream.base = None

    def submit(self, uid: Uid, previous: IndexTerm, batch: EntryBatch) -> None:
        """Queue a batch that follows the entry at `previous` of its server's log.

        A batch at or below earlier ones replaces them. A batch that leaves a gap is dropped, and
        asked for again once. While the log has failed everything is dropped: it will be
        written again from the memtables.
        """
        stream = self._streams.get(uid)
        if stream is None:
            stream = self._streams[uid] = _Stream(uid, 0)
        if previous.index != stream.last:
            if previous.index > stream.last:
                self._on_gap(stream)
                return
            stream.overwrite(previous.index + 1)
        if self.failed_reason is not None and not self._reopening:
            return
        if stream.queued:
            stream.queued.append(batch)
        else:
            if stream.queued is None:
                self.dirty.append(stream)
            stream.queued = [batch]
            stream.previous = previous
        stream.last = batch.first_index + batch.count - 1
        stream.gap_reported = False

    def _on_gap(self, stream: _Stream) -> None:
        if not stream.gap_reported and self.failed_reason is None:
            stream.gap_reported = True
            self.gaps.append(stream)

    def flush(self) -> None:
        """Write and sync queued batches, up to the bound; the rest stays `pending`.

        With the inline writer everything written has been reported when this returns. Never
        raises: a failure is reported as `WalFailed`.
        """
        if self.gaps:
            gaps, self.gaps = self.gaps, []
            for stream in gaps:
                if not stream.gone:
                    self._report(ResendWrite(stream.uid, Index(stream.last + 1)))
        if self.dirty and not self.writer.busy:
            self._launch(self._collect())

    def mark(self) -> None:
        """Record how far the file is synced, if the file itself does not show it.

        Called when there is time: it shortens the span in which a damaged last record could
        be taken for a torn tail.
        """
        if self.writer.busy or self.dirty or self.failed_reason is not None:
            return
        current = self._files.current
        if current.end > FILE_HEAD_SIZE and current.end != self._marked_to:
            self._launch([])

    def _collect(self) -> list[_Item]:
        """Take the batches of the next write. A server with more batches comes last the next time."""
        items: list[_Item] = []
        room = self._flush_bytes_max
        taken = 0
        for stream in self.dirty:
            batches = stream.queued
            if stream.base is not None:
                size = record_size(stream.name, ())
                if size > room and items:
                    break
                items.append((stream, stream.base[0], [], size, stream.base))
                stream.base = None
                room -= size
                taken += 1
                self.dirty.append(stream)  # its batches come with the next write
                continue
            if not batches:
                stream.queued = None
                taken += 1
                continue
            size = record_size(stream.name, batches)
            if size > room:
                if items:
                    break
                batches = self._first_part(batches, room)
                size = record_size(stream.name, batches)
            items.append((stream, stream.previous, batches, size, None))
            stream.clip = None
            room -= size
            assert stream.queued is not None
            if len(batches) < len(stream.queued):
                stream.queued = stream.queued[len(batches) :]
                stream.previous = IndexTerm(batches[-1].last_index, batches[-1].term)
                self.dirty.append(stream)
                taken += 1
                break
            stream.queued = None
            taken += 1
        del self.dirty[:taken]
        return items

    @staticmethod
    def _first_part(batches: list[EntryBatch], room: int) -> list[EntryBatch]:
        """As many batches as the bound allows, but at least one."""
        size = 0
        for count, batch in enumerate(batches):
            size += len(batch.body)
            if size > room and count:
                return batches[:count]
        return batches

    def _launch(self, items: list[_Item]) -> None:
        self.writer.run(lambda: self._perform(items), lambda error: self._on_done(items, error))

    def _perform(self, items: list[_Item]) -> None:
        """Write and sync these records; no items make a mark. Runs where the writer runs."""
        files = self._files
        current = files.current
        if current.growing and files.spares and current.end > FILE_HEAD_SIZE:
            files.start_next()  # a zero-filled file has become ready
            current = files.current
        buffers: list[bytes] = []
        offset = synced_to = current.end
        limit = files.max_size_bytes - len(TERMINATOR)
        for stream, previous, batches, size, base in items:
            full = files.max_entries is not None and current.entries >= files.max_entries
            if (full or offset + size > limit) and offset > FILE_HEAD_SIZE:
                self._write(current, buffers, offset)
                files.start_next()
                current = files.current
                buffers = []
                offset = synced_to = current.end
            if base is None:
                kind, newest = ENTRIES, batches[-1]
                current.holds[stream.uid] = Index(newest.first_index + newest.count - 1)
            else:
                kind = BASE
                current.holds[stream.uid] = previous.index
            offset = encode_record(
                buffers, current.head, offset, synced_to, stream.name, previous, batches, kind
            )
            self._batches += len(batches)
            self._records += 1
            if files.max_entries is not None:
                current.entries += sum(batch.count for batch in batches)
        if not items:
            offset = encode_record(buffers, current.head, offset, synced_to, b"", NOWHERE, (), MARK)
            self._marked_to = offset
        self._write(current, buffers, offset)

    def _write(self, current: OpenFile, buffers: list[bytes], end: int) -> None:
        if not buffers:
            return
        start = self._clock()
        self._bytes += end - current.end
        current.write(buffers, end)
        self._flushes += 1
        seconds = self._clock() - start
        if seconds > self._longest_sync_seconds:
            self._longest_sync_seconds = seconds

    def _on_done(self, items: list[_Item], error: Exception | None) -> None:
        if self._files.just_closed:
            self._hand_over()
        if error is not None:
            self._fail(error)
            return
        for stream, _, batches, _, base in items:
            if stream.gone:
                continue
            if base is None:
                self._report_written(stream, batches)
            else:
                base[1]()
        if self._reopening and not self.dirty:
            self._end_reopening()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.dirty and self.writer.kind != "inline" and not self.writer.busy:
            self.continue_flush()  # the inline writer's caller goes on by itself

    def _hand_over(self) -> None:
        """Tell which files have been closed, and what they hold."""
        closed, self._files.just_closed = self._files.just_closed, []
        for number, holds in closed:
            self.on_closed(number, holds)

    def roll_over(self) -> bool:
        """Begin a new file if the current one holds anything; False if that cannot be done now.

        Raises `OSError`; then nothing has changed.
        """
        if self.writer.busy or self.dirty or self.gaps or self.failed_reason is not None:
            return False
        if self._files.current.end > FILE_HEAD_SIZE:
            self._files.start_next()
            self._hand_over()
        return True

    def retire(self, numbers: list[int], done: Callable[[Exception | None], None]) -> bool:
        """Recycle closed files that no log needs any more; False if that cannot begin now."""
        if self.writer.busy or self.failed_reason is not None:
            return False

        def retired(error: Exception | None) -> None:
            done(error)
            self._go_on()

        self.writer.run(lambda: self._files.retire(numbers), retired)
        return True

    def _report_written(self, stream: _Stream, batches: list[EntryBatch]) -> None:
        """One event for each run of one term, without entries that were overwritten meanwhile.

        An entry that is written, overwritten and written again while the first write is under
        way must not be confirmed by that first write: the middle one may be what survives.
        """
        first = batches[0].first_index
        term = batches[0].term
        last = first - 1
        clip = stream.clip
        for batch in batches:
            if batch.term != term:
                self._report(Written(stream.uid, term, first, Index(last)))
                first = batch.first_index
                term = batch.term
            if clip is not None and batch.first_index + batch.count > clip:
                last = max(last, clip - 1) if clip > batch.first_index else last
                break
            last = batch.first_index + batch.count - 1
        if last >= first:
            self._report(Written(stream.uid, term, first, Index(last)))

    def fail(self, error: Exception) -> None:
        """Stop because of an error outside the log that forbids its writes."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Stop: the file may hold anything behind its last synced byte."""
        was_accepting = self.failed_reason is None
        self.failed_reason = f"{type(error).__name__}: {error}"
        self._reopening = False
        for stream in self.dirty:
            stream.queued = stream.base = None
        self.dirty.clear()
        self.gaps.clear()
        if was_accepting:
            self._report(WalFailed(self.failed_reason))

    def try_reopen(self, resubmit: Callable[[], None]) -> None:
        """After a failure: begin a new file; `resubmit` queues all pending entries again.

        `WalUp` is reported when those are on disk. If the disk still refuses, the log stays
        failed, and the next call tries again.
        """
        if self.failed_reason is None or self._reopening or self.writer.busy:
            return

        def opened(error: Exception | None) -> None:
            self._hand_over()
            if error is not None:
                self.failed_reason = f"{type(error).__name__}: {error}"
                return
            self._reopening = True
            resubmit()
            if not self.dirty:
                self._end_reopening()
            elif not self.writer.busy:
                self._launch(self._collect())

        self.writer.run(lambda: self._files.start_next(abandon=True), opened)
        self._finish_inline()

    def _finish_inline(self) -> None:
        """With the inline writer, write the batches that were queued again now."""
        while self._reopening and self.dirty and not self.writer.busy:
            self._launch(self._collect())

    def _end_reopening(self) -> None:
        self._reopening = False
        self.failed_reason = None
        self._report(WalUp())

    def counters(self) -> dict[str, int]:
        """What the log has written, by Ra's names (CNT-06); sizes in bytes, the last two are gauges.

        `batches` are writes with a sync, `writes` the records of single servers in them.
        """
        return {
            "wal_files": self._files.begun,
            "batches": self._flushes,
            "writes": self._records,
            "bytes_written": self._bytes,
            "current_file_size": self._files.current_size,
            "max_file_size": self._files.max_size_bytes,
        }

    def fill_ratio(self) -> float:
        """How full the present file is, from 0 to 1."""
        return self._files.current_size / self._files.max_size_bytes

    def overview(self) -> dict[str, Any]:
        """Facts for people. Sizes in bytes, times in seconds."""
        return {
            "writer": self.writer.kind,
            "failed_reason": self.failed_reason,
            "files": self._files.count(),
            "size_bytes": self._files.size_bytes(),
            "spare_files": len(self._files.spares),
            "batches": self._batches,
            "bytes_written": self._bytes,
            "syncs": self._flushes,
            "longest_sync_seconds": self._longest_sync_seconds,
        }

    def close(self) -> None:
        """Stop writing. Batches that were not flushed were not acknowledged; drop them."""
        self.writer.close()
        self._files.close(sealed=self.failed_reason is None and not self.writer.busy)
