"""Count from outside how often a run takes each rare path; the code under test does not know of it.

A campaign that never took a path has proved nothing about it. `rare_paths` lists the paths.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from barque.testing.checkers.patching import replace
from barque.testing.checkers.rare_paths import RARE_PATHS, RarePath

PROBES: dict[str, RarePath] = {path.text: path for path in RARE_PATHS}
"""All rare paths, by their text."""


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Count how often each rare path is taken while the block runs."""
    reached: Counter[str] = Counter()
    with ExitStack() as stack:
        for where in dict.fromkeys(path.where for path in RARE_PATHS):
            paths = [path for path in RARE_PATHS if path.where == where]
            stack.enter_context(_counted(where, paths, reached))
        yield reached


def _counted(where: str, paths: list[RarePath], reached: Counter[str]) -> Any:
    """Patch one function so that the calls that take one of these paths are counted."""
    module_name, _, name = where.partition(":")
    module = sys.modules[f"barque.{module_name}"]  # the simulators have imported every module
    owner, _, method = name.rpartition(".")
    if owner:
        holder = getattr(module, owner)
        return patch.object(holder, method, _counting(getattr(holder, method), paths, reached))
    function = getattr(module, name)
    package = f"barque.{module_name.partition('.')[0]}"
    return replace(function, _counting(function, paths, reached), package=package)


def _counting(
    function: Callable[..., Any], paths: list[RarePath], reached: Counter[str]
) -> Callable[..., Any]:
    """Wrap a function so that it counts the paths that its calls take."""

    @functools.wraps(function)
    def counting(*args: Any, **named: Any) -> Any:
        due = [path for path in paths if path.before is None or path.before(*args, **named)]
        result = function(*args, **named)
        for path in due:
            if path.after is None or path.after(result):
                reached[path.text] += 1
        return result

    return counting
