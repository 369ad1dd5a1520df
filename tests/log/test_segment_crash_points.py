"""The power fails at every disk operation of flushes, snapshots, installs, compaction and cuts of a log.

Each point is tried with four outcomes for what was not synced; for some of them recovery itself is cut at
each of its own operations. What was confirmed, and what a snapshot still needs, must be there afterwards.
"""

import copy
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.kit.storage import Node
from tests.log.test_crash_points import EVERY, FATES, Fate, PowerLost
from tests.properties.test_segment_properties import CONFIG, Checker, calm

from barque.testing.sim.disk import SimDisk

SCRIPT = """
append flush deliver append flush deliver append flush deliver tick work work_on deliver overwrite flush
deliver snapshot work_on deliver tick append append flush deliver tick work_on append flush deliver truncate
append flush deliver tick work_on snapshot work work deliver append flush deliver tick work_on receive
work_on deliver flush deliver append flush deliver tick work_on deliver append append flush deliver append
flush deliver tick work_on snapshot work_on deliver tick work_on truncate flush receive append work_on
deliver flush work_on tick append flush deliver append flush deliver tick work_on work_on kill tick work_on
append flush deliver overwrite flush deliver tick work_on snapshot work_on deliver tick work_on
""".split()  # noqa: SIM905  # a hundred words are a script, and no list
SEEDS = (3, 8)


class Point(NamedTuple):
    """A moment: the next operation, the disk before it, and what must be found."""

    operation: str
    disk: SimDisk
    checker: Checker
    confirmed: int


class Filmed(Checker):
    """Runs the script, and photographs the disk before each of its operations."""

    def __init__(self, seed: int) -> None:
        self.points: list[Point] = []
        super().__init__(seed)
        self.node.disk.fault = self._photograph

    def _photograph(self, operation: str, path: str) -> None:
        disk = self.node.disk
        disk.fault = None
        state = Checker.__new__(Checker)
        state.random = random.Random(1)
        for name in ("model", "installs", "installing", "sent", "perhaps"):
            setattr(state, name, copy.deepcopy(getattr(self, name)))
        self.points.append(Point(f"{operation} {path}", copy.deepcopy(disk), state, self.confirmed()))
        disk.fault = self._photograph

    def restart(self, *, power: bool) -> None:
        """As `Checker`; the film goes on."""
        super().restart(power=power)
        self.node.disk.fault = self._photograph


def film() -> list[Point]:
    """The disk and the promises at each operation of two lives."""
    found = []
    for seed in SEEDS:
        life = Filmed(seed)
        for operation in SCRIPT:
            life.step(operation)
        assert life.log.snapshot_index_term().index
        found += life.points
    return found


@pytest.fixture(scope="module")
def points() -> list[Point]:
    """See `film`."""
    return film()


def crashed(disk: SimDisk, fate: str) -> SimDisk:
    """A copy of this disk after the power failed."""
    other = copy.deepcopy(disk)
    other.random = Fate(fate)
    other.crash()
    return other


def judge(point: Point, disk: SimDisk) -> None:
    """Start, compare with what must be there, and go on to a state of rest."""
    checker = copy.deepcopy(point.checker)
    checker.node = Node(disk, CONFIG, at_once=False)
    checker.judge(point.confirmed)
    checker.compare()
    checker.step("append")
    for operation in ("flush", "deliver", "tick", "work_on"):
        checker.step(operation)


def test_the_script_does_everything(points: list[Point]) -> None:
    """Every kind of file is written, synced, renamed and removed on the way."""
    seen = {(point.operation.partition(" ")[0], point.operation.rpartition("/")[2]) for point in points}
    for operation, name in (
        ("rename", "00000000000000001.segment.tmp"),
        ("fsync_dir", "segments"),
        ("unlink", "00000000000000001.segment"),
        ("rename", "live.segment"),
        ("rename", "manifest.tmp"),
    ):
        assert (operation, name) in seen
    assert len(points) > 500


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation(points: list[Point], fate: str) -> None:
    """Whatever the disk keeps of what was not synced."""
    for number, point in enumerate(points):
        try:
            judge(point, crashed(point.disk, fate))
        except Exception as error:
            raise AssertionError(f"power lost at {number} ({point.operation}), {fate}") from error


def cuts(disk: SimDisk) -> Iterator[SimDisk]:
    """This disk as a start leaves it that dies at its first operation, at its second, and so on."""
    for operations in range(1, 10_000):
        again = copy.deepcopy(disk)
        end = again.operations + operations
        again.fault = lambda _op, _path, again=again, end=end: (  # type: ignore[assignment,misc]
            PowerLost() if again.operations >= end else None
        )
        try:
            Node(again, CONFIG, at_once=False)
        except PowerLost:
            again.fault = None
            yield again
        else:
            return


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_again_at_any_operation_of_recovery(points: list[Point], fate: str) -> None:
    """Recovery can be cut anywhere, and nothing that it had saved is lost."""
    for number, point in enumerate(points[FATES.index(fate) :: 4 * EVERY]):
        for cut, disk in enumerate(cuts(crashed(point.disk, fate))):
            try:
                judge(point, crashed(disk, fate))
            except Exception as error:
                text = f"power lost at {number} ({point.operation}), and at {cut} of the recovery, {fate}"
                raise AssertionError(text) from error


def test_the_end_of_the_script_is_a_state_of_rest() -> None:
    """Whatever was under way comes to its end."""
    for seed in SEEDS:
        life = Checker(seed)
        for operation in SCRIPT:
            life.step(operation)
        calm(life)
        assert life.log.last_written() == life.log.last_index_term()
