"""The follower: which message goes where (§3.3; semantics §6)."""

from barque.core import messages as m
from barque.core.append_entries import on_append_entries, on_apply_rest, on_follower_log_event
from barque.core.aux_machine import cast_aux
from barque.core.dispatch import LOG_EVENTS, each, ignore, on, total
from barque.core.effects import CancelElectionTimeout, Effect
from barque.core.elections import (
    is_leader_node,
    on_election_timeout,
    on_leader_node_lost,
    on_pre_vote,
    on_request_vote,
    on_server_down,
)
from barque.core.membership import on_force_member_change
from barque.core.not_leader import NOT_LEADER
from barque.core.receive_snapshot import on_install_snapshot
from barque.core.replication import on_heartbeat
from barque.core.state import Server
from barque.core.versions import on_info_rpc


def _on_node_status(server: Server, status: m.NodeStatus) -> list[Effect]:
    """FD-03: the failure detector suspects the leader's node, or no longer does."""
    if not is_leader_node(server, status):
        return []
    return [CancelElectionTimeout()] if status.up else on_leader_node_lost(server)


def _on_tick(server: Server, _tick: m.Tick) -> list[Effect]:
    """TIME-01: of a follower only the aux machine needs ticks."""
    return cast_aux(server, "tick")


FOLLOWER = total(
    "follower",
    on(m.AppendEntriesRpc, on_append_entries),  # F-1
    each(on_follower_log_event, *LOG_EVENTS),  # F-5
    on(m.ApplyRest, on_apply_rest),
    on(m.HeartbeatRpc, on_heartbeat),  # F-3
    on(m.InstallSnapshotRpc, on_install_snapshot),  # F-13 to F-15
    on(m.InfoRpc, on_info_rpc),  # F-19
    # elections
    on(m.RequestVoteRpc, on_request_vote),  # F-7 to F-10
    on(m.PreVoteRpc, on_pre_vote),  # F-6
    each(on_election_timeout, m.ElectionTimeout, m.TimeoutNow),  # F-17
    on(m.ServerDown, on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, on_force_member_change),  # F-18
    NOT_LEADER,
    on(m.Tick, _on_tick),
    # F-11, F-16, F-20: replies to a leadership or a candidacy of this term that has ended
    each(ignore, m.AppendEntriesReply, m.HeartbeatReply, m.InfoReply),
    each(ignore, m.RequestVoteResult, m.PreVoteResult, m.InstallSnapshotResult),
    # left over from a leadership that has ended, or from a wait
    each(ignore, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
)
