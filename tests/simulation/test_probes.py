"""Probes count rare paths from outside, and the run stays the same."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from barque.cli.simulate import simulate_command
from barque.core import elections
from barque.testing.checkers.probes import PROBES, watched
from barque.testing.checkers.rare_paths import RARE_PATHS
from barque.testing.sim.simulator import simulate

SEED = 4_003


def test_each_rare_path_has_a_text_of_its_own() -> None:
    """No two rare paths have the same text."""
    assert len(PROBES) == len(RARE_PATHS)


def test_watching_changes_nothing_but_the_counts() -> None:
    """A run has the same hash with probes, and afterwards every function is the original again."""
    before, plain = elections.on_pre_vote, simulate(SEED)
    with watched() as reached:
        assert elections.on_pre_vote is not before
        watched_run = simulate(SEED)
    assert watched_run.hash == plain.hash
    assert elections.on_pre_vote is before
    assert sum(reached.values()) > 100


@pytest.mark.parametrize("core", [False, True], ids=["nodes", "core"])
def test_a_campaign_leaves_a_line_for_each_seed(core: bool, tmp_path: Path) -> None:
    """A campaign writes a line for each seed, one for its end, and one for the probes."""
    path = tmp_path / "runs.jsonl"
    command = ["--seeds", "2", "--start", "4003", "--report", str(path), "--probes"]
    done = CliRunner().invoke(
        simulate_command, [*command, *(["--core"] if core else [])], standalone_mode=False
    )
    assert done.return_value == 0, done.output
    *seeds, end, probes = map(json.loads, path.read_text().splitlines())
    assert [line["seed"] for line in seeds] == [4_003, 4_004]
    assert all(line["hash"] and line["violation"] is None and line["nodes"] >= 3 for line in seeds)
    assert end["end"]
    assert end["processor_s"] > 0
    assert set(probes["probes"]) <= set(PROBES)
    assert f"of {len(PROBES)}" in done.output
