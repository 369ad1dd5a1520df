"""The two ends of a transfer: a snapshot that is sent, and a snapshot that is received.

Both go by the file. A chunk is a slice of the sender's file, so the receiver's file equals it byte for byte.
The entries that survive below a snapshot travel ahead of it. The receiver keeps them in a segment file of
their own, in the same directory as the snapshot, so that one rename brings both or neither.

The sender holds the file open: it can be read to its end whatever becomes of its name.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from barque.core.entries import EntryBatch
from barque.core.log_contract import Accepts, Restore, SnapshotMeta
from barque.errors import StorageError
from barque.log.background import Job
from barque.log.disk import Disk, DiskFile, join, remove_tree
from barque.log.module_files import accept_job, compatible, state_path
from barque.log.segment_format import SegmentEncoder
from barque.log.snapshot_files import FILE, LIVE, Kept, Stopped
from barque.log.snapshot_format import (
    MalformedSnapshot,
    Range,
    indexes_of,
    read_description,
    read_state,
)
from barque.machine.snapshot_module import BoundModule
from barque.types import Index, Term, Uid

ReadSparse = Callable[[Sequence[Index]], list[EntryBatch]]


def read_live(kept: Kept, after: Index, count: int, read_sparse: ReadSparse) -> list[EntryBatch]:
    """See `Outgoing.live`."""
    later = [(Index(max(first, after + 1)), last) for first, last in kept.description.live if last > after]
    wanted = list(islice(indexes_of(later), count))
    entries = read_sparse(wanted) if wanted else []
    if [entry.first_index for entry in entries] != wanted or any(entry.count != 1 for entry in entries):
        raise StorageError(
            f"{kept.path}: entries that this snapshot needs are no longer there; the next snapshot needs "
            "others"
        )
    return entries


class OutgoingSnapshot:
    """See `core.log_contract.Outgoing`."""

    module = False

    def __init__(
        self,
        disk: Disk,
        kept: Kept,
        chunk_bytes: int,
        read_sparse: ReadSparse,
        closed: Callable[["OutgoingSnapshot"], None],
    ) -> None:
        self.meta = kept.meta
        self.path = kept.path
        self._kept = kept
        self._chunk_bytes = chunk_bytes
        self._read_sparse = read_sparse
        self._closed = closed
        try:
            self._file = disk.open(join(kept.path, FILE))
        except OSError as error:
            raise StorageError(f"{kept.path}: cannot be sent: {error}") from error

    def agree(self, accepts: Accepts) -> None:
        """See `Outgoing.agree`. Every machine restores what a capture has written."""

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """See `Outgoing.chunk`."""
        start = (number - 1) * self._chunk_bytes
        if start >= self._kept.size:
            return None
        end = min(start + self._chunk_bytes, self._kept.size)
        try:
            data = self._file.pread(end - start, start)
        except OSError as error:
            raise StorageError(f"{self._kept.path}: cannot be sent: {error}") from error
        if len(data) < end - start:
            raise StorageError(f"{self._kept.path}: the file has become shorter")
        return data, end == self._kept.size

    def live(self, after: Index, count: int) -> list[EntryBatch]:
        """See `Outgoing.live`."""
        return read_live(self._kept, after, count, self._read_sparse)

    def close(self) -> None:
        """See `Outgoing.close`."""
        self._closed(self)
        with contextlib.suppress(OSError):
            self._file.close()


class Incoming:
    """A snapshot that arrives, in a directory of its own. Any method may raise `OSError`.

    From `complete_job` on the files belong to that job. It closes them wherever it ends: its worker may be
    closed before it begins, and nobody may hear of its end.
    """

    def __init__(self, disk: Disk, path: str, uid: Uid, meta: SnapshotMeta) -> None:
        self.meta = meta
        self.path = path
        self.stopped = False
        self.result: tuple[Kept, Any] | None = None
        """What `complete_job` has found in the file, and the machine's state."""
        self._disk = disk
        self._uid = uid
        self._chunks = 0
        self._size = 0
        self._live: SegmentEncoder | None = None
        self._live_file: DiskFile | None = None
        self._live_ranges: list[Range] = []
        self._live_term = Term(0)
        self._working = False
        if disk.exists(path):
            remove_tree(disk, path)
        disk.mkdir(path, parents=False)
        self._file = disk.create(join(path, FILE))
        self._opened = [self._file]

    def take_live(self, entries: Sequence[EntryBatch]) -> None:
        """Write entries that survive below the snapshot; entries that are there already are ignored.

        Raises `ValueError` for entries that cannot be there.
        """
        before = self._live_ranges[-1][1] if self._live_ranges else 0
        entries = [batch for batch in entries if batch.last_index > before]
        if not entries:
            return
        if self._live is None or self._live_file is None:
            self._live = SegmentEncoder(self._uid)
            self._live_file = self._disk.create(join(self.path, LIVE))
            self._opened.append(self._live_file)
            self._live_file.pwritev([self._live.head], 0, sync=False)
        offset, buffers = self._live.size, list[bytes]()
        for batch in entries:
            self._note_live(batch)
            buffers += self._live.add(batch)
        self._live_file.pwritev(buffers, offset, sync=False)

    def _note_live(self, batch: EntryBatch) -> None:
        first, last, below = batch.first_index, batch.last_index, self.meta.position.index
        before = self._live_ranges[-1][1] if self._live_ranges else 0
        if not before < first <= last <= below or batch.term < self._live_term:
            raise ValueError(f"entry {first} cannot survive behind entry {before}, below entry {below}")
        self._live_term = batch.term
        if before and first == before + 1:
            first = self._live_ranges.pop()[0]
        self._live_ranges.append((first, last))

    def take_chunk(self, number: int, data: bytes) -> bool:
        """Write the next piece of the file; a piece that is there already is ignored. False for a gap."""
        if number != self._chunks + 1:
            return number <= self._chunks
        self._file.pwritev([data], self._size, sync=False)
        self._size += len(data)
        self._chunks = number
        return True

    def complete_job(self, restore: Restore, module: BoundModule | None = None) -> Job:
        """Sync and check the files, and restore the state; returns what the snapshot is, and the state."""
        self._working = True
        job = self._complete(restore, module)
        next(job)  # so it closes the files, even if it is closed before its first step
        return job

    def _complete(self, restore: Restore, module: BoundModule | None) -> Job:
        try:
            yield
            if self._live is not None and self._live_file is not None:
                offset = self._live.size
                self._live_file.pwritev([self._live.finish()[0]], offset, sync=True)
                yield
            self._file.datasync()
            yield
            self._disk.fsync_dir(self.path)
            found = read_description(self._file.pread)
            if found.description.meta != self.meta:
                raise MalformedSnapshot(0, "the file is of another snapshot than was announced")
            if found.description.live != tuple(self._live_ranges):
                raise MalformedSnapshot(0, "the entries that survive below it are not those that it names")
            yield
            pieces = read_state(self._file.pread, found)
            if found.description.module is not None:
                reader = compatible(module, found.description.module, self.path)
                pieces = self._until_stopped(pieces)
                described = yield from accept_job(self._disk, self.path, reader, found.description, pieces)
                yield
                state = reader.recover(state_path(self.path))
                return Kept(described, self.path, described.module.size), state
            state = restore(pieces)
            for _ in pieces:  # the state is whole only when the file is
                pass
            return Kept(found.description, self.path, self._size), state
        finally:
            with contextlib.suppress(OSError):
                self._close_files()

    def _until_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces; they end with `Stopped` when the transfer is aborted."""
        for piece in pieces:
            if self.stopped:
                raise Stopped
            yield piece

    def job_ended(self) -> None:
        """The job no longer uses the files."""
        self._working = False

    def close(self) -> None:
        """Stop. The files are closed now, or where the job ends."""
        self.stopped = True
        if not self._working:
            self._close_files()

    def _close_files(self) -> None:
        opened, self._opened = self._opened, []
        for file in opened:
            file.close()
