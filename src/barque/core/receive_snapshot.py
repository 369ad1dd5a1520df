"""Receiving a snapshot: the role and its rules (§5; semantics §7; RECV rows; F-12 to F-15, S-1 to S-13)."""

from barque.core import messages as m, packing
from barque.core.append_entries import advance_commit, rewind_to_applied
from barque.core.applying import take_callback_effects
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
from barque.core.log_contract import Accepts, ChunkFlag, Found, SnapshotMeta, find_entry
from barque.core.membership import on_force_member_change
from barque.core.messages import ChunkOutcome, InstallSnapshotResult, InstallSnapshotRpc
from barque.core.not_leader import NOT_LEADER
from barque.core.roles import ReceivingRole
from barque.core.state import Server
from barque.core.transitions import become_follower, become_receiver, forget_leader
from barque.core.versions import refuse_info
from barque.errors import StorageError
from barque.machine.machine import bound_module
from barque.types import IndexTerm

# --- the follower --------------------------------------------------------------------------


def on_install_snapshot(server: Server, rpc: InstallSnapshotRpc) -> list[Effect]:
    """F-12 to F-15: begin to receive, or say why not."""
    if rpc.meta.machine_version > server.cfg.machine.version:
        return []  # F-15: we could not use it. Silence is safe: the sender gives up, and tries again later
    effects = _commit_what_it_proves(server, rpc.meta.position)
    if rpc.meta.position.index <= server.commit_index:
        # F-14, SEND-08: we have that much, and may still be applying it: continue by entries.
        ahead = _result(server, rpc, ChunkOutcome.AHEAD)
        return [*effects, ahead, SendRpc(rpc.leader_id, rewind_to_applied(server))]
    if rpc.chunk.number > 1 or rpc.chunk.flag is ChunkFlag.PRE:
        # F-14, RECV-01: we have missed the beginning.
        refused = _result(server, rpc, ChunkOutcome.REFUSED)
        return [*effects, refused, SendRpc(rpc.leader_id, rewind_to_applied(server))]
    try:
        server.log.snapshots.begin_accept(rpc.meta)
    except StorageError:
        return effects  # no room for it; the leader will try again
    # Ra cuts its log here (RECV-02), because survivors are written into it. We keep them apart, and the log
    # stays whole until the snapshot is installed: a majority may need entries that we have acknowledged.
    effects += become_receiver(server, rpc.meta)
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
    return [_result(server, rpc, ChunkOutcome.REFUSED)]


def _result(
    server: Server, rpc: InstallSnapshotRpc, outcome: ChunkOutcome, accepts: Accepts | None = None
) -> Effect:
    result = InstallSnapshotResult(
        server.id, server.current_term, rpc.term, rpc.meta.position, rpc.chunk, outcome, accepts
    )
    return SendRpc(rpc.leader_id, result)


def accepts_of(server: Server, meta: SnapshotMeta) -> Accepts:
    """SEND-02: what we can unpack, and which module would read the snapshot here. Raises `StorageError`."""
    module = bound_module(server.cfg.machine.which_module(meta.machine_version), server.cfg.machine_args)
    if module is None:
        return Accepts(packing.available())
    return Accepts(packing.available(), module.name, module.version, module.context())


# --- receive_snapshot ----------------------------------------------------------------------


def on_chunk(server: Server, rpc: InstallSnapshotRpc) -> list[Effect]:
    """S-1 to S-6: the next part, if it is the next part of what we receive."""
    role = _receiving(server)
    begun = bool(role.live_chunks) or role.pieces > 0
    if rpc.meta != role.meta or (rpc.chunk.flag is ChunkFlag.INIT and begun):
        return [*become_follower(server), *on_install_snapshot(server, rpc)]  # S-2: another transfer began
    effects: list[Effect] = [StartReceiveTimeout(server.cfg.receive_snapshot_timeout_ms)]
    if role.last is not None:
        return [*effects, _result(server, rpc, ChunkOutcome.WORKING)]
    accepts = None
    try:
        match rpc.chunk.flag:
            case ChunkFlag.INIT:  # S-1: live entries may follow
                role.live_chunks, taken = 0, True
                accepts = accepts_of(server, rpc.meta)
            case ChunkFlag.PRE:
                taken = _take_live(server, role, rpc)
            case _:
                taken = _take_piece(server, role, rpc)
    except (StorageError, packing.UnpackError):
        return effects + abort_receive(server)  # the disk or the data refused; the leader will try again
    if not taken:
        return effects + abort_receive(server)  # a gap: the leader has to send the whole again
    outcome = ChunkOutcome.TAKEN if role.last is None else ChunkOutcome.WORKING
    return [*effects, _result(server, rpc, outcome, accepts)]


def _take_live(server: Server, role: ReceivingRole, rpc: InstallSnapshotRpc) -> bool:
    """S-3: take entries that survive below the snapshot. A repeated chunk changes nothing."""
    if role.live_chunks is None or rpc.chunk.number > role.live_chunks + 1:
        return False
    if rpc.chunk.number == role.live_chunks + 1:
        server.log.snapshots.accept_live(rpc.entries)
        role.live_chunks += 1
    return True


def _take_piece(server: Server, role: ReceivingRole, rpc: InstallSnapshotRpc) -> bool:
    """S-4, S-5: take a piece. After the last one the store checks them and restores the state."""
    snapshots = server.log.snapshots
    number = rpc.chunk.number - (role.live_chunks or 0)
    if not snapshots.accept_chunk(number, packing.unpack(rpc.data, rpc.packing)):
        return False
    role.pieces = max(role.pieces, number)
    if rpc.chunk.flag is ChunkFlag.LAST:
        restoring = server.cfg.machine.which_module(rpc.meta.machine_version)
        arguments = dict(server.cfg.machine_args)
        module = bound_module(restoring, arguments)
        snapshots.complete_accept(lambda pieces: restoring.restore(pieces, arguments), module)
        role.last = rpc
    return True


def _on_accepted(server: Server, event: m.SnapshotAccepted) -> list[Effect]:
    """S-6: the snapshot is on disk and its state restored: install it."""
    role = _receiving(server)
    if role.last is None or event.position != role.meta.position:
        return []  # of a transfer that we gave up
    try:
        wishes = _install(server, role)
    except StorageError:
        return abort_receive(server)
    return [*wishes, *become_follower(server), _result(server, role.last, ChunkOutcome.INSTALLED)]


def _on_accept_failed(server: Server, event: m.AcceptFailed) -> list[Effect]:
    """The snapshot cannot be used here; the leader gives up after a while, and sends it again."""
    role = _receiving(server)
    if role.last is None or event.position != role.meta.position:
        return []
    return [_result(server, role.last, ChunkOutcome.REFUSED), *abort_receive(server)]


def _install(server: Server, role: ReceivingRole) -> list[Effect]:
    """S-6, RECV-08: the snapshot takes the place of log and state. Raises `StorageError`, nothing changed."""
    meta = role.meta
    old = IndexTerm(server.last_applied, server.log.fetch_term(server.last_applied) or server.current_term)
    old_state = server.machine_state
    server.machine_state = server.log.snapshots.install_accepted()
    role.installed = True
    position = meta.position
    server.log.install(position)
    server.begin_from(meta)
    wanted = server.machine.snapshot_installed(position, server.machine_state, old, old_state)
    return take_callback_effects(server, wanted, "snapshot_installed")


def abort_receive(server: Server) -> list[Effect]:
    """S-9: drop what was received. The leader sends the snapshot again, if it still leads."""
    forget_leader(server)
    return become_follower(server)


def on_receiving_log_event(server: Server, event: LogEvent) -> list[Effect]:
    """S-8: our own writes go on."""
    server.log.handle_event(event)
    return []


def _receiving(server: Server) -> ReceivingRole:
    role = server.role
    assert isinstance(role, ReceivingRole)
    return role


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


_OWN_EVENTS = {m.WalFailed, m.SnapshotAccepted, m.AcceptFailed}
RECEIVE_SNAPSHOT = total(
    "receive_snapshot",
    on(m.InstallSnapshotRpc, on_chunk),  # S-1 to S-6
    on(m.SnapshotAccepted, _on_accepted),  # S-6
    on(m.AcceptFailed, _on_accept_failed),
    each(on_receiving_log_event, *(set(LOG_EVENTS) - _OWN_EVENTS)),  # S-8
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
    on(m.ApplyRest, ignore),  # the snapshot has these entries; without it a follower goes on
    each(ignore, m.Tick, m.PipelineRpcs, m.FlushCommands, m.AppendNoop, m.MachineTimeout, m.MachineAppend),
    each(ignore, m.SnapshotSenderDown, m.SnapshotRetryTimeout, m.QuorumTimeout, m.AwaitConditionTimeout),
)
