"""Waiting for one thing to come true (CORE-06; semantics §8)."""

from typing import assert_never

from barque.core.commands import refuse_here
from barque.core.effects import Effect, NextEvent
from barque.core.elections import on_election_timeout, on_pre_vote, yield_to
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
from barque.core.queries import refuse_queries
from barque.core.server import RaftState, Server, Transition, WaitingRole
from barque.core.transfer import refuse_transfer


def handle_await_condition(server: Server, message: Message) -> Transition:
    """One message to a server that waits."""
    role = server.role
    assert isinstance(role, WaitingRole)
    match message:
        case RequestVoteRpc():
            return yield_to(server, server.current_term, message)  # W-1
        case PreVoteRpc():
            return _on_pre_vote(server, role, message)
        case ElectionTimeout() | TimeoutNow():
            return on_election_timeout(server)  # W-3
        case AwaitConditionTimeout():
            return _on_timeout(server, role, message)
        case Written() | ResendWrite() | WalUp() | WalFailed():
            server.log.handle_event(message)  # W-5
            return _check(server, role, message, replay=False)
        case Commands():
            return refuse_here(server, message)  # §10.9
        case Queries():
            return refuse_queries(server, message)
        case TransferLeadership():
            return refuse_transfer(server, message)
        case ServerDown():
            gone = message.server == server.leader_id
            return yield_to(server, server.current_term, message) if gone else server.stay()  # §10.9
        case NodeStatus():
            return _on_node_status(server, role, message)
        case AppendEntriesRpc() | InstallSnapshotRpc():
            return _check(server, role, message, replay=True)  # W-6
        case (
            HeartbeatRpc()
            | HeartbeatReply()
            | AppendEntriesReply()
            | InstallSnapshotResult()
            | RequestVoteResult()
            | PreVoteResult()
        ):
            return _check(server, role, message, replay=True)  # W-6; QRY-19: no answer from here
        case MachineTimeout() | MachineAppend() | AppendNoop() | FlushCommands() | PipelineRpcs() | Tick():
            return _check(server, role, message, replay=True)  # a waiting leader's own business
        case _:
            assert_never(message)


def _on_node_status(server: Server, role: WaitingRole, message: NodeStatus) -> Transition:
    """FD-03; and a leader that comes within reach may have missed what we told it: say it again."""
    leader = server.leader_id
    if leader is None or leader.node != message.node:
        return server.stay()
    if message.up:
        return server.stay(*role.timeout_effects(server))
    return yield_to(server, server.current_term, message)


def _on_pre_vote(server: Server, role: WaitingRole, rpc: PreVoteRpc) -> Transition:
    """W-2; but a leader that waits must not carry its leadership into a higher term."""
    if role.resume is not None and rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    return on_pre_vote(server, rpc)


def _check(server: Server, role: WaitingRole, message: Message, *, replay: bool) -> Transition:
    """W-6: if it holds now, leave, and handle the message there; if not, the message is lost."""
    if not role.condition.holds(server, message):
        return server.stay()
    return _leave(server, role, role.transition_to, [NextEvent(message)] if replay else [])


def _on_timeout(server: Server, role: WaitingRole, message: AwaitConditionTimeout) -> Transition:
    """W-4: look once more, then give up as arranged."""
    if role.condition.holds(server, message):
        return _leave(server, role, role.transition_to, [])
    return _leave(server, role, role.timeout_to, role.timeout_effects(server))


def _leave(server: Server, role: WaitingRole, state: RaftState, effects: list[Effect]) -> Transition:
    """Go on as what we were: a leader with its leadership, or a follower."""
    if state is RaftState.LEADER:
        assert role.resume is not None
        server.role = role.resume
        return Transition(state, effects)
    return Transition(state, [*server.become_follower(), *effects])
