"""Search all interleavings of a few events within bounds, and play scripts of rare stories.

`BARQUE_SEARCH_STATES=300000` (`make search`) searches further.
"""

import os

import pytest
from tests.kit.mutant_runner import SEARCHES
from tests.kit.mutants import planted
from tests.kit.scripts import SCRIPTS
from tests.kit.search import Bounds, Clients, search

STATES = int(os.environ.get("BARQUE_SEARCH_STATES", "800"))
FURTHER: tuple[Bounds, ...] = (
    Bounds(elections=2, commands=1, crashes=2, reads=1),
    Bounds(elections=2, commands=1, transfers=1, reads=1),
    Bounds(elections=1, commands=1, reads=2, prompt_disks=False, late_reports=True),
    Bounds(elections=2, commands=0, whole_elections=False, whole_links=False),
    Bounds(elections=2, commands=0, changes=2, names="abcd"),
    Bounds(elections=1, commands=1, changes=1, crashes=2, transfers=1, spare="d"),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script: str) -> None:
    """Each script passes with the code as it is."""
    SCRIPTS[script]()


@pytest.mark.parametrize("bounds", [*SEARCHES, *FURTHER], ids=str)
def test_no_order_of_events_breaks_anything(bounds: Bounds) -> None:
    """From a cluster that `a` leads, every order within the bounds is correct, nearest states first."""
    report = search(bounds, led_by="a", states_max=STATES)
    assert not report.violation, str(report)
    assert report.states == STATES or report.exhausted


def test_a_small_space_is_searched_to_its_end() -> None:
    """With one election and nothing else, the search reports that it has visited every state."""
    report = search(Bounds(elections=1, commands=0), states_max=10_000)
    assert (report.exhausted, report.violation) == (True, "")
    assert report.states > 500


@pytest.mark.parametrize(
    ("mutant", "bounds"),
    [
        ("log_not_compared", Bounds(elections=1, commands=1)),
        ("leader_counts_unwritten", Bounds(elections=1, commands=1)),
        ("match_from_next_index", Bounds(elections=2, commands=1, prompt_disks=False)),
        ("adds_too_early", Bounds(elections=1, commands=0, changes=1, spare="d")),
        ("removes_too_early", Bounds(elections=1, commands=0, changes=1)),
        ("leaving_leader_counts", Bounds(elections=0, commands=0, changes=1)),
        ("void_configuration_stays", Bounds(elections=1, commands=0, changes=1)),
        ("written_event_by_index", Bounds(elections=2, commands=0, prompt_disks=False, late_reports=True)),
    ],
)
def test_a_search_finds_a_planted_bug_and_the_way_to_it(mutant: str, bounds: Bounds) -> None:
    """The search finds the bug, and by a short path, since the nearest states come first."""
    with planted(mutant):
        report = search(bounds, led_by="a", states_max=5_000)
    assert report.violation
    assert 0 < len(report.path) < 12


def test_equal_states_are_met_once() -> None:
    """A fork has the key of its original until it changes, and the original does not change with it."""
    bounds = Bounds(elections=1, commands=1)
    one = Clients(bounds)
    other = one.fork()
    assert one.key() == other.key()
    for name in "abc":
        other.move(name)
    other.elect("a")
    assert one.key() != other.key()
    assert one.server("a").current_term == 0
