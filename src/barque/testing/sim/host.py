"""One simulated machine. Its disk outlives the node, which starts, runs, is frozen and dies."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from barque.client.local import NodeSubmitter
from barque.config import ClusterConfig, NodeConfig, SnapshotsConfig
from barque.core.state import RaftState, Server
from barque.errors import BarqueError, ConfigurationError, StorageError
from barque.gateways.resp.limits import RespLimits
from barque.gateways.resp.server import RespServer
from barque.log.disk import join
from barque.machine.effects import Timer
from barque.machine.machine import CommandMeta, Down, Machine
from barque.runtime.client_session import ClientSessions
from barque.runtime.clock import Clock
from barque.runtime.effect_sink import EffectSink
from barque.runtime.node import Node
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.testing.checkers.digests import Digests
from barque.testing.checkers.durable_log_view import DurableLogView
from barque.testing.checkers.logs import judge_log
from barque.testing.checkers.members import Departed, check_registry
from barque.testing.checkers.resources import judge_bounds, judge_refusal, judge_rest, judge_stop
from barque.testing.checkers.safety import Violation
from barque.testing.faults.bit_rot import BitRot, change_bytes
from barque.testing.sim.background_worker import SimWorker
from barque.testing.sim.clock import SimClock
from barque.testing.sim.disk import SimDisk
from barque.testing.sim.guests import Guests
from barque.testing.sim.loop import Crashed, VirtualProcess
from barque.testing.sim.network import SimTransport
from barque.testing.sim.process_disk import ProcessDisk
from barque.testing.sim.redis_link import RedisLink
from barque.testing.sim.redis_machine import REDIS, SimKvMachine
from barque.testing.sim.test_machine import KINDS, NewSimMachine, SimMachine, SnapshotPlan, index_of, singly
from barque.testing.sim.thread_writer import sim_writer
from barque.testing.sim.timer_model import TimerModel
from barque.transport.contract import Limits, TransportHandler
from barque.transport.wire import ClockIs, PeerMessage
from barque.types import Index, Named, Pid, ServerId, Uid

if TYPE_CHECKING:
    from barque.testing.faults.directories import LentDisk
    from barque.testing.sim.in_process_clients import InProcessClient
    from barque.testing.sim.simulator import Simulation

DATA = "/data"
_AFTERLIFE_S = 0.05


def _names_a_path(text: str) -> bool:
    """Whether an error names the file or directory that could not be read or written."""
    return f"{DATA}/" in text or f"'{DATA}'" in text


class SimEffectSink(EffectSink):
    """Tells the host what the servers do."""

    def __init__(self, host: "Host", *collaborators: Any) -> None:
        super().__init__(*collaborators)
        self._host = host

    def leadership_changed(self, process: ServerProcess) -> None:
        """See `EffectSink`."""
        super().leadership_changed(process)
        self._host.on_role(process.server)

    def send_event(self, process: ServerProcess, to: Pid | Named, message: Any) -> None:
        """See `EffectSink`."""
        if isinstance(message, int):  # the index of a command; guests judge their own
            self._host.sim.observers.of(process.server).messages.sent(process.server, Index(message))
        super().send_event(process, to, message)

    def server_stopped(self, process: ServerProcess) -> None:
        """See `EffectSink`."""
        super().server_stopped(process)
        if not process.ended:
            self._host.on_failure(process)

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        """See `EffectSink`."""
        super().server_deleted(process, whole_cluster=whole_cluster)
        self._host.on_deleted(process.server, whole_cluster=whole_cluster)


class SimSessions(ClientSessions):
    """Shows the clients in the process what machines have told their node."""

    def __init__(self, host: "Host", router: RequestRouter, rpc: NodeRpc) -> None:
        super().__init__(router, rpc)
        self._host = host

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """See `ClientSessions`."""
        for client in self._host.in_process_clients:
            client.is_told(cluster, msgspec.msgpack.decode(message))
        super().notify(cluster, message)


class SimNode(Node):
    """A `Node` that tells its host what its servers do, and is otherwise unchanged."""

    def __init__(self, host: "Host", *args: Any, **settings: Any) -> None:
        self.host = host
        super().__init__(*args, **settings)

    def make_sink(self, *collaborators: Any) -> EffectSink:
        """See `Node`."""
        return SimEffectSink(self.host, *collaborators)

    def _connect_parts(self) -> None:
        super()._connect_parts()
        self.dispatcher.on(ClockIs, self._hear_clock)

    def _hear_clock(self, node: str, message: ClockIs) -> None:
        observers = self.host.sim.observers
        observers.clocks.heard(self.name, node, observers.now_ms())
        self.clock.heard(node, message.wall_ms)

    def make_sessions(self, router: RequestRouter, rpc: NodeRpc) -> ClientSessions:
        """See `Node`."""
        return SimSessions(self.host, router, rpc)


class Host:
    """One machine of the simulated cluster, and the node on it."""

    def __init__(self, sim: "Simulation", name: str) -> None:
        self.sim = sim
        self.name = name
        self.disk = SimDisk(random.Random(f"{sim.seed}/{name}/disk"))  # noqa: S311
        self.boots = 0
        self.process: VirtualProcess | None = None
        self.node: SimNode | None = None
        self.process_disk: ProcessDisk | None = None
        self.clock: SimClock | None = None
        self.loses_power = False
        self.kept_down = False  # an operator keeps it from starting again
        self.uids: dict[str, Uid] = {}  # by cluster, the uid of its member from the first successful start on
        self.failing: dict[str, None] = {}  # clusters whose machine here raises at its next command
        self.failed: dict[str, None] = {}  # clusters whose machine has raised since the node started
        self.stopping = False
        self.upgraded = False  # whether it has the next version of the machines, from its next start on
        self.in_process_clients: list[InProcessClient] = []  # clients in its process
        self.gateways: dict[str, RespServer] = {}  # by cluster, while the node runs
        self._redis_links: list[RedisLink] = []
        self.bit_rot: BitRot | None = None  # what was changed on its disk while it was down
        self.latent_rot: BitRot | None = None  # the same, and a start has not found it
        self.lent: LentDisk | None = None  # another node's disk, in the place of its own
        self._newest: SimNode | None = None  # the node, also while it starts
        self._graveyard: list[Any] = []  # kept: their clean-up would run at a random moment

    @property
    def up(self) -> bool:
        """Whether its node runs."""
        return self.node is not None

    def server(self, cluster: str) -> Server | None:
        """Its member of a cluster, if it runs."""
        process = self.node.system.processes.get(cluster) if self.node is not None else None
        return process.server if process is not None and process.failure is None else None

    def doubts(self, cluster: str) -> dict[str, Index]:
        """The nodes whose state its member of a cluster finds different from its own."""
        process = self.node.system.processes.get(cluster) if self.node is not None else None
        return process.digests.differing if process is not None else {}

    def leads(self) -> bool:
        """Whether one of its members leads its cluster."""
        processes = self.node.system.processes.values() if self.node is not None else ()
        return any(p.failure is None and p.server.raft_state is RaftState.LEADER for p in processes)

    def start(self) -> None:
        """Boot a new process from what is on the disk."""
        if (self.process is not None and self.process.alive) or self.sim.absent is self or self.kept_down:
            return
        self.boots += 1
        self.failing, self.failed = {}, {}
        self.stopping = False
        sim, rng = self.sim, random.Random(f"{self.sim.seed}/{self.name}/{self.boots}")  # noqa: S311
        process = self.process = VirtualProcess(sim.loop, self.name)
        process.on_crash = self.crashed
        disk = self.process_disk = ProcessDisk(self.disk, process, rng)
        disk.sync_seconds = sim.scenario.sync_s
        self.clock = SimClock(sim.loop, process, rng)
        sim.observers.clocks.started(self.name, sim.observers.now_ms())
        node = self._newest = self._make_node(process, disk, self.clock, rng)
        sim.transcript.note(self.name, f"start {self.boots}")
        process.spawn(self._boot(node, process))

    def _make_node(
        self, process: VirtualProcess, disk: ProcessDisk, clock: Clock, rng: random.Random
    ) -> SimNode:
        sim, scenario = self.sim, self.sim.scenario
        names = sim.names
        config = NodeConfig(
            name=self.name,
            data_dir=DATA,
            nodes={name: name for name in names},
            secret="simulated",  # noqa: S106  # there is nobody to keep it from
            clusters=tuple(ClusterConfig(c, c, tuple(names)) for c in scenario.configured_names),
            time=scenario.time,
            log=scenario.log,
            snapshots=scenario.snapshots,
            machine_upgrade_strategy=scenario.upgrade_strategy,
            pending_commands_max=scenario.pending_commands,
            pending_bytes_max=scenario.pending_bytes,
        )
        machines: Mapping[str, Machine[Any]] = {
            cluster: self._make_machine(cluster, kind) for cluster, kind in scenario.kinds
        }
        if random.Random(f"{sim.seed}/{self.name}/{self.boots}/singly").random() < 0.5:  # noqa: S311
            machines = {cluster: singly(machine) for cluster, machine in machines.items()}
        return SimNode(
            self,
            config,
            machines,
            disk=disk,
            clock=clock,
            rng=rng,
            transport=self._transport,
            make_writer=partial(sim_writer, process, disk),
            make_worker=partial(SimWorker, process, disk),
            checked=True,
        )

    def _make_machine(self, cluster: str, kind: str) -> Machine[Any]:
        scenario, applied = self.sim.scenario, partial(self._applied, cluster)
        if kind == REDIS:
            return SimKvMachine(applied, scenario.snapshot_every)
        timer_model = TimerModel(partial(self._asks, cluster), partial(self._fired, cluster))
        plan = SnapshotPlan(
            self.sim.digests.setdefault(cluster, Digests(index_of)),
            scenario.snapshot_every,
            scenario.checkpoint_every,
            scenario.live_every,
        )
        machine = NewSimMachine if self.upgraded else SimMachine
        return machine(
            KINDS[kind],
            applied,
            tells=scenario.tells,
            timer_model=timer_model if scenario.timers else None,
            snapshots=plan if scenario.snapshots != SnapshotsConfig() else None,
            ended=partial(self._ended, cluster),
        )

    def _transport(self, handler: TransportHandler, incarnation: int, rng: random.Random) -> SimTransport:
        assert self.process is not None
        peers = {name: name for name in self.sim.names if name != self.name}
        transport = SimTransport(
            self.sim.network,
            self.process,
            name=self.name,
            incarnation=incarnation,
            peers=peers,
            handler=handler,
            limits=Limits(peer_output_max=self.sim.scenario.peer_bytes),
        )
        transport.on_send = self._sends
        return transport

    async def _boot(self, node: SimNode, process: VirtualProcess) -> None:
        try:
            await node.start()
        except Crashed:
            return  # `crashed` was called already
        except (StorageError, ConfigurationError) as error:
            self._refused(error)
            self.crashed()
            return
        if self.lent is not None:
            self._judge_lent(self.lent, None)
        self.node = node
        self._open_gateways(node)
        for client in self.in_process_clients:
            client.begin(process, node)
        if self.sim.scenario.guests:
            clusters = [cluster for cluster, kind in self.sim.scenario.kinds if kind != REDIS]
            Guests(self, clusters).begin(process, node)
        self.check_registry(finished=False)
        bit_rot, self.bit_rot = self.bit_rot, None
        if bit_rot is not None:
            self.sim.observers.durability.hold(self.name, held=False)
            self.latent_rot = bit_rot if bit_rot.latent else None
        with self.looked_at():
            members = list(node.system.processes.values())
            for server in [member.server for member in members if member.failure is None]:
                violation = bit_rot.judge_start(server.cfg.uid, server.log) if bit_rot is not None else None
                if violation is not None:
                    self.sim.report(violation)
                self.sim.observers.of(server).restarted(server)
                self.on_role(server)

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[None]:
        """Let the simulator read the node's files through the node: no fault happens meanwhile."""
        disk, beside = self.disk, self.process_disk
        fault, disk.fault = disk.fault, None
        crash_in = beside.crash_in if beside is not None else None
        if beside is not None:
            beside.crash_in = None
        try:
            yield
        finally:
            disk.fault = fault
            if beside is not None:
                beside.crash_in = crash_in

    def _open_gateways(self, node: SimNode) -> None:
        """Serve Redis clients, as a node does that has started."""
        for cluster, kind in self.sim.scenario.kinds:
            if kind == REDIS:
                limits = RespLimits(command_timeout_ms=int(self.sim.scenario.timeout_s * 800))
                gateway = RespServer(
                    NodeSubmitter(node),
                    cluster,
                    limits=limits,
                    clock=self.clock,
                    rng=random.Random(0),  # noqa: S311
                )
                gateway.attach(self.sim.loop)
                self.gateways[cluster] = gateway

    def connect_redis(self, cluster: str, rng: random.Random) -> RedisLink:
        """Connect a Redis client to the gateway of a cluster, which must be there."""
        assert self.process is not None
        link = RedisLink(self.sim.loop, self.process, self.gateways[cluster], rng)
        self._redis_links = [one for one in self._redis_links if not one.lost] + [link]
        return link

    def _judge_lent(self, lent: "LentDisk", error: BarqueError | None) -> None:
        violation = lent.judge(self.name, error)
        self.sim.transcript.counts["directories refused"] += error is not None
        if violation is not None:
            self.sim.report(violation)

    def take_back(self) -> None:
        """Put its own disk back into its place, if it has another one."""
        lent, self.lent = self.lent, None
        if lent is not None:
            self.crash(power=False)  # it may be about to refuse
            lent.give_back(self)

    def _refused(self, error: StorageError | ConfigurationError) -> None:
        """Judge a node that does not start: another disk, one that fails for a while, or rotten bits."""
        self.sim.transcript.note(self.name, f"cannot start: {error}")
        if self.lent is not None:
            self._judge_lent(self.lent, error)
            return
        bit_rot, self.bit_rot, self.latent_rot = self.bit_rot or self.latent_rot, None, None
        violation: Violation | None = None
        if bit_rot is not None and type(error) is not StorageError:
            violation = bit_rot.judge_refusal(error)
            self.sim.transcript.counts["bit rot refused"] += 1
        elif type(error) is StorageError and not _names_a_path(str(error)):
            violation = Violation("refusals name a file", f"{self.name} does not start", (str(error),))
        elif type(error) is not StorageError:
            violation = Violation("no damage without bit rot", f"{self.name} refuses", (str(error),))
        if bit_rot is not None:
            with self.looked_at():
                bit_rot.mend()
            self.sim.observers.durability.hold(self.name, held=False)
        violation = violation or judge_refusal(self.name, self.disk)
        if violation is not None:
            self.sim.report(violation)

    def rot_bits(self) -> bool:
        """Change bytes on the disk while the node is down. Returns whether anything was changed."""
        if self.up or not self.uids or self.bit_rot or self.lent or self.disk.has_unsynced:
            return False
        self.mend_rot()
        durability = self.sim.observers.durability
        durability.hold(self.name, held=True)
        view = DurableLogView(self.disk, DATA)
        with self.looked_at():
            self.bit_rot = change_bytes(self.disk, DATA, list(self.uids.values()), view, self.sim.chance)
        if self.bit_rot is None:
            durability.hold(self.name, held=False)
        return self.bit_rot is not None

    def mend_rot(self) -> None:
        """Restore what no start has found, as an operator does."""
        rot, self.latent_rot = self.latent_rot, None
        if rot is not None:
            with self.looked_at():
                rot.mend()

    def _repair(self, rot: BitRot) -> None:
        """A server has stopped, and has named the rotten file: restore it, and start the node again."""
        self.crash(power=False)
        if self.bit_rot is rot:
            self.bit_rot = None
            self.sim.observers.durability.hold(self.name, held=False)
        self.latent_rot = rot
        self.mend_rot()

    def _shrink(self, server: Server) -> None:
        """Make batches as small as the scenario wants; a node has no setting for this."""
        scenario = self.sim.scenario
        server.cfg = msgspec.structs.replace(
            server.cfg,
            max_pipeline_count=scenario.pipeline_entries,
            max_append_entries_rpc_batch_size=scenario.rpc_entries,
            max_append_entries_rpc_bytes=scenario.rpc_bytes,
            low_priority_commands_flush_size=scenario.flush_size,
            apply_entries_max=scenario.apply_entries,
        )

    # --- ends --------------------------------------------------------------------------

    def stop(self) -> bool:
        """Ask the node to stop, as an operator would. Returns whether there was a node to ask."""
        node, process = self.node, self.process
        if node is None or process is None or self.stopping:
            return False
        self.stopping = True

        async def close() -> None:
            try:
                for client in self.in_process_clients:
                    await client.before_stop()
                for gateway in self.gateways.values():
                    await gateway.stop()
                await node.stop()
            except StorageError as error:
                self.sim.transcript.note(self.name, f"stops badly: {error}")
            except Crashed:
                return  # `crashed` was called already
            self.node = None
            self.gateways = {}
            for client in self.in_process_clients:
                client.after_stop()
            # A program may go on after its node has stopped; what arrives now must do no harm.
            self.sim.loop.later(_AFTERLIFE_S, self._exit, process)

        process.spawn(close())
        return True

    def _exit(self, process: VirtualProcess) -> None:
        """End the process by itself; it must have cleaned up."""
        free_at = process.held_until + _AFTERLIFE_S
        has_programs = bool(self.in_process_clients) or self.sim.scenario.guests
        if process.alive and has_programs and free_at > self.sim.loop.now:
            self.sim.loop.at(free_at, self._exit, process)  # it stood still when it was to clean up
        elif process.alive:
            violation = judge_stop(self.name, self.disk, process)
            if violation is not None:
                self.sim.report(violation)
            self.sim.transcript.counts["stopped"] += 1
            self.crashed()

    def crash(self, *, power: bool) -> None:
        """Kill the process; with `power` the machine loses everything unsynced."""
        if self.process is not None and self.process.alive:
            self.loses_power = power
            self.crashed()

    def crashed(self) -> None:
        """Note that the process has died, for any reason; it starts again after a while."""
        process, sim = self.process, self.sim
        assert process is not None
        if not process.alive:
            return
        process.kill()
        self.gateways = {}
        for link in self._redis_links:
            link.lose()
        self._redis_links = []
        power, self.loses_power = self.loses_power, False
        sim.transcript.note(self.name, "loses power" if power else "dies")
        if power:
            self.disk.crash()
        else:
            self.disk.kill()
        sim.network.gone(self.name, silent=power and sim.chance.random() < 0.5)
        self._graveyard.append((process, self.node))
        self.node = None
        sim.after_crash(self)

    # --- for the observers -----------------------------------------------------------------

    def on_role(self, server: Server) -> None:
        """Tell the observer that a member has changed its state, or its leader."""
        sim, cluster = self.sim, server.cfg.cluster_name
        text = f"{server.raft_state} in term {server.current_term}, follows {server.leader_id}"
        sim.transcript.note(str(server.id), text)
        self._shrink(server)
        self.uids[cluster] = server.cfg.uid
        sim.observers.of(server).role(server)

    def on_deleted(self, server: Server, *, whole_cluster: bool) -> None:
        """Tell the observer that a server was deleted; for good, once its tombstone is on the disk."""
        cluster, uid = server.cfg.cluster_name, server.cfg.uid
        what = "with its cluster" if whole_cluster else "alone"
        self.sim.transcript.note(str(server.id), f"{uid} is deleted, {what}")
        if self.uids.get(cluster) == uid:
            del self.uids[cluster]
        assert self._newest is not None
        if uid in self._newest.system.directory.buried():
            departed = Departed(self.name, uid, server.cfg.cluster_id, whole_cluster)
            self.sim.observers.departures.left(departed)

    def check_registry(self, *, finished: bool) -> None:
        """Check I24 while the node runs."""
        if self.node is not None:
            root = join(DATA, "servers")
            names = self.disk.listdir(root) if self.disk.exists(root) else []
            folders = [name for name in names if self.disk.exists(join(root, f"{name}/config"))]
            violation = check_registry(self.node, folders, finished=finished)
            if violation is not None:
                self.sim.report(violation)

    def check_bounds(self) -> None:
        """Check I20 and I27 at any time while the node runs."""
        if self.node is not None:
            servers = [process.server for process in self.node.system.servers.by_name.values()]
            if self.latent_rot is not None:
                servers = []  # their logs cannot be read through
            for violation in (judge_bounds(self.node, self.disk), *map(judge_log, servers)):
                if violation is not None:
                    self.sim.report(violation)

    def check_rest(self) -> None:
        """Check I27 at the end, while the node runs."""
        connected = self.sim.network.clients_of(self.name) + sum(
            i.is_connected for i in self.in_process_clients
        )
        found = [judge_rest(self.node, connected)] if self.node is not None else []
        for violation in (*found, *(client.judge_heard() for client in self.in_process_clients)):
            if violation is not None:
                self.sim.report(violation)

    def on_failure(self, process: ServerProcess) -> None:
        """Judge a server that has stopped: only its own machine, or its disk, may have caused it.

        A node whose disk could not be read is started again, as an operator would do.
        """
        server = process.server
        if server.cfg.cluster_name in self.failed:
            return
        if self.disk.fault is not None and str(process.failure).startswith(("StorageError: ", "OSError: ")):
            self.sim.transcript.counts["servers stopped by their disk"] += 1
            self.sim.loop.later(0.0, partial(self.crash, power=False))
            return
        rot = self.bit_rot or self.latent_rot
        if rot is not None and rot.explains(str(process.failure)):
            self.sim.transcript.counts["servers stopped by bit rot"] += 1
            self.sim.loop.later(0.0, partial(self._repair, rot))
            return
        name = "isolation (I31)" if self.failed else "no server fails"
        states = (str(process.failure), f"machines that raised on this node: {list(self.failed)}")
        self.sim.report(Violation(name, f"{server.id} stopped", states))

    def _sends(self, node: str, to: str, message: PeerMessage) -> None:
        if not to or self.process is None:
            return
        server = self.server(to)
        self.sim.nemesis.sent(self, message)
        if server is not None:
            self.sim.observers.of(server).sent(server, ServerId(to, node), message)

    def _applied(self, cluster: str, meta: CommandMeta, command: str) -> None:
        if self.failing and cluster in self.failing:
            del self.failing[cluster]
            self.failed[cluster] = None
            self.sim.nemesis.count("machine_fails", f"{cluster}@{self.name}")
            raise RuntimeError("this machine fails on this node, once")
        server = self._member(cluster)
        self.sim.observers.of(server).applied(server, self.sim.uid_of, meta, command)

    def _asks(self, cluster: str, timer: Timer) -> None:
        server = self._member(cluster)
        assert self._newest is not None
        if server.raft_state is RaftState.LEADER:
            self.sim.transcript.note(str(server.id), f"asks for {timer}")
        self.sim.observers.of(server).timeouts.asks(server, timer, self._newest.clock)

    def _fired(self, cluster: str, meta: CommandMeta, name: str) -> None:
        server = self._member(cluster)
        assert self.clock is not None
        self.sim.observers.of(server).timeouts.fired(server, meta, name, self.clock.monotonic())

    def _ended(self, cluster: str, meta: CommandMeta, down: Down) -> None:
        self.sim.observers.of(self._member(cluster)).ends[meta.index] = None
        self.sim.guest_book.told(down.pid, down.reason)

    def _member(self, cluster: str) -> Server:
        """Its member, even while it still starts."""
        assert self._newest is not None
        return self._newest.system.processes[cluster].server
