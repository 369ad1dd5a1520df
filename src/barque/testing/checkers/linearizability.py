"""Search whether a history is linearizable: Wing and Gong's search with Lowe's memory of what was tried.

The search looks for an order of the operations in which each takes effect between its call and its return,
and every answer is the model's. It goes back when it is stuck, and never visits the same pair of (operations
done, state) twice. Keys are independent objects, so each is searched alone.

An operation with an unknown outcome may take effect at any time after its call, or never. Each would double
the search. Four rules keep it small; `tests/testing_checkers` compares the result with that of a checker
without any of these rules:

- A read with an unknown outcome says nothing, and is left out.
- Of several unknown operations that ask for the same, the one that was called first goes first.
- An unknown operation that would change nothing now need not happen now.
- An unknown operation happens only for the sake of an answer: next, or after more unknown operations, comes
  an operation that was impossible without it. In a row of unknown operations none may undo the one before.

Two more rules help with all operations: an order that the answers force (`Model.before`), and no step away
from a state that an operation still has to see if nothing leads back to it (`Model.wants`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from barque.testing.checkers.history import Outcome
from barque.testing.checkers.models import ANY, Model
from barque.testing.checkers.records import Record

CONFIGURATIONS_MAX = 300_000
"""The checker gives up after this many for one key; about 100 MB."""
_SHRINKING_EACH, _SHRINKING_ALL = 2_000, 300_000


class Answer(StrEnum):
    """The answer of a checker."""

    OK = "ok"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


class Verdict(msgspec.Struct, frozen=True):
    """The result. `window` holds the operations that cannot all be true, of the key that `text` names."""

    answer: Answer
    configurations: int
    text: str = ""
    window: tuple[Record, ...] = ()

    def __str__(self) -> str:
        if not self.window:
            return self.text or f"{self.answer} after {self.configurations} configurations"
        return "\n".join((self.text, *(f"    {line}" for line in timeline(self.window))))


def check(records: Iterable[Record], model: Model, configurations_max: int = CONFIGURATIONS_MAX) -> Verdict:
    """Check the history of every key against the model. Returns the first violation, if there is one."""
    by_key: dict[str, list[Record]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record)
    total, undecided = 0, ""
    for key in sorted(by_key):
        operations = _relevant(by_key[key], model)
        answer, explored = _search(operations, model, configurations_max)
        total += explored
        if answer is Answer.VIOLATION:
            verdict = _explain(key, operations, model, total, configurations_max)
            return _blame_refusals(verdict, by_key[key], model, configurations_max)
        if answer is Answer.UNDECIDED and not undecided:
            unknown = sum(o.outcome is Outcome.UNKNOWN for o in operations)
            undecided = (
                f"{key}: not decided after {explored} configurations "
                f"({len(operations)} operations, {unknown} of unknown outcome)"
            )
    return Verdict(Answer.UNDECIDED if undecided else Answer.OK, total, undecided)


def timeline(records: Sequence[Record]) -> Iterator[str]:
    """Describe operations with their times in milliseconds since the first call."""
    start = min((record.call for record in records), default=0)
    for record in sorted(records, key=lambda r: r.call):
        end = "…" if record.returned is None else f"{(record.returned - start) / 1e6:.3f}"
        yield f"[{(record.call - start) / 1e6:.3f}, {end}] {record}"


def _relevant(records: Iterable[Record], model: Model) -> list[Record]:
    """Leave out refused operations and unanswered reads; order the others by their calls."""
    kept = [
        record
        for record in records
        if record.outcome is Outcome.OK or (record.outcome is Outcome.UNKNOWN and record.f not in model.reads)
    ]
    return sorted(kept, key=lambda record: record.call)


class _Node(NamedTuple):
    """A position of the search. `base` and `last` are set while unknown operations wait for their purpose."""

    mask: int
    state: Any
    needy: bool = False
    base: Any = None  # the state before the row of unknown operations
    last: Any = None  # the state before the last of them


class _Search:
    """The operations of one key as arrays, and a list of the operations to do, in order of their calls."""

    def __init__(self, operations: Sequence[Record], model: Model) -> None:
        self.model = model
        self.operations = operations
        self.count = count = len(operations)
        self.known = [o.outcome is Outcome.OK for o in operations]
        self.returns = [math.inf if o.returned is None else o.returned for o in operations]
        self.first = [0] * count  # mask of the operations that must come before
        for first, second in model.before(operations):
            self.first[second] |= 1 << first
        self.kinds = [msgspec.json.encode((o.f, o.value)) for o in operations]
        self.wants = [model.wants(o) if o.outcome is Outcome.OK else ANY for o in operations]
        self.makes = [model.makes(o) for o in operations]
        self.wanted, self.made = Counter(self.wants), Counter(self.makes)  # counted over the operations to do
        self.after = [*range(1, count + 1), 0]  # a ring; `count` is its head
        self.behind = [count, *range(count)]

    def remove(self, i: int) -> None:
        """Take an operation as done."""
        after, behind = self.after[i], self.behind[i]
        self.after[behind], self.behind[after] = after, behind
        self.wanted[self.wants[i]] -= 1
        self.made[self.makes[i]] -= 1

    def put_back(self, i: int) -> None:
        """Take it back, in the reverse order of `remove`."""
        self.after[self.behind[i]] = self.behind[self.after[i]] = i
        self.wanted[self.wants[i]] += 1
        self.made[self.makes[i]] += 1

    def _is_dead_end(self, i: int, old: Any, new: Any) -> bool:
        """Whether this step leaves a state that others still need and that nothing leads back to."""
        if old == new or self.wanted[old] <= int(self.wants[i] == old):
            return False
        return self.made[old] <= int(self.makes[i] == old)

    def next_nodes(self, node: _Node) -> list[tuple[int, _Node]]:
        """List what may come next: known operations, the most urgent first, then unknown ones."""
        known: list[tuple[float, int, _Node]] = []
        unknown: list[tuple[int, _Node]] = []
        kinds: set[bytes] = set()
        deadline = math.inf
        i = self.after[self.count]
        while i != self.count and self.operations[i].call <= deadline:
            if self.known[i]:
                deadline = min(deadline, self.returns[i])
            if not self.first[i] & ~node.mask:
                if self.known[i]:
                    found = self._known(i, node)
                    if found is not None:
                        known.append((self.returns[i], i, found))
                elif self.kinds[i] not in kinds:
                    kinds.add(self.kinds[i])
                    found = self._unknown(i, node)
                    if found is not None:
                        unknown.append((i, found))
            i = self.after[i]
        known.sort(key=lambda found: found[:2])
        return [*((i, found) for _, i, found in known), *unknown]

    def _known(self, i: int, node: _Node) -> _Node | None:
        operation = self.operations[i]
        state, answer = self.model.apply(node.state, operation.f, operation.value)
        if answer != operation.result or self._is_dead_end(i, node.state, state):
            return None
        if node.needy and self.model.apply(node.base, operation.f, operation.value)[1] == answer:
            return None  # it could have come before those unknown operations, or without them
        return _Node(node.mask | 1 << i, state)

    def _unknown(self, i: int, node: _Node) -> _Node | None:
        operation = self.operations[i]
        state, _ = self.model.apply(node.state, operation.f, operation.value)
        if state == node.state or self._is_dead_end(i, node.state, state):
            return None
        if node.needy and self.model.apply(node.last, operation.f, operation.value)[0] == state:
            return None  # the one before would have been in vain
        base = node.base if node.needy else node.state
        return _Node(node.mask | 1 << i, state, needy=True, base=base, last=node.state)


def _search(operations: Sequence[Record], model: Model, limit: int) -> tuple[Answer, int]:
    """Search depth first. Returns the answer and how many configurations were visited."""
    search = _Search(operations, model)
    left = sum(search.known)
    node = _Node(0, model.initial)
    seen: set[_Node] = {node}
    path: list[tuple[int, Iterator[tuple[int, _Node]]]] = []
    choices = iter(search.next_nodes(node)) if left else iter(())
    while left:
        for i, following in choices:
            if following in seen or (following.needy and _Node(*following[:2]) in seen):
                continue
            if len(seen) >= limit:
                return Answer.UNDECIDED, len(seen)
            seen.add(following)
            search.remove(i)
            left -= search.known[i]
            path.append((i, choices))
            choices = iter(search.next_nodes(following))
            break
        else:
            if not path:
                return Answer.VIOLATION, len(seen)
            i, choices = path.pop()
            search.put_back(i)
            left += search.known[i]
    return Answer.OK, len(seen)


# --- why -----------------------------------------------------------------------------------------


def _explain(key: str, operations: list[Record], model: Model, explored: int, limit: int) -> Verdict:
    """Find the shortest prefix that fails, and in it the answers that contradict each other."""
    returns = sorted(o.returned for o in operations if o.returned is not None)
    low, high = 1, len(returns)  # the prefix up to the return `high` fails
    while low < high:
        middle = (low + high) // 2
        answer, more = _search(_prefix(operations, returns[middle - 1], model), model, limit)
        explored += more
        if answer is Answer.VIOLATION:
            high = middle
        else:
            low = middle + 1
    prefix = _prefix(operations, returns[high - 1], model)
    core, more = _shrink(prefix, model)
    others = len(prefix) - len(core)
    text = (
        f"{key} is no {model.name}: these {len(core)} operations cannot all have been answered so, "
        f"whatever the {others} others until then did (times in ms):"
    )
    return Verdict(Answer.VIOLATION, explored + more, text, tuple(core))


def _blame_refusals(verdict: Verdict, records: list[Record], model: Model, limit: int) -> Verdict:
    """Add a note if there would be no contradiction, had a refused operation taken effect."""
    refused = [record for record in records if record.outcome is Outcome.FAIL]
    perhaps = [weak for record in refused if (weak := _weaken(record, model)) is not None]
    operations = sorted([*_relevant(records, model), *perhaps], key=lambda record: record.call)
    if not perhaps or _search(operations, model, limit)[0] is not Answer.OK:
        return verdict
    text = f"{verdict.text[:-1]}; there is no contradiction if a refused operation took effect:"
    return msgspec.structs.replace(verdict, text=text)


def _prefix(operations: Iterable[Record], end: int, model: Model) -> list[Record]:
    """The history as it was known at that moment: later returns have no answer yet."""
    called = [o for o in operations if o.call <= end]
    return [
        kept
        for o in called
        if (kept := o if o.returned is None or o.returned <= end else _weaken(o, model)) is not None
    ]


def _weaken(operation: Record, model: Model) -> Record | None:
    """The same operation without its answer: every order that was valid stays valid."""
    if operation.f in model.reads:
        return None
    return msgspec.structs.replace(operation, returned=None, outcome=Outcome.UNKNOWN, result=None)


def _shrink(operations: list[Record], model: Model) -> tuple[list[Record], int]:
    """Find the answers without which there is no contradiction, and the number of configurations it took."""
    now: list[Record | None] = list(operations)
    needed, spent = [], 0
    for i, operation in enumerate(operations):
        if operation.outcome is not Outcome.OK:
            continue
        if spent < _SHRINKING_ALL:
            now[i] = _weaken(operation, model)
            answer, explored = _search([o for o in now if o is not None], model, _SHRINKING_EACH)
            spent += explored
            if answer is Answer.VIOLATION:
                continue
            now[i] = operation
        needed.append(operation)
    return needed, spent
