"""The leader's own reactions (TIME-01, MAC-06, FD-03)."""

from typing import Any

from barque.core.messages import AppendEntriesRpc, HeartbeatRpc, NodeStatus, Tick
from barque.machine.effects import Aux, SendMsg, Timer
from barque.machine.simple import SimpleMachine
from barque.testing.core_cluster import CLIENT, CoreCluster, sent


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
    """FD-03: no need to wait for the tick; the others, and a node that goes, need nothing."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster.network.clear()
    assert cluster["a"].handle(NodeStatus("node_b", False)) == []
    effects = cluster["a"].handle(NodeStatus("node_b", True))
    assert [to for to, _ in sent(effects, AppendEntriesRpc)] == ["b"]
    assert [to for to, _ in sent(effects, HeartbeatRpc)] == ["b", "c"]
