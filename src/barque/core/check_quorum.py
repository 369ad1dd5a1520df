"""Check-quorum: a leader that no majority hears says so (§6.2; not in Ra, LIM-05).

No traffic of its own: when something suggests that a majority may be gone (the failure detector,
a server that says it is down, answers that are missing at a tick) the leader asks everybody once
and counts who answers within an election timeout. If that is no majority it steps down: what
was not appended is refused, what was is of unknown outcome, and nobody waits for ever.
"""

from barque.core.effects import Effect, Rejection, StartQuorumTimeout, Unresolved
from barque.core.entries import decode_head
from barque.core.events import QuorumTimeout
from barque.core.log_contract import read_batches
from barque.core.peers import PeerStatus
from barque.core.replication import is_stale, make_all_rpcs, make_rpc
from barque.core.roles import LeaderRole
from barque.core.server import RaftState, Server, Transition
from barque.types import Index, ReplyMode, ServerId


def doubt(server: Server) -> list[Effect]:
    """Something failed: ask everybody, and begin to count."""
    return [*make_all_rpcs(server), *_begin(server)]


def doubt_if_silent(server: Server) -> list[Effect]:
    """At a tick, whose RPCs ask those who owe us an answer: begin to count if they are a majority.

    Then the others are asked as well, as long as we doubt: who has answered everything would not be heard.
    """
    role = server.leader_role()
    waits = bool(role.waiting_queries)
    answered = {
        member: peer
        for member, peer in server.peers()
        if not is_stale(server, peer) and not (waits and peer.query_index < server.query_index)
    }
    effects = [] if server.has_quorum({server.id, *answered}) else _begin(server)
    heard = role.heard
    if heard is not None:
        effects += [
            make_rpc(server, member, peer, 0)
            for member, peer in answered.items()
            if member not in heard and peer.status is PeerStatus.NORMAL
        ]
    return effects


def _begin(server: Server) -> list[Effect]:
    role = server.leader_role()
    if role.heard is not None or server.has_quorum({server.id}):
        return []
    role.heard = {server.id}
    return [StartQuorumTimeout()]


def note_heard(server: Server, member: ServerId) -> None:
    """A member answered us in our term; a majority of them ends the doubt."""
    role = server.role
    if not isinstance(role, LeaderRole) or role.heard is None:
        return
    role.heard.add(member)
    if server.has_quorum(role.heard):
        role.heard = None


def is_doubting(server: Server) -> bool:
    """Whether a leader waits for signs of a majority."""
    return isinstance(server.role, LeaderRole) and server.role.heard is not None


def on_quorum_timeout(server: Server, _timeout: QuorumTimeout) -> Transition:
    """Nobody has to wait any longer: we may be the only ones who think that we lead."""
    if not is_doubting(server):
        return server.stay()
    unresolved = unresolved_from(server, Index(server.commit_index + 1))
    server.leader_id = None
    effects = server.become_follower(Rejection.NO_QUORUM)
    server.lost_quorum = True
    return Transition(RaftState.FOLLOWER, [*effects, *unresolved])


def unresolved_from(server: Server, index: Index) -> list[Effect]:
    """The callers whose commands are in our log from `index` on, and who will hear no more of them."""
    effects: list[Effect] = []
    for batch in read_batches(server.log, index, server.log.last_index_term().index):
        head = decode_head(batch.body)
        if head.reply_mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY):
            effects.append(Unresolved(head.origin, head.first_correlation, batch.count))
    return effects
