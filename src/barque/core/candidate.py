"""The candidate: which message goes where (§3.4; semantics §4)."""

from typing import assert_never

from barque.core.commands import refuse_here
from barque.core.effects import StartElectionTimeout, TimerSpan
from barque.core.elections import (
    call_for_election,
    on_node_up,
    on_pre_vote,
    on_request_vote_result,
    refuse_vote,
    yield_to,
)
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
from barque.core.queries import heartbeat_reply, refuse_queries
from barque.core.replication import refuse_append_entries
from barque.core.server import RaftState, Server, Transition
from barque.core.snapshotting import ignore_snapshot
from barque.core.transfer import refuse_transfer


def handle_candidate(server: Server, message: Message) -> Transition:
    """One message to a server that stands for election in the current term."""
    match message:
        case RequestVoteResult():
            return on_request_vote_result(server, message)
        case AppendEntriesRpc():
            if message.term >= server.current_term:
                return yield_to(server, message.term, message)  # C-4
            return refuse_append_entries(server, message)  # C-5
        case HeartbeatRpc():
            if message.term >= server.current_term:
                return yield_to(server, message.term, message)  # C-6
            return server.stay(heartbeat_reply(server, message))
        case RequestVoteRpc():
            if message.term > server.current_term:
                return yield_to(server, message.term, message)  # C-9
            return refuse_vote(server, message)  # C-10
        case PreVoteRpc():
            if message.term > server.current_term:
                return yield_to(server, message.term, message)  # C-9
            return on_pre_vote(server, message)  # C-11
        case AppendEntriesReply() | HeartbeatReply():
            if message.term > server.current_term:
                return Transition(RaftState.FOLLOWER, server.step_down(message.term))  # C-7
            return server.stay()  # C-8
        case ElectionTimeout():
            again = call_for_election(server)  # C-15: a split vote, most likely (§3.4)
            return Transition(again.state, [*again.effects, StartElectionTimeout(TimerSpan.MEDIUM)])
        case Written() | ResendWrite() | WalUp() | WalFailed():
            server.log.handle_event(message)  # C-14
            return server.stay()
        case Commands():
            return refuse_here(server, message)
        case Queries():
            return refuse_queries(server, message)
        case TransferLeadership():
            return refuse_transfer(server, message)
        case InstallSnapshotRpc() | InstallSnapshotResult():
            return ignore_snapshot(server, message)
        case PreVoteResult():
            return server.stay()  # C-18: that round is won already
        case NodeStatus():
            return on_node_up(server, message.node) if message.up else server.stay()
        case TimeoutNow() | ServerDown():
            return server.stay()  # we are trying already
        case Tick() | PipelineRpcs() | FlushCommands() | AppendNoop() | MachineTimeout() | MachineAppend():
            return server.stay()  # left over from a leadership that has ended
        case AwaitConditionTimeout():
            return server.stay()  # left over from a condition that came true
        case _:
            assert_never(message)
