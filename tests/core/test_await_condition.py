"""Waiting for one thing (W-1 to W-6); the table has the rest."""

from barque.core.configuration import may_change
from barque.core.effects import NextEvent, StartConditionTimeout
from barque.core.messages import (
    AppendEntriesRpc,
    AwaitConditionTimeout,
    ElectionTimeout,
    NodeStatus,
    Tick,
    WalFailed,
    WalUp,
)
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster
from barque.types import ReplyMode


def test_a_wait_is_over_when_its_time_is_and_the_condition_holds_unnoticed() -> None:
    """W-4: at the end of its time the server looks once more before it gives up."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].log.handle_event(WalUp())  # and nobody said so
    effects = cluster["a"].handle(AwaitConditionTimeout())
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert not any(isinstance(effect, StartConditionTimeout) for effect in effects)


def test_any_message_may_find_the_log_writable() -> None:
    """W-6, CORE-20: the message is then handled next, in the state that follows."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].log.handle_event(WalUp())
    effects = cluster["a"].handle(Tick(0))
    assert NextEvent(Tick(0)) in effects
    assert cluster.server("a").raft_state is RaftState.LEADER


def test_a_leader_that_comes_back_counts_what_became_durable_meanwhile() -> None:
    """CORE-06: the disks went on while it waited; the answer comes when it leads again."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster["a"].log.handle_event(WalFailed("EIO"))
    cluster.command("a", "y")
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster["a"].sync()
    assert cluster.replies() == [("x",)]


def test_permission_survives_the_wait() -> None:
    """A leader that comes back is still the leader whose noop was applied (§9, handle_state_enter)."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.transfer("a", "b")
    cluster["a"].handle(AwaitConditionTimeout())
    assert may_change(cluster.server("a"))


def test_reads_that_waited_go_on_after_the_wait() -> None:
    """QRY-10: neither a transfer that failed nor a log that was away loses them."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.transfer("a", "b")
    cluster.network.clear()
    cluster["a"].handle(AwaitConditionTimeout())
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert () in cluster.replies()


def test_a_follower_whose_log_failed_takes_the_entries_later() -> None:
    """F-1 (a): nothing was written, so nothing was acknowledged; the leader sends it again."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    cluster["b"].handle(WalFailed("EIO"))
    cluster.command("a", "x", mode=ReplyMode.NOTIFY)
    cluster.deliver(only=AppendEntriesRpc)
    assert cluster.server("b").raft_state is RaftState.AWAIT_CONDITION
    assert cluster.log_terms("b") == [1]
    cluster["b"].handle(WalUp())
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.replies() == [("x",)]


def test_a_leader_within_reach_again_is_told_again_what_is_missing() -> None:
    """The answer that began the wait may have been lost with the connection; it is repeated.

    Seen with real nodes: a follower that started last answered before it had connected to its
    leader, and both waited for each other.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.partition("ab", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "b")
    cluster.heal()
    leader, follower = cluster["a"], cluster["c"]
    leader.handle(NodeStatus("node_c", up=True))
    cluster.cut = {(follower.id, leader.id)}
    cluster.deliver()
    assert follower.server.raft_state is RaftState.AWAIT_CONDITION
    leader.handle(Tick(0))
    cluster.deliver()
    assert follower.server.raft_state is RaftState.AWAIT_CONDITION
    cluster.heal()
    follower.handle(NodeStatus("node_a", up=True))
    cluster.settle()
    assert follower.server.raft_state is RaftState.FOLLOWER
    assert follower.server.log.last_index_term() == leader.server.log.last_index_term()
