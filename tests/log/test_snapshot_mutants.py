"""Every planted bug of snapshots is found by the tests of the store or of captures."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kit.mutants_snapshots import SNAPSHOT_MUTANTS
from tests.kit.searches import calls_of, is_found
from tests.log import test_snapshot_crash_points, test_snapshot_transfer, test_snapshots
from tests.machine import test_kv_snapshot
from tests.properties.test_snapshot_properties import random_history


def model() -> None:
    """The store against its model, in random histories."""
    for seed in range(400):
        random_history(seed)


def searches() -> Iterator[tuple[str, Callable[[], object]]]:
    """The tests by the names of their rings, the quick ones first."""
    for ring, module in (
        ("captures", test_kv_snapshot),
        ("store", test_snapshots),
        ("transfer", test_snapshot_transfer),
        ("crash points", test_snapshot_crash_points),
    ):
        for call in calls_of(module):
            yield ring, call
    yield "model", model


@pytest.mark.parametrize("plant", SNAPSHOT_MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Callable[[], Any]) -> None:
    """Some test fails with the bug."""
    with plant():
        assert is_found(call for _ring, call in searches()), f"{plant.__doc__} Nothing found it."


@pytest.mark.parametrize(
    "name", ["no_dir_sync", "snapshot_replaced_by_older", "promote_backwards", "error_is_success"]
)
def test_the_model_finds_what_only_histories_show(name: str) -> None:
    """The model finds bugs without a test written for them."""
    [plant] = [plant for plant in SNAPSHOT_MUTANTS if plant.__name__ == name]
    with plant(), pytest.raises(Exception):  # noqa: B017, PT011  # whatever the model says
        model()


def test_without_a_bug_nothing_is_found() -> None:
    """Otherwise everything would count as found."""
    calls = [call for ring, call in searches() if ring in ("captures", "store", "transfer")]
    assert len(calls) > 60
    for call in calls:
        call()
