"""Planted bugs of the effects of machines. See `mutants`."""

from typing import Any
from unittest.mock import patch

import msgspec

from barque.core.messages import MachineTimeout
from barque.machine.effects import SendMsg, Timer
from barque.runtime import performer
from barque.runtime.performer import Performer
from barque.runtime.processes import Processes
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_timers import ServerTimers
from barque.transport.wire import ProcessIs, WatchProcess
from tests.kit.mutant_registry import mutant, replace


@mutant("followers perform the effects of their machines, too (I21)", layer="node")
def everybody_performs_effects() -> Any:
    """See `MUTANTS`."""
    return patch.dict(Performer.HANDLERS, {SendMsg: Performer._perform_leaders})


@mutant("a machine's timer fires twice (I21)", layer="node")
def timer_fires_twice() -> Any:
    """See `MUTANTS`."""
    real = ServerTimers._arm

    def arm(self: ServerTimers, process: ServerProcess, name: str, after_s: float, message: Any) -> None:
        real(self, process, name, after_s, message)
        if isinstance(message, MachineTimeout):
            real(self, process, f"{name} again", after_s, message)

    return patch.object(ServerTimers, "_arm", arm)


@mutant("a machine's timer fires before its time (I21)", layer="node")
def timer_fires_early() -> Any:
    """See `MUTANTS`."""
    real = ServerTimers._arm

    def arm(self: ServerTimers, process: ServerProcess, name: str, after_s: float, message: Any) -> None:
        real(self, process, name, after_s / 4 if isinstance(message, MachineTimeout) else after_s, message)

    return patch.object(ServerTimers, "_arm", arm)


@mutant("a timer fires although the machine cancelled it (I21)", layer="node")
def cancelled_timer_fires() -> Any:
    """See `MUTANTS`."""
    real = ServerTimers.set_machine_timer

    def set_timer(self: ServerTimers, process: ServerProcess, timer: Timer) -> None:
        if timer.after_ms is not None or timer.at_ms is not None:
            real(self, process, timer)

    return patch.object(ServerTimers, "set_machine_timer", set_timer)


@mutant("a timer that is set again keeps its first time (I21)", layer="node")
def replaced_timer_fires() -> Any:
    """See `MUTANTS`."""
    real = ServerTimers._arm

    def arm(self: ServerTimers, process: ServerProcess, name: str, after_s: float, message: Any) -> None:
        if not (isinstance(message, MachineTimeout) and (process, name) in self._timers):
            real(self, process, name, after_s, message)

    return patch.object(ServerTimers, "_arm", arm)


@mutant("the timers of a machine outlive its leadership (I21)", layer="node")
def timers_outlive_leadership() -> Any:
    """See `MUTANTS`."""
    return patch.object(performer, "_ends_leadership", lambda _old, _new: False)


@mutant("a new leader does not ask its machine which timers to set again (I21)", layer="node")
def timers_not_set_again() -> Any:
    """See `MUTANTS`."""
    return replace("_machine_enters", lambda _server: [])


@mutant("a machine's message reaches another process of the node (I21)", layer="node")
def message_reaches_the_wrong_process() -> Any:
    """See `MUTANTS`."""
    real = Processes.deliver

    def deliver(self: Processes, to: int | str, cluster: str, message: msgspec.Raw) -> None:
        for number in list(self._receivers):
            real(self, number, cluster, message)

    return patch.object(Processes, "deliver", deliver)


@mutant("a node says of a process that lives that it has gone (I21)", layer="node")
def living_process_is_gone() -> Any:
    """See `MUTANTS`."""

    def watch(self: Processes, node: str, message: WatchProcess) -> None:
        self._send(node, ProcessIs(message.incarnation, message.number, "noproc"))

    return patch.object(Processes, "on_watch", watch)


@mutant("a process that is gone before it is watched is never reported (K9, I21)", layer="node")
def gone_before_watched() -> Any:
    """See `MUTANTS`."""
    real = Processes.on_watch

    def watch(self: Processes, node: str, message: WatchProcess) -> None:
        if message.number in self._receivers:
            real(self, node, message)

    return patch.object(Processes, "on_watch", watch)
