"""Operators whose changes must be refused, in whole nodes."""

import pytest
from tests.kit.mutants import planted

from barque.testing.sim.simulator import simulate
from barque.testing.sim.swarm import UNLIKE_DEATH, Scenario, draw_scenario

SEEDS = 3


def scenario(nodes: int) -> Scenario:
    """Nodes that go down while an operator removes a member, and now and then another leader."""
    return Scenario(nodes=nodes, faults=("losing_removal", "transfer"), duration_s=12.0)


@pytest.mark.parametrize("nodes", [3, 5])
def test_d3_a_removal_that_would_lose_the_quorum_is_refused_in_the_simulator(nodes: int) -> None:
    """D3: the member stays, and the cluster goes on when the nodes return."""
    happened = 0
    for seed in range(1, SEEDS + 1):
        report = simulate(seed, scenario(nodes))
        assert report.violation is None, str(report)
        happened += report.faults["losing_removal"]
    assert happened >= SEEDS


@pytest.mark.parametrize("nodes", [3, 5])
def test_d3_a_leader_that_does_not_count_who_is_up_is_found(nodes: int) -> None:
    """D3: one of the same seeds shows the planted bug."""
    with planted("lost_quorum_permitted"):
        found = [simulate(seed, scenario(nodes)).violation for seed in range(1, SEEDS + 1)]
    assert any(violation is not None and "D3" in violation.name for violation in found), found


def test_d3_seeds_draw_such_operators() -> None:
    """D3: some of the first seeds have them, none of these beside faults that make a dead node speak."""
    drawn = [draw_scenario(seed).faults for seed in range(1, 400)]
    with_operators = [faults for faults in drawn if "losing_removal" in faults]
    assert with_operators
    assert not any(UNLIKE_DEATH.intersection(faults) for faults in with_operators)
