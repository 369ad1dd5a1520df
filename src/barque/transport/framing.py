"""Frames: cutting a stream of bytes into messages (docs/protocol/wire.md, "Frames").

A frame is a header of 8 bytes (payload length u32, frame version u8, kind u8, reserved u16 = 0; little
endian) and a payload. The length is checked against the limit before a byte of memory is taken for
it, and memory then grows with what has really arrived: a header alone buys nothing.
"""

import enum
import struct

import msgspec

from barque.core.entries import BODY_BYTES_MAX
from barque.errors import ProtocolError
from barque.transport.budget import Budget

FRAME_VERSION = 1
HEADER = struct.Struct("<IBBH")  # payload length, frame version, kind, reserved
HEADER_SIZE = HEADER.size
FRAME_BYTES_MAX = BODY_BYTES_MAX + 1024 * 1024
"""The default limit of a payload after the handshake."""
HELLO_BYTES_MAX = 4096
"""The limit of a payload during the handshake."""

_BUFFER_MIN = 2048  # ten thousand idle connections keep this much each
BUFFER_KEPT = 256 * 1024
"""A client connection that got a large frame gives memory above this back: there may be many of them."""
BUFFER_KEPT_PEER = 4 * 1024 * 1024
"""The same between nodes, which are few and often send large frames."""
_TLS_START = 0x0316
"""The first bytes of a TLS handshake, read as a length: a record of kind 22, version 3.x."""
_ROOM_MIN = 1024  # never offer the kernel less than this


class FrameKind(enum.IntEnum):
    """The kind of a payload. Kinds below 16 belong to the handshake; the others follow it."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSED = 5
    ENVELOPES = 16
    REQUESTS = 17
    ANSWERS = 18


_KINDS = {int(kind): kind for kind in FrameKind}


IN_PLACE_BYTES = 64 * 1024
"""Messages in a payload of this size are decoded where they have arrived: what they keep is copied then."""
_IN_PLACE = (FrameKind.ENVELOPES, FrameKind.REQUESTS)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One complete frame. The payload is a copy of its own and may be kept.

    Only a large one of `_IN_PLACE` is a view of the reader's buffer, whose bytes change with the next read.
    """

    kind: FrameKind
    payload: bytes | memoryview


def encode_frame(kind: FrameKind, payload: bytes) -> bytes:
    """Header and payload as one block of bytes."""
    return HEADER.pack(len(payload), FRAME_VERSION, kind, 0) + payload


def _refusal(length: int, version: int, kind: int, reserved: int, limit: int) -> ProtocolError:
    """What is wrong with a header: a foreign version, an unknown kind, reserved bits, or its length."""
    if version != FRAME_VERSION and length & 0xFFFF == _TLS_START:
        return ProtocolError(
            "the other side speaks TLS, and we do not; set [tls] on nodes, tls_ca_file on clients"
        )
    if version != FRAME_VERSION:
        return ProtocolError(
            f"frame version {version}, expected {FRAME_VERSION}: the other side does not speak this protocol"
        )
    if length > limit:
        return ProtocolError(f"frame of {length} bytes is above the limit of {limit}")
    return ProtocolError(f"malformed frame header: kind {kind}, reserved {reserved}")


class FrameReader:
    """Turns what a socket delivers into frames, sans-IO.

    `buffer()` is where the next bytes go, `received(n)` says how many came, and `next_frame()` hands
    out what is complete. `limit` and `kept` may change between two frames: they rise after the handshake.
    """

    __slots__ = (
        *("_buffer", "_end", "_size", "_start", "_taken", "_wanted"),
        *("budget", "has_more", "kept", "limit"),
    )

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self.limit = limit
        self.kept = BUFFER_KEPT
        self.budget: Budget | None = None
        """What memory beyond `kept` comes out of."""
        self._taken = 0  # out of the budget
        self._buffer = bytearray(_BUFFER_MIN)
        self._size = _BUFFER_MIN  # of the buffer
        self._start = 0  # the first byte that no frame has claimed
        self._end = 0  # behind the last byte received
        self._wanted = 0  # bytes of the frame at _start, header included; 0 while unknown
        self.has_more = False  # whether bytes are left that `next_frame` may look at

    def buffer(self) -> memoryview:
        """Room for the next bytes; valid until `received` is called."""
        if self._size - self._end < _ROOM_MIN:
            self._make_room()
        return memoryview(self._buffer)[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were written to the start of the last `buffer()`."""
        assert 0 <= count <= self._size - self._end, count
        self._end += count
        self.has_more = True

    def feed(self, data: bytes) -> None:
        """Copy `data` in, as if a socket had delivered it."""
        view = memoryview(data)
        while view:
            room = self.buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.received(count)
            view = view[count:]

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None until more bytes come.

        Raises `ProtocolError` for a header that no correct peer sends; the stream is then of no use.
        """
        available = self._end - self._start
        if available < HEADER_SIZE:
            self.has_more = False
            if not available:
                self._start = self._end = 0
                if self._size > self.kept:  # not before its frame is handled: page faults
                    self._buffer, self._size = bytearray(_BUFFER_MIN), _BUFFER_MIN
                    self.close()
            return None
        length, version, number, reserved = HEADER.unpack_from(self._buffer, self._start)
        kind = _KINDS.get(number)
        if kind is None or version != FRAME_VERSION or reserved or length > self.limit:
            raise _refusal(length, version, number, reserved, self.limit)
        self._wanted = HEADER_SIZE + length
        if available < self._wanted:
            self.has_more = False
            return None
        begin = self._start + HEADER_SIZE
        end = self._start = begin + length
        self._wanted = 0
        payload: bytes | memoryview = memoryview(self._buffer)[begin:end]
        if length < IN_PLACE_BYTES or kind not in _IN_PLACE:
            payload = bytes(payload)  # one copy; without the view, two
        frame = Frame(kind, payload)
        if end == self._end and self._size <= self.kept:
            # Nothing follows, as nearly always: start again at the front.
            self._start = self._end = 0
            self.has_more = False
        return frame

    def close(self) -> None:
        """Give the memory of large frames back to the budget."""
        if self.budget is not None and self._taken:
            self._taken = self.budget.change(self._taken, 0)

    @property
    def pending(self) -> int:
        """Bytes received and not yet handed out."""
        return self._end - self._start

    @property
    def capacity(self) -> int:
        """Bytes of memory held."""
        return self._size

    def _make_room(self) -> None:
        """Move what is pending to the front; if that is not enough, take four times the memory.

        A new object replaces the old one, because a reader may still hold a view of that.
        """
        pending = self._end - self._start
        size = self._size
        if size - pending < max(_ROOM_MIN, size // 2):
            size *= 4
            if self._wanted > pending:  # no more than this frame and a little of the next
                size = max(min(size, self._wanted + _ROOM_MIN), pending + _ROOM_MIN)
        if self.budget is not None and size > self.kept:
            if size - self._taken > self.budget.room(self._taken):
                raise ProtocolError(
                    f"a frame needs {size} bytes, and other frames hold the memory; try again later"
                )
            self._taken = self.budget.change(self._taken, size)
        replacement = bytearray(size)
        with memoryview(self._buffer) as view:
            replacement[:pending] = view[self._start : self._end]
        self._buffer, self._size, self._start, self._end = replacement, size, 0, pending
