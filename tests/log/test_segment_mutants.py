"""Every planted bug of segments is found by the tests of the log."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kit.crashes import FATES
from tests.kit.mutants_segments import SEGMENT_MUTANTS
from tests.kit.searches import calls_of, is_found
from tests.log import test_compaction, test_segment_crash_points, test_segment_writer
from tests.properties.test_segment_properties import random_history

HISTORIES = 500
"""A clean run has as many, so what they find is no accident."""


def searches() -> Iterator[Callable[[], object]]:
    """What looks for a bug, the quick ones first."""
    yield from calls_of(test_segment_writer)
    yield from calls_of(test_compaction)
    for seed in range(HISTORIES):
        yield lambda seed=seed: random_history(seed)
    film = test_segment_crash_points.film()
    for fate in FATES:
        yield lambda fate=fate: test_segment_crash_points.test_power_may_fail_at_any_operation(film, fate)


@pytest.mark.parametrize("plant", SEGMENT_MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Callable[[], Any]) -> None:
    """Some test fails with the bug."""
    with plant():
        assert is_found(searches()), f"{plant.__doc__} Nothing found it."


def test_without_a_bug_nothing_is_found() -> None:
    """Otherwise everything would count as found."""
    for module in (test_segment_writer, test_compaction):
        for call in calls_of(module):
            call()
    for seed in range(60):
        random_history(seed)
