"""Receiving a snapshot: which message goes where (semantics §7)."""

from barque.core import messages as m
from barque.core.elections import on_pre_vote, refuse_vote
from barque.core.elsewhere import ELSEWHERE
from barque.core.server import Server, Transition
from barque.core.snapshot_receiving import abort_for, abort_receive, on_chunk, on_receiving_log_event
from barque.core.table import each, ignore, on, total
from barque.core.versions import refuse_info


def handle_receive_snapshot(server: Server, message: m.Message) -> Transition:
    """One message to a server that receives a snapshot."""
    return RECEIVE_SNAPSHOT[type(message)](server, message)


def _on_append_entries(server: Server, rpc: m.AppendEntriesRpc) -> Transition:
    """S-7: only another leader's is of interest."""
    return abort_for(server, rpc) if rpc.term > server.current_term else server.stay()


def _on_request_vote(server: Server, rpc: m.RequestVoteRpc) -> Transition:
    """S-11."""
    return abort_for(server, rpc) if rpc.term > server.current_term else refuse_vote(server, rpc)


def _on_info_rpc(server: Server, rpc: m.InfoRpc) -> Transition:
    """S-10."""
    return abort_for(server, rpc) if rpc.term > server.current_term else refuse_info(server, rpc)


def _on_info_reply(server: Server, reply: m.InfoReply) -> Transition:
    """S-10."""
    return abort_for(server, reply) if reply.term > server.current_term else server.stay()


def _on_timeout(server: Server, _message: m.ReceiveSnapshotTimeout) -> Transition:
    """S-9."""
    return abort_receive(server, [])


def _on_server_down(server: Server, event: m.ServerDown) -> Transition:
    """§10.10: the leader that sends it is gone."""
    return abort_for(server, event) if event.server == server.leader_id else server.stay()


def _on_node_status(server: Server, status: m.NodeStatus) -> Transition:
    """§10.10, as far as the failure detector knows."""
    leader = server.leader_id
    gone = not status.up and leader is not None and leader.node == status.node
    return abort_for(server, status) if gone else server.stay()


def _on_wal_failed(server: Server, event: m.WalFailed) -> Transition:
    """Nothing more can be written; the leader will send it again."""
    server.log.handle_event(event)
    return abort_receive(server, [])


RECEIVE_SNAPSHOT = total(
    "receive_snapshot",
    on(m.InstallSnapshotRpc, on_chunk),  # S-1 to S-6
    on(m.AppendEntriesRpc, _on_append_entries),
    each(on_receiving_log_event, m.Written, m.ResendWrite, m.WalUp, m.SnapshotWritten),  # S-8
    on(m.WalFailed, _on_wal_failed),
    on(m.ReceiveSnapshotTimeout, _on_timeout),
    on(m.InfoRpc, _on_info_rpc),
    on(m.InfoReply, _on_info_reply),
    on(m.RequestVoteRpc, _on_request_vote),
    on(m.PreVoteRpc, on_pre_vote),  # S-12
    on(m.ServerDown, _on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, abort_for),  # Ra lets the caller wait in vain (MEMB-15)
    ELSEWHERE,
    # S-13: no answer, and no new term
    each(ignore, m.HeartbeatRpc, m.HeartbeatReply, m.AppendEntriesReply, m.InstallSnapshotResult),
    each(ignore, m.RequestVoteResult, m.PreVoteResult, m.TimeoutNow, m.ElectionTimeout),
    # left over from other states
    each(ignore, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout, m.AwaitConditionTimeout),
)
