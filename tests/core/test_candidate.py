"""The candidate's own reactions (C-14, C-15); the table and tests/paper have the rest."""

from barque.core.messages import ElectionTimeout, RequestVoteResult
from barque.core.server import RaftState
from barque.testing.core_cluster import CoreCluster
from barque.types import Term


def test_the_disk_goes_on_while_votes_are_counted() -> None:
    """C-14: a report of the disk is taken in every state, so that a winner counts what it has."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("b")
    cluster.command("b", "x")
    cluster.deliver()
    cluster["b"].crash()
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    cluster["a"].sync()
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    assert cluster["a"].log.last_written().index == 2


def test_votes_of_a_candidacy_that_timed_out_do_not_count_in_the_next() -> None:
    """C-15: a new election begins with our own vote alone."""
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    cluster["a"].handle(RequestVoteResult(cluster["b"].id, Term(1), True))
    cluster["a"].handle(ElectionTimeout())
    cluster["a"].handle(RequestVoteResult(cluster["c"].id, Term(2), True))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    cluster["a"].handle(RequestVoteResult(cluster["b"].id, Term(2), True))
    assert cluster.server("a").raft_state is RaftState.LEADER
