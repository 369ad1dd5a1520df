"""Raft thesis, §6.4: read-only queries that are linearizable without the log."""

from barque.core.effects import Rejected
from barque.core.messages import ElectionTimeout, HeartbeatReply, HeartbeatRpc, Tick
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Term


def test_a_read_waits_for_an_entry_of_the_leaders_term_to_be_committed() -> None:
    """§6.4, step 1: until its noop is committed a leader may not know which entries are."""
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    for _ in range(4):
        cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert not sent(cluster.query("a"), HeartbeatRpc)
    cluster.settle()
    assert cluster.replies() == [()]


def test_a_read_sees_everything_acknowledged_before_it_was_asked() -> None:
    """§6.4, step 2: the commit index at that time, the read index, bounds what the read may miss from
    below.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    cluster.answers.clear()
    cluster.query("a")
    cluster.settle()
    assert cluster.replies() == [("x",)]


def test_the_leader_makes_sure_that_it_still_leads() -> None:
    """§6.4, step 3: it sends a new round of heartbeats and waits for a majority to acknowledge it."""
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster.elect("a")
    assert [to for to, _ in sent(cluster.query("a"), HeartbeatRpc)] == ["b", "c", "d", "e"]
    cluster["a"].handle(HeartbeatReply(cluster["b"].id, 1, Term(1)))
    assert cluster.replies() == []
    cluster["a"].handle(HeartbeatReply(cluster["c"].id, 1, Term(1)))
    assert cluster.replies() == [()]


def test_one_members_acknowledgment_counts_once() -> None:
    """§6.4, step 3: a majority is one of members, not of answers."""
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster.elect("a")
    cluster.query("a")
    for _ in range(3):
        cluster["a"].handle(HeartbeatReply(cluster["b"].id, 1, Term(1)))
    assert cluster.replies() == []


def test_an_acknowledgment_of_an_older_round_proves_nothing_for_a_newer_read() -> None:
    """§6.4, step 3: the round has to be newer than the read."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster["a"].handle(HeartbeatReply(cluster["b"].id, 1, Term(1)))
    assert cluster.replies() == [()]
    cluster.query("a")
    cluster["a"].handle(HeartbeatReply(cluster["c"].id, 1, Term(1)))
    assert cluster.replies() == []


def test_an_acknowledgment_of_an_older_term_proves_nothing() -> None:
    """§6.4: leadership of a former term is no leadership."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster["a"].handle(HeartbeatReply(cluster["b"].id, 1, Term(0)))
    assert cluster.replies() == []


def test_a_deposed_leader_answers_no_read() -> None:
    """§6.4: a leader that a partition has deposed could return stale data; it gets no majority, so it
    answers nothing.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.partition("a", "bc")
    cluster.elect("b")
    cluster.command("b", "new")
    cluster.settle()
    cluster.answers.clear()
    cluster.query("a")
    for _ in range(5):
        cluster["a"].handle(Tick(0))
        cluster.settle()
    assert cluster.answers == []
    cluster.heal()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    [refusal] = cluster.answers
    assert isinstance(refusal, Rejected)


def test_heartbeats_that_got_lost_are_sent_again() -> None:
    """§6.4: the round is repeated until a majority has answered or the leader has stepped down."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.network.clear()
    assert len(sent(cluster["a"].handle(Tick(0)), HeartbeatRpc)) == 2
    cluster.settle()
    assert cluster.replies() == [()]
    assert not sent(cluster["a"].handle(Tick(0)), HeartbeatRpc)


def test_reads_that_wait_together_share_a_round() -> None:
    """§6.4: one round of heartbeats serves every read that has accumulated."""
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    for _ in range(4):
        cluster.deliver()
    for _ in range(3):
        cluster.query("a")
    before = len(cluster["a"].effects)
    cluster.settle()
    assert len(sent(cluster["a"].effects[before:], HeartbeatRpc)) == 2
    assert cluster.replies() == [(), (), ()]


def test_a_single_member_needs_no_round() -> None:
    """§6.4: it is a majority by itself."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster.query("a")
    assert cluster.replies() == [()]


def test_a_follower_sends_readers_to_the_leader() -> None:
    """§6.4: only the leader takes this path here."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("b")
    [refusal] = cluster.answers
    assert (refusal.reason, refusal.leader) == ("not_leader", cluster["a"].id)
