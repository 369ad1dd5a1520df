"""Which machine version is in force, and when it may rise (VER-01 to VER-10; L-33, L-34).

With the strategy `quorum` a new leader moves to its own version at once. With `all`, the
default, it asks the others first and moves when every member has told that it has the version;
a member that lacks the version in force applies nothing until its code is replaced (VER-02).
"""

from barque.core.check_quorum import note_heard
from barque.core.commands import append_noop
from barque.core.effects import Effect, NextEvent, SendRpc
from barque.core.events import AppendNoop
from barque.core.membership import name_members
from barque.core.messages import InfoReply, InfoRpc
from barque.core.server import Server, Transition
from barque.core.upgrade import info_rpcs
from barque.types import Uid


def on_info_rpc(server: Server, rpc: InfoRpc) -> Transition:
    """L-33, F-19: tell what we can."""
    known: dict[str, int | str] = {"machine_version": server.cfg.machine.version, "uid": server.cfg.uid}
    info = {key: known[key] for key in rpc.keys if key in known}
    return server.stay(SendRpc(rpc.sender, InfoReply(server.id, server.current_term, rpc.keys, info)))


def refuse_info(server: Server, rpc: InfoRpc) -> Transition:
    """C-17, S-10: in these states we know nothing worth telling."""
    return server.stay(SendRpc(rpc.sender, InfoReply(server.id, server.current_term, rpc.keys, {})))


def on_info_reply(server: Server, reply: InfoReply) -> Transition:
    """L-34: remember, and move on if now everybody can. A stranger's answer says nothing."""
    peer = server.cluster.get(reply.sender)
    if peer is None or reply.sender == server.id or reply.term < server.current_term:
        return server.stay()
    note_heard(server, reply.sender)
    for key in reply.keys:
        value = reply.info.get(key)
        if key == "machine_version":
            peer.machine_version = value if isinstance(value, int) else None
        elif key == "uid" and isinstance(value, str):
            peer.reported_uid = Uid(value)
    return server.stay(*_raise_version(server), *_name_when_complete(server))


def _raise_version(server: Server) -> list[Effect]:
    """VER-04: to the highest version that every member has."""
    if server.cfg.machine_upgrade_strategy != "all":
        return []
    role, effective = server.leader_role(), server.effective_machine_version
    versions = [server.cfg.machine.version]
    for _, peer in server.peers():
        versions.append(effective if peer.machine_version is None else peer.machine_version)
    common = min(versions)
    if common <= max(effective, role.proposed_version):
        return []
    return [NextEvent(AppendNoop(common))]


def _name_when_complete(server: Server) -> list[Effect]:
    """When all have told their uids there is nothing to wait for; a tick does the rest."""
    silent = any(peer.uid is None and peer.reported_uid is None for _, peer in server.peers())
    return [] if silent else name_members(server)


def on_append_noop(server: Server, message: AppendNoop) -> Transition:
    """ELEC-23, VER-04: the noop that was due."""
    return append_noop(server, message.machine_version)


def asks_on_tick(server: Server) -> bool:
    """Whether an upgrade waits for somebody's answer, or a name can be written down."""
    return bool(info_rpcs(server)) or has_names_to_write(server)


def has_names_to_write(server: Server) -> bool:
    """Whether a member has told its uid, and the configuration does not have it yet."""
    return any(peer.uid is None and peer.reported_uid is not None for _, peer in server.peers())
