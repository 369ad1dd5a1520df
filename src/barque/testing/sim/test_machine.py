"""The machine of simulated clusters: objects by key, all of one kind, mostly lists.

The objects are implemented here, independently of the models that judge them (`checkers.models`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, ClassVar, Protocol

from barque.machine.effects import Checkpoint, MachineEffect, ReleaseCursor, SendMsg
from barque.machine.machine import CommandMeta, Down, Machine, MachineVersion, RunMeta, Timeout
from barque.testing.checkers.digests import Digests
from barque.testing.sim.guests import GUEST, forget, watch, watch_again
from barque.testing.sim.timer_model import TimerModel
from barque.types import Index

_EPOCH = "epoch"
_AT = "at"
LISTS = "lists"
Objects = dict[str, Any]
Applied = Callable[[CommandMeta, str], None]
Ended = Callable[[CommandMeta, Down], None]


class Kind(Protocol):
    """One kind of object. A command is `[key, *what]`; a query is a key and returns the whole object."""

    model: str
    """The name in `models.MODELS`, or "" for lists, which have a checker of their own."""

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """Draw the next change. No other change has this `element`; `seen` is what a client saw last."""
        ...

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """Return the object after the change, and the answer. A new object is None."""
        ...

    def show(self, old: Any) -> Any:
        """Return what a reader sees."""
        ...


class Lists:
    """Lists. `element`: append it; the answer is the new length."""

    model = ""

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """See `Kind`."""
        return (element,)

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """See `Kind`."""
        found = old if old is not None else []
        found.append(what[0])
        return found, len(found)

    def show(self, old: Any) -> Any:
        """See `Kind`."""
        return list(old or ())


class Registers:
    """Registers. `write v`: the answer is None."""

    model = "register"

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """See `Kind`."""
        return "write", element

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """See `Kind`."""
        return what[1], None

    def show(self, old: Any) -> Any:
        """See `Kind`."""
        return old


class Swaps(Registers):
    """Registers with `cas [expected, new]`, which answers whether it swapped, and `delete`."""

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """Draw mostly swaps of what was seen."""
        chance = rng.random()
        if chance < 0.7:
            return "cas", [seen, element]
        return ("write", element) if chance < 0.9 else ("delete", None)

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """See `Kind`."""
        match what:
            case "cas", [expected, new]:
                return (new, True) if self.matches(old, expected) else (old, False)
            case "delete", _:
                return None, old is not None
        return super().perform(old, *what)

    def matches(self, old: Any, expected: Any) -> bool:
        """Whether to swap."""
        return bool(old == expected)


class Sets:
    """Sets. `add e`; `remove e`, which answers whether the element was there."""

    model = "set"

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """See `Kind`."""
        return ("remove", rng.choice(seen)) if seen and rng.random() < 0.3 else ("add", element)

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """See `Kind`."""
        f, element = what
        found = old if old is not None else []
        there = element in found
        if f == "remove":
            if there:
                found.remove(element)
            return found, there
        if not there:
            found.insert(bisect_left(found, element), element)
        return found, None

    def show(self, old: Any) -> Any:
        """See `Kind`."""
        return list(old or ())


class Counters:
    """Counters. `add n`, which answers the sum."""

    model = "counter"

    def draw(self, rng: Random, element: str, seen: Any) -> tuple[Any, ...]:
        """See `Kind`."""
        return "add", rng.choice((1, 1, 2))

    def perform(self, old: Any, *what: Any) -> tuple[Any, Any]:
        """See `Kind`."""
        found = (old or 0) + what[1]
        return found, found

    def show(self, old: Any) -> Any:
        """See `Kind`."""
        return old or 0


KINDS: dict[str, Kind] = {
    LISTS: Lists(),
    "registers": Registers(),
    "swaps": Swaps(),
    "sets": Sets(),
    "counters": Counters(),
}
"""All kinds by name."""


class SnapshotPlan:
    """Asks for snapshots and checkpoints every so many entries, and compares all states with `digests`.

    Every `live_every`th entry survives below snapshots; 0: none does.
    """

    def __init__(self, digests: Digests, every: int, checkpoint_every: int, live_every: int) -> None:
        self.digests = digests
        self._every = every
        self._checkpoint_every = checkpoint_every
        self._live_every = live_every

    def wishes(self, index: Index, state: Objects) -> list[MachineEffect]:
        """Return what a machine asks for after this entry."""
        found: list[MachineEffect] = []
        if self._every and index % self._every == 0:
            found.append(ReleaseCursor(index, state))
        if self._checkpoint_every and index % self._checkpoint_every == 0:
            found.append(Checkpoint(index, state))
            if index % (3 * self._checkpoint_every) == 0:
                found.append(ReleaseCursor(index, promote=True))
        if found:
            self.digests.applied(state)
        return found

    def live(self, index: int) -> Sequence[Index]:
        """Return the last few entries that survive."""
        every = self._live_every
        return [Index(i) for i in range(every, index + 1, every)][-3:] if every else ()


def index_of(state: Objects) -> tuple[int, int]:
    """Return which cluster of its name this is, and the entry after which it has this state."""
    return state[_EPOCH][0], state[_AT]


class SimMachine(Machine[Objects]):
    """Objects of one kind. Each answer begins with the epoch, which a cluster gets at its creation.

    A machine that `tells` sends the client a message with the index of each command, for the observers. A
    machine with a `timer_model` sets or cancels a timer with each command; its state lists the timers that
    are pending and those that have expired. With `snapshots` it asks for snapshots and checkpoints. It
    watches the guests of nodes (`guests`) that ask for it, and `ended` hears which have gone.
    """

    def __init__(
        self,
        kind: Kind,
        applied: Applied,
        *,
        tells: bool = False,
        timer_model: TimerModel | None = None,
        snapshots: "SnapshotPlan | None" = None,
        ended: Ended | None = None,
    ) -> None:
        self._kind = kind
        self._applied = applied
        self._tells = tells
        self._timer_model = timer_model
        self._snapshots = snapshots
        self._ended = ended

    def init(self, args: dict[str, Any]) -> Objects:
        """Start with no object but the epoch, and the index of the last entry."""
        return {_EPOCH: [args.get("epoch", 0)], _AT: 0}

    def apply(self, meta: CommandMeta, command: Any, state: Objects) -> Any:
        """Apply a command. The checkers see by which version: it must be the same on all members."""
        state[_AT] = meta.index
        if isinstance(command, Timeout):
            return self._expire(meta, command, state)
        if isinstance(command, Down):
            return self._forget(meta, command, state)
        key, *what = command
        if key == GUEST:
            self._applied(meta, f"watch {what} by version {self.version}")
            return state, None, watch(what, state)
        self._applied(meta, f"{what} to {key} by version {self.version}")
        state[key], answer = self._kind.perform(state.get(key), *what)
        told = [SendMsg(meta.origin, meta.index)] if self._tells else []
        timers = self._timer_model.change(meta, key, state) if self._timer_model is not None else []
        wishes = self._snapshots.wishes(meta.index, state) if self._snapshots is not None else []
        return state, [state[_EPOCH][0], answer], [*told, *timers, *wishes]

    def apply_many(
        self, meta: RunMeta, commands: list[Any], state: Objects, replies: list[Any]
    ) -> tuple[Objects, Sequence[MachineEffect]]:
        """Apply one after the other, until one asks for effects."""
        for offset, command in enumerate(commands):
            state, reply, *wanted = self.apply(meta.at(offset), command, state)
            replies.append(reply)
            if wanted and wanted[0]:
                return state, wanted[0]
        return state, ()

    def _expire(self, meta: CommandMeta, timeout: Timeout, state: Objects) -> Any:
        assert self._timer_model is not None
        self._applied(meta, f"timeout of {timeout.name} by version {self.version}")
        return state, None, self._timer_model.expire(meta, timeout.name, state)

    def _forget(self, meta: CommandMeta, down: Down, state: Objects) -> Any:
        assert self._ended is not None
        self._applied(meta, f"end of {down.pid}: {down.reason} by version {self.version}")
        self._ended(meta, down)
        forget(down.pid, state)
        return state, None

    def state_enter(self, raft_state: str, state: Objects) -> Sequence[MachineEffect]:
        """Set the pending timers again, and the monitors: they end with the former leadership."""
        if raft_state != "leader":
            return ()
        timers = self._timer_model.lead(state) if self._timer_model is not None else []
        return [*timers, *watch_again(state)]

    def capture(self, state: Objects) -> Iterable[bytes]:
        """Encode the state now: it goes on being changed in place."""
        assert self._snapshots is not None
        return self._snapshots.digests.capture(state)

    def restore(self, pieces: Iterator[bytes], args: dict[str, Any]) -> Objects:
        """Decode a state, which must be the one that its entries make."""
        assert self._snapshots is not None
        restored: Objects = self._snapshots.digests.restore(pieces)
        if self._timer_model is not None:
            self._timer_model.restore(restored)
        return restored

    def live_indexes(self, state: Objects) -> Sequence[Index]:
        """Let some entries survive below a snapshot."""
        return self._snapshots.live(state[_AT]) if self._snapshots is not None else ()

    def query(self, query: Any, state: Objects) -> Any:
        """Return one whole object."""
        return [state[_EPOCH][0], self._kind.show(state.get(query))]


def singly(machine: Machine[Any]) -> Machine[Any]:
    """The same machine without `apply_many`: an `apply` of its own hides it."""
    machine.apply = machine.apply  # type: ignore[method-assign]
    return machine


class NewSimMachine(SimMachine):
    """The next version. Its state records that the cluster has moved to it."""

    version: ClassVar[int] = 1

    def which_module(self, version: int) -> Machine[Objects]:
        """Return the code of the version in force."""
        if version:
            return self
        return SimMachine(
            self._kind,
            self._applied,
            tells=self._tells,
            timer_model=self._timer_model,
            snapshots=self._snapshots,
            ended=self._ended,
        )

    def apply(self, meta: CommandMeta, command: Any, state: Objects) -> Any:
        """Apply a command, or take over the state of the former version."""
        if isinstance(command, MachineVersion):
            state[_AT] = meta.index
            state["moved"] = [f"{command.old} to {command.new} at {meta.index}"]
            return state, None
        return super().apply(meta, command, state)

    def state_enter(self, raft_state: str, state: Objects) -> Sequence[MachineEffect]:
        """Only a machine that has taken over the state of the former version may be asked."""
        assert "moved" in state, "this version is not in force yet"
        return super().state_enter(raft_state, state)
