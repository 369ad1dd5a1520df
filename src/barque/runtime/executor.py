"""Performs effects: one exhaustive match, in the order of the list (design §3)."""

import logging
import random
from typing import Any, Protocol, assert_never

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
    NodeEvent,
    PipelineRpcs,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    RemoteMessage,
)
from barque.core.snapshots import make_checkpoint, update_release_cursor
from barque.core.state import RaftState, Server
from barque.errors import InvariantViolation
from barque.log.meta import MetaStore
from barque.machine.effects import (
    Append,
    Aux,
    Checkpoint,
    DemonitorClient,
    DemonitorNode,
    MachineEffect,
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
from barque.runtime.timers import Timers
from barque.types import ClientRef, ServerId

logger = logging.getLogger("barque.server")


class Outlets(Protocol):
    """Where effects leave a server; the node implements it."""

    def wake(self) -> None:
        """End the turn that a timer has begun: what its server has queued is to leave."""

    def send_to_server(self, to: ServerId, message: RemoteMessage, process: ServerProcess | None) -> bool:
        """Queue a message of this server for another, here or elsewhere; False if it was dropped."""

    def answer(self, applied: Applied) -> None:
        """Pass replies on to the front that waits for them."""

    def reject(self, rejected: Rejected) -> None:
        """Pass a refusal on to the front that waits."""

    def send_event(self, process: ServerProcess, to: ClientRef, message: Any) -> None:
        """Pass a machine's message on to a node's clients."""

    def leadership_changed(self, process: ServerProcess) -> None:
        """This member's state, or the leader that it knows, has changed."""

    def leader_established(self, process: ServerProcess) -> None:
        """This leader has applied its noop."""

    def hold_until_synced(self, process: ServerProcess) -> None:
        """Release this server's effects after the next sync of the meta store."""

    def pipeline_later(self, process: ServerProcess) -> None:
        """Hand this server a `PipelineRpcs` before the turn ends."""

    def flush_commands_later(self, process: ServerProcess) -> None:
        """Hand this server a `FlushCommands` when all that has arrived is handled (CMD-06)."""

    def server_stopped(self, process: ServerProcess) -> None:
        """This server has failed, or ended."""

    def unresolved(self, effect: Unresolved) -> None:
        """Tell those who wait that nobody knows what becomes of their commands."""

    def server_ended(self, process: ServerProcess, reason: StopReason) -> None:
        """This server has come to its end by itself."""

    def members_gone(self, process: ServerProcess, effect: MembersGone) -> None:
        """Tell the nodes of former members that they may forget them."""

    def node_is_up(self, node: str) -> bool:
        """Whether that node is within reach; our own always is."""

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        """This server is gone for good; with it all of its cluster, or only this member."""


class Executor:
    """Performs the effects of all servers of one node."""

    def __init__(
        self,
        outlets: Outlets,
        meta: MetaStore,
        timers: Timers,
        clock: Clock,
        rng: random.Random,
        times: TimeConfig,
    ) -> None:
        self._outlets = outlets
        self._meta = meta
        self._timers = timers
        self._clock = clock
        self._rng = rng
        self._spans = timer_spans(times)
        self._machine_timers: dict[ServerProcess, set[str]] = {}
        self.monitors = Monitors()

    def perform(self, process: ServerProcess, effect: Effect) -> None:
        """Carry out one effect of one server."""
        match effect:
            case SendRpc():
                process.counters.raft.rpcs_sent += 1
                if not self._outlets.send_to_server(effect.to, effect.message, process):
                    process.counters.raft.dropped_sends += 1
            case NextEvent():
                process.enqueue(effect.message)
            case Defer():
                if isinstance(effect.message, PipelineRpcs):
                    # Once a turn is enough, and then a commit index travels with the next entries.
                    self._outlets.pipeline_later(process)
                else:
                    self._outlets.flush_commands_later(process)
            case Applied():
                self._outlets.answer(effect)
            case Rejected():
                self._outlets.reject(effect)
            case CancelElectionTimeout():
                self._timers.cancel((process, "election"))
            case PersistTermAndVote():
                process.counters.raft.term_and_voted_for_updates += 1
                self._meta.store(process.server.cfg.uid, effect.term, effect.voted_for)
                process.hold()
                self._outlets.hold_until_synced(process)
            case SendVoteRequests():
                for to, rpc in effect.requests:
                    self._outlets.send_to_server(to, rpc, process)
            case StartElectionTimeout():
                self._start_election_timer(process, effect.span)
            case StartConditionTimeout():
                self._arm(process, "condition", effect.after_ms / 1000, AwaitConditionTimeout())
            case LeaderEstablished():
                self._outlets.leader_established(process)
            case AuxEval():
                self._perform_all(process, cast_aux(process.server, "eval"))
            case Unresolved():
                self._outlets.unresolved(effect)
            case StartQuorumTimeout():
                self._arm(process, "quorum", self._draw(TimerSpan.LONG), QuorumTimeout())
            case StartReceiveTimeout():
                self._arm(process, "receive", effect.after_ms / 1000, ReceiveSnapshotTimeout())
            case StopServer():
                self._outlets.server_ended(process, effect.reason)
            case MembersGone():
                self._outlets.members_gone(process, effect)
            case SendSnapshot() | SnapshotAcked() | StartSnapshotRetry() | CancelSnapshotRetry():
                raise InvariantViolation("a log without snapshots has none to send")
            case _:
                self._perform_machine(process, effect)

    def _perform_all(self, process: ServerProcess, effects: list[Effect]) -> None:
        for effect in effects:
            self.perform(process, effect)

    # --- the machine's effects ---------------------------------------------------------

    def _perform_machine(self, process: ServerProcess, effect: MachineEffect) -> None:
        """Which of them only a leader performs: EFF-01 to EFF-18."""
        server = process.server
        match effect:
            case Aux():
                if has_aux(server):
                    self._perform_all(process, run_aux(server, AuxKind.CAST, effect.command)[1])
            case ReleaseCursor():
                update_release_cursor(server, effect)
            case Checkpoint():
                make_checkpoint(server, effect)
            case DemonitorClient() | DemonitorNode():
                self.monitors.perform(process, effect)
            case MonitorClient() | MonitorNode():
                if effect.aux or server.raft_state is RaftState.LEADER:
                    self._monitor(process, effect)
            case ReadLog():
                if _reads_here(process, effect):
                    wanted = effect.then(log_read(server, effect.indexes))
                    self._perform_all(process, take_callback_effects(wanted))
            case Timer() | SendMsg() | Append():
                if server.raft_state is RaftState.LEADER:
                    self._perform_leaders(process, effect)
            case _:
                assert_never(effect)

    def _monitor(self, process: ServerProcess, effect: MonitorClient | MonitorNode) -> None:
        """A node's present state is news for whoever begins to watch it (EFF-06)."""
        self.monitors.perform(process, effect)
        component = Component.AUX if effect.aux else Component.MACHINE
        if isinstance(effect, MonitorNode):
            process.enqueue(NodeEvent(component, effect.node, self._outlets.node_is_up(effect.node)))
        elif not self._outlets.node_is_up(effect.client.node):
            self.monitors.node_changed(effect.client.node, up=False)

    def _perform_leaders(self, process: ServerProcess, effect: Timer | SendMsg | Append) -> None:
        match effect:
            case Timer():
                self._set_machine_timer(process, effect)
            case SendMsg():
                process.counters.raft.send_msg_effects_sent += 1
                self._outlets.send_event(process, effect.to, effect.message)
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

    def _start_election_timer(self, process: ServerProcess, span: TimerSpan) -> None:
        """ELEC-17; a second arm while one is armed is ignored (semantics §10.2)."""
        if (process, "election") not in self._timers:
            self._arm(process, "election", self._draw(span), ElectionTimeout())

    def _draw(self, span: TimerSpan) -> float:
        """Seconds, drawn anew each time so that candidates do not march in step (§3.4)."""
        most, more = self._spans[span]
        return (self._rng.uniform(1, most) + more) / 1000

    def _arm(self, process: ServerProcess, name: str, after_s: float, message: Message) -> None:
        def expire() -> None:
            if isinstance(message, ElectionTimeout):
                process.counters.raft.pre_vote_elections += 1
            elif isinstance(message, MachineTimeout):
                self._machine_timers[process].discard(message.name)
            process.handle(message)
            self._outlets.wake()

        self._timers.arm((process, name), self._clock.monotonic() + after_s, expire)

    # --- changes -----------------------------------------------------------------------

    def state_changed(self, process: ServerProcess, old: RaftState, old_leader: ServerId | None) -> None:
        """Before the effects of a transition: the old state's timers end with it (semantics §10.2)."""
        server = process.server
        if _ends_leadership(old, server):
            self._cancel_machine_timers(process)
        if server.raft_state is not old:
            self._timers.cancel((process, "election"))
            self._timers.cancel((process, "condition"))
            if server.raft_state is RaftState.CANDIDATE:
                process.counters.raft.elections += 1
            logger.info(
                "%s: %s -> %s, term %d, leader %s",
                server.id,
                old,
                server.raft_state,
                server.current_term,
                server.leader_id,
            )
        self._outlets.leadership_changed(process)

    def _cancel_machine_timers(self, process: ServerProcess) -> None:
        self.monitors.forget(process, only=Component.MACHINE)
        for name in self._machine_timers.pop(process, ()):
            self._timers.cancel((process, f"machine {name}"))

    def server_failed(self, process: ServerProcess) -> None:
        """Nothing of a failed server may fire any more."""
        self.forget(process)
        self._outlets.server_stopped(process)

    def forget(self, process: ServerProcess) -> None:
        """Cancel all timers of this server."""
        for name in ("election", "condition", "quorum", "receive"):
            self._timers.cancel((process, name))
        self._cancel_machine_timers(process)
        self.monitors.forget(process)


def timer_spans(times: TimeConfig) -> dict[TimerSpan, tuple[int, int]]:
    """The most that is drawn for each timer, from 1 on, and what is added; in milliseconds (ELEC-17)."""
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
    """EFF-30: the leader reads, or the voter that lives on the node that is named."""
    server, target = process.server, effect.node
    here = server.id.node
    if server.raft_state is not RaftState.LEADER:
        return target == here and server.is_voter(server.id)
    voter_there = any(peer.voter for member, peer in server.cluster.items() if member.node == target)
    return target in (None, here) or not voter_there
