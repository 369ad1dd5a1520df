"""What the administrative requests of a client return.

Nodes answer with plain maps (docs/protocol/wire.md). A field that a newer node adds is ignored; a field that
an older node lacks has its default. What is for people only, such as the figures of a disk, stays a map.
"""

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from barque.errors import ProtocolError
from barque.types import Index, IndexTerm, Membership, ServerId, Term, Uid


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `ping`. Without a cluster: `uptime_s`, in seconds; with one: the node's member of it."""

    node: str
    uptime_s: float | None = None
    server: ServerId | None = None
    state: str | None = None
    """The member's Raft state, as in `MemberStatus.role`."""


class StaleIncarnation(msgspec.Struct, frozen=True, kw_only=True):
    """A server that speaks for a member, but has other data than the member had; `cure` says what to do."""

    server: ServerId
    uid: Uid
    cure: str


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one member stands, as it says itself."""

    server: ServerId
    role: str
    """`leader`, `follower`, `candidate`, `pre_vote`, `await_condition`, `terminating_leader`, …"""
    membership: Membership = Membership.VOTER
    voter: bool = True
    """Whether it votes, by its own configuration."""
    leader: ServerId | None = None
    """The member that it takes for the leader."""
    current_term: Term = Term(0)
    commit_index: Index = Index(0)
    last_applied: Index = Index(0)
    last_index: Index = Index(0)
    last_written_index: Index = Index(0)
    last_written_term: Term = Term(0)
    snapshot_index: Index = Index(0)
    lost_quorum: str | None = None
    """Why it stepped down, if it led and heard from no majority."""
    stale_incarnations: tuple[StaleIncarnation, ...] = ()
    state_differs: Mapping[str, Index] = {}
    """The nodes whose member has another state, and the first entry at which that was seen: its machine, or
    theirs, has not done the same."""
    failure: str | None = None
    """Why it has stopped, if it has."""
    restarts: int = 0
    """How often it was started again since its node started, after failures of its disk."""
    waits_for: str | None = None
    """The condition that it waits for, if it does."""


class MemberOverview(MemberStatus, frozen=True, kw_only=True):
    """Everything about one member."""

    cluster: str
    cluster_id: str = ""
    uid: Uid = Uid("")
    voted_for: ServerId | None = None
    cluster_change_permitted: bool | None = None
    """Whether it would accept a change of members now; None if the node does not say."""
    commit_latency_ms: int = 0
    query_index: int = 0
    waiting_queries: int = 0
    """Reads that wait for a round of heartbeats; `pending_queries` wait for the term's first entry."""
    pending_queries: int = 0
    cluster_index: Index = Index(0)
    """The entry of the configuration in force."""
    commit_rate: float = 0.0
    """Entries a second, smoothed over about six ticks; `commit_rate_last` between the last two."""
    commit_rate_last: float = 0.0
    aux: Any = None
    """The state of its aux machine, or what it looks like if it cannot be sent."""
    process: Mapping[str, Any] = {}
    """`leader_silent_ms`, `queued_commands` of low priority, `waits_for_sync`, and the `timers` that run."""
    machine: Mapping[str, Any] = {}
    """`type`, `version` and `effective_version`, and the facts of the machine's own `overview`."""
    log: Mapping[str, Any] = {}
    peers: Mapping[str, Mapping[str, Any]] = {}
    """By server, written as `name@node`; on the leader only."""
    counters: Mapping[str, int] = {}


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `pid`, addresses and `uptime_s` are None, and `failure` says why, if it did not answer."""

    name: str
    state: str
    """`running`, `degraded` (its log cannot be written) or `unreachable`."""
    pid: int | None = None
    address: str | None = None
    resp_address: str | None = None
    """Where it serves Redis clients, if it does."""
    uptime_s: float | None = None
    failure: str | None = None
    longest_stall_ms: float = 0.0
    storage: Mapping[str, Any] = {}
    requests: Mapping[str, Any] = {}
    """How many requests wait at the node, and for which clusters."""
    peers: Mapping[str, Mapping[str, Any]] = {}
    detector: Mapping[str, Any] = {}
    clock: Mapping[str, Any] = {}
    """How far its wall clock is from the nodes' median, and whether that clock counts (`overruled`)."""
    other_machine_code: Mapping[str, tuple[str, ...]] = {}
    """The machines for which other nodes have other code under the same version, by node."""
    transport: Mapping[str, int] = {}
    processes: Mapping[str, int] = {}
    """How many are `alive` there, and `dropped_messages`: the receivers were gone, or too slow."""


class ServerOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a node: its cluster, incarnation and Raft state, and all that it has counted."""

    cluster: str
    uid: Uid
    state: str
    counters: Mapping[str, int] = {}


class NodeOverview(NodeStatus, frozen=True, kw_only=True):
    """A node with its servers, by name."""

    servers: Mapping[str, ServerOverview] = {}


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster, as its members on the nodes that answered see it.

    `leader` is the member that leads in the highest term, or None.
    """

    name: str
    leader: ServerId | None
    term: Term
    members: tuple[MemberStatus, ...]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes, those that did not answer too, and all clusters, both by name."""

    nodes: tuple[NodeStatus, ...]
    clusters: tuple[ClusterStatus, ...]


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One member, as the leader sees it."""

    server: ServerId
    membership: Membership
    status: str = "normal"
    """`normal`, `disconnected`, `sending_snapshot`, …"""
    match_index: Index = Index(0)
    """The last entry that is known to be in its log."""
    next_index: Index = Index(0)
    query_index: int = 0
    machine_version: int | None = None
    uid: Uid | None = None
    """None until the leader knows it."""
    target: Index | None = None
    """A promotable member becomes a voter when this entry is on its disk."""


class MembersInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a cluster, as its leader sees them."""

    cluster: str
    leader: ServerId
    term: Term
    members: tuple[MemberInfo, ...]


class Transfer(enum.StrEnum):
    """What `transfer_leadership` has done."""

    STARTED = "ok"
    """The leader told the target to stand for election. It leads as soon as it has won."""
    ALREADY_LEADER = "already_leader"
    """The target leads; nothing was done."""


class LeaderMove(msgspec.Struct, frozen=True, kw_only=True):
    """A leadership that `balance_leaders` moves."""

    cluster: str
    source: ServerId
    target: ServerId
    outcome: str = "planned"
    """`planned` (a dry run), `moved`, `failed` (see `reason`), or `unconfirmed`: the target may yet win."""
    reason: str = ""


class LeaderBalance(msgspec.Struct, frozen=True, kw_only=True):
    """How many clusters each running node leads, before and after, and what was moved.

    After a dry run, `after` is what the moves would bring about.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    moves: tuple[LeaderMove, ...]


class StartedCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A new cluster that has a leader: the nodes with a member, and the others with the reason."""

    started: tuple[str, ...]
    not_started: Mapping[str, str] = {}


class QueryResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a read, and the state that it was read from: as of `position`, by the member `server`.

    The term of `position` is the member's. `leader` is who leads, as far as that member knows.
    """

    value: Any
    position: IndexTerm
    server: ServerId
    leader: ServerId | None


class StartedServer(msgspec.Struct, frozen=True, kw_only=True):
    """A new server, and its incarnation."""

    server: ServerId
    uid: Uid


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """A server after a request to start or stop it; `changed` is false if it was so already.

    `state` is its Raft state, `stopped`, or `failed`.
    """

    server: ServerId
    state: str
    changed: bool


class KeyMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A few figures of one server, which need not run (API-26).

    `state` is its Raft state, `noproc` if the server does not run, or `unknown` if none is there (then
    `server` is None and the figures are 0). `membership` is None if the server does not run.
    """

    node: str
    state: str
    server: ServerId | None = None
    membership: Membership | None = None
    term: Term = Term(0)
    snapshot_index: Index = Index(0)
    last_applied: Index = Index(0)
    commit_index: Index = Index(0)
    last_index: Index = Index(0)
    last_written_index: Index = Index(0)
    commit_latency_ms: int = 0


class AddedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A new member. It is `promotable` while it catches up; then it becomes a voter by itself."""

    member: ServerId
    uid: Uid
    membership: Membership


class RemovedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member that was removed.

    `told` is false if its node was out of reach; the server is deleted when the node comes back.
    """

    member: ServerId
    told: bool


class PromotedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member that may vote now."""

    member: ServerId
    membership: Membership


class DemotedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member that no longer votes."""

    member: ServerId
    membership: Membership


class ReplacedMember(msgspec.Struct, frozen=True, kw_only=True):
    """The member that was removed, and the new one (see `AddedMember`)."""

    removed: ServerId
    member: ServerId
    uid: Uid
    membership: Membership


class DeletedCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted cluster and its former members. Those that were `away` delete themselves when they return."""

    cluster: str
    members: tuple[ServerId, ...]
    away: tuple[ServerId, ...]


class ShrunkCluster(msgspec.Struct, frozen=True, kw_only=True):
    """The only member that is left, the members that were given up, and the term in which it leads."""

    member: ServerId
    lost: tuple[ServerId, ...]
    term: Term


Result = TypeVar("Result")

_SERVERS = ("server", "leader", "member", "removed", "voted_for", "members", "away", "lost")
"""The fields of answers that name servers, as `name@node`."""
_NESTED = ("nodes", "clusters", "members", "stale_incarnations")
"""The fields that hold lists of further maps. No other map is looked into: its keys may be the machine's."""


def typed_result(verb: str, answer: Any, kind: type[Result]) -> Result:
    """A node's answer to a verb, as `kind`. Raises `ProtocolError` if it is something else."""
    try:
        return msgspec.convert(_with_servers(answer), kind)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ProtocolError(f"the node's answer to {verb!r} cannot be understood: {error}") from error


def _with_servers(value: Any) -> Any:
    """The answer with `ServerId`s in place of their names."""
    if not isinstance(value, dict):
        return value
    converted = dict(value)
    for field in _NESTED:
        if isinstance(converted.get(field), list | tuple):
            converted[field] = [_with_servers(item) for item in converted[field]]
    for field in _SERVERS:
        if field in converted:
            converted[field] = _server(converted[field])
    return converted


def _server(value: Any) -> Any:
    if isinstance(value, str):
        return ServerId.parse(value)
    return [_server(item) for item in value] if isinstance(value, list | tuple) else value
