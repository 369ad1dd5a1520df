"""The power fails at every disk operation of a life: starts, appends, votes, overwriting, deletion, stops.

Each point is tried with four outcomes for what was not synced, and for some of them recovery itself is cut at
each of its own operations. What was reported as written, and every synced vote, must be there afterwards.
"""

import copy
import os
import random
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import NamedTuple

import pytest
from tests.kit.storage import OTHER, SMALL, UID, Node, batch, content

from barque.core.entries import decode_head, payloads_of
from barque.testing.sim.disk import SimDisk
from barque.types import Index, ServerId, Term, Uid

EVERY = 1 if os.environ.get("BARQUE_ALL_CRASH_POINTS") else 9
"""One in so many points also has its recovery cut, at each of its operations; all of them take minutes."""
ME = ServerId("m", "n")
Entries = list[tuple[int, int, bytes]]


class PowerLost(BaseException):
    """No clean-up reaches the disk any more."""


class Fate(random.Random):
    """Decides what a crash keeps of what was not synced."""

    def __new__(cls, *_: object) -> "Fate":
        return super().__new__(cls)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.turn = 0

    def random(self) -> float:
        """Below 0.5: this sector, or this name, is kept."""
        self.turn += 1
        fixed = {"all lost": 1.0, "all kept": 0.0, "every other": float(self.turn % 2)}
        return fixed.get(self.name, super().random())

    def __deepcopy__(self, _memo: object) -> "Fate":
        return Fate(self.name)


FATES = ("all lost", "all kept", "every other", "any subset")


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
        self.points: list[tuple[str, SimDisk, dict[Uid, Promise]]] = []
        self.disk.fault = self._photograph
        self.node = Node(self.disk, SMALL)

    def _photograph(self, operation: str, path: str) -> None:
        self.disk.fault = None
        self.points.append((f"{operation} {path}", copy.deepcopy(self.disk), dict(self.promises)))
        self.disk.fault = self._photograph

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


@pytest.fixture(scope="module")
def points() -> list[tuple[str, SimDisk, dict[Uid, Promise]]]:
    """The disk and the promises at each operation of a life."""
    return _live().points


def _crashed(disk: SimDisk, fate: str) -> SimDisk:
    """A copy of this disk after the power failed."""
    other = copy.deepcopy(disk)
    other.random = Fate(fate)
    other.crash()
    return other


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


def _die_at(disk: SimDisk, operations: int) -> Callable[[str, str], BaseException | None]:
    end = disk.operations + operations
    return lambda _operation, _path: PowerLost() if disk.operations >= end else None


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation(
    points: list[tuple[str, SimDisk, dict[Uid, Promise]]], fate: str
) -> None:
    """Whatever the disk keeps of what was not synced."""
    assert len(points) > 150
    for number, (operation, disk, promises) in enumerate(points):
        problems = list(_broken(_crashed(disk, fate), promises))
        assert not problems, f"power lost at operation {number} ({operation}), {fate}: {problems}"


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_again_at_any_operation_of_recovery(
    points: list[tuple[str, SimDisk, dict[Uid, Promise]]], fate: str
) -> None:
    """Recovery can be cut anywhere, and nothing that it had saved is lost."""
    for number, (operation, disk, promises) in enumerate(points[FATES.index(fate) :: EVERY]):
        once, cut = _crashed(disk, fate), 0
        while True:
            cut += 1
            again = copy.deepcopy(once)
            again.fault = _die_at(again, cut)  # type: ignore[assignment]
            try:
                Node(again, SMALL)
            except PowerLost:
                again.fault = None
                problems = list(_broken(_crashed(again, fate), promises))
                text = f"at operation {number} ({operation}) and at {cut} of the recovery"
                assert not problems, f"power lost {text}, {fate}: {problems}"
            else:
                break
