"""Facts about a server for operators (OVW-01, CNT-05; Ra's `overview`, `metrics`, `members_info`)."""

from typing import Any, NamedTuple

from barque.core.configuration import may_change
from barque.core.roles import LeaderRole
from barque.core.state import Server
from barque.types import Index, ServerId, Term


class Metrics(NamedTuple):
    """Ra's `metrics`: seven figures that monitoring wants often."""

    cluster_name: str
    term: Term
    snapshot_index: Index
    last_applied: Index
    commit_index: Index
    last_index: Index
    commit_latency_ms: int


def metrics(server: Server) -> Metrics:
    """The figures of this moment; snapshot index 0 for none."""
    log = server.log
    return Metrics(
        server.cfg.cluster_name,
        server.current_term,
        log.snapshot_index_term().index,
        server.last_applied,
        server.commit_index,
        log.last_index_term().index,
        server.commit_latency_ms,
    )


def members_info(server: Server) -> dict[ServerId, dict[str, Any]]:
    """Facts about each member: all of them on a leader, our own elsewhere (§9)."""
    leads = isinstance(server.role, LeaderRole)
    info: dict[ServerId, dict[str, Any]] = {}
    for member, peer in server.cluster.items():
        own = member == server.id
        facts: dict[str, Any] = {}
        if leads or own:
            facts = {
                "match_index": server.commit_index if own else peer.match_index,
                "query_index": server.query_index if own else peer.query_index,
                "membership": str(server.membership if own else peer.membership),
                "uid": server.cfg.uid if own else peer.uid or peer.reported_uid,
            }
        if leads:
            facts["next_index"] = server.commit_index + 1 if own else peer.next_index
            facts["status"] = peer.status.value
            facts["machine_version"] = server.cfg.machine.version if own else peer.machine_version
        if leads and peer.target and not own:
            facts["target"] = peer.target
        info[member] = facts
    return info


def waiting_reads(server: Server) -> tuple[int, int]:
    """How many reads of a leader wait for their round, and how many for this term's first entry (QRY-09)."""
    role = server.leadership()
    if role is None:
        return 0, 0
    counted = [
        sum(len(w.payloads) or 1 for w in queue)
        for queue in (role.waiting_queries or (), role.pending_queries)
    ]
    return counted[0], counted[1]


def overview(server: Server) -> dict[str, Any]:
    """All facts that help an operator (OVW-01)."""
    waiting, pending = waiting_reads(server)
    return {
        "id": str(server.id),
        "uid": server.cfg.uid,
        "cluster_name": server.cfg.cluster_name,
        "raft_state": str(server.raft_state),
        "membership": str(server.membership),
        "leader_id": None if server.leader_id is None else str(server.leader_id),
        "current_term": server.current_term,
        "voted_for": None if server.voted_for is None else str(server.voted_for),
        "commit_index": server.commit_index,
        "last_applied": server.last_applied,
        "cluster_change_permitted": may_change(server),
        "cluster_index_term": [server.cluster_index_term.index, server.cluster_index_term.term],
        "machine_version": server.cfg.machine.version,
        "effective_machine_version": server.effective_machine_version,
        "lost_quorum": server.lost_quorum,
        "query_index": server.query_index,
        "num_waiting_queries": waiting,
        "num_pending_queries": pending,
        "aux": server.aux_state,
        "members": {str(member): facts for member, facts in members_info(server).items()},
        "log": server.log.overview(),
        "machine": server.machine.overview(server.machine_state),
    }
