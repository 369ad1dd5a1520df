"""Commands on their way into the log (L-7 to L-10, CMD-06, CMD-18)."""

from barque.core.messages import AwaitConditionTimeout, ElectionTimeout, WalFailed, WalUp
from barque.core.server import RaftState
from barque.testing.core_cluster import CoreCluster


def test_a_leader_whose_noop_found_no_disk_appends_it_later() -> None:
    """Without its noop a leader commits nothing of former terms and answers no consistent read."""
    cluster = CoreCluster("a")
    cluster["a"].handle(WalFailed("planned"))
    cluster["a"].handle(ElectionTimeout())
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert cluster.log_terms("a") == [1]
    assert cluster.server("a").cluster_change_permitted


def test_a_leader_whose_log_stays_away_keeps_trying_to_append_its_noop() -> None:
    """When the wait for the log runs out, the noop is tried again, and the wait begins anew."""
    cluster = CoreCluster("a")
    cluster["a"].handle(WalFailed("planned"))
    cluster["a"].handle(ElectionTimeout())
    cluster["a"].handle(AwaitConditionTimeout())
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.log_terms("a") == [1]


def test_low_priority_commands_go_on_when_the_log_is_back() -> None:
    """What still was queued when the log failed is appended afterwards (semantics §10.4)."""
    cluster = CoreCluster("a", settings={"low_priority_commands_flush_size": 1})
    cluster.elect("a")
    cluster["a"].log._up = False  # the log fails, and nobody has said so yet
    cluster.command("a", "x", "y", "z", low_priority=True)
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    assert cluster.refusals() == ["wal_down"]
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.replies() == [("y",), ("y", "z")]
