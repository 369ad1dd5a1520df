"""A stopped node's data directory, with entries of two clusters and a deleted one, to be damaged by tests."""

import asyncio
import shutil
from pathlib import Path

from tests.nodes import nodes

import barque
from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import SnapshotMeta
from barque.log.segment_format import SegmentEncoder
from barque.log.snapshot_format import Description, encode_snapshot, snapshot_name
from barque.types import Index, IndexTerm, MemberRecord, ServerId, Term, Uid

SMALL = barque.LogConfig(wal_max_size_bytes=1 << 16, prefill=False, writer="inline")
_LAST_FILE_BYTES = range(10_000, 40_000)


async def fill(directory: Path, *, commands: int = 60, size: int = 4_000) -> Path:
    """Run a node, let it fill several log files, stop it; returns its data directory.

    Segments have everything but the newest file, which is neither nearly empty nor nearly full.
    """
    async with nodes(directory, 1, log=SMALL) as single, single.client() as client:
        for cluster in ("sum", "other", "gone"):
            await client.start_cluster(cluster, "adder")
        for number in range(commands):
            await client.process_command("sum", number)
            await client.process_command("other", ["pad", "x" * size])
        await client.delete_cluster("gone")
        while True:
            files = log_files(directory / "n1")
            if files[-1].stat().st_size not in _LAST_FILE_BYTES:
                await client.process_command("other", ["pad", "x" * size])
            elif len(files) == 1:
                break
            else:
                await asyncio.sleep(0.01)
    return directory / "n1"


def copy(data_dir: Path, to: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(data_dir, to)
    return to


def uid_of(data_dir: Path, cluster: str) -> str:
    """The uid of the member of a cluster."""
    for config in (data_dir / "servers").glob("*/config"):
        if f'"cluster":"{cluster}"' in config.read_text():
            return config.parent.name
    raise AssertionError(cluster)


def log_files(data_dir: Path) -> list[Path]:
    """The log files that hold entries, oldest first."""
    return sorted(file for file in (data_dir / "wal").glob("*.wal") if file.stem.isdigit())


def write_segment(path: Path, uid: str, first: int = 1, count: int = 3) -> Path:
    """A proper segment of that server."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    encoder = SegmentEncoder(Uid(uid))
    parts = [encoder.head]
    for index in range(first, first + count):
        parts += encoder.add(EntryBatch(Index(index), Term(1), 1, 1_000, encode_body([b"payload"])))
    path.write_bytes(b"".join([*parts, encoder.finish()[0]]))
    path.chmod(0o600)
    return path


def write_snapshot(folder: Path, index: int = 1, term: int = 1, state: bytes = b"state") -> Path:
    """A proper snapshot of one member, in a directory of its name."""
    position = IndexTerm(Index(index), Term(term))
    meta = SnapshotMeta(position, (MemberRecord(ServerId("sum", "n1"), Uid("SUM")),), 0)
    place = folder / snapshot_name(position)
    place.mkdir(parents=True, mode=0o700)
    (place / "snapshot").write_bytes(b"".join(encode_snapshot(Description(meta), [state])))
    (place / "snapshot").chmod(0o600)
    return place / "snapshot"


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))
