"""Elections beyond the thesis: versions, members without a vote, timers (ELEC-06, ELEC-07, ELEC-17 to
ELEC-21).
"""

import msgspec
import pytest

from barque.core.effects import StartElectionTimeout, TimerSpan
from barque.core.elections import version_permits
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    ElectionTimeout,
    NodeStatus,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.state import RaftState
from barque.core.transitions import become_follower
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, IndexTerm, Membership, Term


@pytest.mark.parametrize(
    ("own", "effective", "theirs", "granted"),
    [
        (0, 0, 0, True),
        (0, 1, 1, True),
        (1, 1, 0, False),
        (2, 3, 2, False),
        (3, 1, 2, True),
        (1, 0, 0, True),
        (0, 0, 99, False),
        (2, 0, 2, True),
    ],
)
def test_the_truth_table_of_machine_versions(own: int, effective: int, theirs: int, granted: bool) -> None:
    """ELEC-06, the table at the end of the semantics' §5."""
    assert version_permits(own, effective, theirs) is granted


def silent() -> CoreCluster:
    """A cluster whose member b has no vote, as b knows."""
    cluster = CoreCluster("a", "b", "c")
    cluster["b"].membership = Membership.NON_VOTER
    cluster["b"].start()
    return cluster


def test_a_member_that_knows_of_no_vote_answers_nevertheless() -> None:
    """F-6, F-7, §4.1: the candidate may know better, and counts only whom it takes for a voter."""
    cluster = silent()
    asked = RequestVoteRpc(Term(1), cluster["a"].id, Index(0), Term(0))
    trial = PreVoteRpc(1, 0, Term(1), 7, cluster["a"].id, Index(0), Term(0))
    effects = cluster["b"].handle(trial) + cluster["b"].handle(asked)
    assert [result.vote_granted for _, result in sent(effects, PreVoteResult)] == [True]
    assert [result.vote_granted for _, result in sent(effects, RequestVoteResult)] == [True]


def test_only_voters_are_asked() -> None:
    """F-6, F-7, ELEC-21: by the candidate's own configuration."""
    cluster = CoreCluster("a", "b", "c")
    cluster.server("a").cluster[cluster["b"].id].voter = False
    assert [to for to, _ in sent(cluster["a"].handle(ElectionTimeout()), PreVoteRpc)] == ["c"]


def test_a_member_without_a_vote_calls_no_election() -> None:
    """F-17, ELEC-21."""
    cluster = silent()
    assert cluster["b"].handle(ElectionTimeout()) == []
    assert cluster.server("b").raft_state is RaftState.FOLLOWER


def test_who_may_have_led_and_has_no_vote_disowns_its_followers() -> None:
    """It cannot stand, and its node lives: its voters would follow it without end (core seed 30003771)."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    cluster.settle()
    cluster.join("a", "a", Membership.NON_VOTER)
    cluster["a"].sync()
    cluster.deliver(only=AppendEntriesRpc)
    cluster["b"].sync()
    cluster.deliver(only=AppendEntriesReply)
    cluster.network.clear()  # it has asked b to take over, and is not heard
    leader = cluster.server("a")
    become_follower(leader)
    assert cluster.server("b").leader_id == leader.id
    effects = cluster["a"].handle(ElectionTimeout())
    assert isinstance(effects[-1], StartElectionTimeout)  # and again, until somebody leads
    cluster.settle()
    assert cluster["b"].timer == StartElectionTimeout(TimerSpan.REALLY_SHORT)
    cluster["b"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.LEADER


def test_a_vote_of_a_stranger_does_not_count() -> None:
    """ELEC-11: only voters make a majority."""
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster["a"].handle(ElectionTimeout())
    for name in "xyz":
        cluster["a"].handle(PreVoteResult(cluster["a"].id.__class__(name, "n"), Term(0), 1, True))
    assert cluster.server("a").raft_state is RaftState.PRE_VOTE
    for name in "bc":
        cluster["a"].handle(PreVoteResult(cluster[name].id, Term(0), 1, True))
    for name in "xyz":
        cluster["a"].handle(RequestVoteResult(cluster["a"].id.__class__(name, "n"), Term(1), True))
    assert cluster.server("a").raft_state is RaftState.CANDIDATE


def test_a_newer_protocol_is_declined() -> None:
    """§5, process_pre_vote 2: we could not follow such a leader."""
    cluster = CoreCluster("a", "b", "c")
    rpc = PreVoteRpc(2, 0, Term(0), 7, cluster["a"].id, Index(0), Term(0))
    [(_, result)] = sent(cluster["b"].handle(rpc), PreVoteResult)
    assert not result.vote_granted


def test_a_newer_machine_is_declined_and_our_own_timer_started() -> None:
    """§5, process_pre_vote 4: one whom it could lead had better stand."""
    cluster = CoreCluster("a", "b", "c")
    rpc = PreVoteRpc(1, 9, Term(0), 7, cluster["a"].id, Index(0), Term(0))
    effects = cluster["b"].handle(rpc)
    assert [result.vote_granted for _, result in sent(effects, PreVoteResult)] == [False]
    assert StartElectionTimeout() in effects


def test_whoever_comes_within_reach_is_asked_again() -> None:
    """A question that was lost on the way need not wait for the next round, or the next term."""
    cluster = CoreCluster("a", "b", "c")
    cluster["a"].handle(ElectionTimeout())
    effects = cluster["a"].handle(NodeStatus("node_b", True))
    assert [to for to, _ in sent(effects, PreVoteRpc)] == ["b"]
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    effects = cluster["a"].handle(NodeStatus("node_c", True))
    assert [to for to, _ in sent(effects, RequestVoteRpc)] == ["c"]
    assert cluster["a"].handle(NodeStatus("node_c", False)) == []
    assert cluster["a"].handle(NodeStatus("elsewhere", True)) == []


@pytest.mark.parametrize("log", ["shorter", "as long"])
def test_who_hears_of_a_later_term_waits_for_its_leader(log: str) -> None:
    """§3.4: the leader that we followed is deposed; without a vote of its own it would never stand again.

    Found on a random schedule: the candidate's log was shorter, and whose was not waited for the old leader.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    member = cluster["b"]
    assert (member.server.leader_id, member.timer) == (cluster["a"].id, None)
    last = Index(1) if log == "shorter" else member.server.log.last_index_term().index
    member.handle(RequestVoteRpc(Term(2), cluster["c"].id, last, Term(1)))
    assert (member.server.current_term, member.server.leader_id) == (2, None)
    assert member.timer == StartElectionTimeout(TimerSpan.LONG)


def test_each_state_arms_the_timer_that_suits_it() -> None:
    """ELEC-18: pre_vote long, then medium; candidate short, then medium; follower long, short after
    recovery.
    """
    cluster = CoreCluster("a", "b", "c")
    a = cluster["a"]
    spans = []
    a.handle(ElectionTimeout())
    spans.append(a.timer)
    a.expire()
    spans.append(a.timer)
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.CANDIDATE
    spans.append(a.timer)
    a.expire()
    spans.append(a.timer)
    a.handle(RequestVoteResult(cluster["b"].id, Term(9), False))
    spans.append(a.timer)
    a.restart()
    spans.append(a.timer)
    assert [timer.span if timer else None for timer in spans] == [
        TimerSpan.LONG,
        TimerSpan.MEDIUM,
        TimerSpan.SHORT,
        TimerSpan.MEDIUM,
        TimerSpan.LONG,
        TimerSpan.SHORT,
    ]


def test_who_joins_gives_no_vote_to_somebody_behind_what_was_committed_then() -> None:
    """§3.6.1, MEMB-10: its own log begins empty, and its address may be a voter's in an old configuration.

    Found by the simulator: a member that had been removed long ago was elected by the successor of another
    whose uid it had never learned, without what had been committed since.
    """
    cluster = CoreCluster("a", "b")
    cluster.add("c", membership=Membership.NON_VOTER)
    joining = cluster.server("c")
    joining.cfg = msgspec.structs.replace(joining.cfg, min_vote_position=IndexTerm(Index(5), Term(2)))
    lasts = ((9, 1, False), (4, 2, False), (5, 2, True))
    for candidacy, (last, term, granted) in enumerate(lasts, start=10):
        rpc = RequestVoteRpc(Term(candidacy), cluster["a"].id, Index(last), Term(term))
        answers = sent(cluster["c"].handle(rpc), RequestVoteResult)
        assert [answer.vote_granted for _, answer in answers] == [granted]
