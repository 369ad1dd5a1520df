"""Applying a long commit in slices: a message that comes between two slices sees no gap."""

from collections.abc import Callable
from typing import Any

import pytest

from barque.core.applying import is_applying
from barque.core.effects import SendRpc
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AppendEntriesRpc,
    ApplyRest,
    ChunkOutcome,
    ElectionTimeout,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    PipelineRpcs,
    ReceiveSnapshotTimeout,
    RequestVoteRpc,
    WalFailed,
    WalUp,
)
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, IndexTerm, Term


def sliced(*names: str, most: int = 3) -> CoreCluster:
    """A cluster that a leads. Members apply so many entries at a time; the test says when they go on."""
    cluster = CoreCluster(*names, settings={"apply_entries_max": most}, defer_flush=True)
    cluster.elect("a")
    read_all(cluster)
    return cluster


def read_all(cluster: CoreCluster) -> None:
    """Let everything move until all members have applied all."""
    cluster.settle()
    while any(member.mail for member in cluster.members.values()):
        for member in cluster.members.values():
            member.read_mail()
        cluster.settle()


def state(cluster: CoreCluster, name: str) -> str:
    """The commands that a member has applied."""
    return "".join(cluster.server(name).machine_state)


def test_a_leader_applies_a_long_commit_in_slices() -> None:
    """Each step applies a few entries and answers them; the commit index is ahead meanwhile."""
    cluster = sliced("a")
    server = cluster.server("a")
    for text in "vwxyz":
        cluster.command("a", text)
    cluster["a"].flush()
    while len(cluster["a"].unheard) > 1:  # one report commits all of them
        server.log.handle_event(cluster["a"].unheard.popleft())
    cluster["a"].hear()
    assert (state(cluster, "a"), is_applying(server), server.commit_index) == ("vwx", True, Index(6))
    assert [reply[-1] for reply in cluster.replies()] == ["v", "w", "x"]
    cluster["a"].read_mail()
    assert (state(cluster, "a"), is_applying(server)) == ("vwxyz", False)
    assert [reply[-1] for reply in cluster.replies()] == ["y", "z"]
    assert not cluster["a"].mail


def test_a_batch_is_cut_if_it_is_longer_than_a_slice() -> None:
    """One request of many commands does not hold the loop either; each is answered once, in order."""
    cluster = sliced("a", "b")
    cluster.command("a", *"stuvwxyz")
    cluster.settle()
    found = []
    while cluster["a"].mail:
        found.append(state(cluster, "a"))
        cluster["a"].read_mail()
    assert found == ["stu", "stuvwx"]
    assert [len(reply) for reply in cluster.replies()] == [1, 2, 3, 4, 5, 6, 7, 8]
    read_all(cluster)
    assert state(cluster, "b") == "stuvwxyz"


def test_a_short_commit_is_applied_at_once() -> None:
    """A slice that is just enough asks for nothing more."""
    cluster = sliced("a")
    cluster.command("a", *"xyz")
    cluster["a"].sync()
    assert (state(cluster, "a"), list(cluster["a"].mail)) == ("xyz", [])


@pytest.mark.parametrize("names", ["a", "abc"])
def test_a_read_waits_until_what_was_committed_before_it_is_applied(names: str) -> None:
    """A reader never sees less than was committed when it asked (§6.4); later commits do not delay it."""
    cluster = sliced(*names)
    cluster.command("a", *"tuvwxyz")
    cluster.settle()
    assert state(cluster, "a") == "tuv"
    cluster.answers.clear()
    cluster.query("a")
    cluster.settle()
    assert cluster.answers == []  # its round is answered, and its entries are not applied
    cluster["a"].read_mail()
    assert [len(reply) for reply in cluster.replies()] == [4, 5, 6]
    cluster["a"].read_mail()
    assert [len(reply) for reply in cluster.replies()] == [7, 7]


def test_a_leader_commits_and_replicates_while_it_applies() -> None:
    """New commands are committed between two slices, and applied behind the old ones."""
    cluster = sliced("a", "b")
    cluster.command("a", *"uvwxyz")
    cluster.settle()
    assert is_applying(cluster.server("a"))
    before = cluster.server("a").commit_index
    cluster.command("a", "!")
    cluster.settle()
    assert cluster.server("a").commit_index == before + 1
    read_all(cluster)
    assert (state(cluster, "a"), state(cluster, "b")) == ("uvwxyz!", "uvwxyz!")


def behind() -> CoreCluster:
    """Member b follows a and has six commands, of which it has applied three. Nothing else will happen."""
    cluster = sliced("a", "b", "c")
    cluster.command("a", *"uvwxyz")
    cluster.settle()
    cluster["a"].handle(PipelineRpcs())  # the commit index
    cluster.settle()
    assert (state(cluster, "b"), list(cluster["b"].mail)) == ("uvw", [ApplyRest()])
    return cluster


def gap(cluster: CoreCluster) -> AppendEntriesRpc:
    """An RPC that continues a log that b does not have."""
    return AppendEntriesRpc(Term(1), cluster["a"].id, Index(7), Index(90), Term(1), ())


def piece(cluster: CoreCluster, index: int = 90) -> InstallSnapshotRpc:
    """The beginning of a snapshot at this entry; entry 90 is ahead of b's log."""
    records = cluster.server("a").cluster.items()
    meta = SnapshotMeta(IndexTerm(Index(index), Term(1)), tuple(p.record(member) for member, p in records), 0)
    return InstallSnapshotRpc(Term(1), cluster["a"].id, meta, ChunkState(0, ChunkFlag.INIT), b"")


@pytest.mark.parametrize(
    ("leave", "then"),
    [
        (lambda _: None, RaftState.FOLLOWER),
        (lambda _: ElectionTimeout(), RaftState.PRE_VOTE),
        (gap, RaftState.AWAIT_CONDITION),
    ],
)
def test_a_member_goes_on_applying_whatever_it_is(
    leave: Callable[[CoreCluster], Any], then: RaftState
) -> None:
    """What is committed can be applied without a leader, and while the member waits for other entries."""
    cluster = behind()
    message = leave(cluster)
    if message is not None:
        cluster["b"].handle(message)
    cluster["b"].read_mail()
    assert (cluster.server("b").raft_state, state(cluster, "b")) == (then, "uvwxyz")


def test_a_member_that_received_a_snapshot_in_vain_goes_on_applying() -> None:
    """While it receives, the snapshot is going to bring these entries; without it nobody else asks."""
    cluster = behind()
    cluster["b"].handle(piece(cluster))
    cluster["b"].read_mail()
    assert (cluster.server("b").raft_state, state(cluster, "b")) == (RaftState.RECEIVE_SNAPSHOT, "uvw")
    cluster["b"].handle(ReceiveSnapshotTimeout())
    cluster["b"].read_mail()
    assert (cluster.server("b").raft_state, state(cluster, "b")) == (RaftState.FOLLOWER, "uvwxyz")


@pytest.mark.parametrize("index", [5, 6, 7])
def test_a_member_takes_no_snapshot_of_what_it_is_about_to_apply(index: int) -> None:
    """A late snapshot of entries that are committed here must not empty the log: it may hold later ones."""
    cluster = behind()
    server = cluster.server("b")
    effects = cluster["b"].handle(piece(cluster, index))
    assert server.raft_state is RaftState.FOLLOWER
    sent = [effect.message for effect in effects if isinstance(effect, SendRpc)]
    assert [each.outcome for each in sent if isinstance(each, InstallSnapshotResult)] == [ChunkOutcome.AHEAD]
    cluster["b"].read_mail()
    assert (server.log.last_index_term().index, state(cluster, "b")) == (Index(7), "uvwxyz")


def test_a_leader_that_waits_goes_on_when_it_leads_again() -> None:
    """Its callers get their answers from the leader, and the readers that wait for these entries too."""
    cluster = sliced("a", "b")
    cluster.command("a", *"uvwxyz")
    cluster.settle()
    cluster.query("a")
    cluster.settle()
    cluster["a"].handle(WalFailed("planned"))
    cluster["a"].read_mail()
    assert (cluster.server("a").raft_state, state(cluster, "a")) == (RaftState.AWAIT_CONDITION, "uvw")
    cluster["a"].handle(WalUp())
    assert (cluster.server("a").raft_state, state(cluster, "a")) == (RaftState.LEADER, "uvwxyz")
    assert [len(reply) for reply in cluster.replies()] == [1, 2, 3, 4, 5, 6, 6]


def test_a_leader_that_is_deposed_goes_on_as_a_follower() -> None:
    """It applies the rest and answers nobody: its callers were told that the outcome is unknown."""
    cluster = sliced("a", "b")
    cluster.command("a", *"uvwxyz")
    cluster.settle()
    last = cluster.server("b").log.last_index_term()
    cluster["a"].handle(RequestVoteRpc(Term(9), cluster["b"].id, last.index, last.term))
    cluster["a"].mail.popleft()  # what it was to do as a leader is lost: it asks again
    cluster["a"].read_mail()
    assert (cluster.server("a").raft_state, state(cluster, "a")) == (RaftState.FOLLOWER, "uvwxyz")
    assert [len(reply) for reply in cluster.replies()] == [1, 2, 3]


def test_a_restart_applies_all_that_was_applied_before() -> None:
    """Nobody waits behind a recovery, so its slices follow each other at once."""
    cluster = sliced("a")
    cluster.command("a", *"tuvwxyz")
    cluster["a"].sync()
    read_all(cluster)
    cluster["a"].remember_applied()
    cluster["a"].restart()
    assert state(cluster, "a") == "tuvwxyz"


def test_a_leader_removes_itself_when_the_last_slice_says_so() -> None:
    """MEMB-13: the change at the end of a long commit is taken up like any other."""
    cluster = sliced("a", "b", most=2)
    cluster.command("a", *"xyz")
    cluster.leave("a", "a")
    read_all(cluster)
    assert state(cluster, "b") == "xyz"
    assert cluster["a"].stopped is not None or cluster.server("b").raft_state is RaftState.LEADER


def test_a_leader_that_is_removed_applies_and_answers_first() -> None:
    """Its removal is committed behind a long commit: the callers of both hear of it."""
    cluster = sliced("a", "b", "c", most=1)
    cluster.command("a", *"stuvwxyz")
    cluster.leave("a", "a")
    cluster.settle()
    read_all(cluster)
    assert (cluster.server("a").raft_state, state(cluster, "a")) == (RaftState.STOP, "stuvwxyz")
    replies = cluster.replies()  # its successor answers again what it has not applied yet
    assert [len(reply) for reply in replies[:8]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert replies[8] == "ok"
