"""Check-quorum: a leader that no majority answers steps down (§6.2; not in Ra, LIM-05).

It costs no traffic of its own. When something suggests that a majority may be gone (the failure detector, a
server that says it is down, missing replies at a tick), the leader sends each peer an RPC and collects
the members that answer, in `LeaderRole.acked`. A majority within an election timeout ends the suspicion.
Otherwise the leader steps down: commands that were not appended are refused, commands in its log are of
unknown outcome, and no caller waits without end.
"""

from barque.core.effects import Effect, Rejection, StartQuorumTimeout, Unresolved
from barque.core.entries import decode_head
from barque.core.events import QuorumTimeout
from barque.core.log_contract import read_batches
from barque.core.replication import broadcast_append, is_stale, make_rpc
from barque.core.roles import LeaderRole
from barque.core.state import PeerStatus, Server
from barque.core.transitions import become_follower, forget_leader
from barque.types import Index, ReplyMode, ServerId


def suspect_quorum_loss(server: Server, failed: list[ServerId]) -> list[Effect]:
    """These members failed: send each peer an RPC, and begin to count who answers."""
    server.leader_role().silent.update(failed)
    return [*broadcast_append(server), *_begin(server)]


def suspect_if_silent(server: Server) -> list[Effect]:
    """At a tick: begin to count if the peers that owe us a reply leave no majority.

    The tick's RPCs go to those peers only. While we count, peers that are up to date are probed as well: they
    owe no reply, so they would not answer, and we would step down although they follow us.
    """
    role = server.leader_role()
    reads_wait = bool(role.waiting_queries)
    up_to_date = {
        member: peer
        for member, peer in server.peers
        if not is_stale(server, peer) and not (reads_wait and peer.query_index < server.query_index)
    }
    effects = [] if server.has_quorum({server.id, *up_to_date}) else _begin(server)
    acked = role.acked
    if acked is not None:
        effects += [
            make_rpc(server, member, peer, 0)
            for member, peer in up_to_date.items()
            if member not in acked and peer.status is PeerStatus.NORMAL
        ]
    return effects


def _begin(server: Server) -> list[Effect]:
    role = server.leader_role()
    if role.acked is not None or server.has_quorum({server.id}):
        return []
    role.acked = {server.id}
    return [StartQuorumTimeout()]


def note_acked(server: Server, member: ServerId) -> None:
    """A member answered us in our term. A majority of them ends the suspicion."""
    role = server.role
    if not isinstance(role, LeaderRole):
        return
    if role.silent:
        role.silent.discard(member)
    if role.acked is None:
        return
    role.acked.add(member)
    if server.has_quorum(role.acked):
        role.acked = None


def suspects_quorum_loss(server: Server) -> bool:
    """Whether a leader counts answers because it may have lost its majority."""
    return isinstance(server.role, LeaderRole) and server.role.acked is not None


def on_quorum_timeout(server: Server, _timeout: QuorumTimeout) -> list[Effect]:
    """Step down if no majority has answered: perhaps we alone think that we lead."""
    if not suspects_quorum_loss(server):
        return []
    unresolved = unresolved_from(server, Index(server.last_applied + 1))
    forget_leader(server)
    effects = become_follower(server, Rejection.NO_QUORUM)
    server.lost_quorum = True
    return [*effects, *unresolved]


def unresolved_from(server: Server, index: Index) -> list[Effect]:
    """Tell the callers whose commands are in our log from `index` on that the outcome is unknown."""
    effects: list[Effect] = []
    for batch in read_batches(server.log, index, server.log.last_index_term().index):
        head = decode_head(batch.body)
        if head.reply_mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY):
            effects.append(Unresolved(head.origin, head.first_correlation, batch.count))
    return effects
