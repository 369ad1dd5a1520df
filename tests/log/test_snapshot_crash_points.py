"""The power fails at every disk operation of writing, promoting, receiving, installing and thinning.

Each point is tried with every fate of what was not synced, and some starts are themselves cut at each of
their operations. What was reported must be there, whole; nothing half-done may count, or be left over.
"""

import random
from collections.abc import Callable
from typing import cast

import pytest
from tests.kit.crashes import EVERY, FATES, Film, Point, outcomes, outcomes_of_cut_starts
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

from barque.core.log_contract import Log
from barque.log.snapshot_format import indexes_of
from barque.testing.sim.disk import SimDisk
from barque.types import Index

LIVE = [3, 4, 9]


def writing(node: Node) -> int:
    """A newer snapshot, which replaces the older one and two checkpoints."""
    node.write(SNAPSHOT, 20, live=LIVE)
    return 20


def checkpointing(node: Node) -> int:
    """A checkpoint, after which one of the older ones is thinned out."""
    node.write(CHECKPOINT, 20)
    return 10


def promoting(node: Node) -> int:
    """The newer checkpoint becomes the snapshot."""
    assert node.store.promote_checkpoint(Index(14))
    node.run()
    return 14


def installing(node: Node) -> int:
    """A leader's snapshot with survivors is received and installed."""
    node.receive(20, live=LIVE)
    node.store.complete_accept(b"".join)
    node.run()
    node.store.install_accepted()
    node.run()
    return 20


def aborting(node: Node) -> int:
    """A transfer is broken off, and another one begins."""
    node.receive(20, live=LIVE)
    node.receive(21)
    node.store.abort_accept()
    node.run()
    return 10


def stopping(node: Node) -> int:
    """An orderly stop keeps the state."""
    assert node.begin(RECOVERY, 20)
    assert node.begin(RECOVERY, 22)
    return 10


Scenario = Callable[[Node], int]
SCENARIOS: list[Scenario] = [writing, checkpointing, promoting, installing, aborting, stopping]


def filmed(scenario: Scenario) -> tuple[list[Point[int]], int]:
    """All points of a scenario that begins with a snapshot and checkpoints, and the snapshot in the end.

    The promise of a point is the snapshot that the process went by. The last point is behind all operations.
    """
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    node.write(SNAPSHOT, 10)
    for index in (12, 14, 16):
        node.write(CHECKPOINT, index)
    film = Film(disk, node.current)
    last = scenario(node)
    disk.fault = None
    return [*film.points, Point("the end", disk.fork(), node.current())], last


def start(disk: SimDisk) -> None:
    """A process on this disk, which does what it finds to do."""
    Node(disk).worker.run_until_idle()


def problem(disk: SimDisk, reported: int, last: int) -> str:
    """What a start on this disk finds wrong; empty if nothing."""
    node = Node(disk)
    node.worker.run_until_idle()
    current = node.current()
    if current not in (10, last) or current < reported:
        return f"snapshot {current} counts, and {reported} was reported"
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


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_operation_leaves_the_old_or_the_new(scenario: Scenario) -> None:
    """What was reported is there, what counts is whole, and the next snapshot can be written."""
    points, last = filmed(scenario)
    assert len(points) > 6
    seen = set()
    for fate in FATES:
        for place, disk, reported in outcomes(points, fate):
            found = problem(disk, reported, last)
            assert not found, f"{place}: {found}"
            seen.add(Node(disk).current())
    assert 30 in seen


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_start_may_be_cut_anywhere_too(scenario: Scenario) -> None:
    """A start that is itself cut, at each of its operations, is repeated by the next one."""
    points, last = filmed(scenario)
    some = points[:: max(1, EVERY // 3)]
    for fate in FATES:
        for place, disk, reported in outcomes_of_cut_starts(some, fate, start):
            found = problem(disk, reported, last)
            assert not found, f"{place}: {found}"
