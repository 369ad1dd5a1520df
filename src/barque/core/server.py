"""The state of one Raft server, and the named transitions that change it.

The fields of Figure 2 keep the paper's names. What belongs to one role lives in that role's
object (`roles`), so that it cannot exist in another. Only the section modules of this package
change these fields; the runtime reads them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from barque.core.effects import CancelElectionTimeout, Effect, PersistTermAndVote, Rejected, Rejection
from barque.core.entries import decode_head
from barque.core.log_contract import Log
from barque.core.messages import Commands
from barque.core.peers import Cluster, Peer, make_cluster
from barque.core.quorum import majority
from barque.core.roles import LeaderRole, Role, WaitingRole
from barque.core.states import RaftState as RaftState
from barque.errors import ConfigurationError
from barque.machine.machine import Machine
from barque.types import (
    NOWHERE,
    Index,
    IndexTerm,
    MemberRecord,
    Membership,
    ReplyMode,
    ServerId,
    Term,
    Uid,
)


class Transition(NamedTuple):
    """What a handler answers: the state to be in next, and what is to be done."""

    state: RaftState
    effects: list[Effect]


class Environment(Protocol):
    """What the core may know of the world outside its messages."""

    def now_ms(self) -> int:
        """Unix milliseconds, for the timestamps of new entries. No safety depends on it."""

    def token(self) -> int:
        """A number that no other round of pre-votes uses (64 bits)."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told once (CFG-01, CFG-04). Times in milliseconds."""

    id: ServerId
    uid: Uid
    cluster_name: str
    initial_members: tuple[ServerId, ...]
    machine: Machine[Any]
    machine_args: dict[str, Any] = {}
    cluster_id: str = ""
    """Names this cluster for ever: one of the same name, made later, has another."""
    membership: Membership = Membership.VOTER
    """What this server may do until a configuration in its log says so."""
    initial_uids: dict[ServerId, Uid] = {}
    """The uids of initial members, as far as they are known."""
    joined_at: IndexTerm = NOWHERE
    """What was committed when this server was made to join: whoever has less cannot lead any more."""
    machine_upgrade_strategy: str = "all"
    """When a leader moves to a new machine version: when `all` members have it, or at once (`quorum`)."""
    initial_machine_version: int = 0
    """The version that a new cluster starts with, if the machine supports it (VER-06)."""
    max_pipeline_count: int = 16_384
    """Entries in flight to one peer."""
    max_append_entries_rpc_batch_size: int = 4_096
    """Entries in one RPC. Ra's 128 counts single entries; ours travel as whole batches."""
    max_append_entries_rpc_bytes: int = 1_048_576
    low_priority_commands_flush_size: int = 1_024
    """Commands appended at a time. Ra's 16 counts single entries, as above."""
    await_condition_timeout_ms: int = 30_000
    transfer_timeout_ms: int = 1_000
    """How long a leader that hands over serves nobody, about an election (§3.10); then it leads on."""
    catch_up_timeout_ms: int = 1_000
    """How long a follower waits for what it asked its leader for, before it asks again."""
    wal_down_timeout_ms: int = 5_000
    receive_snapshot_timeout_ms: int = 30_000
    snapshot_backoff_ms: int = 5_000
    """Before a snapshot is sent again; doubled each time, up to a minute (SEND-07)."""

    def initial_cluster(self) -> list[MemberRecord]:
        """The members that the configuration names, and this server."""
        ids = {*self.initial_members, self.id}
        return [
            MemberRecord(
                member,
                self.uid if member == self.id else self.initial_uids.get(member),
                self.membership if member == self.id else Membership.VOTER,
            )
            for member in sorted(ids)
        ]

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot work."""
        if self.machine_upgrade_strategy not in ("all", "quorum"):
            raise ConfigurationError(
                f"machine_upgrade_strategy is {self.machine_upgrade_strategy!r}; it must be all or quorum"
            )
        if self.machine_upgrade_strategy == "all" and self.machine.version < self.initial_machine_version:
            raise ConfigurationError(
                f"initial_machine_version is {self.initial_machine_version}, but the machine of "
                f"{self.id} has version {self.machine.version} (invalid_initial_machine_version)"
            )


class Server:
    """One member of one cluster: Figure 2's state and Ra's additions (CORE-13)."""

    __slots__ = (
        "aux_state",
        "cfg",
        "cluster",
        "cluster_change_permitted",
        "cluster_index_term",
        "commit_index",
        "commit_latency_ms",
        "current_term",
        "decode_commands",
        "decode_query",
        "deleted",
        "earlier_clusters",
        "effective_machine_version",
        "environment",
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
        "others",
        "pending_release_cursor",
        "persisted_last_applied",
        "query_index",
        "raft_state",
        "role",
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
        self.raft_state = RaftState.RECOVER
        self.role: Role = None
        # Persistent (Figure 2). An entry may be durable before the term that it carries is.
        last_term = log.last_index_term().term
        self.current_term = max(current_term, last_term)
        self.voted_for = voted_for if self.current_term == current_term else None
        # Volatile. last_applied ≤ commit_index, and both only grow.
        meta = log.snapshots.current() if log.snapshots is not None else None
        start = meta.position if meta is not None else NOWHERE
        self.commit_index = max(start.index, min(last_applied, log.last_index_term().index))
        self.last_applied = start.index
        self.persisted_last_applied = self.commit_index
        self.leader_id: ServerId | None = None
        self.lost_quorum = False  # we led, and found no majority any more
        self.deleted = False  # the cluster's deletion is applied
        # Membership: the newest configuration in the log, committed or not.
        self.earlier_clusters: list[tuple[IndexTerm, tuple[MemberRecord, ...]]] = []  # oldest first
        self.cluster_change_permitted = False  # true once this term's noop is applied
        self.hold({})
        self.adopt_cluster(start, config.initial_cluster() if meta is None else [*meta.cluster])
        # The machine.
        self.machine_versions: list[tuple[Index, int]] = []  # since when which was in force
        self.machine_time_ms = 0  # the newest timestamp applied; machine time never runs back
        version = min(config.machine.version, config.initial_machine_version)
        self.use_machine_version(start.index, version if meta is None else meta.machine_version)
        self.machine_state: Any = None  # until `start_machine`
        self.aux_state: Any = None
        self.pending_release_cursor: Any = None
        self.query_index = 0  # of the newest consistent query, as a leader
        self.commit_latency_ms = 0

    # --- what handlers ask -------------------------------------------------------------

    @property
    def previous_cluster(self) -> tuple[IndexTerm, tuple[MemberRecord, ...]] | None:
        """The configuration that an overwritten change falls back to (MEMB-03)."""
        return self.earlier_clusters[-1] if self.earlier_clusters else None

    def peers(self) -> Sequence[tuple[ServerId, Peer]]:
        """Every other member, voter or not, in the order of their ids."""
        return self.others

    def is_voter(self, member: ServerId) -> bool:
        """Whether this member counts in quorums."""
        if member == self.id:
            return self.membership is Membership.VOTER
        peer = self.cluster.get(member)
        return peer is not None and peer.voter

    def quorum(self) -> int:
        """How many voters make a majority (ELEC-22)."""
        return majority(sum(peer.voter for peer in self.cluster.values()))

    def has_quorum(self, votes: set[ServerId]) -> bool:
        """Whether these members are a majority of the voters."""
        return sum(self.is_voter(member) for member in votes) >= self.quorum()

    def is_up_to_date(self, last_log_index: Index, last_log_term: Term) -> bool:
        """Whether a log that ends there is at least as up-to-date as ours (§3.6.1).

        One that joins answers for what its predecessor at this address has acknowledged, before it has it.
        """
        ours, owed = self.log.last_index_term(), self.cfg.joined_at
        return (last_log_term, last_log_index) >= max((ours.term, ours.index), (owed.term, owed.index))

    def stay(self, *effects: Effect) -> Transition:
        """Answer a message without leaving the present state."""
        return Transition(self.raft_state, list(effects))

    # --- named transitions -------------------------------------------------------------

    def adopt_cluster(self, position: IndexTerm, records: list[MemberRecord]) -> None:
        """Take up the configuration of the entry, or snapshot, at `position` (MEMB-02, MEMB-10)."""
        self.hold(make_cluster(records, self.cluster))
        self.cluster_index_term = position
        own = self.cluster.get(self.id)
        if own is None:
            self.membership = Membership.NON_VOTER  # we were removed: elect nobody
        elif own.uid in (None, self.cfg.uid):
            self.membership = own.membership
        else:
            self.membership = Membership.NON_VOTER  # that is another incarnation of our address

    def hold(self, cluster: Cluster) -> None:
        """These are the members, and what is known of each; the others are asked for all the time."""
        self.cluster = cluster
        self.others = [(member, peer) for member, peer in cluster.items() if member != self.id]

    def use_machine_version(self, index: Index, version: int) -> None:
        """This version is in force from entry `index` on (VER-01)."""
        self.effective_machine_version = version
        self.machine_versions.append((index, version))
        # One that we do not have freezes us: nothing is applied until this code is replaced (VER-02).
        machine = self.cfg.machine.which_module(min(version, self.cfg.machine.version))
        self.machine: Machine[Any] = machine
        self.decode_commands = msgspec.msgpack.Decoder(list[machine.command_type]).decode  # type: ignore[name-defined]  # a run-time type
        self.decode_query = msgspec.msgpack.Decoder(machine.query_type).decode

    def start_machine(self) -> None:
        """Its first state, or that of the snapshot. Raises what the machine raises."""
        args, snapshots = dict(self.cfg.machine_args), self.log.snapshots
        if snapshots is None or snapshots.current() is None:
            self.machine_state = self.machine.init(args)
        else:
            self.machine_state = self.machine.decode_state(snapshots.load(), args)
        self.aux_state = self.machine.init_aux(self.id.name)

    def adopt_term(self, term: Term) -> list[Effect]:
        """§3.3: a higher term replaces ours, and we have not voted in it."""
        return self.adopt_term_and_vote(term, None) if term > self.current_term else []

    def adopt_term_and_vote(self, term: Term, voted_for: ServerId | None) -> list[Effect]:
        """Change the durable pair; what follows in the list waits for the disk (ELEC-13)."""
        assert term >= self.current_term, "a term never falls"
        if (term, voted_for) == (self.current_term, self.voted_for):
            return []
        if term > self.current_term:
            for peer in self.cluster.values():
                peer.query_index = 0  # heartbeats of another term prove nothing (QRY-08)
        self.current_term = term
        self.voted_for = voted_for
        return [PersistTermAndVote(term, voted_for)]

    def follow(self, leader: ServerId) -> CancelElectionTimeout:
        """A valid leader of the current term was heard from."""
        self.leader_id = leader
        self.lost_quorum = False
        return CancelElectionTimeout()

    def become_follower(self, reason: str = Rejection.NOT_LEADER) -> list[Effect]:
        """Leave any role. What waited for our leadership is refused: it did not happen."""
        role, self.role = self.role, None
        leader = role if isinstance(role, LeaderRole) else None
        if isinstance(role, WaitingRole):
            leader = role.resume
        if leader is None:
            return []
        if self.leader_id == self.id:
            self.leader_id = None
        return _refuse_what_waits(leader, reason, self.leader_id)

    def step_down(self, term: Term) -> list[Effect]:
        """§3.3: someone is in a higher term; become its follower, of no known leader."""
        effects = self.adopt_term(term)
        self.leader_id = None
        return effects + self.become_follower()

    def leader_role(self) -> LeaderRole:
        """The leader's own state; only a leader may ask."""
        assert isinstance(self.role, LeaderRole), f"{self.raft_state} is no leader"
        return self.role


def _refuse_what_waits(leader: LeaderRole, reason: str, now: ServerId | None) -> list[Effect]:
    """Queries never answered and commands never appended are safe to send elsewhere."""
    effects: list[Effect] = [
        Rejected(waiting.origin, waiting.first_correlation, waiting.size, reason, now)
        for waiting in (*(leader.waiting_queries or ()), *leader.pending_queries)
    ]
    for commands in leader.low_priority or ():
        effects.extend(refuse_commands(commands, reason, now))
    return effects


def refuse_commands(commands: Commands, reason: str, leader: ServerId | None) -> list[Effect]:
    """Say that these commands did not happen, if anybody waits for them."""
    head = decode_head(commands.body)
    if head.reply_mode is ReplyMode.NOREPLY:
        return []
    return [Rejected(head.origin, head.first_correlation, commands.count, reason, leader)]
