"""The state of a server: what a restart makes of what is durable (§1), and named transitions."""

import pytest

from barque.core.messages import RequestVoteRpc, Written
from barque.core.roles import FOLLOWING
from barque.core.state import RaftState
from barque.core.transitions import adopt_term_and_vote
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, ReplyMode, Term


def test_a_restart_takes_up_term_and_vote() -> None:
    """§1, init 4."""
    cluster = CoreCluster("a", "b", "c")
    cluster["b"].term, cluster["b"].voted_for = Term(7), cluster["a"].id
    cluster["b"].start()
    assert (cluster.server("b").current_term, cluster.server("b").voted_for) == (7, cluster["a"].id)


def test_an_entry_may_be_durable_before_its_term_is() -> None:
    """Log and term have a disk each: an entry of term 5 proves that term 5 was; of its vote nothing is
    left. The term is stored at once: a snapshot may replace the entry that tells it.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.load("b", [1, 5], current_term=4)
    cluster["b"].term, cluster["b"].voted_for = Term(4), cluster["a"].id
    cluster["b"].start()
    assert (cluster.server("b").current_term, cluster.server("b").voted_for) == (5, None)
    assert (cluster["b"].term, cluster["b"].voted_for) == (5, None)


def test_a_restart_applies_again_what_it_had_applied_and_says_nothing() -> None:
    """CORE-04: replies and machine effects of that time are not repeated."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    cluster["a"].remember_applied()
    cluster.answers.clear()
    cluster["a"].restart()
    assert cluster.server("a").machine_state == ("x",)
    assert cluster.server("a").last_applied == cluster.server("a").commit_index == 2
    assert cluster.answers == []


def test_never_more_is_remembered_as_applied_than_is_durable() -> None:
    """COMMIT-08, historical bug 45: a follower may apply what its own disk does not have yet."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle("a", "c")
    assert cluster.server("b").last_applied == 2
    assert cluster["b"].log.last_written().index == 1
    cluster["b"].remember_applied()
    cluster["b"].restart()
    assert cluster.server("b").last_applied == 1


def test_a_term_never_falls() -> None:
    """Our own bugs are caught where they are made."""
    server = CoreCluster("a").elect("a")
    with pytest.raises(AssertionError, match="never falls"):
        adopt_term_and_vote(server, Term(0), None)


def test_only_a_leader_has_a_leaders_state() -> None:
    """State of one role cannot exist in another."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(RequestVoteRpc(Term(2), cluster["b"].id, Index(9), Term(1)))
    assert cluster.server("a").role is FOLLOWING
    with pytest.raises(AssertionError, match="does not lead"):
        cluster.server("a").leader_role()


def test_commands_that_wait_are_refused_when_leadership_ends() -> None:
    """L-8: low-priority commands that were never appended did not happen; those nobody waits for are
    dropped.
    """
    cluster = CoreCluster("a", "b", "c", defer_flush=True)
    cluster.elect("a")
    cluster.command("a", "x", low_priority=True)
    cluster.command("a", "y", low_priority=True)
    cluster.command("a", "z", mode=ReplyMode.NOREPLY, low_priority=True)
    cluster["a"].handle(RequestVoteRpc(Term(2), cluster["b"].id, Index(9), Term(1)))
    assert cluster.refusals() == ["not_leader", "not_leader"]
    assert cluster.server("a").raft_state is RaftState.FOLLOWER


def test_a_report_for_another_log_is_none_of_ours() -> None:
    """A written event names the log that it is about."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster.command("a", "x")
    other = cluster["a"].log.take_written()[0]
    cluster["a"].handle(Written(other.uid + "x", other.term, other.first, other.last))  # type: ignore[arg-type]
    assert cluster["a"].log.last_written().index == 1
    assert cluster["a"].log.last_written().index < Index(2)
