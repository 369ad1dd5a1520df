"""Every file of a data directory, harmed in every way: a defined answer for each, and no silent loss.

The table is walked over the files that are there, so that a new file cannot escape it (sec 13).
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.nodes import Adder, nodes

import barque
from barque.errors import ConfigurationError, StorageError
from barque.log.disk import DiskFile, OsDisk

HARMLESS = ("lock", "wal/spare-")
"""What holds no data. The node starts, or says what is wrong with it."""


class Unreadable(OsDisk):
    """A disk on which one path belongs to somebody else."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _check(self, path: str) -> None:
        if path == self._path:
            raise PermissionError(13, "Permission denied", path)

    def open(self, path: str) -> DiskFile:
        """Refuse that path."""
        self._check(path)
        return super().open(path)

    def lock(self, path: str) -> DiskFile:
        """Refuse that path."""
        self._check(path)
        return super().lock(path)

    def listdir(self, path: str) -> list[str]:
        """Refuse that path."""
        self._check(path)
        return super().listdir(path)


def missing(path: Path) -> None:
    """It is gone."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    """Its content is gone."""
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.write_bytes(b"")


def truncated(path: Path) -> None:
    """Its second half is gone."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flipped(share: float) -> Callable[[Path], None]:
    """One bit of it has changed."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes() or b"\x01")
        used = len(bytes(data).rstrip(b"\0"))
        data[int((used - 1) * share)] ^= 0x10
        path.write_bytes(data)

    return flip


def zeroed(path: Path) -> None:
    """All its bytes are zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def directory(path: Path) -> None:
    """A directory has its name."""
    missing(path)
    path.mkdir()


def file(path: Path) -> None:
    """A file has the directory's name."""
    missing(path)
    path.write_bytes(b"a file")


def link(path: Path) -> None:
    """A link to its content has its name."""
    target = path.parent.parent / f"moved-{path.name}"
    path.rename(target)
    path.symlink_to(target)


def dangling(path: Path) -> None:
    """A link to nothing has its name."""
    missing(path)
    path.symlink_to(path.parent / "nowhere")


def fifo(path: Path) -> None:
    """A pipe has its name: opening it must not wait for a writer."""
    missing(path)
    os.mkfifo(path)


FILES = [
    missing,
    empty,
    truncated,
    flipped(0.0),
    flipped(0.5),
    flipped(1.0),
    zeroed,
    directory,
    link,
    dangling,
    fifo,
]
DIRECTORIES = [missing, empty, file, link, dangling]


def harms(root: Path) -> Iterator[tuple[str, Callable[[Path], None] | None]]:
    """Every path below `root` with everything that may happen to it; None: it cannot be read."""
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        yield from ((name, harm) for harm in (DIRECTORIES if path.is_dir() else FILES))
        yield name, None


async def start(copy: Path, config: barque.NodeConfig, unreadable: str | None) -> str:
    """Start a node on a harmed copy: its error, or "" if it has everything."""
    disk = OsDisk() if unreadable is None else Unreadable(str(copy / unreadable))
    node = barque.Node(
        barque.NodeConfig(**{**vars_of(config), "data_dir": str(copy)}), {"adder": Adder()}, disk=disk
    )
    try:
        await node.start()
    except (StorageError, ConfigurationError) as error:
        return str(error)
    try:
        servers = node.system.processes
        assert set(servers) == {"sum", "idle"}, set(servers)
        # A leader that is back may have begun a term by now.
        assert servers["sum"].server.log.last_index_term().index >= 4
        assert node.system.directory.buried()
    finally:
        await node.stop()
    return ""


def vars_of(config: barque.NodeConfig) -> dict[str, Any]:
    """The fields of a configuration."""
    return {name: getattr(config, name) for name in config.__struct_fields__}


async def test_sec13_every_file_harmed_in_every_way_has_a_defined_answer(tmp_path: Path) -> None:
    """A node refuses with a text that names the path, or it starts and has everything. Never a traceback."""
    log = barque.LogConfig(wal_max_size_bytes=1 << 16, prefill=False, writer="inline")
    async with nodes(tmp_path, 1, log=log) as single, single.client() as client:
        for name in ("sum", "idle", "gone"):
            await client.start_cluster(name, "adder")
        for number in range(3):
            await client.process_command("sum", number)
        await client.delete_cluster("gone")
        await single.stop()
        config, root = single.config("n1"), tmp_path / "n1"
        spare = root / "wal" / f"spare-{9:017}.wal"
        spare.write_bytes(bytes(1 << 16))
        walked = dict.fromkeys(name for name, _ in harms(root))
        shapes = {name.split("/")[-1].lstrip("0123456789") for name in walked}
        assert {
            "identity",
            "lock",
            "meta",
            "manifest",
            "tombstones",
            "config",
            ".wal",
            "wal",
            "servers",
        } <= shapes
        for number, (name, harm) in enumerate(harms(root)):
            copy = tmp_path / f"copy{number}" / "n1"
            shutil.copytree(root, copy)
            if harm is not None:
                harm(copy / name)
            what = f"{name}: {harm.__name__ if harm else 'unreadable'}"
            said = await start(copy, config, name if harm is None else None)
            if said:
                assert str(copy / name) in said or f"{copy}/{name.split('/')[0]}" in said, f"{what}: {said}"
                assert len(said) < 2_000
            elif not name.startswith(HARMLESS):
                assert harm is link, what  # a directory may be kept elsewhere
            shutil.rmtree(copy.parent)
        await single.start()
        assert await client.consistent_query("sum") == 3
