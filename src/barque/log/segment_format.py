"""The bytes of a segment file: one server's entries, written once. Format: docs/formats/segment.md.

Pure: bytes in, values out. A file is complete and synced before it gets its name, so every deviation is
damage; there is no torn tail to tell from it. Bodies are never copied on the way to the disk.
"""

import struct
from collections.abc import Sequence
from zlib import crc32

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX, EntryBatch
from barque.types import Index, IndexTerm, Term, Uid

VERSION = 1
CRC32 = 1
"""The checksum algorithm byte for `zlib.crc32`."""

MAGIC = b"BARQUSEG"
RECORD_MAGIC = b"\xb5Bat"
TAIL_MAGIC = b"BARQUEND"
UID_BYTES_MAX = 255

_HEAD = struct.Struct("<8sBBHI")  # magic, version, checksum, uid length, crc
_FRONT = struct.Struct("<4sI")  # magic, crc
_BATCH = struct.Struct("<QQIIQ")  # first index, term, count, body length, timestamp
_PLACE = struct.Struct("<QQIIQQ")  # first index, term, count, body length, timestamp, offset
# magic, crc, crc and offset of the index, batches, entries, first index and term, last index and term
_TAIL = struct.Struct("<8sIIQIIQQQQ")

HEAD_SIZE_MAX = _HEAD.size + UID_BYTES_MAX
RECORD_HEAD_SIZE = _FRONT.size + _BATCH.size
PLACE_SIZE = _PLACE.size
TAIL_SIZE = _TAIL.size


class MalformedSegment(ValueError):
    """The bytes are no segment, or no longer the ones that were written. The message says in what way."""


class BatchPlace(msgspec.Struct, frozen=True, gc=False):
    """One entry of a segment's index: which batch there is, and where. `size` is its body's, in bytes."""

    first_index: Index
    term: Term
    count: int
    size: int
    timestamp_ms: int
    offset: int

    @property
    def last_index(self) -> Index:
        """The index of the batch's last entry."""
        return Index(self.first_index + self.count - 1)

    @property
    def end(self) -> int:
        """The offset behind the batch's record."""
        return self.offset + RECORD_HEAD_SIZE + self.size


class SegmentTail(msgspec.Struct, frozen=True, gc=False):
    """The last bytes of a segment: what it holds, and where its index begins.

    A segment has no gaps if `entries` says so (`last.index - first.index + 1`).
    """

    index_offset: int
    index_crc: int
    batches: int
    entries: int
    first: IndexTerm
    last: IndexTerm

    @property
    def index_size(self) -> int:
        """How long the index is, in bytes."""
        return self.batches * PLACE_SIZE

    @property
    def file_size(self) -> int:
        """How long the whole file must be, in bytes."""
        return self.index_offset + self.index_size + TAIL_SIZE

    @property
    def has_gaps(self) -> bool:
        """Whether some indexes between the first and the last are not there."""
        return self.entries != self.last.index - self.first.index + 1


def encode_head(uid: Uid) -> bytes:
    """The first bytes of a segment of this server."""
    name = uid.encode()
    assert 0 < len(name) <= UID_BYTES_MAX, uid
    crc = crc32(name, crc32(_HEAD.pack(MAGIC, VERSION, CRC32, len(name), 0)))
    return _HEAD.pack(MAGIC, VERSION, CRC32, len(name), crc) + name


def decode_head(data: bytes) -> tuple[Uid, int]:
    """Read the beginning of a segment: whose it is, and the offset of its first record.

    `data` may be longer or, for a short file, shorter. Raises `MalformedSegment`.
    """
    if len(data) < _HEAD.size:
        raise MalformedSegment(f"the file is only {len(data)} bytes long")
    magic, version, algorithm, uid_size, crc = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise MalformedSegment("the file has the wrong magic number")
    name = data[_HEAD.size : _HEAD.size + uid_size]
    good = crc32(name, crc32(_HEAD.pack(magic, version, algorithm, uid_size, 0))) == crc
    if version == VERSION and algorithm == CRC32 and not good:
        raise MalformedSegment("the checksum of the head is wrong")
    if version != VERSION or algorithm != CRC32:
        raise MalformedSegment(f"format version {version} with checksum {algorithm} is not known here")
    try:
        return Uid(name.decode()), _HEAD.size + uid_size
    except UnicodeDecodeError as error:
        raise MalformedSegment(f"the server's uid is no text: {error}") from error


class SegmentEncoder:
    """Encodes a segment from front to back, and remembers what its index must say.

    Write `head`, then what `add` returns for each batch in the order of the indexes, then `finish()`.
    `size` is how many bytes there are so far.
    """

    __slots__ = ("_entries", "_places", "head", "size")

    def __init__(self, uid: Uid) -> None:
        self.head = encode_head(uid)
        self.size = len(self.head)
        self._places: list[bytes] = []
        self._entries = 0

    def add(self, batch: EntryBatch) -> tuple[bytes, bytes]:
        """The bytes of one batch: its record's head, and its body as it is."""
        body = batch.body
        head = _BATCH.pack(batch.first_index, batch.term, batch.count, len(body), batch.timestamp_ms)
        self._places.append(
            _PLACE.pack(batch.first_index, batch.term, batch.count, len(body), batch.timestamp_ms, self.size)
        )
        self._entries += batch.count
        self.size += RECORD_HEAD_SIZE + len(body)
        return _FRONT.pack(RECORD_MAGIC, crc32(body, crc32(head))) + head, body

    def finish(self) -> tuple[bytes, SegmentTail]:
        """The index and the tail, as bytes; and the tail as a value. There must be a batch."""
        index = b"".join(self._places)
        first_index, first_term, *_ = _PLACE.unpack(self._places[0])
        last_index, last_term, count, *_ = _PLACE.unpack(self._places[-1])
        tail = SegmentTail(
            index_offset=self.size,
            index_crc=crc32(index),
            batches=len(self._places),
            entries=self._entries,
            first=IndexTerm(Index(first_index), Term(first_term)),
            last=IndexTerm(Index(last_index + count - 1), Term(last_term)),
        )
        return index + encode_tail(tail), tail


def encode_tail(tail: SegmentTail) -> bytes:
    """The last bytes of a segment."""
    fields = (
        *(tail.index_crc, tail.index_offset, tail.batches, tail.entries),
        *(tail.first.index, tail.first.term, tail.last.index, tail.last.term),
    )
    crc = crc32(_TAIL.pack(TAIL_MAGIC, 0, *fields))
    return _TAIL.pack(TAIL_MAGIC, crc, *fields)


def decode_tail(data: bytes, file_size: int) -> SegmentTail:
    """Read the last `TAIL_SIZE` bytes of a file of that size. Raises `MalformedSegment`."""
    if len(data) != TAIL_SIZE:
        raise MalformedSegment("the file is too short for a tail")
    magic, _, index_crc, index_offset, batches, entries, *ends = _TAIL.unpack(data)
    if magic != TAIL_MAGIC:
        raise MalformedSegment("the file does not end with a tail")
    first_index, first_term, last_index, last_term = ends
    tail = SegmentTail(
        index_offset=index_offset,
        index_crc=index_crc,
        batches=batches,
        entries=entries,
        first=IndexTerm(Index(first_index), Term(first_term)),
        last=IndexTerm(Index(last_index), Term(last_term)),
    )
    if encode_tail(tail) != data:
        raise MalformedSegment("the checksum of the tail is wrong")
    if tail.file_size != file_size:
        raise MalformedSegment(f"the tail is of a file of {tail.file_size} bytes, and this has {file_size}")
    return tail


def check_index(data: bytes, tail: SegmentTail) -> None:
    """Check the bytes of an index as a whole. Raises `MalformedSegment`."""
    if len(data) != tail.index_size or crc32(data) != tail.index_crc:
        raise MalformedSegment("the checksum of the index is wrong")


def place_at(index: bytes, number: int) -> BatchPlace:
    """Entry `number`, from 0, of a checked index."""
    first_index, term, count, size, timestamp, offset = _PLACE.unpack_from(index, number * PLACE_SIZE)
    return BatchPlace(Index(first_index), Term(term), count, size, timestamp, offset)


def first_at(index: bytes, number: int) -> int:
    """The first log index of batch `number`: the key of a bisection."""
    return int.from_bytes(index[number * PLACE_SIZE : number * PLACE_SIZE + 8], "little")


def check_places(places: Sequence[BatchPlace], head_size: int, tail: SegmentTail) -> None:
    """Check that an index describes one file from its head to its tail. Raises `MalformedSegment`.

    The checksums hold in every file that passes here, so only a defect of the writer fails.
    """
    offset, index, term, entries = head_size, Index(0), Term(0), 0
    for place in places:
        if place.offset != offset or place.first_index <= index or place.term < term:
            raise MalformedSegment(f"the index does not go on at entry {place.first_index}")
        if not 1 <= place.count <= BATCH_ENTRIES_MAX:
            raise MalformedSegment(f"a batch cannot hold {place.count} entries")
        offset, index, term = place.end, place.last_index, place.term
        entries += place.count
    if not places or (offset, entries) != (tail.index_offset, tail.entries):
        raise MalformedSegment("the index does not end where the tail says")
    first = IndexTerm(places[0].first_index, places[0].term)
    if (first, IndexTerm(index, term)) != (tail.first, tail.last):
        raise MalformedSegment("the index does not hold the entries that the tail says")


def decode_record(data: bytes, place: BatchPlace) -> EntryBatch:
    """Read the batch whose record `data` is. Raises `MalformedSegment`."""
    if len(data) != RECORD_HEAD_SIZE + place.size:
        raise MalformedSegment("the file ends inside a batch")
    magic, crc = _FRONT.unpack_from(data)
    if magic != RECORD_MAGIC:
        raise MalformedSegment("no batch begins here")
    if crc32(memoryview(data)[_FRONT.size :]) != crc:
        raise MalformedSegment("the checksum of the batch is wrong")
    first_index, term, count, size, timestamp = _BATCH.unpack_from(data, _FRONT.size)
    batch = EntryBatch(Index(first_index), Term(term), count, timestamp, data[RECORD_HEAD_SIZE:])
    named = (place.first_index, place.term, place.count, place.size, place.timestamp_ms)
    if (first_index, term, count, size, timestamp) != named:
        raise MalformedSegment(f"the index names batch {place.first_index} here, and it is {first_index}")
    return batch
