"""Core servers on virtual time: no node, no bytes, no files, and many times faster than `sim.simulator`.

A `CoreWorld` holds a queue of calls, ordered by virtual time. `run` takes the next call, sets `now` to its
time, and performs it; a call may add further calls. All randomness comes from one generator, so a seed
decides the whole run.

The members are those of `cluster`, with its invariants and its `InvariantObserver`. The world adds, in a few
lines each, what a node does for its servers:

- **Timers.** After each turn of a member, `settle` arms the timers that the member has asked for, with the
  spans of production (`runtime.server_timers.timer_spans`).
- **Ticks.** A member ticks while it has unfinished business. Nothing changes in a member to which nothing
  happens, so an idle member has no ticks.
- **Disks.** A sync of the log, and a sync of term and vote, take some time each. Until then the effects
  behind them wait, as in a node.
- **Failure detection.** Each node has the real `FailureDetector`. Every heartbeat interval all nodes beat at
  once; each node polls its detector at moments of its own.
- **Connections.** A message arrives after a latency, perhaps twice, or is lost. A connection without a path
  in both directions for `silence_s` breaks, as TCP's does, and is made again when both directions work. The
  nodes at both ends learn of either, as in production.
- **Removal.** A server that learns that it was removed stops for good. `replace` starts a new server in its
  place, with another uid and no data.

The world causes no faults by itself. `core.simulator` does, by changing `links` and `config` and by calling
`crash`, `freeze`, `disconnect`, `remove` and `replace`.
"""

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import msgspec

from barque.config import TimeConfig
from barque.core.configuration import is_removed
from barque.core.effects import Applied, StartElectionTimeout, StartSnapshotRetry, StopReason, TimerSpan
from barque.core.entries import EntryKind, decode_cluster, kind_of
from barque.core.messages import (
    ApplyRest,
    AwaitConditionTimeout,
    ElectionTimeout,
    Message,
    NodeStatus,
    ReceiveSnapshotTimeout,
    RemoteMessage,
    ServerDown,
    SnapshotRetryTimeout,
    Tick,
)
from barque.core.state import Environment, RaftState, Server
from barque.core.step import has_unfinished_business
from barque.core.terms import ASKS_FOR_VOTES, admits
from barque.errors import InvariantViolation
from barque.machine.machine import Machine
from barque.runtime.failure_detector import FailureDetector
from barque.runtime.server_timers import timer_spans
from barque.testing.checkers.history import Operation, Outcome
from barque.testing.core.cluster import CoreCluster, Member
from barque.testing.core.lists import Lists, SnapshotWishes
from barque.testing.sim.loop import Storm
from barque.types import IndexTerm, Membership, ServerId, Term, Uid

NAMES = "abcdefg"
_TURN_S = 0.0002
"""When a member goes on with a long apply: other messages may come between."""
EVENTS_MAX = 1_000_000
"""A run has some ten thousand events. A run with this many is a storm."""


class WorldConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One world. Times in seconds, rates as shares of 1."""

    nodes: int = 3
    time: TimeConfig = TimeConfig()
    latency_s: tuple[float, float] = (0.0002, 0.002)
    sync_s: tuple[float, float] = (0.0002, 0.002)
    meta_sync_s: tuple[float, float] = (0.0002, 0.002)
    silence_s: float = 2.0
    """A connection without a path in both directions for this long breaks, as TCP's does; 0: never."""
    loss_rate: float = 0.0
    duplicate_rate: float = 0.0
    reorder_rate: float = 0.0
    settings: dict[str, Any] = {}
    snapshots: SnapshotWishes = SnapshotWishes()
    skew_ms: int = 0
    """Each clock is ahead by up to so much, and steps each second."""


class _WorldClock:
    """One member's clock and tokens (`Environment`)."""

    def __init__(self, world: "CoreWorld", name: str) -> None:
        self._world = world
        self._name = name

    def now_ms(self) -> int:
        """The virtual time on this member's clock."""
        world = self._world
        step = (ord(self._name[0]) + 26 * int(world.now)) * 2_654_435_761 >> 8  # another each second
        return 1_000 + int(world.now * 1000) + step % (world.config.skew_ms + 1)

    def token(self) -> int:
        """Return the next number of the world's."""
        return self._world.cluster.environment.token()


class _Cluster(CoreCluster):
    """A cluster whose messages travel through a world."""

    def __init__(
        self, world: "CoreWorld", *names: str, settings: dict[str, Any], machine: Machine[Any]
    ) -> None:
        self.world = world
        super().__init__(*names, machine=machine, settings=settings, hold_meta=True)

    def environment_of(self, name: str) -> Environment:
        """See `CoreCluster`."""
        return _WorldClock(self.world, name)

    def apply_soon(self, member: Member) -> None:
        """See `CoreCluster`. Other messages come between."""
        self.world.apply_soon(member.id.name)

    def send(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> None:
        """See `CoreCluster`."""
        member = self.members[sender.name]
        self.observer.hear(member, to, message)
        self.world.transmit(sender.name, to.name, message, member.log.uid)


class _Machine:
    """What the node of a member holds: its failure detector, its timers, and the syncs under way."""

    def __init__(self, member: Member, poll_s: float) -> None:
        self.member = member
        self.node = member.id.node
        self.detector = FailureDetector(poll_interval_s=poll_s)
        self.boots = 0
        self.held_until = 0.0
        self.gone = False  # the server was removed from the cluster and deleted
        self.incarnations = 1
        self.syncing = self.syncing_meta = False
        self.doubts = 0
        self.ticks_at = 0.0  # when the next tick is due, or would have been due
        self.ticking = False  # the next tick is in the queue
        self.election: StartElectionTimeout | None = None
        self.condition: object = None
        self.receiving: object = None
        self.retries: dict[ServerId, StartSnapshotRetry] = {}


class CoreWorld:
    """A cluster on virtual time. `links` holds the directions that work; change it at any time."""

    def __init__(
        self, config: WorldConfig, rng: random.Random, *, machine: Machine[Any] | None = None
    ) -> None:
        self.config = config
        self.rng = rng
        self._random = rng.random
        self.now = 0.0
        self.events = 0
        self.names = NAMES[: config.nodes]
        self.links = {(x, y) for x in self.names for y in self.names if x != y}
        self.history: list[Operation] = []
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._asked: dict[int, Operation] = {}
        self._connected = {(x, y): True for x in self.names for y in self.names if x < y}
        self._dead_since: dict[tuple[str, str], float] = {}
        self._last_due: dict[tuple[str, str], float] = {}
        self._ended: dict[tuple[tuple[str, str], Uid], float] = {}  # when its last message arrives
        poll_s, self._tick_s = config.time.detector_poll_ms / 1000, config.time.tick_ms / 1000
        lists = machine or Lists(config.snapshots)
        self.cluster = _Cluster(self, *self.names, settings=config.settings, machine=lists)
        for member in self.cluster.members.values():
            member.log.snapshots.chunk_bytes = config.snapshots.chunk_bytes
        self.machines = {m.id.name: _Machine(m, poll_s) for m in self.cluster.members.values()}
        self._pairs = [((x, y), (y, x), self.machines[x], self.machines[y]) for x, y in self._connected]
        self._spans = timer_spans(config.time)
        for name in self.names:
            self._boot(name)
        self.after(config.time.heartbeat_interval_ms / 1000, self._look_at_links)

    # --- time ------------------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Run a call after a delay."""
        self._sequence += 1
        heappush(self._queue, (self.now + seconds, self._sequence, call, args))

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Run a call at a given time. Calls of one time keep their order, which rounding could change."""
        self._sequence += 1
        heappush(self._queue, (when, self._sequence, call, args))

    def _uniform(self, span: tuple[float, float]) -> float:
        """Draw as `random.uniform` does, in half the time."""
        least, most = span
        return least + (most - least) * self._random()

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let this much time pass, or less if `until` becomes true. Returns whether it did."""
        end = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, call, args = heappop(queue)
            self.events += 1
            call(*args)
            if self.events > EVENTS_MAX:
                raise Storm(f"{self.events} events in {self.now:.3f} virtual seconds")
            if until is not None and until():
                return True
        self.now = end
        return False

    # --- a node ----------------------------------------------------------------------------

    def _boot(self, name: str) -> None:
        machine, times = self.machines[name], self.config.time
        machine.boots += 1
        machine.syncing = machine.syncing_meta = False
        machine.doubts = 0
        machine.election = machine.condition = machine.receiving = None
        machine.retries = {}
        machine.held_until = 0.0
        machine.detector = FailureDetector(poll_interval_s=times.detector_poll_ms / 1000)
        for other in self.names:
            if other != name:
                machine.detector.register(f"node_{other}")
        boot = machine.boots
        self.after(self.rng.uniform(0, times.detector_poll_ms / 1000), self._poll, name, boot)
        machine.ticks_at = self.now + self.rng.uniform(0, times.tick_ms / 1000)
        machine.ticking = False
        self.settle(name)

    def _lives(self, name: str, boot: int) -> bool:
        machine = self.machines[name]
        return machine.boots == boot and machine.member.up

    def _await_tick(self, name: str, machine: _Machine) -> None:
        """Queue the next tick. A member ticks only after something has happened to it."""
        machine.ticking = True
        while machine.ticks_at <= self.now:
            machine.ticks_at += self._tick_s
        self._sequence += 1
        heappush(self._queue, (machine.ticks_at, self._sequence, self._tick, (name, machine.boots)))

    def handle(self, name: str, boot: int, message: Message) -> None:
        """Run one turn of a member: hand over a message, then do what its node would do."""
        machine = self.machines[name]
        member = machine.member
        if machine.boots != boot or not member.up:
            return
        if machine.held_until > self.now:
            self.after(machine.held_until - self.now, self.handle, name, boot, message)
            return
        member.take(message)
        self.settle(name)

    def settle(self, name: str) -> None:
        """Arm the timers and begin the syncs that a member has asked for, and read its answers to clients."""
        machine = self.machines[name]
        member = machine.member
        if not machine.ticking:
            self._await_tick(name, machine)
        if not machine.syncing and member.log.unsynced:
            machine.syncing = True
            self.after(self._uniform(self.config.sync_s), self._synced, name, machine.boots)
        if member.unsynced_meta is not None and not machine.syncing_meta:
            machine.syncing_meta = True
            self.after(self._uniform(self.config.meta_sync_s), self._meta_synced, name, machine.boots)
        if member.timer is not machine.election:
            machine.election = member.timer
            if member.timer is not None:
                self.after(self._draw(member.timer.span), self._expire, name, machine.boots, member.timer)
        if member.condition_timer is not machine.condition:
            machine.condition = member.condition_timer
            if member.condition_timer is not None:
                wait_s = member.condition_timer.after_ms / 1000
                self.after(wait_s, self._expire, name, machine.boots, member.condition_timer)
        if member.doubts != machine.doubts:
            machine.doubts = member.doubts
            self.after(self._draw(TimerSpan.LONG), self._stop_doubting, name, machine.boots, member.doubts)
        if member.receive_timer is not machine.receiving:
            machine.receiving = member.receive_timer
            if member.receive_timer is not None:
                wait_s = member.receive_timer.after_ms / 1000
                self.after(wait_s, self._expire, name, machine.boots, member.receive_timer)
        if member.retries:
            self._arm_retries(name, machine)
        if self.cluster.answers:
            self._read_answers()
        if self.cluster.gone:
            told, self.cluster.gone = self.cluster.gone, []
            for gone, uid in told:
                if uid is not None and (name, gone.name) in self.links:
                    self._tell_gone(gone.name, uid)
        if member.stopped is StopReason.REMOVED and not machine.gone:
            self._tell_gone(name, member.log.uid)

    def apply_soon(self, name: str) -> None:
        """Let a member go on applying in its next turn, after a moment."""
        self.after(_TURN_S, self.handle, name, self.machines[name].boots, ApplyRest())

    def _stop_doubting(self, name: str, boot: int, doubt: int) -> None:
        """End a leader's wait for signs of a majority."""
        member = self.cluster.members[name]
        if self._lives(name, boot) and member.doubting and member.doubts == doubt:
            member.expire_quorum()
            self.settle(name)

    def _expire(self, name: str, boot: int, timer: object) -> None:
        member = self.cluster.members[name]
        if not self._lives(name, boot):
            return
        if timer is member.timer:
            member.timer = None
            self.handle(name, boot, ElectionTimeout())
        elif timer is member.condition_timer:
            member.condition_timer = None
            self.handle(name, boot, AwaitConditionTimeout())
        elif timer is member.receive_timer:
            member.receive_timer = None
            self.handle(name, boot, ReceiveSnapshotTimeout())

    def _arm_retries(self, name: str, machine: _Machine) -> None:
        """Arm a timer for each member that is to be sent a snapshot again."""
        for to, retry in machine.member.retries.items():
            if machine.retries.get(to) is not retry:
                machine.retries[to] = retry
                self.after(retry.after_ms / 1000, self._retry, name, machine.boots, retry)

    def _retry(self, name: str, boot: int, retry: StartSnapshotRetry) -> None:
        member = self.cluster.members[name]
        if self._lives(name, boot) and member.retries.get(retry.member) is retry:
            del member.retries[retry.member]
            self.handle(name, boot, SnapshotRetryTimeout(retry.member))

    def _draw(self, span: TimerSpan) -> float:
        """Draw the seconds of a timer, as a node does."""
        most, more = self._spans[span]
        return (self.rng.uniform(1, most) + more) / 1000

    def _synced(self, name: str, boot: int) -> None:
        if self._lives(name, boot):
            self.machines[name].syncing = False
            self.cluster.members[name].sync()
            self.settle(name)

    def _meta_synced(self, name: str, boot: int) -> None:
        if self._lives(name, boot):
            self.machines[name].syncing_meta = False
            self.cluster.members[name].sync_meta()
            self.settle(name)

    def _tick(self, name: str, boot: int) -> None:
        if self._lives(name, boot):
            member, machine = self.cluster.members[name], self.machines[name]
            machine.ticking = False
            member.remember_applied()
            if has_unfinished_business(member.server):
                self._await_tick(name, machine)
                self.handle(name, boot, Tick(int(self.now * 1000)))

    def _poll(self, name: str, boot: int) -> None:
        machine = self.machines[name]
        if not self._lives(name, boot):
            return
        self.after(self.config.time.detector_poll_ms / 1000, self._poll, name, boot)
        if machine.held_until > self.now:
            return
        for node, up in machine.detector.poll(self.now):
            if not up or self._are_connected(name, node.removeprefix("node_")):
                self.handle(name, boot, NodeStatus(node, up))

    # --- the network -----------------------------------------------------------------------

    def _are_connected(self, one: str, other: str) -> bool:
        return one != other and self._connected[(one, other) if one < other else (other, one)]

    def transmit(self, sender: str, to: str, message: RemoteMessage, uid: Uid) -> None:
        """Send a message: it arrives, perhaps twice, or is lost."""
        if sender == to or to not in self.machines or not self._are_connected(sender, to):
            return
        config, random_, link = self.config, self._random, (sender, to)
        if link not in self.links or (config.loss_rate and random_() < config.loss_rate):
            return
        due = self.now + self._uniform(config.latency_s)
        if not (config.reorder_rate and random_() < config.reorder_rate):
            due = self._last_due[link] = max(due, self._last_due.get(link, 0.0))
        boot = self.machines[to].boots
        self.at(due, self._arrive, link, boot, message, uid)
        if config.duplicate_rate and random_() < config.duplicate_rate:
            late = self.rng.choice((0.002, 0.05, 0.5, 3.0)) * random_()
            self.after(due - self.now + late, self._arrive_again, link, boot, message, uid)

    def _arrive_again(self, link: tuple[str, str], boot: int, message: RemoteMessage, uid: Uid) -> None:
        """Deliver a copy, unless the faults have ended: an old request would still cause an election."""
        if self.config.duplicate_rate:
            self._arrive(link, boot, message, uid)

    def _arrive(self, link: tuple[str, str], boot: int, message: RemoteMessage, uid: Uid) -> None:
        name = link[1]
        if link not in self.links or not self._lives(name, boot):
            return
        if self._ended and self.now > self._ended.get((link, uid), self.now):
            return
        server, sender = self.machines[name].member.server, self.machines[link[0]].member.id
        asks = isinstance(message, ASKS_FOR_VOTES)
        if asks and message.term <= server.current_term and is_removed(server, sender, uid):  # type: ignore[union-attr]  # they have one
            self._tell_gone(sender.name, uid)
        elif admits(server, sender, uid, message):
            self.handle(name, boot, message)

    def _look_at_links(self) -> None:
        """Beat once for all nodes, break connections that have been silent for long, and connect again.

        A common beat saves a third of the events. Each node still polls its detector at moments of its own.
        """
        self.after(self.config.time.heartbeat_interval_ms / 1000, self._look_at_links)
        now, links = self.now, self.links
        for pair, reverse, one, other in self._pairs:
            there, back, connected = pair in links, reverse in links, self._connected[pair]
            if connected:
                if there and one.member.up and one.held_until <= now:
                    other.detector.heartbeat(one.node, now)
                if back and other.member.up and other.held_until <= now:
                    one.detector.heartbeat(other.node, now)
            if there and back and one.member.up and other.member.up:
                self._dead_since.pop(pair, None)
                if not connected:
                    self._connect(pair)
            elif connected and self.config.silence_s:
                since = self._dead_since.setdefault(pair, now)
                if now - since >= self.config.silence_s:
                    self.disconnect(*pair)

    def _connect(self, pair: tuple[str, str]) -> None:
        self._connected[pair] = True
        for name, other in (pair, pair[::-1]):
            self.handle(name, self.machines[name].boots, NodeStatus(f"node_{other}", True))

    def disconnect(self, one: str, other: str) -> None:
        """Break the connection of two nodes; both learn of it."""
        self._connected[(one, other) if one < other else (other, one)] = False
        for name, peer in ((one, other), (other, one)):
            self._suspect(name, peer, connected=False)

    def _suspect(self, name: str, peer: str, *, connected: bool) -> None:
        member = self.cluster.members[name]
        leader = member.server.leader_id
        if member.up and leader is not None and leader.name == peer:
            self.handle(name, self.machines[name].boots, ServerDown(leader, connected))

    # --- people, and fate ------------------------------------------------------------------

    def crash(self, name: str, keep: int, down_s: float) -> None:
        """Crash a member, and restart it later. Of what is not durable it keeps the first `keep` writes."""
        member = self.cluster.members[name]
        if not member.up:
            return
        member.crash(keep)
        self.machines[name].boots += 1
        for other in self.names:
            if other != name and self._are_connected(name, other):
                self._connected[(name, other) if name < other else (other, name)] = False
                self._suspect(other, name, connected=False)
        self.after(down_s, self._restart, name)

    def members_of_last(self) -> set[Uid]:
        """Return the uids in the newest committed configuration."""
        for entry, _ in reversed(self.cluster.observer.committed):
            if kind_of(entry.body) is EntryKind.CLUSTER_CHANGE:
                return {record.uid for record in decode_cluster(entry.body) if record.uid is not None}
        return {Uid(f"uid_{name}") for name in self.names}

    def _tell_gone(self, name: str, uid: Uid) -> None:
        if uid in self.members_of_last():
            raise InvariantViolation(f"{uid} is told that it was removed, but it is a member")
        self.after(self.rng.uniform(*self.config.latency_s), self.remove, name, uid)

    def remove(self, name: str, uid: Uid) -> None:
        """Stop a server for good: it learns that it was removed, or an operator deletes it."""
        member, machine = self.cluster.members[name], self.machines[name]
        if machine.held_until > self.now:
            self.after(machine.held_until - self.now, self.remove, name, uid)
        elif member.log.uid == uid and not machine.gone and (member.up or member.stopped is not None):
            machine.gone = True
            machine.boots += 1
            member.crash()
            for other in self.names:
                if other != name:
                    self._say_goodbye((name, other), uid)

    def _say_goodbye(self, link: tuple[str, str], uid: Uid) -> None:
        """Tell a peer that the server has stopped, after its last messages; nothing comes after that."""
        last = self._ended[link, uid] = max(self.now, self._last_due.get(link, 0.0))
        down = ServerDown(self.cluster.members[link[0]].id, connected=True)
        self.at(last, self.handle, link[1], self.machines[link[1]].boots, down)

    def replace(self, name: str, leader: Member) -> None:
        """Start a new server in the place of a removed one, with another uid and no data.

        It is told what is committed now, as the leader's node does.
        """
        member, machine = self.cluster.members[name], self.machines[name]
        assert machine.gone
        machine.gone = False
        machine.incarnations += 1
        member.knows_uids, member.membership = False, Membership.NON_VOTER
        known = leader.server
        term = known.log.fetch_term(known.commit_index)
        member.joined_at = IndexTerm(known.commit_index, term or Term(0))
        member.wipe(f"uid_{name}_{machine.incarnations}")
        self._boot(name)

    def _restart(self, name: str) -> None:
        if not self.cluster.members[name].up and not self.machines[name].gone:
            self.cluster.members[name].start()
            self._boot(name)
            for other in self.names:
                if other != name:
                    self._suspect(other, name, connected=True)

    def freeze(self, name: str, seconds: float) -> None:
        """Freeze a member (SIGSTOP); its input waits."""
        machine = self.machines[name]
        machine.held_until = max(machine.held_until, self.now + seconds)

    def leaders(self) -> list[Member]:
        """Return the members that believe they lead, the newest term first."""
        found = [m for m in self.cluster.members.values() if m.up and m.server.raft_state is RaftState.LEADER]
        return sorted(found, key=lambda m: -m.server.current_term)

    def append(self, name: str, element: str) -> Operation:
        """Append an element as a client, by way of this member."""
        return self._ask(name, element, ["k", element])

    def submit(self, name: str, command: Any) -> Operation:
        """Give this member any command, as a client."""
        return self._ask(name, "", command)

    def read(self, name: str) -> Operation:
        """Ask this member for a linearizable read, as a client."""
        return self._ask(name, None, None)

    def _ask(self, name: str, element: str | None, command: Any) -> Operation:
        operation = Operation("c", "k", self.now, element)
        member, machine = self.cluster.members[name], self.machines[name]
        if not member.up or machine.held_until > self.now:
            operation.outcome = Outcome.FAIL
            return operation
        self.history.append(operation)
        self._asked[self.cluster.correlation] = operation
        if element is None:
            self.cluster.query(name)
        else:
            self.cluster.command(name, command)
        self.settle(name)
        return operation

    def _read_answers(self) -> None:
        answers, self.cluster.answers = self.cluster.answers, []
        for answer in answers:
            if not isinstance(answer, Applied):
                for number in range(answer.first_correlation, answer.first_correlation + answer.count):
                    operation = self._asked.pop(number, None)
                    if operation is not None:
                        operation.outcome = Outcome.FAIL
                continue
            for offset, reply in enumerate(answer.replies):
                operation = self._asked.pop(answer.first_correlation + offset, None)
                if operation is not None:
                    operation.returned, operation.outcome = self.now, Outcome.OK
                    operation.result = reply

    def servers(self) -> list[Server]:
        """Return all core servers."""
        return [member.server for member in self.cluster.members.values()]

    def terms(self) -> list[int]:
        """Return the term of each member."""
        return [server.current_term for server in self.servers()]
