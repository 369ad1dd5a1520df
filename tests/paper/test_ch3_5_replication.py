"""Raft thesis, §3.5 and Figure 3.1 (AppendEntries): log replication."""

import msgspec
import pytest

from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, Tick
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ServerId, Term

LEADER = ServerId("a", "node_a")


def entry(index: int, term: int) -> EntryBatch:
    """An entry as `CoreCluster.load` makes them."""
    return EntryBatch(
        Index(index), Term(term), 1, 0, encode_body([msgspec.msgpack.encode(f"{term}.{index}")])
    )


def rpc(term: int, prev: tuple[int, int], *terms: int, commit: int = 0) -> AppendEntriesRpc:
    """An AppendEntries of a with entries of these terms behind `prev`."""
    entries = tuple(entry(prev[0] + offset, each) for offset, each in enumerate(terms, start=1))
    return AppendEntriesRpc(Term(term), LEADER, Index(commit), Index(prev[0]), Term(prev[1]), entries)


def follower(*terms: int) -> CoreCluster:
    """A cluster whose member b has this log, durable."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("b", list(terms))
    cluster.observer.look = lambda *_: None  # type: ignore[method-assign]  # its leader is this test
    return cluster


def test_a_command_is_appended_and_sent_to_all_in_parallel() -> None:
    """§3.5: the leader appends the command as a new entry, then sends AppendEntries to each of the others."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    effects = cluster.command("a", "x")
    assert cluster.log_terms("a") == [1, 1]
    assert [(to, rpc.entries[0].first_index) for to, rpc in sent(effects, AppendEntriesRpc)] == [
        ("b", 2),
        ("c", 2),
    ]


def test_the_client_is_answered_when_the_entry_is_applied() -> None:
    """§3.5: replicated safely, the entry is applied and its result returned; not before."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster["a"].sync()
    cluster.deliver()
    assert cluster.replies() == []
    cluster["b"].sync()
    cluster.deliver()
    assert cluster.replies() == [("x",)]


def test_the_leader_keeps_trying_until_every_follower_has_everything() -> None:
    """§3.5: AppendEntries is retried indefinitely, even after the client has its answer."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.replies() == [("x",)]
    for _ in range(3):
        assert [to for to, _ in sent(cluster["a"].handle(Tick(0)), AppendEntriesRpc)] == ["c"]
    cluster.heal()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.log_terms("c") == [1, 1]


def test_a_follower_applies_what_it_learns_to_be_committed_in_log_order() -> None:
    """§3.5: the leader's commit index travels in AppendEntries; a follower applies up to it, in order."""
    cluster = follower(1, 1, 1)
    cluster["b"].handle(rpc(1, (3, 1), commit=2))
    assert cluster.server("b").machine_state == ("1.1", "1.2")


def test_a_follower_commits_no_more_than_it_has() -> None:
    """Figure 3.1, AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry)."""
    cluster = follower(1)
    cluster["b"].handle(rpc(1, (1, 1), 1, commit=9))
    assert cluster.server("b").commit_index == 2


def test_a_follower_commits_nothing_that_is_not_known_to_match() -> None:
    """Figure 3.1, AppendEntries 5: entries behind the last new one may be a former leader's."""
    cluster = follower(1, 1, 2, 2)
    cluster["b"].handle(rpc(3, (1, 1), 1, commit=4))
    assert cluster.server("b").commit_index <= 2


def test_an_rpc_that_does_not_match_is_refused() -> None:
    """§3.5: without an entry of the same index and term before the new ones, the follower refuses them."""
    for terms in ((1,), (1, 1)):
        cluster = follower(*terms)
        effects = cluster["b"].handle(rpc(3, (2, 2), 3))
        [(_, reply)] = sent(effects, AppendEntriesReply)
        assert not reply.success
        assert cluster.log_terms("b") == list(terms)


def test_a_conflicting_entry_and_all_that_follow_are_replaced() -> None:
    """Figure 3.1, AppendEntries 3: an entry of the same index and another term: delete it and all behind
    it.
    """
    cluster = follower(1, 1, 1, 1)
    cluster["b"].handle(rpc(2, (1, 1), 2))
    assert cluster.log_terms("b") == [1, 2]


def test_entries_that_are_there_already_are_left_alone() -> None:
    """Figure 3.1, AppendEntries 4: append any new entries not already in the log; a repeated RPC drops
    nothing.
    """
    cluster = follower(1, 1, 1)
    cluster["b"].handle(rpc(1, (0, 0), 1, 1))
    assert cluster.log_terms("b") == [1, 1, 1]


def test_a_leader_never_changes_its_own_log() -> None:
    """§3.5, Leader Append-Only: a leader only appends; `invariants.check` looks at it after every step."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("a", [1, 1, 2])
    cluster.load("b", [1])
    cluster.load("c", [1])
    cluster.elect("a")
    assert cluster.log_terms("a")[:3] == [1, 1, 2]
    assert cluster.log_terms("b") == cluster.log_terms("c") == cluster.log_terms("a")


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("a", [1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ("b", [1, 1, 1, 4]),
        ("c", [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ("d", [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ("e", [1, 1, 1, 4, 4, 4, 4]),
        ("f", [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ],
)
@pytest.mark.parametrize("batch", [1, 4096])
def test_a_leader_makes_every_follower_of_figure_3_6_its_equal(
    name: str, terms: list[int], batch: int
) -> None:
    """§3.5, Figure 3.6 (Figure 7 of the paper): whatever a follower lacks or has too much, it ends as the
    leader.
    """
    cluster = CoreCluster("l", name, "x", settings={"max_append_entries_rpc_batch_size": batch})
    theirs = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    cluster.load("l", theirs, current_term=7)
    cluster.load("x", theirs, current_term=7)
    cluster.load(name, terms, current_term=7)
    cluster.partition("lx", name)
    cluster.elect("l")
    cluster.heal()
    cluster["l"].handle(Tick(0))
    cluster.settle()
    assert cluster.log_terms(name) == [*theirs, 8]
    assert cluster.server(name).machine_state == cluster.server("l").machine_state


def test_a_new_leader_assumes_that_all_logs_end_where_its_own_does() -> None:
    """§3.5: nextIndex starts just behind the leader's last entry."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("a", [1, 1, 2])
    cluster.elect("a")
    first = sent(cluster["a"].effects, AppendEntriesRpc)[0][1]
    assert (first.prev_log_index, first.prev_log_term) == (3, 2)


def test_a_refusal_says_where_to_continue() -> None:
    """§3.5: the refusal can carry what the leader needs to skip the conflicting entries in one step."""
    cluster = follower(1, 1)
    [(_, reply)] = sent(cluster["b"].handle(rpc(2, (9, 2), 2)), AppendEntriesReply)
    assert (reply.next_index, reply.last_index, reply.last_term) == (3, 2, 1)


def test_the_leader_continues_where_a_refusal_says() -> None:
    """§3.5: after a refusal the leader moves nextIndex back and tries again until the logs match."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("a", [1, 1, 2, 2])
    cluster.load("c", [1, 1, 2, 2])
    cluster.load("b", [1, 1])
    cluster.partition("ac", "b")
    cluster.elect("a")
    reply = AppendEntriesReply(cluster["b"].id, Term(3), False, Index(3), Index(2), Term(1))
    [(_, again)] = sent(cluster["a"].handle(reply), AppendEntriesRpc)
    assert (again.prev_log_index, again.prev_log_term) == (2, 1)


def test_two_logs_with_an_equal_entry_are_equal_before_it() -> None:
    """§3.5, Log Matching: shown by the observer over the six followers and on every random schedule."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x", "y")
    cluster.settle()
    cluster.observer.check_logs()
    assert cluster.log_terms("a") == cluster.log_terms("b") == cluster.log_terms("c") == [1, 1, 1]


def test_a_slow_follower_does_not_slow_the_rest() -> None:
    """§3.5: a command completes as soon as a majority has answered one round; a slow minority is not
    waited for.
    """
    cluster = CoreCluster("a", "b", "c", "d", "e")
    cluster.elect("a")
    cluster.partition("abc", "d", "e")
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.replies() == [("x",)]
    assert cluster.server("a").raft_state is RaftState.LEADER
