"""The follower: which message goes where (§3.3; semantics §6)."""

from barque.core import messages as m
from barque.core.aux_machine import cast_aux
from barque.core.effects import CancelElectionTimeout, StartElectionTimeout, TimerSpan
from barque.core.elections import on_election_timeout, on_pre_vote, on_request_vote
from barque.core.elsewhere import ELSEWHERE
from barque.core.heartbeats import on_heartbeat
from barque.core.membership import on_force_member_change
from barque.core.reception import on_append_entries, on_follower_log_event
from barque.core.server import Server, Transition
from barque.core.snapshot_receiving import on_install_snapshot
from barque.core.table import each, ignore, on, total
from barque.core.versions import on_info_rpc


def handle_follower(server: Server, message: m.Message) -> Transition:
    """One message to a follower."""
    return FOLLOWER[type(message)](server, message)


def _take_term(server: Server, message: m.AppendEntriesReply | m.HeartbeatReply | m.InfoReply) -> Transition:
    """F-11, F-20: an answer to a leader that we are no more; only its term is news."""
    return server.stay(*server.adopt_term(message.term))


def _on_info_rpc(server: Server, rpc: m.InfoRpc) -> Transition:
    """F-19."""
    effects = server.adopt_term(rpc.term)
    return server.stay(*effects, *on_info_rpc(server, rpc).effects)


def _on_election_timeout(server: Server, _message: m.ElectionTimeout | m.TimeoutNow) -> Transition:
    """F-17."""
    return on_election_timeout(server)


def _on_server_down(server: Server, message: m.ServerDown) -> Transition:
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


def _on_node_status(server: Server, message: m.NodeStatus) -> Transition:
    """FD-03: the failure detector suspects the leader's node, or no longer does."""
    if server.leader_id is None or server.leader_id.node != message.node:
        return server.stay()
    return server.stay(CancelElectionTimeout() if message.up else StartElectionTimeout())


def _on_tick(server: Server, _tick: m.Tick) -> Transition:
    """TIME-01: only an aux machine lives by the clock here."""
    return server.stay(*cast_aux(server, "tick"))


FOLLOWER = total(
    "follower",
    on(m.AppendEntriesRpc, on_append_entries),  # F-1, F-2
    each(  # F-5
        on_follower_log_event, m.Written, m.ResendWrite, m.WalUp, m.WalFailed, m.SnapshotWritten
    ),
    on(m.HeartbeatRpc, on_heartbeat),  # F-3, F-4
    on(m.InstallSnapshotRpc, on_install_snapshot),  # F-12 to F-15
    on(m.InfoRpc, _on_info_rpc),
    each(_take_term, m.AppendEntriesReply, m.HeartbeatReply, m.InfoReply),
    # elections
    on(m.RequestVoteRpc, on_request_vote),  # F-7 to F-10
    on(m.PreVoteRpc, on_pre_vote),  # F-6
    each(_on_election_timeout, m.ElectionTimeout, m.TimeoutNow),
    on(m.ServerDown, _on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, on_force_member_change),  # F-18
    ELSEWHERE,
    on(m.Tick, _on_tick),
    # F-16: late answers to a candidacy that we gave up
    each(ignore, m.RequestVoteResult, m.PreVoteResult, m.InstallSnapshotResult),
    # left over from a leadership that has ended, or a wait
    each(ignore, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
)
