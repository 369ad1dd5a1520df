"""The list of planted bugs: a name, what is wrong, and a function that plants the bug.

A bug of the core names the function that it replaces, not the module: `find` and `replace` (with `patching`)
find the function wherever it is defined and wherever it is referenced, so that it may move.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import barque.core.step  # imports every module of the core
from barque.testing.checkers import patching

Plant = Callable[[], Any]


class Mutant(msgspec.Struct, frozen=True):
    """One bug. `plant` returns a context manager; `layer` is `core` if core servers alone can show the bug.

    `equivalent` says why the bug breaks no promise, if so; a script demands the rule all the same.
    """

    name: str
    text: str
    layer: str
    plant: Plant
    equivalent: str = ""


MUTANTS: dict[str, Mutant] = {}
"""All planted bugs by name, once `tests.kit.mutants` has been imported."""


def mutant(text: str, *, layer: str, equivalent: str = "") -> Callable[[Plant], Plant]:
    """Register a function that plants a bug."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant.__name__, text, layer, plant, equivalent)
        return plant

    return add


def together(*patches: Any) -> Any:
    """Combine several patches into one."""
    stack = contextlib.ExitStack()
    for each in patches:
        stack.enter_context(each)
    return stack


def _core() -> list[Any]:
    assert barque.core.step is not None
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("barque.core.")]


def find(name: str) -> Any:
    """Find the function of the core with this name."""
    for module in _core():
        found = vars(module).get(name)
        if callable(found) and getattr(found, "__module__", "") == module.__name__:
            return found
    raise LookupError(f"no module of the core defines {name}")


def replace(name: str, wrong: Callable[..., Any]) -> Any:
    """Replace this function wherever the core refers to it."""
    return patching.replace(find(name), wrong)


def lower_term_passes(kind: type[Any]) -> Any:
    """Let the term rule take messages of this kind for our own term's, although theirs is over."""
    real = find("settle_term")

    def settle(server: Any, message: Any, effects: list[Any]) -> Any:
        if type(message) is kind and message.term < server.current_term:
            message = msgspec.structs.replace(message, term=server.current_term)
        return real(server, message, effects)

    return replace("settle_term", settle)


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant this bug while the block runs."""
    with MUTANTS[name].plant():
        yield
