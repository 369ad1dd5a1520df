"""What entering a state brings, recovery, and when a server needs no tick (ELEC-18, ELEC-20, CORE-04)."""

import pytest

from barque.core.effects import TimerSpan
from barque.core.messages import ElectionTimeout, Tick
from barque.core.state import RaftState
from barque.core.step import has_unfinished_business, step
from barque.errors import InvariantViolation
from barque.machine.simple import SimpleMachine
from barque.testing.core.cluster import CoreCluster


def test_a_new_member_waits_to_be_asked() -> None:
    """ELEC-20: with an empty log and no term yet, nobody starts an election by himself."""
    cluster = CoreCluster("a", "b", "c")
    assert cluster["a"].timer is None


def test_a_member_that_has_taken_part_starts_its_timer_with_an_empty_log_too() -> None:
    """A leader that crashed before anything was on its disk: the others may still believe in it."""
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    for _ in range(5):
        cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.LEADER
    cluster["a"].restart()
    assert cluster.log_terms("a") == []
    assert cluster["a"].timer is not None
    assert cluster["a"].timer.span is TimerSpan.SHORT


def test_a_state_without_a_handler_takes_no_messages() -> None:
    """States of later releases, and servers that have not recovered."""
    server = CoreCluster("a").server("a")
    server.raft_state = RaftState.STOP
    with pytest.raises(InvariantViolation, match="state stop"):
        step(server, Tick(0))


def test_an_idle_server_needs_no_tick() -> None:
    """Idle costs nothing: followers never, leaders only while something is missing somewhere."""
    cluster = CoreCluster("a", "b", "c")
    assert not has_unfinished_business(cluster.server("a"))
    cluster.elect("a")
    assert not any(has_unfinished_business(cluster.server(name)) for name in "abc")
    cluster.query("a")
    assert has_unfinished_business(cluster.server("a"))
    cluster.settle()
    cluster.command("a", "x")
    assert has_unfinished_business(cluster.server("a"))
    cluster.settle()
    assert not has_unfinished_business(cluster.server("a"))


def test_a_machine_with_a_tick_keeps_its_leader_awake() -> None:
    """MAC-06: it asked for it."""

    class Ticking(SimpleMachine[int]):
        def tick(self, now_ms: int, state: int) -> list[object]:
            return []

    cluster = CoreCluster("a", machine=Ticking(lambda command, state: state, 0))
    cluster.elect("a")
    assert has_unfinished_business(cluster.server("a"))
