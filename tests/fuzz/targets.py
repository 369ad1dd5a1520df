"""What each codec does with any bytes: it returns, or raises its documented error, and nothing else.

Checksums are all 0 here, in the bytes to begin with and in the codecs: they would keep nearly all random
bytes from the code behind them, and a file whose checksum is right may still be of a defective writer.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from unittest.mock import patch

from barque.errors import Damaged, ProtocolError
from barque.gateways.resp.parser import RequestError, RequestParser
from barque.log import checked_text, meta_format, segment_format, snapshot_format, wal_format
from barque.log.checked_text import MalformedText
from barque.log.identity import Owner
from barque.log.segment import OpenSegment, inspect_segment
from barque.log.snapshot_format import MalformedSnapshot, encode_snapshot
from barque.log.wal_format import FILE_HEAD_SIZE, TERMINATOR, FileEntry, FileHead, MalformedHead
from barque.log.wal_recovery import WalReader
from barque.machine.kv import KvMachine
from barque.offline.backup_format import BackedUpFile, BackupManifest, decode_manifest, encode_manifest
from barque.testing.sim.disk import SimDisk
from barque.transport import wire
from barque.transport.framing import HEADER, FrameKind, FrameReader, encode_frame
from barque.types import Index, IndexTerm, Term
from tests.formats.test_kv_state_format import golden_state
from tests.formats.test_meta_format import RECORD
from tests.formats.test_segment_format import BATCHES, encode as encode_segment
from tests.formats.test_snapshot_format import DESCRIPTION
from tests.kit.storage import UID
from tests.transport.samples import ANSWERS, PEER_MESSAGES, REQUESTS

FILE = "/file"


class Target(NamedTuple):
    """A codec: `decode` takes any bytes, and `seeds` are some that it accepts."""

    decode: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]


def _no_checksum(_data: object, _start: int = 0) -> int:
    return 0


class _NoZlib:
    crc32 = staticmethod(_no_checksum)


@contextlib.contextmanager
def without_checksums() -> Iterator[None]:
    """Let every checksum be 0, written and read."""
    with contextlib.ExitStack() as stack:
        for module in (wal_format, meta_format, segment_format, snapshot_format):
            stack.enter_context(patch.object(module, "crc32", _no_checksum))
        stack.enter_context(patch.object(checked_text, "zlib", _NoZlib))
        yield


def _on_disk(data: bytes) -> SimDisk:
    disk = SimDisk(random.Random(1))
    disk.set_content(FILE, data)
    return disk


# --- the log ---------------------------------------------------------------------------------


def wal(data: bytes) -> None:
    """A file of the write-ahead log, read as a start reads it; also as a file that was closed there."""
    with contextlib.suppress(MalformedHead):
        reader = WalReader(_on_disk(data).open(FILE))
        for end in (None, len(data)):
            for _ in reader.records(end):
                pass


def wal_seeds() -> list[bytes]:
    """Records of entries, a new base and a mark; of both versions."""
    found = []
    for version in (1, 2):
        head = FileHead(7, 1, version)
        buffers = [wal_format.encode_file_head(head)]
        end = FILE_HEAD_SIZE
        end = wal_format.encode_record(
            buffers, head, end, 64, b"alpha", IndexTerm(Index(4), Term(1)), BATCHES[:1]
        )
        end = wal_format.encode_record(
            buffers, head, end, end, b"beta", IndexTerm(Index(9), Term(2)), (), wal_format.BASE
        )
        wal_format.encode_record(
            buffers, head, end, end, b"", IndexTerm(Index(0), Term(0)), (), wal_format.MARK
        )
        found.append(b"".join([*buffers, TERMINATOR]))
    return found


def manifest(data: bytes) -> None:
    """The manifest of the write-ahead log. What is accepted is encoded as it was."""
    with contextlib.suppress(MalformedHead):
        assert wal_format.encode_manifest(wal_format.decode_manifest(data)) == data


def segment(data: bytes) -> None:
    """A segment, as the log opens it, and as `doctor` reads all of it."""
    disk = _on_disk(data)
    with contextlib.suppress(Damaged):
        opened = OpenSegment(disk, inspect_segment(disk, FILE, 1, UID))
        opened.verify()
        first, last = opened.segment.tail.first.index, opened.segment.tail.last.index
        for _ in opened.batches(first, last):
            pass
        opened.fetch_term(first)


def snapshot(data: bytes) -> None:
    """A whole snapshot."""
    with contextlib.suppress(MalformedSnapshot):
        snapshot_format.verify(lambda length, offset: data[offset : offset + length])


def kv_state(data: bytes) -> None:
    """The state of a `KvMachine`. What is accepted is a state that can be captured."""
    with contextlib.suppress(ValueError):
        state = KvMachine().restore(iter([data]), {})
        for _ in KvMachine().capture(state):
            pass


def meta(data: bytes) -> None:
    """A meta file."""
    with contextlib.suppress(MalformedHead):
        for _ in meta_format.read_lines(data, meta_format.decode_head(data)):
            pass


def meta_seeds() -> list[bytes]:
    """A state and a tombstone."""
    head = meta_format.encode_head(meta_format.MetaHead(1, meta_format.HEAD_SIZE))
    first = meta_format.encode_line(1, len(head), len(head), UID, RECORD)
    end = len(head) + len(first)
    return [head + first + meta_format.encode_line(1, end, end, UID, None)]


def backup(data: bytes) -> None:
    """The list of a backup's files."""
    with contextlib.suppress(MalformedText):
        decode_manifest(data)


# --- connections -----------------------------------------------------------------------------

_DECODERS = {
    FrameKind.ENVELOPES: wire.decode_envelopes,
    FrameKind.REQUESTS: wire.decode_requests,
    FrameKind.ANSWERS: wire.decode_answers,
}
FRAME_BYTES_MAX = 1 << 16


def frames(data: bytes) -> None:
    """What a connection delivers, in two pieces, and the messages in it."""
    reader = FrameReader(FRAME_BYTES_MAX)
    with contextlib.suppress(ProtocolError):
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            reader.feed(piece)
            while (frame := reader.next_frame()) is not None:
                decode = _DECODERS.get(frame.kind)
                if decode is not None:
                    decode(frame.payload)
    assert reader.capacity <= 2 * (FRAME_BYTES_MAX + HEADER.size) + 2 * len(data)


def frame_seeds() -> list[bytes]:
    """A frame for each message."""
    peers = [[wire.Envelope("s", message, "c", UID)] for message in PEER_MESSAGES]
    return [
        *(encode_frame(FrameKind.ENVELOPES, wire.encode_envelopes(each)) for each in peers),
        *(encode_frame(FrameKind.REQUESTS, wire.encode_requests([each])) for each in REQUESTS),
        *(encode_frame(FrameKind.ANSWERS, wire.encode_answers([each])) for each in ANSWERS),
    ]


def _requests(pieces: Iterable[bytes], *, authenticated: bool) -> tuple[list[list[bytes]], str | None]:
    parser = RequestParser(1_000, 3_000, authenticated=authenticated)
    found: list[list[bytes]] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            parser.parse(found, 1 << 30)
        except RequestError as error:
            return found, str(error)
    return found, None


def resp(data: bytes) -> None:
    """Requests of Redis clients: the same ones, and the same error, however the bytes are cut."""
    for authenticated in (True, False):
        whole = _requests([data], authenticated=authenticated)
        cut = len(data) // 2
        assert _requests([data[:cut], data[cut:]], authenticated=authenticated) == whole
        if len(data) <= 64:
            single = [data[at : at + 1] for at in range(len(data))]
            assert _requests(single, authenticated=authenticated) == whole


RESP_SEEDS = (
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n\r\n\r\n",
    b"PING\r\nSET \"a b\" '\\x41\\n'\nGET a\r\n*0\r\n*-1\r\n\r\n",
)


def targets() -> dict[str, Target]:
    """All codecs by name. Call `decode` and `seeds` inside `without_checksums`."""
    files = (BackedUpFile("meta", 5, "ab" * 32), BackedUpFile("wal/1.wal", 0, ""))
    listed = BackupManifest(owner=Owner("barque", "n1"), at_ms=1, release="0.1", files=files)
    entries = [FileEntry(1, 4096), FileEntry(3, 0)]
    return {
        "wal": Target(wal, wal_seeds),
        "manifest": Target(manifest, lambda: [wal_format.encode_manifest(entries)]),
        "segment": Target(segment, lambda: [encode_segment(BATCHES, UID)]),
        "snapshot": Target(snapshot, lambda: [b"".join(encode_snapshot(DESCRIPTION, [b"state"]))]),
        "kv-state": Target(kv_state, lambda: [b"".join(KvMachine().capture(golden_state()))]),
        "meta": Target(meta, meta_seeds),
        "backup": Target(backup, lambda: [encode_manifest(listed)]),
        "frames": Target(frames, frame_seeds),
        "resp": Target(resp, lambda: RESP_SEEDS),
    }
