"""Reports of nodes are compared with what the observers know (I32)."""

import pytest
from tests.kit.mutants import planted

from barque.config import LogConfig
from barque.testing.sim.simulator import simulate
from barque.testing.sim.swarm import Scenario

SLOW_DISKS = Scenario(
    duration_s=6.0,
    think_s=0.02,
    sync_s=(0.02, 0.05),
    log=LogConfig(writer="thread", prefill=False),
)


def test_reports_are_honest_while_disks_are_slow() -> None:
    """Nodes tell written entries from entries in memory while disks are slow."""
    report = simulate(1, SLOW_DISKS)
    assert str(report) == "seed 1: clean"
    assert report.looks > 10


@pytest.mark.parametrize("name", ["unwritten_reported_written", "candidate_named", "batches_counted_once"])
def test_a_false_report_is_noticed(name: str) -> None:
    """A false report is a violation, and the only one of the run."""
    with planted(name):
        found = [simulate(seed, SLOW_DISKS).violation for seed in range(1, 6)]
    names = {violation.name for violation in found if violation is not None}
    assert names == {"honest reports (I32)"}
