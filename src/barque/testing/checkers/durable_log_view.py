"""What a disk holds for certain, read again and again: each look reads only what is new.

To recover a whole disk for each look took a quarter of a run. Between two looks, files nearly always only
grow. So a view keeps what it has read, together with the very bytes that it was read from. While these bytes
are still the beginning of the file, the view reads on behind them. Otherwise, and once in `SCRATCH_EVERY`
looks anyway, production's recovery recovers a copy of the disk from scratch.
"""

from barque.log import wal_format
from barque.log.disk import join
from barque.log.memtable import Memtable
from barque.log.meta import META, MetaStore
from barque.log.wal_files import MANIFEST, file_name
from barque.log.wal_format import FILE_HEAD_SIZE, RECORD_HEAD_SIZE, FileEntry, Record
from barque.log.wal_recovery import recover_wal
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


class DurableLogView:
    """Watches one disk's write-ahead log, as it would be after a loss of power."""

    def __init__(self, disk: SimDisk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._seen: list[_Seen] = []
        self._memtables: dict[Uid, Memtable] = {}
        self._held: dict[Uid, Memtable] | None = None
        self.looks = 0
        self.scratches = 0

    def log(self, uid: Uid) -> Memtable:
        """The log that this server would have after a loss of power now."""
        self.looks += 1
        if self._held is not None:
            return self._held.get(uid) or Memtable()
        if self.looks % SCRATCH_EVERY:
            try:
                self._catch_up()
                return self._memtables.get(uid) or Memtable()
            except _OddError:
                self._seen, self._memtables = [], {}
        return self.from_scratch(uid)

    def from_scratch(self, uid: Uid) -> Memtable:
        """The same, from production's recovery of a copy of the disk."""
        self.scratches += 1
        return self._recovered().get(uid) or Memtable()

    def _recovered(self) -> dict[Uid, Memtable]:
        """The logs of all servers that were not deleted: files with deleted servers only may be gone."""
        disk = self._disk.survivor()
        if not disk.exists(join(self._directory, MANIFEST)):
            return {}
        data = self._directory.rpartition("/")[0]
        meta = MetaStore.open(disk, data) if disk.exists(join(data, META)) else None
        return recover_wal(disk, self._directory, meta.tombstones if meta is not None else ()).memtables

    def hold(self) -> None:
        """Keep the present logs, and read nothing until `release`: the disk is about to be damaged."""
        self._held = self._recovered()

    def release(self) -> None:
        """Read the disk again."""
        self._held = None
        self._seen, self._memtables = [], {}

    def proved(self) -> list[tuple[str, int]]:
        """The files with entries, each with how many of its first bytes are known to be synced."""
        try:
            self._catch_up()
        except _OddError:
            return []
        return [(join(self._directory, file_name(seen.number)), seen.proved) for seen in self._seen]

    def _catch_up(self) -> None:
        manifest = self._disk.durable(join(self._directory, MANIFEST))
        files = [] if manifest is None else wal_format.decode_manifest(bytes(manifest))
        if len(files) < len(self._seen):
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
            self._read_on(seen, data, entry, newest=place == len(files) - 1)

    def _read_on(self, seen: _Seen, data: bytearray, entry: FileEntry, *, newest: bool) -> None:
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
            self._take(record)
            seen.prefix += piece
            seen.proved = max(seen.proved, record.synced_to, entry.end)
            offset += length

    def _take(self, record: Record) -> None:
        if not record.batches:
            return
        memtable = self._memtables.setdefault(record.uid, Memtable())
        if record.batches[0].first_index > memtable.next_index():
            raise _OddError
        memtable.truncate(record.batches[0].first_index - 1)
        for batch in record.batches:
            memtable.append(batch)
