"""The timers of a node's servers: how long each runs, and which message it sends."""

import random
from collections.abc import Callable

from barque.config import TimeConfig
from barque.core.effects import (
    StartConditionTimeout,
    StartElectionTimeout,
    StartReceiveTimeout,
    StartSnapshotRetry,
    TimerSpan,
)
from barque.core.messages import (
    AwaitConditionTimeout,
    ElectionTimeout,
    MachineTimeout,
    Message,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    SnapshotRetryTimeout,
)
from barque.core.roles import RaftState
from barque.machine.effects import Timer
from barque.runtime.campaigns import Campaigns, rank_of_heir
from barque.runtime.clock import Clock
from barque.runtime.server_process import ServerProcess
from barque.runtime.timers import Timers
from barque.types import ServerId

_JITTER = 0.05
"""This share of a turn separates members that do not agree who comes first."""

_NAMES = ("election", "condition", "quorum", "receive")
"""The timers that every server may have."""


class ServerTimers:
    """Arms and cancels the timers of servers (`performer.Timers`). `wake` asks for a turn at an end."""

    def __init__(
        self,
        timers: Timers,
        clock: Clock,
        rng: random.Random,
        times: TimeConfig,
        wake: Callable[[], None],
    ) -> None:
        self._timers = timers
        self._clock = clock
        self._rng = rng
        self._spans = timer_spans(times)
        self._wake = wake
        patience_s = times.election_multiplier * times.broadcast_time_ms / 1000
        self.campaigns = Campaigns(timers, clock, patience_s)
        self.machine_timers: dict[ServerProcess, set[str]] = {}
        self._snapshot_retries: dict[ServerProcess, dict[ServerId, None]] = {}
        self._electing: dict[ServerProcess, None] = {}
        """Those whose election timer may be armed, or that may campaign."""

    def set_machine_timer(self, process: ServerProcess, timer: Timer) -> None:
        """Arm or disarm a timer of the server's machine; a machine names its timers as it likes."""
        key, mine = (process, f"machine {timer.name}"), self.machine_timers.setdefault(process, set())
        if timer.at_ms is not None:
            after_ms = max(0, timer.at_ms - self._clock.wall_ms())
        elif timer.after_ms is not None:
            after_ms = max(0, timer.after_ms)
        else:
            self._timers.cancel(key)
            mine.discard(timer.name)
            return
        mine.add(timer.name)
        self._arm(process, key[1], after_ms / 1000, MachineTimeout(timer.name))

    def start_election(self, process: ServerProcess, effect: StartElectionTimeout) -> None:
        """Arm the election timer, unless it is armed already (ELEC-17, semantics §10.2)."""
        if (process, "election") not in self._timers and process not in self.campaigns:
            self.campaign_after(process, self._draw(effect.span))

    def campaign_after(self, process: ServerProcess, after_s: float) -> None:
        """Let the server campaign after so many seconds, unless it hears from a leader before."""
        self._electing[process] = None
        self._arm(process, "election", after_s, ElectionTimeout())

    def succeed(self, process: ServerProcess, leader: ServerId) -> None:
        """Let this follower campaign at once, or soon: the process of its leader is gone.

        The members take turns, in an order that all of them know, an election apart: two that campaign at
        the same time split the votes, and lose more time than a timer.
        """
        turn_s = self._spans[TimerSpan.REALLY_SHORT][0] / 1000
        after_s = (rank_of_heir(process, leader) + self._rng.random() * _JITTER) * turn_s
        self.campaign_after(process, after_s)

    def cancel_election(self, process: ServerProcess) -> None:
        """Disarm the election timer. Each AppendEntries asks for it, and nearly always it is disarmed."""
        if process not in self._electing:
            return
        del self._electing[process]
        self.campaigns.cancel(process)
        self._timers.cancel((process, "election"))

    def start_condition(self, process: ServerProcess, effect: StartConditionTimeout) -> None:
        """Arm the timer of a server that waits for a condition (TIME-02)."""
        self._arm(process, "condition", effect.after_ms / 1000, AwaitConditionTimeout())

    def start_quorum(self, process: ServerProcess) -> None:
        """Arm the timer of a leader that looks for signs of a majority."""
        self._arm(process, "quorum", self._draw(TimerSpan.LONG), QuorumTimeout())

    def start_receive(self, process: ServerProcess, effect: StartReceiveTimeout) -> None:
        """Arm the timer for the next chunk of a snapshot (TIME-04)."""
        self._arm(process, "receive", effect.after_ms / 1000, ReceiveSnapshotTimeout())

    def start_snapshot_retry(self, process: ServerProcess, effect: StartSnapshotRetry) -> None:
        """Arm the timer before the next attempt to send a member a snapshot (SEND-07)."""
        self._snapshot_retries.setdefault(process, {})[effect.member] = None
        retry = SnapshotRetryTimeout(effect.member)
        self._arm(process, f"snapshot {effect.member}", effect.after_ms / 1000, retry)

    def cancel_snapshot_retry(self, process: ServerProcess, member: ServerId) -> None:
        """Disarm it."""
        self._snapshot_retries.get(process, {}).pop(member, None)
        self._timers.cancel((process, f"snapshot {member}"))

    def _draw(self, span: TimerSpan) -> float:
        """Draw seconds, anew each time, so that candidates do not campaign in step (§3.4)."""
        most, more = self._spans[span]
        return (self._rng.uniform(1, most) + more) / 1000

    def _arm(self, process: ServerProcess, name: str, after_s: float, message: Message) -> None:
        def handle() -> None:
            process.handle(message)
            self._wake()

        def campaign() -> None:
            if process.server.raft_state is RaftState.PRE_VOTE:
                process.counters.pre_vote_elections += 1  # it asks again; `Performer` counts the first time
            handle()

        def expire() -> None:
            if isinstance(message, ElectionTimeout):
                self.campaigns.ask(process, campaign)
                return
            if isinstance(message, MachineTimeout):
                self.machine_timers[process].discard(message.name)
            handle()

        self._timers.arm((process, name), self._clock.monotonic() + after_s, expire)

    def armed(self, process: ServerProcess) -> list[str]:
        """The names of the timers of this server that run now; its machine's begin with `machine`."""
        own = [name for name in _NAMES if (process, name) in self._timers]
        return [*own, *(f"machine {name}" for name in sorted(self.machine_timers.get(process, ())))]

    # --- ends --------------------------------------------------------------------------

    def state_left(self, process: ServerProcess) -> None:
        """The server has left a state, whose timers end with it (semantics §10.2)."""
        self.campaigns.state_left(process)
        self._timers.cancel((process, "election"))
        self._timers.cancel((process, "condition"))

    def cancel_machine_timers(self, process: ServerProcess) -> None:
        """The machine's timers end with its leadership."""
        for name in self.machine_timers.pop(process, ()):
            self._timers.cancel((process, f"machine {name}"))

    def forget(self, process: ServerProcess) -> None:
        """Cancel all timers of this server."""
        self.campaigns.forget(process)
        self._electing.pop(process, None)
        for name in _NAMES:
            self._timers.cancel((process, name))
        for member in self._snapshot_retries.pop(process, ()):
            self._timers.cancel((process, f"snapshot {member}"))
        self.cancel_machine_timers(process)


def timer_spans(times: TimeConfig) -> dict[TimerSpan, tuple[int, int]]:
    """For each timer: the largest random part, and the fixed part; both in milliseconds (ELEC-17)."""
    broadcast, poll, several = times.broadcast_time_ms, times.detector_poll_ms, times.election_multiplier
    return {
        TimerSpan.REALLY_SHORT: (broadcast, 0),
        TimerSpan.SHORT: (several * broadcast, broadcast),
        TimerSpan.MEDIUM: (poll, broadcast),
        TimerSpan.LONG: (2 * several * broadcast, poll),
    }
