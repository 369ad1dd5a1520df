"""Which machine version is in force, and when it may rise (VER-01 to VER-10; L-33, L-34).

With the strategy `quorum` a new leader moves to its own version at once. With `all`, the
default, it asks the others first and moves when every member supports the version. A member that
lacks the version in force applies nothing until its code is replaced (VER-02).
"""

from barque.core.applying import newest_version
from barque.core.check_quorum import note_acked
from barque.core.commands import append_noop
from barque.core.effects import Effect, NextEvent, SendRpc
from barque.core.events import AppendNoop
from barque.core.membership import name_members
from barque.core.messages import InfoReply, InfoRpc
from barque.core.state import Server
from barque.types import Uid

_KEYS = ("machine_version", "uid")


def first_noop(server: Server) -> list[Effect]:
    """C-1: what a new leader appends first, and which members it asks about themselves (ELEC-23, VER-03)."""
    server.leader_role().proposed_version = newest_version(server)  # a noop of a former leader may ask for it
    version = server.effective_machine_version
    if not server.peers or server.cfg.machine_upgrade_strategy == "quorum":
        version = max(version, server.cfg.machine.version)
    return [NextEvent(AppendNoop(version)), *info_rpcs(server, unnamed=True)]


def info_rpcs(server: Server, *, unnamed: bool = False) -> list[Effect]:
    """Ask members whose version is unknown or older than ours and, once a term, members of unknown uid."""
    rpc = InfoRpc(server.id, server.current_term, _KEYS)
    own = server.cfg.machine.version
    upgrade = server.cfg.machine_upgrade_strategy == "all" and own > server.effective_machine_version
    effects: list[Effect] = []
    for member, peer in server.peers:
        outdated = peer.machine_version is None or peer.machine_version < own
        nameless = peer.uid is None and peer.reported_uid is None
        if (upgrade and outdated) or (unnamed and nameless):
            effects.append(SendRpc(member, rpc))
    return effects


def on_info_rpc(server: Server, rpc: InfoRpc) -> list[Effect]:
    """L-33, F-19: tell the leader our machine version and our uid."""
    known: dict[str, int | str] = {"machine_version": server.cfg.machine.version, "uid": server.cfg.uid}
    info = {key: known[key] for key in rpc.keys if key in known}
    return [SendRpc(rpc.sender, InfoReply(server.id, server.current_term, rpc.keys, info))]


def refuse_info(server: Server, rpc: InfoRpc) -> list[Effect]:
    """C-17, S-10: reply without facts; only our term is news to the sender."""
    return [SendRpc(rpc.sender, InfoReply(server.id, server.current_term, rpc.keys, {}))]


def on_info_reply(server: Server, reply: InfoReply) -> list[Effect]:
    """L-34: remember what the member supports, and raise the version if all members support it now."""
    peer = server.cluster.get(reply.sender)
    if peer is None or reply.sender == server.id:
        return []
    note_acked(server, reply.sender)
    for key in reply.keys:
        value = reply.info.get(key)
        if key == "machine_version":
            peer.machine_version = value if isinstance(value, int) else None
        elif key == "uid" and isinstance(value, str):
            peer.reported_uid = Uid(value)
    return [*_raise_version(server), *_name_when_complete(server)]


def _raise_version(server: Server) -> list[Effect]:
    """VER-04: to the highest version that every member has."""
    if server.cfg.machine_upgrade_strategy != "all":
        return []
    role, effective = server.leader_role(), server.effective_machine_version
    versions = [server.cfg.machine.version]
    for _, peer in server.peers:
        versions.append(effective if peer.machine_version is None else peer.machine_version)
    common = min(versions)
    if common <= max(effective, role.proposed_version):
        return []
    return [NextEvent(AppendNoop(common))]


def _name_when_complete(server: Server) -> list[Effect]:
    """Write the uids down once all members have told theirs; otherwise a tick does it."""
    silent = any(peer.uid is None and peer.reported_uid is None for _, peer in server.peers)
    return [] if silent else name_members(server)


def on_append_noop(server: Server, message: AppendNoop) -> list[Effect]:
    """ELEC-23, VER-04: the noop that was due."""
    return append_noop(server, message.machine_version)


def asks_on_tick(server: Server) -> bool:
    """Whether an upgrade waits for a member's reply, or a uid can be written down."""
    return bool(info_rpcs(server)) or has_names_to_write(server)


def has_names_to_write(server: Server) -> bool:
    """Whether a member has told its uid, and the configuration does not have it yet."""
    return any(peer.uid is None and peer.reported_uid is not None for _, peer in server.peers)
