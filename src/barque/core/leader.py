"""The leader: which message goes where (§3.5; semantics §3)."""

from barque.core import messages as m
from barque.core.applying import take_callback_effects
from barque.core.aux_machine import cast_aux, on_aux_command, on_client_down_aux, on_node_event_aux
from barque.core.check_quorum import doubt, doubt_if_silent, on_quorum_timeout
from barque.core.commands import (
    await_wal,
    on_client_down,
    on_commands,
    on_flush_commands,
    on_machine_append,
    on_machine_timeout,
    on_node_event,
)
from barque.core.elections import refuse_vote, yield_to, yield_to_member
from barque.core.heartbeats import heartbeat_reply
from barque.core.membership import (
    leave_if_removed,
    name_members,
    on_delete_cluster,
    on_join,
    on_leave,
    promotions_due,
    yield_to_force,
)
from barque.core.progress import on_append_entries_reply, on_leader_log_event
from barque.core.queries import on_consistent_aux, on_heartbeat_reply, on_queries
from barque.core.reception import refuse_append_entries
from barque.core.replication import greet, make_all_rpcs, make_rpcs, on_pipeline_rpcs
from barque.core.server import Server, Transition
from barque.core.snapshot_receiving import refuse_snapshot
from barque.core.snapshot_sending import on_install_snapshot_result, on_sender_down, on_snapshot_retry
from barque.core.table import each, ignore, on, total
from barque.core.transfer import on_transfer_leadership
from barque.core.upgrade import info_rpcs
from barque.core.versions import on_append_noop, on_info_reply, on_info_rpc
from barque.errors import InvariantViolation


def handle_leader(server: Server, message: m.Message) -> Transition:
    """One message to the leader of the current term."""
    return LEADER[type(message)](server, message)


def _on_append_entries(server: Server, rpc: m.AppendEntriesRpc) -> Transition:
    """L-19 to L-21. Two leaders in one term cannot be; if they are, stop before harm is done."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    if rpc.term == server.current_term:
        raise InvariantViolation(f"{server.id} and {rpc.leader_id} both lead in term {rpc.term}")
    return refuse_append_entries(server, rpc)


def _on_heartbeat(server: Server, rpc: m.HeartbeatRpc) -> Transition:
    """L-25, with the same impossibility as for AppendEntries."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    if rpc.term == server.current_term:
        raise InvariantViolation(f"{server.id} and {rpc.leader_id} both lead in term {rpc.term}")
    return server.stay(heartbeat_reply(server, rpc))


def _on_install_snapshot(server: Server, rpc: m.InstallSnapshotRpc) -> Transition:
    """L-18. In our own term nobody else can send one."""
    if rpc.term > server.current_term:
        return yield_to_member(server, rpc.term, rpc.leader_id, rpc)
    if rpc.term == server.current_term:
        raise InvariantViolation(f"{server.id} and {rpc.leader_id} both lead in term {rpc.term}")
    return refuse_snapshot(server, rpc)


def _on_request_vote(server: Server, rpc: m.RequestVoteRpc) -> Transition:
    """L-28, L-29."""
    if rpc.term > server.current_term:
        return yield_to_member(server, rpc.term, rpc.candidate_id, rpc)
    return refuse_vote(server, rpc)


def _on_pre_vote(server: Server, rpc: m.PreVoteRpc) -> Transition:
    """L-30, L-31: somebody has not heard from us."""
    if rpc.term > server.current_term:
        return yield_to_member(server, rpc.term, rpc.candidate_id, rpc)
    return server.stay(*make_all_rpcs(server))


def _on_info_rpc(server: Server, rpc: m.InfoRpc) -> Transition:
    """L-33: only leaders ask."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    return on_info_rpc(server, rpc)


def _on_info_reply(server: Server, reply: m.InfoReply) -> Transition:
    """L-34; but a stranger cannot depose us by an answer (ELEC-11)."""
    if reply.term > server.current_term:
        return yield_to_member(server, reply.term, reply.sender, reply)
    return on_info_reply(server, reply)


def _on_wal_failed(server: Server, event: m.WalFailed) -> Transition:
    """L-9, before any command has to find out."""
    server.log.handle_event(event)
    return await_wal(server)


def _on_node_status(server: Server, status: m.NodeStatus) -> Transition:
    """FD-03: tell members who came within reach that we lead; doubt our quorum when some went."""
    if status.up:
        return server.stay(*greet(server, status.node))
    concerned = any(member.node == status.node for member, _ in server.peers())
    return server.stay(*(doubt(server) if concerned else []))


def _on_server_down(server: Server, event: m.ServerDown) -> Transition:
    """A member has stopped; do enough others run?"""
    return server.stay(*(doubt(server) if event.server in server.cluster else []))


def _on_tick(server: Server, tick: m.Tick) -> Transition:
    """TIME-01: repair what was lost on the way, and let the machine look at the time."""
    effects = [*make_rpcs(server), *doubt_if_silent(server), *info_rpcs(server)]
    effects += promotions_due(server)
    effects += name_members(server)
    effects += take_callback_effects(server.machine.tick(tick.now_ms, server.machine_state))
    effects += cast_aux(server, "tick")
    return leave_if_removed(server, effects)


def _on_aux(server: Server, command: m.AuxCommand) -> Transition:
    """L-13, L-24."""
    return on_consistent_aux(server, command) if command.consistent else on_aux_command(server, command)


def _on_client_down(server: Server, event: m.ClientDown) -> Transition:
    """MON-02: for the machine it becomes a command."""
    machine = event.component is m.Component.MACHINE
    return on_client_down(server, event) if machine else on_client_down_aux(server, event)


def _on_node_event(server: Server, event: m.NodeEvent) -> Transition:
    """MON-03: for the machine it becomes a command."""
    machine = event.component is m.Component.MACHINE
    return on_node_event(server, event) if machine else on_node_event_aux(server, event)


LEADER = total(
    "leader",
    # the cluster's work
    on(m.Commands, on_commands),  # L-7 to L-10
    on(m.FlushCommands, on_flush_commands),
    on(m.AppendEntriesReply, on_append_entries_reply),  # L-1 to L-6
    each(on_leader_log_event, m.Written, m.ResendWrite, m.WalUp, m.SnapshotWritten),  # L-11, L-12
    on(m.WalFailed, _on_wal_failed),
    on(m.PipelineRpcs, on_pipeline_rpcs),  # L-16
    on(m.Queries, on_queries),  # L-22, L-23
    on(m.HeartbeatReply, on_heartbeat_reply),  # L-26, L-27
    on(m.AppendNoop, on_append_noop),
    on(m.Tick, _on_tick),
    # the machine's own
    on(m.MachineTimeout, on_machine_timeout),
    on(m.MachineAppend, on_machine_append),
    on(m.AuxCommand, _on_aux),
    on(m.ClientDown, _on_client_down),
    on(m.NodeEvent, _on_node_event),
    # members
    on(m.JoinMember, on_join),
    on(m.LeaveMember, on_leave),
    on(m.DeleteCluster, on_delete_cluster),
    on(m.InfoRpc, _on_info_rpc),
    on(m.InfoReply, _on_info_reply),
    on(m.TransferLeadership, on_transfer_leadership),  # L-35
    on(m.ForceMemberChange, yield_to_force),  # L-36
    # snapshots
    on(m.InstallSnapshotResult, on_install_snapshot_result),  # L-14, L-15
    on(m.SnapshotSenderDown, on_sender_down),
    on(m.SnapshotRetryTimeout, on_snapshot_retry),
    # others who lead, or want to
    on(m.AppendEntriesRpc, _on_append_entries),
    on(m.HeartbeatRpc, _on_heartbeat),
    on(m.InstallSnapshotRpc, _on_install_snapshot),
    on(m.RequestVoteRpc, _on_request_vote),
    on(m.PreVoteRpc, _on_pre_vote),
    # doubts
    on(m.NodeStatus, _on_node_status),
    on(m.ServerDown, _on_server_down),
    on(m.QuorumTimeout, on_quorum_timeout),
    # L-32: the election is won; and timers of states that we have left
    each(ignore, m.RequestVoteResult, m.PreVoteResult, m.ElectionTimeout, m.TimeoutNow),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
)
