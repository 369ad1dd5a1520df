"""Raft thesis, §3.6 to §3.9: the election restriction, commitment of earlier terms, crashes, persistence,
timing.
"""

import pytest

from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    ElectionTimeout,
    RequestVoteResult,
    RequestVoteRpc,
    Tick,
)
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, Term


@pytest.mark.parametrize(
    ("ours", "theirs", "granted"),
    [
        ([1, 1], (2, 1), True),
        ([1, 1], (3, 1), True),
        ([1, 1], (1, 1), False),
        ([1, 2], (9, 1), False),
        ([1, 1, 1], (1, 2), True),
        ([], (0, 0), True),
    ],
    ids=["equal", "longer", "shorter", "longer-but-older", "shorter-but-newer", "both-empty"],
)
def test_a_vote_goes_only_to_a_log_at_least_as_up_to_date(
    ours: list[int], theirs: tuple[int, int], granted: bool
) -> None:
    """§3.6.1: compare the last entries: the later term wins; of equal terms, the longer log."""
    cluster = CoreCluster("a", "b")
    cluster.load("b", ours)
    rpc = RequestVoteRpc(Term(5), cluster["a"].id, Index(theirs[0]), Term(theirs[1]))
    [(_, result)] = sent(cluster["b"].handle(rpc), RequestVoteResult)
    assert result.vote_granted is granted


def test_no_candidate_wins_without_all_committed_entries() -> None:
    """§3.6.1: a candidate must contact a majority, and some member of it holds every committed entry."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster.settle()
    cluster["a"].crash()
    cluster.heal()
    for _ in range(3):
        cluster["c"].handle(ElectionTimeout())
        cluster.settle()
        assert cluster.server("c").raft_state is not RaftState.LEADER
    cluster.elect("b")
    assert cluster.server("b").machine_state == ("x",)


def figure_3_7() -> CoreCluster:
    """(c): a leads term 4; its entry 2, of term 2, is on a, b and c; its noop of term 4 on nobody else."""
    cluster = CoreCluster("a", "b", "c", "d", "e", settings={"max_append_entries_rpc_batch_size": 1})
    for name, terms in {"a": [1, 2], "b": [1, 2], "c": [1], "d": [1], "e": [1, 3]}.items():
        cluster.load(name, terms, current_term=3)
    cluster.partition("abc", "d", "e")
    cluster["a"].handle(ElectionTimeout())
    for _ in range(4):
        cluster.deliver()
    cluster.network.clear()
    cluster["a"].sync()
    cluster["a"].handle(AppendEntriesReply(cluster["b"].id, Term(4), True, Index(3), Index(2), Term(2)))
    cluster.network.clear()
    cluster["a"].handle(AppendEntriesReply(cluster["c"].id, Term(4), False, Index(2), Index(1), Term(1)))
    cluster.deliver()  # entry 2 of term 2, alone
    cluster["c"].sync()
    cluster.deliver()
    cluster.network.clear()  # the noop of term 4 is lost
    assert [cluster.log_terms(name) for name in "abc"] == [[1, 2, 4], [1, 2], [1, 2]]
    assert [peer.match_index for _, peer in cluster.server("a").peers] == [2, 2, 0, 0]
    return cluster


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """§3.6.2, Figure 3.7 (c): an entry of term 2 on a majority is not committed by the leader of term 4 …"""
    cluster = figure_3_7()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert cluster.server("a").commit_index == 0


def test_for_it_may_still_be_overwritten() -> None:
    """§3.6.2, Figure 3.7 (d): … because a leader of another term may replace it."""
    cluster = figure_3_7()
    cluster["a"].crash()
    cluster.partition("a", "bcde")
    cluster["e"].handle(ElectionTimeout())
    cluster.settle("b", "c", "d", "e")
    cluster.elect("e")
    assert cluster.log_terms("b") == cluster.log_terms("c") == [1, 3, 5]


def test_an_entry_of_the_current_term_commits_all_before_it() -> None:
    """§3.6.2, Figure 3.7 (e): with an entry of its own term on a majority, the leader commits everything
    before too.
    """
    cluster = figure_3_7()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("a").commit_index == 3
    assert cluster.server("b").machine_state == ("1.1", "2.2")


def test_a_new_leader_commits_a_noop_first() -> None:
    """§3.6.2, §6.4: a leader appends a blank entry of its term, so that earlier entries get committed."""
    cluster = CoreCluster("a", "b", "c")
    for name in "abc":
        cluster.load(name, [1, 1])
    cluster.elect("a")
    assert cluster.log_terms("a") == [1, 1, 2]
    assert cluster.server("a").commit_index == 3


def test_no_two_members_apply_different_entries_at_one_index() -> None:
    """§3.6.3, State Machine Safety: members apply the same entries in the same order."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.partition("a", "bc")
    cluster.command("a", "lost")
    cluster.elect("b")
    cluster.command("b", "kept")
    cluster.settle()
    cluster.heal()
    cluster["b"].handle(Tick(0))
    cluster.settle()
    assert {cluster.server(name).machine_state for name in "abc"} == {("kept",)}


def test_a_crashed_follower_is_retried_until_it_is_back() -> None:
    """§3.7: RPCs to a crashed server fail and are retried; when it restarts they succeed."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["c"].crash()
    cluster.command("a", "x")
    cluster.settle("a", "b")
    cluster["c"].start()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("c").machine_state == ("x",)


def test_a_repeated_rpc_does_no_harm() -> None:
    """§3.7: RPCs are idempotent: a follower that gets entries it has ignores them."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.network.extend(list(cluster.network) * 3)
    cluster.settle()
    assert cluster.log_terms("b") == [1, 1]
    assert cluster.server("b").machine_state == ("x",)


def test_term_and_vote_outlive_a_crash() -> None:
    """§3.8: without its term and vote a restarted server could vote twice, or step back behind a newer
    leader.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    for name in "abc":
        cluster[name].restart()
        assert (cluster.server(name).current_term, cluster.server(name).voted_for) == (1, cluster["a"].id)


def test_an_entry_counts_only_when_it_is_on_the_disk() -> None:
    """§3.8: each server persists new entries before they are counted, the leader's own included (§10.2.1)."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.deliver(only=AppendEntriesRpc)
    cluster.deliver()
    assert cluster.server("a").commit_index == 1
    cluster["a"].sync()
    assert cluster.server("a").commit_index == 1  # one disk of three
    cluster["c"].sync()
    cluster.deliver()
    assert cluster.server("a").commit_index == 2


def test_a_leader_may_commit_before_its_own_disk_has_the_entry() -> None:
    """§10.2.1: the leader may even commit an entry that a majority of followers, but not itself, has
    stored.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.deliver()
    for name in "bc":
        cluster[name].sync()
    cluster.deliver()
    assert cluster.server("a").commit_index == 2
    assert cluster["a"].log.last_written().index == 1


def test_the_commit_index_may_start_from_zero_after_a_restart() -> None:
    """§3.8: commitIndex need not be stored: it is learned again from a leader that commits an entry of its
    term.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    for name in "abc":
        cluster[name].restart()
        assert cluster.server(name).commit_index == 0
    cluster.elect("b")
    assert cluster.server("b").machine_state == ("x",)


def test_no_result_depends_on_the_time() -> None:
    """§3.9: safety must not depend on timing: a clock that jumps changes no term, vote or commit."""
    cluster = CoreCluster("a", "b", "c")
    cluster.environment.time_ms = 10**15
    cluster.elect("a")
    cluster.environment.time_ms = 0
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.replies() == [("x",)]
    assert cluster.server("a").machine_time_ms == 10**15  # machine time never runs back
