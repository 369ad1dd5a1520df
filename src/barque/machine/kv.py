"""`KvMachine`: a key-value store with the semantics of Redis strings, as a deterministic machine.

Time is the log's time: `KvState.now_ms` is the greatest timestamp of any command so far, so a
leader whose clock runs behind cannot bring an expired key back. Keys that are due are removed
before each command, which keeps the rule simple: what is in the dictionary exists. An idle cluster
expires keys too: the machine asks for a `Timer`, and the `Timeout` that arrives is a command like
any other.

Version 1 knows all commands of `kv_commands`. While version 0 is in force, because a member runs older code
that would refuse the newer commands, they are refused everywhere, so that all members do the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from barque.errors import InvalidCommand
from barque.machine.effects import MachineEffect, ReleaseCursor, Timer
from barque.machine.kv_commands import KvCommand, KvQuery
from barque.machine.kv_reads import QUERIES, overview
from barque.machine.kv_snapshot import KvCapture, fill
from barque.machine.kv_state import KvState
from barque.machine.kv_writes import COMMANDS, COMMANDS_V0, EXPIRE_TIMER, Handler
from barque.machine.machine import CommandMeta, Machine, Result, RunMeta
from barque.types import Index


class KvMachine(Machine[KvState]):
    """A replicated key-value store: keys and values are bytes.

    Commands and queries are the structs of `kv_commands`; each names its reply. A command
    that cannot be carried out (a value that is no number, for instance) replies a `KvError` and changes
    nothing. Relative times count from the command's timestamp, never from a member's clock.
    """

    command_type = KvCommand
    query_type = KvQuery
    version = 1
    handlers: ClassVar[dict[type, Handler]] = COMMANDS
    release_interval: int = 1024
    """The machine offers its state at each index that this divides; the log takes few of the offers."""

    def which_module(self, version: int) -> "KvMachine":
        """The same state and the same old commands for each version; version 0 refuses the new ones."""
        return self if version >= self.version else KvMachineV0()

    def init(self, args: dict[str, Any]) -> KvState:
        """An empty store. There are no arguments."""
        return KvState()

    def apply(self, meta: CommandMeta, command: Any, state: KvState) -> Result[KvState]:
        """Apply one command, after deleting the keys that are due at its time."""
        state.index = meta.index
        now_ms = meta.system_time_ms
        if now_ms > state.now_ms:
            state.now_ms = now_ms
            if state.next_due_ms <= now_ms:
                state.drop_due()
        try:
            handler = self.handlers[type(command)]
        except KeyError:
            raise _unknown(command) from None
        if meta.index % self.release_interval:
            return handler(command, state)
        state, reply, *effects = handler(command, state)
        return state, reply, (*(effects[0] if effects else ()), ReleaseCursor(meta.index, state))

    def apply_many(
        self, meta: RunMeta, commands: list[Any], state: KvState, replies: list[Any]
    ) -> tuple[KvState, Sequence[MachineEffect]]:
        """As `apply`. A run ends where a snapshot is offered, or a timer is set."""
        state.index, now_ms = meta.first_index, meta.system_time_ms
        if now_ms > state.now_ms:
            state.now_ms = now_ms
            if state.next_due_ms <= now_ms:
                state.drop_due()
        handlers, interval = self.handlers, self.release_interval
        for index, command in enumerate(commands, start=meta.first_index):
            state.index = index
            try:
                handler = handlers[type(command)]
            except KeyError:
                raise _unknown(command) from None
            result = handler(command, state)
            replies.append(result[1])
            effects = result[2] if len(result) == 3 else ()
            if not index % interval:
                return state, (*effects, ReleaseCursor(Index(index), state))
            if effects:
                return state, effects
        return state, ()

    def query(self, query: Any, state: KvState) -> Any:
        """Answer one of the queries of `kv_commands`."""
        try:
            handler = QUERIES[type(query)]
        except KeyError:
            raise InvalidCommand(f"KvMachine does not know the query {type(query).__name__}") from None
        return handler(query, state)

    def state_enter(self, raft_state: str, state: KvState) -> Sequence[MachineEffect]:
        """A new leader sets the timer again: timers die with leadership."""
        if raft_state == "leader" and state.armed_ms is not None:
            return (Timer(EXPIRE_TIMER, at_ms=state.armed_ms),)
        return ()

    def capture(self, state: KvState) -> Iterable[bytes]:
        """The state as it is now, in 20 ms of the loop for a million keys (`kv_snapshot`)."""
        return KvCapture(state)

    def restore(self, pieces: Iterator[bytes], args: dict[str, Any]) -> KvState:
        """See `Machine`. The restored state goes on as the captured one would have."""
        state = self.init(args)
        fill(state, pieces)
        return state

    def overview(self, state: KvState) -> dict[str, Any]:
        """Counts of keys and expiries, and the log's time."""
        return overview(state)


def _unknown(command: Any) -> InvalidCommand:
    return InvalidCommand(f"KvMachine does not know the command {type(command).__name__}")


class KvMachineV0(KvMachine):
    """The machine while version 0 is in force: it decodes the commands of version 1, and refuses them."""

    version = 0
    handlers: ClassVar[dict[type, Handler]] = COMMANDS_V0
