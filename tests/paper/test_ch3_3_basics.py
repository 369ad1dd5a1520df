"""Raft thesis, §3.3 and Figure 3.1: states and terms."""

import pytest

from barque.core.effects import PersistTermAndVote
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    ElectionTimeout,
    HeartbeatReply,
    HeartbeatRpc,
    Message,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.roles import LeaderRole, RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ServerId, Term

A, B = ServerId("a", "node_a"), ServerId("b", "node_b")
NONE, T0 = Index(0), Term(0)


def of_term(term: int) -> list[Message]:
    """Every message of another member that carries a term."""
    at = Term(term)
    return [
        AppendEntriesRpc(at, B, NONE, NONE, T0),
        AppendEntriesReply(B, at, True, Index(1), NONE, T0),
        AppendEntriesReply(B, at, False, Index(1), NONE, T0),
        RequestVoteRpc(at, B, NONE, T0),
        RequestVoteResult(B, at, False),
        PreVoteRpc(1, 0, at, 77, B, NONE, T0),
        PreVoteResult(B, at, 77, False),
        HeartbeatRpc(1, at, B),
        HeartbeatReply(B, 1, at),
    ]


def in_state(state: RaftState) -> CoreCluster:
    """A cluster whose member a is in this state, in term 1 (or 0 before any election)."""
    cluster = CoreCluster("a", "b", "c")
    if state is RaftState.FOLLOWER:
        cluster.elect("b")
    elif state is RaftState.LEADER:
        cluster.elect("a")
    else:
        cluster["a"].handle(ElectionTimeout())
        if state is RaftState.CANDIDATE:
            cluster.deliver()
            cluster.deliver()
    assert cluster.server("a").raft_state is state
    return cluster


def test_servers_start_as_followers() -> None:
    """§3.4: when a server starts up, it is a follower."""
    cluster = CoreCluster("a")
    assert cluster.server("a").raft_state is RaftState.FOLLOWER


def test_a_follower_only_answers() -> None:
    """§3.3: a follower issues no requests of its own."""
    cluster = in_state(RaftState.FOLLOWER)
    effects = cluster.command("a", "x") + cluster["a"].handle(of_term(1)[0])
    assert not sent(effects, AppendEntriesRpc) + sent(effects, RequestVoteRpc) + sent(effects, HeartbeatRpc)


def test_a_client_that_asks_a_follower_is_sent_to_the_leader() -> None:
    """§3.3: a follower that a client contacts redirects it to the leader."""
    cluster = in_state(RaftState.FOLLOWER)
    cluster.command("a", "x")
    [answer] = cluster.answers
    assert (answer.reason, answer.leader) == ("not_leader", B)


def test_a_term_may_end_without_a_leader() -> None:
    """§3.3: after a split vote the term ends with none, and a new one begins; no term has two."""
    cluster = CoreCluster("a", "b")
    for name in "ab":
        cluster[name].handle(ElectionTimeout())
    for _ in range(3):
        cluster.deliver()
    assert cluster.observer.leaders == {}
    assert {cluster.server(name).current_term for name in "ab"} == {1}
    cluster["a"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.observer.leaders == {2: A}


@pytest.mark.parametrize(
    "state", [RaftState.FOLLOWER, RaftState.PRE_VOTE, RaftState.CANDIDATE, RaftState.LEADER], ids=str
)
@pytest.mark.parametrize("number", range(9))
def test_a_higher_term_is_adopted(state: RaftState, number: int) -> None:
    """§3.3: a server that sees a larger term than its own adopts it, durably, whatever the message."""
    cluster = in_state(state)
    message = of_term(5)[number]
    effects = cluster["a"].handle(message)
    assert cluster.server("a").current_term == 5
    assert PersistTermAndVote in map(type, effects)


@pytest.mark.parametrize("state", [RaftState.CANDIDATE, RaftState.LEADER], ids=str)
@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 7, 8])
def test_a_stale_leader_or_candidate_becomes_a_follower(state: RaftState, number: int) -> None:
    """§3.3: a candidate or leader that finds its term out of date reverts to follower at once."""
    cluster = in_state(state)
    cluster["a"].handle(of_term(5)[number])
    assert cluster.server("a").raft_state in (RaftState.FOLLOWER, RaftState.AWAIT_CONDITION)
    assert not isinstance(cluster.server("a").role, LeaderRole)


@pytest.mark.parametrize("state", [RaftState.FOLLOWER, RaftState.CANDIDATE, RaftState.LEADER], ids=str)
@pytest.mark.parametrize("number", [0, 3, 5, 7])
def test_a_request_of_a_stale_term_is_refused(state: RaftState, number: int) -> None:
    """§3.3: a request with a stale term number is rejected: it changes nothing, and the answer has the
    right term.
    """
    cluster = in_state(state)
    server = cluster.server("a")
    before = (server.raft_state, server.current_term, server.voted_for, server.leader_id)
    effects = cluster["a"].handle(of_term(0)[number])
    assert before == (server.raft_state, server.current_term, server.voted_for, server.leader_id)
    answers = (AppendEntriesReply, RequestVoteResult, PreVoteResult, HeartbeatReply)
    for _, answer in [pair for kind in answers for pair in sent(effects, kind)]:
        assert answer.term == 1
        assert not getattr(answer, "success", False)
        assert not getattr(answer, "vote_granted", False)
