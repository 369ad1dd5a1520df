"""The follower: which message goes where (§3.3; semantics §6)."""

from typing import assert_never

from barque.core.commands import refuse_here
from barque.core.effects import CancelElectionTimeout, StartElectionTimeout, TimerSpan
from barque.core.elections import on_election_timeout, on_pre_vote, on_request_vote
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
from barque.core.queries import on_heartbeat, refuse_queries
from barque.core.replication import on_append_entries, on_follower_log_event
from barque.core.server import Server, Transition
from barque.core.snapshotting import ignore_snapshot
from barque.core.transfer import refuse_transfer


def handle_follower(server: Server, message: Message) -> Transition:
    """One message to a follower."""
    match message:
        case AppendEntriesRpc():
            return on_append_entries(server, message)
        case Written() | ResendWrite() | WalUp() | WalFailed():
            return on_follower_log_event(server, message)
        case HeartbeatRpc():
            return on_heartbeat(server, message)
        case Commands():
            return refuse_here(server, message)
        case Queries():
            return refuse_queries(server, message)
        case TransferLeadership():
            return refuse_transfer(server, message)
        case RequestVoteRpc():
            return on_request_vote(server, message)
        case PreVoteRpc():
            return on_pre_vote(server, message)
        case ElectionTimeout() | TimeoutNow():
            return on_election_timeout(server)
        case AppendEntriesReply() | HeartbeatReply():
            return server.stay(*server.adopt_term(message.term))  # F-11
        case ServerDown():
            return _on_server_down(server, message)
        case NodeStatus():
            return _on_node_status(server, message)
        case InstallSnapshotRpc() | InstallSnapshotResult():
            return ignore_snapshot(server, message)
        case RequestVoteResult() | PreVoteResult():
            return server.stay()  # F-16: late answers to a candidacy that we gave up
        case Tick() | PipelineRpcs() | FlushCommands() | AppendNoop() | MachineTimeout() | MachineAppend():
            return server.stay()  # left over from a leadership that has ended
        case AwaitConditionTimeout():
            return server.stay()  # left over from a condition that came true
        case _:
            assert_never(message)


def _on_server_down(server: Server, message: ServerDown) -> Transition:
    """ELEC-18, §10.8: the leader is gone; how sure we are decides how soon we act.

    A server that failed in a living node leads no more, and is forgotten. A node out of reach
    may only have lost its connection.
    """
    if message.server != server.leader_id:
        return server.stay()
    if not message.connected:
        return server.stay(StartElectionTimeout(TimerSpan.SHORT))
    server.leader_id = None
    return server.stay(StartElectionTimeout(TimerSpan.REALLY_SHORT))


def _on_node_status(server: Server, message: NodeStatus) -> Transition:
    """FD-03: the failure detector suspects the leader's node, or no longer does."""
    if server.leader_id is None or server.leader_id.node != message.node:
        return server.stay()
    return server.stay(CancelElectionTimeout() if message.up else StartElectionTimeout())
