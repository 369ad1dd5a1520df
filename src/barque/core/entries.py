"""The entry batch: commands that a client encodes once.

A batch is a run of consecutive entries of one term. Its body is made where the commands
enter the system and is copied as it stands to every log and every wire; only the small
header (first index, term, count, timestamp) is added by the leader. Entries still have an
index each: a batch can be cut anywhere. Format: docs/formats/entry-batch.md.
"""

import enum
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from barque.errors import ProtocolError
from barque.types import NOBODY, ClientRef, Index, MemberRecord, ReplyMode, Term

_HEAD = struct.Struct("<BBHQQ")  # kind, reply mode, node name length, incarnation, correlation
BATCH_ENTRIES_MAX = 65_536
COMMAND_BYTES_MAX = 62 * 1024 * 1024
"""The most bytes that one encoded command, or one read, may have: the number that limits an entry.

Clients, the router, the Redis gateway and leaders refuse more; bodies and frames are sized by it.
"""
BODY_BYTES_MAX = COMMAND_BYTES_MAX + 1024 * 1024
"""The largest body: a command with its head, or as many commands with their lengths."""


class EntryKind(enum.IntEnum):
    """The kind of all entries of a batch. Only user batches hold more than one entry."""

    USER = 0
    NOOP = 1
    CLUSTER_CHANGE = 2
    CLUSTER_DELETE = 3
    BUILTIN = 4


_KINDS = {int(kind): kind for kind in EntryKind}  # a call of the class takes five times as long
_MODES = {int(mode): mode for mode in ReplyMode}


class EntryBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Entries `first_index … last_index` of one term, as bytes.

    `timestamp_ms` is the leader's clock when it appended the batch (Unix milliseconds);
    it is the only time that machines may look at.
    """

    first_index: Index
    term: Term
    count: int
    timestamp_ms: int
    body: bytes

    @property
    def last_index(self) -> Index:
        """The index of the last entry."""
        return Index(self.first_index + self.count - 1)

    def cut(self, first: int, last: int) -> "EntryBatch":
        """The entries `first … last`, both inside this batch, as a batch of their own."""
        skip, count = first - self.first_index, last - first + 1
        if skip == 0 and count == self.count:
            return self
        assert 0 <= skip < skip + count <= self.count, (self.first_index, first, last)
        return EntryBatch(
            Index(first), self.term, count, self.timestamp_ms, cut_body(self.body, self.count, skip, count)
        )


class BodyHead(msgspec.Struct, frozen=True, gc=False):
    """The decoded head of a body: one kind, mode and origin for all its entries.

    Entry number `i` of the batch carries the correlation `first_correlation + i`.
    """

    kind: EntryKind
    reply_mode: ReplyMode
    origin: ClientRef
    first_correlation: int
    size: int


def encode_head(kind: EntryKind, mode: ReplyMode, origin: ClientRef, first_correlation: int) -> bytes:
    """The head that starts a body; lengths and blob follow it."""
    node = origin.node.encode()
    return _HEAD.pack(kind, mode, len(node), origin.incarnation, first_correlation) + node


def encode_body(
    payloads: Sequence[bytes],
    kind: EntryKind = EntryKind.USER,
    mode: ReplyMode = ReplyMode.NOREPLY,
    origin: ClientRef = NOBODY,
    first_correlation: int = 0,
) -> bytes:
    """Make a body from one encoded payload for each entry."""
    return b"".join(
        (
            encode_head(kind, mode, origin, first_correlation),
            struct.pack(f"<{len(payloads)}I", *map(len, payloads)),
            *payloads,
        )
    )


def decode_head(body: bytes) -> BodyHead:
    """Read the head of a body. Raises `ProtocolError` for malformed bytes."""
    try:
        kind, mode, node_length, incarnation, correlation = _HEAD.unpack_from(body)
        size = _HEAD.size + node_length
        node = body[_HEAD.size : size].decode() if node_length else ""
        origin = ClientRef(node, incarnation) if node_length else NOBODY
        return BodyHead(_KINDS[kind], _MODES[mode], origin, correlation, size)
    except KeyError as error:
        raise ProtocolError(f"malformed entry batch: {error} is no kind, or no reply mode") from error
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"malformed entry batch: {error}") from error


def kind_of(body: bytes) -> EntryKind:
    """The kind of a body's entries, from its first byte. Raises `ProtocolError` for an unknown kind."""
    try:
        return _KINDS[body[0]]
    except KeyError as error:
        raise ProtocolError(f"malformed entry batch: {error} is no kind") from error


_decode_cluster = msgspec.msgpack.Decoder(tuple[MemberRecord, ...]).decode


def encode_cluster(members: Sequence[MemberRecord]) -> bytes:
    """The payload of a cluster change: the whole new configuration (MEMB-02)."""
    return msgspec.msgpack.encode(tuple(members))


def decode_cluster(body: bytes) -> tuple[MemberRecord, ...]:
    """The configuration that a cluster-change body holds. Raises `ProtocolError` for malformed bytes."""
    [payload] = payloads_of(body, 1, decode_head(body))
    try:
        return _decode_cluster(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"malformed configuration: {error}") from error


def lengths_of(body: bytes, count: int, head_size: int) -> tuple[int, ...]:
    """The length of each payload, in bytes."""
    return struct.unpack_from(f"<{count}I", body, head_size)


def check_body(body: bytes, count: int) -> BodyHead:
    """Check that a body received from outside holds exactly `count` entries.

    Raises `ProtocolError`; after it returned, no other function here can fail on the body.
    """
    if not 1 <= count <= BATCH_ENTRIES_MAX or len(body) > BODY_BYTES_MAX:
        raise ProtocolError(f"entry batch of {count} entries and {len(body)} bytes is out of bounds")
    head = decode_head(body)
    columns_end = head.size + 4 * count
    if columns_end > len(body) or columns_end + sum(lengths_of(body, count, head.size)) != len(body):
        raise ProtocolError("entry batch: lengths and bytes disagree")
    if head.first_correlation + count > 1 << 64:
        raise ProtocolError("entry batch: a correlation is out of bounds")
    if head.kind is not EntryKind.USER and count != 1:
        raise ProtocolError(f"entry batch: {head.kind.name} stands alone, not {count} times")
    if head.kind is EntryKind.CLUSTER_CHANGE:
        decode_cluster(body)
    return head


def payloads_of(body: bytes, count: int, head: BodyHead) -> list[bytes]:
    """The payload of each entry."""
    lengths = lengths_of(body, count, head.size)
    edges = accumulate(lengths, initial=head.size + 4 * count)
    return [body[start:end] for start, end in pairwise(edges)]


def cut_body(body: bytes, count: int, skip: int, keep: int) -> bytes:
    """The body that holds entries `skip … skip + keep - 1` of this one."""
    head = decode_head(body)
    lengths = lengths_of(body, count, head.size)
    blob_start = head.size + 4 * count
    first = blob_start + sum(lengths[:skip])
    last = first + sum(lengths[skip : skip + keep])
    return b"".join(
        (
            encode_head(head.kind, head.reply_mode, head.origin, head.first_correlation + skip),
            struct.pack(f"<{keep}I", *lengths[skip : skip + keep]),
            body[first:last],
        )
    )
