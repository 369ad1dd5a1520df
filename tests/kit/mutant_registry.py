"""Where planted bugs are listed: a name, what is wrong, and what plants it.

Bugs of the core name the function that they spoil, not its module: `find` and `replace` (by `patching`)
look for it wherever it lives and is held, so that a function may move.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import barque.core.step  # every module of the core is loaded with it
from barque.testing.checkers import patching

Plant = Callable[[], Any]


class Mutant(msgspec.Struct, frozen=True):
    """One bug. `plant` returns a context manager; `layer` is `core` if core servers alone can show it.

    `equivalent` says why it breaks no promise, where that is so; a script demands the rule all the same.
    """

    name: str
    text: str
    layer: str
    plant: Plant
    equivalent: str = ""


MUTANTS: dict[str, Mutant] = {}
"""All of them, by name, once `tests.kit.mutants` has been imported."""


def mutant(text: str, *, layer: str, equivalent: str = "") -> Callable[[Plant], Plant]:
    """List a function that plants a bug."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant.__name__, text, layer, plant, equivalent)
        return plant

    return add


def together(*patches: Any) -> Any:
    """Several patches as one."""
    stack = contextlib.ExitStack()
    for each in patches:
        stack.enter_context(each)
    return stack


def _core() -> list[Any]:
    assert barque.core.step is not None
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("barque.core.")]


def find(name: str) -> Any:
    """The function of the core that has this name."""
    for module in _core():
        found = vars(module).get(name)
        if callable(found) and getattr(found, "__module__", "") == module.__name__:
            return found
    raise LookupError(f"no module of the core defines {name}")


def replace(name: str, wrong: Callable[..., Any]) -> Any:
    """Let this function be another one, wherever the core holds it."""
    return patching.replace(find(name), wrong)


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the code have this bug while the block runs."""
    with MUTANTS[name].plant():
        yield
