"""What a disk holds for certain, read again and again: each look reads only what is new.

To recover a whole disk for each look took a quarter of a run. Between two looks, files nearly always only
grow. So a view keeps what it has read, together with the very bytes that it was read from. While these bytes
are still the beginning of the file, the view reads on behind them. Otherwise (as when a file has gone, since
segments hold its entries), and once in `SCRATCH_EVERY` looks anyway, production's recovery recovers a copy of
the disk from scratch.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

from barque.log import wal_format
from barque.log.background import InlineWorker
from barque.log.disk import join
from barque.log.memtable import Memtable
from barque.log.meta import META, MetaStore
from barque.log.recovery import WAL, recover_logs
from barque.log.segment import SegmentCache
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshots import SnapshotStore
from barque.log.wal_files import MANIFEST, file_name
from barque.log.wal_format import FILE_HEAD_SIZE, RECORD_HEAD_SIZE, FileEntry, Record
from barque.testing.sim.disk import SimDisk
from barque.types import Uid

SCRATCH_EVERY = 20


class _Seen:
    """One file: its number, and the bytes that were read and decoded."""

    def __init__(self, number: int, head: bytes) -> None:
        self.number = number
        self.prefix = bytearray(head)
        self.proved = 0  # how many bytes a later record or the manifest proves to be synced
        self.head = wal_format.decode_file_head(head)


class _OddError(Exception):
    """Something that only a recovery from scratch can judge."""


def _open_store(disk: SimDisk, directory: str, uid: Uid) -> SnapshotStore:
    """Open the snapshots of a server. Nothing is written and nothing reported."""
    worker = InlineWorker(at_once=False)
    return SnapshotStore.open(disk, directory, uid, SnapshotConfig(), worker, lambda _event: None)


class DurableLogView:
    """Watches one data directory: the logs in it, as they would be after a loss of power."""

    def __init__(self, disk: SimDisk, data_dir: str) -> None:
        self._disk = disk
        self._data_dir = data_dir
        self._directory = join(data_dir, WAL)
        self._seen: list[_Seen] = []
        self._logs: dict[Uid, Memtable] = {}
        self._held: dict[Uid, Memtable] | None = None
        self.looks = 0
        self.scratches = 0

    def log(self, uid: Uid) -> Memtable:
        """The log that this server would have after a loss of power now."""
        self.looks += 1
        if self._held is not None:
            return self._held.get(uid, Memtable())
        if self.looks % SCRATCH_EVERY:
            self._catch_up()
            return self._logs.get(uid, Memtable())
        return self.from_scratch(uid)

    def from_scratch(self, uid: Uid) -> Memtable:
        """The same, from production's recovery of a copy of the disk."""
        self.scratches += 1
        return self._recovered().get(uid, Memtable())

    def _recovered(self) -> dict[Uid, Memtable]:
        """The logs of all servers that were not deleted: files with deleted servers only may be gone."""
        disk = self._disk.survivor()
        if not disk.exists(join(self._directory, MANIFEST)):
            return {}
        meta = MetaStore.open(disk, self._data_dir) if disk.exists(join(self._data_dir, META)) else None
        found = recover_logs(disk, self._data_dir, meta, SegmentCache(disk), partial(_open_store, disk)).logs
        return {uid: log.memtable for uid, log in found.items()}

    def hold(self) -> None:
        """Keep the present logs, and read nothing until `release`: the disk is about to be damaged."""
        self._held = self._recovered()

    def release(self) -> None:
        """Read the disk again."""
        self._held = None
        self._seen, self._logs = [], {}

    def proved(self) -> list[tuple[str, int]]:
        """The files with entries, each with how many of its first bytes are known to be synced."""
        self._catch_up()
        return [(join(self._directory, file_name(seen.number)), seen.proved) for seen in self._seen]

    def _catch_up(self) -> None:
        """Read what is new; or everything, if more than that has changed."""
        try:
            self._look(take=True)
        except _OddError:
            self.scratches += 1
            self._seen, self._logs = [], self._recovered()
            with contextlib.suppress(_OddError):  # then the next look recovers again
                self._look(take=False)

    def _look(self, *, take: bool) -> None:
        manifest = self._disk.durable(join(self._directory, MANIFEST))
        files = [] if manifest is None else wal_format.decode_manifest(bytes(manifest))
        if len(files) < len(self._seen) or (files and files[0].number > 1 and not self._seen and take):
            raise _OddError
        for place, entry in enumerate(files):
            data = self._disk.durable(join(self._directory, file_name(entry.number)))
            if data is None:
                raise _OddError
            if place == len(self._seen):
                self._seen.append(_Seen(entry.number, bytes(data[:FILE_HEAD_SIZE])))
            seen = self._seen[place]
            if seen.number != entry.number or not data.startswith(seen.prefix):
                raise _OddError
            for record in self._read_on(seen, data, entry, newest=place == len(files) - 1):
                if take:
                    self._take(record)

    @staticmethod
    def _read_on(seen: _Seen, data: bytearray, entry: FileEntry, *, newest: bool) -> Iterator[Record]:
        offset = len(seen.prefix)
        if entry.end and offset > entry.end:
            raise _OddError
        while not entry.end or offset < entry.end:
            front = bytes(data[offset : offset + RECORD_HEAD_SIZE])
            length = wal_format.record_length(front, seen.head, offset)
            if isinstance(length, wal_format.CleanEnd) and newest and not entry.end:
                return
            if not isinstance(length, int) or (entry.end and offset + length > entry.end):
                raise _OddError
            piece = bytes(data[offset : offset + length])
            record = wal_format.decode_record(piece, seen.head, offset) if len(piece) == length else None
            if not isinstance(record, Record):
                raise _OddError
            yield record
            seen.prefix += piece
            seen.proved = max(seen.proved, record.synced_to, entry.end)
            offset += length

    def _take(self, record: Record) -> None:
        if not record.uid:
            return
        if record.kind == wal_format.BASE:
            raise _OddError
        log = self._logs.setdefault(record.uid, Memtable())
        previous = record.previous_index
        if previous < log.base().index or log.fetch_term(previous) != record.previous_term:
            raise _OddError
        log.truncate(previous)
        for batch in record.batches:
            log.append(batch)
