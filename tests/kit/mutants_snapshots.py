"""Planted bugs of the snapshot store and of captures; the store's own tests find each.

They are no part of the table of `mutants`, which is about rings of whole servers. The rows of Ra's own faults
for which they stand are named in brackets.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest.mock import patch

from barque.core.entries import EntryBatch
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import SnapshotWritten
from barque.log import snapshot_files, snapshots
from barque.log.background import Job
from barque.log.disk import Disk, join
from barque.log.snapshot_files import Kept
from barque.log.snapshot_format import (
    Description,
    MalformedSnapshot,
    read_description,
    read_state,
    snapshot_name,
)
from barque.log.snapshot_transfer import Incoming, OutgoingSnapshot
from barque.log.snapshots import SnapshotStore
from barque.machine.kv_snapshot import KvCapture
from barque.testing.sim.disk import SimDisk, SimFile
from barque.types import Index
from tests.kit.mutant_registry import together


def no_dir_sync() -> Any:
    """The folder is not synced after the rename: the name may be gone after the log was cut (B35)."""
    real = SimDisk.fsync_dir

    def wrong(self: SimDisk, path: str) -> None:
        if path.rpartition("/")[2] not in ("snapshots", "checkpoints"):
            real(self, path)

    return patch.object(SimDisk, "fsync_dir", wrong)


def content_not_synced() -> Any:
    """The file gets its name before its content is on disk."""
    return patch.object(SimFile, "datasync", lambda self: None)


def inner_name_not_synced() -> Any:
    """The directory gets its name before the file in it has a durable one."""
    real = SimDisk.fsync_dir

    def wrong(self: SimDisk, path: str) -> None:
        if not path.endswith((".writing", "accepting")):
            real(self, path)

    return patch.object(SimDisk, "fsync_dir", wrong)


def pending_cleared_blindly() -> Any:
    """The end of any job ends all of them (B40)."""
    real = SnapshotStore._on_end

    def wrong(self: SnapshotStore, *args: Any) -> None:
        self._writing.clear()
        real(self, *args)

    return patch.object(SnapshotStore, "_on_end", wrong)


def snapshot_replaced_by_older() -> Any:
    """A snapshot that is complete becomes the current one, whatever is there (K11)."""
    real = SnapshotStore._on_end

    def wrong(self: SnapshotStore, kind: Any, writing: Any, kept: Kept | None, error: Any) -> None:
        if kept is None or kind is not snapshots._SNAPSHOT:
            real(self, kind, writing, kept, error)
            return
        self._become_current(kept)
        self._on_event(SnapshotWritten(self._uid, kind, writing.position))

    return patch.object(SnapshotStore, "_on_end", wrong)


def missing_is_empty() -> Any:
    """Survivors that are gone are left out of a transfer (B36)."""

    def wrong(self: OutgoingSnapshot, after: Index, count: int) -> list[EntryBatch]:
        live = [i for first, last in self._kept.description.live for i in range(first, last + 1) if i > after]
        return self._read_sparse([Index(i) for i in live[:count]])

    return patch.object(OutgoingSnapshot, "live", wrong)


def promote_backwards() -> Any:
    """Checkpoints below the snapshot are kept, and promoted (B41)."""
    real = SnapshotStore._become_current

    def wrong(self: SnapshotStore, kept: Kept) -> None:
        checkpoints = list(self._checkpoints)
        real(self, kept)
        self._checkpoints = checkpoints

    return together(
        patch.object(SnapshotStore, "_become_current", wrong),
        patch.object(SnapshotStore, "_tidy", lambda _: None),
    )


def corrupt_loaded() -> Any:
    """A start reads the description of a snapshot, and believes the rest."""
    real = snapshot_files.examine
    return patch.object(snapshot_files, "examine", lambda disk, path, *, whole: real(disk, path, whole=False))


def trailer_not_read() -> Any:
    """A state counts as whole when the machine has read enough of it."""

    def wrong(read: Any, opened: Any) -> Iterator[bytes]:
        try:
            yield from read_state(read, opened)
        except ValueError:
            return

    return together(
        patch.object(snapshots, "read_state", wrong),
        patch("barque.log.snapshot_transfer.read_state", wrong),
        patch.object(snapshot_files, "read_state", wrong),
    )


def survivors_not_compared() -> Any:
    """A received snapshot is installed without the survivors that it names (B36)."""
    real = Incoming.complete_job

    def wrong(self: Incoming, restore: Any) -> Job:
        with contextlib.suppress(MalformedSnapshot):
            self._live_ranges = list(read_description(self._file.pread).description.live)
        return real(self, restore)

    return patch.object(Incoming, "complete_job", wrong)


def checkpoint_beyond_the_log() -> Any:
    """A start begins at the newest checkpoint, whether its entry is in the log or not (CKPT-07)."""
    real = SnapshotStore.recovery_point

    class Anything:
        def __init__(self, store: SnapshotStore) -> None:
            found = [*store._checkpoints, *([store._recovery] if store._recovery else [])]
            self._terms = {kept.index: kept.meta.position.term for kept in found}

        def fetch_term(self, index: Index) -> Any:
            return self._terms[index]

    return patch.object(
        SnapshotStore,
        "recovery_point",
        lambda self, _log: real(self, Anything(self)),  # type: ignore[arg-type]
    )


def deleted_server_comes_back() -> Any:
    """A job makes the directories that it needs, also those of a deleted server (B50)."""
    real = SimDisk.mkdir
    return together(
        patch.object(SimDisk, "mkdir", lambda self, path, *, parents=True: real(self, path)),
        patch.object(snapshot_files, "stoppable", lambda job, *_: job),
    )


def leftovers_kept() -> Any:
    """A start leaves half-written directories where they are."""
    return patch.object(snapshot_files, "remove_leftovers", lambda disk, path: True)


def error_is_success() -> Any:
    """An error of the disk ends the writing of a snapshot, which counts all the same (B28)."""
    real = snapshot_files.write_job

    def wrong(
        disk: Disk,
        folder: str,
        meta: SnapshotMeta,
        live: Iterable[Index],
        state: Iterable[bytes],
        made: list[str],
    ) -> Job:
        try:
            return (yield from real(disk, folder, meta, live, state, made))
        except OSError:
            return Kept(Description(meta), join(folder, snapshot_name(meta.position)), 0)

    return patch.object(snapshot_files, "write_job", wrong)


def failure_leaves_files() -> Any:
    """What a failed job has written stays."""
    return patch.object(snapshot_files, "remove_if_there", lambda disk, path: None)


def survivors_not_on_disk() -> Any:
    """A snapshot is complete while entries that it needs are only in memory."""
    real = SnapshotStore.begin

    def wrong(self: SnapshotStore, *args: Any) -> bool:
        log, self._log = self._log, None
        try:
            return real(self, *args)
        finally:
            self._log = log

    return patch.object(SnapshotStore, "begin", wrong)


def capture_by_reference() -> Any:
    """A capture shows what the state becomes while it is written."""
    return patch.object(KvCapture, "keep", lambda self, key: None)


def capture_looks_first() -> Any:
    """A capture keeps the second old value of a key, not the first."""

    def wrong(self: KvCapture, key: bytes) -> None:
        value = self._values.get(key)
        if value is not None:
            self._before[key] = (value, self._expiries.get(key))

    return patch.object(KvCapture, "keep", wrong)


SNAPSHOT_MUTANTS: list[Callable[[], Any]] = [
    no_dir_sync,
    content_not_synced,
    inner_name_not_synced,
    pending_cleared_blindly,
    snapshot_replaced_by_older,
    missing_is_empty,
    promote_backwards,
    corrupt_loaded,
    trailer_not_read,
    survivors_not_compared,
    checkpoint_beyond_the_log,
    deleted_server_comes_back,
    leftovers_kept,
    error_is_success,
    failure_leaves_files,
    survivors_not_on_disk,
    capture_by_reference,
    capture_looks_first,
]
