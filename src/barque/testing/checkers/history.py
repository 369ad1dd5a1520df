"""Judge a history of lists: could one object have given all these answers? Exact, in O(n log n).

The object is a set of lists. An operation appends one element, which no other operation appends, or reads a
whole list. With unique elements every read fixes the order of the elements that it shows, so there is
nothing to search: the longest list gives each append its place and each read its slot. The history is
linearizable if that order nowhere contradicts real time.

An operation with an unknown outcome may take effect at any time after its call, or never. The place that an
append was told is compared with what reads show; otherwise the place of an append that no read shows is not
used. (A simulation ends with a read of every list, so no such append is left.)
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

_NEVER = float("inf")


class Outcome(StrEnum):
    """What the client was told."""

    OK = "ok"
    FAIL = "fail"  # it did not happen
    UNKNOWN = "unknown"


class Operation(msgspec.Struct):
    """One operation of one client. Times in virtual seconds.

    `element` is the appended element, None for a read. `result` is the list that was read, or the length of
    the list after an append, as far as the machine told it. `epoch` is the incarnation of the object that
    answered, for objects that are deleted and created again.
    """

    client: str
    key: str
    called: float
    element: str | None = None
    returned: float = _NEVER
    outcome: Outcome = Outcome.UNKNOWN
    result: list[str] | int | None = None
    epoch: int = 0
    by_command: bool = False
    """Whether a read went through the log, in a transaction, and is no query."""

    @property
    def is_read(self) -> bool:
        """Whether it only reads."""
        return self.element is None

    def __str__(self) -> str:
        end = "…" if self.returned == _NEVER else f"{self.returned:.6f}"
        what = f"read {self.key}" if self.element is None else f"append {self.element} to {self.key}"
        return f"[{self.called:.6f}, {end}] {self.client}: {what}: {self.outcome} {self.result}"


class Anomaly(NamedTuple):
    """Answers that no list could have given, and the operations that show it."""

    text: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n".join((self.text, *(f"    {operation}" for operation in self.operations)))


def check_epochs(operations: list[Operation]) -> Anomaly | None:
    """Find the first anomaly of an object that may be deleted and created again, within epochs and across.

    An operation that one epoch answered did not happen in another. An unanswered operation may have happened
    in one of them.
    """
    epochs = sorted({operation.epoch for operation in operations if operation.outcome is Outcome.OK})
    if len(epochs) < 2:
        return check_history(operations)
    seen: dict[str, Operation] = {}
    for epoch in epochs:
        found = check_history([_seen_from(epoch, operation) for operation in operations])
        if found is not None:
            return found
        mine = [o for o in operations if o.epoch == epoch and isinstance(o.result, list)]
        for read, element in [(o, element) for o in mine for element in _read_list(o)]:
            if seen.setdefault(element, read).epoch != epoch:
                return Anomaly(f"{element} is in two incarnations of a list", (seen[element], read))
    return None


def _seen_from(epoch: int, operation: Operation) -> Operation:
    if operation.outcome is Outcome.OK and operation.epoch != epoch:
        return msgspec.structs.replace(operation, outcome=Outcome.FAIL, result=None)
    return operation


def check_history(operations: Iterable[Operation]) -> Anomaly | None:
    """Find the first anomaly of a history, key by key. Returns None if the history is linearizable."""
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    for key in sorted(by_key):
        found = _check_key(by_key[key])
        if found is not None:
            return found
    return None


def _check_key(operations: list[Operation]) -> Anomaly | None:
    appends: dict[str | None, Operation] = {o.element: o for o in operations if o.element is not None}
    reads = [o for o in operations if o.element is None and o.outcome is Outcome.OK]
    odd = next((read for read in reads if not isinstance(read.result, list)), None)
    if odd is not None:
        return Anomaly("a read was told what another call had asked for", (odd,))
    longest = max(reads, key=_length, default=None)
    order = _read_list(longest) if longest is not None else []
    found = _check_elements(order, appends, longest) or _check_prefixes(reads, order, longest)
    if found is not None:
        return found
    position: dict[str | None, int] = {element: at for at, element in enumerate(order)}
    slotted: list[tuple[int, float, Operation]] = [(2 * _length(o), o.called, o) for o in reads]
    for element, append in appends.items():
        at = position.get(element)
        if at is not None:
            if isinstance(append.result, int) and append.result != at + 1:
                text = f"an append was told place {append.result}, but stands at {at + 1}"
                return Anomaly(text, (append, *((longest,) if longest else ())))
            slotted.append((2 * at + 1, append.called, append))
        elif append.outcome is Outcome.OK:
            # No read shows it: it can only come after everything that reads show.
            if isinstance(append.result, int) and append.result <= len(order) and longest is not None:
                return Anomaly("an acknowledged append is not at its place", (append, longest))
            slotted.append((2 * len(order) + 1, append.called, append))
    return _check_times(slotted)


def _check_times(slotted: list[tuple[int, float, Operation]]) -> Anomaly | None:
    """No operation may have returned before the call of an operation that precedes it in the order."""
    latest: Operation | None = None
    for _, _, operation in sorted(slotted, key=lambda entry: entry[:2]):
        returned = operation.returned if operation.outcome is Outcome.OK else _NEVER
        if latest is not None and returned < latest.called:
            kind = "a stale read" if operation.element is None else "an append in the wrong place"
            return Anomaly(f"{kind}: it ended before something that it follows began", (operation, latest))
        if latest is None or operation.called > latest.called:
            latest = operation
    return None


def _check_elements(
    order: list[str], appends: dict[str | None, Operation], longest: Operation | None
) -> Anomaly | None:
    if longest is None:
        return None
    seen: set[str] = set()
    for element in order:
        append = appends.get(element)
        if element in seen:
            return Anomaly(f"{element} was appended once and stands there twice", (longest,))
        if append is None:
            return Anomaly(f"{element} was never appended", (longest,))
        if append.outcome is Outcome.FAIL:
            return Anomaly("an append that was refused took effect", (append, longest))
        seen.add(element)
    return None


def _check_prefixes(reads: list[Operation], order: list[str], longest: Operation | None) -> Anomaly | None:
    for read in reads:
        if _read_list(read) != order[: _length(read)] and longest is not None:
            return Anomaly("two reads saw different orders", (read, longest))
    return None


def _read_list(read: Operation) -> list[str]:
    assert isinstance(read.result, list)
    return read.result


def _length(read: Operation) -> int:
    return len(_read_list(read))
