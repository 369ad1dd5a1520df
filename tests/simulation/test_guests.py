"""Simulated processes in nodes, which machines watch and speak to (I21)."""

import msgspec
import pytest
from tests.kit.mutants import planted

from barque.testing.sim.simulator import Report, Simulation
from barque.testing.sim.swarm import draw_scenario


def visit(seed: int) -> Report:
    """Run a seed with guests in its nodes."""
    return Simulation(seed, msgspec.structs.replace(draw_scenario(seed), guests=True)).run()


@pytest.mark.parametrize("seed", [2, 5])
def test_guests_come_and_go(seed: int) -> None:
    """Each end is told in the end, and no message goes astray, whatever happens to nodes and network."""
    report = visit(seed)
    assert report.violation is None, report


@pytest.mark.parametrize("bug", ["message_reaches_the_wrong_process", "living_process_is_gone"])
def test_a_rule_that_is_broken_is_noticed(bug: str) -> None:
    """Some of the first seeds break the rule."""
    with planted(bug):
        assert any(visit(seed).violation is not None for seed in range(1, 6))
