"""Watches the space that is left for a data directory, and says when a node takes no new commands.

A disk that is full stops the log in the middle of its work, and a leader with it. So the node stops earlier:

- below a limit its leaders refuse new commands, while replication, reads, membership changes and deletions
  go on;
- below half of the limit its followers take no commands from leaders on other nodes, either, and no
  snapshots. The rest is for what needs little or makes room: terms and votes, changes of members, deletions,
  segments that free a log file.

It looks once a second, not at each command. Page: docs/operations/disk.md.
"""

from barque.log.disk import Disk

_FREE_BYTES = 256 * 1024 * 1024
_WAL_FILES = 2
_SHARE = 10


def default_limit(wal_max_size_bytes: int, total_bytes: int) -> int:
    """The limit of a configuration that names none: two log files, at least 256 MiB.

    On a small file system it is a tenth of all space.
    """
    return min(max(_WAL_FILES * wal_max_size_bytes, _FREE_BYTES), total_bytes // _SHARE)


class DiskGuard:
    """`full` is set below `min_bytes` of free space, `critical` below half of it.

    Each is cleared when there is a quarter more than the bound that set it.
    """

    __slots__ = ("_directory", "_disk", "critical", "free_bytes", "full", "min_bytes")

    def __init__(self, disk: Disk, directory: str, min_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self.min_bytes = min_bytes
        self.full = False
        self.critical = False
        self.free_bytes: int | None = None

    @property
    def resume_bytes(self) -> int:
        """How much must be free before commands are taken again: a limit alone would flap."""
        return self.min_bytes + self.min_bytes // 4

    def look(self) -> bool:
        """Measure; returns whether a flag has changed. A disk that does not answer changes nothing."""
        try:
            self.free_bytes = self._disk.free_bytes(self._directory)
        except OSError:
            return False
        was = self.full, self.critical
        self.full = self.free_bytes < (self.resume_bytes if self.full else self.min_bytes)
        self.critical = self.free_bytes < (self.resume_bytes if self.critical else self.min_bytes) // 2
        return (self.full, self.critical) != was

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether so much may be taken for something that is not needed, as it seems now."""
        return self.free_bytes is not None and self.free_bytes - size_bytes >= self.resume_bytes

    def reason(self) -> str:
        """Why no commands are taken, and what helps."""
        until = f"until {self.resume_bytes // 2} are free"
        followers = f"; this node's followers take no commands and no snapshots {until}"
        return (
            f"{self._directory}: {self.free_bytes} bytes are free, fewer than disk_free_min_bytes "
            f"({self.min_bytes}): new commands are refused until {self.resume_bytes} are free"
            f"{followers if self.critical else ''}"
        )

    def overview(self) -> dict[str, int | bool | None]:
        """Facts for an operator."""
        return {
            "disk_free_bytes": self.free_bytes,
            "disk_free_min_bytes": self.min_bytes,
            "disk_full": self.full,
            "disk_critical": self.critical,
        }
