"""The key-value machine in a simulated cluster, under the eyes of the observers."""

from collections.abc import Sequence
from typing import Any, ClassVar

from barque.machine.effects import MachineEffect
from barque.machine.kv import KvMachine
from barque.machine.kv_state import KvState
from barque.machine.kv_writes import COMMANDS_V0, Handler
from barque.machine.machine import CommandMeta, Result, RunMeta
from barque.testing.sim.test_machine import Applied

REDIS: str = "redis"
"""The kind of a cluster's objects: lists, kept as text in the values of a `KvMachine`."""


_NEVER = 1 << 62


class SimKvState(KvState):
    """A state that can be compared with another member's."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # it changes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimKvState) and self._replicated() == other._replicated()

    def _replicated(self) -> list[Any]:
        """All that must be the same on all members. The order of a heap may differ."""
        apart = ("scan_index", "captures", "heap")
        return [sorted(self.heap), *(getattr(self, name) for name in KvState.__slots__ if name not in apart)]

    def __str__(self) -> str:
        return f"{self.values} at {self.index}"

    def get(self, name: str, default: Any) -> Any:
        """It has no timers of a timer model."""
        return default


class SimKvMachine(KvMachine):
    """The machine that the product ships; the checkers see each command and its version.

    It offers its state every `snapshot_every` entries; 0: never.
    """

    def __init__(self, applied: Applied, snapshot_every: int = 0) -> None:
        self._applied = applied
        self._snapshot_every = snapshot_every
        self.release_interval = snapshot_every or _NEVER

    def init(self, args: dict[str, Any]) -> KvState:
        """See `KvMachine`."""
        return SimKvState()

    def apply(self, meta: CommandMeta, command: Any, state: KvState) -> Result[KvState]:
        """See `KvMachine`."""
        if type(command) in self.handlers and meta.reply_mode.name != "NOREPLY":
            self._applied(meta, f"{command} by version {self.version}")
        return super().apply(meta, command, state)

    def apply_many(
        self, meta: RunMeta, commands: list[Any], state: KvState, replies: list[Any]
    ) -> tuple[KvState, Sequence[MachineEffect]]:
        """See `KvMachine`."""
        own: list[Any] = []
        state, effects = super().apply_many(meta, commands, state, own)
        for offset, reply in enumerate(own):
            if meta.reply_mode.name != "NOREPLY":
                self._applied(meta.at(offset), f"{commands[offset]} by version {self.version}")
            replies.append(reply)
        return state, effects

    def which_module(self, version: int) -> KvMachine:
        """See `KvMachine`."""
        return self if version >= self.version else SimKvMachineV0(self._applied, self._snapshot_every)


class SimKvMachineV0(SimKvMachine):
    """The same while version 0 is in force."""

    version = 0
    handlers: ClassVar[dict[type, Handler]] = COMMANDS_V0
