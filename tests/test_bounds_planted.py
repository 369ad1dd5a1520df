"""Planted bugs of the bounds: the pipeline's bytes, the disk guard, spare files, the count of memory.

Each is found by a test of the part that it is in.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from barque.core import replication
from barque.core.state import Peer
from barque.log.disk_guard import DiskGuard
from barque.log.memtable import Memtable
from barque.log.wal_files import WalFiles
from barque.types import Index
from tests.core import test_replication
from tests.log import test_disk_guard, test_memtable, test_storage

Test = Callable[[], object]


def nothing(*_: Any) -> None:
    """Do nothing."""


def count_without_limit(peer: Peer, index: Index) -> None:
    """Take the acknowledgement, and let the bytes stay in flight."""
    peer.match_index = max(peer.match_index, index)


def unbounded() -> Any:
    """Let the pipeline forget that anything is in flight."""
    real = replication.pipelined_rpcs

    def forget(server: Any, *, force: bool = False) -> Any:
        for _, peer in server.peers:
            peer.give_up_sent()
        return real(server, force=force)

    return patch.object(test_replication, "pipelined_rpcs", forget)


def full_for_ever(guard: DiskGuard) -> bool:
    """Set the flag, and never clear it."""
    guard.free_bytes = guard._disk.free_bytes(guard._directory)
    was, guard.full = guard.full, guard.full or guard.free_bytes < guard.min_bytes
    return guard.full is not was


PLANTED: dict[str, tuple[Callable[[], Any], Test]] = {
    "acknowledged bytes stay in flight": (
        lambda: patch.object(Peer, "acknowledge", count_without_limit),
        test_replication.test_the_pipeline_is_bounded_in_bytes,
    ),
    "bytes in flight are not bounded": (unbounded, test_replication.test_the_pipeline_is_bounded_in_bytes),
    "lost bytes stay in flight": (
        lambda: patch.object(Peer, "give_up_sent", nothing),
        test_replication.test_lost_rpcs_make_room_when_the_peer_asks_again,
    ),
    "a new term inherits what was in flight": (
        lambda: patch.object(Peer, "give_up_sent", nothing),
        test_replication.test_a_new_term_begins_with_an_empty_pipeline,
    ),
    "the guard flaps": (
        lambda: patch.object(
            DiskGuard, "resume_bytes", new_callable=lambda: property(lambda guard: guard.min_bytes)
        ),
        test_disk_guard.test_it_is_set_below_the_limit_and_cleared_well_above,
    ),
    "the guard never ends": (
        lambda: patch.object(DiskGuard, "look", full_for_ever),
        test_disk_guard.test_it_is_set_below_the_limit_and_cleared_well_above,
    ),
    "spare files stay on a full disk": (
        lambda: patch.object(WalFiles, "drop_spares", nothing),
        lambda: test_storage.test_spare_files_leave_the_space_that_the_guard_wants(True),
    ),
    "spare files take the space that the guard wants": (
        lambda: patch.object(DiskGuard, "has_room_for", return_value=True),
        lambda: test_storage.test_spare_files_leave_the_space_that_the_guard_wants(False),
    ),
    "a cut of a batch is not counted": (
        lambda: patch.object(Memtable, "_replace", keep_uncounted),
        test_memtable.test_bytes_are_counted_as_batches_come_and_go,
    ),
}


def keep_uncounted(memtable: Memtable, place: int, part: Any) -> Any:
    """Keep a part of a batch, and the count of the whole."""
    memtable._batches[place] = part
    return part


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    """The test passes without the bug, and fails with it."""
    plant, test = PLANTED[name]
    test()
    with plant(), pytest.raises((AssertionError, BaseExceptionGroup)):
        test()
