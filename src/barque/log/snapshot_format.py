"""The bytes of a snapshot or checkpoint file. Format: docs/formats/snapshot.md.

Pure and streaming: a state of any size is written and read in pieces of one MiB. `encode_snapshot` makes a
file's bytes of a state; `read_description` and `read_state` take a file apart, with a function that reads
bytes at an offset. Every crc continues the one before it, so one pass over the bytes checks them all.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias
from zlib import crc32

import msgspec

from barque.core.log_contract import SnapshotMeta
from barque.log.wal_format import CRC32
from barque.types import TERM_MAX, Index, IndexTerm, Term, is_valid_name

MAGIC = b"BARQSNAP"
VERSION = 1
MODULE_VERSION = 2
"""The version of a file that names a snapshot module."""

FILES_MAX = 4096
FACTS_BYTES_MAX = 65_536
PIECE_BYTES = 1024 * 1024
"""Every piece but the last has this size."""

_HEAD = struct.Struct("<8sBBHI")  # magic, version, checksum, reserved, length of the description
_CRC = struct.Struct("<I")
_PIECE = struct.Struct("<II")  # length, crc
_TRAILER = struct.Struct("<IIQ")  # 0, number of pieces, size of the state
HEAD_SIZE = _HEAD.size + _CRC.size
TRAILER_SIZE = _TRAILER.size + _CRC.size

Read: TypeAlias = Callable[[int, int], bytes]
"""Reads so many bytes at an offset; fewer only at the end of the file (`DiskFile.pread`)."""

Range: TypeAlias = tuple[Index, Index]
"""The first and the last of consecutive indexes."""

_NAME = re.compile(r"[0-9A-F]{16}_[0-9A-F]{16}\Z")


class MalformedSnapshot(ValueError):
    """These bytes are no snapshot file, or a damaged one. The message says where and in what way."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset


class LaterFormat(MalformedSnapshot):
    """The file is whole, as far as this release can tell, and of a later one. It must not be skipped."""


class FileRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file of a snapshot module: its name, its size in bytes, and the crc of its bytes."""

    name: str
    size: int
    crc: int


class ModuleRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The snapshot module that wrote a state, and what it wrote. On the way to a member, `files` is empty.

    `facts` is a msgpack map: what the module says of the state (`SnapshotModule.read_meta`).
    """

    name: str
    version: int
    facts: bytes = b"\x80"
    files: tuple[FileRecord, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        return f"snapshot module {self.name!r} version {self.version}"


class Description(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a file says about its state, ahead of the state.

    `live`: the entries up to the position that the state still needs, as ascending ranges. `module`: who
    wrote the state, if that was not Barque.
    """

    meta: SnapshotMeta
    live: tuple[Range, ...] = ()
    module: ModuleRecord | None = None


class Opened(msgspec.Struct, frozen=True):
    """A description that was read, and where and from which crc on its state begins."""

    description: Description
    state_offset: int
    crc: int


_decode_description = msgspec.msgpack.Decoder(Description).decode


def snapshot_name(position: IndexTerm) -> str:
    """The name of the directory of a snapshot."""
    return f"{position.term:016X}_{position.index:016X}"


def parse_name(name: str) -> IndexTerm | None:
    """The position that a directory's name says; None for another kind of name."""
    if not _NAME.match(name):
        return None
    return IndexTerm(Index(int(name[17:], 16)), Term(int(name[:16], 16)))


def ranges_of(indexes: Iterable[Index]) -> tuple[Range, ...]:
    """The same indexes as ranges, ascending; they may come in any order and more than once."""
    ranges: list[Range] = []
    for index in sorted(set(indexes)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return tuple(ranges)


def indexes_of(ranges: Sequence[Range]) -> Iterator[Index]:
    """The indexes of these ranges, in their order."""
    for first, last in ranges:
        yield from map(Index, range(first, last + 1))


# --- writing ---------------------------------------------------------------------------------


def encode_snapshot(description: Description, state: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a whole file, in buffers of at most one piece (the description may be larger).

    `state` may come in parts of any size: their borders are not kept. Raises `ValueError` for a description
    that no snapshot can have.
    """
    reason = _impossible(description)
    if reason is not None:
        raise ValueError(reason)
    version = VERSION if description.module is None else MODULE_VERSION
    known = (description.meta, description.live, description.module)[: version + 1]
    described = msgspec.msgpack.encode(known)
    head = _HEAD.pack(MAGIC, version, CRC32, 0, len(described))
    head_crc = crc32(head)
    crc = crc32(described, head_crc)
    yield b"".join((head, _CRC.pack(head_crc), described, _CRC.pack(crc)))
    count = size = 0
    for piece in _pieces(state):
        crc = crc32(piece, crc32(_CRC.pack(len(piece)), crc))
        yield _PIECE.pack(len(piece), crc) + piece
        count += 1
        size += len(piece)
    trailer = _TRAILER.pack(0, count, size)
    yield trailer + _CRC.pack(crc32(trailer, crc))


def digest_of(trailer: bytes) -> int:
    """The last checksum of a file, which covers all of it: the file ends with this buffer."""
    return int(_CRC.unpack(trailer[-_CRC.size :])[0])


def _pieces(state: Iterable[bytes]) -> Iterator[bytes]:
    """Cut and join parts of any size to pieces."""
    held = bytearray()
    for part in state:
        rest = memoryview(part)
        while len(held) + len(rest) >= PIECE_BYTES:
            room = PIECE_BYTES - len(held)
            held += rest[:room]
            yield bytes(held)
            held.clear()
            rest = rest[room:]
        held += rest
    if held:
        yield bytes(held)


# --- reading ---------------------------------------------------------------------------------


def read_description(read: Read) -> Opened:
    """Read how a file begins. Raises `MalformedSnapshot`."""
    head = read(HEAD_SIZE, 0)
    if len(head) < HEAD_SIZE:
        raise MalformedSnapshot(0, f"the file ends inside its head, which has {HEAD_SIZE} bytes")
    magic, version, algorithm, _, length = _HEAD.unpack_from(head)
    (head_crc,) = _CRC.unpack_from(head, _HEAD.size)
    if magic != MAGIC:
        raise MalformedSnapshot(0, "the magic number is wrong")
    if crc32(head[: _HEAD.size]) != head_crc:
        raise MalformedSnapshot(0, "the checksum of the head is wrong")
    if version not in (VERSION, MODULE_VERSION) or algorithm != CRC32:
        raise LaterFormat(0, f"format version {version} with checksum {algorithm} is not known here")
    data = read(length + _CRC.size, HEAD_SIZE)
    if len(data) < length + _CRC.size:
        raise MalformedSnapshot(HEAD_SIZE, "the file ends inside its description")
    described = memoryview(data)[:length]
    crc = crc32(described, head_crc)
    if _CRC.unpack_from(data, length) != (crc,):
        raise MalformedSnapshot(HEAD_SIZE, "the checksum of the description is wrong")
    try:
        description = _decode_description(described)
    except msgspec.MsgspecError as error:
        raise MalformedSnapshot(HEAD_SIZE, f"the description cannot be decoded: {error}") from error
    reason = _impossible(description)
    if reason is None and (description.module is None) != (version == VERSION):
        reason = f"format version {version} and its description disagree about a snapshot module"
    if reason is not None:
        raise MalformedSnapshot(HEAD_SIZE, reason)
    return Opened(description, HEAD_SIZE + len(data), crc)


def _impossible(description: Description) -> str | None:
    """Why no snapshot can have this description; None if one can."""
    position = description.meta.position
    if not (1 <= position.index < 2**63 and 1 <= position.term <= TERM_MAX):
        return f"no entry has index {position.index} and term {position.term}"
    after = 0
    for first, last in description.live:
        if not after < first <= last <= position.index:
            return f"the live entries {first} to {last} are out of order, or beyond the snapshot"
        after = last + 1
    return None if description.module is None else _impossible_module(description.module)


def _impossible_module(module: ModuleRecord) -> str | None:
    if not (is_valid_name(module.name) and module.version >= 0):
        return f"no snapshot module is called {module.name!r}, version {module.version}"
    names = [file.name for file in module.files]
    if len(names) > FILES_MAX or len(module.facts) > FACTS_BYTES_MAX:
        return f"a snapshot has at most {FILES_MAX} files, and {FACTS_BYTES_MAX} bytes of facts"
    if names != sorted(set(names)) or not all(map(is_valid_name, names)):
        return "the list of files has names that no file has, or is out of order"
    return None


def read_state(read: Read, opened: Opened) -> Iterator[bytes]:
    """The state's pieces in order. Raises `MalformedSnapshot`.

    Each piece is checked before it is yielded. The file is whole when the iteration has ended, not before.
    """
    offset, crc = opened.state_offset, opened.crc
    count = size = 0
    previous = PIECE_BYTES
    while True:
        front = read(_PIECE.size, offset)
        if len(front) < _PIECE.size:
            raise MalformedSnapshot(offset, "the file ends without a trailer")
        length, piece_crc = _PIECE.unpack(front)
        if length == 0:
            _check_trailer(read, offset, crc, count, size)
            return
        if length > PIECE_BYTES or previous < PIECE_BYTES:
            raise MalformedSnapshot(offset, "no piece can begin here")
        piece = read(length, offset + _PIECE.size)
        if len(piece) < length:
            raise MalformedSnapshot(offset, "the file ends inside a piece")
        crc = crc32(piece, crc32(_CRC.pack(length), crc))
        if crc != piece_crc:
            raise MalformedSnapshot(offset, "the checksum of a piece is wrong")
        yield piece
        count += 1
        size += length
        offset += _PIECE.size + length
        previous = length


def _check_trailer(read: Read, offset: int, crc: int, count: int, size: int) -> None:
    data = read(TRAILER_SIZE + 1, offset)
    if len(data) < TRAILER_SIZE:
        raise MalformedSnapshot(offset, "the file ends inside its trailer")
    if crc32(data[: _TRAILER.size], crc) != _CRC.unpack_from(data, _TRAILER.size)[0]:
        raise MalformedSnapshot(offset, "the checksum of the trailer is wrong")
    if _TRAILER.unpack_from(data) != (0, count, size):
        raise MalformedSnapshot(offset, f"the trailer does not speak of {count} pieces of {size} bytes")
    if len(data) > TRAILER_SIZE:
        raise MalformedSnapshot(offset + TRAILER_SIZE, "the file goes on behind its trailer")


def verify(read: Read) -> Description:
    """Read a whole file, and check every byte of it. Raises `MalformedSnapshot`."""
    opened = read_description(read)
    for _ in read_state(read, opened):
        pass
    return opened.description
