"""Shrinking makes a failing run small, always in the same way, and the run still fails."""

import json
import subprocess
import sys

import msgspec
import pytest
from tests.kit.mutants import planted

from barque.testing.sim.shrink import changed, shrink
from barque.testing.sim.simulator import simulate
from barque.testing.sim.swarm import draw_scenario

SEED = 3


def test_a_failing_run_shrinks_to_less_and_fails_alike() -> None:
    """Faults and time go, the violated property stays, and the printed changes repeat the run."""
    first = draw_scenario(SEED)
    with planted("follower_acks_before_sync"):
        found = shrink(first, lambda scenario: simulate(SEED, scenario), tries_max=25)
        assert found is not None
        assert found.scenario.duration_s < first.duration_s
        assert len(found.scenario.faults) < len(first.faults)
        again = simulate(SEED, changed(first, json.loads(json.dumps(found.changes))))
        assert again.violation == found.report.violation
        assert again.hash == found.report.hash


def test_a_clean_run_has_nothing_to_shrink() -> None:
    """A clean run gives no result."""
    assert shrink(draw_scenario(1), lambda scenario: simulate(1, scenario)) is None


def test_a_scenario_has_no_other_fields() -> None:
    """A field that no scenario has is refused, so that a replay never ignores a part of its scenario."""
    with pytest.raises(msgspec.ValidationError, match="no such field: insiders"):
        changed(draw_scenario(1), {"clients": 2, "insiders": 3})
    assert changed(draw_scenario(1), {"clients": 7}).clients == 7


def test_the_command_replays_what_was_shrunk() -> None:
    """`--with` takes what `--shrink` prints."""
    command = [sys.executable, "-m", "barque", "simulate", "--seed", "1"]
    changes = json.dumps({"faults": ["crash"], "duration_s": 2.0})
    done = subprocess.run([*command, "--with", changes], capture_output=True, text=True, check=False)
    assert "faults: crash\n" in done.stdout
    wrong = subprocess.run(
        [*command, "--with", '{"nodes": "x"}'], capture_output=True, text=True, check=False
    )
    assert wrong.returncode != 0
    assert "no part of a scenario" in wrong.stderr
