"""Planted bugs of segments, of their writer, and of recovery; the tests of the log find each.

They are no part of the table of `mutants`, which is about rings of whole servers. The rows of Ra's own faults
for which they stand are named in brackets.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

from barque.core.entries import EntryBatch
from barque.log import compaction, flush, reconcile, recovery, segment_set
from barque.log.flush import SegmentLimits
from barque.log.log import WalLog
from barque.log.reconcile import Stored, View
from barque.log.segment import Segment
from barque.log.segment_set import Part, SegmentSet, SnapshotState
from barque.log.segment_writer import SegmentWriter
from barque.log.storage import Storage
from barque.log.wal import Wal
from barque.testing.sim.disk import SimDisk, SimFile
from barque.types import Index, IndexTerm, Uid

_UNBOUNDED = 1 << 62


def stale_last_written() -> Any:
    """After a truncation, last written stays where it was (B12)."""
    real = WalLog._truncate

    def wrong(self: WalLog, last: Index) -> None:
        written = self._last_written
        real(self, last)
        self._last_written = written

    return patch.object(WalLog, "_truncate", wrong)


def segment_tail_counts_as_written() -> Any:
    """A start joins the view at the end of the segments, although it has overwritten them (B3)."""

    def wrong(_stored: Stored, view: View, _snapshot: IndexTerm, end: IndexTerm) -> IndexTerm | None:
        return end if view.base.index <= end.index <= view.last.index else None

    return patch.object(reconcile, "_meet", wrong)


def delete_shortened_segment() -> Any:
    """A file that a newer one hides in part is deleted (B24)."""
    real = SegmentSet.adopt

    def wrong(self: SegmentSet, segments: Iterable[Segment], end: IndexTerm) -> None:
        segments = list(segments)
        real(self, segments, end)
        gone = [p.segment for p in self._parts if p.last < p.segment.tail.last.index and p.last < end.index]
        self._parts = [part for part in self._parts if part.segment not in gone]
        self._changed()
        self._discard(gone)

    return patch.object(SegmentSet, "adopt", wrong)


def delete_shortened_segment_on_open() -> Any:
    """A start deletes a file that a newer one hides in part (B6)."""

    def wrong(self: SegmentSet) -> None:
        gone = [part for part in self._parts if part.last < part.segment.tail.last.index]
        self._parts = [part for part in self._parts if part not in gone]
        self._changed()
        self._discard([part.segment for part in gone])

    return patch.object(SegmentSet, "drop_hidden", wrong)


def close_error_ignored() -> Any:
    """A failed sync of a segment counts as done, and the log file may go (B28)."""
    real = SimFile.datasync

    def wrong(self: SimFile) -> None:
        with contextlib.suppress(OSError) if ".segment" in self._path else contextlib.nullcontext():
            real(self)

    return patch.object(SimFile, "datasync", wrong)


def install_keeps_pending() -> Any:
    """What waits to be written below an installed snapshot is written all the same (B14, B19)."""
    real = Wal.rebase

    def wrong(self: Wal, uid: Uid, base: IndexTerm, done: Callable[[], None]) -> None:
        stream = self._streams[uid]
        queued = list(stream.queued or ())
        real(self, uid, base, done)
        if queued and stream.queued is not None:
            stream.queued[:] = queued

    return patch.object(Wal, "rebase", wrong)


def flush_assumes_directory() -> Any:
    """A flush fails if its server has no directory for segments yet (B26)."""
    return patch.object(SimDisk, "mkdir", _without("segments", SimDisk.mkdir))


def no_dir_sync() -> Any:
    """The names of new segments are not synced before the log file goes (B35)."""
    return patch.object(SimDisk, "fsync_dir", _without("segments", SimDisk.fsync_dir))


def _without(name: str, real: Callable[..., None]) -> Callable[..., None]:
    def wrong(self: SimDisk, path: str, *args: Any, **more: Any) -> None:
        if path.rpartition("/")[2] != name:
            real(self, path, *args, **more)

    return wrong


def names_of_a_kill_believed() -> Any:
    """A start takes segments for durable that a killed process has only renamed."""
    return patch.object(recovery, "_make_names_durable", lambda *_: None)


def register_after_log() -> Any:
    """A server's first entry is on disk before the server is (B49)."""
    real = Storage.flush

    def wrong(self: Storage) -> None:
        births, self._births = self._births, False
        real(self)
        self._births = births

    return patch.object(Storage, "flush", wrong)


def retired_before_flushed() -> Any:
    """A log file goes as soon as its flush has begun (B28)."""
    return patch.object(
        SegmentWriter, "_is_done", lambda self, uid, _limit: uid in self._flushing or uid not in self._logs
    )


def cut_forgotten() -> Any:
    """A log file goes although the disk does not know that its entries were cut off."""
    real = WalLog.unflushed

    def wrong(self: WalLog, limit: Index) -> Index:
        self._uncut = None
        return real(self, limit)

    return patch.object(WalLog, "unflushed", wrong)


def install_settles_at_once() -> Any:
    """The files of a replaced log go before the log file says that it was replaced (B38)."""
    real = WalLog.install

    def wrong(self: WalLog, position: IndexTerm) -> None:
        real(self, position)
        self._on_base()

    return patch.object(WalLog, "install", wrong)


def live_entries_not_flushed() -> Any:
    """Entries that the snapshot still needs are dropped from memory with the others (B29, B30)."""

    def wrong(
        batches: Iterable[EntryBatch], snapshot: SnapshotState
    ) -> tuple[list[EntryBatch], list[EntryBatch]]:
        return [], real(batches, snapshot)[1]

    real = flush.needed_batches
    return patch.object(flush, "needed_batches", wrong)


def live_entries_trimmed() -> Any:
    """A snapshot lets go of everything below it in memory, live entries too (B34)."""
    return patch.object(SnapshotState, "next_live", lambda _self, _first: _UNBOUNDED)


def live_entries_only_in_view_dropped() -> Any:
    """A start drops what the snapshot stands for, although some of it is live and only in the log files."""
    return patch.object(reconcile, "_lowered", lambda *_: None)


def cut_off_file_compacted() -> Any:
    """A file of which nothing counts is deleted, although a crash brings its entries back."""
    real = SegmentSet.compact

    def wrong(self: SegmentSet) -> None:
        gone = [part for part in self._parts if not part.counts]
        self._parts = [part for part in self._parts if part.counts]
        self._discard([part.segment for part in gone])
        real(self)

    return patch.object(SegmentSet, "compact", wrong)


def rejected_file_hides() -> Any:
    """A new file of which nothing counts takes the files with it that it would have hidden."""
    real = SegmentSet.adopt

    def wrong(self: SegmentSet, segments: Iterable[Segment], end: IndexTerm) -> None:
        segments = list(segments)
        for segment in segments:
            if segment.tail.first.index > end.index:
                gone = [part for part in self._parts if part.first >= segment.tail.first.index]
                self._parts = [part for part in self._parts if part not in gone]
                self._discard([part.segment for part in gone])
        real(self, segments, end)

    return patch.object(SegmentSet, "adopt", wrong)


def segrefs_reversed() -> Any:
    """At a start, an older file hides a newer one (B25)."""
    real = SegmentSet.load

    def wrong(self: SegmentSet) -> None:
        real(self)
        highest = 0
        for part in self._parts:
            part.last = part.segment.tail.last.index if part.first > highest else 0
            highest = max(highest, part.last)
        self._changed()

    return patch.object(SegmentSet, "load", wrong)


def flush_counts_what_was_replaced() -> Any:
    """A flush counts in full, although its entries were overwritten meanwhile (B13, B20)."""
    real = WalLog._truncate

    def wrong(self: WalLog, last: Index) -> None:
        clip = self._clip
        real(self, last)
        self._clip = clip

    return patch.object(WalLog, "_truncate", wrong)


def failed_flush_forgets_its_file() -> Any:
    """After a failed flush the log file goes all the same (B28)."""
    real = SegmentWriter._finished

    def wrong(self: SegmentWriter, uid: Uid, log: WalLog, plan: Any, result: Any, error: Any) -> None:
        real(self, uid, log, plan, result, error)
        if error is not None:
            for holds in self._closed.values():
                holds.pop(uid, None)

    return patch.object(SegmentWriter, "_finished", wrong)


def oversized_first() -> Any:
    """A batch that is larger than a file begins one file after the other (B44)."""

    def wrong(batches: Iterable[EntryBatch], limits: SegmentLimits) -> Iterator[list[EntryBatch]]:
        return iter([[batch] for batch in batches if batch.count <= limits.entries_max])

    return patch.object(flush, "filled", wrong)


def merged_across_the_floor() -> Any:
    """Survivors below the snapshot are copied into the file of new entries (B30)."""

    def wrong(parts: Sequence[Part], batches: Any, _floor: int, limits: SegmentLimits) -> Any:
        return real(parts, batches, -1, limits)

    real = flush.merged_sources
    return patch.object(flush, "merged_sources", wrong)


def missing_is_empty() -> Any:
    """A start takes a missing file for the end of the log (B36)."""
    real = reconcile.reconcile

    def wrong(stored: Stored, view: View | None, snapshot: IndexTerm, live: Any) -> Any:
        found = real(stored, view, snapshot, live)
        if isinstance(found, reconcile.Missing):
            return real(stored, None, snapshot, live) if view is not None else found
        return found

    return patch("barque.log.recovery.reconcile", wrong)


def deletions_in_any_order() -> Any:
    """Files go without a sync between those that hide one another (B35, B42)."""
    real = segment_set._delete

    def wrong(disk: Any, lease: Any, directory: str, batches: list[list[str]]) -> Any:
        return real(disk, lease, directory, [[path for batch in batches for path in batch]])

    return patch.object(segment_set, "_delete", wrong)


def two_compactions() -> Any:
    """A flush and a compaction of one server run at the same time (B43)."""
    real = SegmentWriter.compact

    def wrong(self: SegmentWriter, uid: Uid) -> bool:
        self._compacting.clear()
        return real(self, uid)

    return patch.object(SegmentWriter, "compact", wrong)


def compaction_keeps_first_only() -> Any:
    """A compacted file holds what is live in its first source only (B42)."""
    real = compaction._live_batches

    def wrong(disk: Any, plan: compaction.Compaction) -> Iterator[EntryBatch]:
        return real(disk, compaction.Compaction(plan.generation, plan.sources[:1]))

    return patch.object(compaction, "_live_batches", wrong)


SEGMENT_MUTANTS: tuple[Callable[[], Any], ...] = (
    stale_last_written,
    segment_tail_counts_as_written,
    delete_shortened_segment,
    delete_shortened_segment_on_open,
    close_error_ignored,
    install_keeps_pending,
    flush_assumes_directory,
    no_dir_sync,
    names_of_a_kill_believed,
    register_after_log,
    retired_before_flushed,
    cut_forgotten,
    install_settles_at_once,
    live_entries_not_flushed,
    live_entries_trimmed,
    live_entries_only_in_view_dropped,
    cut_off_file_compacted,
    rejected_file_hides,
    segrefs_reversed,
    flush_counts_what_was_replaced,
    failed_flush_forgets_its_file,
    oversized_first,
    merged_across_the_floor,
    missing_is_empty,
    deletions_in_any_order,
    two_compactions,
    compaction_keeps_first_only,
)
