"""Waiting for one thing (W-1 to W-6); the table has the rest."""

from collections.abc import Callable
from typing import Any

import pytest

from barque.core.configuration import may_change
from barque.core.effects import Effect, NextEvent, StartConditionTimeout
from barque.core.invariants import Facts
from barque.core.messages import (
    AppendEntriesRpc,
    AwaitConditionTimeout,
    Component,
    ElectionTimeout,
    HeartbeatRpc,
    MachineAppend,
    MachineTimeout,
    Message,
    NodeEvent,
    NodeStatus,
    ProcessDown,
    ServerDown,
    Tick,
    WalFailed,
    WalUp,
)
from barque.core.roles import WaitingRole
from barque.core.state import PeerStatus, RaftState
from barque.machine.effects import Timer
from barque.machine.machine import CommandMeta, Down, Machine, NodeDown, Timeout
from barque.testing.core.cluster import CoreCluster
from barque.testing.core.member import Member
from barque.types import ClientRef, ReplyMode, ServerId, Term


def test_a_wait_is_over_when_its_time_is_and_the_condition_holds_unnoticed() -> None:
    """W-4: at the end of its time the server looks once more before it gives up."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].log.handle_event(WalUp())  # and nobody said so
    effects = cluster["a"].handle(AwaitConditionTimeout())
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert not any(isinstance(effect, StartConditionTimeout) for effect in effects)


def test_any_message_may_find_the_log_writable() -> None:
    """W-6, CORE-20: the message is then handled next, in the state that follows."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].log.handle_event(WalUp())
    effects = cluster["a"].handle(Tick(0))
    assert NextEvent(Tick(0)) in effects
    assert cluster.server("a").raft_state is RaftState.LEADER


def test_a_leader_that_comes_back_counts_what_became_durable_meanwhile() -> None:
    """CORE-06: the disks went on while it waited; the answer comes when it leads again."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster["a"].log.handle_event(WalFailed("EIO"))
    cluster.command("a", "y")
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster["a"].sync()
    assert cluster.replies() == [("x",)]


def test_permission_survives_the_wait() -> None:
    """A leader that comes back is still the leader whose noop was applied (§9, handle_state_enter)."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.transfer("a", "b")
    cluster["a"].handle(AwaitConditionTimeout())
    assert may_change(cluster.server("a"))


def test_reads_that_waited_go_on_after_the_wait() -> None:
    """QRY-10: neither a transfer that failed nor a log that was away loses them."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.transfer("a", "b")
    cluster.network.clear()
    cluster["a"].handle(AwaitConditionTimeout())
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert () in cluster.replies()


def test_a_follower_whose_log_failed_takes_the_entries_later() -> None:
    """F-1 (a): nothing was written, so nothing was acknowledged; the leader sends it again."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    cluster["b"].handle(WalFailed("EIO"))
    cluster.command("a", "x", mode=ReplyMode.NOTIFY)
    cluster.deliver(only=AppendEntriesRpc)
    assert cluster.server("b").raft_state is RaftState.AWAIT_CONDITION
    assert cluster.log_terms("b") == [1]
    cluster["b"].handle(WalUp())
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.replies() == [("x",)]


def test_a_leader_within_reach_again_is_told_again_what_is_missing() -> None:
    """The answer that began the wait may have been lost with the connection; it is repeated.

    Seen with real nodes: a follower that started last answered before it had connected to its
    leader, and both waited for each other.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.partition("ab", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "b")
    cluster.heal()
    leader, follower = cluster["a"], cluster["c"]
    leader.handle(NodeStatus("node_c", up=True))
    cluster.cut = {(follower.id, leader.id)}
    cluster.deliver()
    assert follower.server.raft_state is RaftState.AWAIT_CONDITION
    leader.handle(Tick(0))
    cluster.deliver()
    assert follower.server.raft_state is RaftState.AWAIT_CONDITION
    cluster.heal()
    follower.handle(NodeStatus("node_a", up=True))
    cluster.settle()
    assert follower.server.raft_state is RaftState.FOLLOWER
    assert follower.server.log.last_index_term() == leader.server.log.last_index_term()


NEWS = [
    NodeStatus("node_b", up=True),
    NodeStatus("node_b", up=False),
    ServerDown(ServerId("b", "node_b"), connected=False),
    ProcessDown(Component.MACHINE, ClientRef("client", 1), "noproc"),
    NodeEvent(Component.MACHINE, "node_b", up=False),
    MachineTimeout("lease"),
    MachineAppend(b"\x01"),
]
"""News that is told once. A leader that waits must not lose it."""


@pytest.mark.parametrize("news", NEWS, ids=lambda news: type(news).__name__)
def test_k6_a_leader_handles_news_of_its_wait_when_it_leads_again(news: Message) -> None:
    """K6: the sender does not repeat this news, so the leader keeps it until its log is writable again."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    seen = handled_by_leader(cluster, news)
    assert not seen(), "a leader that waits serves nobody"
    cluster["a"].handle(WalUp())
    assert seen()


def handled_by_leader(cluster: CoreCluster, news: Message) -> Callable[[], bool]:
    """Send `news` to a's leader; the result says whether it has handled it as a leader since."""
    handled: list[Message] = []

    def watch(member: Member, message: Message, before: Facts, _effects: list[Effect]) -> None:
        if message == news and before.state is RaftState.LEADER:
            handled.append(message)

    cluster.watch = watch
    cluster["a"].handle(news)
    return lambda: news in handled


def test_k6_a_peer_that_came_back_during_the_wait_is_sent_entries_again() -> None:
    """K6: a peer out of reach for a snapshot is sent entries again after its node came back in the wait."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    peer = cluster.server("a").cluster[ServerId("b", "node_b")]
    peer.status = PeerStatus.DISCONNECTED
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].handle(NodeStatus("node_b", up=True))
    cluster["a"].handle(WalUp())
    assert peer.status is PeerStatus.NORMAL


def test_k6_news_of_a_wait_ends_with_the_leadership() -> None:
    """A leader that is deposed while it waits hands nothing to the follower that it becomes."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    seen = handled_by_leader(cluster, MachineTimeout("lease"))
    rpc = HeartbeatRpc(1, Term(cluster.server("a").current_term + 1), ServerId("b", "node_b"))
    cluster["a"].handle(rpc)
    cluster["a"].handle(WalUp())
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
    assert not seen()


class Diary(Machine[tuple[Any, ...]]):
    """Writes down all commands, built-in ones too."""

    def init(self, args: dict[str, Any]) -> tuple[Any, ...]:
        """Nothing yet."""
        return ()

    def apply(self, meta: CommandMeta, command: Any, state: tuple[Any, ...]) -> Any:
        """One more."""
        return (*state, command), None


class Sleeper(Diary):
    """Sets its timer when its member begins to lead."""

    def state_enter(self, raft_state: str, state: tuple[Any, ...]) -> Any:
        """Once more."""
        return [Timer("lease", after_ms=1_000)] if raft_state == "leader" else []


def test_k6_a_timer_that_is_set_anew_does_not_expire_before_its_time() -> None:
    """EFF-09: it expired while the leader waited, and the machine has set it again since."""
    cluster = CoreCluster("a", machine=Sleeper())
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].handle(MachineTimeout("lease"))
    cluster["a"].handle(MachineTimeout("other"))
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.server("a").machine_state == (Timeout("other"),)


def test_k6_repeated_news_is_kept_once() -> None:
    """The failure detector repeats itself; a long wait must not make a long list."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    for _ in range(100):
        cluster["a"].handle(NodeStatus("node_b", up=False))
    role = cluster.server("a").role
    assert isinstance(role, WaitingRole)
    assert len(role.later) == 1


def test_two_equal_commands_of_a_machine_are_appended_twice() -> None:
    """EFF-04: they are no repeated news, although they look alike."""
    cluster = CoreCluster("a", machine=Diary())
    cluster.elect("a")
    cluster["a"].handle(WalFailed("EIO"))
    for _ in range(2):
        cluster["a"].handle(MachineAppend(b"\xa1x"))
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.server("a").machine_state == ("x", "x")


@pytest.mark.parametrize(
    ("news", "command"),
    [
        (NodeEvent(Component.MACHINE, "node_b", up=False), NodeDown("node_b")),
        (
            ProcessDown(Component.MACHINE, ClientRef("client", 1), "noproc"),
            Down(ClientRef("client", 1), "noproc"),
        ),
        (MachineTimeout("lease"), Timeout("lease")),
        (MachineAppend(b"\xa1x"), "x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_k6_news_that_finds_the_log_failed_is_appended_when_the_log_is_back(
    news: Message, command: Any
) -> None:
    """K6: the leader learns by this very news that its log has failed. Its machine hears of it later."""
    cluster = CoreCluster("a", machine=Diary())
    cluster.elect("a")
    cluster["a"].log.handle_event(WalFailed("EIO"))  # and nobody has said so yet
    cluster["a"].handle(news)
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.server("a").machine_state == (command,)
