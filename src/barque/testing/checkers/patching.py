"""Replace a function by another one in every place where a package holds it.

A name that is imported into another module, and a row of a role's table, are references of their own. A
patch of one module's attribute would leave these as they are.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CORE = "barque.core"


@contextmanager
def replace(
    original: Callable[..., Any], other: Callable[..., Any], *, package: str = CORE
) -> Iterator[None]:
    """Replace a function in every module and every table of a package, and put it back afterwards.

    Modules that are imported later keep the original. Raises `LookupError` if nothing refers to `original`:
    a patch that changes nothing would prove nothing.
    """
    held = [(place, key) for place in _places(package) for key, value in place.items() if value is original]
    if not held:
        raise LookupError(f"nothing in {package} refers to {original!r}")
    for place, key in held:
        place[key] = other
    try:
        yield
    finally:
        for place, key in held:
            place[key] = original


def _places(package: str) -> list[dict[Any, Any]]:
    """The namespaces of the package's modules, and each table in them once."""
    namespaces = [
        vars(module)
        for name, module in sys.modules.items()
        if name == package or name.startswith(f"{package}.")
    ]
    tables = {
        id(value): value
        for namespace in namespaces
        for name, value in namespace.items()
        if isinstance(value, dict) and not name.startswith("__")
    }
    return [*namespaces, *tables.values()]
