"""The leader: which message goes where (§3.5; semantics §3)."""

from barque.core import messages as m
from barque.core.applying import take_callback_effects
from barque.core.aux_machine import cast_aux, on_aux_command, on_node_event_aux, on_process_down_aux
from barque.core.check_quorum import on_quorum_timeout, suspect_if_silent, suspect_quorum_loss
from barque.core.commands import (
    await_wal,
    on_commands,
    on_flush_commands,
    on_machine_append,
    on_machine_timeout,
    on_node_event,
    on_process_down,
)
from barque.core.commitment import on_append_entries_reply, on_apply_rest, on_leader_log_event
from barque.core.dispatch import FROM_LEADER, LOG_EVENTS, each, ignore, impossible, on, total
from barque.core.effects import Effect, TendSnapshots
from barque.core.elections import on_pre_vote_as_leader, refuse_vote
from barque.core.membership import (
    give_way_to_force,
    leave_if_removed,
    name_members,
    on_delete_cluster,
    on_join,
    on_leave,
    promotables_wait,
    promotions_due,
)
from barque.core.queries import on_consistent_aux, on_heartbeat_reply, on_queries
from barque.core.replication import is_stale, make_rpcs, on_pipeline_rpcs, probe_node
from barque.core.snapshots import (
    on_install_snapshot_result,
    on_sender_down,
    on_snapshot_retry,
    sends_snapshots,
)
from barque.core.state import Server
from barque.core.transfer import on_transfer_leadership
from barque.core.versions import asks_on_tick, info_rpcs, on_append_noop, on_info_reply
from barque.machine.machine import Machine
from barque.types import Membership


def _on_wal_failed(server: Server, event: m.WalFailed) -> list[Effect]:
    """L-9: wait for the log at once, before a command fails on it."""
    server.log.handle_event(event)
    return await_wal(server)


def _on_node_status(server: Server, status: m.NodeStatus) -> list[Effect]:
    """FD-03: tell members within reach again that we lead; suspect our quorum when a node is lost."""
    if status.up:
        # It may have missed the question of this term's beginning for its uid.
        return [*probe_node(server, status.node), *info_rpcs(server, unnamed=True)]
    there = [member for member, _ in server.peers if member.node == status.node]
    return suspect_quorum_loss(server, there) if there else []


def _on_server_down(server: Server, event: m.ServerDown) -> list[Effect]:
    """A member has stopped: check that a majority of the voters still answers."""
    return suspect_quorum_loss(server, [event.server]) if event.server in server.cluster else []


def _on_tick(server: Server, tick: m.Tick) -> list[Effect]:
    """TIME-01: repeat lost messages, look after members and versions, and let the machine see the time."""
    effects = [*make_rpcs(server), *suspect_if_silent(server), *info_rpcs(server)]
    if sends_snapshots(server):
        effects.append(TendSnapshots())
    effects += promotions_due(server)
    effects += name_members(server)
    effects += take_callback_effects(server, server.machine.tick(tick.now_ms, server.machine_state), "tick")
    effects += cast_aux(server, "tick")
    return leave_if_removed(server, effects)


def _on_aux(server: Server, command: m.AuxCommand) -> list[Effect]:
    """L-13, L-24."""
    return on_consistent_aux(server, command) if command.consistent else on_aux_command(server, command)


def _on_process_down(server: Server, event: m.ProcessDown) -> list[Effect]:
    """MON-02: for the machine it becomes a command."""
    machine = event.component is m.Component.MACHINE
    return on_process_down(server, event) if machine else on_process_down_aux(server, event)


def _on_node_event(server: Server, event: m.NodeEvent) -> list[Effect]:
    """MON-03: for the machine it becomes a command."""
    machine = event.component is m.Component.MACHINE
    return on_node_event(server, event) if machine else on_node_event_aux(server, event)


def has_leader_work(server: Server) -> bool:
    """Whether a tick has something to do for this leader, besides its aux machine."""
    if server.membership is not Membership.VOTER:
        return True  # it hands over, or asks its successor again
    role = server.leader_role()
    if type(server.machine).tick is not Machine.tick:
        return True
    waiting = bool(role.waiting_queries or role.pending_queries or role.low_priority)
    if waiting or sends_snapshots(server) or any(is_stale(server, peer) for _, peer in server.peers):
        return True
    return promotables_wait(server) or asks_on_tick(server)


LEADER = total(
    "leader",
    # the cluster's work
    on(m.Commands, on_commands),  # L-7 to L-10
    on(m.FlushCommands, on_flush_commands),
    on(m.AppendEntriesReply, on_append_entries_reply),  # L-1 to L-6
    each(on_leader_log_event, *(kind for kind in LOG_EVENTS if kind is not m.WalFailed)),  # L-11, L-12
    on(m.WalFailed, _on_wal_failed),
    on(m.PipelineRpcs, on_pipeline_rpcs),  # L-16
    on(m.Queries, on_queries),  # L-22, L-23
    on(m.HeartbeatReply, on_heartbeat_reply),  # L-26
    on(m.AppendNoop, on_append_noop),
    on(m.ApplyRest, on_apply_rest),
    on(m.Tick, _on_tick),
    # the machine's own
    on(m.MachineTimeout, on_machine_timeout),
    on(m.MachineAppend, on_machine_append),
    on(m.AuxCommand, _on_aux),
    on(m.ProcessDown, _on_process_down),
    on(m.NodeEvent, _on_node_event),
    # members
    on(m.JoinMember, on_join),
    on(m.LeaveMember, on_leave),
    on(m.DeleteCluster, on_delete_cluster),
    on(m.InfoReply, on_info_reply),  # L-34
    on(m.TransferLeadership, on_transfer_leadership),  # L-35
    on(m.ForceMemberChange, give_way_to_force),  # L-36
    # snapshots
    on(m.InstallSnapshotResult, on_install_snapshot_result),  # L-14, L-15
    on(m.SnapshotSenderDown, on_sender_down),
    on(m.SnapshotRetryTimeout, on_snapshot_retry),  # L-17
    # other leaders and candidates
    each(impossible, *FROM_LEADER),  # L-20: two leaders in one term
    on(m.RequestVoteRpc, refuse_vote),  # L-29
    on(m.PreVoteRpc, on_pre_vote_as_leader),  # L-31
    # suspicions
    on(m.NodeStatus, _on_node_status),
    on(m.ServerDown, _on_server_down),
    on(m.QuorumTimeout, on_quorum_timeout),
    # L-32: the election is won; and timers of states that we have left
    each(ignore, m.RequestVoteResult, m.PreVoteResult, m.ElectionTimeout, m.TimeoutNow),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
)
