"""Heartbeats: proof of leadership for reads, and nothing else (§6.4; QRY-06 to QRY-08, QRY-12)."""

from barque.core.effects import Effect, SendRpc
from barque.core.messages import HeartbeatReply, HeartbeatRpc
from barque.core.peers import PeerStatus
from barque.core.server import Server, Transition


def heartbeats_due(server: Server) -> list[Effect]:
    """A heartbeat for each peer that has not answered the newest round, if one is open."""
    role = server.leader_role()
    if not role.waiting_queries:
        return []
    heartbeat = HeartbeatRpc(server.query_index, server.current_term, server.id)
    return [
        SendRpc(member, heartbeat)
        for member, peer in server.peers()
        if peer.status is PeerStatus.NORMAL and peer.query_index < server.query_index
    ]


def on_heartbeat(server: Server, rpc: HeartbeatRpc) -> Transition:
    """F-3, F-4: say in which term we are. The answer carries the question's number (QRY-08)."""
    effects: list[Effect] = []
    if rpc.term >= server.current_term:
        effects += server.adopt_term(rpc.term)
        server.leader_id = rpc.leader_id
    return server.stay(*effects, heartbeat_reply(server, rpc))


def heartbeat_reply(server: Server, rpc: HeartbeatRpc) -> Effect:
    """The echo of a heartbeat, in our term."""
    return SendRpc(rpc.leader_id, HeartbeatReply(server.id, rpc.query_index, server.current_term))
