"""The pre-candidate: which message goes where (§9.6; semantics §5)."""

from typing import assert_never

from barque.core.commands import refuse_here
from barque.core.effects import StartElectionTimeout, TimerSpan
from barque.core.elections import (
    call_for_pre_vote,
    on_node_up,
    on_pre_vote,
    on_pre_vote_result,
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


def handle_pre_vote(server: Server, message: Message) -> Transition:
    """One message to a server that asks whether it would be elected."""
    match message:
        case PreVoteResult():
            return on_pre_vote_result(server, message)
        case AppendEntriesRpc():
            if message.term >= server.current_term:
                return yield_to(server, message.term, message)  # P-1
            return refuse_append_entries(server, message)  # tells an old leader; Ra is silent (P-12)
        case HeartbeatRpc():
            if message.term >= server.current_term:
                return yield_to(server, message.term, message)  # P-1
            return server.stay(heartbeat_reply(server, message))  # P-2
        case RequestVoteRpc():
            if message.term > server.current_term:
                return yield_to(server, message.term, message)  # P-4
            return refuse_vote(server, message)
        case PreVoteRpc():
            return on_pre_vote(server, message)  # P-8
        case AppendEntriesReply() | HeartbeatReply():
            if message.term > server.current_term:
                return Transition(RaftState.FOLLOWER, server.step_down(message.term))  # P-3
            return server.stay()
        case ElectionTimeout():
            again = call_for_pre_vote(server)  # P-9; the state stays, so it arms no timer of its own
            return Transition(again.state, [*again.effects, StartElectionTimeout(TimerSpan.MEDIUM)])
        case Written() | ResendWrite() | WalUp() | WalFailed():
            server.log.handle_event(message)  # P-11
            return server.stay()
        case Commands():
            return refuse_here(server, message)
        case Queries():
            return refuse_queries(server, message)
        case TransferLeadership():
            return refuse_transfer(server, message)
        case InstallSnapshotRpc() | InstallSnapshotResult():
            return ignore_snapshot(server, message)
        case RequestVoteResult():
            return server.stay()  # of a candidacy that has ended
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
