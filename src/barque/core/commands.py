"""Commands on their way into the log (CMD-01 to CMD-18; L-7 to L-10)."""

from collections import deque

import msgspec

from barque.core.applying import encode_builtin
from barque.core.conditions import WalWritable
from barque.core.effects import (
    Applied,
    Defer,
    Effect,
    NextEvent,
    Rejection,
    SendRpc,
    StartConditionTimeout,
)
from barque.core.entries import COMMAND_BYTES_MAX, EntryBatch, EntryKind, cut_body, decode_head, encode_body
from barque.core.events import AppendNoop, ClientDown, MachineAppend, MachineTimeout, NodeEvent
from barque.core.log_contract import WalDown
from barque.core.messages import Commands, FlushCommands, TimeoutNow
from barque.core.peers import PeerStatus
from barque.core.replication import pipelined_rpcs
from barque.core.roles import WaitingRole
from barque.core.server import RaftState, Server, Transition, refuse_commands
from barque.errors import MachineFault
from barque.machine.machine import Down, NodeDown, NodeUp, Timeout
from barque.types import ReplyMode, ServerId


def on_commands(server: Server, commands: Commands) -> Transition:
    """L-7 to L-10: append, send on, and answer those who only wait for the append."""
    if commands.low_priority:
        return _queue(server, commands)
    return _append(server, commands)


def _append(server: Server, commands: Commands) -> Transition:
    try:
        batch = append_entry(server, commands.body, commands.count)
    except WalDown:
        return take_wal_down(server, refuse_commands(commands, Rejection.WAL_DOWN, None))
    rpcs, _ = pipelined_rpcs(server)
    return server.stay(*answer_append(batch), *rpcs)


def append_entry(server: Server, body: bytes, count: int = 1) -> EntryBatch:
    """Put a body at the end of the log, in our term and time. Raises `WalDown`, with nothing changed."""
    log = server.log
    batch = EntryBatch(log.next_index(), server.current_term, count, server.environment.now_ms(), body)
    log.append(batch)
    return batch


def take_wal_down(server: Server, refusals: list[Effect]) -> Transition:
    """CMD-18: say no to who asked, and wait for the log."""
    waiting = await_wal(server)
    return Transition(waiting.state, [*refusals, *waiting.effects])


def answer_append(batch: EntryBatch) -> list[Effect]:
    """CMD-09: `after_log_append` is answered with (index, term), before any durability."""
    head = decode_head(batch.body)
    if head.reply_mode is not ReplyMode.AFTER_LOG_APPEND:
        return []
    positions = [(batch.first_index + offset, batch.term) for offset in range(batch.count)]
    return [Applied(head.origin, head.first_correlation, positions)]


# --- low priority --------------------------------------------------------------------------


def _queue(server: Server, commands: Commands) -> Transition:
    """CMD-06: queue behind the mail that has already arrived; normal commands overtake."""
    role = server.leader_role()
    if role.low_priority is None:
        role.low_priority = deque()
    first = not role.low_priority
    role.low_priority.append(commands)
    return server.stay(*([Defer(FlushCommands())] if first else []))


def on_flush_commands(server: Server, _message: FlushCommands) -> Transition:
    """CMD-06: append the next few queued commands, then let others have their turn."""
    role = server.leader_role()
    if not role.low_priority:
        return server.stay()
    commands = role.low_priority.popleft()
    limit = server.cfg.low_priority_commands_flush_size
    if commands.count > limit:
        rest = commands.count - limit
        role.low_priority.appendleft(
            Commands(rest, cut_body(commands.body, commands.count, limit, rest), True)
        )
        commands = Commands(limit, cut_body(commands.body, commands.count, 0, limit))
    again: list[Effect] = [Defer(FlushCommands())] if role.low_priority else []
    done = _append(server, commands)
    return Transition(done.state, done.effects + again)


# --- the machine's own ---------------------------------------------------------------------


def append_noop(server: Server, machine_version: int) -> Transition:
    """ELEC-23: the first entry of a term; by it everything earlier is committed (§3.6.2).

    A leader without it would commit nothing of former terms, so if the log is down it stays due.
    """
    role = server.leader_role()
    role.proposed_version = max(role.proposed_version, machine_version)
    done = _append_own(server, EntryKind.NOOP, msgspec.msgpack.encode(machine_version), force=True)
    role.noop_due = machine_version if done.state is RaftState.AWAIT_CONDITION else None
    return done


def on_resume(server: Server) -> list[Effect]:
    """§10.4: back from waiting, a leader takes up what it had to put off."""
    role = server.leader_role()
    role.heard = None  # what was doubted then may be doubted anew
    for _, peer in server.peers():
        if peer.status is PeerStatus.SNAPSHOT_BACKOFF:
            peer.status = PeerStatus.NORMAL  # its timer ran out unheard, perhaps
    due: list[Effect] = [] if role.noop_due is None else [NextEvent(AppendNoop(role.noop_due))]
    return [*due, Defer(FlushCommands())] if role.low_priority else due


def on_machine_timeout(server: Server, message: MachineTimeout) -> Transition:
    """EFF-09: a machine's timer becomes a command, so that all members see it alike."""
    return _append_own(server, EntryKind.BUILTIN, encode_builtin(Timeout(message.name)))


def on_client_down(server: Server, message: ClientDown) -> Transition:
    """MON-02, `handle_down` of the machine: a low-priority command, behind what that client had sent."""
    body = encode_body([encode_builtin(Down(message.client, message.reason))], EntryKind.BUILTIN)
    return _queue(server, Commands(1, body, True))


def on_node_event(server: Server, message: NodeEvent) -> Transition:
    """MON-03, `handle_node_status` of the machine."""
    builtin = NodeUp(message.node) if message.up else NodeDown(message.node)
    return _append_own(server, EntryKind.BUILTIN, encode_builtin(builtin))


def on_machine_append(server: Server, message: MachineAppend) -> Transition:
    """EFF-04: a command that the machine itself asked for."""
    if len(message.payload) > COMMAND_BYTES_MAX:
        size = len(message.payload)
        raise MachineFault(
            f"{type(server.machine).__name__} appends a command of {size} bytes, above {COMMAND_BYTES_MAX}"
        )
    return _append_own(server, EntryKind.USER, message.payload)


def _append_own(server: Server, kind: EntryKind, payload: bytes, *, force: bool = False) -> Transition:
    try:
        append_entry(server, encode_body([payload], kind))
    except WalDown:
        return await_wal(server)
    rpcs, _ = pipelined_rpcs(server, force=force)
    return server.stay(*rpcs)


# --- a leader whose log cannot be written --------------------------------------------------


def await_wal(server: Server) -> Transition:
    """CMD-18, XFER-04: accept nothing until the log is writable, and offer the leadership.

    Ra waits five seconds before it asks a peer to take over. A leader that can make nothing
    durable is of no use in that time, so ours asks the most advanced voter at once; if
    nobody takes over it carries on when the log is back.
    """
    role = server.leader_role()
    server.role = WaitingRole(
        WalWritable(), transition_to=RaftState.LEADER, timeout_to=RaftState.LEADER, resume=role
    )
    effects: list[Effect] = [StartConditionTimeout(server.cfg.wal_down_timeout_ms)]
    successor = best_successor(server)
    if successor is not None:
        effects.append(SendRpc(successor, TimeoutNow(server.id)))
    return Transition(RaftState.AWAIT_CONDITION, effects)


def best_successor(server: Server) -> ServerId | None:
    """The voter that has most on disk; of equals the first by id."""
    voters = [(member, peer) for member, peer in server.peers() if peer.voter]
    if not voters:
        return None
    return max(voters, key=lambda entry: entry[1].match_index)[0]


def refuse_here(server: Server, commands: Commands) -> Transition:
    """CMD-12, CMD-14: this member does not lead; the commands did not happen."""
    leader = server.leader_id if server.leader_id != server.id else None
    return server.stay(*refuse_commands(commands, Rejection.NOT_LEADER, leader))
