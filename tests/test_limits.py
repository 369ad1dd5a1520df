"""One number limits an entry, and every part through which an entry passes agrees on it."""

import struct

import msgspec
import pytest

from barque.client.client import encode
from barque.core.entries import (
    BATCH_ENTRIES_MAX,
    BODY_BYTES_MAX,
    COMMAND_BYTES_MAX,
    EntryBatch,
    EntryKind,
    check_body,
    encode_body,
    encode_head,
)
from barque.core.messages import AppendEntriesRpc
from barque.errors import InvalidCommand, ProtocolError
from barque.gateways.resp.limits import RespLimits
from barque.log import wal_format
from barque.machine.kv_writes import VALUE_BYTES_MAX
from barque.transport.connection import encode_frames
from barque.transport.contract import Limits, TransportCounters
from barque.transport.framing import FRAME_BYTES_MAX, FrameKind
from barque.transport.wire import CALL_BYTES_MAX, ClientCommands, Envelope
from barque.types import NOWHERE, ClientRef, Index, ReplyMode, ServerId, Term

_NAME = "n" * 64
_LARGEST = 1 << 62


def largest_batch() -> EntryBatch:
    """The largest command, with the largest head around it."""
    body = encode_body(
        [bytes(COMMAND_BYTES_MAX)], EntryKind.USER, ReplyMode.NOTIFY, ClientRef(_NAME, _LARGEST), _LARGEST
    )
    return EntryBatch(Index(_LARGEST), Term(_LARGEST), 1, _LARGEST, body)


def test_bodies_and_frames_have_room_for_what_surrounds_a_command() -> None:
    """A body holds the largest head and the most lengths beside the bytes; a frame holds body and names."""
    head = encode_head(EntryKind.USER, ReplyMode.NOTIFY, ClientRef(_NAME, _LARGEST), _LARGEST)
    assert COMMAND_BYTES_MAX + len(head) + 4 * BATCH_ENTRIES_MAX <= BODY_BYTES_MAX < FRAME_BYTES_MAX
    assert BODY_BYTES_MAX == CALL_BYTES_MAX
    limits = Limits()
    assert limits.frame_bytes_max == limits.client_frame_bytes_max == FRAME_BYTES_MAX


def test_a_client_refuses_more() -> None:
    """The limit counts the encoded command: the largest one is taken, and one byte more is not."""
    overhead = len(encode(bytes(1 << 20))) - (1 << 20)
    assert len(encode(bytes(COMMAND_BYTES_MAX - overhead))) == COMMAND_BYTES_MAX
    with pytest.raises(InvalidCommand, match=f"above the limit of {COMMAND_BYTES_MAX}"):
        encode(bytes(COMMAND_BYTES_MAX - overhead + 1))


def test_the_largest_entry_fits_into_body_record_and_frame() -> None:
    """What a client may send, a follower takes from the wire and recovery takes from the log."""
    batch = largest_batch()
    assert check_body(batch.body, 1).kind is EntryKind.USER
    buffers: list[bytes] = []
    head = wal_format.FileHead(1, 1)
    end = wal_format.encode_record(buffers, head, 64, 64, b"u" * wal_format.UID_BYTES_MAX, NOWHERE, [batch])
    record = wal_format.decode_record(b"".join(buffers), head, 64)
    assert isinstance(record, wal_format.Record)
    assert record.batches == (batch,)
    assert record.end == end
    leader = ServerId(_NAME, _NAME)
    rpc = AppendEntriesRpc(
        Term(_LARGEST), leader, Index(_LARGEST), Index(_LARGEST - 1), Term(_LARGEST), (batch,)
    )
    envelopes = [Envelope(_NAME, rpc, _NAME, _NAME)]
    counters = TransportCounters()
    frames = encode_frames(FrameKind.ENVELOPES, envelopes, Limits().frame_bytes_max, counters, "n2")
    assert (len(frames), counters.oversize_messages) == (1, 0)


def test_the_largest_command_of_a_client_fits_into_its_frame() -> None:
    """The frame between client and node has room for names and lengths, too."""
    columns = struct.pack("<I", COMMAND_BYTES_MAX) + bytes(COMMAND_BYTES_MAX)
    message = ClientCommands(_NAME, _LARGEST, 1, columns, ReplyMode.NOTIFY, 1_000)
    assert len(msgspec.msgpack.encode([message])) < Limits().client_frame_bytes_max


def test_a_larger_body_is_refused_on_the_wire() -> None:
    """`check_body` sees what other nodes send."""
    with pytest.raises(ProtocolError, match="out of bounds"):
        check_body(bytes(BODY_BYTES_MAX + 1), 1)


def test_the_redis_gateway_agrees() -> None:
    """It takes the values that the machine takes, and reads no command that no log would hold."""
    limits = RespLimits()
    assert limits.bulk_bytes_max == VALUE_BYTES_MAX < COMMAND_BYTES_MAX
    assert limits.request_bytes_max == COMMAND_BYTES_MAX
