"""The files of a write-ahead log, and how one follows another. Format: docs/formats/wal.md.

The manifest lists every file that holds entries, with the offset at which its acknowledged
records end. The order of a roll-over is: the new file's head, its name, the directory, then
the manifest and the directory again, and only then a record. So a file in the manifest must
exist, a file behind the manifest's newest holds nothing that was acknowledged, and what lies
behind the end of a closed file never counts, whatever it looks like.
"""

import contextlib
import math
import re
import threading
from collections.abc import Sequence

from barque.log import wal_format
from barque.log.disk import Disk, DiskFile, join, replace_file
from barque.log.wal_format import FILE_HEAD_SIZE, TERMINATOR, FileEntry, FileHead
from barque.types import Index, Uid

MANIFEST = "manifest"
SPARE_SHARE = 4
"""A spare is made only where there is space for so many: it must not take the space that the log needs."""
PAUSE_S_MIN, PAUSE_S_MAX = 4.0, 600.0
"""How long to wait after a spare could not be made: the first time, and at most."""
SPARES_MAX = 1
"""Spare files kept or made: the current file and the next one are what a log needs beside its records."""

_SLICE = bytes(1 << 20)
_FILE_NAME = re.compile(r"(\d{17})\.wal")
_SPARE_NAME = re.compile(r"spare-\d{17}\.wal")


def file_name(number: int) -> str:
    """The name of WAL file `number`."""
    return f"{number:017}.wal"


def file_number(name: str) -> int | None:
    """The number in a WAL file's name; None for any other name."""
    found = _FILE_NAME.fullmatch(name)
    return int(found[1]) if found else None


def is_spare(name: str) -> bool:
    """Whether this is the name of a file kept to be used again."""
    return _SPARE_NAME.fullmatch(name) is not None


class OpenFile:
    """The file that is being written.

    `end` is where the next record goes; everything below it is on disk. `growing` tells that
    the file was not zero-filled, so that each sync also has to write metadata. `holds` has the last
    index that was written of each server, and `entries` counts all.
    """

    __slots__ = ("end", "entries", "file", "growing", "head", "holds")

    def __init__(self, file: DiskFile, head: FileHead, growing: bool) -> None:
        self.file = file
        self.head = head
        self.growing = growing
        self.end = FILE_HEAD_SIZE
        self.entries = 0
        self.holds: dict[Uid, Index] = {}

    def write(self, buffers: list[bytes], end: int) -> None:
        """Write records durably; `end` is the offset behind the last one."""
        buffers.append(TERMINATOR)
        self.file.pwritev(buffers, self.end, sync=True)
        self.end = end


class WalFiles:
    """The files of one write-ahead log. They belong to the writer: the loop or the thread."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        max_size_bytes: int,
        closed: dict[int, FileEntry],
        next_number: int,
        max_entries: int | None = None,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self.max_size_bytes = max_size_bytes
        self.max_entries = max_entries
        self._closed = closed
        self._next_number = next_number
        self._current: OpenFile | None = None
        self._current_synced = True
        self.spares: list[str] = []
        self.linked: set[int] = set()
        """Closed files with a second name: they are not written into again."""
        self.begun = 0
        """How many files were begun."""
        self.just_closed: list[tuple[int, dict[Uid, Index]]] = []
        """Files closed since somebody last took this list, each with what it holds."""

    @property
    def current(self) -> OpenFile:
        """The file that takes the next record."""
        assert self._current is not None, "the write-ahead log is not open"
        return self._current

    def count(self) -> int:
        """How many files hold entries, the current one included."""
        return len(self._closed) + (self._current is not None)

    def closed(self) -> list[FileEntry]:
        """The closed files, oldest first."""
        return [self._closed[number] for number in sorted(self._closed)]

    @property
    def current_size(self) -> int:
        """How many bytes of the current file are used."""
        return self._current.end if self._current else 0

    def size_bytes(self) -> int:
        """How many bytes of records there are in all files."""
        return sum(entry.end for entry in self._closed.values()) + self.current_size

    def start_next(self, abandon: bool = False) -> None:
        """Close the current file, if any, and begin a new one.

        `abandon`: the current file failed. It ends where it was last known to be synced, and
        is not touched again. Raises `OSError`; then nothing has changed but the next number,
        and calling again is right.
        """
        number = self._next_number
        self._next_number += 1  # a number is used once, even when what follows fails
        head = FileHead(epoch=number, salt=self._disk.salt())
        file, name, growing = self._blank(number)
        try:
            file.pwritev([wal_format.encode_file_head(head), TERMINATOR], 0, sync=True)
            self._disk.rename(join(self._directory, name), join(self._directory, file_name(number)))
            self._disk.fsync_dir(self._directory)
            closed = dict(self._closed)
            if self._current is not None:
                ended = self._current.head.epoch
                closed[ended] = FileEntry(ended, self._current.end)
            self._write_manifest([*closed.values(), FileEntry(number, 0)])
        except BaseException:
            file.close()
            self._undo(number, name)
            raise
        if self._current is not None:
            self.just_closed.append((self._current.head.epoch, self._current.holds))
            self._leave(self._current, abandon)
        self._closed = closed
        self._current = OpenFile(file, head, growing)
        self.begun += 1

    def _undo(self, number: int, name: str) -> None:
        """Remove a file that could not be begun, so that retries do not pile up files.

        Not if the manifest may list it: then its absence would look like a loss.
        """
        with contextlib.suppress(OSError, wal_format.MalformedHead):
            manifest = wal_format.decode_manifest(self._disk.read_file(join(self._directory, MANIFEST)))
            if all(entry.number != number for entry in manifest):
                for leftover in (name, file_name(number)):
                    if self._disk.exists(join(self._directory, leftover)):
                        self._disk.unlink(join(self._directory, leftover))

    def _blank(self, number: int) -> tuple[DiskFile, str, bool]:
        """A file to begin: a spare if there is one, else a new file that will grow."""
        while self.spares:
            name = self.spares.pop()
            with contextlib.suppress(OSError):  # an unusable spare is no reason to stop
                return self._disk.open(join(self._directory, name)), name, False
        name = f"spare-{number:017}.wal"
        return self._disk.create(join(self._directory, name)), name, True

    def _leave(self, ended: OpenFile, abandon: bool) -> None:
        """Close the previous file. The manifest has its end, so no error here matters."""
        with contextlib.suppress(OSError):
            if not abandon and ended.file.size() > 2 * ended.end:
                ended.file.truncate(
                    ended.end
                )  # most are nearly full; `trim` cuts the others at the next start
        with contextlib.suppress(OSError):
            ended.file.close()

    def trim(self) -> None:
        """Cut closed files where their content ends, and give back the rest.

        A life that ends without `close` leaves its last file at the size to which it was zero-filled. What
        lies behind the end never counts, so this needs no sync, and a crash only makes it happen again.
        """
        for entry in self._closed.values():
            file = self._disk.open(join(self._directory, file_name(entry.number)))
            try:
                if file.size() > entry.end:
                    file.truncate(entry.end)
            finally:
                file.close()

    def retire(self, numbers: Sequence[int]) -> None:
        """Recycle or remove closed files that no log needs any more.

        The manifest forgets them first: a crash in between leaves files older than the newest
        one and not in the manifest, and recovery takes those for what they are. Raises `OSError`: calling
        again is right.
        """
        kept = {number: entry for number, entry in self._closed.items() if number not in numbers}
        current = [] if self._current is None else [FileEntry(self._current.head.epoch, 0)]
        self._write_manifest([*kept.values(), *current])
        self._closed = kept
        for number in numbers:
            if self._disk.exists(join(self._directory, file_name(number))):
                self.recycle(file_name(number))
        self._disk.fsync_dir(self._directory)

    def recycle(self, name: str) -> None:
        """Keep an unneeded file as a spare if it is big enough and there is room, else remove it."""
        path = join(self._directory, name)
        file = self._disk.open(path)
        size = file.size()
        file.close()
        linked = file_number(name) in self.linked
        if not linked and 2 * size >= self.max_size_bytes and len(self.spares) < SPARES_MAX:
            spare = name if is_spare(name) else f"spare-{name}"
            if spare != name:
                self._disk.rename(path, join(self._directory, spare))
            self.spares.append(spare)
        else:
            self._disk.unlink(path)

    def drop_spares(self) -> None:
        """Remove the spare files: something else needs their space. Raises `OSError`."""
        while self.spares:
            self._disk.unlink(join(self._directory, self.spares[-1]))
            self.spares.pop()

    def close(self, sealed: bool) -> None:
        """Close the current file; with `sealed`, the manifest says where it ends.

        Then even its very last record can no longer be mistaken for a torn tail.
        """
        if self._current is None:
            return
        ended, self._current = self._current, None
        try:
            if sealed:
                number = ended.head.epoch
                self._write_manifest([*self._closed.values(), FileEntry(number, ended.end)])
        except BaseException:
            sealed = False
            raise
        finally:
            self._leave(ended, abandon=not sealed)

    def _write_manifest(self, files: list[FileEntry]) -> None:
        replace_file(self._disk, self._directory, MANIFEST, wal_format.encode_manifest(files))

    def take_number(self) -> int:
        """A number for a spare file that is being prepared."""
        number = self._next_number
        self._next_number += 1
        return number


class SparePreparer:
    """Zero-fills the next file in a thread, slice by slice, so that no flush waits for it.

    Syncing an overwritten block takes about half the time of syncing a block that makes the file grow.
    A spare that cannot be prepared is not missed: the next file grows instead. So a nearly full disk gets
    none, and after a failure the next attempt waits, longer each time. Times are in seconds, monotonic.
    """

    def __init__(self, disk: Disk, directory: str, size_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._size_bytes = size_bytes
        self._thread: threading.Thread | None = None
        self._stop = False
        self._ready: str | None = None
        self._pause_s = 0.0
        self._not_before = -math.inf

    def may_begin(self, now: float) -> bool:
        """Whether to prepare a spare: none is under way, no pause is on, and there is space in plenty."""
        if self._thread is not None or now < self._not_before:
            return False
        try:
            return self._disk.free_bytes(self._directory) >= SPARE_SHARE * self._size_bytes
        except OSError:
            return False

    def prepare(self, number: int) -> None:
        """Begin to prepare the spare file of that number."""
        name = f"spare-{number:017}.wal"
        self._ready = None
        self._thread = threading.Thread(target=self._run, args=(name,), name="barque-wal-spare", daemon=True)
        self._thread.start()

    def poll(self, now: float) -> str | None:
        """The name of the spare that has become ready since the last call; after a failure a pause begins."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        ready, self._ready = self._ready, None
        if ready is None:
            self._pause_s = min(2 * self._pause_s or PAUSE_S_MIN, PAUSE_S_MAX)
            self._not_before = now + self._pause_s
        else:
            self._pause_s = 0.0
        return ready

    def _run(self, name: str) -> None:
        path = join(self._directory, name)
        try:
            file = self._disk.create(path)
            try:
                for offset in range(0, self._size_bytes, len(_SLICE)):
                    if self._stop:
                        break
                    # A sync for each slice: one for the whole file would hold up the log's own.
                    file.pwritev([_SLICE[: self._size_bytes - offset]], offset, sync=True)
            finally:
                file.close()
            if self._stop:
                self._disk.unlink(path)
            else:
                self._ready = name
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.unlink(path)

    def close(self) -> None:
        """Stop; a half-made spare is removed."""
        self._stop = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
