"""Machines as users write them, good and bad."""

import random
import time
from typing import Any

from barque.machine.machine import CommandMeta, Machine, Result


class Counter(Machine[dict[str, int]]):
    """A counter for each name. Good."""

    def init(self, args: dict[str, Any]) -> dict[str, int]:
        return {}

    def apply(self, meta: CommandMeta, command: Any, state: dict[str, int]) -> Result[dict[str, int]]:
        state[command] = state.get(command, 0) + 1
        return state, state[command]

    def query(self, query: Any, state: dict[str, int]) -> Any:
        return state.get(query, 0)


class Clock(Counter):
    """Bad: reads the clock of its own node."""

    def apply(self, meta: CommandMeta, command: Any, state: dict[str, int]) -> Result[dict[str, int]]:
        state[command] = time.monotonic_ns()
        return state, None


class Dice(Counter):
    """Bad: draws a random number now and then."""

    def apply(self, meta: CommandMeta, command: Any, state: dict[str, int]) -> Result[dict[str, int]]:
        state[command] = random.randrange(1 << 60) if command == "roll" else 0
        return state, None


class Names(Machine[list[str]]):
    """Bad: keeps the first element of a set, which is the same in one process and another in the next."""

    def init(self, args: dict[str, Any]) -> list[str]:
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[str]) -> Result[list[str]]:
        state = list({*state, command})
        return state, state[0]


class Seen(Machine[set[str]]):
    """Keeps a set, and depends nowhere on its order. Good."""

    def init(self, args: dict[str, Any]) -> set[str]:
        return set()

    def apply(self, meta: CommandMeta, command: Any, state: set[str]) -> Result[set[str]]:
        state.add(command)
        return state, len(state)
