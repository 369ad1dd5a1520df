"""Fingerprints: equal for equal versions and types, and for nothing else."""

from typing import Any

import msgspec

from barque.machine.fingerprint import fingerprint
from barque.machine.machine import Machine


def machine(commands: Any = Any, queries: Any = Any, version: int = 0) -> Machine[Any]:
    """A machine of these types."""
    made: Machine[Any] = Machine()
    made.command_type, made.query_type, made.version = commands, queries, version  # type: ignore[misc]
    return made


def struct(doc: str = "", tag: str = "add", **fields: Any) -> Any:
    """A new command type named Add."""
    made = msgspec.defstruct("Add", list(fields.items()), array_like=True, tag=tag)
    made.__doc__ = doc
    return made


def test_the_same_types_have_the_same_fingerprint() -> None:
    """Members load their own copies of the classes. Docstrings and the module's name do not matter."""
    one, other = struct("One text.", by=int), struct("Another text.", by=int)
    assert fingerprint(machine(one)) == fingerprint(machine(other))


def test_any_difference_of_the_contract_changes_the_fingerprint() -> None:
    """Version, commands, queries; a tag, a field, its type and its number."""
    add, mul = struct(by=int), struct(tag="mul", by=int)
    different = [
        machine(),
        machine(version=1),
        machine(add),
        machine(add | mul),
        machine(queries=add),
        machine(struct(by=float)),
        machine(struct(by=int, twice=bool)),
        machine(struct(tag="plus", by=int)),
        machine(dict[str, int]),
        machine(msgspec.defstruct("Add", [("description", int)])),
        machine(msgspec.defstruct("Add", [("text", int)])),
    ]
    assert len({fingerprint(made) for made in different}) == len(different)


def test_a_type_without_a_schema_has_a_fingerprint() -> None:
    """A machine may take types that only its own hooks can encode."""
    assert fingerprint(machine(complex)) != fingerprint(machine(slice))
