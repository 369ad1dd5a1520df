"""A machine that does nearly nothing, so that the benchmark measures the library."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from barque.machine.effects import MachineEffect
from barque.machine.machine import CommandMeta, Machine, Result, RunMeta


class BenchMachine(Machine[int]):
    """Counts commands; replies None. The same work as the machine of Ra's own benchmark."""

    def init(self, args: dict[str, Any]) -> int:
        """No command yet."""
        return 0

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Result[int]:
        """One more."""
        return state + 1, None

    def apply_many(
        self, meta: RunMeta, commands: list[Any], state: int, replies: list[Any]
    ) -> tuple[int, Sequence[MachineEffect]]:
        """So many more."""
        replies.extend(repeat(None, len(commands)))
        return state + len(commands), ()

    def query(self, query: Any, state: int) -> int:
        """How many commands there were."""
        return state
