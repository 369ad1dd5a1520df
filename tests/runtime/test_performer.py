"""What a server's effects do to its node."""

import random
import typing
from collections import deque
from typing import Any
from unittest.mock import Mock, patch

import pytest

from barque.config import TimeConfig
from barque.core import effects
from barque.core.effects import Effect, SendSnapshot, TimerSpan
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import AppendEntriesRpc, ElectionTimeout, NodeStatus, ServerDown
from barque.core.roles import WalWritable
from barque.core.state import RaftState
from barque.core.transitions import (
    become_follower,
    become_pre_candidate,
    become_terminating_leader,
    become_waiting,
    resume_leadership,
)
from barque.errors import Damaged, StorageError
from barque.machine.effects import MonitorNode, Timer
from barque.runtime.clock import SystemClock
from barque.runtime.monitors import Monitors
from barque.runtime.performer import Performer
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_timers import ServerTimers, timer_spans
from barque.runtime.timers import Timers
from barque.testing.core.cluster import CoreCluster
from barque.types import ClientRef, Index, IndexTerm, ServerId, Term

ME = ClientRef("n1", 7)
META = SnapshotMeta(IndexTerm(Index(1), Term(1)), (), 0)


def timers_of(timers: Timers) -> ServerTimers:
    """The timers of servers, on these."""
    return ServerTimers(timers, SystemClock(), random.Random(1), TimeConfig(), lambda: None)


def test_every_effect_has_a_handler() -> None:
    """Of the core and of machines: an effect without one would stop its server."""
    assert set(Performer.HANDLERS) == set(typing.get_args(effects.Effect))


class Leader:
    """A server that leads, and the environment that performs its effects."""

    def __init__(self) -> None:
        self.timers = Timers()
        environment: Any = Mock()
        self.server_timers = timers_of(self.timers)
        meta: Any = Mock()
        self.performer = Performer(environment, meta, self.server_timers, Monitors(ME))
        cluster = CoreCluster("a", "b", "c")
        cluster.elect("a")
        self.process = ServerProcess(cluster["a"].server, self.performer, {})

    def goes_through(self, *states: RaftState) -> None:
        """It takes up one state after the other."""
        server = self.process.server
        become = {
            RaftState.FOLLOWER: lambda: become_follower(server),
            RaftState.AWAIT_CONDITION: lambda: become_waiting(server, WalWritable(), 1),
            RaftState.PRE_VOTE: lambda: become_pre_candidate(server),
            RaftState.TERMINATING_LEADER: lambda: become_terminating_leader(server),
            RaftState.LEADER: lambda: resume_leadership(server, server.role),  # type: ignore[arg-type]
        }
        for state in states:
            old = server.raft_state
            become[state]()
            self.performer.state_changed(self.process, old, None)

    def perform(self, *effects: Effect) -> None:
        """Perform effects of its machine."""
        self.performer.perform(self.process, list(effects))

    def has_timer(self, name: str) -> bool:
        """Whether this timer of its machine runs."""
        return (self.process, f"machine {name}") in self.timers


@pytest.mark.parametrize(
    "states",
    [
        (RaftState.FOLLOWER,),
        (RaftState.AWAIT_CONDITION, RaftState.FOLLOWER),
        (RaftState.AWAIT_CONDITION, RaftState.PRE_VOTE),
        (RaftState.TERMINATING_LEADER,),
    ],
)
def test_a_machines_timers_and_monitors_end_with_its_leadership(states: tuple[RaftState, ...]) -> None:
    """TIME-06; also if the leader has waited first, as one does that hands over."""
    leader = Leader()
    leader.performer.monitors.node_changed("n2", up=True)
    leader.perform(Timer("t", after_ms=1))
    leader.perform(MonitorNode("n2"))
    leader.goes_through(*states)
    assert not leader.has_timer("t")
    with patch.object(ServerProcess, "handle") as handle:
        leader.performer.monitors.node_changed("n2", up=False)
    handle.assert_not_called()


def test_a_timer_that_is_over_is_forgotten() -> None:
    """A machine may name each of its timers anew, for as long as it leads."""
    leader = Leader()
    for number in range(100):
        leader.perform(Timer(f"fired {number}", after_ms=0))
        leader.perform(Timer(f"cancelled {number}", after_ms=1_000))
        leader.perform(Timer(f"cancelled {number}"))
    leader.timers.run_due(float("inf"))
    assert leader.server_timers.machine_timers == {leader.process: set()}
    assert len(leader.timers) == 0


def test_a_machines_timers_go_on_while_its_leader_waits() -> None:
    """It may be back before they are due."""
    leader = Leader()
    leader.performer.monitors.node_changed("n2", up=True)
    leader.perform(Timer("t", after_ms=1))
    leader.perform(MonitorNode("n2"))
    leader.goes_through(RaftState.AWAIT_CONDITION)
    assert leader.has_timer("t")
    leader.goes_through(RaftState.LEADER)
    assert leader.has_timer("t")
    with patch.object(ServerProcess, "handle") as handle:
        leader.performer.monitors.node_changed("n2", up=False)
    handle.assert_called_once()


@pytest.mark.parametrize("how", ["its server", "its node"])
def test_news_of_a_leader_waits_behind_what_it_has_said(how: str) -> None:
    """The vote is being stored, and the leader's last message waits; nobody follows it without end."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("c")
    cluster.settle()
    follower, leader = cluster.server("a"), cluster.server("c")
    timers = Timers()
    performer = Performer(Mock(), Mock(), timers_of(timers), Monitors(ME))
    process = ServerProcess(follower, performer, {})
    process.handle(ElectionTimeout())
    assert process.held is not None  # the disk has not answered
    last = leader.log.last_index_term()
    said = AppendEntriesRpc(leader.current_term, leader.id, leader.commit_index, last.index, last.term, ())
    process.handle(said)
    down = ServerDown(leader.id, connected=True)
    process.handle(down if how == "its server" else NodeStatus(leader.id.node, up=False))
    process.release()
    assert follower.raft_state is RaftState.FOLLOWER
    assert (process, "election") in timers


def test_election_timers_follow_the_nodes_times() -> None:
    """ELEC-17, TIME-05: a random part and a fixed part, by broadcast time and detector poll."""
    times = TimeConfig(broadcast_time_ms=100, election_multiplier=5, detector_poll_ms=1_000)
    assert timer_spans(times) == {
        TimerSpan.REALLY_SHORT: (100, 0),
        TimerSpan.SHORT: (500, 100),
        TimerSpan.MEDIUM: (1_000, 100),
        TimerSpan.LONG: (1_000, 1_000),
    }


@pytest.mark.parametrize(
    ("error", "state"),
    [(StorageError("no"), "leader"), (Damaged("rotten"), "failed")],
    ids=["unreadable", "damaged"],
)
def test_a_snapshot_that_cannot_be_read_leaves_nothing_open(error: StorageError, state: str) -> None:
    """The leader tries again later. After damage its server stops: another leader can send its own."""
    leader = Leader()
    outgoing = Mock()
    outgoing.live.side_effect = error
    snapshots = Mock(open_outgoing=Mock(return_value=outgoing))
    server = leader.process.server
    with patch.object(type(server.log), "snapshots", snapshots, create=True):
        leader.process.held = deque([SendSnapshot(ServerId("b", "b"), META, server.current_term)])
        leader.process.release()
    assert leader.process.state == state
    outgoing.close.assert_called_once_with()
