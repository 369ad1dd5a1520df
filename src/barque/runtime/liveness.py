"""Which nodes are within reach: heartbeats, connections, the failure detector.

A broken connection is news at once (MON-04). A node that hangs keeps its connections; the failure detector
finds it by the rhythm of its heartbeats (docs/explanation/failure-detection.md). A suspicion reaches the
servers that follow a leader there, the machines that watch the node, and the request router.
"""

import logging
from collections.abc import Callable

from barque.config import TimeConfig
from barque.core.configuration import is_established
from barque.core.messages import NodeStatus, ServerDown
from barque.core.roles import RaftState
from barque.runtime.cluster_clock import ClusterClock
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.effect_sink import EffectSink
from barque.runtime.failure_detector import FailureDetector
from barque.runtime.machine_codes import MachineCodes
from barque.runtime.monitors import Monitors
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import ServerTable
from barque.runtime.timers import Timers
from barque.runtime.turn import Turn
from barque.transport.contract import Transport
from barque.transport.wire import Alive, ClockIs
from barque.types import ServerId

logger = logging.getLogger("barque.node")


class Liveness:
    """Watches the other nodes, and tells servers, machines and the router. `peers` are their names."""

    def __init__(
        self,
        name: str,
        peers: tuple[str, ...],
        times: TimeConfig,
        servers: ServerTable,
        monitors: Monitors,
        router: RequestRouter,
        rpc: NodeRpc,
        dispatcher: Dispatcher,
        sink: EffectSink,
        transport: Transport,
        timers: Timers,
        clock: ClusterClock,
        turn: Turn,
        codes: MachineCodes,
        succeed: Callable[[ServerProcess, ServerId], None],
    ) -> None:
        self.detector = FailureDetector(poll_interval_s=times.detector_poll_ms / 1000)
        self.longest_stall_s = 0.0  # how late the loop was at worst
        self._name = name
        self._peers = peers
        self._times = times
        self._servers = servers
        self._monitors = monitors
        self._router = router
        self._rpc = rpc
        self._dispatcher = dispatcher
        self._sink = sink
        self._transport = transport
        self._timers = timers
        self._clock = clock
        self._turn = turn
        self.codes = codes
        self._succeed = succeed
        self._incarnations: dict[str, int] = {}
        self._next_beat = clock.monotonic()

    def start(self) -> None:
        """Begin to send heartbeats, and to judge the heartbeats of other nodes."""
        for node in self._peers:
            self.detector.register(node)
        self._next_beat = self._clock.monotonic()
        self._beat()
        self._poll_detector()

    @property
    def patience_s(self) -> float:
        """How long a node that lives needs at most to be heard, unless it is very busy."""
        return 5 * self._times.heartbeat_interval_ms / 1000

    def heard_since(self, node: str, moment: float) -> bool:
        """Whether a node was heard since this moment of the monotonic clock; we hear ourselves."""
        return node == self._name or self.detector.heard_since(node, moment)

    def silence_ms(self, node: str) -> int | None:
        """For how many milliseconds a node has said nothing; None if it never spoke."""
        silence_s = 0.0 if node == self._name else self.detector.silence_s(node, self._clock.monotonic())
        return None if silence_s is None else int(silence_s * 1000)

    def heard_from(self, node: str) -> None:
        """A heartbeat has come."""
        self.detector.heartbeat(node, self._clock.monotonic())

    def _beat(self) -> None:
        """Send a heartbeat to each node, and measure how late this loop is."""
        now = self._clock.monotonic()
        self.longest_stall_s = max(self.longest_stall_s, now - self._next_beat)
        self._next_beat = now + self._times.heartbeat_interval_ms / 1000
        self._clock.look()
        for node in self._transport.connected():
            self._transport.send(node, "", Alive())
        self._transport.flush()
        self._timers.arm("beat", self._next_beat, self._beat)

    def _poll_detector(self) -> None:
        now = self._clock.monotonic()
        for node in self._transport.connected():
            self._transport.send(node, "", ClockIs(self._clock.own_wall_ms))
        changes = self.detector.poll(now)
        connected = self._transport.connected() if changes else []
        for node, up in changes:
            if up and node not in connected:
                continue  # an old rhythm; that the connection broke is newer, and certain
            logger.info("node %s: %s is %s", self._name, node, "up" if up else "suspected to be down")
            self._tell_all(NodeStatus(node, up))
            self._monitors.node_changed(node, up=up)
            if up:
                self._router.node_back(node)
            else:
                self._router.node_lost(node)
        self._repeat_suspicions()
        self._turn.wake()
        self._timers.arm("detector", now + self._times.detector_poll_ms / 1000, self._poll_detector)

    def _repeat_suspicions(self) -> None:
        """Say a suspicion again to servers that follow a leader on a suspected node, until it is taken back.

        A late message of a dead leader disarms an election timer, and the detector reports changes only: it
        never reports a node that fell silent before it was judged for the first time.
        """
        suspected = {node for node in self._peers if self.detector.suspects(node)}
        for node in suspected:
            self._monitors.node_changed(node, up=False)
        for process in self._servers.all() if suspected else ():
            leader = process.server.leader_id
            if leader is not None and leader.node in suspected:
                process.handle(NodeStatus(leader.node, up=False))

    def _tell_all(self, message: NodeStatus) -> None:
        for process in self._servers.all():
            process.handle(message)

    def connected(self, node: str, incarnation: int) -> None:
        """Our link to a node is up: tell it our time, our machines and which of our servers lead.

        Our servers hear of it, and that its servers are gone if it has restarted.
        """
        self._transport.send(node, "", ClockIs(self._clock.own_wall_ms))
        self._transport.send(node, "", self.codes.message())
        self._rpc.node_connected(node)
        self._dispatcher.node_connected(node)
        self._sink.node_connected(node)
        known = self._incarnations.get(node)
        self._incarnations[node] = incarnation
        self._monitors.node_restarted(node, incarnation)
        self._monitors.node_changed(node, up=True)
        self._router.node_back(node)  # a leader there that has restarted refuses what it is sent
        for process in self._servers.all():
            leader = process.server.leader_id
            if known not in (None, incarnation) and leader is not None and leader.node == node:
                process.handle(ServerDown(leader, connected=True))
            process.handle(NodeStatus(node, up=True))
            if is_established(process.server):
                self._sink.announce(process, node)
        self._turn.wake()

    def disconnected(self, node: str, reason: str) -> None:
        """Our link to a node is gone (MON-04, `noconnection`).

        Followers of a leader there suspect it. A leader here checks that a majority still answers: if the
        failure detector has not judged that node yet, it has no news, and an idle leader would not notice.
        """
        logger.info("node %s: connection to %s is gone: %s", self._name, node, reason)
        for process in self._servers.all():
            server, leader = process.server, process.server.leader_id
            if leader == server.id:
                for member in [member for member, _ in server.peers if member.node == node]:
                    process.handle(ServerDown(member, connected=False))
            elif leader is not None and leader.node == node:
                process.handle(ServerDown(leader, connected=False))
        # The detector has no news of a node that goes before its first poll has judged it (FD-05).
        self._monitors.node_changed(node, up=False)
        self._rpc.node_lost(node)
        self._router.node_lost(node)
        self._transport.nudge(node)
        self._turn.wake()

    def gone(self, node: str) -> None:
        """The process of a node is gone: a follower of a leader there forgets it, and campaigns at once.

        If that is a false alarm, the leader that is asked for its pre-vote asserts itself (§9.6).
        """
        logger.info("node %s: the process of %s is gone", self._name, node)
        for process in self._servers.all():
            leader = process.server.leader_id
            if leader is not None and leader.node == node:
                process.handle(ServerDown(leader, connected=True))
                if process.server.leader_id is None and process.server.raft_state is RaftState.FOLLOWER:
                    self._succeed(process, leader)
        self._turn.wake()
