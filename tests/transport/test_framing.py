"""`barque.transport.framing`: a stream of bytes becomes frames, or a `ProtocolError`."""

import pytest
from hypothesis import given, strategies as st

from barque.errors import ProtocolError
from barque.transport.connection import encode_frames
from barque.transport.contract import TransportCounters
from barque.transport.framing import (
    FRAME_BYTES_MAX,
    HEADER,
    HELLO_BYTES_MAX,
    Frame,
    FrameKind,
    FrameReader,
    encode_frame,
)
from barque.transport.wire import ClientFailed, encode_answers

frames = st.lists(st.tuples(st.sampled_from(FrameKind), st.binary(max_size=5000)), max_size=12)


def drain(reader: FrameReader) -> list[tuple[FrameKind, bytes]]:
    """All frames that are complete."""
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append((frame.kind, frame.payload))
    return found


def test_golden_bytes() -> None:
    """A frame is length, version 1, kind and two zero bytes, little endian, then the payload."""
    assert encode_frame(FrameKind.ENVELOPES, b"abc") == bytes.fromhex("03000000 01 10 0000") + b"abc"
    assert encode_frame(FrameKind.HELLO, b"") == bytes.fromhex("00000000 01 01 0000")


def test_messages_are_encoded_into_the_same_frame() -> None:
    """Messages that are encoded behind the header's room need no copy to become a frame."""
    answers = [ClientFailed(1, 2, "NoLeader", "nobody")]
    [frame] = encode_frames(FrameKind.ANSWERS, answers, 1_000, TransportCounters(), "a client")
    assert bytes(frame) == encode_frame(FrameKind.ANSWERS, encode_answers(answers))


@given(frames, st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(
    sent: list[tuple[FrameKind, bytes]], data: st.DataObject
) -> None:
    """However the stream is cut into reads, the frames come out whole and in order."""
    stream = b"".join(encode_frame(kind, payload) for kind, payload in sent)
    reader, found, at = FrameReader(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 4000))
        reader.feed(stream[at : at + size])
        found += drain(reader)
        at += size
    assert found == sent
    assert reader.pending == 0


def test_reads_of_one_byte() -> None:
    """A frame that arrives byte by byte comes out once, at its last byte."""
    reader = FrameReader()
    stream = encode_frame(FrameKind.REQUESTS, b"x" * 3000)
    for at in range(len(stream) - 1):
        reader.feed(stream[at : at + 1])
        assert reader.next_frame() is None
    reader.feed(stream[-1:])
    assert drain(reader) == [(FrameKind.REQUESTS, b"x" * 3000)]


def test_payloads_outlive_the_buffer() -> None:
    """A payload is a copy: the next read does not change it."""
    reader = FrameReader()
    reader.feed(encode_frame(FrameKind.REQUESTS, b"first"))
    (first,) = drain(reader)
    reader.feed(encode_frame(FrameKind.REQUESTS, b"other"))
    drain(reader)
    assert first == (FrameKind.REQUESTS, b"first")


def test_a_frame_at_the_limit_passes_and_one_above_does_not() -> None:
    """The limit is inclusive, and is checked at the header, before the payload comes."""
    reader = FrameReader(limit=100)
    reader.feed(encode_frame(FrameKind.REQUESTS, bytes(100)))
    assert len(drain(reader)) == 1
    reader.feed(encode_frame(FrameKind.REQUESTS, bytes(101))[: HEADER.size])
    with pytest.raises(ProtocolError, match="101 bytes is above the limit of 100"):
        reader.next_frame()


@pytest.mark.parametrize("length", [HELLO_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_lying_header_buys_no_memory(length: int) -> None:
    """A length above the limit is refused while the buffer is still small."""
    reader = FrameReader(HELLO_BYTES_MAX)
    reader.feed(HEADER.pack(length, 1, 1, 0))
    with pytest.raises(ProtocolError, match="limit"):
        reader.next_frame()
    assert reader.capacity <= HELLO_BYTES_MAX


def test_memory_grows_with_what_arrives_only() -> None:
    """A permitted but huge length alone takes no memory; bytes that arrive do."""
    reader = FrameReader(FRAME_BYTES_MAX)
    reader.feed(HEADER.pack(FRAME_BYTES_MAX, 1, 16, 0))
    assert reader.next_frame() is None
    reader.feed(bytes(10_000))
    assert reader.next_frame() is None
    assert reader.capacity < 100_000


def test_a_large_frame_does_not_keep_its_buffer() -> None:
    """After a large frame, an idle connection is small again."""
    reader = FrameReader()
    reader.feed(encode_frame(FrameKind.ENVELOPES, bytes(3_000_000)))
    assert len(drain(reader)[0][1]) == 3_000_000
    assert reader.capacity < 10_000


def test_the_limit_may_rise_between_two_frames_of_one_read() -> None:
    """The frame behind a handshake is read with the new limit, although both arrived together."""
    reader = FrameReader(10)
    reader.feed(encode_frame(FrameKind.WELCOME, b"w") + encode_frame(FrameKind.ANSWERS, bytes(500)))
    assert reader.next_frame() == Frame(FrameKind.WELCOME, b"w")
    reader.limit = 1000
    assert reader.next_frame() == Frame(FrameKind.ANSWERS, bytes(500))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (HEADER.pack(1, 2, 16, 0), "version 2"),
        (HEADER.pack(1, 1, 99, 0), "kind 99"),
        (HEADER.pack(1, 1, 16, 1), "reserved 1"),
        (b"GET / HTTP/1.1\r\n", "version"),
    ],
)
def test_foreign_headers_are_refused(header: bytes, text: str) -> None:
    """Another version, an unknown kind, reserved bits and other protocols are named and refused."""
    reader = FrameReader()
    reader.feed(header)
    with pytest.raises(ProtocolError, match=text):
        reader.next_frame()


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_random_bytes_raise_nothing_else(chunks: list[bytes]) -> None:
    """Whatever arrives, the reader hands out frames or raises `ProtocolError`."""
    reader = FrameReader(10_000)
    try:
        for chunk in chunks:
            reader.feed(chunk)
            drain(reader)
    except ProtocolError:
        pass
