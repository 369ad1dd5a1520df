"""The power fails at every disk operation of writing, promoting, receiving, installing and thinning.

Each point is tried with four outcomes for what was not synced, and some starts are themselves cut at each of
their operations. What was reported must be there, whole; nothing half-done may count, or be left over.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import pytest
from tests.kit.snapshots import (
    CHECKPOINT,
    DIR,
    RECOVERY,
    SNAPSHOT,
    Node,
    file_at,
    live_segment,
    state_at,
)
from tests.log.test_crash_points import EVERY, FATES, Fate, PowerLost

from barque.core.log_contract import Log
from barque.log.snapshot_format import indexes_of
from barque.testing.sim.disk import SimDisk
from barque.types import Index

LIVE = [3, 4, 9]


class Point(NamedTuple):
    """A moment: the next operation, the disk before it, and the snapshot that the process went by."""

    operation: str
    disk: SimDisk
    reported: int


class Filming:
    """Runs a scenario, and photographs the disk before each of its operations."""

    def __init__(self) -> None:
        self.node = Node(SimDisk(Fate("all kept")))
        self.points: list[Point] = []

    def film(self, disk: SimDisk) -> None:
        """From here on each operation counts."""

        def photograph(operation: str, path: str) -> None:
            disk.fault = None
            self.points.append(Point(f"{operation} {path}", copy.deepcopy(disk), self.node.current()))
            disk.fault = photograph

        disk.fault = photograph

    def end(self, disk: SimDisk) -> list[Point]:
        """The points, and one more behind the last operation."""
        disk.fault = None
        return [*self.points, Point("the end", copy.deepcopy(disk), self.node.current())]


def writing(film: Filming) -> int:
    """A newer snapshot, which replaces the older one and two checkpoints."""
    film.node.write(SNAPSHOT, 20, live=LIVE)
    return 20


def checkpointing(film: Filming) -> int:
    """A checkpoint, after which one of the older ones is thinned out."""
    film.node.write(CHECKPOINT, 20)
    return 10


def promoting(film: Filming) -> int:
    """The newer checkpoint becomes the snapshot."""
    assert film.node.store.promote_checkpoint(Index(14))
    film.node.run()
    return 14


def installing(film: Filming) -> int:
    """A leader's snapshot with survivors is received and installed."""
    film.node.receive(20, live=LIVE)
    film.node.store.complete_accept(b"".join)
    film.node.run()
    film.node.store.install_accepted()
    film.node.run()
    return 20


def aborting(film: Filming) -> int:
    """A transfer is broken off, and another one begins."""
    film.node.receive(20, live=LIVE)
    film.node.receive(21)
    film.node.store.abort_accept()
    film.node.run()
    return 10


def stopping(film: Filming) -> int:
    """An orderly stop keeps the state."""
    assert film.node.begin(RECOVERY, 20)
    assert film.node.begin(RECOVERY, 22)
    return 10


Scenario = Callable[[Filming], int]
SCENARIOS: list[Scenario] = [writing, checkpointing, promoting, installing, aborting, stopping]


def filmed(scenario: Scenario) -> tuple[list[Point], int]:
    """All points of a scenario that begins with a snapshot and checkpoints, and the snapshot in the end."""
    film = Filming()
    film.node.write(SNAPSHOT, 10)
    for index in (12, 14, 16):
        film.node.write(CHECKPOINT, index)
    disk = film.node.disk
    assert isinstance(disk, SimDisk)
    film.film(disk)
    last = scenario(film)
    return film.end(disk), last


def problem(disk: SimDisk, point: Point, last: int) -> str:
    """What a start on this disk finds wrong; empty if nothing."""
    node = Node(disk)
    node.worker.run_until_idle()
    current = node.current()
    if current not in (10, last) or current < point.reported:
        return f"snapshot {current} counts, and {point.reported} was reported"
    if node.state() != state_at(current):
        return "the state is another one"
    if node.store.notes or node.indexes(SNAPSHOT) != [current]:
        return f"{node.store.notes}, {node.directories(SNAPSHOT)}"
    live = list(indexes_of(node.store.live_ranges()))
    if live:
        path = node.store.live_file()
        received = path is not None and disk.read_file(path) == live_segment(LIVE)
        if live != LIVE or disk.read_file(f"{DIR}/snapshots/{1:016X}_{current:016X}/snapshot") != file_at(
            current, LIVE
        ):
            return f"other survivors: {live}"
        if path is not None and not received:
            return "the survivors are not whole"
    checkpoints = node.indexes(CHECKPOINT)
    if any(checkpoint <= current for checkpoint in checkpoints):
        return f"checkpoints {checkpoints} below the snapshot"
    if set(disk.listdir(DIR)) - {"snapshots", "checkpoints", "recovery_checkpoint"}:
        return f"left over: {disk.listdir(DIR)}"
    meta = node.store.recovery_point(cast(Log, node.log))
    if meta is None or node.store.load(meta, b"".join) != state_at(meta.position.index):
        return "the start would begin with another state"
    if node.store.notes:
        return f"{node.store.notes}"
    taken_over = node.store.live_file()
    if taken_over is not None:
        disk.remove(taken_over)
    node.write(SNAPSHOT, 30)
    return "" if node.indexes(SNAPSHOT) == [30] else "no new snapshot can be written"


def outcomes(point: Point) -> Iterator[tuple[str, SimDisk]]:
    """The disk after a loss of power at this point, for each fate of what was not synced."""
    for name in FATES:
        disk = copy.deepcopy(point.disk)
        disk.fault = None
        disk.random = Fate(name)
        disk.crash()
        yield name, disk


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_operation_leaves_the_old_or_the_new(scenario: Scenario) -> None:
    """What was reported is there, what counts is whole, and the next snapshot can be written."""
    points, last = filmed(scenario)
    assert len(points) > 6
    seen = set()
    for point in points:
        for name, disk in outcomes(point):
            found = problem(disk, point, last)
            assert not found, f"{point.operation}, {name}: {found}"
            seen.add(Node(disk).current())
    assert 30 in seen


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_start_may_be_cut_anywhere_too(scenario: Scenario) -> None:
    """A start that is itself cut, at each of its operations, is repeated by the next one."""
    points, last = filmed(scenario)
    for point in points[:: max(1, EVERY // 3)]:
        for name, disk in outcomes(point):
            for cut in range(1, 60):
                again = copy.deepcopy(disk)
                target = again.operations + cut

                def stop(_operation: str, _path: str, again: SimDisk = again, target: int = target) -> None:
                    if again.operations >= target:
                        raise PowerLost

                again.fault = stop
                try:
                    Node(again).worker.run_until_idle()
                except PowerLost:
                    again.fault = None
                    again.random = Fate(name)
                    again.crash()
                    found = problem(again, point, last)
                    assert not found, f"{point.operation}, {name}, start cut at {cut}: {found}"
                else:
                    break
            else:
                raise AssertionError("a start has more operations than this test tries")
