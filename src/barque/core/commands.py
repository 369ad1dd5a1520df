"""Commands on their way into the log (CMD-01 to CMD-18; L-7 to L-10)."""

from collections import deque
from typing import Any

import msgspec

from barque.core.applying import encode_builtin
from barque.core.effects import Applied, Defer, Effect, NextEvent, Rejection, refuse_commands
from barque.core.entries import (
    COMMAND_BYTES_MAX,
    BodyHead,
    EntryBatch,
    EntryKind,
    cut_body,
    decode_head,
    encode_body,
    kind_of,
)
from barque.core.events import (
    AppendNoop,
    FlushCommands,
    MachineAppend,
    MachineTimeout,
    NodeEvent,
    PipelineRpcs,
    ProcessDown,
)
from barque.core.log_contract import WalDown
from barque.core.messages import Commands, Message
from barque.core.replication import pipelined_rpcs
from barque.core.roles import RaftState, WaitingRole, WalWritable
from barque.core.state import PeerStatus, Server
from barque.core.transfer import offer_leadership
from barque.core.transitions import become_waiting
from barque.core.user_commands import check_commands, keep_decoded
from barque.errors import MachineFault
from barque.machine.machine import Down, NodeDown, NodeUp, Timeout
from barque.types import ReplyMode


def on_commands(server: Server, commands: Commands) -> list[Effect]:
    """L-7 to L-10: append, replicate, and answer callers that wait for the append only."""
    if commands.low_priority:
        return _queue(server, commands)
    return _append(server, commands)


def _append(server: Server, commands: Commands) -> list[Effect]:
    role, head = server.leader_role(), decode_head(commands.body)
    decoded: list[Any] = []
    if head.kind is EntryKind.USER:
        decoded, errors = check_commands(server, role, commands.body, commands.count, head)
        if errors:
            return _append_valid(server, commands, head, errors)
    try:
        batch = append_entry(server, commands.body, commands.count)
    except WalDown:
        if head.kind is EntryKind.BUILTIN:  # news that nobody tells again
            role.low_priority = role.low_priority or deque()
            role.low_priority.appendleft(commands)
        return take_wal_down(server, refuse_commands(commands, Rejection.WAL_DOWN, None))
    if decoded:
        keep_decoded(role, batch.first_index, batch.body, decoded)
    rpcs, more = pipelined_rpcs(server)
    effects = rpcs if head.reply_mode is not ReplyMode.AFTER_LOG_APPEND else answer_append(batch) + rpcs
    if more:
        effects.append(Defer(PipelineRpcs()))
    return effects


def _append_valid(server: Server, commands: Commands, head: BodyHead, errors: dict[int, str]) -> list[Effect]:
    """Refuse the bytes that are no command of the machine; append the runs of commands between them."""
    effects: list[Effect] = []
    machine, body, start = type(server.machine).__name__, commands.body, 0
    for offset in (*errors, commands.count):
        if offset > start:
            run = Commands(offset - start, cut_body(body, commands.count, start, offset - start))
            leads = server.raft_state is RaftState.LEADER  # the log may fail between two runs
            effects += _append(server, run) if leads else refuse_commands(run, Rejection.WAL_DOWN, None)
        if offset in errors and head.reply_mode is not ReplyMode.NOREPLY:
            error = {0: f"not a command of {machine}: {errors[offset]}"}
            effects.append(Applied(head.origin, head.first_correlation + offset, [None], error))
        start = offset + 1
    return effects


def append_entry(server: Server, body: bytes, count: int = 1) -> EntryBatch:
    """Put a body at the end of the log, in our term and time. Raises `WalDown`, with nothing changed."""
    log = server.log
    batch = EntryBatch(log.next_index(), server.current_term, count, server.environment.now_ms(), body)
    log.append(batch)
    return batch


def take_wal_down(server: Server, refusals: list[Effect]) -> list[Effect]:
    """CMD-18: refuse the request, and wait for the log."""
    return [*refusals, *await_wal(server)]


def answer_append(batch: EntryBatch) -> list[Effect]:
    """CMD-09: `after_log_append` is answered with (index, term), before any durability."""
    head = decode_head(batch.body)
    if head.reply_mode is not ReplyMode.AFTER_LOG_APPEND:
        return []
    positions = [(batch.first_index + offset, batch.term) for offset in range(batch.count)]
    return [Applied(head.origin, head.first_correlation, positions)]


# --- low priority --------------------------------------------------------------------------


def _queue(server: Server, commands: Commands) -> list[Effect]:
    """CMD-06: queue behind all input that has already arrived; normal commands overtake."""
    role = server.leader_role()
    if role.low_priority is None:
        role.low_priority = deque()
    first = not role.low_priority
    role.low_priority.append(commands)
    return [Defer(FlushCommands())] if first else []


def on_flush_commands(server: Server, _message: FlushCommands) -> list[Effect]:
    """CMD-06: append what is queued, about as much as may be on its way to a peer; the rest in later turns.

    All of it is written with one sync. If the log fails, the rest waits for it (`on_resume`).
    """
    queue, effects = server.leader_role().low_priority, list[Effect]()
    room, bytes_room = server.cfg.low_priority_commands_flush_size, server.cfg.max_pipeline_bytes
    while queue and room > 0 and bytes_room > 0:
        commands = queue.popleft()
        if commands.count > room:
            rest = commands.count - room
            queue.appendleft(Commands(rest, cut_body(commands.body, commands.count, room, rest), True))
            commands = Commands(room, cut_body(commands.body, commands.count, 0, room))
        room -= commands.count
        bytes_room -= len(commands.body)
        effects += _append(server, commands)
        if server.raft_state is not RaftState.LEADER:
            return effects
    if queue:
        effects.append(Defer(FlushCommands()))
    return effects


# --- the machine's own ---------------------------------------------------------------------


def append_noop(server: Server, machine_version: int) -> list[Effect]:
    """ELEC-23: the first entry of a term; by it everything earlier is committed (§3.6.2).

    A leader without it would commit nothing of former terms, so if the log is down it stays due.
    """
    role = server.leader_role()
    role.proposed_version = max(role.proposed_version, machine_version)
    effects = _append_own(server, EntryKind.NOOP, msgspec.msgpack.encode(machine_version))
    role.noop_due = machine_version if server.raft_state is RaftState.AWAIT_CONDITION else None
    return effects


def on_resume(server: Server) -> list[Effect]:
    """§10.4: a leader that waited takes up the work that it had to put off."""
    role = server.leader_role()
    role.acked = None  # a suspicion from before the wait has no timer any longer
    for _, peer in server.peers:
        if peer.status is PeerStatus.SNAPSHOT_BACKOFF:
            peer.status = PeerStatus.NORMAL  # its retry timer may have expired meanwhile
    due: list[Effect] = [] if role.noop_due is None else [NextEvent(AppendNoop(role.noop_due))]
    return [*due, Defer(FlushCommands())] if role.low_priority else due


def on_machine_timeout(server: Server, message: MachineTimeout) -> list[Effect]:
    """EFF-09: a machine's timer becomes a command, so that all members see it alike."""
    return _append_own(server, EntryKind.BUILTIN, encode_builtin(Timeout(message.name)), message)


def on_process_down(server: Server, message: ProcessDown) -> list[Effect]:
    """MON-02, `handle_down` of the machine: a low-priority command, behind what that process had sent."""
    body = encode_body([encode_builtin(Down(message.pid, message.reason))], EntryKind.BUILTIN)
    return _queue(server, Commands(1, body, True))


def on_node_event(server: Server, message: NodeEvent) -> list[Effect]:
    """MON-03, `handle_node_status` of the machine."""
    builtin = NodeUp(message.node) if message.up else NodeDown(message.node)
    return _append_own(server, EntryKind.BUILTIN, encode_builtin(builtin), message)


def on_machine_append(server: Server, message: MachineAppend) -> list[Effect]:
    """EFF-04: a command that the machine itself asked for."""
    if len(message.payload) > COMMAND_BYTES_MAX:
        size = len(message.payload)
        raise MachineFault(
            f"{type(server.machine).__name__} appends a command of {size} bytes, above {COMMAND_BYTES_MAX}"
        )
    to = message.reply_to
    if to is None:
        body = encode_body([message.payload])
    else:
        mode = ReplyMode.AWAIT_CONSENSUS
        body = encode_body([message.payload], EntryKind.USER, mode, to.origin, to.correlation)
    _, errors = check_commands(server, server.leader_role(), body, 1, decode_head(body))
    if errors:
        machine = type(server.machine).__name__
        raise MachineFault(f"{machine} appends what is no command of {machine}: {errors[0]}")
    return _append_body(server, body, message)


def _append_own(server: Server, kind: EntryKind, payload: bytes, news: Message | None = None) -> list[Effect]:
    """Append an entry of our own kind; see `_append_body`."""
    return _append_body(server, encode_body([payload], kind), news)


def _append_body(server: Server, body: bytes, news: Message | None) -> list[Effect]:
    """Append one entry. If the log is down, `news` waits with us; a noop stays due by itself."""
    try:
        append_entry(server, body)
    except WalDown:
        effects = await_wal(server)
        if news is not None:
            assert isinstance(server.role, WaitingRole)
            server.role.later.append(news)
        return effects
    rpcs, _ = pipelined_rpcs(server, force=kind_of(body) is EntryKind.NOOP)
    return rpcs


# --- a leader whose log cannot be written --------------------------------------------------


def await_wal(server: Server) -> list[Effect]:
    """CMD-18, XFER-04: accept nothing until the log is writable, and offer the leadership.

    Ra waits five seconds before it asks a peer to take over. A leader that can make nothing durable is of no
    use in that time, so ours asks the most advanced voter at once. If no peer takes over, we lead on when
    the log is back.
    """
    waiting = become_waiting(
        server,
        WalWritable(),
        server.cfg.wal_down_timeout_ms,
        transition_to=RaftState.LEADER,
        timeout_to=RaftState.LEADER,
    )
    return waiting + offer_leadership(server)


def refuse_here(server: Server, commands: Commands) -> list[Effect]:
    """CMD-12, CMD-14: refuse commands, since this member does not lead. They did not happen."""
    leader = server.leader_id if server.leader_id != server.id else None
    return refuse_commands(commands, Rejection.NOT_LEADER, leader)
