"""The bytes of the meta file: term and vote of each server. Format: docs/formats/meta.md."""

import struct
from collections.abc import Iterator
from typing import TypeAlias
from zlib import crc32

import msgspec

from barque.log.wal_format import CRC32, CleanEnd, Damage, Ending, MalformedHead, TornTail
from barque.types import Index, ServerId, Term, Uid

VERSION = 1
MAGIC = b"BARQMETA"
HEAD_SIZE = 32
_HEAD = struct.Struct("<8sBBHIQ4xI")  # magic, version, checksum, reserved, salt, base end, crc
_RECORD_MAGIC = b"\xb5Met"
_FRONT = struct.Struct("<4sI")  # magic, crc
# offset, synced to, term, last applied, length, uid, name, node lengths, kind, voted
_REST = struct.Struct("<QQQQIHHHBB4x")
RECORD_SIZE_MIN = _FRONT.size + _REST.size
_ALIGNMENT = 8

_STATE = 0
_TOMBSTONE = 1


class MetaRecord(msgspec.Struct, frozen=True):
    """The state of one server that must survive besides its log (Figure 2, persistent state).

    `last_applied` may lag: it only saves work at a restart.
    """

    current_term: Term
    voted_for: ServerId | None
    last_applied: Index


class MetaHead(msgspec.Struct, frozen=True):
    """The head of a meta file. Everything below `base_end` was synced before the file got its name."""

    salt: int
    base_end: int


class MetaLine(msgspec.Struct, frozen=True):
    """One record of the file. `record` None is a tombstone: the server was deleted."""

    offset: int
    end: int
    synced_to: int
    uid: Uid
    record: MetaRecord | None


Found: TypeAlias = MetaLine | Ending


def encode_head(head: MetaHead) -> bytes:
    """The first bytes of a meta file."""
    plain = _HEAD.pack(MAGIC, VERSION, CRC32, 0, head.salt, head.base_end, 0)
    return _HEAD.pack(MAGIC, VERSION, CRC32, 0, head.salt, head.base_end, crc32(plain))


def decode_head(data: bytes) -> MetaHead:
    """Read the first bytes of a meta file. Raises `MalformedHead`."""
    if len(data) < HEAD_SIZE:
        raise MalformedHead(f"the file is only {len(data)} bytes long")
    magic, version, algorithm, _, salt, base_end, _ = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise MalformedHead("the file has the wrong magic number")
    if version != VERSION or algorithm != CRC32:
        raise MalformedHead(f"format version {version} with checksum {algorithm} is not known here")
    head = MetaHead(salt, base_end)
    if encode_head(head) != data[:HEAD_SIZE]:
        raise MalformedHead("the checksum of the file head is wrong")
    return head


def encode_line(salt: int, offset: int, synced_to: int, uid: Uid, record: MetaRecord | None) -> bytes:
    """One record, for `offset`, when everything below `synced_to` is known to be on disk."""
    vote = record.voted_for if record is not None else None
    name = vote.name.encode() if vote else b""
    node = vote.node.encode() if vote else b""
    names = uid.encode() + name + node
    length = RECORD_SIZE_MIN + len(names)
    padding = -length % _ALIGNMENT
    rest = (
        _REST.pack(
            offset,
            synced_to,
            record.current_term if record else 0,
            record.last_applied if record else 0,
            length + padding,
            len(names) - len(name) - len(node),
            len(name),
            len(node),
            _STATE if record else _TOMBSTONE,
            vote is not None,
        )
        + names
        + bytes(padding)
    )
    return _FRONT.pack(_RECORD_MAGIC, crc32(rest, salt)) + rest


def decode_line(data: bytes, salt: int, offset: int) -> MetaLine | Damage | str:
    """Read the record at `offset` of a whole file; a text says why there is none.

    `Damage` if the checksum is right and the content is not: it was written, and perhaps is a vote.
    """
    if len(data) - offset < RECORD_SIZE_MIN:
        return "the file ends inside a record"
    magic, crc = _FRONT.unpack_from(data, offset)
    if magic != _RECORD_MAGIC:
        return "no record begins here"
    fields = _REST.unpack_from(data, offset + _FRONT.size)
    own_offset, synced_to, term, applied, length, uid_size, name_size, node_size, kind, voted = fields
    if own_offset != offset or length < RECORD_SIZE_MIN or offset + length > len(data):
        return "the record's offset or length is impossible here"
    if crc32(memoryview(data)[offset + _FRONT.size : offset + length], salt) != crc:
        return "the checksum is wrong"
    name_at = offset + RECORD_SIZE_MIN + uid_size
    node_at = name_at + name_size
    end = node_at + node_size
    if end > offset + length or kind not in (_STATE, _TOMBSTONE):
        return Damage(offset, "the checksum is right, but the content is impossible")
    try:
        uid = Uid(data[offset + RECORD_SIZE_MIN : name_at].decode())
        name, node = data[name_at:node_at].decode(), data[node_at:end].decode()
    except UnicodeDecodeError as error:
        return Damage(offset, f"the checksum is right, but the content is impossible: {error}")
    record = None
    if kind == _STATE:
        record = MetaRecord(Term(term), ServerId(name, node) if voted else None, Index(applied))
    return MetaLine(offset, offset + length, synced_to, uid, record)


def read_lines(data: bytes, head: MetaHead) -> Iterator[Found]:
    """The records of a whole file in order, then how they end.

    As in the write-ahead log, what is no record is a torn tail unless it lies below
    `base_end` or a later record proves that it was synced.
    """
    offset = HEAD_SIZE
    while offset < len(data):
        found: Found | str = decode_line(data, head.salt, offset)
        if isinstance(found, str):
            found = _ending(data, head, offset, found)
        if not isinstance(found, MetaLine):
            yield found
            return
        yield found
        offset = found.end
    if offset < head.base_end:
        yield Damage(offset, f"the file ends here, but its first {head.base_end} bytes were synced")
    else:
        yield CleanEnd(offset)


def _ending(data: bytes, head: MetaHead, offset: int, reason: str) -> Ending:
    if offset < head.base_end:
        return Damage(offset, f"{reason}, but the first {head.base_end} bytes of the file were synced")
    place = data.find(_RECORD_MAGIC, offset + 1)
    while place >= 0:
        if place % _ALIGNMENT == 0:
            later = decode_line(data, head.salt, place)
            if isinstance(later, MetaLine) and later.synced_to > offset:
                return Damage(
                    offset, f"{reason}, but the record at {place} was written after this was synced"
                )
        place = data.find(_RECORD_MAGIC, place + 1)
    if not any(data[offset:]):
        return CleanEnd(offset)
    return TornTail(offset, reason)
