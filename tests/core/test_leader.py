"""The leader's own reactions (TIME-01, MAC-06, FD-03)."""

from typing import Any

import pytest

from barque.core.effects import StartQuorumTimeout
from barque.core.messages import AppendEntriesRpc, HeartbeatRpc, Message, NodeStatus, ServerDown, Tick
from barque.core.state import RaftState
from barque.machine.effects import Aux, SendMsg, Timer
from barque.machine.simple import SimpleMachine
from barque.testing.core.cluster import CLIENT, CoreCluster, sent
from barque.types import ServerId


class Ticking(SimpleMachine[int]):
    """Wants something at each tick, and when it enters a state."""

    def tick(self, now_ms: int, state: int) -> Any:
        """A timer, and a nested list."""
        return [Timer("t", after_ms=now_ms), [Aux(now_ms)]]

    def state_enter(self, raft_state: str, state: int) -> Any:
        """Tell a client."""
        return SendMsg(CLIENT, raft_state)


def test_a_tick_reaches_the_machine() -> None:
    """MAC-06: the leader's machine is told the time, and its wishes are taken, nested or not."""
    cluster = CoreCluster("a", machine=Ticking(lambda command, state: state, 0))
    cluster.elect("a")
    assert cluster["a"].handle(Tick(7)) == [Timer("t", after_ms=7), Aux(7)]


def test_entering_a_state_reaches_the_machine() -> None:
    """MAC-05: each state, in its order, once."""
    cluster = CoreCluster("a", machine=Ticking(lambda command, state: state, 0))
    cluster.elect("a")
    entered = [effect.message for effect in cluster["a"].machine_effects if isinstance(effect, SendMsg)]
    assert entered == ["recovered", "follower", "pre_vote", "candidate", "leader"]


def test_an_idle_leader_is_silent() -> None:
    """REPL-10: when all peers are in step, a tick sends nothing."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    assert cluster["a"].handle(Tick(0)) == []


def test_a_node_that_comes_within_reach_is_told_who_leads() -> None:
    """FD-03: no need to wait for the tick; the others need nothing."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.network.clear()
    effects = cluster["a"].handle(NodeStatus("node_b", True))
    assert [to for to, _ in sent(effects, AppendEntriesRpc)] == ["b"]
    assert [to for to, _ in sent(effects, HeartbeatRpc)] == ["b", "c"]


@pytest.mark.parametrize("sign", [NodeStatus("node_b", False), ServerDown(ServerId("b", "node_b"), False)])
def test_a_member_that_goes_is_a_reason_to_doubt(sign: Message) -> None:
    """LIM-05: everybody is asked, once, and the time begins in which a majority has to answer."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.network.clear()
    effects = cluster["a"].handle(sign)
    assert [to for to, _ in sent(effects, AppendEntriesRpc)] == ["b", "c"]
    assert [to for to, _ in sent(effects, HeartbeatRpc)] == ["b", "c"]
    assert effects.count(StartQuorumTimeout()) == 1
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert StartQuorumTimeout() not in cluster["a"].handle(sign)


@pytest.mark.parametrize("sign", [NodeStatus("node_z", False), ServerDown(ServerId("z", "node_z"), False)])
def test_a_stranger_that_goes_is_none(sign: Message) -> None:
    """Only members are counted, so only members are missed."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    assert cluster["a"].handle(sign) == []
