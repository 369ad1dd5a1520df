"""The bytes of a write-ahead log file and of its manifest. Format: docs/formats/wal.md.

Pure: bytes in, values out. Bodies are never copied on the way to the disk: `encode_record`
appends them, as they are, to the list of buffers that one vectored write takes.
"""

import struct
from collections.abc import Sequence
from typing import TypeAlias
from zlib import crc32

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX, EntryBatch
from barque.types import Index, IndexTerm, Term, Uid

VERSION = 2
"""The version of new files. A record of version 1 does not tell the term of the entry before it."""
MANIFEST_VERSION = 1
CRC32 = 1
"""The checksum algorithm byte for `zlib.crc32`."""

FILE_MAGIC = b"BARQUWAL"
MANIFEST_MAGIC = b"BARQUMAN"
RECORD_MAGIC = b"\xb5Rec"
FILE_HEAD_SIZE = 64
RECORD_ALIGNMENT = 8
UID_BYTES_MAX = 255

_FILE_HEAD = struct.Struct("<8sBBHIQI36x")  # magic, version, checksum, reserved, salt, epoch, crc
_FRONT = struct.Struct("<4sI")  # magic, crc
# epoch, offset, length, synced to, first index, previous term and index, batches, entries, uid length, kind
_REST = struct.Struct("<QQQQQQQIIHH4x")
_BATCH = struct.Struct("<QQIIQ")  # first index, term, count, body length, timestamp
_MANIFEST = struct.Struct("<8sBBHII")  # magic, version, checksum, reserved, crc, number of files
_MANIFEST_FILE = struct.Struct("<QQ")  # number, end (0: open)

RECORD_HEAD_SIZE = _FRONT.size + _REST.size
BATCH_HEAD_SIZE = _BATCH.size
TERMINATOR = bytes(RECORD_HEAD_SIZE)
"""Follows the last record of each write: a clean end, even if a recycled file holds old bytes there."""

_PADDING = [bytes(n) for n in range(RECORD_ALIGNMENT)]

ENTRIES = 0
MARK = 1
"""A record without batches: it only says how far the file is known to be synced."""
BASE = 2
"""A record without batches, but of a server: its log begins anew behind the previous entry."""


class FileHead(msgspec.Struct, frozen=True):
    """What a WAL file says about itself. `epoch` is the file's number."""

    epoch: int
    salt: int
    version: int = VERSION


class Record(msgspec.Struct, frozen=True):
    """One server's consecutive batches of one flush, its new base (no batches), or a mark (no uid).

    Everything below `synced_to` was known to be on disk when this record was written.
    `end` is the offset behind it. `previous_term` is the term of the entry at `previous_index`; None in a
    file of version 1, which does not tell.
    """

    offset: int
    end: int
    synced_to: int
    uid: Uid
    previous_index: Index
    previous_term: Term | None
    batches: tuple[EntryBatch, ...]
    kind: int = ENTRIES


class CleanEnd(msgspec.Struct, frozen=True):
    """The file's records end here: zeros, the end of the file, or an older epoch's record."""

    offset: int
    stale: bool = False


class TornTail(msgspec.Struct, frozen=True):
    """A write that was interrupted begins here. Nothing from here on was acknowledged."""

    offset: int
    reason: str


class Damage(msgspec.Struct, frozen=True):
    """A record here was once synced, and is damaged or gone."""

    offset: int
    reason: str


class NoRecord(msgspec.Struct, frozen=True):
    """These bytes are no record. Torn or damaged? Only what follows can tell."""

    offset: int
    reason: str


class FileEntry(msgspec.Struct, frozen=True):
    """A file in the manifest. `end` is where its acknowledged records end; 0 while it is written."""

    number: int
    end: int


Ending: TypeAlias = CleanEnd | TornTail | Damage


class MalformedHead(ValueError):
    """A file does not begin as its kind must. The message says in what way."""


def encode_file_head(head: FileHead) -> bytes:
    """The first bytes of a WAL file."""
    plain = _FILE_HEAD.pack(FILE_MAGIC, head.version, CRC32, 0, head.salt, head.epoch, 0)
    return _FILE_HEAD.pack(FILE_MAGIC, head.version, CRC32, 0, head.salt, head.epoch, crc32(plain))


def decode_file_head(data: bytes) -> FileHead:
    """Read the first bytes of a WAL file. Raises `MalformedHead`."""
    if len(data) < FILE_HEAD_SIZE:
        raise MalformedHead(f"the file head is {len(data)} bytes long, not {FILE_HEAD_SIZE}")
    magic, version, algorithm, _, salt, epoch, _ = _FILE_HEAD.unpack_from(data)
    if magic != FILE_MAGIC:
        raise MalformedHead("the file head has the wrong magic number")
    head = FileHead(epoch, salt, version)
    known = 1 <= version <= VERSION and algorithm == CRC32
    if known and data[:FILE_HEAD_SIZE] != encode_file_head(head):
        raise MalformedHead("the checksum of the file head is wrong")
    if not known:
        raise MalformedHead(f"format version {version} with checksum {algorithm} is not known here")
    return head


def record_size(uid: bytes, batches: Sequence[EntryBatch]) -> int:
    """How many bytes `encode_record` will make of it."""
    size = RECORD_HEAD_SIZE + len(uid) + BATCH_HEAD_SIZE * len(batches)
    for batch in batches:
        size += len(batch.body)
    return (size + 7) & ~7


def encode_record(
    buffers: list[bytes],
    head: FileHead,
    offset: int,
    synced_to: int,
    uid: bytes,
    previous: IndexTerm,
    batches: Sequence[EntryBatch],
    kind: int = ENTRIES,
) -> int:
    """Append one record's buffers to `buffers`; returns the offset behind it.

    Hot path: one small object and one reference for each body.
    """
    uid_size, number = len(uid), len(batches)
    size = RECORD_HEAD_SIZE + uid_size + BATCH_HEAD_SIZE * number
    entries = 0
    columns = b""
    for batch in batches:
        body_size = len(batch.body)
        size += body_size
        entries += batch.count
        columns += _BATCH.pack(batch.first_index, batch.term, batch.count, body_size, batch.timestamp_ms)
    padding = -size % RECORD_ALIGNMENT
    rest = (
        _REST.pack(
            head.epoch,
            offset,
            size + padding,
            synced_to,
            batches[0].first_index if batches else 0,
            previous.term,
            previous.index,
            number,
            entries,
            uid_size,
            kind,
        )
        + uid
        + columns
    )
    crc = crc32(rest, head.salt)
    place = len(buffers)
    buffers.append(rest)
    for batch in batches:
        crc = crc32(batch.body, crc)
        buffers.append(batch.body)
    if padding:
        crc = crc32(_PADDING[padding], crc)
        buffers.append(_PADDING[padding])
    buffers[place] = _FRONT.pack(RECORD_MAGIC, crc) + rest
    return offset + size + padding


def record_length(data: bytes, head: FileHead, offset: int) -> int | CleanEnd | NoRecord:
    """How long the record at `offset` claims to be, from its first `RECORD_HEAD_SIZE` bytes.

    Nothing here is proven yet: only `decode_record` checks the checksum.
    """
    if not any(data):
        return CleanEnd(offset)
    if len(data) < RECORD_HEAD_SIZE:
        return NoRecord(offset, "the file ends inside a record's head")
    magic, _ = _FRONT.unpack_from(data)
    if magic != RECORD_MAGIC:
        return NoRecord(offset, "no record begins here")
    epoch, own_offset, length, *_ = _REST.unpack_from(data, _FRONT.size)
    if epoch < head.epoch:
        return CleanEnd(offset, stale=True)
    if epoch != head.epoch:
        return NoRecord(offset, f"the record is of file {epoch}, and this is file {head.epoch}")
    if own_offset != offset:
        return NoRecord(offset, f"the record was written for offset {own_offset}")
    if length < RECORD_HEAD_SIZE or length % RECORD_ALIGNMENT:
        return NoRecord(offset, f"a record cannot be {length} bytes long")
    return int(length)


def decode_record(data: bytes, head: FileHead, offset: int) -> Record | NoRecord | Damage:
    """Read a record of which `data` holds exactly the bytes that it claims to have.

    `Damage` if the checksum is right and the content is not: it was written, and perhaps acknowledged.
    """
    _, crc = _FRONT.unpack_from(data)
    if crc32(memoryview(data)[_FRONT.size :], head.salt) != crc:
        return NoRecord(offset, "the checksum is wrong")
    fields = _REST.unpack_from(data, _FRONT.size)
    _, _, length, synced_to, _, previous_term, previous_index, batch_count, _, uid_size, kind = fields
    assert length == len(data)
    try:
        uid = Uid(data[RECORD_HEAD_SIZE : RECORD_HEAD_SIZE + uid_size].decode())
        batches = _decode_batches(data, RECORD_HEAD_SIZE + uid_size, batch_count)
    except ValueError as error:
        return Damage(offset, f"the checksum is right, but the content is impossible: {error}")
    return Record(
        offset=offset,
        end=offset + length,
        synced_to=synced_to,
        uid=uid,
        previous_index=Index(previous_index),
        previous_term=None if head.version == 1 else Term(previous_term),
        batches=batches,
        kind=kind,
    )


def _decode_batches(data: bytes, position: int, batch_count: int) -> tuple[EntryBatch, ...]:
    """The batches of a record, whose heads begin at `position`. Raises `ValueError`."""
    body_start = position + BATCH_HEAD_SIZE * batch_count
    if body_start > len(data):
        raise ValueError(f"there is no room for {batch_count} batches")
    batches = []
    for _ in range(batch_count):
        first_index, batch_term, count, size, timestamp = _BATCH.unpack_from(data, position)
        position += BATCH_HEAD_SIZE
        body = data[body_start : body_start + size]
        body_start += size
        if len(body) < size or not 1 <= count <= BATCH_ENTRIES_MAX:
            raise ValueError(f"a batch of {count} entries and {size} bytes cannot be here")
        batches.append(EntryBatch(Index(first_index), Term(batch_term), count, timestamp, body))
    return tuple(batches)


def encode_manifest(files: Sequence[FileEntry]) -> bytes:
    """The bytes of the manifest that lists these files, in the order of their numbers."""
    body = b"".join(_MANIFEST_FILE.pack(file.number, file.end) for file in files)
    crc = crc32(body, crc32(_MANIFEST.pack(MANIFEST_MAGIC, MANIFEST_VERSION, CRC32, 0, 0, len(files))))
    return _MANIFEST.pack(MANIFEST_MAGIC, MANIFEST_VERSION, CRC32, 0, crc, len(files)) + body


def decode_manifest(data: bytes) -> list[FileEntry]:
    """Read a manifest. Raises `MalformedHead`."""
    if len(data) < _MANIFEST.size:
        raise MalformedHead(f"the manifest is only {len(data)} bytes long")
    magic, version, algorithm, _, _, count = _MANIFEST.unpack_from(data)
    if magic != MANIFEST_MAGIC:
        raise MalformedHead("the manifest has the wrong magic number")
    if version != MANIFEST_VERSION or algorithm != CRC32:
        raise MalformedHead(f"format version {version} with checksum {algorithm} is not known here")
    if len(data) != _MANIFEST.size + count * _MANIFEST_FILE.size:
        raise MalformedHead(f"a manifest of {count} files cannot be {len(data)} bytes long")
    files = [
        FileEntry(*_MANIFEST_FILE.unpack_from(data, _MANIFEST.size + i * _MANIFEST_FILE.size))
        for i in range(count)
    ]
    if encode_manifest(files) != data:
        raise MalformedHead("the checksum of the manifest is wrong")
    return files
