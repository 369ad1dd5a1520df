"""Timers of machines in a simulation (I21): what the checker demands, and that it reports mistakes."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.kit.mutants import planted

from barque.core.state import RaftState
from barque.machine.effects import Timer
from barque.machine.machine import CommandMeta
from barque.testing.checkers.effects import Timeouts
from barque.testing.checkers.safety import Violation
from barque.testing.sim.simulator import Simulation, simulate
from barque.testing.sim.swarm import Scenario, draw_scenario, with_timers
from barque.testing.sim.timer_model import EXPIRED, PENDING, TimerModel
from barque.types import NOBODY, Index, IndexTerm, ReplyMode, Term

TRANSFERS = Scenario(faults=("transfer",), duration_s=6.0, pace_s=0.15, timers=True)


class Clock:
    """A clock that stands still, with a wall clock 100 s ahead."""

    now_s = 0.0

    def monotonic(self) -> float:
        """See `BothClocks`."""
        return self.now_s

    def wall_ms(self) -> int:
        """See `BothClocks`."""
        return round(self.now_s * 1000) + 100_000


class Leadership:
    """A leader of term 2 whose machine asks for timers, with the reports of the checker."""

    def __init__(self) -> None:
        self.found: list[Violation] = []
        self.timeouts = Timeouts(self.found.append)
        self.clock = Clock()
        self.server: Any = SimpleNamespace(
            id="lists@n1",
            raft_state=RaftState.LEADER,
            current_term=Term(2),
            log=SimpleNamespace(last_index_term=lambda: IndexTerm(Index(self.log_end), Term(2))),
        )
        self.log_end = 5

    def asks(self, timer: Timer) -> None:
        """Its machine asks for this timer."""
        self.timeouts.asks(self.server, timer, self.clock)

    def fired(self, index: int, now_s: float, term: int = 2) -> list[str]:
        """A timeout of `t` is applied; returns the reports so far."""
        self.timeouts.fired(self.server, meta(index, term=term), "t", now_s)
        return [violation.text for violation in self.found]


def meta(index: int, *, time_ms: int = 1_000, term: int = 2) -> CommandMeta:
    """The meta data of a command at this index."""
    return CommandMeta(Index(index), Term(term), 0, time_ms, NOBODY, ReplyMode.NOREPLY)


def test_a_timer_fires_once_at_its_time() -> None:
    """The time counts by the monotonic clock, for `at_ms` from the moment of the request."""
    leader = Leadership()
    leader.asks(Timer("t", after_ms=200))
    assert leader.timeouts.is_owed(leader.server, "t", 0.2)
    assert not leader.timeouts.is_owed(leader.server, "t", 0.1)
    assert leader.fired(6, 0.2) == []
    leader.log_end = 6
    leader.asks(Timer("t", at_ms=100_300))
    assert leader.fired(7, 0.3) == []
    assert leader.fired(7, 0.4) == [], "the other members apply it, too"
    assert leader.fired(8, 0.5) == ["a timer fires twice"]


def test_a_timer_that_fires_early_is_noticed() -> None:
    """An early timer is reported, also if its former setting fires after it was replaced."""
    leader = Leadership()
    leader.asks(Timer("t", after_ms=10))
    leader.log_end = 6
    leader.asks(Timer("t", at_ms=100_200))
    assert leader.fired(7, 0.1) == ["a timer fires before its time"]


def test_what_was_appended_before_a_replacement_may_be_applied_after_it() -> None:
    """The log shows that the timeout is older than the machine's last request."""
    leader = Leadership()
    leader.asks(Timer("t", after_ms=10))
    leader.log_end = 7
    leader.asks(Timer("t"))
    assert leader.fired(7, 0.1) == []
    assert leader.fired(8, 0.1) == ["a timer fires although it was cancelled"]


def test_a_timeout_of_another_leadership_is_noticed() -> None:
    """A timeout without a request in its own term is reported; requests of a follower do not count."""
    leader = Leadership()
    leader.asks(Timer("t", after_ms=10))
    leader.server.current_term, leader.server.raft_state = Term(3), RaftState.FOLLOWER
    leader.asks(Timer("t", after_ms=10))
    assert leader.fired(6, 0.1, term=3) == ["a timeout that the machine had not asked for in this leadership"]
    assert leader.timeouts.is_owed(leader.server, "t", 0.0), "a leader that never set it owes it"


def test_the_machine_knows_what_is_pending() -> None:
    """A setting is pending until it expires or is cancelled, and each new leader sets it again."""
    asked: list[Timer] = []
    timer_model, state = TimerModel(asked.append, lambda *_: None), dict[str, Any]()
    for index in range(1, 200):
        effects = timer_model.change(meta(index), f"k{index % 2}", state)
        assert effects == asked[-1:]
        assert (asked[-1].name in state[PENDING]) == (asked[-1] != Timer(asked[-1].name))
    again = timer_model.lead(state)
    assert {timer.name for timer in again} == set(state[PENDING])
    assert {timer.at_ms is None for timer in again} == {False, True}
    settings = {setting.set_at for setting in state[PENDING].values()}
    for name in list(state[PENDING]):
        timer_model.expire(meta(200, time_ms=10_000), name, state)
    assert not state[PENDING]
    assert {setting for setting, _ in state[EXPIRED]} == settings


def test_the_machine_sets_again_what_came_too_early() -> None:
    """A `Timeout` may be of a former setting; with `at_ms` the machine can tell by the log's time."""
    timer_model, state = TimerModel(lambda _: None, lambda *_: None), dict[str, Any]()
    index = 0
    while not any(setting.by_wall and setting.after_ms for setting in state.get(PENDING, {}).values()):
        index += 1
        timer_model.change(meta(index), "k", state)
    [name] = [n for n, setting in state[PENDING].items() if setting.by_wall and setting.after_ms]
    assert timer_model.expire(meta(index + 1), name, state) == [
        Timer(name, at_ms=state[PENDING][name].due_ms)
    ]
    assert name in state[PENDING]
    assert EXPIRED not in state


def test_timers_come_back_with_leaderships_that_come_and_go() -> None:
    """Leaders hand over, follow and lead again: no timer of the former leadership fires.

    These timers did fire: a leader that hands over waits before it follows, and its timers went on.
    """
    for seed in range(1, 3):
        assert str(simulate(seed, TRANSFERS)) == f"seed {seed}: clean"


def test_a_timer_that_outlives_its_leadership_is_noticed() -> None:
    """A timer that fires when its server leads again, without being set again, is reported."""
    with planted("timers_outlive_leadership"):
        found = [simulate(seed, TRANSFERS).violation for seed in range(1, 5)]
    texts = {violation.text for violation in found if violation is not None}
    assert "a timeout that the machine had not asked for in this leadership" in texts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timer_fires_twice", "a timer fires twice"),
        ("timer_fires_early", "a timer fires before its time"),
        ("cancelled_timer_fires", "a timer fires although it was cancelled"),
        ("replaced_timer_fires", "a timer fires"),
        ("timers_not_set_again", "waited 60 s without faults for overdue timers to fire"),
    ],
)
def test_a_timer_that_misbehaves_is_noticed(name: str, text: str) -> None:
    """Each planted bug is reported within a few seeds, whatever else the seeds draw."""
    with planted(name):
        for seed in range(1, 20):
            violation = simulate(seed, with_timers(draw_scenario(seed))).violation
            if violation is not None:
                assert text in violation.text
                return
    pytest.fail("nothing was noticed")


def test_one_seed_in_ten_has_timers_and_the_others_do_not_know() -> None:
    """The draw uses random numbers of its own; such a seed has transfers in quick succession."""
    drawn = [draw_scenario(seed) for seed in range(1, 301)]
    some = [scenario for scenario in drawn if scenario.timers]
    assert 15 < len(some) < 50
    assert all("transfer" in scenario.faults and scenario.pace_s == 0.15 for scenario in some)
    assert not _timeouts(msgspec.structs.replace(TRANSFERS, timers=False))
    assert _timeouts(TRANSFERS) > 20


def _timeouts(scenario: Scenario) -> int:
    """How many timeouts were applied."""
    simulation = Simulation(1, scenario)
    assert str(simulation.run()) == "seed 1: clean"
    return sum(len(observer.timeouts.judged) for observer in simulation.observers.all())
