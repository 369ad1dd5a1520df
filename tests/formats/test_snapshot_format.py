"""Golden bytes, endings and properties of snapshot files (docs/formats/snapshot.md)."""

import struct
from itertools import pairwise
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from barque.core.log_contract import SnapshotMeta
from barque.log import snapshot_format
from barque.log.snapshot_format import (
    HEAD_SIZE,
    PIECE_BYTES,
    TRAILER_SIZE,
    Description,
    FileRecord,
    LaterFormat,
    MalformedSnapshot,
    ModuleRecord,
    Read,
    encode_snapshot,
    read_description,
    read_state,
    verify,
)
from barque.types import Index, IndexTerm, MemberRecord, Membership, ServerId, Term, Uid

MEMBERS = (
    MemberRecord(ServerId("kv", "n1"), Uid("alpha")),
    MemberRecord(ServerId("kv", "n2"), None, Membership.PROMOTABLE, Index(9)),
)
META = SnapshotMeta(IndexTerm(Index(70), Term(3)), MEMBERS, 2, 1_700_000_000_000)
DESCRIPTION = Description(META, ((Index(4), Index(6)), (Index(9), Index(9))))
STATE = [b"the state, ", b"", b"in parts"]
FILE = bytes.fromhex(
    "42415251534e4150010100004300000099b2910b9295924603929492a26b76a26e31a5616c706861a5766f746572009492a26b"
    "76a26e32c0aa70726f6d6f7461626c650902cf0000018bcfe56800c40092920406920909b9648d2e130000003d1d9bba746865"
    "2073746174652c20696e20706172747300000000010000001300000000000000769da1f2"
)
MODULE = ModuleRecord("files", 3, b"\x81\xa1n\x02", (FileRecord("a", 5, 0x11223344), FileRecord("b", 0, 0)))
WITH_MODULE = Description(META, (), MODULE)
MODULE_FILE = bytes.fromhex(
    "42415251534e4150020100005a0000006fad0fa89395924603929492a26b76a26e31a5616c706861a5766f746572009492a2"
    "6b76a26e32c0aa70726f6d6f7461626c650902cf0000018bcfe56800c4009094a566696c657303c40481a16e029293a16105"
    "ce1122334493a16200008578964700000000000000000000000000000000576237de"
)
SIZES = (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES)


def reader(data: bytes) -> Read:
    """The file as a function that reads it."""
    return lambda length, offset: data[offset : offset + length]


def state_of(data: bytes) -> bytes:
    """The whole state that a file holds."""
    read = reader(data)
    return b"".join(read_state(read, read_description(read)))


def file_of(state: bytes, description: Description = DESCRIPTION) -> bytes:
    """The bytes of a file."""
    return b"".join(encode_snapshot(description, [state]))


def test_a_file_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    assert b"".join(encode_snapshot(DESCRIPTION, STATE)) == FILE
    assert verify(reader(FILE)) == DESCRIPTION
    assert state_of(FILE) == b"".join(STATE)


def test_a_file_with_a_module_is_as_it_always_was() -> None:
    """Golden bytes of version 2, both ways; a file without a module is still of version 1."""
    assert b"".join(encode_snapshot(WITH_MODULE, [])) == MODULE_FILE
    assert verify(reader(MODULE_FILE)) == WITH_MODULE
    assert (FILE[8], MODULE_FILE[8]) == (1, 2)
    for offset in range(len(MODULE_FILE)):
        data = bytearray(MODULE_FILE)
        data[offset] ^= 1
        with pytest.raises(MalformedSnapshot):
            verify(reader(bytes(data)))


@pytest.mark.parametrize(
    "wrong",
    [
        ModuleRecord("", 1),
        ModuleRecord("../x", 1),
        ModuleRecord("m", -1),
        ModuleRecord("m", 1, bytes(65_537)),
        ModuleRecord("m", 1, files=(FileRecord("../x", 1, 1),)),
        ModuleRecord("m", 1, files=(FileRecord("b", 1, 1), FileRecord("a", 1, 1))),
        ModuleRecord("m", 1, files=(FileRecord("a", 1, 1), FileRecord("a", 1, 1))),
    ],
)
def test_no_file_names_a_module_that_cannot_be(wrong: ModuleRecord) -> None:
    """Neither written nor read."""
    with pytest.raises(ValueError, match=r"snapshot|list"):
        list(encode_snapshot(Description(META, (), wrong), []))


def test_every_flipped_bit_is_damage() -> None:
    """No flip anywhere passes, and none passes for a file of a later release."""
    for offset in range(len(FILE)):
        for bit in range(8):
            data = bytearray(FILE)
            data[offset] ^= 1 << bit
            with pytest.raises(MalformedSnapshot) as caught:
                verify(reader(bytes(data)))
            assert not isinstance(caught.value, LaterFormat)


def test_every_cut_is_damage_and_so_is_every_addition() -> None:
    """A file that ends early, or late, is not whole."""
    for end in range(len(FILE)):
        with pytest.raises(MalformedSnapshot):
            verify(reader(FILE[:end]))
    for more in (b"\0", bytes(4096), FILE):
        with pytest.raises(MalformedSnapshot, match="goes on behind its trailer"):
            verify(reader(FILE + more))


def piece_of(data: bytes, number: int) -> slice:
    """Where piece `number`, from 0, stands in a file of full pieces."""
    start = read_description(reader(data)).state_offset + number * (8 + PIECE_BYTES)
    return slice(start, start + 8 + PIECE_BYTES)


MANY = file_of(b"a" * PIECE_BYTES + b"b" * PIECE_BYTES + b"c" * 10)
OTHER = file_of(b"x" * PIECE_BYTES + b"b" * PIECE_BYTES + b"c" * 10)
FIRST, SECOND = piece_of(MANY, 0), piece_of(MANY, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends inside its head"),
        (FILE[: HEAD_SIZE - 1], "ends inside its head"),
        (b"BARQUWAL" + FILE[8:], "magic number"),
        (FILE[:HEAD_SIZE], "ends inside its description"),
        (FILE[: HEAD_SIZE + 10], "ends inside its description"),
        (FILE[:-TRAILER_SIZE], "ends without a trailer"),
        (FILE[:-TRAILER_SIZE] + FILE[-TRAILER_SIZE : -TRAILER_SIZE + 8], "ends inside its trailer"),
        (FILE[: -TRAILER_SIZE - 1], "ends inside a piece"),
        (MANY[: FIRST.start] + MANY[FIRST.stop :], "checksum of a piece"),  # missing
        (MANY[: FIRST.stop] + MANY[FIRST], "checksum of a piece"),  # doubled
        (MANY[: FIRST.start] + MANY[SECOND] + MANY[FIRST] + MANY[SECOND.stop :], "checksum of a piece"),
        (MANY[: SECOND.start] + OTHER[SECOND] + MANY[SECOND.stop :], "checksum of a piece"),
        (MANY[: SECOND.stop] + MANY[-TRAILER_SIZE:], "checksum of the trailer"),  # the last one missing
        (MANY[:-TRAILER_SIZE] + OTHER[-TRAILER_SIZE:], "checksum of the trailer"),
    ],
)
def test_the_message_says_what_is_wrong(data: bytes, reason: str) -> None:
    """Each ending of the page has its reason, and names an offset."""
    with pytest.raises(MalformedSnapshot, match=rf"at byte \d+: .*{reason}"):
        verify(reader(data))


def rebuilt(pieces: list[bytes], count: int, size: int) -> bytes:
    """A file with right checksums and these pieces and numbers, whatever they are."""
    begin = FILE[: read_description(reader(FILE)).state_offset]
    parts, crc = [begin], struct.unpack("<I", begin[-4:])[0]
    for piece in pieces:
        crc = crc32(piece, crc32(struct.pack("<I", len(piece)), crc))
        parts += [struct.pack("<II", len(piece), crc), piece]
    trailer = struct.pack("<IIQ", 0, count, size)
    return b"".join([*parts, trailer, struct.pack("<I", crc32(trailer, crc))])


@pytest.mark.parametrize(
    ("pieces", "count", "size", "reason"),
    [
        ([b"abc"], 2, 3, "does not speak of"),
        ([b"abc"], 1, 4, "does not speak of"),
        ([b"abc", b"def"], 2, 6, "no piece can begin here"),
        ([bytes(PIECE_BYTES + 1)], 1, PIECE_BYTES + 1, "no piece can begin here"),
    ],
)
def test_right_checksums_do_not_make_a_wrong_file_right(
    pieces: list[bytes], count: int, size: int, reason: str
) -> None:
    """Only the layout of the page is taken."""
    with pytest.raises(MalformedSnapshot, match=reason):
        verify(reader(rebuilt(pieces, count, size)))
    assert state_of(rebuilt([b"abc"], 1, 3)) == b"abc"  # the table's files differ only where they should


@pytest.mark.parametrize(("version", "algorithm"), [(3, 1), (1, 2), (255, 255)])
def test_a_file_of_a_later_release_is_told_from_damage(version: int, algorithm: int) -> None:
    """Its head has the same form and checksum."""
    head = FILE[:8] + bytes([version, algorithm]) + FILE[10:16]
    with pytest.raises(LaterFormat, match=f"format version {version} with checksum {algorithm}"):
        verify(reader(head + struct.pack("<I", crc32(head)) + FILE[HEAD_SIZE:]))


IMPOSSIBLE = [
    Description(SnapshotMeta(IndexTerm(Index(0), Term(1)), MEMBERS, 0)),
    Description(SnapshotMeta(IndexTerm(Index(1), Term(0)), MEMBERS, 0)),
    Description(SnapshotMeta(IndexTerm(Index(1), Term(2**62 + 1)), MEMBERS, 0)),
    Description(META, ((Index(0), Index(1)),)),
    Description(META, ((Index(5), Index(4)),)),
    Description(META, ((Index(5), Index(71)),)),
    Description(META, ((Index(5), Index(6)), (Index(7), Index(8)))),
    Description(META, ((Index(5), Index(6)), (Index(2), Index(3)))),
]


@pytest.mark.parametrize("description", IMPOSSIBLE)
def test_an_impossible_description_is_neither_written_nor_read(description: Description) -> None:
    """A position that no entry has; live entries out of order or beyond the position."""
    with pytest.raises(ValueError, match=r"no entry has|live entries"):
        list(encode_snapshot(description, []))
    described = msgspec.msgpack.encode(description)
    head = FILE[:12] + struct.pack("<I", len(described))
    head += struct.pack("<I", crc32(head))
    crc = crc32(described, crc32(head[:16]))
    with pytest.raises(MalformedSnapshot):
        read_description(reader(head + described + struct.pack("<I", crc)))


@pytest.mark.parametrize("described", [b"", b"\x90", b"\x91\x01", b"\xc1", b"\x92\x90\x90"])
def test_a_description_of_another_shape_is_damage(described: bytes) -> None:
    """Right checksums over something else."""
    head = FILE[:12] + struct.pack("<I", len(described))
    head += struct.pack("<I", crc32(head))
    crc = crc32(described, crc32(head[:16]))
    with pytest.raises(MalformedSnapshot, match="cannot be decoded"):
        read_description(reader(head + described + struct.pack("<I", crc)))


@pytest.mark.parametrize("size", SIZES)
def test_states_of_any_size_come_back(size: int) -> None:
    """Also empty ones, and those that end with a full piece. No buffer exceeds a piece and its head."""
    state = bytes(range(256)) * (size // 256 + 1)
    buffers = list(encode_snapshot(DESCRIPTION, [state[:size]]))
    assert max(map(len, buffers)) <= PIECE_BYTES + 8
    data = b"".join(buffers)
    assert state_of(data) == state[:size]
    assert [len(p) for p in read_state(reader(data), read_description(reader(data)))] == [
        min(PIECE_BYTES, size - at) for at in range(0, size, PIECE_BYTES)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=20), st.data())
def test_the_borders_of_the_parts_leave_no_trace(sizes: list[int], data: st.DataObject) -> None:
    """The same state in other parts makes the same file (with small pieces, for speed)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_format, "PIECE_BYTES", 64)
        state = bytes(number % 251 for number in range(sum(sizes)))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(state)), max_size=8)))
        parts = [state[a:b] for a, b in zip([0, *cuts], [*cuts, len(state)], strict=True)]
        assert b"".join(encode_snapshot(DESCRIPTION, parts)) == file_of(state)
        assert state_of(file_of(state)) == state


@given(st.lists(st.integers(1, 40)))
def test_indexes_and_ranges(indexes: list[int]) -> None:
    """Ranges hold the same indexes, ascending, with gaps between them."""
    ranges = snapshot_format.ranges_of(map(Index, indexes))
    assert list(snapshot_format.indexes_of(ranges)) == sorted(set(indexes))
    for (_, last), (first, _) in pairwise(ranges):
        assert first > last + 1


def test_the_names_of_directories() -> None:
    """Term and index, 16 digits each; nothing else is such a name."""
    assert snapshot_format.snapshot_name(META.position) == "0000000000000003_0000000000000046"
    assert snapshot_format.parse_name("0000000000000003_0000000000000046") == META.position
    for name in (
        "",
        "snapshot",
        "3_46",
        "0000000000000003_0000000000000046.writing",
        "g" * 16 + "_" + "0" * 16,
    ):
        assert snapshot_format.parse_name(name) is None
    assert snapshot_format.parse_name("000000000000000a_0000000000000046") is None
