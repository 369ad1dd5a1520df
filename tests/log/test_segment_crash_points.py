"""The power fails at every disk operation of flushes, snapshots, installs, compaction and cuts of a log.

Each point is tried with every fate of what was not synced; for some of them recovery itself is cut at each of
its own operations. What was confirmed, and what a snapshot still needs, must be there afterwards.
"""

import random
from typing import NamedTuple

import pytest
from tests.kit.crashes import EVERY, FATES, Film, Point, outcomes, outcomes_of_cut_starts
from tests.kit.storage import Node
from tests.properties.test_segment_properties import CONFIG, Checker, Model, calm

from barque.testing.sim.disk import SimDisk
from barque.types import IndexTerm

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


class Expected(NamedTuple):
    """What must be found: the model, what was under way, and up to where the log was confirmed."""

    model: Model
    installs: int
    installing: IndexTerm | None
    sent: tuple[list[int], dict[int, int]]
    perhaps: dict[IndexTerm, tuple[list[int], dict[int, int]]]
    confirmed: int

    def checker(self, disk: SimDisk) -> Checker:
        """A checker that goes on from here, on this disk."""
        state = Checker.__new__(Checker)
        state.random = random.Random(1)
        state.model = self.model.fork()
        state.installs, state.installing = self.installs, self.installing
        state.sent, state.perhaps = self.sent, dict(self.perhaps)
        state.node = start(disk)
        return state


Points = list[Point[Expected]]


class Filmed(Checker):
    """Runs the script, and photographs the disk before each of its operations."""

    def __init__(self, seed: int) -> None:
        self.film: Film[Expected] | None = None
        super().__init__(seed)
        self.film = Film(self.node.disk, self._expected)

    def _expected(self) -> Expected:
        under_way = self.installs, self.installing, self.sent, dict(self.perhaps)
        return Expected(self.model.fork(), *under_way, self.confirmed())

    def restart(self, *, power: bool) -> None:
        """As `Checker`; the film goes on."""
        super().restart(power=power)
        if self.film is not None:
            self.film.roll()


def film() -> Points:
    """The disk and the promises at each operation of two lives."""
    found = []
    operations = 0
    for seed in SEEDS:
        life = Filmed(seed)
        for operation in SCRIPT:
            life.step(operation)
        assert life.log.snapshot_index_term().index
        assert life.film is not None
        found += life.film.points
        operations += life.film.operations
    assert operations > 500
    return found


@pytest.fixture(scope="module")
def points() -> Points:
    """See `film`."""
    return film()


def start(disk: SimDisk) -> Node:
    """A process on this disk."""
    return Node(disk, CONFIG, at_once=False)


def judge(expected: Expected, disk: SimDisk) -> None:
    """Start, compare with what must be there, and go on to a state of rest."""
    checker = expected.checker(disk)
    checker.judge(expected.confirmed)
    checker.compare()
    checker.step("append")
    for operation in ("flush", "deliver", "tick", "work_on"):
        checker.step(operation)


def test_the_script_does_everything(points: Points) -> None:
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


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation(points: Points, fate: str) -> None:
    """Whatever the disk keeps of what was not synced."""
    for place, disk, expected in outcomes(points, fate):
        try:
            judge(expected, disk)
        except Exception as error:
            raise AssertionError(place) from error


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_again_at_any_operation_of_recovery(points: Points, fate: str) -> None:
    """Recovery can be cut anywhere, and nothing that it had saved is lost."""
    some = points[FATES.index(fate) :: 4 * EVERY]
    for place, disk, expected in outcomes_of_cut_starts(some, fate, start):
        try:
            judge(expected, disk)
        except Exception as error:
            raise AssertionError(place) from error


def test_the_end_of_the_script_is_a_state_of_rest() -> None:
    """Whatever was under way comes to its end."""
    for seed in SEEDS:
        life = Checker(seed)
        for operation in SCRIPT:
            life.step(operation)
        calm(life)
        assert life.log.last_written() == life.log.last_index_term()
