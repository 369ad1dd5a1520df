"""Performs the effects of servers: the same code for production, and for worlds of core servers.

`Performer.perform` takes the effects of one step and performs them in their order, which is the durability
contract (docs/explanation/ordering.md): after a `PersistTermAndVote` it stops, and the server holds the rest
until that record is on disk. What lies outside a server comes in from outside: a `PerformerEnvironment`
(messages, answers, the rest of the turn), the store of terms and votes, timers, a clock, random numbers.
A node hands in its own, a test world others.
"""

import gc
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Generic

import msgspec

from barque.core.applying import take_callback_effects
from barque.core.aux_machine import cast_aux, log_read, run_aux
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
    StopServer,
    TendSnapshots,
    TermRefused,
    Unresolved,
)
from barque.core.log_contract import ChunkFlag
from barque.core.messages import (
    ChunkOutcome,
    Component,
    FlushCommands,
    MachineAppend,
    PipelineRpcs,
    SenderOutcome,
    SnapshotSenderDown,
)
from barque.core.snapshots import SnapshotSender, make_checkpoint, update_release_cursor
from barque.core.state import RaftState, Server
from barque.errors import Damaged, StorageError
from barque.machine.effects import (
    Append,
    Aux,
    Checkpoint,
    DemonitorNode,
    DemonitorProcess,
    GarbageCollect,
    ModCall,
    MonitorNode,
    MonitorProcess,
    PlanRead,
    ReadLog,
    ReleaseCursor,
    Reply,
    SendMsg,
    Timer,
    TryAppend,
)
from barque.machine.machine import AuxKind, bound_module
from barque.runtime.performer_contract import (
    PerformerEnvironment,
    ServerT,
    TermAndVoteStore,
    Timers,
    Watches,
)
from barque.types import ServerId

logger = logging.getLogger("barque.server")


class Performer(Generic[ServerT]):
    """Performs the effects of many servers in one environment."""

    HANDLERS: ClassVar[dict[type, Callable[[Any, Any, Any], None]]]
    """One look-up and one call for each effect. A test compares the keys with the unions of effects."""

    def __init__(
        self,
        environment: PerformerEnvironment[ServerT],
        meta: TermAndVoteStore,
        timers: Timers[ServerT],
        monitors: Watches[ServerT],
    ) -> None:
        self.timers = timers
        self.monitors = monitors
        self.awaiting_sync: dict[ServerT, None] = {}
        """The servers whose effects wait for the next sync of the meta store."""
        self.snapshot_senders: dict[ServerT, dict[ServerId, SnapshotSender]] = {}
        self._environment = environment
        self._meta = meta

    def perform(self, process: ServerT, effects: list[Effect]) -> None:
        """Perform these effects in their order; hold the effects behind an unsynced term or vote."""
        held = process.held
        if held is not None:
            held.extend(effects)
            return
        handlers = self.HANDLERS
        for position, effect in enumerate(effects):
            handlers[type(effect)](self, process, effect)
            if process.held is not None:
                process.held.extend(effects[position + 1 :])
                return

    # --- the core's effects ------------------------------------------------------------

    def _send_rpc(self, process: ServerT, effect: SendRpc) -> None:
        counters = process.counters
        counters.rpcs_sent += 1
        counters.msgs_sent += 1
        if not self._environment.send(effect.to, effect.message, process):
            counters.dropped_sends += 1

    def _send_vote_requests(self, process: ServerT, effect: SendVoteRequests) -> None:
        for to, rpc in effect.requests:
            process.counters.msgs_sent += 1
            self._environment.send(to, rpc, process)

    def _next_event(self, process: ServerT, effect: NextEvent) -> None:
        process.enqueue(effect.message)

    def _defer(self, process: ServerT, effect: Defer) -> None:
        if type(effect.message) is PipelineRpcs:
            # Once a turn is enough, and then a commit index travels with the next entries (REPL-07).
            self._environment.replicate_soon(process)
        elif type(effect.message) is FlushCommands:
            self._environment.flush_commands_soon(process)
        else:
            self._environment.apply_soon(process)

    def _answer(self, _process: ServerT, effect: Applied) -> None:
        self._environment.answer(effect)

    def _reject(self, _process: ServerT, effect: Rejected) -> None:
        self._environment.reject(effect)

    def _unresolved(self, _process: ServerT, effect: Unresolved) -> None:
        self._environment.unresolved(effect)

    def _persist(self, process: ServerT, effect: PersistTermAndVote) -> None:
        process.counters.term_and_voted_for_updates += 1
        self._meta.store(process.uid, effect.term, effect.voted_for)
        process.defer_until_synced()
        self.awaiting_sync[process] = None
        self._environment.wake()

    def _leader_established(self, process: ServerT, _effect: LeaderEstablished) -> None:
        self._environment.leader_established(process)

    def _stop_server(self, process: ServerT, effect: StopServer) -> None:
        self._environment.server_ended(process, effect.reason)

    def _members_gone(self, process: ServerT, effect: MembersGone) -> None:
        self._environment.members_gone(process, effect)

    def _term_refused(self, process: ServerT, effect: TermRefused) -> None:
        if process.counters.terms_refused == 0:
            logger.warning(
                "%s: %s names term %d, and ours is %d: refused. No elections lead there; that node is faulty "
                "or hostile",
                process.server.id,
                effect.sender,
                effect.term,
                process.server.current_term,
            )
        process.counters.terms_refused += 1

    # --- snapshots ---------------------------------------------------------------------

    def _send_snapshot(self, process: ServerT, effect: SendSnapshot) -> None:
        """Begin to send a snapshot, from the store behind the server's log (SEND-01)."""
        self._end_sending(process, effect.to)
        try:
            sender = self._open_sender(process, effect)
        except StorageError as error:
            self._cannot_send(process, effect.to, error)
            return
        self.snapshot_senders.setdefault(process, {})[effect.to] = sender
        process.counters.snapshots_sent += 1
        self._send_piece(process, effect.to, sender)

    def _send_piece(self, process: ServerT, member: ServerId, sender: SnapshotSender) -> None:
        if sender.rpc is not None:
            self._environment.send(member, sender.rpc, process)

    def _piece_ready(self, process: ServerT, member: ServerId) -> None:
        """A snapshot module has read the next piece, or has failed."""
        sender = self.snapshot_senders.get(process, {}).get(member)
        if sender is None:
            return
        try:
            if sender.resume():
                self._send_piece(process, member, sender)
        except StorageError as error:
            process.server.log.snapshots.doubt(sender.position)
            self._give_up_sending(process, member, f"it cannot be read: {error}")
        self._environment.wake()

    def _open_sender(self, process: ServerT, effect: SendSnapshot) -> SnapshotSender:
        """Begin with the first chunk. Raises `StorageError`, and then leaves no file open."""
        server, cfg = process.server, process.server.cfg
        module = bound_module(cfg.machine.which_module(effect.meta.machine_version), cfg.machine_args)
        outgoing = server.log.snapshots.open_outgoing(module, lambda: self._piece_ready(process, effect.to))
        try:
            return SnapshotSender(server.id, effect.term, outgoing, cfg.snapshot_packing)
        except StorageError:
            outgoing.close()
            raise

    def _snapshot_acked(self, process: ServerT, effect: SnapshotAcked) -> None:
        """Send the next chunk after the answer to the one in flight; drop any other answer (K3)."""
        sender = self.snapshot_senders.get(process, {}).get(effect.member)
        if sender is None:
            return
        try:
            if not sender.take(effect):
                return
        except StorageError as error:
            self._cannot_send(process, effect.member, error)
            return
        match effect.outcome:
            case ChunkOutcome.TAKEN:
                self._send_piece(process, effect.member, sender)
            case ChunkOutcome.WORKING:
                pass  # all of it is there; `INSTALLED` or a refusal comes
            case ChunkOutcome.INSTALLED | ChunkOutcome.AHEAD:
                self._end_sending(process, effect.member)
            case ChunkOutcome.REFUSED:
                if effect.chunk.flag is ChunkFlag.LAST:  # all of it arrived, and is no snapshot there
                    process.server.log.snapshots.doubt(effect.position)
                self._give_up_sending(process, effect.member, "it was refused")

    def _tend_snapshots(self, process: ServerT, _effect: TendSnapshots) -> None:
        """Repeat chunks that were not answered within a tick; give up after too many (TIME-03)."""
        for member, sender in list(self.snapshot_senders.get(process, {}).items()):
            sender.silent_ticks += 1
            if sender.silent_ticks > process.server.cfg.snapshot_silent_ticks_max:
                why = "no answer came" if sender.rpc is not None else "its next piece was not read in time"
                self._give_up_sending(process, member, why)
            elif sender.silent_ticks > 1:
                self._send_piece(process, member, sender)

    def _cannot_send(self, process: ServerT, member: ServerId, error: StorageError) -> None:
        """Try again after a pause; but damage does not go away, and a leader whose log is whole can send."""
        if isinstance(error, Damaged):
            raise error
        snapshots = process.server.log.snapshots
        current = snapshots.current()
        if current is not None:
            snapshots.doubt(current.position)
        self._give_up_sending(process, member, f"it cannot be read: {error}")

    def _give_up_sending(self, process: ServerT, member: ServerId, why: str) -> None:
        """End a transfer in vain; the leader tries again after a pause (SEND-07)."""
        logger.info("%s: the snapshot for %s is given up: %s", process.server.id, member, why)
        self._end_sending(process, member)
        process.enqueue(SnapshotSenderDown(member, SenderOutcome.FAILED))

    def node_lost(self, node: str) -> None:
        """Our link to this node is gone: transfers to its members end, until it is back (REPL-23).

        The news that goes to all servers next makes them handle what is put into their queues here.
        """
        for process, senders in list(self.snapshot_senders.items()):
            for member in [member for member in senders if member.node == node]:
                self._end_sending(process, member)
                process.enqueue(SnapshotSenderDown(member, SenderOutcome.DISCONNECTED))

    def _end_sending(self, process: ServerT, member: ServerId) -> None:
        sender = self.snapshot_senders.get(process, {}).pop(member, None)
        if sender is not None:
            sender.close()

    def _end_all_sending(self, process: ServerT) -> None:
        """Transfers end with the leadership that began them."""
        for sender in self.snapshot_senders.pop(process, {}).values():
            sender.close()

    def _start_snapshot_retry(self, process: ServerT, effect: StartSnapshotRetry) -> None:
        self.timers.start_snapshot_retry(process, effect)

    def _cancel_snapshot_retry(self, process: ServerT, effect: CancelSnapshotRetry) -> None:
        self.timers.cancel_snapshot_retry(process, effect.member)

    # --- timers ------------------------------------------------------------------------

    def _start_election_timer(self, process: ServerT, effect: StartElectionTimeout) -> None:
        self.timers.start_election(process, effect)

    def _cancel_election_timer(self, process: ServerT, _effect: CancelElectionTimeout) -> None:
        self.timers.cancel_election(process)

    def _start_condition_timer(self, process: ServerT, effect: StartConditionTimeout) -> None:
        self.timers.start_condition(process, effect)

    def _start_quorum_timer(self, process: ServerT, _effect: StartQuorumTimeout) -> None:
        self.timers.start_quorum(process)

    def _start_receive_timer(self, process: ServerT, effect: StartReceiveTimeout) -> None:
        self.timers.start_receive(process, effect)

    # --- the machine's effects: which of them only a leader performs (EFF-01 to EFF-18) --

    def _aux(self, process: ServerT, effect: Aux) -> None:
        if process.server.has_aux:
            self.perform(process, run_aux(process.server, AuxKind.CAST, effect.command)[1])

    def _aux_eval(self, process: ServerT, _effect: AuxEval) -> None:
        wanted = cast_aux(process.server, "eval")
        if wanted:
            self.perform(process, wanted)

    def _release_cursor(self, process: ServerT, effect: ReleaseCursor) -> None:
        process.counters.release_cursors += 1
        update_release_cursor(process.server, effect)

    def _checkpoint(self, process: ServerT, effect: Checkpoint) -> None:
        process.counters.checkpoints += 1
        make_checkpoint(process.server, effect)

    def _monitor(self, process: ServerT, effect: MonitorProcess | MonitorNode) -> None:
        if not effect.aux and process.server.raft_state is not RaftState.LEADER:
            return
        if isinstance(effect, MonitorNode):
            self.monitors.watch_node(process, effect)
        else:
            self.monitors.watch_process(process, effect)

    def _unwatch(self, process: ServerT, effect: DemonitorProcess | DemonitorNode) -> None:
        self.monitors.unwatch(process, effect)

    def _read_log(self, process: ServerT, effect: ReadLog) -> None:
        if _acts_for(process.server, effect.node):
            wanted = effect.then(log_read(process.server, effect.indexes))
            self.perform(process, take_callback_effects(process.server, wanted, "apply (ReadLog.then)"))

    def _plan_read(self, process: ServerT, effect: PlanRead) -> None:
        if _acts_for(process.server, effect.node):
            wanted = effect.then(self._environment.plan_read(process, effect.indexes))
            self.perform(process, take_callback_effects(process.server, wanted, "apply (PlanRead.then)"))

    def _collect_garbage(self, process: ServerT, _effect: GarbageCollect) -> None:
        process.counters.forced_gcs += 1
        gc.collect()

    def _try_append(self, process: ServerT, effect: TryAppend) -> None:
        payload, server = msgspec.msgpack.encode(effect.command), process.server
        if server.leader_id == server.id:  # it leads, or will go on to lead
            process.enqueue(MachineAppend(payload))
        elif server.leader_id is not None:
            self._environment.append_elsewhere(process, server.leader_id, payload)

    def _send_msg(self, process: ServerT, effect: SendMsg) -> None:
        server = process.server
        if _acts_for(server, effect.to.node) if effect.local else server.raft_state is RaftState.LEADER:
            self._perform_leaders(process, effect)

    def _perform_as_leader(self, process: ServerT, effect: Timer | Append | ModCall) -> None:
        if process.server.raft_state is RaftState.LEADER:
            self._perform_leaders(process, effect)

    def _perform_leaders(self, process: ServerT, effect: Timer | SendMsg | Append | ModCall) -> None:
        match effect:
            case Timer():
                self.timers.set_machine_timer(process, effect)
            case SendMsg():
                process.counters.send_msg_effects_sent += 1
                process.counters.msgs_sent += 1
                self._environment.send_event(process, effect.to, effect.message)
            case Append():
                process.enqueue(MachineAppend(msgspec.msgpack.encode(effect.command), effect.reply_to))
            case ModCall():
                self._environment.call_function(process, effect)

    def _reply(self, process: ServerT, effect: Reply) -> None:
        if _replies_here(process.server, effect):
            to = effect.to
            self._environment.answer(Applied(to.origin, to.correlation, [effect.body]))

    # --- changes -----------------------------------------------------------------------

    def state_changed(self, process: ServerT, old: RaftState, old_leader: ServerId | None) -> None:
        """End the timers of the old state, before the effects of the transition (semantics §10.2)."""
        server = process.server
        if _ends_leadership(old, server):
            self._cancel_machine_timers(process)
            self._end_all_sending(process)
        if server.raft_state is not old:
            self.timers.state_left(process)
            if server.raft_state is RaftState.CANDIDATE:
                process.counters.elections += 1
            elif server.raft_state is RaftState.PRE_VOTE:
                process.counters.pre_vote_elections += 1
            logger.info(
                "%s: %s -> %s, term %d, leader %s",
                server.id,
                old,
                server.raft_state,
                server.current_term,
                server.leader_id,
            )
        self._environment.leadership_changed(process)

    def _cancel_machine_timers(self, process: ServerT) -> None:
        self.monitors.forget(process, only=Component.MACHINE)
        self.timers.cancel_machine_timers(process)

    def server_failed(self, process: ServerT) -> None:
        """Cancel everything of a server that failed, and tell the environment."""
        self.forget(process)
        self._environment.server_stopped(process)

    def forget(self, process: ServerT) -> None:
        """Cancel all timers and monitors of this server, and stop sending its snapshots."""
        self.timers.forget(process)
        self.monitors.forget(process)
        self._end_all_sending(process)
        self.awaiting_sync.pop(process, None)


Performer.HANDLERS = {
    SendRpc: Performer._send_rpc,
    NextEvent: Performer._next_event,
    Defer: Performer._defer,
    Applied: Performer._answer,
    Rejected: Performer._reject,
    CancelElectionTimeout: Performer._cancel_election_timer,
    PersistTermAndVote: Performer._persist,
    SendVoteRequests: Performer._send_vote_requests,
    StartElectionTimeout: Performer._start_election_timer,
    StartConditionTimeout: Performer._start_condition_timer,
    LeaderEstablished: Performer._leader_established,
    AuxEval: Performer._aux_eval,
    Unresolved: Performer._unresolved,
    StartQuorumTimeout: Performer._start_quorum_timer,
    StartReceiveTimeout: Performer._start_receive_timer,
    StopServer: Performer._stop_server,
    MembersGone: Performer._members_gone,
    TermRefused: Performer._term_refused,
    SendSnapshot: Performer._send_snapshot,
    SnapshotAcked: Performer._snapshot_acked,
    TendSnapshots: Performer._tend_snapshots,
    StartSnapshotRetry: Performer._start_snapshot_retry,
    CancelSnapshotRetry: Performer._cancel_snapshot_retry,
    Aux: Performer._aux,
    ReleaseCursor: Performer._release_cursor,
    Checkpoint: Performer._checkpoint,
    DemonitorProcess: Performer._unwatch,
    DemonitorNode: Performer._unwatch,
    MonitorProcess: Performer._monitor,
    MonitorNode: Performer._monitor,
    ReadLog: Performer._read_log,
    PlanRead: Performer._plan_read,
    Timer: Performer._perform_as_leader,
    SendMsg: Performer._send_msg,
    Append: Performer._perform_as_leader,
    Reply: Performer._reply,
    TryAppend: Performer._try_append,
    ModCall: Performer._perform_as_leader,
    GarbageCollect: Performer._collect_garbage,
}


def _ends_leadership(old: RaftState, server: Server) -> bool:
    """Whether a leadership has ended, and with it its machine's timers and monitors (TIME-06).

    A leader that waits may lead on.
    """
    if old not in (RaftState.LEADER, RaftState.AWAIT_CONDITION):
        return False
    return server.leadership() is None or server.raft_state is RaftState.TERMINATING_LEADER


def _replies_here(server: Server, effect: Reply) -> bool:
    """Whether this server sends the reply (EFF-22)."""
    match effect.by:
        case "leader":
            return server.raft_state is RaftState.LEADER
        case "local":
            return _acts_for(server, effect.to.origin.node)
        case member:
            return member == server.id or (
                server.raft_state is RaftState.LEADER and member not in server.cluster
            )


def _acts_for(server: Server, target: str | None) -> bool:
    """Whether this server acts for the named node: the voter there, or else the leader (EFF-30)."""
    here = server.id.node
    if server.raft_state is not RaftState.LEADER:
        return target == here and server.is_voter(server.id)
    voter_there = any(peer.voter for member, peer in server.cluster.items() if member.node == target)
    return target in (None, here) or not voter_there
