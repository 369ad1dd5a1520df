"""Ra's `ra_server` module, name for name (reference page of v2.2), for readers who know Ra.

Each function is thin: the rules live in the modules of this package. Where something is done in
another way or elsewhere, the docstring says so. docs/reference/ra-parity.md has the whole list, also of what
the node does: readers of the log.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from barque.core import (
    aux_machine,
    overview as _overview,
    queries,
    replication,
    snapshots,
    step,
    terminating,
    transitions,
)
from barque.core.applying import persist_last_applied as persist_last_applied
from barque.core.effects import Effect
from barque.core.entries import EntryBatch
from barque.core.events import NodeEvent, ProcessDown, SnapshotSenderDown, Tick
from barque.core.log_contract import Log
from barque.core.messages import Message
from barque.core.roles import RaftState, WaitingQueries
from barque.core.state import Environment, Server, ServerConfig
from barque.machine.effects import ReleaseCursor
from barque.machine.machine import AuxKind
from barque.types import NOWHERE, Index, IndexTerm, ServerId, Term, Uid

Accumulator = TypeVar("Accumulator")


class Transition(NamedTuple):
    """What Ra's handlers return: the next state, and the effects. Ours change the server in place."""

    state: RaftState
    effects: list[Effect]


def _handle(server: Server, message: Message, state: RaftState) -> Transition:
    assert server.raft_state is state, f"{server.id} is in state {server.raft_state}"
    effects = step.step(server, message)
    return Transition(server.raft_state, effects)


def handle_leader(server: Server, message: Message) -> Transition:
    """§3: one message to a leader, its term included (L-1 to L-37)."""
    return _handle(server, message, RaftState.LEADER)


def handle_candidate(server: Server, message: Message) -> Transition:
    """§4: one message to a candidate (C-1 to C-18)."""
    return _handle(server, message, RaftState.CANDIDATE)


def handle_pre_vote(server: Server, message: Message) -> Transition:
    """§5: one message to a server in a trial election (P-1 to P-12)."""
    return _handle(server, message, RaftState.PRE_VOTE)


def handle_follower(server: Server, message: Message) -> Transition:
    """§6: one message to a follower (F-1 to F-21)."""
    return _handle(server, message, RaftState.FOLLOWER)


def handle_receive_snapshot(server: Server, message: Message) -> Transition:
    """§7: one message to a server that receives a snapshot (S-1 to S-13)."""
    return _handle(server, message, RaftState.RECEIVE_SNAPSHOT)


def handle_await_condition(server: Server, message: Message) -> Transition:
    """§8: one message to a server that waits for a condition (W-1 to W-6)."""
    return _handle(server, message, RaftState.AWAIT_CONDITION)


def name(cluster_name: str, unique_suffix: str) -> str:
    """LIFE-14: a name for a server that says to which cluster it belongs."""
    return f"ra_{cluster_name}_server_{unique_suffix}"


def init(
    config: ServerConfig,
    log: Log,
    environment: Environment,
    *,
    current_term: Term = NOWHERE.term,
    voted_for: ServerId | None = None,
    last_applied: Index = NOWHERE.index,
) -> Server:
    """§1, init. The log is open already, and the last three have been read from the meta store."""
    return Server(
        config, log, environment, current_term=current_term, voted_for=voted_for, last_applied=last_applied
    )


def recover(server: Server) -> list[Effect]:
    """§1, recover: replay without effects; then it is a follower, and these effects are to be performed."""
    return step.recover(server)


def process_new_leader_queries(server: Server) -> list[WaitingQueries]:
    """§9, QRY-14: take the waiting consistent reads away, so that the new leader can serve them."""
    return queries.take_waiting_queries(server)


def tick(server: Server, now_ms: int) -> list[Effect]:
    """§9, TIME-01: a leader's tick. Ours also repairs what was lost, and looks for its majority."""
    return step.step(server, Tick(now_ms))


def handle_state_enter(server: Server, old: RaftState) -> list[Effect]:
    """§9, CORE-19: what entering the present state brings; `step` calls it after each change of state."""
    return transitions.handle_state_enter(server, old)


def overview(server: Server) -> dict[str, Any]:
    """§9, OVW-01: facts for people."""
    return _overview.overview(server)


def metrics(server: Server) -> _overview.Metrics:
    """§9, CNT-05: seven figures; the last *written index*, and snapshot index 0 for none."""
    return _overview.metrics(server)


def is_new(server: Server) -> bool:
    """§9: whether nothing was ever appended."""
    return server.log.next_index() == 1


def is_fully_persisted(server: Server) -> bool:
    """§9, COMMIT-09: whether all of the log is on disk."""
    return terminating.is_fully_persisted(server)


def is_fully_replicated(server: Server) -> bool:
    """§9, COMMIT-09: whether every member has all that is committed, and knows that it is."""
    return terminating.is_fully_replicated(server)


def handle_aux(server: Server, kind: AuxKind, command: Any) -> tuple[Any, list[Effect]]:
    """§9, AUX-02: the reply of this member's aux machine, and its effects. The Raft state never changes.

    A machine without one (AUX-04) answers None here; who calls by a message is refused.
    """
    return aux_machine.run_aux(server, kind, command)


def id(server: Server) -> ServerId:  # noqa: A001  # Ra's name
    """§9: the server's address."""
    return server.id


def log_id(server: Server) -> str:
    """§9: what to call the server in log lines. Ours have no `friendly_name`: it is the address."""
    return str(server.id)


def uid(server: Server) -> Uid:
    """§9: what names this incarnation of the address, and its files."""
    return server.cfg.uid


def system_config(server: Server) -> ServerConfig:
    """§9. What of the system's settings concerns a server is part of its own configuration with us."""
    return server.cfg


def leader_id(server: Server) -> ServerId | None:
    """§9: the leader, if the server knows one."""
    return server.leader_id


def current_term(server: Server) -> Term:
    """§9: the server's term."""
    return server.current_term


def machine_version(server: Server) -> int:
    """§9: the version that the machine supports, which is not always the one in force."""
    return server.cfg.machine.version


def machine_query(server: Server, query: bytes) -> tuple[IndexTerm, Any]:
    """§9, QRY-01, QRY-02: how far the machine is, and its answer. A query is a value here, not a function."""
    return queries.machine_query(server, query)


def make_rpcs(server: Server) -> list[Effect]:
    """§2, REPL-10: one small RPC to each peer that owes an answer, and the heartbeats that are due."""
    return replication.make_rpcs(server)


def update_release_cursor(server: Server, index: Index, state: Any, **conditions: Any) -> None:
    """§9, SNAP-02, EFF-15: a snapshot may be made. The store writes it; no effects come of it."""
    snapshots.update_release_cursor(server, ReleaseCursor(index, state, **conditions))


def update_peer(server: Server, peer_id: ServerId, **update: Any) -> None:
    """§9: change what the server assumes of a peer. Raises `KeyError` for an unknown one."""
    peer = server.cluster[peer_id]
    for key, value in update.items():
        assert key in ("next_index", "query_index", "commit_index_sent", "status"), key
        setattr(peer, key, value)


def handle_down(server: Server, event: ProcessDown | SnapshotSenderDown) -> Transition:
    """§9, MON-02: what was watched is gone. What the log watches is the runtime's affair with us."""
    return _handle(server, event, server.raft_state)


def handle_node_status(server: Server, event: NodeEvent) -> Transition:
    """§9, MON-03: a watched node came or went."""
    return _handle(server, event, server.raft_state)


def terminate(server: Server) -> Index | None:
    """§9, LIFE-08: an orderly stop; what is to be stored before the log is closed (`persist_last_applied`).

    Closing and, after a deletion, removing files is done by the runtime, which owns them. There
    is no recovery checkpoint: an orderly stop costs a replay from the last snapshot.
    """
    return persist_last_applied(server)


def log_fold(
    server: Server, function: Callable[[EntryBatch, Accumulator], Accumulator], initial: Accumulator
) -> Accumulator:
    """§9: over all entries from behind the snapshot on, oldest first, one entry in each batch."""
    accumulator = initial
    index, last = Index(server.log.snapshot_index_term().index + 1), server.log.last_index_term().index
    while index <= last:
        [batch] = server.log.read(index, index, 1, 1 << 30)
        accumulator = function(batch, accumulator)
        index = Index(index + 1)
    return accumulator


def log_read(server: Server, indexes: Sequence[int]) -> list[Any]:
    """§9: the user commands at these indexes; other entries, and what is missing, are left out."""
    return aux_machine.log_read(server, indexes)
