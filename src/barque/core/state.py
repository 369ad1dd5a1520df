"""The state of one Raft server: Figure 2's fields, Ra's additions, and the peers of a leader.

How to read it. `Server` holds the durable pair (`current_term`, `voted_for`), the volatile indexes,
the configuration in force, and the machine. Its `role` is the Raft state, with the data of that state
(`roles`). Each field has one module that changes it:

- `transitions` alone sets `role`, `raft_state`, `leader_id`, `current_term` and `voted_for`. So the
  term and the leader of that term are one fact: a new term forgets the leader.
- `configuration` alone sets the members (`cluster`), by the entry that is newest in the log.
- `applying` and `commitment` move `last_applied` and `commit_index`, which only grow.
- The runtime reads these fields and changes none.

A `Peer` is a leader's view of one member: how far it has replicated, and whether it can be sent
anything now. Followers keep peers too, for their membership.
"""

import enum
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

from barque.core.decoders import decoder_of
from barque.core.log_contract import Log, SnapshotMeta
from barque.core.quorum import majority
from barque.core.roles import RECOVERING, LeaderRole, RaftState as RaftState, Role, WaitingRole
from barque.core.server_config import ServerConfig as ServerConfig
from barque.machine.machine import ApplyMany, Machine, apply_many_of, bound_module
from barque.machine.skipping import skipping
from barque.types import NOWHERE, Index, IndexTerm, MemberRecord, Membership, ServerId, Term, Uid


class PeerStatus(enum.Enum):
    """What a leader can send to a peer. Only a `NORMAL` peer gets entries and heartbeats.

    Ra's `suspended` is missing: our sends never block, a full channel drops and counts.
    """

    NORMAL = "normal"
    SENDING_SNAPSHOT = "sending_snapshot"
    SNAPSHOT_BACKOFF = "snapshot_backoff"
    DISCONNECTED = "disconnected"


class Peer:
    """One member, as its leader sees it. A server's own entry only says what it may do.

    Invariant: match_index < next_index.
    """

    __slots__ = (
        "attempts",
        "bytes_in_flight",
        "commit_index",
        "commit_index_sent",
        "machine_version",
        "match_index",
        "membership",
        "next_index",
        "query_index",
        "reported_uid",
        "sent",
        "status",
        "target",
        "uid",
        "voter",
    )

    def __init__(self, record: MemberRecord) -> None:
        self.next_index = Index(1)  # the next entry to send; moved on optimistically (REPL-03)
        self.match_index = Index(0)  # durable there, in this leader's term
        self.sent: list[tuple[Index, int]] = []  # (last index, bytes) of RPCs that it has not acknowledged
        self.bytes_in_flight = 0  # their sum
        self.commit_index = Index(0)  # as it has told last
        self.commit_index_sent = Index(0)  # by pipelined RPCs only
        self.query_index = 0  # the newest heartbeat it has answered in this term
        self.status = PeerStatus.NORMAL
        self.attempts = 0  # to send it a snapshot, in vain
        self.machine_version: int | None = None  # that it supports, as it has told
        self.reported_uid: Uid | None = None  # as it has told; `uid` is what the cluster agreed on
        self.assign(record)

    def assign(self, record: MemberRecord) -> None:
        """Take over what a configuration says; its replication progress stays."""
        self.uid: Uid | None = record.uid
        self.membership = record.membership
        self.target = record.target
        self.voter = record.membership is Membership.VOTER

    def record(self, member: ServerId) -> MemberRecord:
        """The member's record in the configuration."""
        return MemberRecord(member, self.uid, self.membership, self.target)

    def begin_term(self, next_index: Index) -> None:
        """Reset the positions: a new leader knows nothing of its peers' logs (§3.5)."""
        self.next_index = next_index
        self.match_index = self.commit_index = self.commit_index_sent = Index(0)
        self.give_up_sent()
        self.query_index = self.attempts = 0
        self.status = PeerStatus.NORMAL

    def acknowledge(self, index: Index) -> None:
        """The peer has everything up to this entry on disk."""
        if index > self.match_index:
            self.match_index = index
        sent = self.sent
        while sent and sent[0][0] <= index:
            self.bytes_in_flight -= sent[0][1]
            del sent[0]

    def give_up_sent(self) -> None:
        """Count nothing as on its way: it was lost, or will be sent again."""
        self.sent.clear()
        self.bytes_in_flight = 0


Cluster = dict[ServerId, Peer]


def records_of(cluster: Cluster) -> tuple[MemberRecord, ...]:
    """The configuration as logs and snapshots keep it."""
    return tuple(peer.record(member) for member, peer in cluster.items())


def make_cluster(records: Iterable[MemberRecord], old: Cluster | None = None) -> Cluster:
    """The members of a configuration. Members that stay keep their replication progress.

    Another uid is another server, of which nothing is known.
    """
    cluster: Cluster = {}
    for record in sorted(records, key=lambda r: r.id):
        peer = old.get(record.id) if old else None
        if peer is None or (peer.uid is not None and peer.uid != record.uid):
            peer = Peer(record)
        else:
            peer.assign(record)
        cluster[record.id] = peer
    return cluster


class Environment(Protocol):
    """What the core may ask of its process: a timestamp and a token."""

    def now_ms(self) -> int:
        """Unix milliseconds, for the timestamps of new entries. No safety depends on it."""

    def token(self) -> int:
        """A number that no other round of pre-votes uses (64 bits)."""


class Server:
    """One member of one cluster: Figure 2's state and Ra's additions (CORE-13)."""

    __slots__ = (
        "apply_many",
        "aux_state",
        "cfg",
        "cluster",
        "cluster_index_term",
        "commit_index",
        "commit_latency_ms",
        "config_history",
        "current_term",
        "decode_commands",
        "decode_query",
        "deleted",
        "effective_machine_version",
        "environment",
        "frozen",
        "has_aux",
        "id",
        "last_applied",
        "leader_id",
        "log",
        "lost_quorum",
        "machine",
        "machine_state",
        "machine_time_ms",
        "machine_versions",
        "membership",
        "owes_term",
        "peers",
        "pending_release_cursor",
        "persisted_last_applied",
        "query_index",
        "query_sees_meta",
        "raft_state",
        "role",
        "start_meta",
        "time_marks",
        "voted_for",
    )

    def __init__(
        self,
        config: ServerConfig,
        log: Log,
        environment: Environment,
        *,
        current_term: Term = NOWHERE.term,
        voted_for: ServerId | None = None,
        last_applied: Index = NOWHERE.index,
    ) -> None:
        """Ra's `init/1` (§1). The last three come from the meta store; `recover` comes next."""
        config.check()
        self.cfg = config
        self.id = config.id  # its own address
        self.log = log
        self.environment = environment
        self.role: Role = RECOVERING
        self.raft_state = RaftState.RECOVER  # always `role.state`, as one attribute for the hot path
        # Persistent (Figure 2). An entry may be durable before the term that it carries is.
        last_term = log.last_index_term().term
        self.current_term = max(current_term, last_term)
        self.voted_for = voted_for if self.current_term == current_term else None
        self.owes_term = self.current_term > current_term  # the meta store does not have it yet
        # Volatile. last_applied ≤ commit_index, and both only grow.
        self.commit_index: Index
        self.last_applied: Index
        self.persisted_last_applied: Index
        self.leader_id: ServerId | None = None  # the leader of `current_term`, once it was heard
        self.lost_quorum = False  # we stepped down because no majority answered
        self.deleted = False  # the cluster's deletion is applied
        # Membership: the newest configuration in the log, committed or not; and those before, oldest first.
        self.config_history: list[tuple[IndexTerm, tuple[MemberRecord, ...]]] = []
        self.set_configuration({})
        # The machine.
        self.machine_versions: list[tuple[Index, int]] = []  # (first index, version) of each version in force
        self.machine_time_ms = 0  # the newest timestamp applied; machine time never runs back
        self.time_marks: list[tuple[Index, int]] = []  # (index, machine time) where a timestamp was older
        self.start_meta = log.snapshots.recovery_point(log)  # of the state that recovery begins with
        version = min(config.machine.version, config.initial_machine_version)
        self.begin_from(self.start_meta or SnapshotMeta(NOWHERE, tuple(config.initial_cluster()), version))
        self.commit_index = max(self.commit_index, min(last_applied, log.last_index_term().index))
        self.persisted_last_applied = self.commit_index
        self.machine_state: Any = None  # until `start_machine`
        self.aux_state: Any = None
        self.pending_release_cursor: Any = None
        self.query_index = 0  # of the newest consistent query, as a leader
        self.commit_latency_ms = 0

    def begin_from(self, meta: SnapshotMeta) -> None:
        """Take up all that a snapshot says beside the machine's state (RECV-08)."""
        start = meta.position
        self.commit_index = self.last_applied = self.persisted_last_applied = start.index
        self.config_history.clear()
        self.adopt_cluster(start, [*meta.cluster])
        self.machine_versions.clear()
        self.use_machine_version(start.index, meta.machine_version)
        self.machine_time_ms = meta.machine_time_ms
        self.time_marks = [(start.index, meta.machine_time_ms)]  # (index, time) where a timestamp was older

    # --- questions of handlers -------------------------------------------------------------

    @property
    def previous_cluster(self) -> tuple[IndexTerm, tuple[MemberRecord, ...]] | None:
        """The configuration that an overwritten change falls back to (MEMB-03)."""
        return self.config_history[-1] if self.config_history else None

    def is_voter(self, member: ServerId) -> bool:
        """Whether this member counts in quorums."""
        if member == self.id:
            return self.membership is Membership.VOTER
        peer = self.cluster.get(member)
        return peer is not None and peer.voter

    def quorum(self) -> int:
        """How many voters make a majority (ELEC-22)."""
        voters = 0
        for peer in self.cluster.values():  # a loop, since each read asks: a generator costs a call a member
            voters += peer.voter
        return majority(voters)

    def has_quorum(self, votes: set[ServerId]) -> bool:
        """Whether these members are a majority of the voters."""
        return sum(self.is_voter(member) for member in votes) >= self.quorum()

    def is_up_to_date(self, last_log_index: Index, last_log_term: Term) -> bool:
        """Whether a log that ends there is at least as up-to-date as ours (§3.6.1).

        A server that joins rejects logs that end before `min_vote_position`: a former server at this address
        may have acknowledged that position, and our own log does not have it yet.
        """
        ours, owed = self.log.last_index_term(), self.cfg.min_vote_position
        return (last_log_term, last_log_index) >= max((ours.term, ours.index), (owed.term, owed.index))

    def leadership(self) -> LeaderRole | None:
        """The leader's own state, also while the leader waits; None for any other server."""
        role = self.role
        if isinstance(role, WaitingRole):
            return role.resume
        return role if isinstance(role, LeaderRole) else None

    def leader_role(self) -> LeaderRole:
        """The leader's own state; only a leader may ask."""
        assert isinstance(self.role, LeaderRole), f"{self.raft_state} does not lead"
        return self.role

    # --- the configuration and the machine ---------------------------------------------

    def adopt_cluster(self, position: IndexTerm, records: list[MemberRecord]) -> None:
        """Take up the configuration of the entry, or snapshot, at `position` (MEMB-02, MEMB-10)."""
        self.set_configuration(make_cluster(records, self.cluster))
        self.cluster_index_term = position
        own = self.cluster.get(self.id)
        if own is None:
            self.membership = Membership.NON_VOTER  # the cluster removed us: elect nobody
        elif own.uid in (None, self.cfg.uid):
            self.membership = own.membership
        else:
            self.membership = Membership.NON_VOTER  # that is another incarnation of our address

    def set_configuration(self, cluster: Cluster) -> None:
        """Set the members. `peers` caches all but ourselves, in the order of their ids (hot path)."""
        self.cluster = cluster
        self.peers = [(member, peer) for member, peer in cluster.items() if member != self.id]

    def use_machine_version(self, index: Index, version: int) -> None:
        """Put this version in force from entry `index` on (VER-01)."""
        self.effective_machine_version = version
        self.machine_versions.append((index, version))
        # A version that this code lacks freezes the machine: nothing is applied until an upgrade (VER-02).
        self.frozen = version > self.cfg.machine.version
        machine = self.cfg.machine.which_module(min(version, self.cfg.machine.version))
        self.machine: Machine[Any] = skipping(machine, self.cfg.skipped) if self.cfg.skipped else machine
        self.apply_many: ApplyMany | None = apply_many_of(self.machine)
        self.decode_commands = decoder_of(list[machine.command_type]).decode  # type: ignore[name-defined]  # a run-time type
        self.decode_query = decoder_of(machine.query_type).decode
        self.query_sees_meta = type(machine).query_with_meta is not Machine.query_with_meta
        self.has_aux = type(self.machine).handle_aux is not Machine.handle_aux  # AUX-04

    def start_machine(self) -> None:
        """Set the machine's first state, or the snapshot's. Raises what the machine raises."""
        args, meta, load = dict(self.cfg.machine_args), self.start_meta, self.log.snapshots.load
        module, restore = bound_module(self.machine, args), partial(self.machine.restore, args=args)
        self.machine_state = self.machine.init(args) if meta is None else load(meta, restore, module)
        self.aux_state = self.machine.init_aux(self.id.name)
