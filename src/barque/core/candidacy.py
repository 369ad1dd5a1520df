"""What a server does alike in a trial election and in a real one (semantics §4, §5)."""

from barque.core import messages as m
from barque.core.elections import on_node_up, refuse_vote, yield_to
from barque.core.elsewhere import ELSEWHERE
from barque.core.heartbeats import heartbeat_reply
from barque.core.membership import yield_to_force
from barque.core.reception import refuse_append_entries
from barque.core.server import RaftState, Server, Transition
from barque.core.snapshot_receiving import refuse_snapshot
from barque.core.table import Row, each, ignore, on
from barque.core.versions import refuse_info


def _on_append_entries(server: Server, rpc: m.AppendEntriesRpc) -> Transition:
    """C-4, C-5, P-1; and P-12, where Ra is silent: an old leader learns our term."""
    if rpc.term >= server.current_term:
        return yield_to(server, rpc.term, rpc)
    return refuse_append_entries(server, rpc)


def _on_heartbeat(server: Server, rpc: m.HeartbeatRpc) -> Transition:
    """C-6, P-1, P-2."""
    if rpc.term >= server.current_term:
        return yield_to(server, rpc.term, rpc)
    return server.stay(heartbeat_reply(server, rpc))


def _on_install_snapshot(server: Server, rpc: m.InstallSnapshotRpc) -> Transition:
    """C-12, C-13, P-5: the term, if it is higher, is taken by the follower."""
    if rpc.term >= server.current_term:
        return yield_to(server, server.current_term, rpc)
    return refuse_snapshot(server, rpc)


def _on_request_vote(server: Server, rpc: m.RequestVoteRpc) -> Transition:
    """C-9, C-10, P-4."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    return refuse_vote(server, rpc)


def _on_reply(server: Server, reply: m.AppendEntriesReply | m.HeartbeatReply) -> Transition:
    """C-7, C-8, P-3."""
    if reply.term > server.current_term:
        return Transition(RaftState.FOLLOWER, server.step_down(reply.term))
    return server.stay()


def _on_info_rpc(server: Server, rpc: m.InfoRpc) -> Transition:
    """C-17, P-10."""
    if rpc.term > server.current_term:
        return yield_to(server, server.current_term, rpc)
    return refuse_info(server, rpc)


def _on_info_reply(server: Server, reply: m.InfoReply) -> Transition:
    """C-17, P-10."""
    if reply.term > server.current_term:
        return yield_to(server, server.current_term, reply)
    return server.stay()


def _on_log_event(server: Server, event: m.LogEvent) -> Transition:
    """C-14, P-11."""
    server.log.handle_event(event)
    return server.stay()


def _on_node_status(server: Server, status: m.NodeStatus) -> Transition:
    """A node came within reach: its members may have missed the question."""
    return on_node_up(server, status.node) if status.up else server.stay()


CANDIDACY: list[list[Row]] = [
    on(m.AppendEntriesRpc, _on_append_entries),
    on(m.HeartbeatRpc, _on_heartbeat),
    on(m.InstallSnapshotRpc, _on_install_snapshot),
    on(m.RequestVoteRpc, _on_request_vote),
    each(_on_reply, m.AppendEntriesReply, m.HeartbeatReply),
    on(m.InfoRpc, _on_info_rpc),
    on(m.InfoReply, _on_info_reply),
    each(_on_log_event, m.Written, m.ResendWrite, m.WalUp, m.WalFailed, m.SnapshotWritten),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, yield_to_force),  # C-16, P-11
    ELSEWHERE,
    # we are trying already
    each(ignore, m.TimeoutNow, m.ServerDown),
    # left over from a leadership that has ended, or a wait
    each(ignore, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout, m.InstallSnapshotResult),
    each(ignore, m.AwaitConditionTimeout, m.ReceiveSnapshotTimeout),
]
