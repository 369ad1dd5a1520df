"""Was this rare path ever taken? Counted from outside: the code under test knows nothing of it.

A campaign that never reached a path has proved nothing about it. `rare_paths` lists what to look for.
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
"""All of them, by what they say."""


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
    """A patch that counts the calls of one function that are of interest."""
    module_name, _, name = where.partition(":")
    module = sys.modules[f"barque.{module_name}"]  # the simulators have loaded everything
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
    """The same function; it says when one of these paths is taken."""

    @functools.wraps(function)
    def counting(*args: Any, **named: Any) -> Any:
        due = [path for path in paths if path.before is None or path.before(*args, **named)]
        result = function(*args, **named)
        for path in due:
            if path.after is None or path.after(result):
                reached[path.text] += 1
        return result

    return counting
