"""Losses of power at every operation of a disk: photographs of it, and all that may become of them.

A *film* is the disk before each of its operations, with what a test must find on it afterwards. The state
before a read is the state before the next operation, so it is kept only if the promise changes in between.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from barque.testing.sim.disk import SimDisk

EVERY = 1 if os.environ.get("BARQUE_ALL_CRASH_POINTS") else 9
"""One in so many points also has its recovery cut, at each of its operations; all of them take minutes."""

FATES = ("all lost", "all kept", "every other", "any subset", "prefix of each file", "prefix of all")
"""What a crash keeps of what was not synced: see `_Fate`."""

_READS = ("open", "pread", "read_file", "listdir")

Promise = TypeVar("Promise")


class _Fate:
    """One of `FATES`.

    A prefix of each file (and of the changes of names) ends at a sector that chance names; a prefix of all
    ends within one operation, and everything before that operation is there, whatever file it was for.
    """

    def __init__(self, name: str, disk: SimDisk) -> None:
        self._name = name
        self._random = random.Random(f"{name} {disk.operations}")
        self._turn = 0
        self._ended: set[str] = set()
        orders = disk.unsynced_orders
        self._end = self._random.choice([*orders, disk.operations + 1]) if orders else 0

    def keeps(self, file: str, order: int) -> bool:
        """See `barque.testing.sim.disk.Fate`."""
        self._turn += 1
        match self._name:
            case "all lost":
                return False
            case "all kept":
                return True
            case "every other":
                return self._turn % 2 == 0
            case "any subset":
                return self._random.random() < 0.5
            case "prefix of each file":
                return self._goes_on(file)
            case "prefix of all":
                return order < self._end or (order == self._end and self._goes_on(file))
            case _:
                raise AssertionError(f"no such fate: {self._name}")

    def _goes_on(self, file: str) -> bool:
        if file not in self._ended and self._random.random() < 0.25:
            self._ended.add(file)
        return file not in self._ended


def crashed(disk: SimDisk, fate: str) -> SimDisk:
    """A copy of this disk after the power failed."""
    other = disk.fork(random.Random(f"{fate} {disk.boots}"))
    other.crash(_Fate(fate, disk))
    return other


def looks_like(disk: SimDisk, other: SimDisk, path: str = "") -> bool:
    """Whether processes would read the same on both."""
    names = disk.listdir(path)
    if names != other.listdir(path):
        return False
    for inner in (f"{path}/{name}" for name in names):
        if disk.is_dir(inner) != other.is_dir(inner):
            return False
        if disk.is_dir(inner):
            if not looks_like(disk, other, inner):
                return False
        elif disk.read_file(inner) != other.read_file(inner):
            return False
    return True


class PowerLost(BaseException):
    """No clean-up reaches the disk any more."""


def die_at(disk: SimDisk, operations: int) -> None:
    """Let the power fail at one of the next operations of this disk, counted from 1."""
    end = disk.operations + operations

    def fail(_operation: str, _path: str) -> None:
        if disk.operations >= end:
            raise PowerLost

    disk.fault = fail


class Point(NamedTuple, Generic[Promise]):
    """A moment: the next operation, the disk before it, and what must be found."""

    operation: str
    disk: SimDisk
    promise: Promise


class Film(Generic[Promise]):
    """Photographs a disk before each of its operations; `promise` says what must be found on it then."""

    def __init__(self, disk: SimDisk, promise: Callable[[], Promise]) -> None:
        self.points: list[Point[Promise]] = []
        self.operations = 0
        """How many there were; some of them left the disk as it was."""
        self._disk = disk
        self._promise = promise
        self._last_read = False
        self.roll()

    def roll(self) -> None:
        """From here on each operation counts, until another fault is set."""
        self._disk.fault = self._photograph

    def _photograph(self, operation: str, path: str) -> None:
        self._disk.fault = None  # what the test reads for its promise is not filmed
        before = self._disk.operations
        promise = self._promise()
        self._disk.operations = before
        self.operations += 1
        if self._last_read and self.points[-1].promise == promise:
            self.points.pop()
        self._last_read = operation in _READS
        self.points.append(Point(f"{operation} {path}", self._disk.fork(), promise))
        self.roll()


def outcomes(points: Sequence[Point[Promise]], fate: str) -> Iterator[tuple[str, SimDisk, Promise]]:
    """The disks after a loss of power at these points, each with a text that says where it was.

    A disk that looks like the one before, with the same promise, is left out: all would be the same again.
    """
    before: tuple[SimDisk, Promise] | None = None
    for number, (operation, disk, promise) in enumerate(points):
        found = crashed(disk, fate)
        if before is None or before[1] != promise or not looks_like(before[0], found):
            before = found.fork(), promise
            yield f"power lost at {number} ({operation}), {fate}", found, promise


def outcomes_of_cut_starts(
    points: Sequence[Point[Promise]], fate: str, start: Callable[[SimDisk], object]
) -> Iterator[tuple[str, SimDisk, Promise]]:
    """The same for starts on those disks, which lose power at each of their own operations."""
    for place, disk, promise in outcomes(points, fate):
        film = Film(disk, lambda promise=promise: promise)  # type: ignore[misc]  # bound in this turn
        start(disk)
        disk.fault = None
        for cut, again, _ in outcomes(film.points, fate):
            yield f"{place}, and in the recovery: {cut}", again, promise
