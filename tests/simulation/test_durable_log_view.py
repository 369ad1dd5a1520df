"""A view of a disk reads only what is new, and tells what a recovery from scratch would tell."""

import random

from tests.kit.storage import DATA, OTHER, SMALL, UID, WAL, Node, batch

from barque.core.entries import EntryBatch
from barque.log.memtable import Memtable
from barque.testing.checkers.durable_log_view import SCRATCH_EVERY, DurableLogView
from barque.testing.sim.disk import SimDisk


def entries_of(log: Memtable) -> list[EntryBatch]:
    """Every entry as a batch of its own, however they are batched."""
    parts = log.read(1, log.last().index, 1 << 30, 1 << 30)
    return [
        part.cut(index, index) for part in parts for index in range(part.first_index, part.last_index + 1)
    ]


def test_it_says_what_a_recovery_says() -> None:
    """They agree over appends, overwrites, roll-overs, failed syncs, kills and losses of power."""
    shortcuts = 0
    for seed in range(60):
        rng = random.Random(seed)
        node = Node(SimDisk(random.Random(seed)), SMALL)
        view = DurableLogView(node.disk, DATA)
        term = 1
        for _ in range(60):
            uid = rng.choice((UID, OTHER))
            log = node.storage.log(uid)
            match rng.randrange(12):
                case 0:
                    node.crash()
                case 1:
                    node.kill()
                case 2 | 3 if log.next_index() > 2:
                    term += 1
                    log.write([batch(rng.randrange(1, log.next_index()), term, rng.randrange(1, 4))])
                case 4:
                    node.tick()
                case 5 | 6:
                    node.storage.sync_meta()
                    node.sync()
                case _:
                    log.append(batch(log.next_index(), term, rng.randrange(1, 4), b"x" * rng.randrange(200)))
            if node.disk.exists(WAL) and rng.random() < 0.7:
                for known in (UID, OTHER):
                    found, right = view.log(known), view.from_scratch(known)
                    assert found.last() == right.last(), f"seed {seed}"
                    assert entries_of(found) == entries_of(right), f"seed {seed}"
        shortcuts += 2 * view.looks - view.scratches
    assert shortcuts > 1_000


def test_now_and_then_it_starts_from_scratch() -> None:
    """One look in `SCRATCH_EVERY` is a recovery by production's code."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    node.storage.sync_meta()
    node.sync()
    view = DurableLogView(node.disk, DATA)
    for _ in range(2 * SCRATCH_EVERY):
        assert view.log(UID).last().index == 1
    assert view.scratches == 2
