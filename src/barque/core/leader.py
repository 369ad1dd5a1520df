"""The leader: which message goes where (§3.5; semantics §3)."""

from typing import assert_never

from barque.core.applying import take_callback_effects
from barque.core.commands import (
    append_noop,
    await_wal,
    on_commands,
    on_flush_commands,
    on_machine_append,
    on_machine_timeout,
)
from barque.core.elections import refuse_vote, yield_to, yield_to_member
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    AppendNoop,
    AwaitConditionTimeout,
    Commands,
    ElectionTimeout,
    FlushCommands,
    HeartbeatReply,
    HeartbeatRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    MachineAppend,
    MachineTimeout,
    Message,
    NodeStatus,
    PipelineRpcs,
    PreVoteResult,
    PreVoteRpc,
    Queries,
    RequestVoteResult,
    RequestVoteRpc,
    ResendWrite,
    ServerDown,
    Tick,
    TimeoutNow,
    TransferLeadership,
    WalFailed,
    WalUp,
    Written,
)
from barque.core.queries import heartbeat_reply, on_heartbeat_reply, on_queries
from barque.core.replication import (
    greet,
    make_all_rpcs,
    make_rpcs,
    on_append_entries_reply,
    on_leader_log_event,
    on_pipeline_rpcs,
    refuse_append_entries,
)
from barque.core.server import Server, Transition
from barque.core.snapshotting import ignore_snapshot
from barque.core.transfer import on_transfer_leadership
from barque.errors import InvariantViolation


def handle_leader(server: Server, message: Message) -> Transition:
    """One message to the leader of the current term."""
    match message:
        case AppendEntriesReply():
            return on_append_entries_reply(server, message)
        case Commands():
            return on_commands(server, message)
        case Written() | ResendWrite() | WalUp():
            return on_leader_log_event(server, message)
        case PipelineRpcs():
            return on_pipeline_rpcs(server)
        case Queries():
            return on_queries(server, message)
        case HeartbeatReply():
            return on_heartbeat_reply(server, message)
        case FlushCommands():
            return on_flush_commands(server)
        case Tick():
            return _on_tick(server, message)
        case AppendEntriesRpc():
            return _on_append_entries(server, message)
        case HeartbeatRpc():
            return _on_heartbeat(server, message)
        case RequestVoteRpc():
            if message.term > server.current_term:
                return yield_to_member(server, message.term, message.candidate_id, message)  # L-28
            return refuse_vote(server, message)  # L-29
        case PreVoteRpc():
            if message.term > server.current_term:
                return yield_to_member(server, message.term, message.candidate_id, message)  # L-30
            return server.stay(*make_all_rpcs(server))  # L-31: somebody has not heard from us
        case AppendNoop():
            return append_noop(server, message.machine_version)
        case MachineTimeout():
            return on_machine_timeout(server, message)
        case MachineAppend():
            return on_machine_append(server, message)
        case TransferLeadership():
            return on_transfer_leadership(server, message)
        case WalFailed():
            server.log.handle_event(message)
            return await_wal(server)
        case NodeStatus():
            return server.stay(*(greet(server, message.node) if message.up else []))
        case InstallSnapshotRpc() | InstallSnapshotResult():
            return ignore_snapshot(server, message)
        case RequestVoteResult() | PreVoteResult():
            return server.stay()  # L-32: the election is won
        case ElectionTimeout() | TimeoutNow() | ServerDown():
            return server.stay()  # we lead already
        case AwaitConditionTimeout():
            return server.stay()  # left over from a condition that came true
        case _:
            assert_never(message)


def _on_append_entries(server: Server, rpc: AppendEntriesRpc) -> Transition:
    """L-19 to L-21. Two leaders in one term cannot be; if they are, stop before harm is done."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    if rpc.term == server.current_term:
        raise InvariantViolation(f"{server.id} and {rpc.leader_id} both lead in term {rpc.term}")
    return refuse_append_entries(server, rpc)


def _on_heartbeat(server: Server, rpc: HeartbeatRpc) -> Transition:
    """L-25, with the same impossibility as for AppendEntries."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    if rpc.term == server.current_term:
        raise InvariantViolation(f"{server.id} and {rpc.leader_id} both lead in term {rpc.term}")
    return server.stay(heartbeat_reply(server, rpc))


def _on_tick(server: Server, tick: Tick) -> Transition:
    """TIME-01: repair what was lost on the way, and let the machine look at the time."""
    effects = make_rpcs(server)
    effects += take_callback_effects(server.cfg.machine.tick(tick.now_ms, server.machine_state))
    return server.stay(*effects)
