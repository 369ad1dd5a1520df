"""The power fails at every disk operation of a life: starts, appends, votes, overwriting, deletion, stops.

Each point is tried with every fate of what was not synced, and for some of them recovery itself is cut at
each of its own operations. What was reported as written, and every synced vote, must be there afterwards.
"""

import random
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import pytest
from tests.kit.crashes import EVERY, FATES, Film, Point, outcomes, outcomes_of_cut_starts
from tests.kit.storage import OTHER, SMALL, UID, Node, batch, content

from barque.core.entries import decode_head, payloads_of
from barque.testing.sim.disk import SimDisk
from barque.types import Index, ServerId, Term, Uid

ME = ServerId("m", "n")
Entries = list[tuple[int, int, bytes]]


class Promise(NamedTuple):
    """What a server has on disk for sure, and what it will have when the present step is over."""

    held: Entries
    wanted: Entries
    vote: int = 0
    wanted_vote: int = 0
    deleted: bool = False

    def problem(self, found: Entries | None, vote: int) -> str:
        """What a recovered server broke of it; empty if nothing. `found` is None for a deleted server."""
        if found is None:
            return "" if self.deleted else "a server is gone"
        common = len(
            list(takewhile(lambda pair: pair[0] == pair[1], zip(self.held, self.wanted, strict=False)))
        )
        replaced = found == self.wanted[: len(found)] and len(found) > common
        if found != self.held and not replaced:
            return f"had {self.held}, was to have {self.wanted}, has {found}"
        if vote not in (self.vote, self.wanted_vote):
            return f"voted in term {self.vote}, was to vote in {self.wanted_vote}, remembers {vote}"
        return ""


class Life:
    """Runs the steps, and photographs the disk before each of its operations."""

    def __init__(self) -> None:
        self.disk = SimDisk(random.Random(1))
        self.promises = {uid: Promise([], []) for uid in (UID, OTHER)}
        self.film = Film(self.disk, lambda: dict(self.promises))
        self.node = Node(self.disk, SMALL)

    def write(self, uid: Uid, first: int, count: int, term: int = 1) -> None:
        """Add entries, or put them in the place of others."""
        part = batch(first, term, count, b"x" * 90)
        bodies = payloads_of(part.body, part.count, decode_head(part.body))
        new = [(first + i, term, bytes(payload)) for i, payload in enumerate(bodies)]
        promise = self.promises[uid]
        self.promises[uid] = promise._replace(wanted=[*promise.held[: first - 1], *new])
        log = self.node.storage.log(uid)
        if first == log.next_index():
            log.append(part)
        else:
            log.write([part])

    def vote(self, uid: Uid, term: int) -> None:
        """Store a vote, and sync it."""
        self.promises[uid] = self.promises[uid]._replace(wanted_vote=term)
        self.node.storage.meta.store(uid, Term(term), ME)
        self.node.storage.sync_meta()
        self.promises[uid] = self.promises[uid]._replace(vote=term)

    def sync(self) -> None:
        """Flush; what is reported as written is promised."""
        self.node.sync()
        for uid, promise in self.promises.items():
            if not promise.deleted:
                self.promises[uid] = promise._replace(held=promise.wanted)

    def delete(self, uid: Uid) -> None:
        """Let a server be gone for good."""
        self.promises[uid] = self.promises[uid]._replace(deleted=True)
        self.node.storage.delete(uid)
        for _ in range(8):
            self.node.tick()

    def restart(self) -> None:
        """An orderly stop, and a start."""
        self.node.storage.close()
        self.node.open()


def _live() -> Life:
    life = Life()
    for first in range(1, 13, 3):
        life.write(UID, first, 3)
        life.write(OTHER, first, 3)
        life.sync()
    life.vote(UID, 2)
    life.write(UID, 8, 2, term=2)
    life.sync()
    life.node.storage.meta.store_last_applied(UID, Index(8))
    life.restart()
    life.vote(OTHER, 3)
    life.node.storage.log(UID).set_last_index(Index(4))
    life.write(UID, 5, 6, term=3)
    life.write(OTHER, 13, 1)
    life.sync()
    life.delete(OTHER)
    for first in range(11, 20, 3):
        life.write(UID, first, 3, term=4)
        life.sync()
    life.restart()
    life.vote(UID, 5)
    return life


Points = list[Point[dict[Uid, Promise]]]


@pytest.fixture(scope="module")
def points() -> Points:
    """The disk and the promises at each operation of a life."""
    film = _live().film
    assert film.operations > 150
    return film.points


def _broken(disk: SimDisk, promises: dict[Uid, Promise]) -> Iterator[str]:
    """What a start on this disk shows to be broken. It must be able to go on, too."""
    storage = Node(disk, SMALL).storage
    for uid, promise in promises.items():
        record = storage.meta.read(uid)
        found = None if storage.meta.is_deleted(uid) else content(storage, uid)
        voted = record is not None and record.voted_for == ME
        problem = promise.problem(found, record.current_term if voted and record is not None else 0)
        if problem:
            yield f"{uid}: {problem}"
    fresh = Uid("gamma")
    storage.log(fresh).append(batch(1))
    while storage.pending:
        storage.flush()


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation(points: Points, fate: str) -> None:
    """Whatever the disk keeps of what was not synced."""
    for place, disk, promises in outcomes(points, fate):
        problems = list(_broken(disk, promises))
        assert not problems, f"{place}: {problems}"


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_again_at_any_operation_of_recovery(points: Points, fate: str) -> None:
    """Recovery can be cut anywhere, and nothing that it had saved is lost."""
    some = points[FATES.index(fate) :: EVERY]
    for place, disk, promises in outcomes_of_cut_starts(some, fate, lambda disk: Node(disk, SMALL)):
        problems = list(_broken(disk, promises))
        assert not problems, f"{place}: {problems}"
