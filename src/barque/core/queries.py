"""Reads: consistent ones by a numbered heartbeat round, others at once (§6.4; QRY-01 to QRY-16)."""

from collections import deque
from typing import Any

from barque.core.applying import is_applying
from barque.core.aux_machine import run_aux_call
from barque.core.check_quorum import note_acked
from barque.core.effects import Applied, Effect, Rejected, Rejection
from barque.core.messages import AuxCommand, HeartbeatReply, Queries
from barque.core.quorum import agreed
from barque.core.replication import heartbeats_due
from barque.core.roles import LeaderRole, WaitingQueries
from barque.core.state import Server
from barque.errors import BarqueError
from barque.machine.machine import QueryMeta
from barque.types import IndexTerm

# --- the leader ----------------------------------------------------------------------------


def on_queries(server: Server, queries: Queries) -> list[Effect]:
    """L-22, L-23: a consistent read must first prove that we still lead."""
    waiting = WaitingQueries(
        0, queries.origin, queries.first_correlation, queries.payloads, server.commit_index
    )
    if not queries.consistent:
        return _answer(server, waiting)
    return _prove(server, waiting)


def on_consistent_aux(server: Server, command: AuxCommand) -> list[Effect]:
    """L-24, QRY-05: prove our leadership as for a consistent read, then let the aux machine answer."""
    waiting = WaitingQueries(0, command.origin, command.correlation, (), server.commit_index, command)
    return _prove(server, waiting)


def _prove(server: Server, waiting: WaitingQueries) -> list[Effect]:
    role = server.leader_role()
    if not role.established:
        # §6.4 step 1: before this term's noop is applied our commit index may be behind.
        role.pending_queries.append(waiting)
        return []
    return _start_round(server, role, [waiting])


def process_pending(server: Server) -> list[Effect]:
    """QRY-10: this term's noop is applied; the reads that waited for it start their round."""
    role = server.leader_role()
    if not role.pending_queries or not role.established:
        return []
    pending, role.pending_queries = role.pending_queries, []
    return _start_round(server, role, pending)


def _start_round(server: Server, role: LeaderRole, pending: list[WaitingQueries]) -> list[Effect]:
    """Number a new round and send it to all peers. A single voter needs no round.

    A round is never older than its reads: an answer to an earlier heartbeat proves nothing
    about them.
    """
    alone = server.quorum() == 1 and server.is_voter(server.id)
    if alone and not is_applying(server):
        return [effect for waiting in pending for effect in _answer(server, waiting)]
    server.query_index += 1
    if role.waiting_queries is None:
        role.waiting_queries = deque()
    role.waiting_queries.extend(w._replace(query_index=server.query_index) for w in pending)
    return heartbeats_due(server, role)


def on_heartbeat_reply(server: Server, reply: HeartbeatReply) -> list[Effect]:
    """L-26: once a majority has answered a round, answer all reads up to it (QRY-09)."""
    peer = server.cluster.get(reply.sender)
    if peer is None:
        return []  # a server outside the cluster cannot confirm that we lead
    note_acked(server, reply.sender)
    peer.query_index = max(peer.query_index, min(reply.query_index, server.query_index))
    return answer_proven(server)


def answer_proven(server: Server) -> list[Effect]:
    """Answer every waiting read whose round a majority has answered, oldest first.

    While a long commit is being applied, a read waits until its part is applied (§6.4 step 4).
    """
    waiting = server.leader_role().waiting_queries
    if not waiting:
        return []
    rounds = [server.query_index] + [peer.query_index for _, peer in server.peers if peer.voter]
    proven = agreed(rounds)
    effects: list[Effect] = []
    while waiting and waiting[0].query_index <= proven and waiting[0].read_index <= server.last_applied:
        effects += _answer(server, waiting.popleft())
    return effects


def _answer(server: Server, waiting: WaitingQueries) -> list[Effect]:
    """Run queries. A query that raises is answered with its error and harms nothing else (QRY-17)."""
    if waiting.aux is not None:
        return run_aux_call(server, waiting.aux)
    replies: list[Any] = []
    errors: dict[int, str] = {}
    for offset, payload in enumerate(waiting.payloads):
        try:
            replies.append(run_query(server, payload))
        except Exception as error:
            replies.append(None)
            errors[offset] = describe(error)
    return [Applied(waiting.origin, waiting.first_correlation, replies, errors or None)]


def run_query(server: Server, payload: bytes) -> Any:
    """Run one query on the state as of `last_applied`. Raises what the machine raises."""
    if server.query_sees_meta:
        meta = QueryMeta(server.last_applied, server.current_term, server.effective_machine_version)
        return server.machine.query_with_meta(meta, server.decode_query(payload), server.machine_state)
    return server.machine.query(server.decode_query(payload), server.machine_state)


def machine_query(server: Server, payload: bytes) -> tuple[IndexTerm, Any]:
    """Run a local query (QRY-01, QRY-02); return the position of the state, and the answer."""
    return IndexTerm(server.last_applied, server.current_term), run_query(server, payload)


def describe(error: Exception) -> str:
    """An error as text for the caller. Barque's own errors need no class name."""
    return str(error) if isinstance(error, BarqueError) else f"{type(error).__name__}: {error}"


# --- other members ------------------------------------------------------------------------


def refuse_queries(server: Server, queries: Queries) -> list[Effect]:
    """CMD-14: refuse reads, and name the leader if we know it. A read changes nothing."""
    leader = server.leader_id if server.leader_id != server.id else None
    return [
        Rejected(
            queries.origin, queries.first_correlation, len(queries.payloads), Rejection.NOT_LEADER, leader
        )
    ]


def take_waiting_queries(server: Server) -> list[WaitingQueries]:
    """Ra's `process_new_leader_queries` (QRY-14): take all waiting reads away from this leader."""
    role = server.leader_role()
    waiting = [*role.pending_queries, *(role.waiting_queries or ())]
    role.pending_queries, role.waiting_queries = [], None
    return waiting
