"""What entering a state brings, recovery, and when a server needs no tick (ELEC-18, ELEC-20, CORE-04)."""

from barque.core.effects import TimerSpan
from barque.core.messages import ElectionTimeout
from barque.core.server import RaftState
from barque.testing.core_cluster import CoreCluster


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
