"""Bit rot and misdirected writes on the disk of a node that is down, and what the node must do about them.

A node whose files were changed while it was down must either refuse to start, with `Damaged` and the file's
name, or have lost nothing (the changed bytes meant nothing). Only bytes change that later bytes prove to have
been synced: damage to the very last record looks like a torn tail (docs/formats/wal.md).
"""

import random

from barque.errors import Damaged
from barque.log.disk import join
from barque.log.identity import IDENTITY
from barque.log.memtable import Memtable
from barque.log.meta_format import HEAD_SIZE as META_HEAD_SIZE
from barque.log.recovery import segments_directory
from barque.log.segment_format import encode_head
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

    def __init__(self, disk: SimDisk, data: str, path: str, before: bytes, last: dict[Uid, Terms]) -> None:
        self.path = path
        self._disk = disk
        self._data = data
        self._before = before
        self._last = last

    def mend(self) -> None:
        """Restore the file, as an operator with a good copy would."""
        self._disk.set_content(self.path, self._before)

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


def change_bytes(
    disk: SimDisk, data: str, uids: list[Uid], view: DurableLogView, chance: random.Random
) -> BitRot | None:
    """Change some durable bytes; return None if there are none that may be changed."""
    logs = {uid: view.from_scratch(uid) for uid in uids}
    places = [(path, end) for path, end in _places(disk, data, view) if end > 0]
    if not places:
        return None
    path, end = chance.choice(places)
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
    return BitRot(disk, data, path, before, terms)


def _terms(log: Memtable) -> Terms:
    found = {index: log.fetch_term(Index(index)) for index in range(1, log.last().index + 1)}
    return {index: term for index, term in found.items() if term is not None}


def _places(disk: SimDisk, data: str, view: DurableLogView) -> list[tuple[str, int]]:
    """Files, each with the number of bytes that are proved to have been synced."""
    places = []
    servers = join(data, "servers")
    names = disk.listdir(servers) if disk.exists(servers) else []
    configs = [join(servers, f"{name}/config") for name in names]
    fixed = [join(data, name) for name in ("meta", f"wal/{MANIFEST}", IDENTITY, f"servers/{TOMBSTONES}")]
    for path in (*fixed, *configs):
        if disk.exists(path):
            size = len(disk.read_file(path))
            places.append((path, min(size, META_HEAD_SIZE) if path.endswith("meta") else size))
    return places + view.proved() + [place for name in names for place in _segments(disk, data, Uid(name))]


def _segments(disk: SimDisk, data: str, uid: Uid) -> list[tuple[str, int]]:
    """The heads of a server's segments: a start reads them. The rest is checked when it is read."""
    directory = segments_directory(data, uid)
    names = disk.listdir(directory) if disk.is_dir(directory) else []
    return [(join(directory, name), len(encode_head(uid))) for name in names if name.endswith(".segment")]
