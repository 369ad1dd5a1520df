"""A follower and the snapshot that it receives (§5; RECV-01 to RECV-08; F-12 to F-15, S-1 to S-13)."""

from collections.abc import Callable

from barque.core.applying import take_callback_effects
from barque.core.configuration import revert_overwritten
from barque.core.consistency import Found, has_entry
from barque.core.effects import Effect, NextEvent, SendRpc, StartReceiveTimeout
from barque.core.events import LogEvent
from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc, Message
from barque.core.reception import advance_commit, rewind_to_applied
from barque.core.roles import ReceivingRole
from barque.core.server import RaftState, Server, Transition
from barque.core.snapshots import ChunkFlag, Snapshots
from barque.errors import StorageError
from barque.types import Index, IndexTerm

# --- the follower --------------------------------------------------------------------------


def on_install_snapshot(server: Server, rpc: InstallSnapshotRpc) -> Transition:
    """F-12 to F-15: begin to receive, or say why not."""
    if rpc.term < server.current_term:
        return server.stay(_result(server, rpc))  # F-12: an old leader learns the term
    if server.log.snapshots is None or rpc.meta.machine_version > server.cfg.machine.version:
        # F-15: nothing that we could take. Silence is safe: the sender keeps its log and asks again.
        return server.stay()
    effects = server.adopt_term(rpc.term)
    first = rpc.chunk.number <= 1 and rpc.chunk.flag is not ChunkFlag.PRE
    effects += _commit_what_it_proves(server, rpc.meta.position)
    if rpc.meta.position.index <= server.last_applied or not first:
        # F-14, SEND-08: we are at least that far, or have missed the beginning; go on from here.
        go_on = SendRpc(rpc.leader_id, rewind_to_applied(server))
        return server.stay(*effects, server.follow(rpc.leader_id), go_on)
    try:
        server.log.snapshots.begin_accept(rpc.meta)
    except StorageError:
        return server.stay(*effects)  # no room for it; the leader will try again
    if rpc.chunk.flag is ChunkFlag.INIT:
        revert_overwritten(server, Index(server.last_applied + 1))
        server.log.set_last_index(server.last_applied)  # RECV-02
    effects.append(server.follow(rpc.leader_id))
    server.role = ReceivingRole(rpc.meta, rpc.chunk.flag)
    return Transition(RaftState.RECEIVE_SNAPSHOT, [*effects, NextEvent(rpc)])


def _commit_what_it_proves(server: Server, position: IndexTerm) -> list[Effect]:
    """§5: a snapshot's last entry is committed; if our log has that very entry, we keep our log.

    It may go on behind that entry, and what we have acknowledged there may be committed with our
    help: the leader may have sent entries first, and the snapshot by a reply that was under way.
    """
    if (
        position.index <= server.commit_index
        or has_entry(server, position.index, position.term) is not Found.OK
    ):
        return []
    return advance_commit(server, position.index, position.index)


def refuse_snapshot(server: Server, rpc: InstallSnapshotRpc) -> Transition:
    """C-13: that leader's term is over."""
    return server.stay(_result(server, rpc))


def _result(server: Server, rpc: InstallSnapshotRpc) -> Effect:
    position = rpc.meta.position
    result = InstallSnapshotResult(server.id, server.current_term, position.index, position.term, rpc.chunk)
    return SendRpc(rpc.leader_id, result)


# --- receive_snapshot ----------------------------------------------------------------------


def on_chunk(server: Server, rpc: InstallSnapshotRpc) -> Transition:
    """S-1 to S-6: the next part, if it is the next part of what we receive."""
    role, snapshots = _receiving(server)
    if rpc.term < server.current_term:
        return refuse_snapshot(server, rpc)
    other = rpc.meta != role.meta or rpc.leader_id != server.leader_id
    effects: list[Effect] = [*server.adopt_term(rpc.term)]
    if other or (rpc.chunk.flag is ChunkFlag.INIT and role.phase is not ChunkFlag.INIT):
        return abort_receive(server, [*effects, NextEvent(rpc)])  # S-2: the sending began anew
    effects.append(StartReceiveTimeout(server.cfg.receive_snapshot_timeout_ms))
    try:
        return _PHASES[rpc.chunk.flag](server, role, snapshots, rpc, effects)
    except StorageError:
        return abort_receive(server, effects)  # the disk said no: the leader will try again


def _on_init(
    server: Server, role: ReceivingRole, _s: Snapshots, rpc: InstallSnapshotRpc, effects: list[Effect]
) -> Transition:
    """S-1: live entries will follow."""
    role.live = True
    return server.stay(*effects, _result(server, rpc))


def _on_pre(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc, effects: list[Effect]
) -> Transition:
    """S-3: entries that the snapshot leaves out; those that we have applied are ours already."""
    role.phase = ChunkFlag.PRE
    snapshots.accept_live([batch for batch in rpc.entries if batch.last_index > server.last_applied])
    return server.stay(*effects, _result(server, rpc))


def _on_next(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc, effects: list[Effect]
) -> Transition:
    """S-4: a piece; after a gap the whole has to be sent again."""
    if not snapshots.accept_chunk(rpc.chunk.number, rpc.data):
        return abort_receive(server, effects)
    role.phase = ChunkFlag.NEXT
    return server.stay(*effects, _result(server, rpc))


def _on_last(
    server: Server, role: ReceivingRole, snapshots: Snapshots, rpc: InstallSnapshotRpc, effects: list[Effect]
) -> Transition:
    """S-5, S-6: the last piece; install when all live entries are on disk."""
    if role.live and snapshots.live_pending():
        role.awaiting_pending = rpc
        return server.stay(*effects)
    if not snapshots.accept_chunk(rpc.chunk.number, rpc.data):
        return abort_receive(server, effects)
    effects += _install(server, role, snapshots)
    server.role = None
    return Transition(RaftState.FOLLOWER, [*effects, _result(server, rpc)])


_Phase = Callable[[Server, ReceivingRole, Snapshots, InstallSnapshotRpc, list[Effect]], Transition]
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
    position = meta.position
    if meta.machine_version != server.effective_machine_version:
        server.use_machine_version(position.index, meta.machine_version)
    server.machine_state = server.machine.decode_state(data, dict(server.cfg.machine_args))
    server.commit_index = server.last_applied = position.index
    server.persisted_last_applied = position.index
    server.earlier_clusters.clear()
    server.adopt_cluster(position, list(meta.cluster))
    wanted = server.machine.snapshot_installed(position, server.machine_state, old, old_state)
    return take_callback_effects(wanted)


def abort_receive(server: Server, effects: list[Effect]) -> Transition:
    """S-2, S-7, S-9: forget what was received, and follow whoever leads."""
    _, snapshots = _receiving(server)
    snapshots.abort_accept()
    server.role = None
    server.leader_id = None
    return Transition(RaftState.FOLLOWER, effects)


def abort_for(server: Server, message: Message) -> Transition:
    """S-7, S-10, S-11: a message that a follower should see."""
    return abort_receive(server, [NextEvent(message)])


def on_receiving_log_event(server: Server, event: LogEvent) -> Transition:
    """S-8: when the live entries are on disk, the last chunk may go on."""
    server.log.handle_event(event)
    role, snapshots = _receiving(server)
    if role.awaiting_pending is None or snapshots.live_pending():
        return server.stay()
    rpc, role.awaiting_pending = role.awaiting_pending, None
    return server.stay(NextEvent(rpc))


def _receiving(server: Server) -> tuple[ReceivingRole, Snapshots]:
    role, snapshots = server.role, server.log.snapshots
    assert isinstance(role, ReceivingRole)
    assert snapshots is not None
    return role, snapshots
