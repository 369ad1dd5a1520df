"""A node: one process's share of many clusters, on one event loop.

All input of one loop turn is handled before anything leaves; then, in this order: commands go
to their leaders, terms and votes are synced, messages leave, the log is written and synced,
and what that made true leaves as well (design §5.2). The order between the sync of votes and
the messages is a safety rule (docs/explanation/ordering.md), the rest is for speed.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from barque.config import NodeConfig
from barque.core.configuration import is_established
from barque.core.messages import ElectionTimeout, NodeStatus, RemoteMessage, ServerDown
from barque.core.queries import run_query
from barque.errors import Stopped, UnknownCluster
from barque.log.disk import Disk, OsDisk
from barque.log.wal_writer import MakeWriter, choose_writer
from barque.machine.machine import Machine
from barque.runtime.admin import Admin
from barque.runtime.calls import Calls
from barque.runtime.client_sink import ClientSession
from barque.runtime.clock import Clock, SystemClock
from barque.runtime.directory import configured_cluster_id
from barque.runtime.failure_detector import FailureDetector
from barque.runtime.front import Front, Session
from barque.runtime.inbox import Inbox
from barque.runtime.leaderboard import Leaderboard
from barque.runtime.machines import load_machines
from barque.runtime.outlets import NodeOutlets, leader_is
from barque.runtime.server_process import ServerProcess
from barque.runtime.system import Ending, System
from barque.runtime.timers import TimerDriver
from barque.transport.contract import ClientConnectionHandle, ClientSink, Transport
from barque.transport.secret import load_secret
from barque.transport.tcp import TcpTransport
from barque.transport.wire import ALIVE, Alive, ClientAnswer, ClientEvent, Envelope
from barque.types import ClientRef, ServerId

logger = logging.getLogger("barque.node")

_ROUNDS_MAX = 8
_STOP_TRANSFER_S = 1.0


class Node:
    """One node. `async with Node(config)` starts and stops it.

    `machines` adds machines to those that the configuration names. `transport`, `disk`, `make_writer`,
    `clock` and `rng` are the seams that a simulator replaces. `checked` runs the core's invariants
    after every step.
    """

    def __init__(
        self,
        config: NodeConfig,
        machines: Mapping[str, Machine[Any]] | None = None,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        transport: Callable[["Node", int, random.Random], Transport] | None = None,
        make_writer: MakeWriter = choose_writer,
        checked: bool = False,
    ) -> None:
        config.check()
        self.config = config
        self.name = config.name
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random(secrets.randbits(64))  # noqa: S311  # spreads timers, keeps no secret
        self.incarnation = self.rng.getrandbits(60) + 1
        self.machines: dict[str, Machine[Any]] = {**load_machines(config.machines), **(machines or {})}
        self.leaderboard = Leaderboard()
        self.detector = FailureDetector(poll_interval_s=config.time.detector_poll_ms / 1000)
        self.front = Front(
            ClientRef(self.name, self.incarnation),
            self,
            self.clock,
            commands_max=config.pending_commands_max,
            bytes_max=config.pending_bytes_max,
        )
        self.admin = Admin(self)
        self.inbox = Inbox(self)
        self.outlets = self.make_outlets()
        self.calls = Calls(self.outlets.send_to_node, self.admin.handle)
        self.longest_stall_s = 0.0
        self.started_at = self.clock.monotonic()
        self.resp: Any = None  # the gateway, if one is attached: for `status`
        self._disk = disk or OsDisk()
        self._make_writer = make_writer
        self._checked = checked
        self._make_transport = transport or _tcp_transport
        self._incarnations: dict[str, int] = {}
        self._listeners: dict[Session, None] = {}
        self._insiders: dict[Session, Callable[[str], None]] = {}  # who in this process hears when we stop
        self._turn_scheduled = False
        self._next_beat = 0.0
        self._stopped = True

    def make_outlets(self) -> NodeOutlets:
        """Where effects leave the servers; a simulator looks in here."""
        return NodeOutlets(self)

    # --- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what is on disk, listen, and start the servers of this node.

        Raises `ConfigurationError` for what cannot work, and `Damaged` for files that must not
        be trusted; nothing is changed in both cases.
        """
        self._loop = asyncio.get_running_loop()
        self.driver = TimerDriver(self.clock)
        self.timers = self.driver.timers
        self._stopped = False
        undo = AsyncExitStack()
        try:
            await self._open(undo)
        except BaseException:
            self._stopped = True  # no turn runs any more
            await undo.aclose()
            raise
        self.wake()

    async def _open(self, undo: AsyncExitStack) -> None:
        """Open one thing after the other; `undo` closes those that are open, if we come no further."""
        undo.callback(self.driver.stop)
        self.system = self._open_system()
        undo.callback(self.system.close)
        self.transport = self._make_transport(self, self.incarnation, self.rng)
        self.system.recover()
        await self.transport.start()
        undo.push_async_callback(self.transport.stop)
        for node in self.config.nodes:
            if node != self.name:
                self.detector.register(node)
        self.started_at = self.clock.monotonic()
        self._next_beat = self.started_at
        self._beat()
        self._tick()
        self._poll_detector()
        self._form_configured_clusters()

    def _open_system(self) -> System:
        return System(
            node=self.name,
            installation=self.config.installation,
            data_dir=self.config.data_dir,
            disk=self._disk,
            log=self.config.log,
            times=self.config.time,
            machine_upgrade_strategy=self.config.machine_upgrade_strategy,
            machines=self.machines,
            outlets=self.outlets,
            timers=self.timers,
            clock=self.clock,
            rng=self.rng,
            wake=self._run_on_loop,
            changed=self.wake,
            checked=self._checked,
            make_writer=self._make_writer,
        )

    def _form_configured_clusters(self) -> None:
        """Start the servers that the configuration asks for and that are not here yet."""
        for cluster in self.config.clusters:
            members = tuple(ServerId(cluster.name, n) for n in cluster.members or sorted(self.config.nodes))
            if ServerId(cluster.name, self.name) not in members:
                continue
            process = self.system.processes.get(cluster.name)
            if process is None:
                cluster_id = configured_cluster_id(self.config.installation, cluster.name)
                if self._was_deleted(cluster.name, cluster_id):
                    continue
                process = self.system.create(
                    cluster.name,
                    cluster.name,
                    cluster.machine,
                    dict(cluster.arguments),
                    members,
                    cluster_id=cluster_id,
                )
            if process.server.log.next_index() == 1:
                # A new server waits to be asked (ELEC-20); the configuration is what asks.
                after_s = self.rng.uniform(0.0, self.config.time.broadcast_time_ms * 3 / 1000)
                asked = process
                self.timers.arm(
                    (process, "election"),
                    self.clock.monotonic() + after_s,
                    lambda asked=asked: asked.handle(ElectionTimeout()),  # type: ignore[misc]
                )

    def _was_deleted(self, cluster: str, cluster_id: str) -> bool:
        """Whether a configured cluster, or our member of it, is gone on purpose; says what to do then."""
        tombstone = self.system.directory.last_tombstone(cluster_id)
        if tombstone is None:
            return False
        if tombstone.whole_cluster:
            what = f"was deleted and is not formed again ({tombstone.reason})"
            cure = f"create it again with: barque cluster create {cluster}"
        else:
            what = f"has no member here any more: it was removed ({tombstone.reason})"
            cure = f"add one again with: barque member add {cluster} {self.name}"
        logger.warning(
            "node %s: cluster %r of the configuration %s. Remove it from the configuration; or %s",
            self.name,
            cluster,
            what,
            cure,
        )
        return True

    async def stop(self) -> None:
        """Hand leaderships over, flush, and close. Safe to call twice."""
        if self._stopped:
            return
        await self.admin.hand_over(_STOP_TRANSFER_S)
        self._stopped = True
        await self.calls.stop()
        self._turn()
        self._leave_insiders()
        self.driver.stop()
        await self.transport.stop()
        self.system.close()

    def _leave_insiders(self) -> None:
        """Nothing is answered after the last turn: clients in this process must not wait for it."""
        for on_stopped in list(self._insiders.values()):
            on_stopped(f"node {self.name} has stopped")

    async def __aenter__(self) -> "Node":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def session(
        self,
        deliver: Callable[[list[ClientAnswer]], None],
        *,
        events: bool = False,
        on_stopped: Callable[[str], None] | None = None,
    ) -> Session:
        """A way in for a program inside this process; with `events` it hears machines' messages.

        With `on_stopped` it hears why answers end. Raises `Stopped` then if the node does not run.
        """
        if on_stopped is not None and self._stopped:
            raise Stopped(f"node {self.name} does not run")
        session = self.front.session(deliver)
        if events:
            self._listeners[session] = None
        if on_stopped is not None:
            self._insiders[session] = on_stopped
        return session

    def end_session(self, session: Session) -> None:
        """Nobody listens there any more."""
        session.close()
        self._listeners.pop(session, None)
        self._insiders.pop(session, None)

    @property
    def listening(self) -> int:
        """How many clients are connected, by the transport or in this process."""
        return len(self._listeners)

    def tell_listeners(self, cluster: str, message: msgspec.Raw) -> None:
        """A machine's message has come for the clients of this node."""
        for session in self._listeners:
            self.front.tell(session, ClientEvent(cluster, message))

    # --- the turn ----------------------------------------------------------------------

    def wake(self) -> None:
        """Run the second half of a turn when all input of this one is handled."""
        if not self._turn_scheduled and not self._stopped:
            self._turn_scheduled = True
            self._loop.call_soon(self._on_turn)

    def wake_later(self, after_s: float) -> None:
        """Run one after so many seconds."""
        self.timers.arm("front retry", self.clock.monotonic() + after_s, self.wake)

    def _run_on_loop(self, function: Callable[[], None]) -> None:
        """Called by log threads, too: run there, then finish the turn."""

        def run() -> None:
            function()
            self.wake()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(run)

    def _on_turn(self) -> None:
        """What `wake` has asked for; the files may be closed by now."""
        if not self._stopped:
            self._turn()

    def _turn(self) -> None:
        self._turn_scheduled = False
        for _ in range(_ROUNDS_MAX):
            self.front.flush()
            self.outlets.flush_commands()
            self.outlets.pipeline()
            synced = self.system.sync_meta()
            self.front.deliver()
            self.transport.flush()  # to the followers before our own sync (thesis §10.2.1)
            wrote = self.system.flush()
            if not (synced or wrote or self.outlets.busy or self.front.busy):
                break
        else:
            self.wake()
        self.system.look_after_finished()
        self.system.storage.loop_yield()
        self._await_deadline()

    def server_finished(
        self, process: ServerProcess, delete: bool, whole_cluster: bool, reason: str = "it has ended"
    ) -> None:
        """A server has come to its end. May be called from inside its own effects.

        With `delete` it goes for good at the end of this turn, after its last messages have left:
        `whole_cluster` says that its cluster was deleted, otherwise it alone was removed. Without `delete` it
        stops, keeps its files, and can start again with the node.
        """
        self.system.finish(process, Ending(reason, delete=delete, whole_cluster=whole_cluster))

    def _await_deadline(self) -> None:
        """Let the front say what is to be said when a call's time is over: the earliest of all that wait."""
        deadline, armed = self.front.next_deadline(), self.timers.deadline_of("front deadline")
        if deadline is not None and (armed is None or deadline < armed):
            self.timers.arm("front deadline", deadline, self._expire)

    def _expire(self) -> None:
        self.front.expire(self.clock.monotonic())
        self.wake()

    # --- time --------------------------------------------------------------------------

    def _beat(self) -> None:
        """The failure detector's heartbeat, and a look at how late this loop is."""
        now = self.clock.monotonic()
        self.longest_stall_s = max(self.longest_stall_s, now - self._next_beat)
        self._next_beat = now + self.config.time.heartbeat_interval_ms / 1000
        for node in self.transport.connected():
            self.transport.send(node, "", Alive())
        self.transport.flush()
        self.timers.arm("beat", self._next_beat, self._beat)

    def _tick(self) -> None:
        self.system.tick()
        self.wake()
        self.timers.arm("tick", self.clock.monotonic() + self.config.time.tick_ms / 1000, self._tick)

    def _poll_detector(self) -> None:
        now = self.clock.monotonic()
        changes = self.detector.poll(now)
        connected = self.transport.connected() if changes else []
        for node, up in changes:
            if up and node not in connected:
                continue  # an old rhythm; the broken link is newer and surer news
            logger.info("node %s: %s is %s", self.name, node, "up" if up else "suspected to be down")
            self._tell_all(NodeStatus(node, up))
            self.system.monitors.node_changed(node, up=up)
            if up:
                self.front.node_back(node)
            else:
                self.front.node_lost(node)
        self._doubt_leaders()
        self.wake()
        self.timers.arm("detector", now + self.config.time.detector_poll_ms / 1000, self._poll_detector)

    def _doubt_leaders(self) -> None:
        """A suspicion stands until it is taken back: say it again to those who follow a suspected node.

        A message of a dead leader that comes late disarms the election timer, and there will be no news.
        """
        suspected = {node for node in self.config.nodes if self.detector.suspects(node)}
        for process in list(self.system.processes.values()) if suspected else ():
            leader = process.server.leader_id
            if leader is not None and leader.node in suspected:
                process.handle(NodeStatus(leader.node, up=False))

    def _tell_all(self, message: NodeStatus) -> None:
        for process in list(self.system.processes.values()):
            process.handle(message)

    # --- from the transport (TransportHandler) -------------------------------------------

    def on_envelopes(self, node: str, envelopes: list[Envelope]) -> None:
        """Messages from another node, for its peers here or for the node itself."""
        if envelopes == ALIVE:  # nothing follows; it was six turns of ten in which there was nothing to do
            self.detector.heartbeat(node, self.clock.monotonic())
        else:
            self.inbox.take(node, envelopes)
            self.wake()

    def on_turn(self) -> None:
        """Input has been handed over."""
        self.wake()

    def on_peer_connected(self, node: str, incarnation: int) -> None:
        """Tell a node that comes (back) who leads; and if it has restarted, its servers are new."""
        self.calls.node_connected(node)
        self.inbox.node_connected(node)
        self.outlets.node_connected(node)
        known = self._incarnations.get(node)
        self._incarnations[node] = incarnation
        self.system.monitors.node_restarted(node, incarnation)
        self.system.monitors.node_changed(node, up=True)
        self.front.node_back(node)  # if a restarted one leads no more, it refuses what it is sent
        for process in list(self.system.processes.values()):
            leader = process.server.leader_id
            if known not in (None, incarnation) and leader is not None and leader.node == node:
                process.handle(ServerDown(leader, connected=True))
            process.handle(NodeStatus(node, up=True))
            if is_established(process.server):
                self.outlets.send_to_node(node, leader_is(process, node))
        self.wake()

    def on_peer_disconnected(self, node: str, reason: str) -> None:
        """MON-04, `noconnection`: those who follow a leader there begin to doubt it."""
        logger.info("node %s: connection to %s is gone: %s", self.name, node, reason)
        for process in list(self.system.processes.values()):
            leader = process.server.leader_id
            if leader is not None and leader.node == node:
                process.handle(ServerDown(leader, connected=False))
        self.calls.node_lost(node)
        self.front.node_lost(node)
        self.transport.nudge(node)
        self.wake()

    def on_client(self, connection: ClientConnectionHandle) -> ClientSink:
        """A client has authenticated."""
        return ClientSession(self, connection)

    # --- for the front (Outside) ---------------------------------------------------------

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        """From this node itself to a server, here or elsewhere; False if it was dropped."""
        return self.outlets.send_to_server(to, message, None)

    def local_query(self, cluster: str, payload: bytes) -> Any:
        """Ask the member on this node; raises `UnknownCluster` if there is none."""
        for process in self._members_here(cluster):
            return run_query(process.server, payload)
        raise UnknownCluster(f"no member of {cluster!r} runs on node {self.name}; ask another node")

    def _members_here(self, cluster: str) -> list[ServerProcess]:
        named = self.system.processes.get(cluster)
        if named is not None and named.server.cfg.cluster_name == cluster:
            return [named] if named.failure is None else []
        return [
            process
            for process in self.system.processes.values()
            if process.server.cfg.cluster_name == cluster and process.failure is None
        ]

    def member_here(self, cluster: str) -> ServerProcess | None:
        """The member of a cluster that runs on this node, if one does."""
        return next(iter(self._members_here(cluster)), None)


def _tcp_transport(node: Node, incarnation: int, rng: random.Random) -> Transport:
    config = node.config
    address = config.nodes[config.name]
    secret = config.secret.encode() if config.secret else load_secret(config.secret_file)
    return TcpTransport(
        name=config.name,
        incarnation=incarnation,
        cluster=config.installation,
        secret=secret,
        bind=config.bind or address,
        advertise=address,
        peers={name: peer for name, peer in config.nodes.items() if name != config.name},
        handler=node,
        rng=rng,
    )
