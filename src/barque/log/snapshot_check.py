"""Whether the current snapshot is still what was written: looked at when it could not be sent.

A start checks every byte. A file that rots later is found by the members that it is sent to: they refuse it,
again and again, and its own server would notice nothing. So the store checks it once more, beside the loop,
when a receiver has refused the whole of it, or when it could not be read.

A damaged snapshot is no longer sent. Nothing else can be taken in its place: older ones are gone, and so are
the entries that it stands for. But the machine's state in memory is sound, so the next state that the machine
offers (`ReleaseCursor`) is due at once, and replaces the file. Each attempt to send looks again: an operator
may have restored it.
"""

from barque.errors import StorageError
from barque.log.background import Job
from barque.log.disk import Disk
from barque.log.module_files import check_files
from barque.log.snapshot_files import Kept, opened
from barque.log.snapshot_format import MalformedSnapshot, read_state


def check_job(disk: Disk, kept: Kept) -> Job:
    """Read a whole snapshot, a piece in a step. Raises `MalformedSnapshot` or `OSError`."""
    with opened(disk, kept.path) as (file, found):
        for _ in read_state(file.pread, found):
            yield
        if found.description.module is not None:
            check_files(disk, kept.path, found.description.module)


class SnapshotCheck:
    """What the checks of one server's snapshots have found. Only the newest snapshot matters."""

    __slots__ = ("_checking", "_damaged", "_unread", "damaged_count")

    def __init__(self) -> None:
        self.damaged_count = 0
        self._checking: Kept | None = None
        self._damaged: Kept | None = None
        self._unread: Kept | None = None

    def begin(self, kept: Kept) -> bool:
        """Whether this snapshot is to be checked now; it is not if that is under way."""
        if kept is self._checking:
            return False
        self._checking = kept
        return True

    def end(self, kept: Kept, error: Exception | None) -> str | None:
        """Take the end of a check; return what an operator must hear, if that is new."""
        known = kept is self._damaged, kept is self._unread
        self._checking = None
        self._damaged = kept if isinstance(error, MalformedSnapshot) else None
        self._unread = kept if error is not None and self._damaged is None else None
        if (kept is self._damaged, kept is self._unread) == known or error is None:
            return None
        if self._unread is kept:
            return f"{kept.path}: cannot be read: {error}"
        self.damaged_count += 1
        return f"{kept.path}: damaged since it was written, and no longer sent: {error}"

    def replace_soon(self, kept: Kept | None) -> bool:
        """Whether a new snapshot is due, however little is new."""
        return kept is not None and (kept is self._damaged or kept is self._unread)

    def refuse_damaged(self, kept: Kept) -> None:
        """Raise `StorageError` if this snapshot cannot be sent."""
        if kept is self._damaged:
            raise StorageError(f"{kept.path}: damaged; the next state that the machine offers replaces it")
