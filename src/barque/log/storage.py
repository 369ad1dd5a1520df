"""The data directory of one system: opening, recovery, and all that the runtime asks of the disk.

Theory of operation. One directory holds one write-ahead log and one meta file for all servers of a system.

- *Entries* go to a server's memtable at once (`WalLog`), and as batches to the queue of the shared log
  (`Wal`). `flush` writes all queued batches of all servers with one vectored write and one sync (group
  commit), then reports `Written` for each server. A report names what it completes, so a late one can be
  recognised and dropped.
- *Terms and votes* go to the meta store (`MetaStore`). `sync_meta` makes them durable; the runtime releases
  no message that speaks of them before.
- *A failed write or sync* is never retried on the same file: the kernel may have dropped the pages. The log
  stops, its servers hear `WalFailed`, and only a new file, into which all pending entries are written
  again, ends the failure (`WalUp`).
- *Opening* locks the directory, checks whose it is (`identity`), and recovers: `wal_recovery` decides by a
  table whether to keep, drop or refuse what it finds. It drops a torn tail, which was never
  acknowledged; it refuses damage in the middle, and names the file and the offset.

In each turn of the loop the runtime calls `sync_meta` if `meta.pending`, then `flush` if `pending`; about
once a second it calls `tick`. `on_event` takes all events.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from barque.core.messages import LogEvent
from barque.errors import Damaged, StorageError
from barque.log import meta_format, wal_format
from barque.log.background import MakeWorker, ThreadWorker, Worker
from barque.log.disk import Disk, DiskFile, join, remove_temporary, replace_file
from barque.log.disk_guard import DiskGuard, default_limit
from barque.log.flush import SegmentLimits
from barque.log.identity import IDENTITY, Claim, Owner, read_claim, write_identity
from barque.log.linked_copy import make_linked_copy, remove_linked_copy
from barque.log.log import WalLog
from barque.log.memtable import Memtable
from barque.log.meta import META, MetaStore
from barque.log.recovery import (
    WAL,
    RecoveredLog,
    RecoveredLogs,
    recover_logs,
    segments_directory,
    server_directory,
)
from barque.log.segment import SegmentCache
from barque.log.segment_set import SegmentSet
from barque.log.segment_writer import SegmentWriter
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshots import SnapshotStore
from barque.log.wal import FLUSH_BYTES_MAX, Wal
from barque.log.wal_files import MANIFEST, SparePreparer, WalFiles, file_number
from barque.log.wal_recovery import ADVICE, Progress, say_nothing
from barque.log.wal_writer import Clock, MakeWriter, Wake, Writer, WriterKind, choose_writer, measure_sync
from barque.types import Uid

logger = logging.getLogger("barque.storage")

_LOCK = "lock"


_MODULE_PATIENCE_S = 10.0
"""How long a stop waits for a snapshot module at work; no other code of users runs beside the loop."""


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one system keeps its log.

    `disk_free_min_bytes`: the free space below which the node takes no new commands (`auto`: by the sizes
    of log files and disk). `wal_max_size_bytes`: when the next file begins (a larger record gets a
    file of its own). `wal_writer`: where syncs run; `auto` measures the disk. `wal_flush_bytes_max`: the most
    that one write takes. `wal_prefill`: whether a thread zero-fills the next file in advance;
    the simulator says no. `wal_max_entries`: the next file also begins after so many entries.
    `segment_max_entries` and `segment_max_size_bytes`: when a segment file is full (SEG-02).
    `retained_bytes_max`: the most that is kept below a snapshot for followers that continue an older one.
    `readers_bytes_max`: the most that readers of one server's log keep of files that the log has replaced.
    `snapshots`: when snapshots are due.
    """

    wal_max_size_bytes: int = 64 * 1024 * 1024
    wal_max_entries: int | None = None
    segment_max_entries: int = 4096
    segment_max_size_bytes: int = 64_000_000
    retained_bytes_max: int = 256 * 1024 * 1024
    readers_bytes_max: int = 256 * 1024 * 1024
    snapshots: SnapshotConfig = SnapshotConfig()
    wal_writer: WriterKind = "auto"
    wal_flush_bytes_max: int = FLUSH_BYTES_MAX
    wal_prefill: bool = True
    disk_free_min_bytes: int | Literal["auto"] = "auto"


class Storage:
    """The durable state of all servers of one system. Make one with `Storage.open`."""

    def __init__(
        self,
        disk: Disk,
        data_dir: str,
        lock: DiskFile,
        meta: MetaStore,
        wal: Wal,
        files: WalFiles,
        guard: DiskGuard,
        workers: tuple[Worker, Worker, Worker],
        config: StorageConfig,
        cache: SegmentCache,
        open_store: Callable[[str, Uid], SnapshotStore],
    ) -> None:
        self.unclaimed = False
        """Whether the directory is of format 1, and `claim` is still to make it ours."""
        self.meta = meta
        self.guard = guard
        """Says when the disk has too little space for new commands."""
        self._disk = disk
        self._data_dir = data_dir
        self._lock = lock
        self.wal = wal
        # Two, because restoring a large state is one long step, which no flush of a segment must wait for.
        self._workers = workers
        self.beside: tuple[Writer | Worker, ...] = (wal.writer, *workers)
        """What may work in threads. A loop that never sleeps yields to those that are busy."""
        self._files = files
        self._logs: dict[Uid, WalLog] = {}
        self._recovered: set[Uid] = set()
        self._notes: list[str] = []
        self._sync_seconds = 0.0
        self._births = False
        self._cache = cache
        self._retained_bytes_max = config.retained_bytes_max
        self._readers_bytes_max = config.readers_bytes_max
        self._open_store = open_store
        limits = SegmentLimits(config.segment_max_entries, config.segment_max_size_bytes)
        self.segment_writer = SegmentWriter(disk, workers[0], self._logs, limits, wal.retire)
        wal.on_closed = self.segment_writer.add
        self._preparer: SparePreparer | None = None
        wal.continue_flush = self.flush

    @classmethod
    def open(
        cls,
        disk: Disk,
        data_dir: str,
        owner: Owner,
        config: StorageConfig,
        on_event: Callable[[LogEvent], None],
        wake: Wake,
        clock: Clock = time.perf_counter,
        make_writer: MakeWriter = choose_writer,
        make_worker: MakeWorker = ThreadWorker,
        complete: Callable[[], None] = lambda: None,
        progress: Progress = say_nothing,
    ) -> "Storage":
        """Lock the directory; make it if it is new, else recover its contents.

        `on_event` is called on the loop; `wake(fn)` must run `fn` there soon, from any thread;
        `clock` gives seconds and only measures; a simulator makes another writer and worker; `complete` adds
        the files of the layer above to a new directory, before that gets its identity; `progress` hears
        how much of the log is read. Raises
        `ConfigurationError` for a directory of another owner, which is not changed, `Damaged`
        where starting would lose data, and `StorageError` when the disk fails or another process
        holds the directory.
        """
        lock: DiskFile | None = None
        try:
            disk.mkdir(data_dir)
            disk.protect(data_dir)
            lock = disk.lock(join(data_dir, _LOCK))
            claim = read_claim(disk, data_dir, owner)  # before anything else is read
            if claim is Claim.NEW:
                _create(disk, data_dir, owner, complete)
            storage = cls._recover(
                disk,
                data_dir,
                lock,
                config,
                on_event,
                wake,
                clock,
                make_writer,
                make_worker,
                progress,
            )
            storage.unclaimed = claim is Claim.NOBODYS
            return storage
        except BaseException as error:
            if lock is not None:
                lock.close()
            if isinstance(error, OSError):
                raise StorageError(f"{data_dir}: cannot be opened: {error}") from error
            raise

    @classmethod
    def _recover(
        cls,
        disk: Disk,
        data_dir: str,
        lock: DiskFile,
        config: StorageConfig,
        on_event: Callable[[LogEvent], None],
        wake: Wake,
        clock: Clock,
        make_writer: MakeWriter,
        make_worker: MakeWorker,
        progress: Progress,
    ) -> "Storage":
        wal_dir = join(data_dir, WAL)
        cache = SegmentCache(disk)
        workers = (make_worker(wake), make_worker(wake), make_worker(wake))  # flushes, snapshots, modules

        def open_store(directory: str, uid: Uid) -> SnapshotStore:
            return SnapshotStore.open(
                disk, directory, uid, config.snapshots, workers[1], on_event, workers[2]
            )

        for name in (IDENTITY, META):
            remove_temporary(disk, data_dir, name)
        remove_linked_copy(disk, data_dir)
        with contextlib.ExitStack() as opened:  # closed again if anything after it fails
            meta = MetaStore.open(disk, data_dir)
            opened.callback(meta.let_go)
            opened.callback(cache.close)
            for worker in workers:
                opened.callback(worker.close)
            found = recover_logs(disk, data_dir, meta, cache, open_store, progress)
            _check_against_meta(data_dir, meta, found)
            recovered = found.wal
            files = WalFiles(
                disk,
                wal_dir,
                config.wal_max_size_bytes,
                recovered.closed,
                recovered.next_number,
                config.wal_max_entries,
            )
            opened.callback(files.close, sealed=False)
            # Names that are spares already may be used for the new file; others only when the
            # manifest that `start_next` writes no longer lists them.
            spares = [name for name in recovered.blank if file_number(name) is None]
            for name in spares:
                files.recycle(name)
            files.start_next()
            for name in recovered.blank:
                if file_number(name) is not None:
                    files.recycle(name)
            files.trim()  # now that the manifest says where each file ends
            sync_seconds = measure_sync(disk, wal_dir, clock)
            guard = _make_guard(disk, data_dir, config)
            opened.pop_all()
        writer = make_writer(config.wal_writer, sync_seconds, wake)
        wal = Wal(files, writer, on_event, clock, config.wal_flush_bytes_max)
        storage = cls(disk, data_dir, lock, meta, wal, files, guard, workers, config, cache, open_store)
        storage._sync_seconds = sync_seconds
        storage._notes = recovered.torn
        for uid, log in found.logs.items():
            storage._adopt(uid, log)
        storage._recovered = set(found.logs)
        for number, holds in recovered.holds.items():
            storage.segment_writer.add(number, holds)
        if config.wal_prefill:
            storage._preparer = SparePreparer(disk, wal_dir, config.wal_max_size_bytes)
            storage._look_after_spares(-math.inf)
        return storage

    def claim(self, owner: Owner) -> None:
        """Make a directory of format 1 this node's, when its contents have been checked. Raises `OSError`."""
        write_identity(self._disk, self._data_dir, owner)
        self.unclaimed = False

    def log(self, uid: Uid) -> WalLog:
        """The log of this server, recovered or new. Raises `StorageError` for a deleted one."""
        log = self._logs.get(uid)
        if log is None:
            if self.meta.is_deleted(uid):
                raise StorageError(f"server {uid} was deleted, and a uid is never used again")
            if self.meta.read(uid) is None:
                self.meta.register(uid)
                self._births = True
            segments = SegmentSet(self._disk, segments_directory(self._data_dir, uid), uid, self._cache)
            snapshots = self._open_store(server_directory(self._data_dir, uid), uid)
            log = self._adopt(uid, RecoveredLog(snapshots, segments, Memtable(older=segments)))
        return log

    def _adopt(self, uid: Uid, found: RecoveredLog) -> WalLog:
        log = WalLog(uid, self.wal, found.memtable, found.segments, found.snapshots)
        log.retained_bytes_max = self._retained_bytes_max
        log.segments.holds.bytes_max = self._readers_bytes_max
        self._logs[uid] = log
        return log

    def recovered_uids(self) -> set[Uid]:
        """The servers found at opening, without the servers deleted since."""
        return self._recovered

    def delete(self, uid: Uid) -> None:
        """Delete a server's entries and record; durable when this returns. Raises `StorageError`."""
        self.meta.delete(uid)
        self.meta.sync()
        self.wal.forget(uid)
        log = self._logs.pop(uid, None)
        if log is not None:
            log.snapshots.close()
            log.segments.end_lease()
        self._recovered.discard(uid)
        self.segment_writer.due = True

    @property
    def pending(self) -> bool:
        """Whether `flush` has something to do; for `sync_meta`, ask `meta.pending`.

        False while the log has failed: a loop that waits for it must not spin.
        """
        return self.wal.pending

    def flush(self) -> None:
        """Write and sync the log, or start to; reports through `on_event`. Never raises.

        Up to `wal_flush_bytes_max` at a time: look at `pending` again each turn.
        """
        if self._births and not self.wal.busy:
            # Entries of a server without a meta record would look like a lost meta file.
            try:
                self.meta.sync()
                self._births = False
            except StorageError as error:
                self.wal.fail(error)
                return
        if self.segment_writer.due:
            self.segment_writer.step()
        self.wal.flush()

    def make_linked_copy(self) -> str | None:
        """Make a copy of this directory by links, as of now; its path, or None if that cannot be done now.

        For a backup of a running node (`linked_copy`). Raises `StorageError`.
        """
        try:
            if self.meta.pending or self._births:
                self.sync_meta()
            if not self.wal.roll_over():
                return None
            closed = self._files.closed()
            self._files.linked = {entry.number for entry in closed}
            return make_linked_copy(self._disk, self._data_dir, closed, self.meta.content(self._disk.salt()))
        except OSError as error:
            raise StorageError(f"{self._data_dir}: cannot be copied: {error}") from error

    def remove_linked_copy(self) -> None:
        """Remove the copy. Raises `StorageError`."""
        try:
            remove_linked_copy(self._disk, self._data_dir)
            self._files.linked.clear()
        except OSError as error:
            raise StorageError(f"{self._data_dir}: the copy cannot be removed: {error}") from error

    def sync_meta(self) -> None:
        """Make terms and votes durable. After a `StorageError` no message may speak of them."""
        self.meta.sync()
        self._births = False

    def tick(self, now_monotonic: float) -> None:
        """Retry and tidy up, about once a second. `now_monotonic` is in seconds."""
        if self.guard.look():
            logger.log(*_news_of(self.guard))
        with contextlib.suppress(StorageError):  # tried again by the next `sync_meta` or tick
            self.meta.tick(now_monotonic)
        self.segment_writer.tick()
        if self.wal.busy:
            return
        if not self.wal.accepting:
            with contextlib.suppress(StorageError):
                if self.meta.pending:
                    self.sync_meta()
                self.wal.try_reopen(self._resubmit)
            return
        self.wal.mark()
        if not self.wal.busy:
            self._look_after_spares(now_monotonic)

    def _look_after_spares(self, now: float) -> None:
        """Prepare a spare file where there is room for one; give them all back where space is short."""
        ready = self._preparer.poll(now) if self._preparer is not None else None
        if ready is not None:
            self._files.spares.append(ready)
        if self.guard.full:
            with contextlib.suppress(OSError):  # tried again by the next tick
                self._files.drop_spares()
        elif (
            self._preparer is not None
            and not self._files.spares
            and self.guard.has_room_for(self._files.max_size_bytes)
            and self._preparer.may_begin(now)
        ):
            self._preparer.prepare(self._files.take_number())

    def _resubmit(self) -> None:
        for log in self._logs.values():
            log.resubmit()

    def overview(self) -> dict[str, Any]:
        """Facts for an operator. Sizes in bytes, times in seconds."""
        return {
            "data_dir": self._data_dir,
            "sync_seconds_measured": self._sync_seconds,
            **self.wal.overview(),
            "recovery_notes": [
                *self._notes,
                *(n for log in self._logs.values() for n in log.snapshots.notes),
            ],
            "servers": len(self._logs),
            **self.guard.overview(),
            "wal": self.wal.counters(),
            "segment_writer": self.segment_writer.overview(),
            "open_segments": self._cache.files,
            "read_cache_bytes": self._cache.batches.size_bytes,
            "read_cache_hits": self._cache.batches.hits,
            "memory_bytes": sum(log.memory_bytes for log in self._logs.values()),
            "segment_bytes": sum(log.segments.size_bytes for log in self._logs.values()),
            "meta": self.meta.overview(),
        }

    def close(self) -> None:
        """Stop, and leave files in which damage cannot pass for a torn tail.

        What was not flushed was not acknowledged, and is not written. Raises `StorageError`;
        the directory is unlocked in any case.
        """
        try:
            for log in self._logs.values():
                log.snapshots.close()
                log.segments.holds.end_all("the node has stopped")
            with contextlib.ExitStack() as rest:  # each of them, whatever becomes of the others
                rest.callback(self._lock.close)
                rest.callback(self.meta.close)
                rest.callback(self.wal.close)
                rest.callback(self._cache.close)
                *own, of_modules = self._workers
                rest.callback(of_modules.close, _MODULE_PATIENCE_S)
                for worker in own:
                    rest.callback(worker.close)
                if self._preparer is not None:
                    self._preparer.close()
        except OSError as error:
            raise StorageError(f"{self._data_dir}: cannot be closed properly: {error}") from error


def _make_guard(disk: Disk, data_dir: str, config: StorageConfig) -> DiskGuard:
    """The guard of this directory; it has looked once."""
    limit = config.disk_free_min_bytes
    if limit == "auto":
        limit = default_limit(config.wal_max_size_bytes, disk.total_bytes(data_dir))
    guard = DiskGuard(disk, data_dir, limit)
    if guard.look():
        logger.log(*_news_of(guard))
    return guard


def _news_of(guard: DiskGuard) -> tuple[int, str]:
    """The line in the log when commands are refused, or taken again."""
    if guard.full:
        return logging.WARNING, guard.reason()
    return logging.INFO, f"{guard.free_bytes} bytes are free: commands are taken again"


def _create(disk: Disk, data_dir: str, owner: Owner, complete: Callable[[], None]) -> None:
    """Make a new data directory. `identity` comes last: with it, everything else must exist.

    A crash on the way leaves only empty files, which are made anew; anything that holds data
    without an identity has lost it, and is not taken for new.
    """
    wal_dir, meta_path = join(data_dir, WAL), join(data_dir, META)
    names = disk.listdir(wal_dir) if disk.exists(wal_dir) else []
    has_files = any(file_number(name) is not None for name in names)
    has_meta = disk.exists(meta_path) and len(disk.read_file(meta_path)) > meta_format.HEAD_SIZE
    if has_files or has_meta:
        raise Damaged(
            f"{join(data_dir, IDENTITY)}: missing, in a directory that holds data. Servers concerned: all in "
            f"this directory. {ADVICE}"
        )
    disk.mkdir(wal_dir)
    replace_file(disk, wal_dir, MANIFEST, wal_format.encode_manifest(()))
    MetaStore.create(disk, data_dir)
    complete()
    write_identity(disk, data_dir, owner)


def _check_against_meta(data_dir: str, meta: MetaStore, recovered: RecoveredLogs) -> None:
    """Compare the two halves of what each server had on disk.

    A server with entries had a durable meta record before its first one; and it has applied nothing, as its
    record says, that was not in its log.
    """
    lost = sorted(
        uid for uid, log in recovered.logs.items() if log.memtable.last().index and meta.read(uid) is None
    )
    if lost:
        raise Damaged(
            f"{join(data_dir, META)}: holds no term and vote for servers that have entries: it is an older "
            f"file, or records are lost. Servers concerned: {', '.join(lost[:20])}. {ADVICE}"
        )
    for uid in sorted(meta.uids()):
        record, log = meta.read(uid), recovered.logs.get(uid)
        last = log.memtable.last().index if log is not None else 0
        if record is not None and record.last_applied > last:
            raise Damaged(
                f"{join(data_dir, WAL)}: the log ends with entry {last}, but {join(data_dir, META)} says "
                f"that entry {record.last_applied} was applied: the log has lost its end, or one is an "
                f"older copy. Servers concerned: {uid}. {ADVICE}"
            )
