"""Make a failing run small: fewer faults, fewer clients, less time. It must still fail in the same way.

Every try runs the same seed, and tries come in one order, so the result is always the same.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

Scenario = TypeVar("Scenario", bound=msgspec.Struct)
Run = Callable[[Any], Any]
"""Runs a scenario; the report's `violation` is None or has a `name`."""

TRIES_MAX = 200


class Shrunk(msgspec.Struct):
    """The smallest failing scenario, its report, its differences from the first, and the number of tries."""

    scenario: Any
    report: Any
    changes: dict[str, Any]
    tries: int


def shrink(scenario: msgspec.Struct, run: Run, *, tries_max: int = TRIES_MAX) -> Shrunk | None:
    """Try smaller scenarios while the same property is violated. Returns None if the first run is clean."""
    report = run(scenario)
    if report.violation is None:
        return None
    name, first, tries = report.violation.name, scenario, 1
    again = True
    while again and tries < tries_max:
        again = False
        for smaller in _smaller(scenario, report.virtual_s):
            tries += 1
            found = run(smaller)
            if found.violation is not None and found.violation.name == name:
                scenario, report, again = smaller, found, True
                break
            if tries >= tries_max:
                break
    return Shrunk(scenario, report, differences(first, scenario), tries)


def differences(first: msgspec.Struct, second: msgspec.Struct) -> dict[str, Any]:
    """The fields in which the second scenario differs from the first, ready for JSON."""
    one, other = msgspec.to_builtins(first), msgspec.to_builtins(second)
    return {field: value for field, value in other.items() if one[field] != value}


def changed(scenario: Scenario, changes: dict[str, Any]) -> Scenario:
    """The scenario with some fields replaced, given as in JSON.

    Raises `msgspec.ValidationError` for a value of a wrong type and for a field that does not exist.
    """
    fields = msgspec.to_builtins(scenario)
    unknown = changes.keys() - fields.keys()
    if unknown:
        raise msgspec.ValidationError(f"no such field: {', '.join(sorted(unknown))}")
    return msgspec.convert({**fields, **changes}, type(scenario))


def _smaller(scenario: Any, failed_at_s: float) -> Iterator[Any]:
    """Yield smaller scenarios, the most promising first."""

    def but(**fields: Any) -> Any:
        return msgspec.structs.replace(scenario, **fields)

    if failed_at_s + 0.1 < scenario.duration_s:
        yield but(duration_s=failed_at_s + 0.1)
    faults = scenario.faults
    if len(faults) > 2:
        half = len(faults) // 2
        yield but(faults=faults[:half])
        yield but(faults=faults[half:])
    for name in faults:
        yield but(faults=tuple(other for other in faults if other != name))
    for field, least in (("in_process_clients", 0), ("clients", 1), ("workers", 1), ("keys", 1)):
        if getattr(scenario, field, least) > least:
            yield but(**{field: least})
    for field in ("burst_share", "read_share"):
        if getattr(scenario, field, 0.0) > 0.0:
            yield but(**{field: 0.0})
    if scenario.duration_s > 0.5:
        yield but(duration_s=scenario.duration_s / 2)
        yield but(duration_s=scenario.duration_s * 0.8)
