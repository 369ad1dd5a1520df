"""Recovery of a write-ahead log: what to keep, drop or refuse after a restart.

`DECISIONS` is the whole policy: what is found, and where, leads to one action. The code
around it only finds. Format: docs/formats/wal.md.
"""

import enum
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from barque.errors import Damaged
from barque.log import wal_format
from barque.log.disk import Disk, DiskFile, join
from barque.log.memtable import Memtable
from barque.log.wal_files import MANIFEST, file_name, file_number, is_spare
from barque.log.wal_format import (
    FILE_HEAD_SIZE,
    RECORD_ALIGNMENT,
    RECORD_HEAD_SIZE,
    RECORD_MAGIC,
    CleanEnd,
    Damage,
    Ending,
    FileEntry,
    MalformedHead,
    NoRecord,
    Record,
    TornTail,
)
from barque.types import Index, IndexTerm, Uid

_CHUNK = 1 << 20
_NAMES_MAX = 20
ADVICE = (
    "What to do: stop this node and look at the disk. If a good copy of the data directory exists, put "
    "all of it back. Otherwise remove these servers from their clusters, move the data directory aside, "
    "and add them again as new members, so that their peers rebuild them. Do not delete or edit single "
    "files: a server that forgets what it acknowledged can lose data of the whole cluster."
)


Progress: TypeAlias = Callable[[int, int, int], None]
"""Hears bytes done, bytes in all (as far as the files' sizes tell), and entries, each few MiB."""


def say_nothing(done: int, total: int, entries: int) -> None:
    """Report no progress."""


class Finding(enum.Enum):
    """What is in a file, or in its place."""

    RECORD = "a record whose checksum holds"
    GAP = "a good record that does not follow its server's records before"
    OLD_GAP = "such a record of version 1, which does not tell what it follows"
    CLEAN = "zeros, the file's end or an older record, and no later record claims this was synced"
    BROKEN = "no record, and no later record claims that this was synced"
    CLAIMED = "no record, but a later record proves that this was synced"
    BAD_HEAD = "a file without a proper head"
    MISSING = "no such file"


class Place(enum.Enum):
    """Where it is."""

    CLOSED = "before the end of a file that the manifest lists as closed"
    NEWEST = "in the file that the manifest lists as being written"
    RETIRED = "in a file that the manifest does not list, older than its newest"
    UNBORN = "in a file that the manifest does not list, newer than its newest"


class Action(enum.Enum):
    """What recovery does about it."""

    KEEP = "take it"
    END = "the file's content ends here; keep the records before"
    DROP = "forget it; it was never acknowledged, or was retired"
    REFUSE = "do not start"


K, E, D, R = Action.KEEP, Action.END, Action.DROP, Action.REFUSE
_ROWS = {
    #                  CLOSED NEWEST RETIRED UNBORN
    Finding.RECORD: (K, K, D, R),  # an unborn file with records: the manifest is an old one
    Finding.GAP: (K, K, D, R),  # what it follows is in segments, or `reconcile` misses it
    Finding.OLD_GAP: (R, R, D, R),
    Finding.CLEAN: (R, E, D, D),
    Finding.BROKEN: (R, E, D, R),  # in the newest file: a torn tail
    Finding.CLAIMED: (R, R, D, R),
    Finding.BAD_HEAD: (R, R, D, R),  # heads are synced before the file gets its name
    Finding.MISSING: (R, R, D, D),
}
DECISIONS: dict[tuple[Finding, Place], Action] = {
    (finding, place): action
    for finding, actions in _ROWS.items()
    for place, action in zip(Place, actions, strict=True)
}


@dataclass
class RecoveredWal:
    """All that the files held.

    `views` by uid: the entries that follow one another up to the newest, behind their base; `closed` files as
    the next manifest must list them, with the last index of each of their servers in `holds`; `torn` tells
    people which tails were dropped; `blank` are names to recycle.
    """

    views: dict[Uid, Memtable] = field(default_factory=dict)
    closed: dict[int, FileEntry] = field(default_factory=dict)
    holds: dict[int, dict[Uid, Index]] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    next_number: int = 1


class WalReader:
    """Reads one file from its head on, record by record, a chunk at a time."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self.size = file.size()
        self._chunk = b""
        self._chunk_offset = 0
        self.head = wal_format.decode_file_head(self._bytes(0, FILE_HEAD_SIZE))

    def _bytes(self, offset: int, length: int) -> bytes:
        start = offset - self._chunk_offset
        if start < 0 or start + length > len(self._chunk):
            self._chunk = self._file.pread(max(length, _CHUNK), offset)
            self._chunk_offset = offset
            start = 0
        return self._chunk[start : start + length]

    def at(self, offset: int) -> Record | CleanEnd | NoRecord | Damage:
        """What is at `offset`, as far as these bytes alone can tell."""
        found = wal_format.record_length(self._bytes(offset, RECORD_HEAD_SIZE), self.head, offset)
        if not isinstance(found, int):
            return found
        if offset + found > self.size:
            return NoRecord(offset, f"a record of {found} bytes is longer than the file")
        return wal_format.decode_record(self._bytes(offset, found), self.head, offset)

    def later_records(self, offset: int) -> Iterator[Record]:
        """Every good record of this file that begins behind `offset`, wherever it may be."""
        start = offset + RECORD_ALIGNMENT - offset % RECORD_ALIGNMENT
        for chunk_offset in range(start, self.size, _CHUNK):
            # Aligned records in aligned chunks: the magic number never lies across an edge.
            chunk = self._file.pread(_CHUNK, chunk_offset)
            place = chunk.find(RECORD_MAGIC)
            while place >= 0:
                if place % RECORD_ALIGNMENT == 0:
                    record = self.at(chunk_offset + place)
                    if isinstance(record, Record):
                        yield record
                place = chunk.find(RECORD_MAGIC, place + 1)

    def records(self, end: int | None = None) -> Iterator[Record | Ending]:
        """The records in order, then how they end. `end` is a closed file's, if known."""
        offset = FILE_HEAD_SIZE
        while end is None or offset < end:
            found = self.at(offset)
            if not isinstance(found, Record):
                yield self._ending(found, end)
                return
            if end is not None and found.end > end:
                yield Damage(offset, f"a record reaches beyond the end of the file's content, {end}")
                return
            yield found
            offset = found.end
        yield CleanEnd(offset)

    def _ending(self, found: CleanEnd | NoRecord | Damage, end: int | None) -> Ending:
        """Tell a torn tail from damage: by the manifest, or by what later records claim."""
        if isinstance(found, Damage):
            return found
        offset = found.offset
        reason = found.reason if isinstance(found, NoRecord) else "the records stop here"
        if end is not None:
            return Damage(offset, f"{reason}, but the file's content ends at {end}")
        for later in self.later_records(offset):
            if later.synced_to > offset:
                return Damage(
                    offset, f"{reason}, but the record at {later.offset} was written after this was synced"
                )
        return found if isinstance(found, CleanEnd) else TornTail(offset, reason)


def _finding(ending: Ending) -> Finding:
    match ending:
        case CleanEnd():
            return Finding.CLEAN
        case TornTail():
            return Finding.BROKEN
        case Damage():
            return Finding.CLAIMED


class _Recovery:
    """One recovery under way."""

    def __init__(self, disk: Disk, directory: str, tombstones: Container[Uid], progress: Progress) -> None:
        self._disk = disk
        self._directory = directory
        self._tombstones = tombstones
        self._progress = progress
        self._done = self._total = self._entries = 0
        self.result = RecoveredWal()

    def run(self) -> RecoveredWal:
        listed = self._read_manifest()
        newest = listed[-1].number if listed else 0
        names = self._disk.listdir(self._directory)
        self.result.next_number = 1 + max([newest, *(_any_number(name) for name in names)])
        self._total = sum(entry.end for entry in listed)
        for entry in listed:
            self._read_listed(entry)
        numbers = {entry.number for entry in listed}
        for name in names:
            number = file_number(name)
            if number is not None and number not in numbers:
                self._look_at_unlisted(name, Place.RETIRED if number < newest else Place.UNBORN)
            elif is_spare(name):
                self.result.blank.append(name)
            elif name.endswith(".tmp"):
                self._disk.unlink(join(self._directory, name))
        return self.result

    def _read_manifest(self) -> list[FileEntry]:
        path = join(self._directory, MANIFEST)
        try:
            return wal_format.decode_manifest(self._disk.read_file(path))
        except FileNotFoundError:
            raise Damaged(
                f"{path}: the list of write-ahead log files is missing, so nobody can tell whether one of "
                f"them is. Servers concerned: all in this directory. {ADVICE}"
            ) from None
        except MalformedHead as error:
            raise Damaged(
                f"{path}: damaged at offset 0: {error}. Servers concerned: all in this directory. {ADVICE}"
            ) from error

    def _read_listed(self, entry: FileEntry) -> None:
        place = Place.CLOSED if entry.end else Place.NEWEST
        path = join(self._directory, file_name(entry.number))
        holds: dict[Uid, Index] = {}
        if not self._disk.exists(path):
            assert DECISIONS[Finding.MISSING, place] is R
            raise Damaged(
                f"{path}: the file is missing, and the manifest lists it. Servers concerned: any in this "
                f"directory. {ADVICE}"
            )
        file = self._disk.open(path)
        try:
            reader = self._open_reader(file, path, entry.number, place)
            if not entry.end:
                self._total += reader.size  # zeros, too: its records end somewhere before
            end, synced_to = self._read_records(reader, path, entry, place, holds)
            if place is Place.NEWEST:
                _make_durable(file, synced_to, end)
        finally:
            file.close()
        self._done += end
        if end == FILE_HEAD_SIZE:
            self.result.blank.append(file_name(entry.number))
        else:
            self.result.closed[entry.number] = FileEntry(entry.number, end)
            self.result.holds[entry.number] = holds

    def _open_reader(self, file: DiskFile, path: str, number: int, place: Place) -> WalReader:
        problem: object
        try:
            reader = WalReader(file)
            if reader.head.epoch == number:
                return reader
            problem = f"the file says that it is number {reader.head.epoch}: it was renamed or copied"
        except MalformedHead as error:
            problem = error
        assert DECISIONS[Finding.BAD_HEAD, place] is R
        raise Damaged(
            f"{path}: damaged at offset 0: {problem}. Servers concerned: any in this directory. {ADVICE}"
        )

    def _read_records(
        self, reader: WalReader, path: str, entry: FileEntry, place: Place, holds: dict[Uid, Index]
    ) -> tuple[int, int]:
        """Take a file's records; returns where they end, and how much was known to be synced."""
        synced_to = told = FILE_HEAD_SIZE
        for found in reader.records(entry.end or None):
            if isinstance(found, Record):
                synced_to = max(synced_to, found.synced_to)
                if found.uid:
                    holds[found.uid] = found.batches[-1].last_index if found.batches else found.previous_index
                    self._take(found, path, place, reader.head.version)
                if found.end - told >= _CHUNK:
                    told = found.end
                    self._progress(self._done + told, self._total, self._entries)
                continue
            if isinstance(found, CleanEnd) and found.offset == entry.end:
                return entry.end, entry.end
            if DECISIONS[_finding(found), place] is R:
                reason = found.reason if isinstance(found, Damage) else "records are missing"
                concerned = set(holds) | {r.uid for r in reader.later_records(found.offset) if r.uid}
                raise Damaged(_damage_text(path, found.offset, reason, concerned))
            if isinstance(found, TornTail):
                self.result.torn.append(f"{path}: torn tail at offset {found.offset} dropped: {found.reason}")
            return found.offset, synced_to
        raise AssertionError("records always end with an ending")

    def _take(self, record: Record, path: str, place: Place, version: int) -> None:
        """Add a record's batches, replacing the entries that they overwrite (REPL-20).

        A record that does not follow the view's entries begins the view anew: what it follows is in segments.
        A base does so in any case.
        """
        if record.uid in self._tombstones:
            return
        view = self.result.views.get(record.uid)
        if view is None:
            view = self.result.views[record.uid] = Memtable()
        if record.kind == wal_format.BASE:
            assert record.previous_term is not None
            view.reset(IndexTerm(record.previous_index, record.previous_term))
        elif not _follows(record, view):
            if version == 1:
                assert DECISIONS[Finding.OLD_GAP, place] is R
                raise Damaged(
                    _damage_text(
                        path,
                        record.offset,
                        f"entries {record.batches[0].first_index} and on follow {record.previous_index}, but "
                        f"the files before end with {view.next_index() - 1}",
                        {record.uid},
                    )
                )
            assert record.previous_term is not None
            view.reset(IndexTerm(record.previous_index, record.previous_term))
        view.truncate(record.previous_index)
        for batch in record.batches:
            view.append(batch)
            self._entries += batch.count

    def _look_at_unlisted(self, name: str, place: Place) -> None:
        """A file that the manifest does not list: left over by a crash, or the manifest is old."""
        if place is Place.UNBORN:
            path = join(self._directory, name)
            number = file_number(name)
            assert number is not None
            file = self._disk.open(path)
            try:
                reader = self._open_reader(file, path, number, place)
                found = next(reader.records())
            finally:
                file.close()
            finding = Finding.RECORD if isinstance(found, Record) else _finding(found)
            if DECISIONS[finding, place] is R:
                raise Damaged(
                    _damage_text(
                        path,
                        FILE_HEAD_SIZE,
                        f"{finding.value}, in a file that the manifest does not know: "
                        "the manifest is older than the files",
                        {found.uid} if isinstance(found, Record) else set(),
                    )
                )
        self.result.blank.append(name)


def _follows(record: Record, view: Memtable) -> bool:
    """Whether the entry before a record is in the view, or is its base."""
    previous = record.previous_index
    if not view.base().index <= previous <= view.last().index:
        return False
    return record.previous_term in (None, view.fetch_term(previous))


def _any_number(name: str) -> int:
    """The number in the name of a WAL file or spare; 0 for others."""
    return file_number(name.removeprefix("spare-")) or 0


def _make_durable(file: DiskFile, synced_to: int, end: int) -> None:
    """Sync everything below `end` before it counts as recovered.

    What was read may be in the page cache only. Worse, after a failed sync of the former
    process the pages are marked clean, so that a sync alone would write nothing: the part
    that no record proves to be synced is therefore written once more, in place.
    """
    for offset in range(synced_to, end, _CHUNK):
        data = file.pread(min(_CHUNK, end - offset), offset)
        file.pwritev([data], offset, sync=False)
    file.datasync()


def _damage_text(path: str, offset: int, reason: str, uids: set[Uid]) -> str:
    names = sorted(uids)
    shown = ", ".join(names[:_NAMES_MAX]) or "unknown"
    if len(names) > _NAMES_MAX:
        shown += f" and {len(names) - _NAMES_MAX} more"
    return f"{path}: damaged at offset {offset}: {reason}. Servers concerned: {shown}. {ADVICE}"


def recover_wal(
    disk: Disk, directory: str, tombstones: Container[Uid], progress: Progress = say_nothing
) -> RecoveredWal:
    """Read all files of a write-ahead log. Everything in the result is on disk.

    Records of servers in `tombstones` are skipped; `progress` is told of each few MiB. Raises `Damaged`,
    naming file, offset, servers and what to do, where `DECISIONS` says to refuse; `OSError` when the disk
    fails.
    """
    return _Recovery(disk, directory, tombstones, progress).run()
