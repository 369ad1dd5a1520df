"""A node: one process's share of many clusters, on one event loop.

Theory of operation
-------------------

A `Node` has a life and a turn; everything else is done by the objects that it puts together in `_assemble`.

*Life.* `start` recovers what is on disk, listens, and starts the servers. `stop` hands leaderships over, runs
a last turn, and closes. A node that could not start has changed nothing and left nothing open.

*Turn.* Input reaches the node in callbacks of the event loop: frames of other nodes and of clients, timers,
news of the disk. Each callback only hands its input to servers and to the router; what that makes them want
is gathered. Then, once for all callbacks that ran together, the turn does what they want, in phases:

1. **Route requests.** Commands and reads go to their leaders, as one batch for each cluster. Low-priority
   commands are appended behind them (CMD-06).
2. **Replicate.** Leaders send entries to followers, once for everything that was appended.
3. **Sync votes.** Terms and votes become durable. Only then the messages that depend on them are released:
   a vote that leaves before it is on disk could be given twice. *This order is a safety rule.*
4. **Deliver replies.** Callers and clients get the answers that have come up so far.
5. **Send.** All messages leave, one write for each connection. They leave before the log is written, so that
   followers write at the same time as their leader (thesis §10.2.1). This is safe: a leader's own entry
   counts only when it is written, and a follower acknowledges only what is written.
6. **Write the log.** Everything that servers have appended is written and synced, once for all of them.

Phases 3 and 6 make things true that others wait for: a vote may be answered, an entry may commit and be
applied. So the phases run again, until a round makes nothing new. Eight rounds are enough for anything that
one input leads to; if not, the loop gets a turn first, and the next turn goes on.

Under load more input arrives while a turn runs, so the next turn finds more: batches grow by themselves.
The order of effects within a server is a different matter, kept by `performer.Performer`; see
docs/explanation/ordering.md for both.
"""

import logging
import math
import random
import secrets
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from barque.config import NodeConfig
from barque.errors import ConfigurationError, Stopped
from barque.log.background import MakeWorker, ThreadWorker
from barque.log.disk import Disk, OsDisk
from barque.log.identity import Owner
from barque.log.read_plan import LogEntry, ReadPlan
from barque.log.wal_writer import MakeWriter, choose_writer
from barque.machine.machine import Machine
from barque.machine.replicated import Replicated
from barque.runtime.admin import Admin
from barque.runtime.client_session import ClientSessions, InProcessSession
from barque.runtime.clock import Clock, SystemClock
from barque.runtime.cluster_clock import ClusterClock
from barque.runtime.cluster_forming import form_configured_clusters
from barque.runtime.deferred_rounds import DeferredRounds
from barque.runtime.directory import Directory
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.effect_sink import EffectSink
from barque.runtime.function_calls import FunctionCalls, checked
from barque.runtime.liveness import Liveness
from barque.runtime.log_readers import ExternalLogReader, LogReaders
from barque.runtime.machine_codes import MachineCodes
from barque.runtime.machines import load_machines
from barque.runtime.monitors import Monitors
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.processes import OnMessage, Process, Processes
from barque.runtime.reporting import Reporter
from barque.runtime.requests import RequestRouter
from barque.runtime.server_table import ServerTable
from barque.runtime.state_digests import StateDigests
from barque.runtime.system import System
from barque.runtime.timers import TimerDriver
from barque.runtime.turn import Turn
from barque.transport.contract import ClientConnectionHandle, ClientSink, Transport, TransportHandler
from barque.transport.credentials import Credentials
from barque.transport.tcp import TcpTransport
from barque.transport.wire import (
    ALIVE,
    Alive,
    ClockIs,
    EndHeard,
    Envelope,
    FrontEvent,
    MachinesAre,
    NodeCall,
    NodeCallReply,
    ProcessIs,
    ProcessMessage,
    StateDigest,
    WatchProcess,
)
from barque.types import ClientRef

logger = logging.getLogger("barque.node")

Accumulator = TypeVar("Accumulator")

_ROUNDS_MAX = 8
_STOP_TRANSFER_S = 1.0

MakeTransport = Callable[[TransportHandler, int, random.Random], Transport]
"""Makes a transport: its handler, the node's incarnation, and random numbers."""


class Node:
    """One node. `async with Node(config)` starts and stops it.

    `machines`: machines, or `Replicated` classes, beside those that the configuration names. `transport`,
    `disk`, `make_writer`, `make_worker`, `clock` and `rng` are the seams that a simulator replaces. `checked`
    runs the core's invariants after every step.
    """

    def __init__(
        self,
        config: NodeConfig,
        machines: Mapping[str, Machine[Any] | type[Replicated]] | None = None,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        transport: MakeTransport | None = None,
        make_writer: MakeWriter = choose_writer,
        make_worker: MakeWorker = ThreadWorker,
        checked: bool = False,
    ) -> None:
        config.check()
        self.config = config
        self.name = config.name
        self.clock = ClusterClock(clock or SystemClock(), config.name, config.time.clock_error_max_ms)
        self.rng = rng or random.Random(secrets.randbits(64))  # noqa: S311  # spreads timers, keeps no secret
        self.incarnation = self.rng.getrandbits(60) + 1
        self.me = ClientRef(self.name, self.incarnation)
        self.machines: dict[str, Machine[Any]] = load_machines(config.machines, machines or {})
        self._disk = disk or OsDisk()
        self._make_writer = make_writer
        self._make_worker = make_worker
        self._functions: dict[str, Callable[..., Any]] = {}
        self._checked = checked
        self._make_transport = transport or self._tcp_transport
        self._stopped = True
        self._credentials: Credentials | None = None  # None over another transport than TCP
        self._armed_deadline = math.inf  # of the timer for requests
        # The phases of the turn; `_assemble` binds them.
        self._route_requests: Callable[[], None]
        self._append_low_priority: Callable[[], None]
        self._replicate: Callable[[], None]
        self._sync_votes: Callable[[], bool]
        self._deliver_replies: Callable[[], None]
        self._send: Callable[[], None]
        self._write_log: Callable[[], None]

    # --- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover the data directory, listen, and start the servers of this node.

        Raises `ConfigurationError` for settings that cannot work, and `Damaged` for files that must not
        be trusted; nothing is changed in both cases.
        """
        undo = AsyncExitStack()
        try:
            await self._open(undo)
        except BaseException:
            self._stopped = True
            self.turn.stop()
            await undo.aclose()
            raise
        self.turn.wake()

    async def _open(self, undo: AsyncExitStack) -> None:
        """Open one thing after the other; `undo` closes those that are open, if an error ends this."""
        self.driver = TimerDriver(self.clock)
        self.timers = self.driver.timers
        self.turn = Turn(self._turn, self.timers, self.clock)
        undo.callback(self.driver.stop)
        self._assemble(undo)
        self._stopped = False
        self.system.recover()
        await self.transport.start()
        undo.push_async_callback(self.transport.stop)
        self.liveness.start()
        self._tick()
        form_configured_clusters(self.config, self.system, self.rng)

    def _assemble(self, undo: AsyncExitStack) -> None:
        """Put the parts together, from the bottom up: each gets the parts that it uses."""
        config, turn, wake, clock, rng = self.config, self.turn, self.turn.wake, self.clock, self.rng
        peers = tuple(node for node in config.nodes if node != self.name)
        self.servers = ServerTable(wake)
        self.directory = Directory(self._disk, config.data_path, Owner(config.installation, self.name))
        self.transport = self._make_transport(self, self.incarnation, rng)
        self.dispatcher = Dispatcher(self.me, self.servers, self.directory, self.transport, clock, wake)
        self.requests = RequestRouter(
            self.me,
            self.dispatcher,
            turn,
            clock,
            commands_max=config.pending_commands_max,
            bytes_max=config.pending_bytes_max,
        )
        self.dispatcher.attach(self.requests)
        self.rpc = NodeRpc(self.dispatcher.send_to_node, lambda verb, asked: self.admin.handle(verb, asked))
        self.sessions = self.make_sessions(self.requests, self.rpc)
        self.rounds = DeferredRounds(self.timers, clock, wake)
        self._make_processes()
        self.sink = self.make_sink(
            self.me,
            peers,
            self.servers,
            self.dispatcher,
            self.requests,
            self.sessions,
            self.rounds,
            self.transport,
            self.processes,
            self._calls,
            wake,
        )
        self.system = self._open_system(undo)
        self._log_readers = LogReaders(self.name, self.system)
        self.liveness = Liveness(
            self.name,
            peers,
            config.time,
            self.servers,
            self.monitors,
            self.requests,
            self.rpc,
            self.dispatcher,
            self.sink,
            self.transport,
            self.timers,
            clock,
            turn,
            MachineCodes(self.name, self.machines),
            self.system.server_timers.succeed,
        )
        self.reporter = self._make_reporter()
        self.admin = Admin(
            config,
            self.system,
            self.requests,
            InProcessSession(self.sessions),
            self.dispatcher,
            self.sink,
            self.rpc,
            self.reporter,
            self.transport,
            clock,
            rng,
            wake,
        )
        self._waits = self.admin.waits
        self._connect_parts()

    def _make_reporter(self) -> Reporter:
        return Reporter(self.system, self.transport, self.requests, self.liveness, self.clock, self.processes)

    def _make_processes(self) -> None:
        self.monitors = Monitors(self.me)
        tell, speak = self.dispatcher.send_to_node, self.requests.will_deliver
        self.digests = StateDigests(self.servers.member_of, tell)
        self.processes = Processes(self.me, tell, speak, self.monitors, self.clock)
        self.monitors.table = self.sessions.addresses = self.processes
        self._calls = FunctionCalls(self._functions, self._make_worker(self.turn.run_on_loop))

    def _connect_parts(self) -> None:
        """Register the handlers of node messages, and bind the phases of the turn to their parts."""
        self.dispatcher.on(Alive, lambda node, _message: self.liveness.heard_from(node))
        self.dispatcher.on(ClockIs, lambda node, message: self.clock.heard(node, message.wall_ms))
        self.dispatcher.on(MachinesAre, self.liveness.codes.heard)
        self.dispatcher.on(StateDigest, self.digests.heard)
        self.dispatcher.on(NodeCall, self.rpc.on_call)
        self.dispatcher.on(NodeCallReply, self.rpc.on_reply)
        self.dispatcher.on(FrontEvent, self._on_event)
        self.dispatcher.on(ProcessMessage, self.processes.on_message)
        self.dispatcher.on(WatchProcess, self.processes.on_watch)
        self.dispatcher.on(ProcessIs, self.processes.on_process_is)
        self.dispatcher.on(EndHeard, self.processes.on_end_heard)
        self._route_requests = self.requests.flush
        self._append_low_priority = self.rounds.flush_commands
        self._replicate = self.rounds.replicate
        self._sync_votes = self.system.sync_meta
        self._deliver_replies = self.requests.deliver
        self._send = self.transport.flush
        self._write_log = self.system.storage.flush
        self.system.snapshot_made = self.digests.made

    def _open_system(self, undo: AsyncExitStack) -> System:
        config = self.config
        system = System(
            me=self.me,
            disk=self._disk,
            log=config.log,
            snapshots=config.snapshots,
            times=config.time,
            machine_upgrade_strategy=config.machine_upgrade_strategy,
            recovery_strategy=config.server_recovery_strategy,
            settings=config.servers,
            restarts_max=config.server_restarts_max,
            machines=self.machines,
            servers=self.servers,
            directory=self.directory,
            environment=self.sink,
            timers=self.timers,
            clock=self.clock,
            rng=self.rng,
            run_on_loop=self.turn.run_on_loop,
            changed=self.turn.wake,
            monitors=self.monitors,
            checked=self._checked,
            make_writer=self._make_writer,
            make_worker=self._make_worker,
        )
        undo.callback(system.close)
        return system

    def make_sink(self, *collaborators: Any) -> EffectSink:
        """Make the place where effects leave the servers; a simulator looks in here."""
        return EffectSink(*collaborators)

    def make_sessions(self, router: RequestRouter, rpc: NodeRpc) -> ClientSessions:
        """Make the place where clients come in; a simulator looks in here."""
        return ClientSessions(router, rpc)

    def reload_credentials(self) -> bool:
        """Read the files of secrets and certificates again; False if they cannot be used: see the log.

        The node also does so by itself, within a second after one of them has changed.
        """
        return self._credentials is None or self._credentials.reload()

    def server_tls(self) -> ssl.SSLContext:
        """The newest TLS context for a connection that is accepted now, for gateways."""
        assert self._credentials is not None, "a node with [tls]"
        assert self._credentials.server_tls is not None, "a node with [tls]"
        return self._credentials.server_tls

    def _tcp_transport(self, handler: TransportHandler, incarnation: int, rng: random.Random) -> Transport:
        config = self.config
        address = config.nodes[config.name]
        self._credentials = Credentials(config)
        return TcpTransport(
            name=config.name,
            incarnation=incarnation,
            cluster=config.installation,
            credentials=self._credentials,
            bind=config.bind or address,
            advertise=address,
            peers={name: peer for name, peer in config.nodes.items() if name != config.name},
            handler=handler,
            rng=rng,
            knows_node=self._knows_node,
        )

    async def stop(self) -> None:
        """Hand leaderships over, flush, and close. Safe to call twice."""
        if self._stopped:
            return
        await self.admin.hand_over(_STOP_TRANSFER_S)
        await self.sessions.drain()
        self._stopped = True
        self.turn.stop()
        await self.rpc.stop()
        self._turn()
        self.processes.stop(f"node {self.name} has stopped")
        self.sessions.stop(f"node {self.name} has stopped")
        self.driver.stop()
        await self.transport.stop()
        self._calls.close()
        self.system.close()

    async def __aenter__(self) -> "Node":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def open_session(
        self,
        on_event: Callable[[str, Any], None] | None = None,
        on_stopped: Callable[[str], None] | None = None,
    ) -> InProcessSession:
        """Let a program in this process make requests. With `on_event` it hears machines' messages.

        `on_stopped` hears why the session ends, when the node stops. Raises `Stopped` if it does not run.
        """
        if self._stopped:
            raise Stopped(f"node {self.name} does not run")
        return self.sessions.open_in_process(on_event, on_stopped)

    # --- processes that machines speak to, and watch -------------------------------------

    def spawn(self, callback: OnMessage | None = None) -> Process:
        """Make a process, whose `pid` machines may send messages to, and watch (EFF-01, EFF-06).

        `callback(cluster, message)` is called on the loop; without one the messages wait in a mailbox. Raises
        `Stopped` if the node does not run. It ends with `Process.close`, or with the node.
        """
        return self._running_processes().spawn(callback)

    def register(self, name: str, callback: OnMessage | None = None) -> Process:
        """Make a process, likewise, that machines can also reach as `Named(name, node)`.

        Raises `ConfigurationError` if the name is taken, or none, and `Stopped`.
        """
        if not name:
            raise ConfigurationError("register needs a name; spawn makes a process without one")
        return self._running_processes().spawn(callback, name)

    def register_call(self, name: str, function: Callable[..., Any]) -> None:
        """Let machines call this function by the effect `ModCall(name, arguments)` (EFF-03).

        Register before the node starts, on every node: the leader calls. The function runs in a thread with
        all others, so it must not touch what belongs to the loop. Raises `ConfigurationError` if the name is
        taken.
        """
        checked(name, function, self._functions)
        self._functions[name] = function

    def _running_processes(self) -> Processes:
        if self._stopped:
            raise Stopped(f"node {self.name} does not run")
        return self.processes

    # --- logs, read in this process ------------------------------------------------------

    def read_entries(self, cluster: str, indexes: Iterable[int]) -> ReadPlan:
        """Plan to read the user commands at these indexes from the log of the member here (EXT-03, EXT-04).

        Touches no file. Execute the plan in another thread, and close it. Entries above the commit index may
        yet be replaced in the log; the plan has them as they are now. Raises `UnknownCluster` if no
        member is here, and `Stopped`.
        """
        return self._readers().read_entries(cluster, indexes)

    async def log_read(self, cluster: str, indexes: Iterable[int]) -> list[LogEntry]:
        """Read the user commands at these indexes, in this order, from the log of the member here (EXT-05).

        Entries that are not there, and entries of Barque's own, are left out. Raises `UnknownCluster`,
        `Stopped` if the server or the node ends meanwhile, and `StorageError` if a file cannot be read.
        """
        return await self._readers().log_read(cluster, indexes)

    async def log_fold(
        self, cluster: str, function: Callable[[LogEntry, Accumulator], Accumulator], initial: Accumulator
    ) -> Accumulator:
        """Fold over the user commands in the log of the member here, from its snapshot to its end (EXT-05).

        `function` gets an entry and the accumulator, and returns the next one. It is called in another
        thread, for one entry after the other; an exception ends the fold and is raised. The log is folded as
        it is now; entries above the commit index are among them. Raises as `log_read` does.
        """
        return await self._readers().log_fold(cluster, function, initial)

    def register_external_log_reader(self, cluster: str) -> ExternalLogReader:
        """Follow the segments of the member here: an async iterator of `LogUpdate` (EXT-01, API-29).

        Call it on the loop. Close the reader, or use it with `async with`; it also ends with the task that
        has registered it. Raises `UnknownCluster` and `Stopped`.
        """
        return self._readers().register(cluster)

    async def trigger_compaction(self, cluster: str) -> bool:
        """Let the member here compact its segments now (API-27); see `Client.trigger_compaction`."""
        if self._stopped:
            raise Stopped(f"node {self.name} does not run")
        answer = await self.admin.handle("trigger_compaction", {"cluster": cluster})
        return bool(answer["begun"])

    def _readers(self) -> LogReaders:
        if self._stopped:
            raise Stopped(f"node {self.name} does not run")
        return self._log_readers

    # --- the turn ----------------------------------------------------------------------

    def wake(self) -> None:
        """Run a turn when the input of the present one is handled."""
        self.turn.wake()

    def _turn(self) -> None:
        """Run the phases, round after round, until a round makes nothing new (see the module's docstring).

        An empty phase is skipped here, without a call: most rounds have two phases that do anything. What is
        asked for meanwhile belongs to this turn, so no other one is scheduled until its rounds are over.
        """
        requests, rounds, system = self.requests, self.rounds, self.system
        wal = system.storage.wal
        turn = self.turn
        turn.is_scheduled, unfinished, flushed = True, False, False
        if requests.put_off:
            requests.go_on()
        try:
            if rounds.applying:
                rounds.apply()
            for _ in range(_ROUNDS_MAX):
                if requests.dirty or requests.fillers:
                    self._route_requests()
                if rounds.flushing and not flushed:  # once a turn: what arrives now overtakes the rest
                    flushed = True
                    self._append_low_priority()
                if rounds.replicating:
                    self._replicate()
                synced = bool(system.awaiting_sync) and self._sync_votes()  # before anything leaves
                if requests.speaking:
                    self._deliver_replies()
                self._send()  # before our own disk: the followers' disks work at the same time
                wrote = bool(wal.dirty or wal.gaps) and wal.pending
                if wrote:
                    self._write_log()
                if synced or wrote or rounds.replicating or requests.speaking:
                    continue
                if rounds.flushing and not flushed:
                    continue
                if not (requests.dirty or requests.fillers) or not requests.busy:
                    break
            else:
                unfinished = True
        finally:
            turn.is_scheduled = False
        if unfinished or requests.put_off or rounds.flushing or rounds.applying:
            turn.wake()
        if self.servers.finished:
            system.reap_finished()
        if self._waits.waiting:
            self._waits.look()
        for worker in system.storage.beside:
            if worker.busy:
                worker.yield_if_busy()
        if requests.deadlines and requests.deadlines[0][0] < self._armed_deadline:
            self._await_deadline()

    def _await_deadline(self) -> None:
        """Arm a timer for the earliest deadline of a request."""
        deadline = self.requests.next_deadline()
        if deadline is not None and deadline < self._armed_deadline:
            self._armed_deadline = deadline
            self.timers.arm("request deadline", deadline, self._expire)

    def _expire(self) -> None:
        self._armed_deadline = math.inf
        self.requests.expire(self.clock.monotonic())
        self.turn.wake()

    def _tick(self) -> None:
        self.system.tick()
        guard = self.system.storage.guard
        self.dispatcher.disk_full, self.dispatcher.disk_critical = guard.full, guard.critical
        self.dispatcher.removals.tick()
        self.processes.tick()
        self.turn.wake()
        self.timers.arm("tick", self.clock.monotonic() + self.config.time.tick_ms / 1000, self._tick)

    # --- input, from the transport (TransportHandler) ------------------------------------

    def on_envelopes(self, node: str, envelopes: list[Envelope]) -> None:
        """Messages from another node, for its peers here or for the node itself."""
        if envelopes == ALIVE:  # no turn follows: six turns of ten had nothing to do
            self.liveness.heard_from(node)
        else:
            self.dispatcher.receive(node, envelopes)
            if not self.turn.is_scheduled:
                self.turn.wake()

    def on_turn(self) -> None:
        """Input has been handed over."""
        self.turn.wake()

    def on_peer_connected(self, node: str, incarnation: int) -> None:
        """Our link to a node is up."""
        self.liveness.connected(node, incarnation)

    def on_peer_disconnected(self, node: str, reason: str) -> None:
        """Our link to a node is gone."""
        self.system.performer.node_lost(node)
        self.liveness.disconnected(node, reason)

    def on_peer_gone(self, node: str) -> None:
        """The process of a node is gone."""
        self.liveness.gone(node)

    def on_client(self, connection: ClientConnectionHandle) -> ClientSink:
        """A client has authenticated."""
        return self.sessions.open_remote(connection)

    def _knows_node(self, node: str) -> bool:
        """Whether a member of a cluster here lives on this node."""
        return any(member.node == node for process in self.servers.all() for member in process.server.cluster)

    def _on_event(self, _node: str, message: FrontEvent) -> None:
        if message.incarnation == self.incarnation:
            self.sessions.notify(message.cluster, message.message)
