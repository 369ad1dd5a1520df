"""A machine from one function (MAC-01)."""

from collections.abc import Callable
from typing import Any, TypeVar

from barque.machine.machine import Builtin, CommandMeta, Machine, Result

S = TypeVar("S")


class SimpleMachine(Machine[S]):
    """`function(command, state) -> state`; the reply to a command is the new state.

    A query returns the state; its value is ignored.
    """

    def __init__(self, function: Callable[[Any, S], S], initial: S) -> None:
        self._function = function
        self._initial = initial

    def init(self, args: dict[str, Any]) -> S:
        """The initial value given to the constructor."""
        return self._initial

    def apply(self, meta: CommandMeta, command: Any, state: S) -> Result[S]:
        """The function's result is both the new state and the reply."""
        if isinstance(command, Builtin):
            return state, None
        state = self._function(command, state)
        return state, state

    def query(self, query: Any, state: S) -> S:
        """The whole state."""
        return state
