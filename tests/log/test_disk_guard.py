"""Below a limit of free space a node takes no new commands, and its spare files give their space back."""

import random

import pytest

from barque.log.disk_guard import DiskGuard, default_limit
from barque.testing.sim.disk import SimDisk

MIB = 1 << 20


@pytest.mark.parametrize(
    ("wal", "total", "limit"),
    [
        (64 * MIB, 1 << 40, 256 * MIB),
        (1024 * MIB, 1 << 40, 2048 * MIB),
        (64 * MIB, 1024 * MIB, 1024 * MIB // 10),
        (4 * MIB, 20 * MIB, 2 * MIB),
    ],
    ids=["usual", "large log files", "small disk", "tiny disk"],
)
def test_the_default_limit(wal: int, total: int, limit: int) -> None:
    """Two log files, at least 256 MiB, and never more than a tenth of the disk."""
    assert default_limit(wal, total) == limit


def test_it_is_set_below_the_limit_and_cleared_well_above() -> None:
    """A node whose free space wavers about the limit does not flap; each change is told once."""
    disk = SimDisk(random.Random(1))
    disk.space = 1_000
    guard = DiskGuard(disk, "/data", 1_000)
    changes = []
    for space in (1_000, 999, 999, 1_000, 1_249, 1_250, 1_000, 500):
        disk.space = space
        changes.append((guard.look(), guard.full))
    assert changes == [
        (False, False),
        (True, True),
        (False, True),
        (False, True),
        (False, True),
        (True, False),
        (False, False),
        (True, True),
    ]
    assert "500 bytes are free" in guard.reason()
    assert guard.overview() == {
        "disk_free_bytes": 500,
        "disk_free_min_bytes": 1_000,
        "disk_full": True,
        "disk_critical": False,
    }


def test_below_half_of_the_limit_followers_stop_as_well() -> None:
    """The second bound has the same distance between set and cleared, and every change is told."""
    disk = SimDisk(random.Random(1))
    guard = DiskGuard(disk, "/data", 1_000)
    changes = []
    for space in (999, 500, 499, 624, 625, 1_249, 0, 1_250):
        disk.space = space
        changes.append((guard.look(), guard.full, guard.critical))
    assert changes == [
        (True, True, False),
        (False, True, False),
        (True, True, True),
        (False, True, True),
        (True, True, False),
        (False, True, False),
        (True, True, True),
        (True, False, False),
    ]
    disk.space = 10
    guard.look()
    assert "10 bytes are free" in guard.reason()
    assert "followers take no commands and no snapshots until 625 are free" in guard.reason()


def test_a_disk_that_does_not_answer_changes_nothing() -> None:
    """Whether it fails is the log's business."""

    class Silent(SimDisk):
        def free_bytes(self, path: str) -> int:
            raise OSError(5, "EIO", path)

    guard = DiskGuard(Silent(random.Random(1)), "/data", 1_000)
    assert not guard.look()
    assert not guard.full
    assert not guard.critical
    assert not guard.has_room_for(1)


def test_zero_switches_it_off() -> None:
    """Even a disk without a byte left is not full then."""
    disk = SimDisk(random.Random(1))
    disk.space = 0
    guard = DiskGuard(disk, "/data", 0)
    assert not guard.look()
    assert not guard.full
