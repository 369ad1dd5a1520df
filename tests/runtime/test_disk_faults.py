"""A disk that fails for a while, operation by operation, under a node with segments and snapshots.

Each fault has the same promise: nothing that was acknowledged is lost, the node says what is wrong or keeps
it from its callers, and it goes on by itself when the disk does.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, until

import barque
from barque.log.disk import DiskFile, OsDisk

Fault = Callable[[str, str], bool]
KEYS = 10


class Registers(barque.Machine[dict[str, int]]):
    """Keeps the newest number of each key; lets go of its log often. The padding makes entries large."""

    def init(self, args: dict[str, Any]) -> dict[str, int]:
        """No keys."""
        return {}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, int]) -> Any:
        """Set a key."""
        key, value, _padding = command
        state = {**state, key: value}
        return state, value, [barque.ReleaseCursor(meta.index, state)] if meta.index % 20 == 0 else []

    def query(self, query: Any, state: dict[str, int]) -> int:
        """The number of a key, or 0."""
        return state.get(query, 0)


class FaultyDisk(OsDisk):
    """Fails the operations that `fails` names, with `code`."""

    def __init__(self) -> None:
        self.fails: Fault = lambda _operation, _path: False
        self.code = errno.EIO
        self.failed: set[str] = set()

    def check(self, operation: str, path: str) -> None:
        """Raise, if this is to fail."""
        if self.fails(operation, path):
            self.failed.add(operation)
            raise OSError(self.code, os.strerror(self.code), path)

    def open(self, path: str) -> DiskFile:  # type: ignore[override]
        """See `Disk`."""
        self.check("open", path)
        return FaultyFile(self, super().open(path), path)

    def create(self, path: str) -> DiskFile:
        """See `Disk`."""
        self.check("create", path)
        return FaultyFile(self, super().create(path), path)

    def rename(self, source: str, target: str) -> None:
        """See `Disk`."""
        self.check("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        """See `Disk`."""
        self.check("unlink", path)
        super().unlink(path)

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """See `Disk`."""
        if not os.path.isdir(path):
            self.check("mkdir", path)
        super().mkdir(path, parents=parents)

    def fsync_dir(self, path: str) -> None:
        """See `Disk`."""
        self.check("fsync_dir", path)
        super().fsync_dir(path)


class FaultyFile:
    """A file of such a disk."""

    def __init__(self, disk: FaultyDisk, file: DiskFile, path: str) -> None:
        self._disk = disk
        self._file = file
        self._path = path
        self.size, self.close = file.size, file.close

    def pread(self, length: int, offset: int) -> bytes:
        """See `DiskFile`."""
        self._disk.check("pread", self._path)
        return self._file.pread(length, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int, sync: bool) -> None:
        """See `DiskFile`."""
        self._disk.check("pwritev", self._path)
        self._file.pwritev(buffers, offset, sync)

    def datasync(self) -> None:
        """See `DiskFile`."""
        self._disk.check("datasync", self._path)
        self._file.datasync()

    def truncate(self, size: int) -> None:
        """See `DiskFile`."""
        self._disk.check("truncate", self._path)
        self._file.truncate(size)


def node(directory: Path, disk: FaultyDisk, made: Nodes) -> barque.Node:
    """The only node, with small files, on that disk."""
    log = barque.LogConfig(
        wal_max_size_bytes=1 << 14, prefill=False, writer="inline", segment_max_entries=256
    )
    made.settings = {"log": log, "snapshots": barque.SnapshotsConfig(min_interval=1)}
    return barque.Node(made.config("n1"), {"registers": Registers()}, disk=disk, checked=True)


async def write(client: barque.Client, known: dict[str, int], rounds: int) -> int:
    """Overwrite all keys, so many times; `known` gets what was acknowledged. Returns how many were not.

    The keys of a round are written at once: while a disk fails, a round waits for one deadline, not for ten.
    """

    async def overwrite(key: str) -> bool:
        value = known.get(key, 0) + 1
        try:
            await client.process_command("kept", [key, value, "x" * 400], timeout_s=0.5)
        except barque.BarqueError:
            return False
        known[key] = value
        return True

    failed = 0
    for _ in range(rounds):
        written = await asyncio.gather(*(overwrite(f"key:{number}") for number in range(KEYS)))
        failed += written.count(False)
    return failed


async def check(client: barque.Client, known: dict[str, int]) -> None:
    """Every acknowledged value is there, or a later one whose outcome nobody knows."""
    for key, value in known.items():
        assert await client.consistent_query("kept", key) >= value, key


FAULTS: dict[str, tuple[Fault, int]] = {
    "sync of the log": (lambda op, path: op == "pwritev" and path.endswith(".wal"), errno.EIO),
    "sync of files": (lambda op, _path: op == "datasync", errno.EIO),
    "sync of directories": (lambda op, _path: op == "fsync_dir", errno.EIO),
    "writes": (lambda op, _path: op == "pwritev", errno.EIO),
    "full": (lambda op, _path: op in ("pwritev", "create", "mkdir"), errno.ENOSPC),
    "read only": (
        lambda op, _path: op not in ("open", "pread"),
        errno.EROFS,
    ),
    "renames": (lambda op, _path: op == "rename", errno.EIO),
    "removals": (lambda op, _path: op == "unlink", errno.EIO),
    "new files": (lambda op, _path: op in ("create", "open"), errno.EMFILE),
    "segments": (lambda _op, path: "/segments" in path, errno.EIO),
    "snapshots": (lambda _op, path: "/snapshots" in path, errno.EIO),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_passes(tmp_path: Path, fault: str) -> None:
    """While it lasts, commands are refused or acknowledged, never lost; then the node goes on by itself."""
    disk, made = FaultyDisk(), Nodes(tmp_path, 1)
    known: dict[str, int] = {}
    running = node(tmp_path, disk, made)
    await running.start()
    try:
        async with made.client() as client:
            await client.start_cluster("kept", "registers")
            assert await write(client, known, 8) == 0
            disk.fails, disk.code = FAULTS[fault]
            for _ in range(60):
                await write(client, known, 1)
                if disk.failed:
                    break
            assert disk.failed, "the fault was met"
            await write(client, known, 2)
            disk.fails = lambda _operation, _path: False

            async def goes_on() -> bool:
                return await client.process_command("kept", ["alive", 1, ""], timeout_s=1.0) == 1

            await until(goes_on, "the node to go on")
            assert await write(client, known, 8) == 0
            await check(client, known)

            async def is_well() -> bool:
                [status] = (await client.status()).nodes
                backlog = status.storage["segment_writer"]["closed_files"]
                return status.state == "running" and backlog <= 1

            await until(is_well, "the node to be well, and the log to be in segments")
    finally:
        disk.fails = lambda _operation, _path: False
        await running.stop()
    again = node(tmp_path, FaultyDisk(), made)
    await again.start()
    try:
        async with made.client() as client:
            await until(lambda: client.consistent_query("kept", "alive"), "the node to serve")
            await check(client, known)
    finally:
        await again.stop()


@pytest.mark.parametrize("fault", ["read only", "new files", "reads"])
async def test_a_fault_at_the_start_is_named(tmp_path: Path, fault: str) -> None:
    """The node does not start, names the file and the cause, and starts when the disk is well."""
    disk, made = FaultyDisk(), Nodes(tmp_path, 1)
    first = node(tmp_path, disk, made)
    await first.start()
    async with made.client() as client:
        await client.start_cluster("kept", "registers")
        await client.process_command("kept", ["alive", 1, ""])
    await first.stop()
    faults: dict[str, tuple[Fault, int]] = {
        **FAULTS,
        "reads": (lambda op, path: op == "pread" and "/wal/" in path, errno.EIO),
    }
    disk.fails, disk.code = faults[fault]
    with pytest.raises(barque.StorageError, match=os.strerror(disk.code)) as refused:
        await node(tmp_path, disk, made).start()
    assert str(tmp_path) in str(refused.value)
    disk.fails = lambda _operation, _path: False
    second: Any = node(tmp_path, disk, made)
    await second.start()
    async with made.client() as client:
        await until(lambda: client.consistent_query("kept", "alive"), "the node to serve")
    await second.stop()
