"""Every planted bug of snapshots is found by the tests of the store or of captures."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kit.mutants_snapshots import SNAPSHOT_MUTANTS
from tests.log import test_snapshot_crash_points, test_snapshot_transfer, test_snapshots
from tests.machine import test_kv_snapshot
from tests.properties.test_snapshot_properties import random_history


def calls_of(module: Any) -> Iterator[Callable[[], object]]:
    """The tests of a module that need no fixture, once for each of their parameters."""
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    for test in sorted(filter(inspect.isfunction, tests), key=lambda test: hasattr(test, "hypothesis")):
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        cases: list[dict[str, Any]] = [{}]
        for mark in marks:
            names, values = mark.args
            names = [names] if isinstance(names, str) else list(names)
            rows = [dict(zip(names, [v] if len(names) == 1 else v, strict=True)) for v in values]
            cases = [{**case, **row} for case in cases for row in rows]
        wanted = set(inspect.signature(test).parameters)
        if hasattr(test, "hypothesis"):
            yield test
            continue
        for case in cases:
            if set(case) == wanted:
                yield lambda test=test, case=case: test(**case)


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
        for _ring, call in searches():
            try:
                call()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                return
    pytest.fail(f"{plant.__doc__} Nothing found it.")


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
