"""Bugs on purpose: the simulator finds them, or else its clean runs are worth nothing."""

import os
import time

import pytest

from barque.testing.mutants import MUTANTS, planted
from barque.testing.simulator import simulate

FAST = (
    "vote_not_persisted",
    "term_not_persisted",
    "vote_reply_before_sync",
    "votes_twice_a_term",
    "log_not_compared",
    "follower_acks_before_sync",
    "commits_unvalidated",
    "read_before_noop",
    "wal_not_synced",
)
"""Found within a few seconds of processor time, every time."""
ALL = os.environ.get("BARQUE_ALL_MUTANTS") == "1"


@pytest.mark.parametrize("name", list(MUTANTS) if ALL else FAST)
def test_mutant_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Random search finds this planted bug within its budget of processor time."""
    budget_s = 100.0 if ALL else 15.0
    start, seed, violation = time.process_time(), 0, None
    with planted(name):
        while violation is None and time.process_time() - start < budget_s:
            seed += 1
            violation = simulate(seed).violation
    with capsys.disabled():
        found = violation.name if violation is not None else "not found"
        print(f"\n{name}: {found}, {seed} seeds, {time.process_time() - start:.1f} s")
    assert violation is not None, f"{MUTANTS[name][0]}: not found in {seed} seeds"


def test_the_bug_ends_with_its_block() -> None:
    """A planted bug is gone afterwards."""
    with planted("term_not_persisted"):
        assert simulate(1).violation is not None
    assert simulate(1).violation is None
