"""A machine that leaves out single entries, as operators have agreed on all members."""

import copy
from collections.abc import Collection
from typing import Any

from barque.machine.machine import CommandMeta, Machine


def skipping(machine: Machine[Any], indexes: Collection[int]) -> Machine[Any]:
    """A copy of this machine whose `apply` gives the commands at these indexes the reply None, and no effect.

    It is of the same class, so whatever asks the class gets the same answer.
    """
    other, real = copy.copy(machine), machine.apply

    def apply(meta: CommandMeta, command: Any, state: Any) -> Any:
        return (state, None) if meta.index in indexes else real(meta, command, state)

    object.__setattr__(other, "apply", apply)
    return other
