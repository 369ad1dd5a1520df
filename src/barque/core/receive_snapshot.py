"""Receiving a snapshot: the role and its rules (§5; semantics §7; RECV rows; F-12 to F-15, S-1 to S-13)."""

from collections.abc import Callable

from barque.core import messages as m
from barque.core.append_entries import advance_commit, rewind_to_applied
from barque.core.applying import take_callback_effects
from barque.core.configuration import revert_overwritten
from barque.core.dispatch import LOG_EVENTS, each, ignore, on, total
from barque.core.effects import Effect, SendRpc, StartReceiveTimeout
from barque.core.elections import (
    is_leader_node,
    on_leader_node_lost,
    on_pre_vote,
    on_server_down,
    refuse_vote,
)
from barque.core.events import LogEvent
from barque.core.log_contract import ChunkFlag, Found, Snapshots, find_entry
from barque.core.membership import on_force_member_change
from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc
from barque.core.not_leader import NOT_LEADER
from barque.core.roles import ReceivingRole
from barque.core.state import Server
from barque.core.transitions import become_follower, become_receiver, forget_leader
from barque.core.versions import refuse_info
from barque.errors import StorageError
from barque.types import Index, IndexTerm

# --- the follower --------------------------------------------------------------------------


def on_install_snapshot(server: Server, rpc: InstallSnapshotRpc) -> list[Effect]:
    """F-12 to F-15: begin to receive, or say why not."""
    if server.log.snapshots is None or rpc.meta.machine_version > server.cfg.machine.version:
        # F-15: we could not use it. Silence is safe: the sender keeps its log and tries again.
        return []
    first = rpc.chunk.number <= 1 and rpc.chunk.flag is not ChunkFlag.PRE
    effects = _commit_what_it_proves(server, rpc.meta.position)
    if rpc.meta.position.index <= server.last_applied or not first:
        # F-14, SEND-08: we are at least that far, or have missed the beginning: continue by entries.
        return [*effects, SendRpc(rpc.leader_id, rewind_to_applied(server))]
    try:
        server.log.snapshots.begin_accept(rpc.meta)
    except StorageError:
        return effects  # no room for it; the leader will try again
    if rpc.chunk.flag is ChunkFlag.INIT:
        revert_overwritten(server, Index(server.last_applied + 1))
        server.log.set_last_index(server.last_applied)  # RECV-02
    effects += become_receiver(server, rpc.meta, rpc.chunk.flag)
    return [*effects, *on_chunk(server, rpc)]


def _commit_what_it_proves(server: Server, position: IndexTerm) -> list[Effect]:
    """§5: a snapshot's last entry is committed; if our log has that very entry, keep the log.

    The log may go on behind that entry, and entries that we have acknowledged there may be committed with our
    help: perhaps the leader sent entries first, and then the snapshot because of an older reply of ours.
    """
    if (
        position.index <= server.commit_index
        or find_entry(server.log, position.index, position.term) is not Found.OK
    ):
        return []
    return advance_commit(server, position.index, position.index)


def refuse_snapshot(server: Server, rpc: InstallSnapshotRpc) -> list[Effect]:
    """F-12, C-13: that leader's term is over; it learns ours."""
    return [_result(server, rpc)]


def _result(server: Server, rpc: InstallSnapshotRpc) -> Effect:
    position = rpc.meta.position
    result = InstallSnapshotResult(server.id, server.current_term, position.index, position.term, rpc.chunk)
    return SendRpc(rpc.leader_id, result)


# --- receive_snapshot ----------------------------------------------------------------------


def on_chunk(server: Server, rpc: InstallSnapshotRpc) -> list[Effect]:
    """S-1 to S-6: the next part, if it is the next part of what we receive."""
    role, snapshots = _receiving(server)
    starts_anew = rpc.chunk.flag is ChunkFlag.INIT and role.phase is not ChunkFlag.INIT
    if rpc.meta != role.meta or starts_anew:
        return [*become_follower(server), *on_install_snapshot(server, rpc)]  # S-2: another transfer began
    effects: list[Effect] = [StartReceiveTimeout(server.cfg.receive_snapshot_timeout_ms)]
    try:
        return effects + _PHASES[rpc.chunk.flag](server, role, snapshots, rpc)
    except StorageError:
        return effects + abort_receive(server)  # the disk refused; the leader will try again


def _on_init(server: Server, role: ReceivingRole, _s: Snapshots, rpc: InstallSnapshotRpc) -> list[Effect]:
    """S-1: live entries will follow."""
    role.live = True
    return [_result(server, rpc)]


def _on_pre(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc
) -> list[Effect]:
    """S-3: take entries that the snapshot leaves out, except entries that we have applied already."""
    role.phase = ChunkFlag.PRE
    snapshots.accept_live([batch for batch in rpc.entries if batch.last_index > server.last_applied])
    return [_result(server, rpc)]


def _on_next(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc
) -> list[Effect]:
    """S-4: a piece; after a gap the leader has to send the whole again."""
    if not snapshots.accept_chunk(rpc.chunk.number, rpc.data):
        return abort_receive(server)
    role.phase = ChunkFlag.NEXT
    return [_result(server, rpc)]


def _on_last(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc
) -> list[Effect]:
    """S-5, S-6: the last piece; install when all live entries are on disk."""
    if role.live and snapshots.live_pending():
        role.awaiting_pending = rpc
        return []
    if not snapshots.accept_chunk(rpc.chunk.number, rpc.data):
        return abort_receive(server)
    wishes = _install(server, role, snapshots)
    return [*wishes, *become_follower(server), _result(server, rpc)]


_Phase = Callable[[Server, ReceivingRole, Snapshots, InstallSnapshotRpc], list[Effect]]
_PHASES: dict[ChunkFlag, _Phase] = {
    ChunkFlag.INIT: _on_init,
    ChunkFlag.PRE: _on_pre,
    ChunkFlag.NEXT: _on_next,
    ChunkFlag.LAST: _on_last,
}


def _install(server: Server, role: ReceivingRole, snapshots: Snapshots) -> list[Effect]:
    """S-6, RECV-08: the snapshot takes the place of log and state."""
    meta = role.meta
    old = IndexTerm(server.last_applied, server.log.fetch_term(server.last_applied) or server.current_term)
    old_state = server.machine_state
    data = snapshots.complete_accept()
    role.installed = True
    position = meta.position
    if meta.machine_version != server.effective_machine_version:
        server.use_machine_version(position.index, meta.machine_version)
    server.machine_state = server.machine.decode_state(data, dict(server.cfg.machine_args))
    server.commit_index = server.last_applied = position.index
    server.persisted_last_applied = position.index
    server.config_history.clear()
    server.adopt_cluster(position, list(meta.cluster))
    wanted = server.machine.snapshot_installed(position, server.machine_state, old, old_state)
    return take_callback_effects(wanted)


def abort_receive(server: Server) -> list[Effect]:
    """S-9: drop what was received. The leader sends the snapshot again, if it still leads."""
    forget_leader(server)
    return become_follower(server)


def on_receiving_log_event(server: Server, event: LogEvent) -> list[Effect]:
    """S-8: when the live entries are on disk, the last chunk may go on."""
    server.log.handle_event(event)
    role, snapshots = _receiving(server)
    if role.awaiting_pending is None or snapshots.live_pending():
        return []
    rpc, role.awaiting_pending = role.awaiting_pending, None
    return on_chunk(server, rpc)


def _receiving(server: Server) -> tuple[ReceivingRole, Snapshots]:
    role, snapshots = server.role, server.log.snapshots
    assert isinstance(role, ReceivingRole)
    assert snapshots is not None
    return role, snapshots


# --- the table -------------------------------------------------------------------------------


def _on_timeout(server: Server, _message: m.ReceiveSnapshotTimeout) -> list[Effect]:
    """S-9."""
    return abort_receive(server)


def _on_server_down(server: Server, event: m.ServerDown) -> list[Effect]:
    """§10.10: the leader that sends the snapshot is gone."""
    if event.server != server.leader_id:
        return []
    return [*become_follower(server), *on_server_down(server, event)]


def _on_node_status(server: Server, status: m.NodeStatus) -> list[Effect]:
    """§10.10: the failure detector suspects the node of the leader that sends the snapshot."""
    if status.up or not is_leader_node(server, status):
        return []
    return [*become_follower(server), *on_leader_node_lost(server)]


def _on_wal_failed(server: Server, event: m.WalFailed) -> list[Effect]:
    """Nothing more can be written; the leader will send the snapshot again."""
    server.log.handle_event(event)
    return abort_receive(server)


def _on_force(server: Server, force: m.ForceMemberChange) -> list[Effect]:
    """The quorum is lost for good: drop what was received (Ra lets the caller wait in vain, MEMB-15)."""
    return [*abort_receive(server), *on_force_member_change(server, force)]


RECEIVE_SNAPSHOT = total(
    "receive_snapshot",
    on(m.InstallSnapshotRpc, on_chunk),  # S-1 to S-6
    each(on_receiving_log_event, *(kind for kind in LOG_EVENTS if kind is not m.WalFailed)),  # S-8
    on(m.WalFailed, _on_wal_failed),
    on(m.ReceiveSnapshotTimeout, _on_timeout),
    on(m.InfoRpc, refuse_info),  # S-10
    on(m.RequestVoteRpc, refuse_vote),  # S-11
    on(m.PreVoteRpc, on_pre_vote),  # S-12
    on(m.ServerDown, _on_server_down),
    on(m.NodeStatus, _on_node_status),
    on(m.ForceMemberChange, _on_force),
    NOT_LEADER,
    # S-7: entries of the leader that sends the snapshot; it sends them again afterwards
    on(m.AppendEntriesRpc, ignore),
    # S-13: no reply from here
    on(m.HeartbeatRpc, ignore),
    # replies of our own term to a server that asked nothing in it
    each(ignore, m.AppendEntriesReply, m.HeartbeatReply, m.InstallSnapshotResult, m.InfoReply),
    each(ignore, m.RequestVoteResult, m.PreVoteResult),
    # campaigning makes no sense with half a snapshot; the receive timeout ends this state
    each(ignore, m.TimeoutNow, m.ElectionTimeout),
    # left over from other states
    each(ignore, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout, m.AwaitConditionTimeout),
)
