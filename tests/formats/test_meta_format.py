"""Golden bytes and endings of the meta file (docs/formats/meta.md)."""

from zlib import crc32

import pytest

from barque.log import meta_format
from barque.log.meta_format import RECORD_SIZE_MIN, MetaHead, MetaLine, MetaRecord
from barque.log.wal_format import CleanEnd, Damage, MalformedHead, TornTail
from barque.types import Index, ServerId, Term, Uid

HEAD = MetaHead(salt=0x01020304, base_end=32)
HEAD_BYTES = bytes.fromhex("424152514d4554410101000004030201200000000000000000000000beb00124")
STATE_BYTES = bytes.fromhex(
    "b54d657446b8f966200000000000000020000000000000000500000000000000"
    "110000000000000048000000050002000200000100000000616c7068616b766e"
    "3100000000000000"
)
TOMBSTONE_BYTES = bytes.fromhex(
    "b54d657439d5123e680000000000000068000000000000000000000000000000"
    "000000000000000040000000050000000000010000000000616c706861000000"
)
RECORD = MetaRecord(Term(5), ServerId("kv", "n1"), Index(17))
UID = Uid("alpha")


def test_the_head_is_as_it_always_was() -> None:
    """Golden bytes, both ways, and every byte counts."""
    assert meta_format.encode_head(HEAD) == HEAD_BYTES
    assert meta_format.decode_head(HEAD_BYTES) == HEAD
    for offset in range(len(HEAD_BYTES)):
        data = bytearray(HEAD_BYTES)
        data[offset] ^= 0x40
        with pytest.raises(MalformedHead):
            meta_format.decode_head(bytes(data))


def test_the_records_are_as_they_always_were() -> None:
    """Golden bytes of a state and a tombstone, and how a file of both reads."""
    assert meta_format.encode_line(HEAD.salt, 32, 32, UID, RECORD) == STATE_BYTES
    second = 32 + len(STATE_BYTES)
    assert meta_format.encode_line(HEAD.salt, second, second, UID, None) == TOMBSTONE_BYTES
    end = second + len(TOMBSTONE_BYTES)
    assert list(meta_format.read_lines(HEAD_BYTES + STATE_BYTES + TOMBSTONE_BYTES, HEAD)) == [
        MetaLine(32, second, 32, UID, RECORD),
        MetaLine(second, end, second, UID, None),
        CleanEnd(end),
    ]


def test_a_broken_last_record_is_torn_and_an_earlier_one_is_damage() -> None:
    """Only what a later record claims as synced is damage."""
    second = 32 + len(STATE_BYTES)
    for offset in range(len(TOMBSTONE_BYTES)):
        data = bytearray(HEAD_BYTES + STATE_BYTES + TOMBSTONE_BYTES)
        data[second + offset] ^= 1
        assert isinstance(list(meta_format.read_lines(bytes(data), HEAD))[-1], TornTail)
    for offset in range(len(STATE_BYTES)):
        data = bytearray(HEAD_BYTES + STATE_BYTES + TOMBSTONE_BYTES)
        data[32 + offset] ^= 1
        assert isinstance(list(meta_format.read_lines(bytes(data), HEAD))[-1], Damage)


def test_nothing_below_the_base_may_be_missing() -> None:
    """What was synced before the file got its name is never a torn tail."""
    head = MetaHead(HEAD.salt, 32 + len(STATE_BYTES))
    for cut in range(len(STATE_BYTES)):
        found = list(meta_format.read_lines(HEAD_BYTES + STATE_BYTES[:cut], head))
        assert isinstance(found[-1], Damage)


def test_zeros_behind_the_records_are_a_clean_end() -> None:
    """A file may have grown without its content having arrived."""
    found = list(meta_format.read_lines(HEAD_BYTES + bytes(100), HEAD))
    assert found == [CleanEnd(32)]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (RECORD_SIZE_MIN - 6, 7),
        (RECORD_SIZE_MIN - 12, 200),
        (RECORD_SIZE_MIN, 0xFF),
        (RECORD_SIZE_MIN + 5, 0xFF),
    ],
    ids=["kind", "lengths", "uid", "vote"],
)
def test_an_impossible_content_under_a_right_checksum_is_damage(at: int, value: int) -> None:
    """It was written as it is, and perhaps is a vote: as a torn tail it would be forgotten without a word."""
    data = bytearray(STATE_BYTES)
    data[at] = value
    sealed = data[:4] + crc32(memoryview(data)[8:], HEAD.salt).to_bytes(4, "little") + data[8:]
    [found] = meta_format.read_lines(HEAD_BYTES + bytes(sealed), HEAD)
    assert isinstance(found, Damage)
    assert "the content is impossible" in found.reason
