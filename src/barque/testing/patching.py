"""Putting a mutant in the place of one function of the core, wherever the core holds it.

A name that is imported into another module, and a row of a role's table, are references of their
own: to replace the attribute of one module alone would change nothing for the others.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_CORE = "barque.core"


@contextmanager
def replace(original: Callable[..., Any], mutant: Callable[..., Any]) -> Iterator[None]:
    """Swap a function of `barque.core` in every module and every table, and put it back afterwards.

    Modules that are imported later are not looked at. Raises `LookupError` if nobody refers to
    `original`: a plant that changes nothing would prove nothing.
    """
    held = [(place, key) for place in _places() for key, value in place.items() if value is original]
    if not held:
        raise LookupError(f"nothing in {_CORE} refers to {original!r}")
    for place, key in held:
        place[key] = mutant
    try:
        yield
    finally:
        for place, key in held:
            place[key] = original


def _places() -> list[dict[Any, Any]]:
    """The namespaces of the core's modules, and each table in them once."""
    namespaces = [
        vars(module) for name, module in sys.modules.items() if name == _CORE or name.startswith(f"{_CORE}.")
    ]
    tables = {
        id(value): value
        for namespace in namespaces
        for name, value in namespace.items()
        if isinstance(value, dict) and not name.startswith("__")
    }
    return [*namespaces, *tables.values()]
