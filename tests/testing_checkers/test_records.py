"""Histories as JSON lines."""

import json
import random
import secrets

import pytest
from tests.testing_checkers.test_linearizability import draw, naive

from barque.testing.checkers.history import Outcome, check_history
from barque.testing.checkers.models import MODELS
from barque.testing.checkers.records import (
    BadHistory,
    Record,
    as_list_operations,
    encode_record,
    read_records,
)


def line(**changes: object) -> bytes:
    """One line of a history, with changes."""
    fields = {
        "process": "c1",
        "f": "write",
        "key": "k",
        "value": "v",
        "call": 1,
        "return": 2,
        "outcome": "ok",
        "result": None,
        "error": "",
    }
    return json.dumps({**fields, **changes}).encode()


def test_what_was_written_is_read() -> None:
    """Operations of every kind come back as they were, one on each line."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    records = [record for _ in range(100) for name in sorted(MODELS) for record in draw(rng, MODELS[name])]
    lines = [encode_record(record) for record in records]
    assert all(each.endswith(b"\n") and each.count(b"\n") == 1 for each in lines)
    assert list(read_records(lines)) == records


def test_the_fields_are_those_of_the_page() -> None:
    """A line has the fields that docs/reference/history-format.md names, whatever their values."""
    record = Record(process="c1", f="read", key="k", call=1, outcome=Outcome.UNKNOWN, error="QueryTimeout: x")
    assert json.loads(encode_record(record)) == {
        "process": "c1",
        "f": "read",
        "key": "k",
        "value": None,
        "call": 1,
        "return": None,
        "outcome": "unknown",
        "result": None,
        "error": "QueryTimeout: x",
    }


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"{", "line 2"),
        (line(outcome="maybe"), "line 2"),
        (line(more=1), "line 2"),
        (line(outcome="unknown"), "return time"),
        (line(**{"return": None}), "return time"),
        (line(call=3), "before it was called"),
    ],
)
def test_bad_lines_are_refused(bad: bytes, why: str) -> None:
    """A line that is not an operation is refused, and the error names the line."""
    with pytest.raises(BadHistory, match=why):
        list(read_records([line(), bad]))


def _list(process: int, f: str, value: str | None, result: object, at: tuple[int, int | None]) -> Record:
    outcome = Outcome.UNKNOWN if at[1] is None else Outcome.OK
    return Record(
        process=f"c{process}",
        f=f,
        key="k",
        value=value,
        call=at[0],
        returned=at[1],
        outcome=outcome,
        result=result,
    )


def test_list_histories_go_to_the_exact_checker() -> None:
    """A list-append history gets the same verdict as from the simulator's checker."""
    history = [
        _list(1, "append", "a", 1, (0, 1)),
        _list(2, "append", "b", None, (0, None)),
        _list(3, "read", None, ["a", "b"], (2, 3)),
    ]
    assert check_history(as_list_operations(history)) is None
    stale = _list(4, "read", None, ["a"], (4, 5))
    found = check_history(as_list_operations([*history, stale]))
    assert found is not None
    assert "stale read" in found.text


class Lists:
    """A list as a model, for the naive checker only."""

    name, initial, reads = "list", (), frozenset(("read",))

    def apply(self, state: tuple[str, ...], f: str, value: str | None) -> tuple[tuple[str, ...], object]:
        if f == "append":
            assert value is not None
            return (*state, value), len(state) + 1
        return state, list(state)


def test_the_list_checker_agrees_with_trying_every_order() -> None:
    """Both checkers agree on a thousand small list histories, each ending with a read."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    model, said = Lists(), [0, 0]
    for number in range(1_000):
        state: tuple[str, ...] = ()
        history = []
        for process in range(rng.randint(1, 4)):
            call = 10 * process - rng.randrange(25)
            returned = None if rng.random() < 0.3 else 10 * process + rng.randrange(1, 25)
            f, value = ("append", f"e{process}") if rng.random() < 0.6 else ("read", None)
            if returned is not None or rng.random() < 0.5:
                state, answer = model.apply(state, f, value)
            if returned is None:
                answer = None
            history.append(_list(process, f, value, answer, (call, returned)))
        seen = list(state)
        if rng.random() < 0.3:
            rng.shuffle(seen)
        if seen and rng.random() < 0.2:
            seen.pop()
        history.append(_list(9, "read", None, seen, (500, 501)))
        expected = naive(history, model)  # type: ignore[arg-type]
        found = check_history(as_list_operations(history))
        assert (found is None) is expected, (seed, number, history, found)
        said[expected] += 1
    assert min(said) > 50, said
