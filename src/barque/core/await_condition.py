"""Waiting for one thing to come true (CORE-06; semantics §8)."""

from barque.core import messages as m
from barque.core.effects import Effect, NextEvent
from barque.core.elections import on_election_timeout, on_pre_vote, yield_to
from barque.core.elsewhere import ELSEWHERE
from barque.core.membership import yield_to_force
from barque.core.progress import note_while_waiting
from barque.core.roles import WaitingRole
from barque.core.server import RaftState, Server, Transition
from barque.core.snapshot_sending import on_sender_down
from barque.core.table import each, ignore, on, total


def handle_await_condition(server: Server, message: m.Message) -> Transition:
    """One message to a server that waits."""
    return AWAIT_CONDITION[type(message)](server, message)


def _waiting(server: Server) -> WaitingRole:
    assert isinstance(server.role, WaitingRole)
    return server.role


def _on_request_vote(server: Server, rpc: m.RequestVoteRpc) -> Transition:
    """W-1."""
    return yield_to(server, server.current_term, rpc)


def _on_election_timeout(server: Server, _message: m.ElectionTimeout | m.TimeoutNow) -> Transition:
    """W-3."""
    return on_election_timeout(server)


def _on_server_down(server: Server, event: m.ServerDown) -> Transition:
    """§10.9: the leader that we wait for is gone."""
    gone = event.server == server.leader_id
    return yield_to(server, server.current_term, event) if gone else server.stay()


def _on_node_status(server: Server, message: m.NodeStatus) -> Transition:
    """FD-03; and a leader that comes within reach may have missed what we told it: say it again."""
    role, leader = _waiting(server), server.leader_id
    if leader is None or leader.node != message.node:
        return server.stay()
    if message.up:
        return server.stay(*role.timeout_effects(server))
    return yield_to(server, server.current_term, message)


def _on_pre_vote(server: Server, rpc: m.PreVoteRpc) -> Transition:
    """W-2; but a leader that waits must not carry its leadership into a higher term."""
    if _waiting(server).resume is not None and rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    return on_pre_vote(server, rpc)


def _check(server: Server, message: m.Message) -> Transition:
    """W-6: if it holds now, leave, and handle the message there; if not, the message is lost."""
    role = _waiting(server)
    if not role.condition.holds(server, message):
        return server.stay()
    return _leave(server, role, role.transition_to, [NextEvent(message)])


def _on_append_entries_reply(server: Server, reply: m.AppendEntriesReply) -> Transition:
    """W-6; but a leader goes on to learn who has what."""
    if _waiting(server).resume is not None:
        note_while_waiting(server, reply)
    return _check(server, reply)


def _on_log_event(server: Server, event: m.LogEvent) -> Transition:
    """W-5."""
    server.log.handle_event(event)
    role = _waiting(server)
    if not role.condition.holds(server, event):
        return server.stay()
    return _leave(server, role, role.transition_to, [])


def _on_timeout(server: Server, message: m.AwaitConditionTimeout) -> Transition:
    """W-4: look once more, then give up as arranged."""
    role = _waiting(server)
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


AWAIT_CONDITION = total(
    "await_condition",
    on(m.RequestVoteRpc, _on_request_vote),
    on(m.PreVoteRpc, _on_pre_vote),  # W-2
    each(_on_election_timeout, m.ElectionTimeout, m.TimeoutNow),
    on(m.AwaitConditionTimeout, _on_timeout),
    each(_on_log_event, m.Written, m.ResendWrite, m.WalUp, m.WalFailed, m.SnapshotWritten),
    on(m.ServerDown, _on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.SnapshotSenderDown, on_sender_down),
    on(m.ForceMemberChange, yield_to_force),  # Ra lets the caller wait in vain (MEMB-15)
    # §10.9: nobody is served meanwhile
    ELSEWHERE,
    # W-6; heartbeats are not answered from here (QRY-19)
    on(m.AppendEntriesReply, _on_append_entries_reply),
    each(_check, m.AppendEntriesRpc, m.InstallSnapshotRpc, m.HeartbeatRpc, m.InfoRpc),
    each(_check, m.HeartbeatReply, m.InstallSnapshotResult, m.InfoReply),
    each(_check, m.RequestVoteResult, m.PreVoteResult),
    # a waiting leader's own business
    each(_check, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotRetryTimeout, m.QuorumTimeout, m.ReceiveSnapshotTimeout),
)
