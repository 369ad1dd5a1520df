"""The end of a cluster, by consensus (CMD-20, CORE-09 to CORE-11, LIFE-06; semantics §10.6)."""

from typing import Any

import pytest

from barque.core.effects import StopReason
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    AwaitConditionTimeout,
    ElectionTimeout,
    JoinMember,
    LeaveMember,
    NodeStatus,
    Tick,
)
from barque.core.state import RaftState
from barque.core.step import has_unfinished_business, step
from barque.core.terminating import is_fully_persisted, is_fully_replicated
from barque.errors import InvariantViolation
from barque.machine.effects import Aux
from barque.machine.machine import CommandMeta, Machine
from barque.testing.core.cluster import CLIENT, CoreCluster, sent
from barque.types import Index, ReplyMode, ServerId, Term

ONE = Term(1)


class Mortal(Machine[list[Any]]):
    """Has a last word."""

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """Write it down."""
        state.append(command)
        return state, "ok"

    def state_enter(self, raft_state: str, state: list[Any]) -> Any:
        """The last word."""
        return [Aux("farewell")] if raft_state == "eol" else ()


def led(*names: str) -> CoreCluster:
    """A cluster at rest whose first member leads."""
    cluster = CoreCluster(*names, machine=Mortal())
    cluster.elect(names[0])
    return cluster


def test_a_deleted_cluster_ends_everywhere() -> None:
    """LIFE-06, CORE-09, CORE-10: followers when the end is on their disk, the leader last; the caller is
    told.
    """
    cluster = led("a", "b", "c")
    cluster.command("a", "x")
    cluster.delete("a")
    cluster.settle()
    assert [member.stopped for member in cluster.members.values()] == [StopReason.DELETED] * 3
    assert cluster.replies() == ["ok", "ok"]
    assert all(cluster.server(n).raft_state is RaftState.DELETE_AND_TERMINATE for n in "abc")


def test_the_machine_has_a_last_word() -> None:
    """CORE-11: `state_enter("eol")` when the deletion is applied, on every member."""
    cluster = led("a", "b")
    cluster.delete("a")
    cluster.settle()
    assert [cluster[name].machine_effects for name in "ab"] == [[Aux("farewell")]] * 2


def test_nothing_is_applied_behind_the_end() -> None:
    """CMD-20: a command that came after the deletion never happens, though it is in the same batch of
    work.
    """
    cluster = led("a", "b", "c")
    cluster.delete("a")
    cluster.command("a", "too late")
    cluster.settle()
    assert cluster.replies() == ["ok"]
    assert [u.first_correlation for u in cluster.unresolved] == [1]
    assert cluster.server("a").machine_state == []


def test_a_leader_waits_for_a_member_that_is_down() -> None:
    """CORE-09, COMMIT-09: it serves the members, nobody else; the other may come back."""
    cluster = led("a", "b", "c")
    cluster["c"].crash()
    cluster.delete("a")
    cluster.settle("a", "b")
    server = cluster.server("a")
    assert cluster["b"].stopped is StopReason.DELETED
    assert server.raft_state is RaftState.TERMINATING_LEADER
    assert not is_fully_replicated(server)
    assert has_unfinished_business(server)
    cluster.command("a", "x")
    cluster["c"].start()
    cluster["a"].handle(Tick(0))
    cluster.settle("a", "c")
    assert cluster["c"].stopped is cluster["a"].stopped is StopReason.DELETED
    assert cluster.refusals() == ["unknown_cluster"]


def waiting() -> CoreCluster:
    """A leads a deleted cluster, and waits for c."""
    cluster = led("a", "b", "c")
    cluster["c"].crash()
    cluster.delete("a")
    cluster.settle("a", "b")
    cluster.answers.clear()
    return cluster


def test_everybody_who_asks_a_deleted_cluster_is_told() -> None:
    """CORE-09, style 10: nothing hangs; reads, changes and transfers are refused as commands are."""
    cluster = waiting()
    cluster.query("a")
    cluster.transfer("a", "b")
    cluster.delete("a")
    cluster.leave("a", "b")
    cluster.force("a")
    cluster["a"].handle(JoinMember(CLIENT, 9, ReplyMode.AWAIT_CONSENSUS, ServerId("z", "n")))
    cluster["a"].handle(LeaveMember(CLIENT, 9, ReplyMode.NOREPLY, ServerId("z", "n")))
    assert cluster.refusals() == ["unknown_cluster"] * 6


def test_a_leader_waits_no_longer_than_it_was_told() -> None:
    """LIFE-06: who was away that long learns of the end from the nodes."""
    cluster = waiting()
    cluster["a"].handle(AwaitConditionTimeout())
    assert cluster["a"].stopped is StopReason.DELETED


@pytest.mark.parametrize("entries", [True, False])
def test_a_leader_stops_when_another_leads(entries: bool) -> None:
    """CORE-09: the new one has the deletion, which is committed."""
    cluster = waiting()
    b = cluster["b"].id
    if entries:
        cluster["a"].handle(AppendEntriesRpc(Term(9), b, Index(1), Index(1), ONE))
    else:
        cluster["a"].handle(AppendEntriesReply(b, Term(9), True, Index(1), Index(1), ONE))
    assert cluster["a"].stopped is StopReason.DELETED


def test_a_leader_that_ends_ignores_what_does_not_concern_it() -> None:
    """CORE-09: elections, nodes and old RPCs."""
    cluster = waiting()
    b = cluster["b"].id
    for message in (
        ElectionTimeout(),
        NodeStatus("node_b", True),
        AppendEntriesRpc(Term(0), b, Index(1), Index(1), ONE),
    ):
        cluster["a"].handle(message)
    assert cluster.server("a").raft_state is RaftState.TERMINATING_LEADER


def unsynced_follower() -> CoreCluster:
    """B has applied the deletion, which is not on its disk."""
    cluster = led("a", "b", "c")
    cluster.delete("a")
    for _ in range(6):
        for name in "ac":
            cluster[name].sync()
        cluster.deliver()
    cluster["a"].handle(Tick(0))
    cluster.deliver()
    assert cluster.server("b").raft_state is RaftState.TERMINATING_FOLLOWER
    return cluster


def test_a_follower_waits_for_its_disk() -> None:
    """CORE-10, COMMIT-09: and tells its leader with its last breath."""
    cluster = unsynced_follower()
    assert not is_fully_persisted(cluster.server("b"))
    cluster.answers.clear()
    cluster.command("b", "x")
    cluster.query("b")
    assert cluster.refusals() == ["unknown_cluster"] * 2
    cluster["b"].handle(ElectionTimeout())
    assert cluster.server("b").raft_state is RaftState.TERMINATING_FOLLOWER
    first = len(cluster["b"].effects)
    cluster["b"].sync()
    assert cluster["b"].stopped is StopReason.DELETED
    assert [to for to, _ in sent(cluster["b"].effects[first:], AppendEntriesReply)] != []


def test_a_follower_whose_disk_is_gone_waits_no_longer_than_it_was_told() -> None:
    """CORE-10: its files are to be deleted anyway."""
    cluster = unsynced_follower()
    cluster["b"].handle(AppendEntriesRpc(ONE, cluster["a"].id, Index(2), Index(2), ONE))
    assert cluster.server("b").raft_state is RaftState.TERMINATING_FOLLOWER
    cluster["b"].handle(AwaitConditionTimeout())
    assert cluster["b"].stopped is StopReason.DELETED


def test_a_server_that_had_applied_the_end_ends_when_it_starts() -> None:
    """CORE-12, LIFE-06: it did not live to act on it."""
    cluster = waiting()
    cluster["a"].remember_applied()
    cluster["a"].restart()
    assert cluster["a"].stopped is StopReason.DELETED


def test_who_comes_back_too_late_can_be_ended_by_a_new_leader() -> None:
    """LIFE-06: with the leader gone, a majority that has the entry elects another, and it ends
    too.
    """
    cluster = led("a", "b", "c")
    cluster.partition("a", "bc")
    cluster.heal()
    cluster.delete("a")
    cluster.deliver()
    for name in "bc":
        cluster[name].sync()
    cluster["a"].crash()
    cluster.network.clear()
    cluster["b"].handle(ElectionTimeout())
    cluster.settle("b", "c")
    assert cluster["c"].stopped is StopReason.DELETED
    assert cluster.server("b").raft_state is RaftState.TERMINATING_LEADER


def test_a_stopped_server_handles_nothing() -> None:
    """CORE-02: its performer must not hand it anything."""
    cluster = led("a")
    cluster.delete("a")
    cluster.settle()
    assert cluster["a"].stopped is StopReason.DELETED
    with pytest.raises(InvariantViolation, match="no messages are handled"):
        step(cluster.server("a"), Tick(0))
