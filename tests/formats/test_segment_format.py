"""Golden bytes and endings of segments (docs/formats/segment.md)."""

from zlib import crc32

import pytest
from hypothesis import given, strategies as st

from barque.core.entries import EntryBatch
from barque.log import segment_format
from barque.log.segment_format import (
    PLACE_SIZE,
    TAIL_SIZE,
    BatchPlace,
    MalformedSegment,
    SegmentEncoder,
    SegmentTail,
)
from barque.types import Index, IndexTerm, Term, Uid

ALPHA = Uid("alpha")
BATCHES = (
    EntryBatch(Index(5), Term(2), 1, 1_700_000_000_000, b"first"),
    EntryBatch(Index(8), Term(3), 2, 1_700_000_000_001, b"second"),
)
HEAD_BYTES = bytes.fromhex("424152515553454701010500965abaf3616c706861")
RECORD_BYTES = bytes.fromhex(
    "b5426174e72478ea050000000000000002000000000000000100000005000000"
    "0068e5cf8b0100006669727374b54261744c23ce6e0800000000000000030000"
    "000000000002000000060000000168e5cf8b0100007365636f6e64"
)
INDEX_BYTES = bytes.fromhex(
    "0500000000000000020000000000000001000000050000000068e5cf8b010000"
    "1500000000000000080000000000000003000000000000000200000006000000"
    "0168e5cf8b0100004200000000000000"
)
TAIL_BYTES = bytes.fromhex(
    "4241525155454e44386b1e2760405fbf70000000000000000200000003000000"
    "0500000000000000020000000000000009000000000000000300000000000000"
)
FILE_BYTES = HEAD_BYTES + RECORD_BYTES + INDEX_BYTES + TAIL_BYTES


def encode(batches: tuple[EntryBatch, ...], uid: Uid = ALPHA) -> bytes:
    """A whole segment file."""
    encoder = SegmentEncoder(uid)
    parts = [encoder.head]
    for batch in batches:
        parts += encoder.add(batch)
    ending, tail = encoder.finish()
    data = b"".join([*parts, ending])
    assert tail.file_size == len(data)
    return data


def decode(data: bytes) -> tuple[Uid, tuple[EntryBatch, ...]]:
    """Everything in a segment file, checked in the order in which a verifier checks it."""
    uid, head_size = segment_format.decode_head(data)
    tail = segment_format.decode_tail(data[-TAIL_SIZE:], len(data))
    index = data[tail.index_offset : -TAIL_SIZE]
    segment_format.check_index(index, tail)
    places = [segment_format.place_at(index, number) for number in range(tail.batches)]
    segment_format.check_places(places, head_size, tail)
    return uid, tuple(segment_format.decode_record(data[p.offset : p.end], p) for p in places)


def test_a_segment_is_as_it_always_was() -> None:
    """Golden bytes, both ways; bodies are not copied on the way."""
    assert encode(BATCHES) == FILE_BYTES
    assert decode(FILE_BYTES) == (ALPHA, BATCHES)
    assert SegmentEncoder(ALPHA).add(BATCHES[0])[1] is BATCHES[0].body


def test_the_tail_says_what_the_file_holds() -> None:
    """The ends of the range, and whether there are gaps in it."""
    tail = segment_format.decode_tail(TAIL_BYTES, len(FILE_BYTES))
    assert tail.first == IndexTerm(Index(5), Term(2))
    assert tail.last == IndexTerm(Index(9), Term(3))
    assert (tail.batches, tail.entries, tail.has_gaps) == (2, 3, True)


def test_the_index_finds_single_batches() -> None:
    """Each place names its batch, and its first index alone is a key to search for."""
    size = segment_format.RECORD_HEAD_SIZE + len(b"first")
    first = BatchPlace(Index(5), Term(2), 1, 5, 1_700_000_000_000, len(HEAD_BYTES))
    assert segment_format.place_at(INDEX_BYTES, 0) == first
    assert segment_format.place_at(INDEX_BYTES, 1).offset == first.end == len(HEAD_BYTES) + size
    assert [segment_format.first_at(INDEX_BYTES, number) for number in range(2)] == [5, 8]
    assert len(INDEX_BYTES) == 2 * PLACE_SIZE


@pytest.mark.parametrize("offset", range(len(FILE_BYTES)))
def test_every_byte_of_a_segment_counts(offset: int) -> None:
    """Each flipped byte is noticed."""
    for bit in (0x01, 0x20, 0x80):
        data = bytearray(FILE_BYTES)
        data[offset] ^= bit
        with pytest.raises(MalformedSegment):
            decode(bytes(data))


@pytest.mark.parametrize("size", range(len(FILE_BYTES)))
def test_every_cut_is_noticed(size: int) -> None:
    """A file that has lost its end, or gained one, is no segment."""
    with pytest.raises(MalformedSegment):
        decode(FILE_BYTES[:size])
    with pytest.raises(MalformedSegment):
        decode(FILE_BYTES + FILE_BYTES[:size] + b"\0")


def test_an_unknown_version_is_refused_by_name() -> None:
    """A file of a later release is not taken for a damaged one."""
    for offset in (8, 9):
        data = bytearray(HEAD_BYTES)
        data[offset] = 2
        with pytest.raises(MalformedSegment, match=r"format version \d with checksum \d is not known here"):
            segment_format.decode_head(bytes(data))


TAIL = segment_format.decode_tail(TAIL_BYTES, len(FILE_BYTES))
PLACES = [segment_format.place_at(INDEX_BYTES, number) for number in range(2)]


@pytest.mark.parametrize(
    ("places", "tail"),
    [
        ([], TAIL),
        (PLACES[:1], TAIL),
        (PLACES[::-1], TAIL),
        ([PLACES[0], BatchPlace(Index(8), Term(1), 2, 6, 1, PLACES[1].offset)], TAIL),
        ([PLACES[0], BatchPlace(Index(5), Term(3), 2, 6, 1, PLACES[1].offset)], TAIL),
        ([PLACES[0], BatchPlace(Index(8), Term(3), 0, 6, 1, PLACES[1].offset)], TAIL),
        ([PLACES[0], BatchPlace(Index(8), Term(3), 2, 6, 1, PLACES[1].offset + 1)], TAIL),
        ([PLACES[0], BatchPlace(Index(9), Term(3), 1, 6, 1, PLACES[1].offset)], TAIL),
        (PLACES, SegmentTail(TAIL.index_offset, 0, 2, 3, TAIL.first, IndexTerm(Index(9), Term(4)))),
    ],
)
def test_an_index_must_describe_its_file(places: list[BatchPlace], tail: SegmentTail) -> None:
    """Places without order, with holes in the file, or other ends than the tail's are refused."""
    with pytest.raises(MalformedSegment):
        segment_format.check_places(places, len(HEAD_BYTES), tail)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.binary(max_size=50)), min_size=1
    ),
    st.text(min_size=1, max_size=60).filter(lambda text: len(text.encode("utf-8", "ignore")) >= 1),
)
def test_what_goes_in_comes_out(parts: list[tuple[int, int, int, bytes]], name: str) -> None:
    """Any batches with rising indexes and terms, with gaps or without, of any server."""
    uid = Uid(name.encode("utf-8", "ignore").decode())
    index, term, batches = 1, 1, []
    for count, gap, rise, body in parts:
        index, term = index + gap, term + rise
        batches.append(EntryBatch(Index(index), Term(term), count, index, body))
        index += count
    assert decode(encode(tuple(batches), uid)) == (uid, tuple(batches))


@given(st.binary(max_size=200))
def test_no_bytes_are_a_surprise(data: bytes) -> None:
    """Anything else than a segment is refused, with the one error."""
    with pytest.raises(MalformedSegment):
        decode(data)
    with pytest.raises(MalformedSegment):
        decode(HEAD_BYTES + data)
    with pytest.raises(MalformedSegment):
        decode(data + INDEX_BYTES + TAIL_BYTES)


def test_a_uid_that_is_no_text_is_malformed() -> None:
    """Also under a right checksum."""
    name = b"alph\xff"
    front = HEAD_BYTES[:12]
    crc = crc32(name, crc32(front + bytes(4)))
    with pytest.raises(MalformedSegment, match="the server's uid is no text"):
        segment_format.decode_head(front + crc.to_bytes(4, "little") + name)
