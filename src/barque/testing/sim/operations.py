"""The operations on the objects of one cluster, which its clients share, and the verdict on their history.

`history` judges lists exactly, however long they grow. `linearizability` searches the histories of other
objects, so clients use such an object for a while and then leave it.
"""

from collections.abc import Iterable
from random import Random
from typing import Any, NamedTuple, Protocol

from barque.testing.checkers.history import Operation, Outcome, check_epochs
from barque.testing.checkers.linearizability import Answer, check
from barque.testing.checkers.models import MODELS
from barque.testing.checkers.records import Record
from barque.testing.sim.redis_machine import REDIS
from barque.testing.sim.test_machine import KINDS, LISTS, Kind

OPERATIONS_PER_KEY = 30
CONFIGURATIONS_MAX = 20_000
"""For one object, which takes about a second. An undecided history is counted, and proves nothing."""


class Judgement(NamedTuple):
    """What is wrong with a history, if anything, and how many histories were not decided."""

    text: str = ""
    shown: tuple[str, ...] = ()
    undecided: int = 0


class Operations(Protocol):
    """Draws the operations of a cluster's clients, and remembers what the clients have learned."""

    def draw_key(self, rng: Random) -> str:
        """Draw the object of the next operation."""
        ...

    def change(self, client: str, key: str, called: float, element: str, rng: Random) -> Operation:
        """Draw a change of an object. No other change has this element."""
        ...

    def read(self, client: str, key: str, called: float) -> Operation:
        """Make a read of a whole object."""
        ...

    def command(self, operation: Operation) -> Any:
        """The command that asks the machine for this change."""
        ...

    def learn(self, operation: Operation) -> None:
        """Remember the answer to an operation."""
        ...

    def used(self) -> Iterable[str]:
        """The keys of all objects that were used."""
        ...

    def judge(self, operations: list[Operation]) -> Judgement:
        """Judge a history: could one object have given all these answers?"""
        ...


class ListOperations:
    """A few lists, for the whole run."""

    def __init__(self, keys: int) -> None:
        self._keys = keys

    def draw_key(self, rng: Random) -> str:
        """See `Operations`."""
        return f"k{rng.randrange(self._keys)}"

    def change(self, client: str, key: str, called: float, element: str, rng: Random) -> Operation:
        """See `Operations`."""
        return Operation(client, key, called, element)

    def read(self, client: str, key: str, called: float) -> Operation:
        """See `Operations`."""
        return Operation(client, key, called)

    def command(self, operation: Operation) -> Any:
        """See `Operations`."""
        return [operation.key, operation.element]

    def learn(self, operation: Operation) -> None:
        """Remember nothing: an append depends on no answer."""

    def used(self) -> Iterable[str]:
        """See `Operations`."""
        return [f"k{key}" for key in range(self._keys)]

    def judge(self, operations: list[Operation]) -> Judgement:
        """See `Operations`."""
        anomaly = check_epochs(operations)
        if anomaly is None:
            return Judgement()
        return Judgement(anomaly.text, tuple(map(str, anomaly.operations)))


class TypedOperation(Operation):
    """An operation on an object that is not a list: `f` and `value` as in a `Record`."""

    f: str = "read"
    value: Any = None

    @property
    def is_read(self) -> bool:
        """See `Operation`."""
        return self.f == "read"

    def __str__(self) -> str:
        return f"[{self.called:.6f}] {as_record(self)}"


class ObjectOperations:
    """Objects of another kind: two at a time, each for a limited number of operations."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._model = MODELS[kind.model]
        self._drawn = 0
        self._seen: dict[str, Any] = {}  # by key, the object as a client saw it last

    def draw_key(self, rng: Random) -> str:
        """See `Operations`."""
        self._drawn += 1
        return f"o{self._drawn // (2 * OPERATIONS_PER_KEY)}.{rng.randrange(2)}"

    def change(self, client: str, key: str, called: float, element: str, rng: Random) -> Operation:
        """See `Operations`."""
        f, value = self._kind.draw(rng, element, self._seen.setdefault(key, None))
        return TypedOperation(client, key, called, f=f, value=value)

    def read(self, client: str, key: str, called: float) -> Operation:
        """See `Operations`."""
        self._seen.setdefault(key, None)
        return TypedOperation(client, key, called)

    def command(self, operation: Operation) -> Any:
        """See `Operations`."""
        assert isinstance(operation, TypedOperation)
        return [operation.key, operation.f, operation.value]

    def learn(self, operation: Operation) -> None:
        """Remember what to swap, or to remove, next time."""
        assert isinstance(operation, TypedOperation)
        match operation.f:
            case "read":
                self._seen[operation.key] = operation.result
            case "write":
                self._seen[operation.key] = operation.value
            case "cas" if operation.result:
                self._seen[operation.key] = operation.value[1]

    def used(self) -> Iterable[str]:
        """See `Operations`."""
        return list(self._seen)

    def judge(self, operations: list[Operation]) -> Judgement:
        """See `Operations`. A change that one epoch answered did not happen in another epoch."""
        answered = [operation for operation in operations if operation.outcome is Outcome.OK]
        undecided = 0
        for epoch in sorted({operation.epoch for operation in answered}):
            mine = [o for o in operations if o.outcome is not Outcome.OK or o.epoch == epoch]
            verdict = check(map(as_record, mine), self._model, CONFIGURATIONS_MAX)
            if verdict.answer is Answer.VIOLATION:
                text, *shown = str(verdict).splitlines()
                return Judgement(text, tuple(map(str.strip, shown)))
            undecided += verdict.answer is Answer.UNDECIDED
        return Judgement(undecided=undecided)


def as_record(operation: Operation) -> Record:
    """Convert an operation for the search; times in nanoseconds."""
    assert isinstance(operation, TypedOperation)
    answered = operation.outcome is Outcome.OK
    return Record(
        process=operation.client,
        f=operation.f,
        key=operation.key,
        value=operation.value,
        call=round(operation.called * 1e9),
        returned=round(operation.returned * 1e9) if answered else None,
        outcome=operation.outcome,
        result=operation.result if answered else None,
    )


def make_operations(kind: str, keys: int) -> Operations:
    """The operations of a cluster with objects of this kind."""
    return ListOperations(keys) if kind in (LISTS, REDIS) else ObjectOperations(KINDS[kind])
