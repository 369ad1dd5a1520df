"""Bit rot and misdirected writes on the disk of a node that is down, and what the node must do about them.

A node whose files were changed while it was down must either refuse to start, with `Damaged` and the file's
name, or have lost nothing (the changed bytes meant nothing). The bodies of segments and checkpoints are read
later, if at all: then the server that reads one stops, and names the file, or the checkpoint is skipped. Only
bytes change that later bytes prove to have been synced: damage to the very last record looks like a torn tail
(docs/formats/wal.md).
"""

import random
from typing import NamedTuple

from barque.core.log_contract import SnapshotKind
from barque.errors import Damaged
from barque.log.disk import join
from barque.log.identity import IDENTITY
from barque.log.memtable import Memtable
from barque.log.meta_format import HEAD_SIZE as META_HEAD_SIZE
from barque.log.recovery import segments_directory
from barque.log.segment_format import TAIL_SIZE, decode_tail
from barque.log.snapshot_files import FILE, FOLDERS
from barque.log.snapshot_format import parse_name
from barque.log.wal_files import MANIFEST
from barque.runtime.tombstones import TOMBSTONES
from barque.testing.checkers.durable_log_view import DurableLogView
from barque.testing.checkers.safety import Violation
from barque.testing.sim.disk import SECTOR, SimDisk
from barque.types import Index, Term, Uid

KINDS = ("flip", "zero", "misdirected")


Terms = dict[int, Term]


class BitRot:
    """One change to one file of one node, made while the node is down."""

    def __init__(
        self, disk: SimDisk, path: str, before: bytes, after: bytes, last: dict[Uid, Terms], *, latent: bool
    ) -> None:
        self.path = path
        self.latent = latent
        """Whether a node may start, and find it later."""
        self._disk = disk
        self._before = before
        self._after = after
        self._last = last

    def mend(self) -> None:
        """Restore the file, as an operator with a good copy would; unless nobody needs it any longer."""
        if self._disk.exists(self.path) and self._disk.read_file(self.path) == self._after:
            self._disk.set_content(self.path, self._before)

    def explains(self, failure: str) -> bool:
        """Whether a server may have stopped for this reason."""
        return self.latent and failure.startswith("Damaged: ") and self.path in failure

    def judge_refusal(self, error: Exception) -> Violation | None:
        """The node refuses to start: the error must be `Damaged` and name the file."""
        if isinstance(error, Damaged) and self.path in str(error):
            return None
        return Violation("damage is named (G7)", f"{self.path} was changed", (repr(error),))

    def judge_start(self, uid: Uid, log: object) -> Violation | None:
        """The node starts: the server must have every entry that it had."""
        fetch = getattr(log, "fetch_term", lambda _index: None)
        lost = {index: term for index, term in self._last.get(uid, {}).items() if fetch(index) != term}
        if not lost:
            return None
        shown = (f"entries by index and term: {lost}",)
        return Violation(
            "damage is found (G7)", f"{self.path} was changed, and the node starts without", shown
        )


class LiveRot(BitRot):
    """One byte of a snapshot that a running node reads wrong from now on.

    Only the node is deceived: what it has made durable is judged by what it has written.
    """

    def __init__(self, disk: SimDisk, path: str, offset: int) -> None:
        super().__init__(disk, path, b"", b"", {}, latent=True)
        disk.rot[path] = offset

    def mend(self) -> None:
        """Restore the byte."""
        self._disk.rot.pop(self.path, None)


def rot_snapshot(disk: SimDisk, data: str, uids: list[Uid], chance: random.Random) -> LiveRot | None:
    """Let a byte of some server's newest snapshot rot; None if there is no snapshot."""
    folders = [join(data, f"servers/{uid}/{FOLDERS[SnapshotKind.SNAPSHOT]}") for uid in uids]
    found = []
    for folder in folders:
        names = [
            n for n in (disk.listdir(folder) if disk.is_dir(folder) else []) if parse_name(n) is not None
        ]
        newest = max(names, key=lambda name: name.rpartition("_")[2], default=None)
        if newest is not None and disk.exists(path := join(folder, f"{newest}/{FILE}")):
            found.append(path)
    if not found:
        return None
    path = chance.choice(found)
    return LiveRot(disk, path, chance.randrange(len(disk.read_file(path))))


def change_bytes(
    disk: SimDisk, data: str, uids: list[Uid], view: DurableLogView, chance: random.Random
) -> BitRot | None:
    """Change some durable bytes; return None if there are none that may be changed."""
    logs = {uid: view.from_scratch(uid) for uid in uids}
    kinds = [places for places in _places(disk, data, view) if places]
    if not kinds:
        return None
    path, end, latent = chance.choice(chance.choice(kinds))
    before = disk.read_file(path)
    kind = chance.choice(KINDS)
    changed = bytearray(before)
    at = chance.randrange(end)
    if kind == "flip":
        changed[at] ^= 1 << chance.randrange(8)
    else:
        size = min(SECTOR, end - at)
        other = chance.randrange(end)
        changed[at : at + size] = bytes(size) if kind == "zero" else before[other : other + size].ljust(size)
    if bytes(changed) == before:
        return None
    terms = {uid: _terms(log) for uid, log in logs.items()}
    disk.set_content(path, bytes(changed))
    return BitRot(disk, path, before, bytes(changed), terms, latent=latent)


def _terms(log: Memtable) -> Terms:
    found = {index: log.fetch_term(Index(index)) for index in range(1, log.last().index + 1)}
    return {index: term for index, term in found.items() if term is not None}


class _Place(NamedTuple):
    """A file, how many of its first bytes are proved to have been synced, and whether a start reads them."""

    path: str
    end: int
    latent: bool = False


def _places(disk: SimDisk, data: str, view: DurableLogView) -> list[list[_Place]]:
    """Places of each kind: the log, segments, snapshots, and everything else. The log counts twice."""
    servers = join(data, "servers")
    names = disk.listdir(servers) if disk.exists(servers) else []
    log = [_Place(path, end) for path, end in view.proved() if end > 0]
    segments = [place for name in names for place in _segments(disk, data, Uid(name))]
    snapshots = [place for name in names for place in _snapshots(disk, join(servers, name))]
    return [log, log, segments, snapshots, _small_files(disk, data, names)]


def _small_files(disk: SimDisk, data: str, names: list[str]) -> list[_Place]:
    configs = [f"servers/{name}/config" for name in names]
    fixed = ("meta", f"wal/{MANIFEST}", IDENTITY, f"servers/{TOMBSTONES}")
    places = []
    for path in (join(data, name) for name in (*fixed, *configs)):
        if disk.exists(path):
            size = len(disk.read_file(path))
            places.append(_Place(path, min(size, META_HEAD_SIZE) if path.endswith("meta") else size))
    return places


def _segments(disk: SimDisk, data: str, uid: Uid) -> list[_Place]:
    """The heads and bodies of a server's segments. Their indexes tell the checkers what must be there."""
    directory = segments_directory(data, uid)
    names = disk.listdir(directory) if disk.is_dir(directory) else []
    places = []
    for path in (join(directory, name) for name in names if name.endswith(".segment")):
        content = disk.read_file(path)
        tail = decode_tail(content[-TAIL_SIZE:], len(content))
        places.append(_Place(path, tail.index_offset, latent=True))
    return places


def _snapshots(disk: SimDisk, server: str) -> list[_Place]:
    """The files of a server's snapshots, which a start reads to their ends, and of its checkpoints."""
    places = []
    for folder in (join(server, name) for name in FOLDERS.values()):
        for name in disk.listdir(folder) if disk.is_dir(folder) else []:
            path = join(folder, f"{name}/{FILE}")
            if parse_name(name) is not None and disk.exists(path):
                latent = not folder.endswith(FOLDERS[SnapshotKind.SNAPSHOT])
                places.append(_Place(path, len(disk.read_file(path)), latent))
    return places
