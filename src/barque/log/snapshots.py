"""The snapshots and checkpoints of one server (`core.log_contract.Snapshots`).

Theory of operation. A *snapshot* stands for the log up to its position, which the log then may drop. A
*checkpoint* is the same file beside a log that keeps its entries: a faster start, or a later snapshot. An
orderly stop may write one more, the *recovery checkpoint*.

- *Making.* The core asks `wants`, captures the state, and calls `begin`. A job of the worker writes the
  capture in pieces (`snapshot_files`); the file has its name only when all of it is on disk. The end of the
  job comes back to the loop and names the job. Then the newest snapshot becomes `current`, and another job
  removes what it replaces. Nothing depends on the order in which jobs end: a snapshot that is older than the
  current one is removed, and reported as failed.
- *Opening* removes leftovers, then takes the newest snapshot whose every byte is right. A damaged one is
  skipped and reported, and stays on the disk until a newer one is there. Whether the log goes on behind the
  snapshot is for the log to say. A file of a later release stops the start.
- *Failures* change nothing: the directory is removed, the core hears of it, and after a while the machine
  asks again. The log keeps its entries meanwhile.
- *Sending* and *receiving* are in `snapshot_transfer`; a snapshot that could not be sent is looked at again
  (`snapshot_check`).
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from barque.core.entries import EntryBatch
from barque.core.log_contract import Capture, Log, Restore, SnapshotKind, SnapshotMeta
from barque.core.messages import AcceptFailed, LogEvent, SnapshotAccepted, SnapshotFailed, SnapshotWritten
from barque.errors import Damaged, StorageError
from barque.log import snapshot_files as files
from barque.log.background import Job, Worker
from barque.log.checkpoint_thinning import checkpoint_to_drop
from barque.log.disk import Disk, join
from barque.log.lease import Lease
from barque.log.module_files import compatible, state_path
from barque.log.module_transfer import OutgoingModule
from barque.log.snapshot_check import SnapshotCheck, check_job
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshot_files import FOLDERS, Kept
from barque.log.snapshot_format import (
    LaterFormat,
    MalformedSnapshot,
    Range,
    read_state,
    snapshot_name,
)
from barque.log.snapshot_transfer import Incoming, OutgoingSnapshot
from barque.machine.snapshot_module import BoundModule, ModuleCapture
from barque.types import Index, IndexTerm, Uid

logger = logging.getLogger("barque.storage")

_SNAPSHOT, _CHECKPOINT, _RECOVERY = SnapshotKind.SNAPSHOT, SnapshotKind.CHECKPOINT, SnapshotKind.RECOVERY


class Survivors(Protocol):
    """What the store needs of the log beside it."""

    def last_written(self) -> IndexTerm:
        """The last entry known to be on disk."""

    def read_sparse(self, indexes: Sequence[Index]) -> list[EntryBatch]:
        """The entries at these indexes, also below the snapshot; those that are not there are left out."""

    def bytes_appended(self) -> int:
        """How many bytes of entries this process has added to the log."""


class _Writing:
    """One snapshot or checkpoint that is being written, or promoted: then it is the checkpoint's."""

    __slots__ = ("position", "promoted", "stopped")

    def __init__(self, position: IndexTerm, promoted: Kept | None) -> None:
        self.position = position
        self.promoted = promoted
        self.stopped = False


class SnapshotStore:
    """See `core.log_contract.Snapshots`. Make one with `SnapshotStore.open`."""

    def __init__(
        self,
        disk: Disk,
        server_dir: str,
        uid: Uid,
        config: SnapshotConfig,
        worker: Worker,
        on_event: Callable[[LogEvent], None],
        module_worker: Worker | None = None,
    ) -> None:
        self.notes: list[str] = []
        """What was skipped, and why, for an operator."""
        self.skipped = Index(0)
        """The highest entry of the damaged snapshots: a log that does not reach it has lost its end."""
        self.last_failure = ""
        self._disk = disk
        self._dir = server_dir
        self._uid = uid
        self._config = config
        self._worker = worker
        self._module_worker = module_worker if module_worker is not None else worker
        self._on_event = on_event
        self._lease = Lease()
        self._log: Survivors | None = None
        self._current: Kept | None = None
        self._checkpoints: list[Kept] = []  # ascending, all above `_current`
        self._recovery: Kept | None = None
        self._writing: dict[SnapshotKind, _Writing] = {}
        self._due_from = {kind: Index(0) for kind in SnapshotKind}  # later after a failure
        self._bytes_at_snapshot = 0
        self._outgoing: set[OutgoingSnapshot | OutgoingModule] = set()
        self._written = dict.fromkeys(SnapshotKind, 0)
        self._bytes_written = dict.fromkeys(SnapshotKind, 0)
        self._promoted = self._installed = 0
        self._check = SnapshotCheck()
        self._incoming: Incoming | None = None
        self._discarded = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        disk: Disk,
        server_dir: str,
        uid: Uid,
        config: SnapshotConfig,
        worker: Worker,
        on_event: Callable[[LogEvent], None],
        module_worker: Worker | None = None,
    ) -> "SnapshotStore":
        """Find what is there, without a log yet. Raises `Damaged` for a later format, and `OSError`.

        The directory of a new server may be missing. Snapshot modules work in `module_worker`.
        """
        store = cls(disk, server_dir, uid, config, worker, on_event, module_worker)
        if disk.is_dir(server_dir):
            store._recover()
        return store

    def attach(self, log: Survivors) -> None:
        """Name the log beside this store, before anything is begun or sent."""
        self._log = log

    def _recover(self) -> None:
        if not files.remove_leftovers(self._disk, self._dir):
            return
        snapshots = self._folder(_SNAPSHOT)
        for position in files.positions_in(self._disk, snapshots):
            self._current = self._examine(join(snapshots, snapshot_name(position)), whole=True)
            if self._current is not None:
                break
            self.skipped = max(self.skipped, position.index)
        # Checkpoints are checked when one is used: only the newest of them usually is (CKPT-04).
        self._checkpoints = self._find(_CHECKPOINT)[::-1]
        self._recovery = next(iter(self._find(_RECOVERY)), None)
        if self._current is not None:
            self._tidy()
        self._thin()  # a crash may have come before the last thinning

    def _find(self, kind: SnapshotKind) -> list[Kept]:
        """The checkpoints above the snapshot that can be described, newest first."""
        folder = self._folder(kind)
        above = [p for p in files.positions_in(self._disk, folder) if p.index > self._index()]
        kept = [self._examine(join(folder, snapshot_name(p)), whole=False) for p in above]
        return [one for one in kept if one is not None]

    def _examine(self, path: str, *, whole: bool) -> Kept | None:
        try:
            return files.examine(self._disk, path, whole=whole)
        except LaterFormat as error:
            raise Damaged(
                f"{path}: {error}. It was written by a later release of Barque: install that release again. "
                f"Servers concerned: {self._uid}"
            ) from error
        except MalformedSnapshot as error:
            self._note(f"{join(path, files.FILE)}: damaged, and skipped: {error}")
            return None

    def _note(self, text: str) -> None:
        self.notes.append(text)
        logger.warning("%s", text)

    def _folder(self, kind: SnapshotKind) -> str:
        return join(self._dir, FOLDERS[kind])

    def _index(self) -> int:
        return self._current.index if self._current is not None else 0

    # --- what there is -------------------------------------------------------------------

    def current(self) -> SnapshotMeta | None:
        """See `Snapshots.current`."""
        return None if self._current is None else self._current.meta

    def live_ranges(self) -> tuple[Range, ...]:
        """The entries that survive below the current snapshot."""
        return () if self._current is None else self._current.description.live

    def live_file(self) -> str | None:
        """The file of a received snapshot's surviving entries, until the log has moved it away."""
        if self._current is None:
            return None
        path = join(self._current.path, files.LIVE)
        return path if self._disk.exists(path) else None

    def recovery_point(self, log: Log) -> SnapshotMeta | None:
        """See `Snapshots.recovery_point`."""
        found = [*self._checkpoints, *([self._recovery] if self._recovery is not None else [])]
        for kept in sorted(found, key=lambda kept: kept.index, reverse=True):
            position = kept.meta.position
            if log.fetch_term(position.index) != position.term:
                continue
            try:
                good = self._examine(kept.path, whole=True)
            except OSError as error:
                self._note(f"{kept.path}: cannot be read, and skipped: {error}")
                continue
            if good is not None:
                return kept.meta
            self._forget(kept)
        return self.current()

    def _forget(self, kept: Kept) -> None:
        """Remove a checkpoint."""
        self._checkpoints = [one for one in self._checkpoints if one.path != kept.path]
        if self._recovery is not None and self._recovery.path == kept.path:
            self._recovery = None
        self._submit(files.remove_job(self._disk, kept.path))

    def load(self, meta: SnapshotMeta, restore: Restore, module: BoundModule | None = None) -> Any:
        """See `Snapshots.load`. Raises `Damaged` for a file that has changed since it was checked."""
        known = [kept for kept in (self._current, self._recovery, *self._checkpoints) if kept is not None]
        path, described = next((kept.path, kept.description) for kept in known if kept.meta == meta)
        if described.module is not None:
            reader = compatible(module, described.module, path)
            reader.validate(state_path(path))
            return reader.recover(state_path(path))
        try:
            with files.opened(self._disk, path) as (file, found):
                pieces = read_state(file.pread, found)
                state = restore(pieces)
                for _ in pieces:  # the state is whole only when the file is
                    pass
                return state
        except MalformedSnapshot as error:
            raise Damaged(f"{path}: {error}. Servers concerned: {self._uid}") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error}") from error

    def overview(self) -> dict[str, Any]:
        """Facts for an operator; sizes in bytes."""
        return {
            "snapshot_index": self._index(),
            "snapshot_size": self._current.size if self._current is not None else 0,
            "checkpoints": [checkpoint.index for checkpoint in self._checkpoints],
            "recovery_checkpoint": self._recovery.index if self._recovery is not None else 0,
            "writing": {kind.value: job.position.index for kind, job in self._writing.items()},
            "sending": len(self._outgoing),
            "accepting": self._incoming.meta.position.index if self._incoming is not None else 0,
            "notes": list(self.notes),
            "last_failure": self.last_failure,
        }

    def counters(self) -> dict[str, int]:
        """What was written and installed, by Ra's names (CNT-01, CNT-02, CNT-05)."""
        return {
            "snapshots_written": self._written[_SNAPSHOT],
            "snapshot_bytes_written": self._bytes_written[_SNAPSHOT],
            "snapshot_installed": self._installed,
            "checkpoints_written": self._written[_CHECKPOINT],
            "checkpoint_bytes_written": self._bytes_written[_CHECKPOINT],
            "checkpoints_promoted": self._promoted,
            "checkpoint_index": self._checkpoints[-1].index if self._checkpoints else 0,
            "snapshots_damaged": self._check.damaged_count,
        }

    # --- making --------------------------------------------------------------------------

    def wants(self, kind: SnapshotKind, index: Index) -> bool:
        """See `Snapshots.wants`."""
        if self._closed or index < self._due_from[kind]:
            return False
        if kind is _SNAPSHOT:
            return not self._writing and self._is_due(index - self._index())
        newest = self._index()
        if self._checkpoints:
            newest = max(newest, self._checkpoints[-1].index)
        if kind is _CHECKPOINT:
            return not self._writing and index - newest >= self._config.min_checkpoint_interval
        if self._recovery is not None:
            newest = max(newest, self._recovery.index)
        interval = self._config.min_recovery_checkpoint_interval
        return 0 < interval <= index - newest

    def _is_due(self, entries: int) -> bool:
        if self._check.replace_soon(self._current):
            return entries > 0
        grown = self._bytes_appended() - self._bytes_at_snapshot
        return self._config.is_due(entries, grown, self._current.size if self._current is not None else 0)

    def _bytes_appended(self) -> int:
        return self._log.bytes_appended() if self._log is not None else 0

    def begin(self, kind: SnapshotKind, meta: SnapshotMeta, pieces: Capture, live: Sequence[Index]) -> bool:
        """See `Snapshots.begin`. False also while an entry that must survive is not on disk yet."""
        position = meta.position
        if self._closed or position.index <= self._index() or (self._writing and kind is not _RECOVERY):
            return False
        if kind is _SNAPSHOT and self.live_file() is not None:
            return False  # what survived below the last one is not with the log yet
        if live and self._log is not None and live[-1] > self._log.last_written().index:
            return False  # a crash would leave a snapshot that needs an entry which is nowhere
        made: list[str] = []
        folder, by_module = self._folder(kind), isinstance(pieces, ModuleCapture)
        if isinstance(pieces, ModuleCapture):
            job = files.module_write_job(self._disk, folder, meta, live, pieces, made, self._lease)
        else:
            job = files.write_job(self._disk, folder, meta, live, pieces, made)
        if kind is _RECOVERY:
            return self._write_now(files.cleaned_up(job, self._disk, made, self._lease))
        self._start(kind, position, job, made, by_module=by_module)
        return True

    def _write_now(self, job: Job) -> bool:
        """Run the job of a recovery checkpoint here: the process is about to end."""
        old = self._recovery
        try:
            while True:
                next(job)
        except StopIteration as end:
            self._recovery = end.value
        except Exception as error:
            self._note(f"{self._folder(_RECOVERY)}: no recovery checkpoint was written: {error!r}")
            return False
        if old is not None:
            with contextlib.suppress(OSError):  # the next start takes the newest one
                files.remove_if_there(self._disk, old.path)
        return True

    def _start(
        self,
        kind: SnapshotKind,
        position: IndexTerm,
        job: Job,
        made: list[str],
        promoted: Kept | None = None,
        *,
        by_module: bool = False,
    ) -> None:
        writing = self._writing[kind] = _Writing(position, promoted)
        if kind is _SNAPSHOT:
            self._bytes_at_snapshot = self._bytes_appended()

        def finished(kept: Kept | None, error: Exception | None) -> None:
            if self._writing.get(kind) is writing:
                del self._writing[kind]
            if not self._closed:
                self._on_end(kind, writing, kept, error)

        lease = None if by_module else self._lease  # the job of a module takes it when it needs it
        guarded = files.stoppable(job, lambda: writing.stopped, lease)
        worker = self._module_worker if by_module else self._worker
        worker.submit(files.cleaned_up(guarded, self._disk, made, self._lease), finished)

    def promote_checkpoint(self, index: Index) -> bool:
        """See `Snapshots.promote_checkpoint`."""
        old = [checkpoint for checkpoint in self._checkpoints if checkpoint.index <= index]
        if self._closed or not old or _SNAPSHOT in self._writing or self.live_file() is not None:
            return False
        promoted = old[-1]
        self._checkpoints.remove(promoted)
        job = files.promote_job(self._disk, promoted, self._folder(_SNAPSHOT))
        self._start(_SNAPSHOT, promoted.meta.position, job, [], promoted)
        return True

    def _on_end(
        self, kind: SnapshotKind, writing: _Writing, kept: Kept | None, error: Exception | None
    ) -> None:
        """Take the end of one job. What it has written counts if nothing newer is here."""
        position = writing.position
        if position.index <= self._index():
            self._tidy()
            self._failed(kind, position, f"a snapshot at entry {self._index()} is there already")
        elif kept is None:
            if writing.promoted is not None and self._disk.exists(writing.promoted.path):
                self._add_checkpoint(writing.promoted)
            interval = self._config.min_snapshot_interval
            if kind is _CHECKPOINT:
                interval = self._config.min_checkpoint_interval
            self._due_from[kind] = Index(position.index + interval)
            self._failed(kind, position, str(error) or repr(error))
        else:
            if writing.promoted is not None:
                self._promoted += 1
            else:
                self._written[kind] += 1
                self._bytes_written[kind] += kept.size
            if kind is _SNAPSHOT:
                self._become_current(kept)
            else:
                self._add_checkpoint(kept)
            self._on_event(SnapshotWritten(self._uid, kind, position, kept.digest))

    def _failed(self, kind: SnapshotKind, position: IndexTerm, reason: str) -> None:
        self._report(f"{kind.value} at entry {position.index}: {reason}")
        self._on_event(SnapshotFailed(self._uid, kind, position, reason))

    def _report(self, failure: str) -> None:
        """Tell an operator why a snapshot was not made or not installed."""
        self.last_failure = failure
        logger.warning("%s: %s", self._uid, failure)

    def _become_current(self, kept: Kept) -> None:
        self._current = kept
        self._checkpoints = [c for c in self._checkpoints if c.index > kept.index]
        if self._recovery is not None and self._recovery.index <= kept.index:
            self._recovery = None
        for writing in self._writing.values():
            if writing.position.index <= kept.index:
                writing.stopped = True
        self._tidy()

    def _add_checkpoint(self, kept: Kept) -> None:
        self._checkpoints = sorted([*self._checkpoints, kept], key=lambda checkpoint: checkpoint.index)
        self._thin()

    def _thin(self) -> None:
        """Let checkpoints go until there are no more than the settings allow (CKPT-03)."""
        limit = self._config.max_checkpoints
        while (drop := checkpoint_to_drop([c.index for c in self._checkpoints], limit)) is not None:
            for checkpoint in [c for c in self._checkpoints if c.index == drop]:
                self._forget(checkpoint)

    def _tidy(self) -> None:
        if self._current is not None:
            used = frozenset(one.path for one in self._outgoing if one.module)
            self._submit(files.tidy_job(self._disk, self._dir, self._current.meta.position, used))

    def _submit(self, job: Job) -> None:
        """Run a job that may fail: the next one of its kind, or the next start, does the rest."""
        job = files.stoppable(job, lambda: self._closed, self._lease)
        self._worker.submit(job, lambda _result, _error: None)

    # --- sending -------------------------------------------------------------------------

    def open_outgoing(
        self, module: BoundModule | None = None, ready: Callable[[], None] = lambda: None
    ) -> OutgoingSnapshot | OutgoingModule:
        """See `Snapshots.open_outgoing`. Raises `StorageError`."""
        assert self._current is not None
        assert self._log is not None
        self._check.refuse_damaged(self._current)
        kept, size, read = self._current, self._config.chunk_bytes, self._log.read_sparse
        outgoing: OutgoingSnapshot | OutgoingModule
        if kept.description.module is None:
            outgoing = OutgoingSnapshot(self._disk, kept, size, read, self._outgoing.discard)
        else:
            reader = compatible(module, kept.description.module, kept.path)
            outgoing = OutgoingModule(
                kept, size, read, self._forget_outgoing, reader, self._module_worker, ready
            )
        self._outgoing.add(outgoing)
        return outgoing

    def doubt(self, position: IndexTerm) -> None:
        """See `Snapshots.doubt`."""
        kept = self._current
        if kept is None or kept.meta.position != position or self._closed or not self._check.begin(kept):
            return

        def finished(_result: None, error: Exception | None) -> None:
            if kept is self._current and (found := self._check.end(kept, error)) is not None:
                self._note(found)

        worker = self._worker if kept.description.module is None else self._module_worker
        worker.submit(files.stoppable(check_job(self._disk, kept), lambda: self._closed), finished)

    def _forget_outgoing(self, outgoing: OutgoingModule) -> None:
        self._outgoing.discard(outgoing)
        self._tidy()  # its directory was in use

    def lowest_sent(self) -> Index | None:
        """The lowest position of the snapshots that are being sent: their receivers need what follows it."""
        return min((outgoing.meta.position.index for outgoing in self._outgoing), default=None)

    # --- receiving -----------------------------------------------------------------------

    def begin_accept(self, meta: SnapshotMeta) -> None:
        """See `Snapshots.begin_accept`."""
        self.abort_accept()
        with files.storage_errors(self._accepting_path()):
            self._incoming = Incoming(self._disk, self._accepting_path(), self._uid, meta)

    def _accepting_path(self) -> str:
        return join(self._dir, files.ACCEPTING)

    def accept_live(self, entries: Sequence[EntryBatch]) -> None:
        """See `Snapshots.accept_live`."""
        assert self._incoming is not None
        with files.storage_errors(self._incoming.path):
            self._incoming.take_live(entries)

    def accept_chunk(self, number: int, data: bytes) -> bool:
        """See `Snapshots.accept_chunk`."""
        assert self._incoming is not None
        with files.storage_errors(self._incoming.path):
            return self._incoming.take_chunk(number, data)

    def complete_accept(self, restore: Restore, module: BoundModule | None = None) -> None:
        """See `Snapshots.complete_accept`."""
        incoming = self._incoming
        assert incoming is not None
        position = incoming.meta.position

        def finished(result: tuple[Kept, Any] | None, error: Exception | None) -> None:
            incoming.job_ended()
            if self._incoming is not incoming or self._closed:
                return  # it was aborted, and perhaps another one is arriving
            if result is None:
                self.abort_accept()
                reason = str(error) or repr(error)
                self._report(f"received snapshot at entry {position.index}: {reason}")
                self._on_event(AcceptFailed(self._uid, position, reason))
            else:
                incoming.result = result
                self._on_event(SnapshotAccepted(self._uid, position))

        worker = self._worker if module is None else self._module_worker
        job = incoming.complete_job(restore, module)
        worker.submit(files.stoppable(job, lambda: incoming.stopped), finished)

    def install_accepted(self) -> Any:
        """See `Snapshots.install_accepted`.

        The rename of the directory is the point where the snapshot begins to count. After an error it may be
        there or not, and either is right at the next start: what it stands for is committed.
        """
        incoming = self._incoming
        assert incoming is not None
        assert incoming.result is not None
        kept, state = incoming.result
        if kept.index <= self._index():
            raise StorageError(f"a snapshot at entry {self._index()} is there already")
        folder = self._folder(_SNAPSHOT)
        target = join(folder, snapshot_name(kept.meta.position))
        with files.storage_errors(target):
            self._disk.mkdir(folder, parents=False)
            files.remove_if_there(self._disk, target)
            self._disk.rename(incoming.path, target)
            try:
                self._disk.fsync_dir(folder)
            except OSError:
                with contextlib.suppress(OSError):
                    self._disk.rename(target, incoming.path)
                raise
        self._incoming = None
        self._installed += 1
        with contextlib.suppress(OSError):
            incoming.close()
        self._bytes_at_snapshot = self._bytes_appended()
        self._become_current(msgspec.structs.replace(kept, path=target))
        return state

    def abort_accept(self) -> None:
        """See `Snapshots.abort_accept`. The directory gets another name at once, and is removed later."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        self._discarded += 1
        discarded = join(self._dir, f"{files.DISCARDED}{self._discarded}")
        with contextlib.suppress(OSError):  # the next start, or the next transfer, removes it
            incoming.close()
            self._disk.rename(incoming.path, discarded)
            self._submit(files.remove_job(self._disk, discarded))

    # --- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Stop all work: the process ends, or the server is deleted. No event comes from now on."""
        self._closed = True
        self._lease.end()  # no step is under way now, and no file of the server is made any more
        for writing in self._writing.values():
            writing.stopped = True
        if self._incoming is not None:
            with contextlib.suppress(OSError):
                self._incoming.close()
        for outgoing in list(self._outgoing):
            outgoing.close()
