"""Raft thesis, §3.4 and Figure 3.1 (RequestVote, rules for candidates): leader election."""

from barque.core.effects import (
    CancelElectionTimeout,
    PersistTermAndVote,
    SendVoteRequests,
    StartElectionTimeout,
)
from barque.core.messages import (
    AppendEntriesRpc,
    ElectionTimeout,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ServerId, Term


def candidate(*names: str) -> CoreCluster:
    """A cluster whose first member has won its pre-vote, with its vote requests on the way."""
    cluster = CoreCluster(*names)
    cluster[names[0]].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    assert cluster.server(names[0]).raft_state is RaftState.CANDIDATE
    return cluster


def vote(cluster: CoreCluster, voter: str, name: str, term: int, last: tuple[int, int] = (0, 0)) -> bool:
    """Whether this voter gives its vote to this candidate."""
    rpc = RequestVoteRpc(Term(term), ServerId(name, f"node_{name}"), Index(last[0]), Term(last[1]))
    [(_, result)] = sent(cluster[voter].handle(rpc), RequestVoteResult)
    return result.vote_granted


def test_a_follower_that_hears_a_leader_stays_a_follower() -> None:
    """§3.4: a server remains a follower as long as it receives valid RPCs from a leader."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["b"].timer = StartElectionTimeout()
    effects = cluster["b"].handle(AppendEntriesRpc(Term(1), cluster["a"].id, Index(1), Index(1), Term(1)))
    assert CancelElectionTimeout() in effects
    assert cluster["b"].timer is None


def test_a_follower_that_hears_nobody_starts_an_election() -> None:
    """§3.4: no communication over an election timeout: the follower assumes that there is no viable
    leader.
    """
    cluster = CoreCluster("a", "b", "c")
    effects = cluster["a"].handle(ElectionTimeout())
    assert {to for to, _ in sent(effects, PreVoteRpc)} == {"b", "c"}


def test_a_candidate_raises_its_term_votes_for_itself_and_asks_all_others() -> None:
    """§3.4: to begin an election a follower increments its term and becomes a candidate; it votes for
    itself and asks.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    before = len(cluster["a"].effects)
    cluster.deliver()
    effects = cluster["a"].effects[before:]
    assert cluster.server("a").current_term == 1
    assert cluster.server("a").voted_for == cluster["a"].id
    asked = sent(effects, RequestVoteRpc)
    assert [(to, rpc.term) for to, rpc in asked] == [("b", 1), ("c", 1)]


def test_a_candidate_stores_its_own_vote_before_it_asks() -> None:
    """Figure 3.1: persistent state is updated on stable storage before RPCs are answered, or sent."""
    effects = candidate("a", "b", "c")["a"].effects
    stored = effects.index(PersistTermAndVote(Term(1), ServerId("a", "node_a")))
    asked = [type(effect) is SendVoteRequests for effect in effects].index(True, stored)
    assert stored < asked


def test_votes_of_a_majority_make_a_leader() -> None:
    """§3.4: a candidate wins with votes from a majority of the full cluster for the same term."""
    cluster = candidate("a", "b", "c", "d", "e")
    a = cluster["a"]
    a.handle(RequestVoteResult(cluster["b"].id, Term(1), True))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    a.handle(RequestVoteResult(cluster["c"].id, Term(1), True))
    assert cluster.server("a").raft_state is RaftState.LEADER


def test_votes_of_another_term_make_no_leader() -> None:
    """§3.4: … for the same term."""
    cluster = candidate("a", "b", "c")
    cluster["a"].handle(RequestVoteResult(cluster["b"].id, Term(0), True))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE


def test_refusals_make_no_leader() -> None:
    """§3.4: only votes count."""
    cluster = candidate("a", "b", "c")
    for name in "bc":
        cluster["a"].handle(RequestVoteResult(cluster[name].id, Term(1), False))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE


def test_each_server_votes_once_in_a_term_first_come_first_served() -> None:
    """§3.4: each server votes for at most one candidate in a term."""
    cluster = CoreCluster("a", "b", "c")
    assert vote(cluster, "c", "a", 1)
    assert not vote(cluster, "c", "b", 1)


def test_the_same_candidate_is_answered_alike_when_it_asks_again() -> None:
    """§3.4, Figure 3.1: votedFor is null or candidateId; a repeated request is harmless."""
    cluster = CoreCluster("a", "b", "c")
    assert vote(cluster, "c", "a", 1)
    assert vote(cluster, "c", "a", 1)


def test_a_vote_outlives_a_crash() -> None:
    """Figure 3.1: currentTerm and votedFor are persistent."""
    cluster = CoreCluster("a", "b", "c")
    assert vote(cluster, "c", "a", 1)
    cluster["c"].restart()
    assert not vote(cluster, "c", "b", 1)
    assert vote(cluster, "c", "b", 2)


def test_a_new_leader_tells_everybody_at_once() -> None:
    """§3.4: having won, it sends messages to all others to establish its authority and prevent new
    elections.
    """
    cluster = candidate("a", "b", "c")
    effects = cluster["a"].handle(RequestVoteResult(cluster["b"].id, Term(1), True))
    assert [to for to, _ in sent(effects, AppendEntriesRpc)] == ["b", "c"]


def test_a_candidate_yields_to_a_leader_of_its_own_term() -> None:
    """§3.4: an AppendEntries of a term at least as large: the candidate recognizes the leader, and
    follows.
    """
    cluster = candidate("a", "b", "c")
    cluster["a"].handle(AppendEntriesRpc(Term(1), cluster["b"].id, Index(0), Index(0), Term(0)))
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
    assert cluster.server("a").leader_id == cluster["b"].id
    assert cluster.server("a").voted_for == cluster["a"].id  # one vote in a term, for any leader


def test_a_candidate_does_not_yield_to_a_leader_of_an_older_term() -> None:
    """§3.4: a smaller term: the candidate refuses the RPC and remains a candidate."""
    cluster = candidate("a", "b", "c")
    cluster["a"].handle(AppendEntriesRpc(Term(0), cluster["b"].id, Index(0), Index(0), Term(0)))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE


def test_a_split_vote_is_followed_by_another_election_in_a_new_term() -> None:
    """§3.4: with no winner, each candidate times out and starts a new election with a higher term."""
    cluster = candidate("a", "b", "c", "d", "e")
    effects = cluster["a"].handle(ElectionTimeout())
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    assert [rpc.term for _, rpc in sent(effects, RequestVoteRpc)] == [2] * 4


def test_every_candidacy_ends_by_a_timer_of_its_own() -> None:
    """§3.4: a candidate restarts its (randomized) election timeout at the start of an election."""
    cluster = candidate("a", "b", "c")
    for _ in range(3):
        assert cluster["a"].timer is not None
        cluster["a"].expire()
