"""The checker of clocks (I33): it holds leaders to the true time while most clocks are right."""

import pytest
from tests.kit.mutants import planted

from barque.testing.checkers.clocks import BOUND_MS, Clocks, Stamps
from barque.testing.checkers.safety import Violation
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario
from barque.types import ServerId, Term

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
ONE = Term(1)


def judged(known: str, wrong: str, stamp_ms: int, *, late: str = "") -> list[Violation]:
    """What is found if node a, which knows these nodes, leads and stamps so; `late` become wrong then."""
    found: list[Violation] = []
    clocks = Clocks()
    stamps = Stamps(found.append, clocks)
    for node in "abcde":
        clocks.started(node, START_MS)
    for node in wrong:
        clocks.set_wrong(node, START_MS)
    for node in known:
        clocks.heard("a", node, START_MS)
    stamps.leads(ServerId("kv", "a"), ONE, START_MS + 1)
    for node in late:
        clocks.set_wrong(node, START_MS + 2)
    stamps.applied(ONE, START_MS + stamp_ms, START_MS + 3)
    return found


@pytest.mark.parametrize("stamp_ms", [HOUR_MS, -HOUR_MS, HOUR_MS // 3 + 1])
@pytest.mark.parametrize(("known", "wrong"), [("abc", "a"), ("abc", "b"), ("abcde", "ab"), ("a", "")])
def test_d7_a_wrong_stamp_is_found_while_most_clocks_are_right(known: str, wrong: str, stamp_ms: int) -> None:
    """D7: an hour ahead or behind, or the mean with one such clock, is reported."""
    assert [violation.name for violation in judged(known, wrong, stamp_ms)] == ["time (I33)"]
    for right_ms in (1 - BOUND_MS, 0, BOUND_MS):
        assert not judged(known, wrong, right_ms)


@pytest.mark.parametrize(
    ("known", "wrong", "late"),
    [("a", "a", ""), ("ab", "b", ""), ("ab", "a", ""), ("abc", "", "ab"), ("abc", "ab", "")],
)
def test_d7_nobody_is_blamed_while_half_of_the_clocks_are_wrong(known: str, wrong: str, late: str) -> None:
    """D7: a node that knows too few right clocks, from the start or from some moment on, cannot do better."""
    assert not judged(known, wrong, HOUR_MS, late=late)


def test_d7_a_time_that_stands_still_is_excused() -> None:
    """D7: once a leader without a majority of right clocks was ahead, later leaders have to wait."""
    found: list[Violation] = []
    clocks = Clocks()
    stamps = Stamps(found.append, clocks)
    for node in "ab":
        clocks.started(node, START_MS)
    clocks.set_wrong("a", START_MS)
    for term, node in enumerate("ab", 1):
        stamps.leads(ServerId("kv", node), Term(term), START_MS)
        stamps.applied(Term(term), START_MS + HOUR_MS, START_MS)
    assert not found
    stamps.applied(Term(2), START_MS - HOUR_MS, START_MS)
    assert found


def test_d7_a_life_is_judged_by_what_it_knew() -> None:
    """D7: what a node forgets in a restart does not excuse what its former life has stamped."""
    found: list[Violation] = []
    clocks = Clocks()
    stamps = Stamps(found.append, clocks)
    for node in "abc":
        clocks.started(node, START_MS)
    clocks.heard("a", "b", START_MS)
    clocks.heard("a", "c", START_MS)
    clocks.set_wrong("a", START_MS)
    stamps.leads(ServerId("kv", "a"), ONE, START_MS)
    clocks.started("a", START_MS + 5)
    stamps.applied(ONE, START_MS + HOUR_MS, START_MS + 9)
    assert found


JUMPY = Scenario(faults=("clock_jump", "transfer", "crash"), pace_s=0.2)
SEEDS = 12


def test_d7_runs_with_jumping_clocks_are_judged_and_clean() -> None:
    """D7: over some seeds whose clocks jump, stamps are judged, and nothing wrong is found."""
    judged_stamps = 0
    for seed in range(1, SEEDS + 1):
        simulation = Simulation(seed, JUMPY)
        report = simulation.run()
        assert report.violation is None, str(report)
        judged_stamps += sum(observer.stamps.judged for observer in simulation.observers.all())
    assert judged_stamps > 200


@pytest.mark.parametrize("bug", ["other_clocks_ignored", "mean_of_clocks", "latest_clock_taken"])
def test_d7_planted_bugs_of_clocks_are_found(bug: str) -> None:
    """D7: one of the same seeds finds each planted bug, by the time that a machine saw."""
    with planted(bug):
        for seed in range(1, SEEDS + 1):
            violation = Simulation(seed, JUMPY).run().violation
            if violation is not None and "I33" in violation.name:
                return
    pytest.fail(f"{bug} was not found in {SEEDS} seeds")
