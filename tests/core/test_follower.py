"""The follower's own reactions: suspicions and its disk (F-5, FD-03, §10.8)."""

from barque.core.effects import CancelElectionTimeout, StartElectionTimeout, TimerSpan
from barque.core.messages import AppendEntriesReply, NodeStatus, ServerDown, WalFailed, WalUp, Written
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, Term


def led_by_a() -> CoreCluster:
    """Three members; a leads."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    return cluster


def test_a_leader_that_failed_is_forgotten_and_soon_replaced() -> None:
    """§10.8: its server is gone, its node is not: act at once."""
    cluster = led_by_a()
    effects = cluster["b"].handle(ServerDown(cluster["a"].id, True))
    assert effects == [StartElectionTimeout(TimerSpan.REALLY_SHORT)]
    assert cluster.server("b").leader_id is None


def test_a_leader_out_of_reach_is_given_a_little_time() -> None:
    """ELEC-18: the connection may come back."""
    cluster = led_by_a()
    effects = cluster["b"].handle(ServerDown(cluster["a"].id, False))
    assert effects == [StartElectionTimeout(TimerSpan.SHORT)]
    assert cluster.server("b").leader_id == cluster["a"].id


def test_other_members_may_fail() -> None:
    """Only the leader's absence calls for an election."""
    cluster = led_by_a()
    assert cluster["b"].handle(ServerDown(cluster["c"].id, True)) == []
    assert cluster["b"].handle(NodeStatus("node_c", False)) == []


def test_a_suspicion_can_be_taken_back() -> None:
    """FD-03: the detector suspects the leader's node, then no longer."""
    cluster = led_by_a()
    assert cluster["b"].handle(NodeStatus("node_a", False)) == [StartElectionTimeout()]
    assert cluster["b"].handle(NodeStatus("node_a", True)) == [CancelElectionTimeout()]


def test_the_leader_hears_of_what_is_on_the_disk() -> None:
    """F-5: whenever the written position has changed, and only then."""
    cluster = led_by_a()
    cluster.command("a", "x")
    cluster.deliver()
    uid = cluster["b"].log.uid
    [event] = cluster["b"].log.take_written()
    [(to, reply)] = sent(cluster["b"].handle(event), AppendEntriesReply)
    assert (to, reply.success, reply.last_index) == ("a", True, 2)
    assert cluster["b"].handle(Written(uid, Term(1), Index(1), Index(2))) == []
    assert cluster["b"].handle(WalFailed("EIO")) == cluster["b"].handle(WalUp()) == []


def test_without_a_leader_nobody_is_told() -> None:
    """F-5: … if the leader is known."""
    cluster = led_by_a()
    cluster.command("a", "x")
    cluster.deliver()
    cluster["b"].handle(ServerDown(cluster["a"].id, True))
    [event] = cluster["b"].log.take_written()
    assert cluster["b"].handle(event) == []
    assert cluster["b"].log.last_written().index == 2
