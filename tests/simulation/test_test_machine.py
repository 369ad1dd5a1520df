"""Objects other than lists: what their machine answers, and how their histories are judged."""

import random
from typing import Any

import msgspec
import pytest
from tests.kit.mutants import planted

from barque.testing.checkers.history import Outcome
from barque.testing.checkers.models import MODELS
from barque.testing.sim import operations as work
from barque.testing.sim.operations import ObjectOperations, TypedOperation
from barque.testing.sim.simulator import simulate
from barque.testing.sim.swarm import Scenario
from barque.testing.sim.test_machine import KINDS, LISTS

OTHERS = [kind for kind in KINDS if kind != LISTS]
SMALL = Scenario(duration_s=2.0, think_s=0.05)


def operation(f: str, value: Any, result: Any, *, called: float, epoch: int = 1) -> TypedOperation:
    """An operation that was answered at once."""
    return TypedOperation(
        "c1", "o0.0", called, None, called, Outcome.OK, result=result, epoch=epoch, f=f, value=value
    )


@pytest.mark.parametrize("name", OTHERS)
def test_the_machine_answers_as_the_model_does(name: str) -> None:
    """For one operation after the other, the machine and the model of a kind answer the same."""
    kind, rng = KINDS[name], random.Random(name)
    model = MODELS[kind.model]
    theirs, ours, seen = model.initial, None, None
    answers = []
    for number in range(300):
        f, value = kind.draw(rng, f"c1.{number}", seen)
        theirs, expected = model.apply(theirs, f, value)
        ours, answer = kind.perform(ours, f, value)
        assert answer == expected
        answers.append(answer)
        assert kind.show(ours) == model.apply(theirs, "read", None)[1]
        if rng.random() < 0.5:
            seen = kind.show(ours)
    wanted = {"registers": 1, "swaps": 3, "sets": 2, "counters": 300}[name]
    assert len(set(answers)) >= wanted


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_may_have_other_objects(name: str) -> None:
    """A whole run, with its demands at the end, is clean with each kind of objects."""
    report = simulate(1, msgspec.structs.replace(SMALL, objects=(name,)))
    assert str(report) == "seed 1: clean"
    assert report.operations > 100


def test_a_swap_that_compares_nothing_is_noticed() -> None:
    """Two clients that swap the same value, and are both told that they did, violate linearizability."""
    with planted("swaps_compare_nothing"):
        report = simulate(1, msgspec.structs.replace(SMALL, objects=("swaps",), keys=1))
    assert report.violation is not None
    assert "is no register" in str(report.violation)


def test_what_is_not_decided_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that the checker cannot decide makes its run void, not clean."""
    monkeypatch.setattr(work, "CONFIGURATIONS_MAX", 1)
    report = simulate(1, msgspec.structs.replace(SMALL, objects=("registers",)))
    assert report.violation is None
    assert report.undecided == 1
    assert "not decided" in report.void


def test_each_epoch_has_its_own_objects() -> None:
    """A cluster that was deleted and created again begins empty; answers of the old epoch do not count."""
    judge = ObjectOperations(KINDS["registers"]).judge
    wrote = operation("write", "c1.1", None, called=1.0)
    assert not judge([wrote, operation("read", None, None, called=2.0, epoch=2)]).text
    judgement = judge([wrote, operation("read", None, None, called=2.0)])
    assert "is no register" in judgement.text
    assert len(judgement.shown) == 2


def test_what_may_have_happened_may_have_happened_in_any_epoch() -> None:
    """An operation with an unknown outcome may explain what a later epoch shows."""
    judge = ObjectOperations(KINDS["counters"]).judge
    perhaps = TypedOperation("c1", "o0.0", 1.0, f="add", value=2)
    assert not judge([perhaps, operation("read", None, 2, called=2.0, epoch=2)]).text
    assert judge([perhaps, operation("read", None, 1, called=2.0, epoch=2)]).text
