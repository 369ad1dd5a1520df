"""One segment file: written once, then read at random. Format: docs/formats/segment.md.

`write_segment` makes a file, beside the loop. A `Segment` says what a file holds, from its head and its tail,
and costs no descriptor. `SegmentCache` opens the files that are read, for all servers of a data directory:
the most recently used stay open. A reader that must not lose a file pins it: it stays open until the last
reader lets go.
"""

import contextlib
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator

from barque.core.entries import EntryBatch
from barque.errors import Damaged, StorageError
from barque.log import segment_format
from barque.log.batch_cache import BatchCache
from barque.log.disk import TEMPORARY, Disk, DiskFile, join
from barque.log.lease import Lease
from barque.log.segment_format import (
    HEAD_SIZE_MAX,
    TAIL_SIZE,
    BatchPlace,
    MalformedSegment,
    SegmentEncoder,
    SegmentTail,
)
from barque.log.wal_recovery import ADVICE
from barque.types import Index, Term, Uid

OPEN_FILES_MAX = 32
"""The most segment files that are kept open, for all servers of a data directory."""

_STEP_BYTES = 1 << 20
_AHEAD_BYTES = 128 * 1024
"""How much is read at once where batches follow one another. A call costs as much as 10 KiB."""
_FILE_NAME = re.compile(r"(\d{17})\.segment", re.ASCII)


def segment_name(number: int) -> str:
    """The name of segment file `number`."""
    return f"{number:017}.segment"


def segment_number(name: str) -> int | None:
    """The number in a segment file's name; None for any other name."""
    found = _FILE_NAME.fullmatch(name)
    return int(found[1]) if found else None


Terms = list[tuple[Index, Term]]


class Segment:
    """What one file holds. It never changes, and is compared by identity.

    `pins` counts the readers that must not lose it. `terms` has the first index of each term, in order; None
    until the file is opened.
    """

    __slots__ = ("number", "path", "pins", "tail", "terms", "uid")

    def __init__(
        self, uid: Uid, number: int, path: str, tail: SegmentTail, terms: Terms | None = None
    ) -> None:
        self.uid = uid
        self.number = number
        self.path = path
        self.tail = tail
        self.pins = 0
        self.terms = terms
        if terms is None and tail.first.term == tail.last.term:  # terms never decrease along a file
            self.terms = [(tail.first.index, tail.first.term)]

    def term_before(self, index: int) -> Term | None:
        """The term of the entry at `index` if the file has one, without a look at the file; None: look."""
        if self.terms is None:
            return None
        return self.terms[bisect_right(self.terms, index, key=lambda run: run[0]) - 1][1]

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self.tail.file_size

    def __repr__(self) -> str:
        return f"{self.path} [{self.tail.first.index}..{self.tail.last.index}]"


def damaged(path: str, uid: str, reason: object) -> Damaged:
    """The error for a segment that is not what it must be."""
    return Damaged(f"{path}: damaged: {reason}. Servers concerned: {uid}. {ADVICE}")


def inspect_segment(disk: Disk, path: str, number: int, uid: Uid) -> Segment:
    """Read the head and the tail of a file. Raises `Damaged`; `OSError` when the disk fails."""
    file = disk.open(path)
    try:
        size = file.size()
        try:
            owner, _ = segment_format.decode_head(file.pread(min(HEAD_SIZE_MAX, size), 0))
            tail = segment_format.decode_tail(file.pread(TAIL_SIZE, max(0, size - TAIL_SIZE)), size)
        except MalformedSegment as error:
            raise damaged(path, uid, error) from error
    finally:
        file.close()
    if owner != uid:
        raise damaged(path, uid, f"it is a segment of server {owner}")
    return Segment(uid, number, path, tail)


class OpenSegment:
    """A segment that can be read. The index stays in memory as bytes: 40 for each batch.

    Raises `Damaged` where the bytes are not those that were written.
    """

    __slots__ = ("_file", "_index", "segment")

    def __init__(self, disk: Disk, segment: Segment) -> None:
        self.segment = segment
        self._file: DiskFile = disk.open(segment.path)
        try:
            tail = segment.tail
            self._index = self._file.pread(tail.index_size, tail.index_offset)
            with self._checked():
                segment_format.check_index(self._index, tail)
            if segment.terms is None:
                segment.terms = terms_of(map(self.place, range(tail.batches)))
        except BaseException:
            self._file.close()
            raise

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except MalformedSegment as error:
            raise damaged(self.segment.path, self.segment.uid, error) from error

    def find(self, index: int) -> int:
        """The number of the batch that holds `index`, or of the next one; `batches` if there is none."""
        batches = self.segment.tail.batches
        number = bisect_right(range(batches), index, key=lambda n: segment_format.first_at(self._index, n))
        if number and self.place(number - 1).last_index >= index:
            return number - 1
        return number

    def place(self, number: int) -> BatchPlace:
        """What the index says about batch `number`."""
        return segment_format.place_at(self._index, number)

    def fetch_term(self, index: int) -> Term | None:
        """The term of the entry at `index`; None if it is not in this file."""
        number = self.find(index)
        if number == self.segment.tail.batches:
            return None
        place = self.place(number)
        return place.term if place.first_index <= index else None

    def batch(self, number: int) -> EntryBatch:
        """Read batch `number`."""
        place = self.place(number)
        return self.decode(self.raw(place.offset, place.end), place)

    def raw(self, start: int, end: int) -> bytes:
        """The bytes of the file from `start` to `end`, as far as there are some."""
        return self._file.pread(end - start, start)

    def decode(self, record: bytes, place: BatchPlace) -> EntryBatch:
        """The batch that these bytes are."""
        try:
            return segment_format.decode_record(record, place)
        except MalformedSegment as error:  # as `_checked`, which would cost more than the decoding
            raise damaged(self.segment.path, self.segment.uid, error) from error

    def batches(self, first: int, last: int) -> Iterator[EntryBatch]:
        """The batches that hold entries from `first` to `last`, cut to this range, one read for each."""
        return self.batches_by(self.batch, first, last)

    def batches_by(self, read: Callable[[int], EntryBatch], first: int, last: int) -> Iterator[EntryBatch]:
        """The same, with `read` to read a batch by its number."""
        for number in range(self.find(first), self.segment.tail.batches):
            batch = read(number)
            begins, ends = batch.first_index, batch.last_index
            if begins > last:
                return
            if begins < first or ends > last:
                batch = batch.cut(max(first, begins), min(last, ends))
            yield batch

    def verify(self) -> None:
        """Read everything, and check it. Raises `Damaged`."""
        tail = self.segment.tail
        places = [self.place(number) for number in range(tail.batches)]
        with self._checked():
            _, head_size = segment_format.decode_head(self._file.pread(HEAD_SIZE_MAX, 0))
            segment_format.check_places(places, head_size, tail)
        for number in range(tail.batches):
            self.batch(number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ReadAhead:
    """Reads the batches of one file in their order, many with each call of the system.

    It reads no further than the batch that holds entry `last`. Where the disk cannot read many together, it
    reads the one that is wanted: one bad sector harms one batch.
    """

    __slots__ = ("_data", "_last", "_limit", "_offset", "_opened")

    def __init__(self, opened: OpenSegment, last: int) -> None:
        self._opened = opened
        self._last = last
        self._limit = 0  # where the batch of `last` ends; 0: nothing was read yet
        self._offset = 0
        self._data = b""

    def batch(self, number: int) -> EntryBatch:
        """Read batch `number`."""
        place = self._opened.place(number)
        start, end = place.offset - self._offset, place.end - self._offset
        if start < 0 or end > len(self._data):
            self._fill(place)
            start, end = 0, place.end - place.offset
        return self._opened.decode(self._data[start:end], place)

    def _fill(self, place: BatchPlace) -> None:
        opened = self._opened
        if not self._limit:
            last = min(opened.find(self._last), opened.segment.tail.batches - 1)
            self._limit = opened.place(last).end
        self._offset = place.offset
        end = max(place.end, min(place.offset + _AHEAD_BYTES, self._limit))
        try:
            self._data = opened.raw(place.offset, end)
        except OSError:
            self._data = opened.raw(place.offset, place.end)


class SegmentCache:
    """The open segment files of a data directory: the most recently used, and the pinned ones."""

    def __init__(self, disk: Disk, files_max: int = OPEN_FILES_MAX) -> None:
        self._disk = disk
        self._files_max = files_max
        self._open: OrderedDict[Segment, OpenSegment] = OrderedDict()
        self._held: dict[Segment, OpenSegment] = {}  # pinned
        self.batches = BatchCache()
        """What was read last, whichever server it is of."""

    @property
    def files(self) -> int:
        """How many files are open."""
        return len(self._open) + len(self._held)

    def __contains__(self, segment: Segment) -> bool:
        """Whether this file is open."""
        return segment in self._open or segment in self._held

    def open(self, segment: Segment) -> OpenSegment:
        """The segment, ready to read. Raises `Damaged` or `StorageError`."""
        found = self._open.get(segment)
        if found is not None:
            self._open.move_to_end(segment)
            return found
        held = self._held.get(segment)
        if held is not None:
            return held
        with reading(segment):
            found = self._open[segment] = OpenSegment(self._disk, segment)
        if len(self._open) > self._files_max:
            self._open.popitem(last=False)[1].close()
        return found

    def pin(self, segment: Segment) -> None:
        """Keep the segment open until `unpin`, whatever becomes of its name. Raises as `open` does."""
        if not segment.pins:
            self._held[segment] = self.open(segment)
            self._open.pop(segment, None)
        segment.pins += 1

    def unpin(self, segment: Segment) -> None:
        """Let go of a pinned segment."""
        segment.pins -= 1
        assert segment.pins >= 0, segment
        if not segment.pins and segment in self._held:
            self._held.pop(segment).close()

    def retire(self, segment: Segment) -> None:
        """The file is about to lose its name."""
        if segment in self._open:
            self._open.pop(segment).close()

    def close(self) -> None:
        """Close all files."""
        for opened in (*self._open.values(), *self._held.values()):
            opened.close()
        self._open.clear()
        self._held.clear()


@contextlib.contextmanager
def reading(segment: Segment) -> Iterator[None]:
    """Turn errors of the disk into the `StorageError` that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{segment.path}: cannot be read: {error}") from error


def write_segment(
    disk: Disk,
    lease: Lease,
    directory: str,
    number: int,
    uid: Uid,
    batches: Iterable[EntryBatch],
    suffix: str = TEMPORARY,
) -> Generator[None, None, Segment]:
    """Write one file under its name and `suffix`, and sync it; the caller renames it.

    A job's part: it yields about every MiB. Raises `OSError`, or `LeaseEndedError`.
    """
    path = join(directory, segment_name(number))
    encoder = SegmentEncoder(uid)
    buffers, offset = [encoder.head], 0
    terms: Terms = []
    with lease.step():
        file = disk.create(path + suffix)
    try:
        for batch in batches:
            if not terms or terms[-1][1] != batch.term:
                terms.append((batch.first_index, batch.term))
            buffers += encoder.add(batch)
            if encoder.size - offset >= _STEP_BYTES:
                with lease.step():
                    file.pwritev(buffers, offset, sync=False)
                buffers, offset = [], encoder.size
                yield
        ending, tail = encoder.finish()
        with lease.step():
            file.pwritev([*buffers, ending], offset, sync=False)
            file.datasync()
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.close()  # its error counts: the file may not be whole
    return Segment(uid, number, path, tail, terms)


def terms_of(places: Iterable[BatchPlace]) -> Terms:
    """The first index of each term."""
    terms: Terms = []
    for place in places:
        if not terms or terms[-1][1] != place.term:
            terms.append((place.first_index, place.term))
    return terms


def read_single(opened: OpenSegment, index: Index) -> EntryBatch | None:
    """The entry at `index` as a batch of its own; None if it is not in this file."""
    return next(opened.batches(index, index), None)
