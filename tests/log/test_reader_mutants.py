"""Every planted bug of readers of the log is found by the tests of plans, views and caches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kit.mutants_readers import READER_MUTANTS
from tests.kit.searches import calls_of, is_found
from tests.log import test_batch_cache, test_log_views, test_read_plan
from tests.properties.test_reader_properties import random_reading

HISTORIES = 40
"""A clean run has as many, so what they find is no accident."""


def searches() -> Iterator[Callable[[], object]]:
    """What looks for a bug, the quick ones first."""
    for module in (test_batch_cache, test_log_views, test_read_plan):
        yield from calls_of(module)
    for seed in range(HISTORIES):
        yield lambda seed=seed: random_reading(seed)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a test that fails leaves plans
@pytest.mark.parametrize("plant", READER_MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Callable[[], Any]) -> None:
    """Some test fails with the bug."""
    with plant():
        assert is_found(searches()), f"{plant.__doc__} Nothing found it."


def test_without_a_bug_nothing_is_found() -> None:
    """Otherwise everything would count as found."""
    for call in searches():
        call()
