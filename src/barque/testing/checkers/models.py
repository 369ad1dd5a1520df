"""Sequential objects to compare histories with: what each operation does and answers.

A model shares no code with any state machine. Its state is hashable. `apply` returns the next state and the
answer, and does not change the state that it was given.
"""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from barque.testing.checkers.history import Outcome
from barque.testing.checkers.records import Record

ANY = object()
"""No single state."""


class Model(Protocol):
    """One object. Every key of a history is an object of its own."""

    name: str
    initial: Hashable
    reads: frozenset[str]
    """The operations that never change anything."""

    def apply(self, state: Any, f: str, value: Any) -> tuple[Any, Any]:
        """Return the state after this operation, and its answer. Raises `ValueError` for an unknown `f`."""
        ...

    def before(self, operations: Sequence[Record]) -> list[tuple[int, int]]:
        """Pairs (first, second): every valid order that has `second` has `first` before it.

        The pairs follow from the answers only; the checker adds real time. They may be empty: they save work.
        """
        ...

    def wants(self, operation: Record) -> Any:
        """The only state in which this known operation gives its answer, or `ANY`. It saves work as well."""
        ...

    def makes(self, operation: Record) -> Any:
        """The only other state to which this operation can lead, from any state, or `ANY`.

        A model that returns `ANY` here for all operations must return `ANY` for every `wants`.
        """
        ...


class Register:
    """`write v`, `read` → v or null, `cas [expected, new]` → if it swapped, `delete` → if it existed.

    A register that was never written, or was deleted, reads as null; `cas [null, v]` writes only then.
    """

    name = "register"
    initial: Hashable = None
    reads = frozenset(("read",))

    def apply(self, state: Any, f: str, value: Any) -> tuple[Any, Any]:
        """See the class."""
        match f:
            case "read":
                return state, state
            case "write":
                return value, None
            case "cas":
                expected, new = value
                return (new, True) if state == expected else (state, False)
            case "delete":
                return None, state is not None
        raise ValueError(f"a register has no {f!r}")

    def before(self, operations: Sequence[Record]) -> list[tuple[int, int]]:
        """No pairs: a value may be written twice."""
        return []

    def wants(self, operation: Record) -> Any:
        """The value that was read or swapped."""
        if operation.f == "read":
            return operation.result
        if operation.f == "cas" and operation.result is True:
            return operation.value[0]
        return None if operation.f == "delete" and operation.result is False else ANY

    def makes(self, operation: Record) -> Any:
        """The value that it writes."""
        match operation.f:
            case "write":
                return operation.value
            case "cas":
                return operation.value[1]
            case "delete":
                return None
        return ANY


class Counter:
    """`add n` → the sum after it, `read` → the sum; 0 at first."""

    name = "counter"
    initial: Hashable = 0
    reads = frozenset(("read",))

    def apply(self, state: Any, f: str, value: Any) -> tuple[Any, Any]:
        """See the class."""
        match f:
            case "read":
                return state, state
            case "add":
                return state + value, state + value
        raise ValueError(f"a counter has no {f!r}")

    def before(self, operations: Sequence[Record]) -> list[tuple[int, int]]:
        """No pairs."""
        return []

    def wants(self, operation: Record) -> Any:
        """Not used."""
        return ANY

    def makes(self, operation: Record) -> Any:
        """Not used."""
        return ANY


class Set:
    """`add e`, `remove e` → whether it was there, `contains e`, `read` → all elements, ascending."""

    name = "set"
    initial: Hashable = ()
    reads = frozenset(("read", "contains"))

    def apply(self, state: Any, f: str, value: Any) -> tuple[Any, Any]:
        """See the class."""
        if f == "read":
            return state, list(state)
        at = bisect_left(state, value)
        there = at < len(state) and state[at] == value
        match f:
            case "contains":
                return state, there
            case "add":
                return state if there else (*state[:at], value, *state[at:]), None
            case "remove":
                return (*state[:at], *state[at + 1 :]) if there else state, there
        raise ValueError(f"a set has no {f!r}")

    def before(self, operations: Sequence[Record]) -> list[tuple[int, int]]:
        """A read without an element that nobody removes comes before every `add` of it."""
        removed = {o.value for o in operations if o.f == "remove"}
        adds = [(i, o.value) for i, o in enumerate(operations) if o.f == "add" and o.value not in removed]
        pairs = []
        for read, operation in enumerate(operations):
            if operation.f == "read" and operation.outcome is Outcome.OK:
                seen = set(operation.result)
                pairs += [(read, add) for add, element in adds if element not in seen]
        return pairs

    def wants(self, operation: Record) -> Any:
        """Not used."""
        return ANY

    def makes(self, operation: Record) -> Any:
        """Not used."""
        return ANY


MODELS: dict[str, Model] = {model.name: model for model in (Register(), Counter(), Set())}
"""All models by name."""
