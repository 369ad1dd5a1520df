"""Performs the effects of servers: the same code for production, and for worlds of core servers.

`Performer.perform` takes the effects of one step and performs them in their order, which is the durability
contract (docs/explanation/ordering.md): after a `PersistTermAndVote` it stops, and the server holds the rest
until that record is on disk. What lies outside a server comes in from outside: a `PerformerEnvironment`
(messages, answers, the rest of the turn), the store of terms and votes, timers, a clock, random numbers.
A node hands in its own, a test world others.
"""

import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from barque.config import TimeConfig
from barque.core.applying import take_callback_effects
from barque.core.aux_machine import cast_aux, has_aux, log_read, run_aux
from barque.core.effects import (
    Applied,
    AuxEval,
    CancelElectionTimeout,
    CancelSnapshotRetry,
    Defer,
    Effect,
    LeaderEstablished,
    MembersGone,
    NextEvent,
    PersistTermAndVote,
    Rejected,
    SendRpc,
    SendSnapshot,
    SendVoteRequests,
    SnapshotAcked,
    StartConditionTimeout,
    StartElectionTimeout,
    StartQuorumTimeout,
    StartReceiveTimeout,
    StartSnapshotRetry,
    StopReason,
    StopServer,
    TimerSpan,
    Unresolved,
)
from barque.core.messages import (
    AwaitConditionTimeout,
    Component,
    ElectionTimeout,
    MachineAppend,
    MachineTimeout,
    Message,
    PipelineRpcs,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    RemoteMessage,
    SenderOutcome,
    SnapshotRetryTimeout,
    SnapshotSenderDown,
)
from barque.core.snapshots import SnapshotSender, make_checkpoint, update_release_cursor
from barque.core.state import RaftState, Server
from barque.errors import InvariantViolation
from barque.machine.effects import (
    Append,
    Aux,
    Checkpoint,
    DemonitorClient,
    DemonitorNode,
    MonitorClient,
    MonitorNode,
    ReadLog,
    ReleaseCursor,
    SendMsg,
    Timer,
)
from barque.machine.machine import AuxKind
from barque.runtime.clock import Clock
from barque.runtime.monitors import Monitors
from barque.runtime.server_process import ServerProcess
from barque.types import ClientRef, ServerId, Term, Uid

logger = logging.getLogger("barque.server")


class PerformerEnvironment(Protocol):
    """What lies around the servers: where their messages, answers and news go."""

    def wake(self) -> None:
        """End the turn that a timer has begun, so that what its server has queued leaves."""

    def send(self, to: ServerId, message: RemoteMessage, process: ServerProcess) -> bool:
        """Queue a message of this server for another, here or elsewhere; False if it was dropped."""

    def answer(self, applied: Applied) -> None:
        """Pass replies on to the router that waits for them."""

    def reject(self, rejected: Rejected) -> None:
        """Pass a refusal on to the router that waits."""

    def unresolved(self, effect: Unresolved) -> None:
        """Tell the router that waits that the outcome of these commands is unknown."""

    def send_event(self, process: ServerProcess, to: ClientRef, message: Any) -> None:
        """Pass a machine's message on to a node's clients."""

    def leadership_changed(self, process: ServerProcess) -> None:
        """This member's state, or the leader that it follows, has changed."""

    def leader_established(self, process: ServerProcess) -> None:
        """This leader has applied its noop."""

    def replicate_soon(self, process: ServerProcess) -> None:
        """Hand this server a `PipelineRpcs` before the turn ends."""

    def flush_commands_soon(self, process: ServerProcess) -> None:
        """Hand this server a `FlushCommands` when all input of this turn is handled (CMD-06)."""

    def server_stopped(self, process: ServerProcess) -> None:
        """This server has failed, or ended."""

    def server_ended(self, process: ServerProcess, reason: StopReason) -> None:
        """This server has come to its end by itself."""

    def members_gone(self, process: ServerProcess, effect: MembersGone) -> None:
        """Tell the nodes of former members that they may forget them."""

    def node_is_up(self, node: str) -> bool:
        """Whether that node is within reach; our own always is."""

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        """This server is gone for good: with it all of its cluster, or only this member."""


class TermAndVoteStore(Protocol):
    """Keeps terms and votes; they are durable once somebody has synced it."""

    def store(self, uid: Uid, current_term: Term, voted_for: ServerId | None) -> None:
        """Remember both for this server, as one record."""


class TimerTable(Protocol):
    """One-shot timers by key."""

    def arm(self, key: tuple[ServerProcess, str], deadline: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, at `deadline`; a timer of the same key is replaced."""

    def cancel(self, key: tuple[ServerProcess, str]) -> bool:
        """Disarm; whether a timer of this key was armed."""

    def __contains__(self, key: tuple[ServerProcess, str]) -> bool: ...


class Performer:
    """Performs the effects of many servers in one environment."""

    def __init__(
        self,
        environment: PerformerEnvironment,
        meta: TermAndVoteStore,
        timers: TimerTable,
        monitors: Monitors,
        clock: Clock,
        rng: random.Random,
        times: TimeConfig,
    ) -> None:
        self.monitors = monitors
        self.awaiting_sync: dict[ServerProcess, None] = {}
        """The servers whose effects wait for the next sync of the meta store."""
        self._environment = environment
        self._meta = meta
        self._timers = timers
        self._clock = clock
        self._rng = rng
        self._spans = timer_spans(times)
        self._machine_timers: dict[ServerProcess, set[str]] = {}
        self._snapshot_senders: dict[ServerProcess, dict[ServerId, SnapshotSender]] = {}
        self._snapshot_retries: dict[ServerProcess, dict[ServerId, None]] = {}
        # One look-up and one call for each effect. A test compares the keys with the unions of effects.
        self._handlers: dict[type, Callable[[ServerProcess, Any], None]] = {
            SendRpc: self._send_rpc,
            NextEvent: self._next_event,
            Defer: self._defer,
            Applied: self._answer,
            Rejected: self._reject,
            CancelElectionTimeout: self._cancel_election_timer,
            PersistTermAndVote: self._persist,
            SendVoteRequests: self._send_vote_requests,
            StartElectionTimeout: self._start_election_timer,
            StartConditionTimeout: self._start_condition_timer,
            LeaderEstablished: self._leader_established,
            AuxEval: self._aux_eval,
            Unresolved: self._unresolved,
            StartQuorumTimeout: self._start_quorum_timer,
            StartReceiveTimeout: self._start_receive_timer,
            StopServer: self._stop_server,
            MembersGone: self._members_gone,
            SendSnapshot: self._send_snapshot,
            SnapshotAcked: self._snapshot_acked,
            StartSnapshotRetry: self._start_snapshot_retry,
            CancelSnapshotRetry: self._cancel_snapshot_retry,
            Aux: self._aux,
            ReleaseCursor: self._release_cursor,
            Checkpoint: self._checkpoint,
            DemonitorClient: self.monitors.unwatch,
            DemonitorNode: self.monitors.unwatch,
            MonitorClient: self._monitor,
            MonitorNode: self._monitor,
            ReadLog: self._read_log,
            Timer: self._perform_as_leader,
            SendMsg: self._perform_as_leader,
            Append: self._perform_as_leader,
        }

    def perform(self, process: ServerProcess, effects: list[Effect]) -> None:
        """Perform these effects in their order; what stands behind an unsynced term or vote is held."""
        held = process.held
        if held is not None:
            held.extend(effects)
            return
        handlers = self._handlers
        for position, effect in enumerate(effects):
            handlers[type(effect)](process, effect)
            if process.held is not None:
                process.held.extend(effects[position + 1 :])
                return

    # --- the core's effects ------------------------------------------------------------

    def _send_rpc(self, process: ServerProcess, effect: SendRpc) -> None:
        counters = process.counters
        counters.rpcs_sent += 1
        counters.msgs_sent += 1
        if not self._environment.send(effect.to, effect.message, process):
            counters.dropped_sends += 1

    def _send_vote_requests(self, process: ServerProcess, effect: SendVoteRequests) -> None:
        for to, rpc in effect.requests:
            process.counters.msgs_sent += 1
            self._environment.send(to, rpc, process)

    def _next_event(self, process: ServerProcess, effect: NextEvent) -> None:
        process.enqueue(effect.message)

    def _defer(self, process: ServerProcess, effect: Defer) -> None:
        if type(effect.message) is PipelineRpcs:
            # Once a turn is enough, and then a commit index travels with the next entries (REPL-07).
            self._environment.replicate_soon(process)
        else:
            self._environment.flush_commands_soon(process)

    def _answer(self, _process: ServerProcess, effect: Applied) -> None:
        self._environment.answer(effect)

    def _reject(self, _process: ServerProcess, effect: Rejected) -> None:
        self._environment.reject(effect)

    def _unresolved(self, _process: ServerProcess, effect: Unresolved) -> None:
        self._environment.unresolved(effect)

    def _persist(self, process: ServerProcess, effect: PersistTermAndVote) -> None:
        process.counters.term_and_voted_for_updates += 1
        self._meta.store(process.uid, effect.term, effect.voted_for)
        process.defer_until_synced()
        self.awaiting_sync[process] = None
        self._environment.wake()

    def _leader_established(self, process: ServerProcess, _effect: LeaderEstablished) -> None:
        self._environment.leader_established(process)

    def _stop_server(self, process: ServerProcess, effect: StopServer) -> None:
        self._environment.server_ended(process, effect.reason)

    def _members_gone(self, process: ServerProcess, effect: MembersGone) -> None:
        self._environment.members_gone(process, effect)

    # --- snapshots ---------------------------------------------------------------------

    def _send_snapshot(self, process: ServerProcess, effect: SendSnapshot) -> None:
        """Begin to send a snapshot, from the store behind the server's log (SEND-01)."""
        server = process.server
        if server.log.snapshots is None:
            raise InvariantViolation(f"{server.id}: asked to send a snapshot, and its log keeps none")
        sender = SnapshotSender(server.id, effect.term, effect.meta, server.log.snapshots)
        self._snapshot_senders.setdefault(process, {})[effect.to] = sender
        process.counters.snapshots_sent += 1
        self._environment.send(effect.to, sender.first(), process)

    def _snapshot_acked(self, process: ServerProcess, effect: SnapshotAcked) -> None:
        sender = self._snapshot_senders.get(process, {}).get(effect.member)
        if sender is None or not sender.is_current():  # SEND-06
            process.enqueue(SnapshotSenderDown(effect.member, SenderOutcome.FAILED))
            return
        chunk = sender.after(effect.chunk)
        if chunk is not None:
            self._environment.send(effect.member, chunk, process)

    def _start_snapshot_retry(self, process: ServerProcess, effect: StartSnapshotRetry) -> None:
        self._snapshot_retries.setdefault(process, {})[effect.member] = None
        retry = SnapshotRetryTimeout(effect.member)
        self._arm(process, f"snapshot {effect.member}", effect.after_ms / 1000, retry)

    def _cancel_snapshot_retry(self, process: ServerProcess, effect: CancelSnapshotRetry) -> None:
        self._snapshot_retries.get(process, {}).pop(effect.member, None)
        self._timers.cancel((process, f"snapshot {effect.member}"))

    # --- the machine's effects: which of them only a leader performs (EFF-01 to EFF-18) --

    def _aux(self, process: ServerProcess, effect: Aux) -> None:
        if has_aux(process.server):
            self.perform(process, run_aux(process.server, AuxKind.CAST, effect.command)[1])

    def _aux_eval(self, process: ServerProcess, _effect: AuxEval) -> None:
        wanted = cast_aux(process.server, "eval")
        if wanted:
            self.perform(process, wanted)

    def _release_cursor(self, process: ServerProcess, effect: ReleaseCursor) -> None:
        process.counters.release_cursors += 1
        update_release_cursor(process.server, effect)

    def _checkpoint(self, process: ServerProcess, effect: Checkpoint) -> None:
        make_checkpoint(process.server, effect)

    def _monitor(self, process: ServerProcess, effect: MonitorClient | MonitorNode) -> None:
        if not effect.aux and process.server.raft_state is not RaftState.LEADER:
            return
        if isinstance(effect, MonitorNode):
            up = self._environment.node_is_up(effect.node)
            self.monitors.watch_node(process, effect, up=up)
        else:
            node_up = self._environment.node_is_up(effect.client.node)
            self.monitors.watch_client(process, effect, node_up=node_up)

    def _read_log(self, process: ServerProcess, effect: ReadLog) -> None:
        if _reads_here(process, effect):
            wanted = effect.then(log_read(process.server, effect.indexes))
            self.perform(process, take_callback_effects(wanted))

    def _perform_as_leader(self, process: ServerProcess, effect: Timer | SendMsg | Append) -> None:
        if process.server.raft_state is RaftState.LEADER:
            self._perform_leaders(process, effect)

    def _perform_leaders(self, process: ServerProcess, effect: Timer | SendMsg | Append) -> None:
        match effect:
            case Timer():
                self._set_machine_timer(process, effect)
            case SendMsg():
                process.counters.send_msg_effects_sent += 1
                process.counters.msgs_sent += 1
                self._environment.send_event(process, effect.to, effect.message)
            case Append():
                process.enqueue(MachineAppend(msgspec.msgpack.encode(effect.command)))

    def _set_machine_timer(self, process: ServerProcess, timer: Timer) -> None:
        key, mine = (process, f"machine {timer.name}"), self._machine_timers.setdefault(process, set())
        if timer.at_ms is not None:
            after_ms = max(0, timer.at_ms - self._clock.wall_ms())
        elif timer.after_ms is not None:
            after_ms = max(0, timer.after_ms)
        else:
            self._timers.cancel(key)
            mine.discard(timer.name)
            return
        mine.add(timer.name)
        self._arm(process, key[1], after_ms / 1000, MachineTimeout(timer.name))

    # --- timers ------------------------------------------------------------------------

    def _start_election_timer(self, process: ServerProcess, effect: StartElectionTimeout) -> None:
        """Arm the election timer, unless it is armed already (ELEC-17, semantics §10.2)."""
        if (process, "election") not in self._timers:
            self._arm(process, "election", self._draw(effect.span), ElectionTimeout())

    def _cancel_election_timer(self, process: ServerProcess, _effect: CancelElectionTimeout) -> None:
        self._timers.cancel((process, "election"))

    def _start_condition_timer(self, process: ServerProcess, effect: StartConditionTimeout) -> None:
        self._arm(process, "condition", effect.after_ms / 1000, AwaitConditionTimeout())

    def _start_quorum_timer(self, process: ServerProcess, _effect: StartQuorumTimeout) -> None:
        self._arm(process, "quorum", self._draw(TimerSpan.LONG), QuorumTimeout())

    def _start_receive_timer(self, process: ServerProcess, effect: StartReceiveTimeout) -> None:
        self._arm(process, "receive", effect.after_ms / 1000, ReceiveSnapshotTimeout())

    def _draw(self, span: TimerSpan) -> float:
        """Draw seconds, anew each time, so that candidates do not campaign in step (§3.4)."""
        most, more = self._spans[span]
        return (self._rng.uniform(1, most) + more) / 1000

    def _arm(self, process: ServerProcess, name: str, after_s: float, message: Message) -> None:
        def expire() -> None:
            if isinstance(message, ElectionTimeout):
                process.counters.pre_vote_elections += 1
            elif isinstance(message, MachineTimeout):
                self._machine_timers[process].discard(message.name)
            process.handle(message)
            self._environment.wake()

        self._timers.arm((process, name), self._clock.monotonic() + after_s, expire)

    # --- changes -----------------------------------------------------------------------

    def state_changed(self, process: ServerProcess, old: RaftState, old_leader: ServerId | None) -> None:
        """End the timers of the old state, before the effects of the transition (semantics §10.2)."""
        server = process.server
        if _ends_leadership(old, server):
            self._cancel_machine_timers(process)
        if server.raft_state is not old:
            self._timers.cancel((process, "election"))
            self._timers.cancel((process, "condition"))
            if server.raft_state is RaftState.CANDIDATE:
                process.counters.elections += 1
            logger.info(
                "%s: %s -> %s, term %d, leader %s",
                server.id,
                old,
                server.raft_state,
                server.current_term,
                server.leader_id,
            )
        self._environment.leadership_changed(process)

    def _cancel_machine_timers(self, process: ServerProcess) -> None:
        self.monitors.forget(process, only=Component.MACHINE)
        for name in self._machine_timers.pop(process, ()):
            self._timers.cancel((process, f"machine {name}"))

    def server_failed(self, process: ServerProcess) -> None:
        """Cancel everything of a server that failed, and tell the environment."""
        self.forget(process)
        self._environment.server_stopped(process)

    def forget(self, process: ServerProcess) -> None:
        """Cancel all timers and monitors of this server, and stop sending its snapshots."""
        for name in ("election", "condition", "quorum", "receive"):
            self._timers.cancel((process, name))
        for member in self._snapshot_retries.pop(process, ()):
            self._timers.cancel((process, f"snapshot {member}"))
        self._snapshot_senders.pop(process, None)
        self.awaiting_sync.pop(process, None)
        self._cancel_machine_timers(process)
        self.monitors.forget(process)


def timer_spans(times: TimeConfig) -> dict[TimerSpan, tuple[int, int]]:
    """For each timer: the largest random part, and the fixed part; both in milliseconds (ELEC-17)."""
    broadcast, poll, several = times.broadcast_time_ms, times.detector_poll_ms, times.election_multiplier
    return {
        TimerSpan.REALLY_SHORT: (broadcast, 0),
        TimerSpan.SHORT: (several * broadcast, broadcast),
        TimerSpan.MEDIUM: (poll, broadcast),
        TimerSpan.LONG: (2 * several * broadcast, poll),
    }


def _ends_leadership(old: RaftState, server: Server) -> bool:
    """Whether a leadership has ended, and with it the timers of its machine (TIME-06)."""
    if old not in (RaftState.LEADER, RaftState.AWAIT_CONDITION):
        return False
    return server.leadership() is None or server.raft_state is RaftState.TERMINATING_LEADER


def _reads_here(process: ServerProcess, effect: ReadLog) -> bool:
    """Whether this server performs the read: the leader, or the voter on the named node (EFF-30)."""
    server, target = process.server, effect.node
    here = server.id.node
    if server.raft_state is not RaftState.LEADER:
        return target == here and server.is_voter(server.id)
    voter_there = any(peer.voter for member, peer in server.cluster.items() if member.node == target)
    return target in (None, here) or not voter_there
