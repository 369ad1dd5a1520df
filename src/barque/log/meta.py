"""The meta store: (current term, vote) of each server as one durable record, and last applied.

Nothing may speak of a term or a vote before `sync` has returned. The file only grows, and is
replaced by a small new one when most of it is history, at each start, and after a failure:
bytes behind a torn tail or a failed sync are never trusted.
"""

from collections.abc import Iterator
from typing import Any

from barque.errors import Damaged, StorageError
from barque.log import meta_format
from barque.log.disk import Disk, DiskFile, join, replace_file
from barque.log.meta_format import HEAD_SIZE, MetaHead, MetaLine, MetaRecord
from barque.log.wal_format import Damage, MalformedHead, TornTail
from barque.types import Index, ServerId, Term, Uid

META = "meta"
REWRITE_SIZE_MIN = 1 << 20
"""A file below this size is not worth replacing."""

VOTE_NAME_MAX = 1_000
"""A longer name of a candidate may not fit into a record. It fails its own server, not the sync of all."""

LAZY_SECONDS = 5.0
"""How long `last_applied` may wait for a sync of its own."""

ADVICE = (
    "What to do: a server that forgets its vote can vote twice and lose data, so nothing was started. Put "
    "back a good copy of the whole data directory, or remove its servers from their clusters, move the "
    "directory aside, and add them again as new members."
)
_NEW = MetaRecord(Term(0), None, Index(0))


class MetaStore:
    """The meta records of all servers of a system. Values are in memory; `sync` makes them durable."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._path = join(directory, META)
        self._records: dict[Uid, MetaRecord] = {}
        self._tombstones: set[Uid] = set()
        self._urgent: dict[Uid, None] = {}  # ordered, so that equal runs write equal bytes
        self._lazy: dict[Uid, None] = {}
        self._file: DiskFile | None = None
        self._salt = 0
        self._end = 0
        self._live_bytes = 0
        self._marked_to = 0
        self._broken = False
        self._lazy_since: float | None = None
        self._syncs = 0
        self._rewrites = 0

    @classmethod
    def create(cls, disk: Disk, directory: str) -> None:
        """Put an empty meta file into a new data directory."""
        head = MetaHead(disk.salt(), HEAD_SIZE)
        replace_file(disk, directory, META, meta_format.encode_head(head))

    @classmethod
    def open(cls, disk: Disk, directory: str) -> "MetaStore":
        """Read the file, which must exist, and replace it by a fresh one.

        Raises `Damaged`; `OSError` when the disk fails.
        """
        store = cls(disk, directory)
        try:
            data = disk.read_file(store._path)
        except FileNotFoundError:
            raise Damaged(
                f"{store._path}: the file with all terms and votes is missing. Servers concerned: all in "
                f"this directory. {ADVICE}"
            ) from None
        for line in store._read(data):
            if line.record is None:
                store._records.pop(line.uid, None)
                store._tombstones.add(line.uid)
            else:
                store._records[line.uid] = line.record
        store._rewrite()
        return store

    def _read(self, data: bytes) -> Iterator[MetaLine]:
        try:
            head = meta_format.decode_head(data)
        except MalformedHead as error:
            raise Damaged(
                f"{self._path}: damaged at offset 0: {error}. Servers concerned: all in this directory. "
                f"{ADVICE}"
            ) from error
        seen: set[Uid] = set()
        for found in meta_format.read_lines(data, head):
            if isinstance(found, MetaLine):
                seen.add(found.uid)
                yield found
            elif isinstance(found, Damage):
                names = ", ".join(sorted(seen)[:20]) or "unknown"
                raise Damaged(
                    f"{self._path}: damaged at offset {found.offset}: {found.reason}. Servers concerned: "
                    f"those written there, and perhaps {names}. {ADVICE}"
                )
            else:
                assert not isinstance(found, TornTail) or found.offset >= head.base_end

    def read(self, uid: Uid) -> MetaRecord | None:
        """The newest record of this server, synced or not; None if it has none."""
        return self._records.get(uid)

    def uids(self) -> set[Uid]:
        """The servers that have a record."""
        return set(self._records)

    def is_deleted(self, uid: Uid) -> bool:
        """Whether a tombstone says that this server was deleted."""
        return uid in self._tombstones

    @property
    def tombstones(self) -> set[Uid]:
        """The deleted servers."""
        return self._tombstones

    @property
    def pending(self) -> bool:
        """Whether a term, vote or tombstone waits for `sync`."""
        return bool(self._urgent)

    def register(self, uid: Uid) -> None:
        """Give a new server its first record; that must be durable before its first entry is."""
        if uid not in self._records:
            self._put(uid, _NEW)

    def store(self, uid: Uid, term: Term, voted_for: ServerId | None) -> None:
        """Set term and vote as one record; they count once `sync` has returned.

        Raises `ValueError` for a vote that no record can hold.
        """
        if voted_for is not None and max(map(len, (voted_for.name, voted_for.node))) > VOTE_NAME_MAX:
            raise ValueError(f"a vote for a server with a name of more than {VOTE_NAME_MAX} characters")
        old = self._records.get(uid, _NEW)
        assert term >= old.current_term, (uid, term, old)
        if old.current_term != term or old.voted_for != voted_for or uid not in self._records:
            self._put(uid, MetaRecord(term, voted_for, old.last_applied))

    def _put(self, uid: Uid, record: MetaRecord) -> None:
        assert uid not in self._tombstones, f"{uid} is deleted, and a uid is never used again"
        self._records[uid] = record
        self._urgent[uid] = None

    def store_last_applied(self, uid: Uid, index: Index) -> None:
        """Note how far the machine has got; written with the next sync, or within 5 seconds."""
        old = self._records.get(uid)
        if old is not None and old.last_applied != index:
            self._records[uid] = MetaRecord(old.current_term, old.voted_for, index)
            self._lazy[uid] = None

    def delete(self, uid: Uid) -> None:
        """Replace the record by a tombstone; it counts once `sync` has returned."""
        self._records.pop(uid, None)
        self._tombstones.add(uid)
        self._lazy.pop(uid, None)
        self._urgent[uid] = None

    def sync(self) -> None:
        """Make everything stored so far durable.

        Raises `StorageError` when the disk refuses: then nothing stored since the last sync
        may be relied on, and the next call writes all of it to a new file.
        """
        if not self._urgent and not self._lazy:
            return
        try:
            if self._broken or (
                self._end > REWRITE_SIZE_MIN and self._end > 4 * max(self._live_bytes, HEAD_SIZE)
            ):
                self._rewrite()
            else:
                self._append()
        except OSError as error:
            self._broken = True
            raise StorageError(f"{self._path}: term and vote cannot be written: {error}") from error

    def _append(self) -> None:
        assert self._file is not None
        lines = []
        offset = self._end
        for uid in {**self._urgent, **self._lazy}:
            line = meta_format.encode_line(self._salt, offset, self._end, uid, self._records.get(uid))
            offset += len(line)
            lines.append(line)
        self._file.pwritev(lines, self._end, sync=True)
        self._end = offset
        self._clean()

    def _clean(self) -> None:
        self._urgent.clear()
        self._lazy.clear()
        self._lazy_since = None
        self._syncs += 1

    def _rewrite(self) -> None:
        """Replace the file by one that holds the newest record of each server only."""
        salt = self._disk.salt()
        content = self.content(salt)
        offset = len(content)
        # From here on the old file may already be replaced, so it must not be appended to.
        self._broken = True
        replace_file(self._disk, self._directory, META, content)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._file = self._disk.open(self._path)
        self._salt = salt
        self._end = self._live_bytes = self._marked_to = offset
        self._broken = False
        self._rewrites += 1
        self._clean()

    def content(self, salt: int) -> bytes:
        """A whole file that holds the newest record of each server only."""
        lines = []
        offset = HEAD_SIZE
        for uid, record in [*self._records.items(), *((uid, None) for uid in sorted(self._tombstones))]:
            line = meta_format.encode_line(salt, offset, HEAD_SIZE, uid, record)
            offset += len(line)
            lines.append(line)
        return meta_format.encode_head(MetaHead(salt, offset)) + b"".join(lines)

    def tick(self, now: float) -> None:
        """Write the records that may wait, and prove the last ones synced. `now` is in seconds, monotonic.

        Raises `StorageError` as `sync` does.
        """
        if self._lazy and self._lazy_since is None:
            self._lazy_since = now
        elif self._lazy_since is not None and now - self._lazy_since >= LAZY_SECONDS:
            self.sync()
        if self._end != self._marked_to and not self._urgent and not self._broken and self._records:
            # A record behind the last one says that the last one was synced: then damage in it
            # cannot pass for a torn tail, which would forget a vote.
            self._lazy[next(reversed(self._records))] = None
            self.sync()
            self._marked_to = self._end

    def overview(self) -> dict[str, Any]:
        """Facts for an operator. Sizes in bytes."""
        return {
            "servers": len(self._records),
            "tombstones": len(self._tombstones),
            "size_bytes": self._end,
            "syncs": self._syncs,
            "rewrites": self._rewrites,
            "failed": self._broken,
        }

    def close(self) -> None:
        """Write pending records, replace the file, so that all of it is proved synced, and close it."""
        try:
            if not self._broken:
                self._rewrite()
        except OSError as error:
            raise StorageError(f"{self._path}: term and vote cannot be written: {error}") from error
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the file without writing anything."""
        if self._file is not None:
            self._file.close()
            self._file = None
