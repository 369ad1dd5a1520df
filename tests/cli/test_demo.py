"""`barque demo`, and the arithmetic by which it judges."""

import glob

import pytest
from tests.cli.support import run_barque

from barque.cli.demo_ledger import Ledger


@pytest.mark.processes
@pytest.mark.xdist_group("verbs")
def test_the_demo_loses_nothing_and_cleans_up() -> None:
    """It kills a leader in the middle of writes, finds all that was acknowledged, and exits with 0."""
    before = set(glob.glob("/tmp/barque-demo-*"))
    done = run_barque("demo", "--keys", "1500")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "lost 0   duplicated 0" in done.stdout
    assert set(glob.glob("/tmp/barque-demo-*")) <= before


def test_the_ledger_tells_broken_promises_apart() -> None:
    """Lost, twice, refused and yet there, unknown: each is counted, and only the last is good."""
    ledger = Ledger()
    ledger.acknowledged |= {b"kept", b"lost", b"twice"}
    ledger.unknown |= {b"maybe", b"never"}
    ledger.refused |= {b"refused", b"lied"}
    verdict = ledger.judge({b"kept": 1, b"twice": 2, b"maybe": 1, b"lied": 1})
    assert (verdict.acknowledged, verdict.lost, verdict.duplicated) == (3, 1, 1)
    assert (verdict.unknown, verdict.unknown_happened) == (2, 1)
    assert (verdict.refused, verdict.false_refusals) == (2, 1)
    assert not verdict.is_good
    assert Ledger().judge({}).is_good
