"""The linearizability checker agrees with one that tries every order, and finds violations made by hand."""

import itertools
import math
import random
import secrets
from collections.abc import Iterable
from typing import Any

import pytest

from barque.testing.checkers.history import Outcome
from barque.testing.checkers.linearizability import Answer, check
from barque.testing.checkers.models import MODELS, Model
from barque.testing.checkers.records import Record

HISTORIES = 3_400  # of each of the three models: more than 10,000 in all
KINDS: dict[str, list[tuple[str, Any]]] = {
    "register": [
        ("read", None),
        ("write", "a"),
        ("write", "b"),
        ("cas", ["a", "b"]),
        ("cas", ["b", "c"]),
        ("cas", [None, "a"]),
        ("delete", None),
    ],
    "counter": [("read", None), ("add", 1), ("add", 2), ("add", -1)],
    "set": [("read", None), ("add", 1), ("add", 2), ("remove", 1), ("contains", 1), ("contains", 2)],
}
FORGOTTEN = "forgotten"


def record(
    process: int, f: str, value: Any, result: Any = None, *, at: tuple[int, int | None], key: str = "k"
) -> Record:
    """An operation; with no return time its outcome is unknown."""
    call, returned = at
    outcome = Outcome.UNKNOWN if returned is None else Outcome.OK
    return Record(
        process=f"c{process}",
        f=f,
        key=key,
        value=value,
        call=call,
        returned=returned,
        outcome=outcome,
        result=None if returned is None else result,
    )


def draw(rng: random.Random, model: Model) -> list[Record]:
    """Draw a small history: often a valid one, often one with a changed answer."""
    count = rng.randint(1, 6)
    plan = []
    for process in range(count):
        call = rng.randrange(12)
        returned = call + rng.randrange(1, 8)
        plan.append((rng.randint(call, returned), process, call, returned, *rng.choice(KINDS[model.name])))
    state: Any = model.initial
    made: list[Record] = []
    for _, process, call, returned, f, value in sorted(plan, key=lambda p: p[0]):
        unknown = rng.random() < 0.35
        if unknown and rng.random() < 0.4:
            made.append(record(process, f, value, at=(call, None)))
            continue
        state, answer = model.apply(state, f, value)
        made.append(record(process, f, value, answer, at=(call, None if unknown else returned)))
    if rng.random() < 0.6:
        told = [i for i, r in enumerate(made) if r.outcome is Outcome.OK and r.result is not None]
        others = [r.result for r in made if r.result is not None]
        if told:
            i = rng.choice(told)
            same_kind = [x for x in others if type(x) is type(made[i].result)]
            changed = not made[i].result if made[i].result in (True, False) else rng.choice(same_kind)
            if type(made[i].result) is bool:
                changed = not made[i].result
            made[i] = Record(
                process=made[i].process,
                f=made[i].f,
                key="k",
                value=made[i].value,
                call=made[i].call,
                returned=made[i].returned,
                outcome=made[i].outcome,
                result=changed,
            )
    return made


def naive(records: list[Record], model: Model) -> bool:
    """Try every order of the known operations with every choice of the unknown ones."""
    known = [r for r in records if r.outcome is Outcome.OK]
    unknown = [r for r in records if r.outcome is Outcome.UNKNOWN]
    return any(
        _fits(order, model)
        for size in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, size)
        for order in itertools.permutations([*known, *chosen])
    )


def _fits(order: tuple[Record, ...], model: Model) -> bool:
    latest_call = -1
    state: Any = model.initial
    for operation in order:
        end = math.inf if operation.returned is None else operation.returned
        if end < latest_call:
            return False
        latest_call = max(latest_call, operation.call)
        state, answer = model.apply(state, operation.f, operation.value)
        if operation.outcome is Outcome.OK and answer != operation.result:
            return False
    return True


@pytest.mark.parametrize("name", sorted(MODELS))
def test_agrees_with_trying_every_order(name: str) -> None:
    """On thousands of random small histories with unknown outcomes both checkers agree."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # shown when it fails
    rng = random.Random(seed)
    model = MODELS[name]
    said = {Answer.OK: 0, Answer.VIOLATION: 0}
    for number in range(HISTORIES):
        history = draw(rng, model)
        verdict = check(history, model)
        expected = Answer.OK if naive(history, model) else Answer.VIOLATION
        assert verdict.answer is expected, (seed, number, history)
        said[verdict.answer] += 1
    assert min(said.values()) > HISTORIES // 20, said


# --- by hand -----------------------------------------------------------------------------------

VIOLATIONS: dict[str, tuple[str, list[Record]]] = {
    "a stale read": (
        "register",
        [
            record(1, "write", "a", at=(0, 1)),
            record(1, "write", "b", at=(2, 3)),
            record(2, "read", None, "a", at=(4, 5)),
        ],
    ),
    "a value that nobody wrote": ("register", [record(1, "read", None, "x", at=(0, 9))]),
    "an acknowledged write that was lost": (
        "register",
        [record(1, "write", "a", at=(0, 1)), record(2, "read", None, None, at=(2, 3))],
    ),
    "two readers see two writes in different orders": (
        "register",
        [
            record(1, "write", "a", at=(0, 9)),
            record(2, "write", "b", at=(0, 9)),
            record(3, "read", None, "a", at=(1, 2)),
            record(3, "read", None, "b", at=(3, 4)),
            record(4, "read", None, "a", at=(5, 6)),
        ],
    ),
    "two swaps from the same value": (
        "register",
        [
            record(1, "write", "a", at=(0, 1)),
            record(2, "cas", ["a", "b"], True, at=(2, 8)),
            record(3, "cas", ["a", "c"], True, at=(2, 8)),
        ],
    ),
    "an unknown write that took effect twice": (
        "register",
        [
            record(1, "write", "a", at=(0, None)),
            record(2, "read", None, "a", at=(1, 2)),
            record(2, "write", "b", at=(3, 4)),
            record(2, "read", None, "a", at=(5, 6)),
        ],
    ),
    "an unknown write seen, then unseen": (
        "register",
        [
            record(1, "write", "a", at=(0, None)),
            record(2, "read", None, "a", at=(1, 2)),
            record(2, "read", None, None, at=(3, 4)),
        ],
    ),
    "an effect before its call": (
        "register",
        [record(1, "read", None, "a", at=(0, 1)), record(2, "write", "a", at=(2, 3))],
    ),
    "a lost increment": (
        "counter",
        [
            record(1, "add", 1, 1, at=(0, 5)),
            record(2, "add", 1, 1, at=(0, 5)),
        ],
    ),
    "an increment that was applied twice": (
        "counter",
        [record(1, "add", 1, at=(0, None)), record(2, "read", None, 2, at=(1, 2))],
    ),
    "a counter that went back": (
        "counter",
        [
            record(1, "add", 2, at=(0, None)),
            record(2, "read", None, 2, at=(1, 2)),
            record(2, "read", None, 0, at=(3, 4)),
        ],
    ),
    "a lost element": (
        "set",
        [record(1, "add", 1, at=(0, 1)), record(2, "read", None, [], at=(2, 3))],
    ),
    "elements in two orders": (
        "set",
        [
            record(1, "add", 1, at=(0, None)),
            record(2, "add", 2, at=(0, None)),
            record(3, "read", None, [1], at=(1, 2)),
            record(4, "read", None, [2], at=(1, 2)),
        ],
    ),
    "an element that is there again": (
        "set",
        [
            record(1, "add", 1, at=(0, 1)),
            record(1, "remove", 1, True, at=(2, 3)),
            record(2, "contains", 1, True, at=(4, 5)),
        ],
    ),
    "removed twice": (
        "set",
        [
            record(1, "add", 1, at=(0, 1)),
            record(2, "remove", 1, True, at=(2, 9)),
            record(3, "remove", 1, True, at=(2, 9)),
        ],
    ),
}


@pytest.mark.parametrize("what", sorted(VIOLATIONS))
def test_violations_are_found(what: str) -> None:
    """Each violation is found, and the explanation names the operations that contradict each other."""
    name, history = VIOLATIONS[what]
    assert not naive(history, MODELS[name])
    verdict = check(history, MODELS[name])
    assert verdict.answer is Answer.VIOLATION
    assert verdict.window
    assert all(operation in history for operation in verdict.window)
    assert "k is no" in str(verdict)


def test_a_refused_operation_never_takes_effect() -> None:
    """A refused operation does not explain what a client read."""
    refused = Record(
        process="c1",
        f="write",
        key="k",
        value="a",
        call=0,
        returned=1,
        outcome=Outcome.FAIL,
        error="NoLeader",
    )
    history = [refused, record(2, "read", None, "a", at=(2, 3))]
    verdict = check(history, MODELS["register"])
    assert verdict.answer is Answer.VIOLATION
    assert "if a refused operation took effect" in verdict.text
    assert "refused" not in check(VIOLATIONS["a stale read"][1], MODELS["register"]).text


def test_an_unknown_write_may_take_effect_much_later_or_never() -> None:
    """Both are valid, also after other operations; an answer may need a chain of unknown operations."""
    late = [
        record(1, "write", "a", at=(0, None)),
        record(2, "write", "b", at=(1, 2)),
        record(2, "read", None, "b", at=(3, 4)),
        record(2, "read", None, "a", at=(50, 60)),
    ]
    assert check(late, MODELS["register"]).answer is Answer.OK
    assert check(late[:3], MODELS["register"]).answer is Answer.OK
    chain = [
        record(1, "write", "a", at=(0, None)),
        record(2, "cas", ["a", "b"], at=(0, None)),
        record(3, "cas", ["b", "c"], at=(0, None)),
        record(4, "read", None, "c", at=(5, 6)),
    ]
    assert check(chain, MODELS["register"]).answer is Answer.OK


def _busy(rng: random.Random, count: int, unknown_share: float) -> list[Record]:
    """A valid history of a register by eight processes, with unique values."""
    state, now, history = None, 0, []
    for number in range(count):
        now += rng.randrange(1, 4)
        call, end = now - rng.randrange(20), now + rng.randrange(1, 20)
        if rng.random() < 0.5:
            history.append(record(number % 8, "read", None, state, at=(call, end)))
        elif rng.random() < unknown_share:
            if rng.random() < 0.5:
                state = f"v{number}"
            history.append(record(number % 8, "write", f"v{number}", at=(call, None)))
        else:
            state = f"v{number}"
            history.append(record(number % 8, "write", state, at=(call, end)))
    return history


def test_long_histories_with_many_unknown_outcomes_are_decided() -> None:
    """A valid history of 1,000 operations on a key, 100 unknown, is accepted; a stale read in it is found."""
    history = _busy(random.Random(5), 1_000, 0.2)
    assert sum(r.outcome is Outcome.UNKNOWN for r in history) > 80
    verdict = check(history, MODELS["register"])
    assert verdict.answer is Answer.OK
    early = next(r for r in history if r.f == "write" and r.outcome is Outcome.OK)
    end = max(r.returned or r.call for r in history)
    stale = record(9, "read", None, early.value, at=(end + 1, end + 2))
    verdict = check([*history, stale], MODELS["register"])
    assert verdict.answer is Answer.VIOLATION
    assert stale in verdict.window
    assert len(verdict.window) < 10


def test_the_cap_makes_it_say_undecided() -> None:
    """A checker that runs out of configurations answers "undecided"."""
    history = _busy(random.Random(5), 200, 0.2)
    verdict = check(history, MODELS["register"], configurations_max=20)
    assert verdict.answer is Answer.UNDECIDED
    assert "not decided" in verdict.text


def test_keys_are_objects_of_their_own() -> None:
    """A violation on one key among others is found, and its key is named."""
    good = [record(1, "write", "a", at=(0, 1), key="good")]
    bad = [record(1, "read", None, "a", at=(0, 1), key="bad")]
    verdict = check([*good, *bad], MODELS["register"])
    assert verdict.text.startswith("bad ")


def test_a_set_of_many_unknown_additions_is_decided() -> None:
    """Forty unknown additions, of which reads show a growing part, need no search over all subsets."""
    history: Iterable[Record] = [
        *(record(i, "add", i, at=(i, None)) for i in range(40)),
        *(
            record(50, "read", None, list(range(0, 2 * n, 2)), at=(100 + 2 * n, 101 + 2 * n))
            for n in range(20)
        ),
    ]
    assert check(history, MODELS["set"]).answer is Answer.OK
