"""The candidate's own reactions (C-14, C-15); the table and tests/paper have the rest."""

from barque.core.effects import StartElectionTimeout
from barque.core.messages import ElectionTimeout, RequestVoteResult
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster
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


def test_who_cannot_win_does_not_raise_the_term_for_ever() -> None:
    """§9.6: after a second candidacy it asks first. Others would never catch up with its terms.

    Found by the simulator: a removed voter, far behind, had won a round of pre-votes once. Its terms outran
    those in which the only member that could win asked.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    for term in (1, 2, 2, 2):
        assert cluster.server("a").current_term == term
        cluster["a"].expire()
    assert cluster.server("a").raft_state is RaftState.PRE_VOTE


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


def test_a_round_that_fails_is_followed_by_another_for_as_long_as_it_takes() -> None:
    """P-9: each round arms the timer of the next; a member that stops asking never leads again."""
    cluster = CoreCluster("a", "b", "c")
    cluster["b"].crash()
    cluster["c"].crash()
    cluster["a"].handle(ElectionTimeout())
    for _ in range(3):
        assert cluster.server("a").raft_state is RaftState.PRE_VOTE
        assert cluster["a"].timer is not None
        effects = cluster["a"].expire()
        assert any(isinstance(effect, StartElectionTimeout) for effect in effects)
