"""Raft thesis, §9.6: the Pre-Vote extension."""

import pytest

from barque.core.effects import PersistTermAndVote, StartElectionTimeout
from barque.core.messages import (
    AppendEntriesRpc,
    ElectionTimeout,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteRpc,
)
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, Term


def pre_vote(cluster: CoreCluster, name: str, term: int, last: tuple[int, int]) -> PreVoteRpc:
    """A pre-vote of a member with such a log."""
    return PreVoteRpc(1, 0, Term(term), 99, cluster[name].id, Index(last[0]), Term(last[1]))


def test_a_candidate_first_asks_whether_it_would_win() -> None:
    """§9.6: only with a majority willing to vote for it does a candidate increment its term."""
    cluster = CoreCluster("a", "b", "c")
    effects = cluster["a"].handle(ElectionTimeout())
    assert sent(effects, PreVoteRpc)
    assert not sent(effects, RequestVoteRpc)
    assert cluster.server("a").current_term == 0
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").current_term == 1


def test_a_member_that_is_cut_off_raises_no_term() -> None:
    """§9.6: a partitioned server does not increment its term, so it disturbs nobody when it returns."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.partition("ab", "c")
    for _ in range(10):
        cluster["c"].handle(ElectionTimeout())
    cluster.command("a", "x")
    cluster.settle()
    cluster.heal()
    cluster["c"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert {cluster.server(name).current_term for name in "abc"} == {1}
    assert cluster.server("c").machine_state == ("x",)


@pytest.mark.parametrize(
    ("last", "granted"), [((2, 1), True), ((1, 2), True), ((1, 1), False)], ids=["equal", "newer", "shorter"]
)
def test_a_pre_vote_is_given_as_a_vote_would_be(last: tuple[int, int], granted: bool) -> None:
    """§9.6: a member would vote only if the candidate's log is at least as up to date as its own."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("b", [1, 1])
    effects = cluster["b"].handle(pre_vote(cluster, "a", 1, last))
    results = [result.vote_granted for _, result in sent(effects, PreVoteResult)]
    assert results == ([True] if granted else [])  # a follower declines in silence (ELEC-07)


def test_the_better_log_stands_itself() -> None:
    """ELEC-07: a follower whose log is better arms its own timer instead of answering."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("b", [1, 1])
    cluster["b"].timer = None
    assert StartElectionTimeout() in cluster["b"].handle(pre_vote(cluster, "a", 1, (1, 1)))


def test_a_leader_that_hears_a_pre_vote_asserts_itself() -> None:
    """§9.6 has members that hear a leader decline; here the leader answers with RPCs, which end the trial
    (ELEC-10).
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    effects = cluster["a"].handle(pre_vote(cluster, "b", 1, (1, 1)))
    assert [to for to, _ in sent(effects, AppendEntriesRpc)] == ["b", "c"]
    assert not sent(effects, PreVoteResult)
    cluster["b"].handle(ElectionTimeout())
    cluster.network.clear()
    for _, rpc in sent(effects, AppendEntriesRpc)[:1]:
        cluster["b"].handle(rpc)
    assert cluster.server("b").raft_state is RaftState.FOLLOWER


def test_a_pre_vote_is_no_vote() -> None:
    """§9.6: granting one binds to nothing: the same member may vote for another in the term that follows."""
    cluster = CoreCluster("a", "b", "c")
    effects = cluster["b"].handle(pre_vote(cluster, "a", 0, (0, 0)))
    assert not any(isinstance(effect, PersistTermAndVote) for effect in effects)
    assert cluster.server("b").voted_for is None
    cluster["b"].handle(RequestVoteRpc(Term(1), cluster["c"].id, Index(0), Term(0)))
    assert cluster.server("b").voted_for == cluster["c"].id


def test_pre_votes_of_a_minority_start_no_election() -> None:
    """§9.6: a majority has to be willing."""
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster["a"].handle(ElectionTimeout())
    cluster["a"].handle(PreVoteResult(cluster["b"].id, Term(0), 1, True))
    cluster["a"].handle(PreVoteResult(cluster["b"].id, Term(0), 1, True))
    assert cluster.server("a").raft_state is RaftState.PRE_VOTE
    cluster["a"].handle(PreVoteResult(cluster["c"].id, Term(0), 1, True))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE


def test_a_candidate_with_an_old_term_learns_the_new_one() -> None:
    """§9.6: the answer carries the voter's term; without that, two members could refuse each other for
    ever.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.load("b", [1], current_term=7)
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").current_term == 7
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
