"""Who is a member, and which incarnation of it (docs/explanation/identity.md)."""

from barque.core.server import RaftState, Server
from barque.types import ServerId, Uid


def recognises(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether this incarnation of `sender` may speak: false if the configuration names another one."""
    peer = server.cluster.get(sender)
    return peer is None or peer.uid is None or peer.uid == uid


def is_removed(server: Server, sender: ServerId, uid: Uid) -> bool:
    """Whether a committed configuration, as only a leader knows it, leaves this incarnation out."""
    if server.raft_state is not RaftState.LEADER or not server.cluster_change_permitted:
        return False
    if server.commit_index < server.cluster_index_term.index:
        return False
    peer = server.cluster.get(sender)
    return peer is None or peer.uid not in (None, uid)
