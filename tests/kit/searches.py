"""Searching for planted bugs with tests that already exist."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any


def is_found(calls: Iterable[Callable[[], object]]) -> bool:
    """Whether one of these tests fails."""
    for call in calls:
        try:
            call()
        except KeyboardInterrupt:
            raise
        except BaseException:
            return True
    return False


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
                yield partial(test, **case)
