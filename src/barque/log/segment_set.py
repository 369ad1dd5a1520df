"""The segment files of one server, and which entries of which file count.

The order of the numbers is the order of writing: a file replaces everything in older files from its own first
index on (docs/formats/segment.md). A *part* is a file, and the last entry in it that still counts. Truncation
only lowers that mark: the file goes when a newer one hides all of it. So after a crash the files answer as
before, whichever deletions have happened.

Everything here runs on the loop. Files are deleted beside it, in batches: each batch is made durable before
the next begins, so that no file comes back from behind the one that hid it.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import msgspec

from barque.core.entries import EntryBatch
from barque.log.background import Job
from barque.log.disk import TEMPORARY, Disk, join
from barque.log.holds import Holds
from barque.log.lease import Lease
from barque.log.segment import (
    ReadAhead,
    Segment,
    SegmentCache,
    inspect_segment,
    read_single,
    reading,
    segment_name,
    segment_number,
)
from barque.types import NOWHERE, Index, IndexTerm, Term, Uid

SEGMENTS = "segments"
"""The directory of a server's segments, in the server's own."""
COMPACTING = ".compacting"
"""What the name of a file ends with that takes the place of others when it is complete."""


class SnapshotState(msgspec.Struct, frozen=True):
    """What a log must know of its snapshot, read at once.

    `floor`: entries up to here are not needed to continue a follower; at most `position.index`. `live`:
    ranges of indexes, in order, up to the snapshot's, whose entries the snapshot still needs.
    """

    position: IndexTerm = NOWHERE
    floor: Index = Index(0)
    live: tuple[tuple[Index, Index], ...] = ()

    def needs(self, first: int, last: int) -> bool:
        """Whether one of these entries is live."""
        return self.next_live(first) <= last

    def next_live(self, first: int) -> int:
        """The lowest live index from `first` on; beyond every log if there is none."""
        place = bisect_right(self.live, first, key=lambda pair: pair[0])
        if place and self.live[place - 1][1] >= first:
            return first
        return self.live[place][0] if place < len(self.live) else 1 << 62

    def live_within(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The live ranges between two indexes, cut to them."""
        place = max(0, bisect_right(self.live, first, key=lambda pair: pair[0]) - 1)
        for start, end in self.live[place:]:
            if start > last:
                return
            if end >= first:
                yield max(start, first), min(end, last)


NO_SNAPSHOT = SnapshotState()


class Part:
    """A file, and the last index in it that counts; the file is hidden if that is below its first."""

    __slots__ = ("last", "segment")

    def __init__(self, segment: Segment, last: int) -> None:
        self.segment = segment
        self.last = last

    @property
    def first(self) -> int:
        """The first index in the file."""
        return self.segment.tail.first.index

    @property
    def counts(self) -> bool:
        """Whether anything in the file counts."""
        return self.last >= self.first


class SegmentSet:
    """Answers for the entries of one server that are no longer in memory (`memtable.Older`).

    `end` is the memtable's base: everything above it is the memtable's to answer. `first` is the lowest index
    from which on no entry is missing, up to `end`; one above `end` if there is none. `untrusted`: up to
    here, files only answer for live entries. `generation` counts the times when everything was
    replaced, so that a late result of an earlier time is known.
    """

    def __init__(self, disk: Disk, directory: str, uid: Uid, cache: SegmentCache) -> None:
        self.uid = uid
        self.directory = directory
        self.lease = Lease()
        self.holds = Holds(disk, cache)
        self.snapshot = NO_SNAPSHOT
        self.generation = 0
        self.end = NOWHERE
        self.first = Index(1)
        self.untrusted = Index(0)
        self._disk = disk
        self._cache = cache
        self._parts: list[Part] = []  # in the order of their numbers, hidden ones too
        self._counting: list[Part] = []  # those that count: in the order of their indexes, too
        self._firsts: list[int] = []
        self._garbage: list[list[Segment]] = []  # a deque takes more memory than an idle log
        self._removing = False
        self.settling = False
        """Whether files of a log that an installed snapshot has replaced are still there."""
        self.looks = 0
        """How often files could be dropped since the last major compaction (COMP-04)."""
        self.may_settle = False
        """Whether the write-ahead log says that the log was replaced."""
        self._live: Segment | None = None  # the survivors below that snapshot, in the snapshot's directory
        self._replaced: list[Segment] = []
        self._next_number = 1
        # Counted for operators: entries read; files dropped, rewritten, and what replaced them.
        self.entries_read = self.minor_compactions = 0
        self.major_compactions = self.segments_written = self.segments_compacted = 0

    # --- what is there -----------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Part]:
        """The files that count, from the lowest index to the highest."""
        return self._counting

    @property
    def all_parts(self) -> Sequence[Part]:
        """All files, in the order of their numbers, hidden ones too."""
        return self._parts

    def pin(self, segments: Iterable[Segment]) -> None:
        """Keep these files open. Raises `Damaged` or `StorageError`, and then pins none."""
        pinned: list[Segment] = []
        try:
            for segment in segments:
                self._cache.pin(segment)
                pinned.append(segment)
        except BaseException:
            self.unpin(pinned)
            raise

    def unpin(self, segments: Iterable[Segment]) -> None:
        """Let go of pinned files."""
        for segment in segments:
            self._cache.unpin(segment)

    @property
    def retains(self) -> bool:
        """Whether entries below the snapshot are kept for a follower."""
        return self.snapshot.floor < self.snapshot.position.index

    def size_between(self, first: int, last: int) -> int:
        """About how many bytes the files with these indexes have."""
        return sum(p.segment.size_bytes for p in self._counting if p.first <= last and p.last >= first)

    @property
    def size_bytes(self) -> int:
        """How many bytes all files have, hidden ones too."""
        return sum(part.segment.size_bytes for part in self._parts)

    def load(self) -> None:
        """Look at the files of an earlier life. Raises `Damaged`; `OSError` when the disk fails."""
        self._parts = []
        newest = 0
        for name in self._disk.listdir(self.directory) if self._disk.exists(self.directory) else ():
            path = join(self.directory, name)
            number = segment_number(name)
            if number is not None:
                self._parts.append(Part(segment := inspect_segment(self._disk, path, number, self.uid), 0))
                self._parts[-1].last = segment.tail.last.index
                newest = number
            elif name.endswith((TEMPORARY, COMPACTING)):
                self._disk.unlink(path)
        self._next_number = newest + 1
        lowest = 1 << 62
        for part in reversed(self._parts):
            part.last = min(part.last, lowest - 1)
            lowest = min(lowest, part.first)
        self._changed()

    def take_number(self) -> int:
        """The number of a new file: it is never used again in this life."""
        number = self._next_number
        self._next_number += 1
        return number

    def part_of(self, index: int) -> Part | None:
        """The file whose range holds `index`."""
        place = bisect_right(self._firsts, index) - 1
        if place < 0 or self._counting[place].last < index:
            return None
        return self._counting[place]

    def stored_term(self, index: int) -> Term | None:
        """The term of the entry at `index` if some file holds it, trusted or not."""
        part = self.part_of(index)
        if part is None:
            return None
        if index == part.segment.tail.last.index:
            return part.segment.tail.last.term
        if not part.segment.tail.has_gaps and (term := part.segment.term_before(index)) is not None:
            return term
        opened = self._cache.open(part.segment)
        return opened.fetch_term(index)

    # --- reading -----------------------------------------------------------------------

    def fetch_term(self, index: int) -> Term | None:
        """The term of the entry at `index`, of the snapshot's position, or of position 0."""
        if index == self.snapshot.position.index:
            return self.snapshot.position.term
        if not self.first <= index <= self.end.index:
            return Term(0) if index == 0 else None
        return self.end.term if index == self.end.index else self.stored_term(index)

    def read(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Consecutive batches, as `Log.read` promises them. Raises `Damaged` or `StorageError`."""
        found: list[EntryBatch] = []
        last = min(last, self.end.index)
        if not self.first <= first <= last:
            return found
        entries = size = 0
        for batch in self._batches(first, last):
            if not found and batch.count > max_entries:
                found.append(batch.cut(first, first + max(max_entries, 1) - 1))
                break
            entries += batch.count
            size += len(batch.body)
            if found and (entries > max_entries or size > max_bytes):
                break
            found.append(batch)
        self.entries_read += sum(batch.count for batch in found)
        return found

    def _batches(self, first: int, last: int) -> Iterator[EntryBatch]:
        """All batches of a range without gaps."""
        place = bisect_right(self._firsts, first) - 1
        for part in self._counting[place:]:
            if part.first > last:
                return
            opened = self._cache.open(part.segment)
            with reading(part.segment):
                ahead = ReadAhead(opened, min(last, part.last))
                read = partial(self._cache.batches.read, part.segment, load=ahead.batch)
                yield from opened.batches_by(read, first, min(last, part.last))

    def read_entry(self, index: Index) -> EntryBatch | None:
        """The entry at `index`, be it only kept for the snapshot; None if it is not there."""
        part = self.part_of(index)
        if part is None:
            return None
        opened = self._cache.open(part.segment)
        with reading(part.segment):
            entry = read_single(opened, index)
        self.entries_read += entry is not None
        return entry

    @property
    def open_files(self) -> int:
        """How many of these files are open."""
        return sum(part.segment in self._cache for part in self._parts)

    # --- changes -----------------------------------------------------------------------

    def truncate(self, end: IndexTerm) -> None:
        """Let nothing above `end` count. No file goes: a crash may bring the entries back."""
        for part in self._parts:
            part.last = min(part.last, end.index)
        self.end = end
        self._changed()

    def adopt(self, segments: Iterable[Segment], end: IndexTerm) -> None:
        """Take new files, in order, as far as they hold entries up to `end`; files that they hide go.

        A file of which nothing counts goes itself, and hides nothing: what was cut off may come back.
        """
        gone: list[Segment] = []
        for segment in segments:
            first = segment.tail.first.index
            if first > end.index:
                gone.append(segment)
                continue
            kept: list[Part] = []
            for part in self._parts:
                hidden = part.first >= first
                part.last = min(part.last, first - 1)
                (gone.append(part.segment) if hidden else kept.append(part))
            kept.append(Part(segment, min(segment.tail.last.index, end.index)))
            self._parts = kept
        self.end = end
        self._changed()
        self._discard(gone)

    def reject(self, segments: Iterable[Segment]) -> None:
        """Let new files go that come too late: everything was replaced while they were written."""
        self._discard(list(segments))

    def replace(self, sources: Sequence[Segment], made: Segment) -> None:
        """Let a compacted file, which has the name of the first source, stand for all sources.

        Sources may have been dropped meanwhile: nobody needs what they held.
        """
        self._cache.retire(sources[0])  # its name is the new file's already
        if all(part.segment is not sources[0] for part in self._parts):
            self._discard([made])
            return
        self.major_compactions += 1
        self.segments_compacted += len(sources)
        self.segments_written += 1
        last = 0
        kept: list[Part] = []
        gone: list[Segment] = []
        for part in self._parts:
            if part.segment not in sources:
                kept.append(part)
                continue
            last = max(last, part.last)
            if part.segment is sources[0]:
                kept.append(merged := Part(made, 0))
            else:
                gone.append(part.segment)
        merged.last = min(made.tail.last.index, last)
        self._parts = kept
        self._changed()
        self._garbage.append([])  # the name must be durable before the others go: this only syncs
        for segment in gone:  # one after the other: each hides the new file from its first index on
            self._discard([segment])

    def advance(self, end: IndexTerm) -> None:
        """Raise `end`: nobody needs the entries up to there, and no file has them."""
        self.end = end
        self._changed()

    def replace_all(self, snapshot: SnapshotState, live_file: str | None) -> None:
        """Let nothing count but the entries that survive below an installed snapshot, in `live_file`.

        All files stay where they are, until `settle`.
        """
        live = [] if live_file is None else [inspect_segment(self._disk, live_file, 0, self.uid)]
        self.generation += 1
        if self._live is not None:
            self.holds.keep([self._live])  # it goes with the snapshot that it belongs to
        self._replaced += [part.segment for part in self._parts if part.segment is not self._live]
        self._live = live[0] if live else None
        self.untrusted = Index(0)
        self._parts = [Part(segment, segment.tail.last.index) for segment in live]
        self.snapshot = snapshot
        self.end = snapshot.position
        self.settling = True
        self.may_settle = False
        self._changed()

    def settle(self) -> None:
        """Give the survivors' file its place, and let the files of the replaced log go, if that may be.

        A failure changes nothing; try again.
        """
        if not self.settling or not self.may_settle:
            return
        if self._live is not None:
            self.holds.keep([self._live])
            try:
                moved = self.take_over(self._live.path)
            except OSError:
                return
            for part in self._parts:
                if part.segment is self._live:
                    part.segment = moved
            self._cache.retire(self._live)
            self._live = None
            self._changed()
        gone, self._replaced = self._replaced, []
        self._discard(gone)
        self.settling = self.has_garbage or self._removing

    def take_over(self, live_file: str) -> Segment:
        """Move a file of survivors to the others, as the newest. Raises `Damaged`, `OSError`: try again."""
        number = self._next_number  # the same for each attempt
        path = segment_path(self.directory, number)
        self._disk.mkdir(self.directory)
        if self._disk.exists(live_file):  # else a failed attempt has moved it
            self._disk.rename(live_file, path)
        self._disk.fsync_dir(self.directory)
        self._disk.fsync_dir(live_file.rpartition("/")[0])
        moved = inspect_segment(self._disk, path, number, self.uid)
        self.take_number()
        return moved

    def join(self, last: Index, end: IndexTerm, untrusted: Index) -> None:
        """Begin a life: files count up to `last`, the memtable holds what is above `end`."""
        for part in self._parts:
            part.last = min(part.last, last)
        self.end = end
        self.untrusted = untrusted
        self._changed()
        self.drop_hidden()
        self.compact()

    def drop_hidden(self) -> None:
        """Let the files go of which nothing counts since `load`: newer files hide them."""
        lowest = 1 << 62
        kept: list[Part] = []
        gone: list[Part] = []
        for part in reversed(self._parts):
            (gone if part.first >= lowest else kept).append(part)
            lowest = min(lowest, part.first)
        self._parts = kept[::-1]
        self._changed()
        self._discard([part.segment for part in reversed(gone)])

    def compact(self) -> None:
        """Let the files go that end at or below the floor and hold nothing live (COMP-02).

        A file that hides a part of an older one stays while that one does.
        """
        kept: list[Part] = []
        gone: list[Segment] = []
        reach = 0  # the highest index in any older file that stays
        for part in self._parts:
            end = part.segment.tail.last.index  # not `part.last`: a crash may bring back what was cut off
            needed = end > self.snapshot.floor or self.snapshot.needs(part.first, part.last)
            if needed or reach >= part.first:
                kept.append(part)
                reach = max(reach, end)
            else:
                gone.append(part.segment)
        self.looks += 1
        if gone:
            self.minor_compactions += 1
            self._parts = kept
            self._changed()
            self._discard(gone)

    def _changed(self) -> None:
        """Work out again what is derived from the parts."""
        self._counting = [part for part in self._parts if part.counts]
        self._firsts = [part.first for part in self._counting]
        first = self.end.index + 1
        for part in reversed(self._counting):
            if part.last != first - 1 or part.segment.tail.has_gaps:
                break
            first = max(part.first, self.untrusted + 1)
            if part.first <= self.untrusted:
                break
        self.first = Index(first)
        self.holds.tell()

    # --- files that go -----------------------------------------------------------------

    def _discard(self, segments: list[Segment]) -> None:
        if segments:
            self.holds.keep(segments)
            self._garbage.append(segments)

    @property
    def has_garbage(self) -> bool:
        """Whether `remove_garbage` has something to do."""
        return bool(self._garbage)

    def remove_garbage(self) -> tuple[Job, Callable[[Exception | None], None]]:
        """A job that deletes the files which no longer count, and what to call when it has ended."""
        batches, self._garbage = self._garbage, []
        self._removing = True
        for batch in batches:
            for segment in batch:
                self._cache.retire(segment)

        def ended(error: Exception | None) -> None:
            self._removing = False
            if error is not None:
                self._garbage[:0] = batches
            elif self.settling:
                self.settle()

        paths = [[segment.path for segment in batch] for batch in batches]
        return _delete(self._disk, self.lease, self.directory, paths), ended

    def end_lease(self) -> None:
        """The server is being deleted: nothing writes its files from now on."""
        self.lease.end()
        self.holds.end_all(f"server {self.uid} was deleted")
        for part in self._parts:
            self._cache.retire(part.segment)


def _delete(disk: Disk, lease: Lease, directory: str, batches: list[list[str]]) -> Job:
    for batch in batches:
        with lease.step():
            for path in batch:
                with contextlib.suppress(FileNotFoundError):  # a failed attempt came so far
                    disk.unlink(path)
            disk.fsync_dir(directory)
        yield


def segment_path(directory: str, number: int) -> str:
    """The path of file `number` of a server."""
    return join(directory, segment_name(number))
