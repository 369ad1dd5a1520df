"""Golden bytes and endings of the write-ahead log (docs/formats/wal.md)."""

import random
from zlib import crc32

import pytest

from barque.core.entries import EntryBatch
from barque.log import wal_format
from barque.log.wal_format import (
    FILE_HEAD_SIZE,
    CleanEnd,
    Damage,
    FileEntry,
    FileHead,
    MalformedHead,
    NoRecord,
    Record,
)
from barque.log.wal_recovery import WalReader
from barque.testing.sim.disk import SimDisk
from barque.types import NOWHERE, Index, IndexTerm, Term

OLD_HEAD = FileHead(epoch=7, salt=0x01020304, version=1)
OLD_HEAD_BYTES = bytes.fromhex(
    "424152515557414c010100000403020107000000000000000fe8fd2600000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
)
HEAD = FileHead(epoch=7, salt=0x01020304)
HEAD_BYTES = bytes.fromhex(
    "424152515557414c0201000004030201070000000000000076dc420000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
)
OLD_RECORD_BYTES = bytes.fromhex(
    "b55265633b80e72407000000000000004000000000000000a000000000000000"
    "4000000000000000050000000000000002000000000000000400000000000000"
    "02000000030000000500000000000000616c7068610500000000000000020000"
    "000000000001000000050000000068e5cf8b0100000600000000000000030000"
    "000000000002000000060000000168e5cf8b01000066697273747365636f6e64"
)
RECORD_BYTES = bytes.fromhex(
    "b55265637ad0ef7607000000000000004000000000000000a000000000000000"
    "4000000000000000050000000000000001000000000000000400000000000000"
    "02000000030000000500000000000000616c7068610500000000000000020000"
    "000000000001000000050000000068e5cf8b0100000600000000000000030000"
    "000000000002000000060000000168e5cf8b01000066697273747365636f6e64"
)
MARK_BYTES = bytes.fromhex(
    "b552656395456a0c070000000000000000010000000000005000000000000000"
    "0001000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000010000000000"
)
MANIFEST_BYTES = bytes.fromhex(
    "42415251554d414e0101000068934c44020000000100000000000000001000000000000003000000000000000000000000000000"
)
BATCHES = (
    EntryBatch(Index(5), Term(2), 1, 1_700_000_000_000, b"first"),
    EntryBatch(Index(6), Term(3), 2, 1_700_000_000_001, b"second"),
)
FILES = [FileEntry(1, 4096), FileEntry(3, 0)]


def record() -> bytes:
    """The golden record."""
    buffers: list[bytes] = []
    end = wal_format.encode_record(buffers, HEAD, 64, 64, b"alpha", IndexTerm(Index(4), Term(1)), BATCHES)
    assert buffers[1] is BATCHES[0].body, "bodies are never copied"
    data = b"".join(buffers)
    assert end == 64 + len(data)
    assert len(data) == wal_format.record_size(b"alpha", BATCHES)
    return data


def test_the_file_head_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    assert wal_format.encode_file_head(HEAD) == HEAD_BYTES
    assert len(HEAD_BYTES) == FILE_HEAD_SIZE
    assert wal_format.decode_file_head(HEAD_BYTES) == HEAD


def test_a_record_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    assert record() == RECORD_BYTES
    found = wal_format.decode_record(RECORD_BYTES, HEAD, 64)
    assert found == Record(64, 64 + len(RECORD_BYTES), 64, "alpha", Index(4), Term(1), BATCHES)  # type: ignore[arg-type]


def test_files_of_version_1_can_still_be_read() -> None:
    """Golden bytes of the earlier version, whose records do not tell the term of the entry before."""
    assert wal_format.decode_file_head(OLD_HEAD_BYTES) == OLD_HEAD
    assert wal_format.encode_file_head(OLD_HEAD) == OLD_HEAD_BYTES
    found = wal_format.decode_record(OLD_RECORD_BYTES, OLD_HEAD, 64)
    assert found == Record(64, 64 + len(OLD_RECORD_BYTES), 64, "alpha", Index(4), None, BATCHES)  # type: ignore[arg-type]


def test_a_mark_is_as_it_always_was() -> None:
    """A record without batches."""
    buffers: list[bytes] = []
    wal_format.encode_record(buffers, HEAD, 256, 256, b"", NOWHERE, (), wal_format.MARK)
    assert b"".join(buffers) == MARK_BYTES
    found = wal_format.decode_record(MARK_BYTES, HEAD, 256)
    assert isinstance(found, Record)
    assert found.batches == ()
    assert found.synced_to == 256


def test_the_manifest_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    assert wal_format.encode_manifest(FILES) == MANIFEST_BYTES
    assert wal_format.decode_manifest(MANIFEST_BYTES) == FILES


def test_a_base_has_no_batches() -> None:
    """It is a position of a server's log, and nothing else."""
    kind = wal_format.BASE
    buffers: list[bytes] = []
    wal_format.encode_record(buffers, HEAD, 64, 64, b"alpha", IndexTerm(Index(4), Term(3)), (), kind)
    data = b"".join(buffers)
    assert data[80:85] == b"alpha"
    found = wal_format.decode_record(data, HEAD, 64)
    assert found == Record(64, 64 + len(data), 64, "alpha", Index(4), Term(3), (), kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", range(len(HEAD_BYTES)))
def test_every_byte_of_a_file_head_counts(offset: int) -> None:
    """Each flipped byte is noticed."""
    data = bytearray(HEAD_BYTES)
    data[offset] ^= 0x20
    with pytest.raises(MalformedHead):
        wal_format.decode_file_head(bytes(data))


def test_every_byte_of_a_manifest_counts() -> None:
    """Each flipped byte and each other length is noticed."""
    for offset in range(len(MANIFEST_BYTES)):
        data = bytearray(MANIFEST_BYTES)
        data[offset] ^= 0x20
        with pytest.raises(MalformedHead):
            wal_format.decode_manifest(bytes(data))
        with pytest.raises(MalformedHead):
            wal_format.decode_manifest(MANIFEST_BYTES[:offset])


def test_every_byte_of_a_record_counts() -> None:
    """Each flipped byte, padding included, makes it no record of this place."""
    for offset in range(len(RECORD_BYTES)):
        data = bytearray(RECORD_BYTES)
        data[offset] ^= 0x01
        length = wal_format.record_length(bytes(data[:80]), HEAD, 64)
        if length == len(data):
            assert isinstance(wal_format.decode_record(bytes(data), HEAD, 64), NoRecord)
        else:
            assert not isinstance(length, int) or length != len(RECORD_BYTES)


def test_endings() -> None:
    """Zeros and older records are clean ends; what claims another place or a later file is none."""
    head = RECORD_BYTES[:80]
    assert wal_format.record_length(b"", HEAD, 64) == CleanEnd(64)
    assert wal_format.record_length(bytes(80), HEAD, 64) == CleanEnd(64)
    assert wal_format.record_length(head, FileHead(8, 1), 64) == CleanEnd(64, stale=True)
    assert isinstance(wal_format.record_length(head, FileHead(6, 1), 64), NoRecord)
    assert isinstance(wal_format.record_length(head, HEAD, 72), NoRecord)
    assert isinstance(wal_format.record_length(head[:79], HEAD, 64), NoRecord)
    assert isinstance(wal_format.record_length(b"x" * 80, HEAD, 64), NoRecord)
    assert isinstance(wal_format.decode_record(RECORD_BYTES, FileHead(7, 9), 64), NoRecord)


def resealed(data: bytearray, head: FileHead = HEAD) -> bytes:
    """The same record with the checksum of what it says now."""
    return bytes(data[:4]) + crc32(memoryview(data)[8:], head.salt).to_bytes(4, "little") + bytes(data[8:])


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (64, 9, "no room for 9 batches"),
        (80, 0xFF, "can't decode byte 0xff"),
        (101, 0, "a batch of 0 entries"),
        (137, 99, "and 99 bytes cannot be here"),
    ],
    ids=["batches", "uid", "entries", "length"],
)
def test_an_impossible_content_under_a_right_checksum_is_damage(at: int, value: int, reason: str) -> None:
    """It was written as it is, and perhaps acknowledged: as a torn tail it would be lost without a word."""
    data = bytearray(RECORD_BYTES)
    data[at] = value
    found = wal_format.decode_record(resealed(data), HEAD, 64)
    assert isinstance(found, Damage)
    assert reason in found.reason
    disk = SimDisk(random.Random(1))
    disk.set_content("/1.wal", HEAD_BYTES + resealed(data))
    assert list(WalReader(disk.open("/1.wal")).records()) == [found]
