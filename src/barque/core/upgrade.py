"""What a new leader appends first, and whom it asks what they can do (ELEC-23, VER-03, VER-04)."""

from barque.core.effects import Effect, NextEvent, SendRpc
from barque.core.events import AppendNoop
from barque.core.messages import InfoRpc
from barque.core.server import Server

KEYS = ("machine_version", "uid")


def first_noop(server: Server) -> list[Effect]:
    """C-1: what a new leader appends first, and whom it asks what they can do."""
    version = server.effective_machine_version
    if not server.peers() or server.cfg.machine_upgrade_strategy == "quorum":
        version = max(version, server.cfg.machine.version)
    return [NextEvent(AppendNoop(version)), *info_rpcs(server, unnamed=True)]


def info_rpcs(server: Server, *, unnamed: bool = False) -> list[Effect]:
    """Ask those whose version is unknown or older than ours, and, once a term, for unknown uids."""
    rpc = InfoRpc(server.id, server.current_term, KEYS)
    own = server.cfg.machine.version
    upgrade = server.cfg.machine_upgrade_strategy == "all" and own > server.effective_machine_version
    effects: list[Effect] = []
    for member, peer in server.peers():
        outdated = peer.machine_version is None or peer.machine_version < own
        nameless = peer.uid is None and peer.reported_uid is None
        if (upgrade and outdated) or (unnamed and nameless):
            effects.append(SendRpc(member, rpc))
    return effects
