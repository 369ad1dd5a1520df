"""The contract between Barque and the state machine that a user writes."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import msgspec

from barque.errors import InvalidCommand
from barque.machine.effects import MachineEffect
from barque.types import ClientRef, Index, ReplyMode, Term

State = TypeVar("State")


class CommandMeta(msgspec.Struct, frozen=True, gc=False):
    """Where and when a command stands (CMD-19); the same on every member.

    `system_time_ms` is the leader's clock at append, in Unix milliseconds: the only time a
    machine may look at. `origin` is whoever waits for the reply.
    """

    index: Index
    term: Term
    machine_version: int
    system_time_ms: int
    origin: ClientRef
    reply_mode: ReplyMode


class Timeout(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="timeout"):
    """Built-in command: the timer `name`, set by the machine, has expired (MAC-04)."""

    name: str


class MachineVersion(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="machine_version"):
    """Built-in command: the cluster moves from version `old` to `new` (MAC-04)."""

    old: int
    new: int


Builtin: TypeAlias = Timeout | MachineVersion
Result: TypeAlias = tuple[State, Any] | tuple[State, Any, Sequence[MachineEffect]]


class Machine(Generic[State]):
    """A deterministic state machine. Subclass it, or use `SimpleMachine`.

    `apply` sees every command in the same order on every member and must do the same
    everywhere: no clock (`meta.system_time_ms` is the time), no randomness, no iteration
    over sets, no input or output. Commands, queries and replies are values that msgspec
    can encode; set `command_type` and `query_type` to have them decoded into your own
    `msgspec.Struct` types (a union of tagged ones, typically).
    """

    command_type: ClassVar[Any] = Any
    query_type: ClassVar[Any] = Any
    version: ClassVar[int] = 0

    def init(self, args: dict[str, Any]) -> State:
        """The state before the first command. `args` come from the cluster's configuration."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def apply(self, meta: CommandMeta, command: Any, state: State) -> Result[State]:
        """One command: returns (state, reply) or (state, reply, effects).

        `command` is a decoded user command, or a `Builtin`. May change `state` in place and return it.
        An exception stops this server (`MachineFault`): it would stop all the others too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def query(self, query: Any, state: State) -> Any:
        """Answer a read. Must not change the state.

        An exception is the reader's answer and harms nothing else (QRY-17).
        """
        raise InvalidCommand(f"{type(self).__name__} answers no queries")

    def state_enter(self, raft_state: str, state: State) -> Sequence[MachineEffect]:
        """This member entered a Raft state: set timers again, for instance (MAC-05)."""
        return ()

    def tick(self, now_ms: int, state: State) -> Sequence[MachineEffect]:
        """The leader's tick (MAC-06). A machine that defines it keeps its cluster from idling."""
        return ()

    def overview(self, state: State) -> dict[str, Any]:
        """Facts for people, for `status` (MAC-07)."""
        return {}

    def init_aux(self, name: str) -> Any:
        """The volatile state of this member's aux machine (AUX-01)."""
        return None

    def handle_aux(self, raft_state: str, command: Any, aux: Any, state: State) -> Any:
        """An `Aux` effect, on this member only. Returns the new aux state (AUX-02)."""
        return aux
