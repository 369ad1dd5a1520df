"""Every planted bug is found by some kind of test: otherwise clean runs would be worth nothing.

docs/reference/mutants.md has what every kind of test (ring) needed (`make mutants`). Here the cheapest ring
of each row must find its bug again; the few bugs that take long are left to that command.
"""

import re
from pathlib import Path

import pytest
from tests.kit.mutant_runner import RINGS, _scripts, hunt
from tests.kit.mutants import MUTANTS, planted
from tests.simulation.kill_table import transcripts

from barque.testing.sim.simulator import simulate

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/reference/mutants.md").read_text()
TRANSCRIPTS = transcripts()
LONG_S = 3.0


def found_by() -> dict[str, list[tuple[float, str]]]:
    """For each planted bug the rings that found it and the seconds that they took, the quickest first."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name, row in re.findall(r"^\| `(\w+)` \|(.*)\|$", TABLE, re.MULTILINE):
        for ring, cell in zip(RINGS, row.split("|")[1:], strict=True):
            if cell.strip() == "–" or "not:" in cell:
                continue
            spent = re.search(r"in ([\d.]+) s", cell)
            found.setdefault(name, []).append((float(spent[1]) if spent else 0.0, ring))
    return {name: sorted(rings) for name, rings in found.items()}


QUICK = {
    name: [ring for seconds, ring in rings if seconds <= LONG_S]
    for name, rings in found_by().items()
    if rings[0][0] <= LONG_S
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name in QUICK])
def test_a_planted_bug_is_found(name: str) -> None:
    """The quickest ring of the table finds the bug, or the next one, in ten times the table's seconds."""
    kills = []
    for ring in QUICK[name]:
        kills.append(hunt(MUTANTS[name], ring, 10 * LONG_S, TRANSCRIPTS))
        if kills[-1].found:
            return
    pytest.fail(f"{MUTANTS[name].text}: not found by {kills}")


def test_every_bug_can_be_planted() -> None:
    """Each bug finds the function that it replaces: a renamed function of the core would be missed here."""
    for name in MUTANTS:
        with planted(name):
            pass


def test_without_a_bug_the_scripted_rings_are_silent() -> None:
    """Scripts and transcripts pass without a bug; otherwise they would find everything."""
    assert not any(_scripts())
    assert TRANSCRIPTS


def test_the_bug_ends_with_its_block() -> None:
    """A planted bug is gone afterwards."""
    with planted("term_not_persisted"):
        assert simulate(1).violation is not None
    assert simulate(1).violation is None
