"""Work that servers put off until the input of a turn is handled: replication, low-priority commands.

What is left of a long apply is put off until the next turn: the event loop looks at its sockets before it.
"""

from collections.abc import Callable

from barque.core.messages import ApplyRest, FlushCommands, PipelineRpcs
from barque.core.replication import has_entries_to_send
from barque.runtime.clock import Clock
from barque.runtime.server_process import ServerProcess
from barque.runtime.timers import Timers

_COMMIT_DELAY_S = 0.005


class DeferredRounds:
    """The servers of one node that have such a round to come. `wake` asks for a turn."""

    def __init__(self, timers: Timers, clock: Clock, wake: Callable[[], None]) -> None:
        self.replicating: dict[ServerProcess, None] = {}
        self.flushing: dict[ServerProcess, None] = {}
        self.applying: dict[ServerProcess, None] = {}
        self._committing: dict[ServerProcess, None] = {}
        self._is_armed = False  # the timer for those
        self._timers = timers
        self._clock = clock
        self._wake = wake

    def replicate_soon(self, process: ServerProcess) -> None:
        """Replicate once for everything that happens in this turn (REPL-07)."""
        if not self.replicating:
            self._wake()
        self.replicating[process] = None

    def flush_commands_soon(self, process: ServerProcess) -> None:
        """Append low-priority commands behind everything that has arrived in this turn (CMD-06)."""
        if not self.flushing:
            self._wake()
        self.flushing[process] = None

    def apply_soon(self, process: ServerProcess) -> None:
        """Go on applying in the next turn."""
        if not self.applying:
            self._wake()
        self.applying[process] = None

    def apply(self) -> None:
        """Hand out the `ApplyRest` that were asked for in earlier turns."""
        applying, self.applying = self.applying, {}
        for process in applying:
            process.handle(ApplyRest())

    def flush_commands(self) -> None:
        """Hand out the `FlushCommands` that were asked for."""
        flushing, self.flushing = self.flushing, {}
        for process in flushing:
            process.handle(FlushCommands())

    def replicate(self) -> None:
        """Let leaders send entries now; a commit index alone waits a moment for the next entries.

        To send it at once would cost a message and an answer for each follower and commit, and a caller who
        sends one command after the other would wait for all of them.
        """
        replicating, self.replicating = self.replicating, {}
        for process in replicating:
            if has_entries_to_send(process.server):
                process.handle(PipelineRpcs())
            else:
                self._committing[process] = None
        if self._committing and not self._is_armed:
            self._is_armed = True
            self._timers.arm("commits", self._clock.monotonic() + _COMMIT_DELAY_S, self._send_commit_indexes)

    def forget(self, process: ServerProcess) -> None:
        """This server is deleted."""
        for waiting in (self.replicating, self.flushing, self.applying, self._committing):
            waiting.pop(process, None)

    def _send_commit_indexes(self) -> None:
        committing, self._committing, self._is_armed = self._committing, {}, False
        for process in committing:
            process.handle(PipelineRpcs())
        self._wake()
