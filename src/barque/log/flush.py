"""A flush of one server: from the memtable into new segment files.

`plan_flush` decides on the loop what goes into which file; `run_flush` writes the files beside the loop. A
plan holds immutable batches, so the log may go on, and even overwrite these entries, meanwhile.

Entries up to the snapshot's floor are not written, except live ones. These go into a file of their own, as
they stay when the files around them go. Small files are merged: while the file before is at most twice as
large as what is being written, its entries are copied, so that a log has few files, however often it is
flushed.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from barque.core.entries import EntryBatch
from barque.errors import Damaged
from barque.log.background import Job
from barque.log.disk import TEMPORARY, Disk, join
from barque.log.lease import Lease, LeaseEndedError
from barque.log.segment import OpenSegment, Segment, write_segment
from barque.log.segment_format import PLACE_SIZE, RECORD_HEAD_SIZE, TAIL_SIZE
from barque.log.segment_set import Part, SegmentSet, SnapshotState, segment_path
from barque.types import Index

MERGE_RATIO = 2
"""A file is copied into the next one if it is at most so many times as large."""


class SegmentLimits(msgspec.Struct, frozen=True):
    """When a segment file is full. A single batch may exceed it."""

    entries_max: int = 4096
    size_bytes_max: int = 64_000_000


class Source(msgspec.Struct, frozen=True):
    """A file whose entries are copied, up to `last`."""

    segment: Segment
    last: int


class Group(msgspec.Struct, frozen=True):
    """What goes into one file."""

    number: int
    sources: tuple[Source, ...]
    batches: tuple[EntryBatch, ...]


class FlushPlan(msgspec.Struct, frozen=True):
    """What to write, and the index up to which the memtable is not needed afterwards."""

    generation: int
    end: Index
    groups: tuple[Group, ...]


def needed_batches(
    batches: Iterable[EntryBatch], snapshot: SnapshotState
) -> tuple[list[EntryBatch], list[EntryBatch]]:
    """The live entries at or below the floor, and all entries above it."""
    live: list[EntryBatch] = []
    above: list[EntryBatch] = []
    for batch in batches:
        if batch.first_index > snapshot.floor:
            above.append(batch)
            continue
        for first, last in snapshot.live_within(batch.first_index, min(batch.last_index, snapshot.floor)):
            live.append(batch.cut(first, last))
        if batch.last_index > snapshot.floor:
            above.append(batch.cut(snapshot.floor + 1, batch.last_index))
    return live, above


def plan_flush(
    segments: SegmentSet, batches: Sequence[EntryBatch], limits: SegmentLimits, *, merge: bool
) -> FlushPlan:
    """Plan to write these batches, which follow the set's end.

    `merge`: copy small files before them, too. Not after a failure: such a file may be what failed.
    """
    live, above = needed_batches(batches, segments.snapshot)
    groups: list[Group] = []
    for part in filled(live, limits):
        groups.append(Group(segments.take_number(), (), tuple(part)))
    for part in filled(above, limits):
        sources: tuple[Source, ...] = ()
        if merge and not groups:
            sources = merged_sources(segments.parts, part, segments.snapshot.floor, limits)
        groups.append(Group(segments.take_number(), sources, tuple(part)))
    return FlushPlan(segments.generation, batches[-1].last_index, tuple(groups))


def filled(batches: Iterable[EntryBatch], limits: SegmentLimits) -> Iterator[list[EntryBatch]]:
    """Divide batches into files. Each file takes at least one batch, so this ends (SEG-02)."""
    part: list[EntryBatch] = []
    entries = size = 0
    for batch in batches:
        full = entries + batch.count > limits.entries_max or size + len(batch.body) > limits.size_bytes_max
        if part and full:
            yield part
            part, entries, size = [], 0, 0
        part.append(batch)
        entries += batch.count
        size += len(batch.body)
    if part:
        yield part


def merged_sources(
    parts: Sequence[Part], batches: Sequence[EntryBatch], floor: int, limits: SegmentLimits
) -> tuple[Source, ...]:
    """The files directly before `batches` that are small enough to be copied, oldest first."""
    sources: list[Source] = []
    entries = sum(batch.count for batch in batches)
    size = TAIL_SIZE + sum(RECORD_HEAD_SIZE + len(batch.body) + PLACE_SIZE for batch in batches)
    first = batches[0].first_index
    for part in reversed(parts):
        segment = part.segment
        entries += part.last - part.first + 1
        fits = entries <= limits.entries_max and size + segment.size_bytes <= limits.size_bytes_max
        adjoins = part.last == first - 1 and part.first > floor and not segment.tail.has_gaps
        if not (fits and adjoins and segment.size_bytes <= MERGE_RATIO * size):
            break
        sources.append(Source(segment, part.last))
        size += segment.size_bytes
        first = Index(part.first)
    return tuple(reversed(sources))


def run_flush(disk: Disk, segments: SegmentSet, plan: FlushPlan) -> Job:
    """Write the files of a plan; the job's result is a list of `Segment`. Durable when it ends.

    After a failure, none of the files is left (or the next start finds files that newer ones hide).
    """
    directory, lease = segments.directory, segments.lease
    written: list[Segment] = []
    try:
        if plan.groups:
            with lease.step():
                disk.mkdir(directory)
                for name in disk.listdir(directory):
                    if name.endswith(TEMPORARY):  # what a failed flush could not remove
                        disk.unlink(join(directory, name))
            yield
        for group in plan.groups:
            batches = _contents(disk, group)
            segment = yield from write_segment(disk, lease, directory, group.number, segments.uid, batches)
            with lease.step():
                disk.rename(segment.path + TEMPORARY, segment.path)
            written.append(segment)
            yield
        if plan.groups:
            with lease.step():
                disk.fsync_dir(directory)
    except (OSError, Damaged):
        _undo(disk, lease, directory, plan)
        raise
    return written


def _contents(disk: Disk, group: Group) -> Iterator[EntryBatch]:
    for source in group.sources:
        with contextlib.closing(OpenSegment(disk, source.segment)) as opened:
            yield from opened.batches(source.segment.tail.first.index, source.last)
    yield from group.batches


def _undo(disk: Disk, lease: Lease, directory: str, plan: FlushPlan) -> None:
    """Remove what a failed flush has written, as far as the disk lets us."""
    with contextlib.suppress(LeaseEndedError), lease.step():
        for group in plan.groups:
            path = segment_path(directory, group.number)
            for name in (path, path + TEMPORARY):
                with contextlib.suppress(OSError):
                    disk.unlink(name)
