"""Raft thesis, §3.10: leadership transfer."""

from barque.core.effects import Rejected
from barque.core.messages import AwaitConditionTimeout, PreVoteRpc, RequestVoteRpc, TimeoutNow
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent


def led_by_a(*names: str) -> CoreCluster:
    """A cluster at rest whose leader is a, with one command applied."""
    cluster = CoreCluster(*names)
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    cluster.answers.clear()
    return cluster


def test_the_prior_leader_stops_accepting_commands() -> None:
    """§3.10, step 1."""
    cluster = led_by_a("a", "b", "c")
    cluster.transfer("a", "b")
    cluster.answers.clear()
    cluster.command("a", "y")
    cluster.query("a")
    assert cluster.refusals() == ["not_leader", "not_leader"]


def test_the_targets_log_must_match_the_leaders() -> None:
    """§3.10, step 2: the leader brings the target up to date first; here it refuses until that is so."""
    cluster = CoreCluster("a", "b", "c", settings={"max_pipeline_count": 1})
    cluster.elect("a")
    cluster.partition("ac", "b")
    cluster.command("a", "x")
    cluster.command("a", "y")
    cluster.answers.clear()
    cluster.transfer("a", "b")
    assert cluster.refusals() == ["not_up_to_date"]
    assert cluster.server("a").raft_state is RaftState.LEADER


def test_the_target_is_told_to_time_out_at_once() -> None:
    """§3.10, step 3: the leader sends TimeoutNow; the target starts an election as if its timer had
    expired.
    """
    cluster = led_by_a("a", "b", "c")
    [(to, _)] = sent(cluster.transfer("a", "b"), TimeoutNow)
    assert to == "b"
    before = len(cluster["b"].effects)
    cluster.deliver()
    assert sent(cluster["b"].effects[before:], PreVoteRpc)


def test_the_targets_request_reaches_the_prior_leader_with_a_higher_term() -> None:
    """§3.10: the target's election raises the term, and makes the prior leader step down."""
    cluster = led_by_a("a", "b", "c")
    cluster.transfer("a", "b")
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.LEADER
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
    assert cluster.server("a").current_term == 2
    assert sent(cluster["b"].effects, RequestVoteRpc)


def test_a_transfer_that_does_not_complete_is_aborted() -> None:
    """§3.10: if it takes longer than about an election timeout, the prior leader aborts it and takes commands
    again. The target may never have heard of it, or have lost what it had.
    """
    cluster = led_by_a("a", "b", "c")
    cluster.transfer("a", "b")
    timer = cluster["a"].condition_timer
    assert timer is not None
    assert timer.after_ms == cluster.server("a").cfg.transfer_timeout_ms == 1_000  # a few elections' time
    cluster.network.clear()
    cluster["a"].handle(AwaitConditionTimeout())
    cluster.answers.clear()
    cluster.command("a", "y")
    cluster.settle()
    assert cluster.replies() == [("x", "y")]


def test_a_transfer_that_was_aborted_too_early_is_no_harm() -> None:
    """§3.10: if the leader was mistaken and the target is elected after all, at worst there was another
    election.
    """
    cluster = led_by_a("a", "b", "c")
    cluster.transfer("a", "b")
    cluster["a"].handle(AwaitConditionTimeout())
    cluster.command("a", "y")
    cluster.settle()
    leaders = [name for name in "abc" if cluster.server(name).raft_state is RaftState.LEADER]
    assert len(leaders) == 1
    assert not any(isinstance(answer, Rejected) for answer in cluster.answers)
