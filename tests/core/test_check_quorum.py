"""A leader that no majority hears steps down, and says what is known (§6.2; not in Ra, LIM-05)."""

import pytest

from barque.core.check_quorum import suspects_quorum_loss
from barque.core.effects import StartQuorumTimeout
from barque.core.messages import (
    AppendEntriesReply,
    HeartbeatReply,
    InfoReply,
    Message,
    NodeStatus,
    QuorumTimeout,
    ServerDown,
    Tick,
)
from barque.core.state import RaftState
from barque.core.step import has_unfinished_business
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, Membership, ReplyMode, ServerId, Term

ONE = Term(1)


def led(*names: str) -> CoreCluster:
    """A cluster in step whose first member leads."""
    cluster = CoreCluster(*names)
    cluster.elect(names[0])
    cluster["a"].handle(Tick(0))
    cluster.settle()
    return cluster


def doubts(cluster: CoreCluster) -> bool:
    """Whether a waits for signs of a majority."""
    return suspects_quorum_loss(cluster.server("a"))


def test_an_idle_cluster_sends_nothing() -> None:
    """REPL-10, CORE-17: everybody is in step, nobody doubts; a tick is not even needed."""
    cluster = led("a", "b", "c")
    assert cluster["a"].handle(Tick(0)) == []
    assert not doubts(cluster)
    assert not has_unfinished_business(cluster.server("a"))


@pytest.mark.parametrize("message", [NodeStatus("node_c", False), ServerDown(ServerId("c", "node_c"), True)])
def test_a_failure_makes_a_leader_ask_once(message: Message) -> None:
    """FD-03, MON-04: everybody is asked, an answer of a majority ends the doubt."""
    cluster = led("a", "b", "c")
    effects = cluster["a"].handle(message)
    assert doubts(cluster)
    assert sum(isinstance(effect, StartQuorumTimeout) for effect in effects) == 1
    assert StartQuorumTimeout() not in cluster["a"].handle(message)
    cluster.settle()
    assert not doubts(cluster)
    assert cluster["a"].expire_quorum() == []
    assert cluster.server("a").raft_state is RaftState.LEADER


@pytest.mark.parametrize("message", [NodeStatus("node_z", False), ServerDown(ServerId("z", "node_z"), True)])
def test_a_strangers_failure_is_no_concern(message: Message) -> None:
    """FD-03: only members matter."""
    cluster = led("a", "b", "c")
    assert cluster["a"].handle(message) == []
    assert not doubts(cluster)


def test_a_tick_without_answers_begins_to_doubt() -> None:
    """TIME-01: a majority owes an answer; the tick's own RPCs ask for it."""
    cluster = led("a", "b", "c")
    cluster.partition("a", "bc")
    cluster.command("a", "x")
    cluster["a"].handle(Tick(0))
    assert doubts(cluster)


def test_who_owes_no_answer_is_asked_as_well() -> None:
    """Two of five are down and one catches up: the one that has all must be heard, tick after tick."""
    cluster = led("a", "b", "c", "d", "e")
    cluster.partition("abc", "d", "e")
    cluster.command("a", "x")
    cluster.settle("a", "b")  # c answers, and has nothing on its disk yet
    for _ in range(2):
        cluster["a"].handle(Tick(0))
        assert doubts(cluster)
        cluster.network.clear()  # a question that was lost is asked again
        cluster["a"].handle(Tick(0))
        cluster.settle("a", "b")
        assert not doubts(cluster)


def test_a_tick_with_one_silent_minority_does_not() -> None:
    """TIME-01: three of five are enough, and so is one whose answer to a read is missing."""
    cluster = led("a", "b", "c")
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster.query("a")
    cluster.settle("a", "b")
    cluster["a"].handle(Tick(0))
    assert not doubts(cluster)


@pytest.mark.parametrize(
    "answer",
    [
        AppendEntriesReply(ServerId("b", "node_b"), ONE, True, Index(2), Index(1), ONE),
        HeartbeatReply(ServerId("b", "node_b"), 0, ONE),
        InfoReply(ServerId("b", "node_b"), ONE, (), {}),
    ],
)
def test_any_answer_counts(answer: Message) -> None:
    """§6.2: of a member, in the present term."""
    cluster = led("a", "b", "c")
    cluster["a"].handle(NodeStatus("node_c", False))
    cluster["a"].handle(answer)
    assert not doubts(cluster)


def test_answers_of_those_without_a_vote_do_not_count() -> None:
    """§6.2, MEMB-08: a majority is one of voters."""
    cluster = led("a", "b", "c")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    cluster["a"].handle(NodeStatus("node_c", False))
    cluster["a"].handle(HeartbeatReply(cluster["b"].id, 0, ONE))
    assert doubts(cluster)


def test_a_leader_without_a_majority_steps_down_and_says_what_is_known() -> None:
    """Reads and queued commands did not happen (NO_QUORUM); what is in the log may (Unresolved)."""
    cluster = led("a", "b", "c")
    cluster.defer_flush = True
    cluster.partition("a", "bc")
    cluster.command("a", "kept", "kept too")
    cluster.command("a", "nobody waits", mode=ReplyMode.NOREPLY)
    cluster.command("a", "answered", mode=ReplyMode.AFTER_LOG_APPEND)
    cluster.replies()
    cluster.command("a", "queued", low_priority=True)
    cluster.query("a")
    cluster["a"].handle(NodeStatus("node_b", False))
    cluster["a"].expire_quorum()
    server = cluster.server("a")
    assert (server.raft_state, server.leader_id, server.lost_quorum) == (RaftState.FOLLOWER, None, True)
    assert cluster.refusals() == ["no_quorum", "no_quorum"]
    assert [(u.first_correlation, u.count) for u in cluster.unresolved] == [(0, 2)]
    assert server.current_term == 1  # it may be re-elected, and its log is as it was
    cluster.heal()
    cluster["a"].expire()
    cluster.settle()
    assert server.raft_state is RaftState.LEADER
    assert not server.lost_quorum
    assert "kept too" in server.machine_state


def test_a_follower_forgets_that_it_lost_a_quorum_when_somebody_leads() -> None:
    """§6.2: `lost_quorum` is for people who ask why nobody answers."""
    cluster = led("a", "b", "c")
    cluster.partition("a", "bc")
    cluster["a"].handle(NodeStatus("node_b", False))
    cluster["a"].expire_quorum()
    cluster.elect("b")
    cluster.heal()
    cluster["b"].handle(Tick(0))
    cluster.settle()
    assert not cluster.server("a").lost_quorum


def test_a_single_voter_never_doubts() -> None:
    """§6.2: it is its own majority."""
    cluster = led("a")
    cluster.add("b")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    cluster["a"].handle(NodeStatus("node_b", False))
    assert not doubts(cluster)
    assert cluster["a"].handle(QuorumTimeout()) == []


def test_a_leader_that_comes_back_from_a_wait_begins_anew() -> None:
    """CORE-06, §10.4: what was doubted before a transfer may be doubted again; nobody else doubts."""
    cluster = led("a", "b", "c")
    cluster["a"].handle(NodeStatus("node_c", False))
    cluster.transfer("a", "b")
    assert not suspects_quorum_loss(cluster.server("a"))
    assert cluster["a"].expire_quorum() == []
    cluster["a"].expire()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert not doubts(cluster)
    assert cluster["b"].handle(QuorumTimeout()) == []
