"""Major compaction: files below the snapshot of which little is live become one (COMP-03).

Minor compaction (`SegmentSet.compact`) only drops whole files. A few live entries in each file would keep all
of them. So adjacent files, each less than half live, are copied into one: it takes the name of the first when
it is complete and synced, and then the others go, from the lowest on. A crash in between leaves files whose
union answers the same: those that are left hide the same entries in the new file, and nothing else.

The sources stay open meanwhile (pinned), as the first one's name changes its meaning beside the loop.
"""

import contextlib
from collections.abc import Iterator

import msgspec

from barque.core.entries import EntryBatch
from barque.errors import Damaged
from barque.log.background import Job
from barque.log.disk import Disk
from barque.log.flush import SegmentLimits
from barque.log.lease import LeaseEndedError
from barque.log.segment import OpenSegment, Segment, write_segment
from barque.log.segment_set import COMPACTING, Part, SegmentSet, SnapshotState

GROUP_FILES_MAX = 16
"""The most files that become one; all of them are open meanwhile."""


class Source(msgspec.Struct, frozen=True):
    """A file, and the ranges of it that are live."""

    segment: Segment
    live: tuple[tuple[int, int], ...]


class Compaction(msgspec.Struct, frozen=True):
    """What becomes one file. `generation` is that of the set when it was planned."""

    generation: int
    sources: tuple[Source, ...]


def plan_compaction(segments: SegmentSet, limits: SegmentLimits) -> Compaction | None:
    """Find the first group that is worth it. A file that hides stale entries of an older one stays."""
    reach = 0  # the highest index in any older file
    group: list[Source] = []
    entries = 0
    for part in segments.all_parts:
        source, count = _live_of(part, segments.snapshot)
        worth = 2 * count < part.segment.tail.entries
        below = part.segment.tail.last.index <= segments.snapshot.floor
        full = len(group) == GROUP_FILES_MAX or entries + count > limits.entries_max
        if group and not (worth and below and not full):
            break
        if worth and below and (group or reach < part.first):
            group.append(source)
            entries += count
        reach = max(reach, part.segment.tail.last.index)
    return Compaction(segments.generation, tuple(group)) if group and entries else None


def _live_of(part: Part, snapshot: SnapshotState) -> tuple[Source, int]:
    live = tuple(snapshot.live_within(part.first, part.last)) if part.counts else ()
    return Source(part.segment, live), sum(last - first + 1 for first, last in live)


def run_compaction(disk: Disk, segments: SegmentSet, plan: Compaction) -> Job:
    """Write the file; the job's result is its `Segment`. What it replaces may go when its name is durable."""
    first, directory, lease = plan.sources[0].segment, segments.directory, segments.lease
    with lease.step():
        disk.mkdir(directory)
    yield
    batches = _live_batches(disk, plan)
    path = first.path + COMPACTING
    try:
        made = yield from write_segment(
            disk, lease, directory, first.number, segments.uid, batches, suffix=COMPACTING
        )
        with lease.step():
            disk.rename(path, first.path)
    except (OSError, Damaged):
        with contextlib.suppress(OSError, LeaseEndedError), lease.step():
            disk.unlink(path)
        raise
    return made


def _live_batches(disk: Disk, plan: Compaction) -> Iterator[EntryBatch]:
    for source in plan.sources:
        with contextlib.closing(OpenSegment(disk, source.segment)) as opened:
            for first, last in source.live:
                yield from opened.batches(first, last)
