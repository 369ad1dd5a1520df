"""The state of one Raft server, and the named transitions that change it.

The fields of Figure 2 keep the paper's names. What belongs to one role lives in that role's
object, so that it cannot exist in another. Only the section modules of this package change
these fields; the runtime reads them.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from barque.core.effects import Effect, PersistTermAndVote, RecordLeaderMsg, Rejected, Rejection
from barque.core.entries import decode_head
from barque.core.log_contract import Log
from barque.core.messages import Commands, Message
from barque.core.quorum import majority
from barque.machine.machine import Machine
from barque.types import NOWHERE, ClientRef, Index, IndexTerm, ReplyMode, ServerId, Term, Uid


class RaftState(enum.StrEnum):
    """Ra's states (CORE-02). The last six are entered by the runtime or by later releases."""

    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    PRE_VOTE = "pre_vote"
    AWAIT_CONDITION = "await_condition"
    RECEIVE_SNAPSHOT = "receive_snapshot"
    RECOVER = "recover"
    RECOVERED = "recovered"
    TERMINATING_LEADER = "terminating_leader"
    TERMINATING_FOLLOWER = "terminating_follower"
    DELETE_AND_TERMINATE = "delete_and_terminate"
    STOP = "stop"


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
    cluster_id: str = ""
    """Which cluster of that name: another one after it was deleted and created again."""
    membership: str = "voter"
    """What this server is until the log says otherwise."""
    initial_uids: dict[ServerId, Uid] = {}
    """The incarnations of the initial members, as far as they were known when it was formed."""
    initial_members: tuple[ServerId, ...]
    machine: Machine[Any]
    machine_args: dict[str, Any] = {}
    max_pipeline_count: int = 16_384
    """Entries in flight to one peer."""
    max_append_entries_rpc_batch_size: int = 4_096
    """Entries in one RPC. Ra's 128 counts single entries; ours travel as whole batches."""
    max_append_entries_rpc_bytes: int = 1_048_576
    low_priority_commands_flush_size: int = 1_024
    """Commands appended at a time. Ra's 16 counts single entries, as above."""
    await_condition_timeout_ms: int = 30_000
    catch_up_timeout_ms: int = 1_000
    """How long a follower waits for what it asked its leader for, before it asks again."""
    wal_down_timeout_ms: int = 5_000


class Peer:
    """What a leader believes of one member (CORE-15). Its own entry is never used.

    Invariant: match_index < next_index.
    """

    __slots__ = ("commit_index_sent", "match_index", "next_index", "query_index", "uid", "voter")

    def __init__(self, *, voter: bool = True, uid: Uid | None = None) -> None:
        self.next_index = Index(1)  # the next entry to send; moved on optimistically (REPL-03)
        self.match_index = Index(0)  # durable there, in this leader's term
        self.commit_index_sent = Index(0)  # by pipelined RPCs only
        self.query_index = 0  # the newest heartbeat it has answered in this term
        self.voter = voter
        self.uid = uid  # which incarnation is the member; None while nobody knows


class WaitingQueries(NamedTuple):
    """Consistent queries that wait for a majority to answer heartbeat `query_index` (§6.4)."""

    query_index: int
    origin: ClientRef
    first_correlation: int
    payloads: tuple[bytes, ...]
    read_index: Index


class LeaderRole:
    """What only a leader has. It survives `await_condition`, and nothing else does."""

    __slots__ = ("low_priority", "noop_due", "pending_queries", "waiting_queries")

    def __init__(self) -> None:
        self.noop_due: int | None = None  # the noop's machine version, if it found no disk
        self.low_priority: deque[Commands] | None = None  # not yet in the log
        self.pending_queries: list[WaitingQueries] = []  # until this term's noop is applied
        self.waiting_queries: deque[WaitingQueries] | None = None  # for heartbeats, oldest first


class CandidateRole:
    """A real election: who has voted for us in the current term."""

    __slots__ = ("votes",)

    def __init__(self) -> None:
        self.votes: set[ServerId] = set()


class PreVoteRole:
    """A trial election: its round's token, and who would vote for us."""

    __slots__ = ("token", "votes")

    def __init__(self, token: int) -> None:
        self.token = token
        self.votes: set[ServerId] = set()


class Condition(Protocol):
    """What a server in `await_condition` waits for."""

    def holds(self, server: "Server", message: Message) -> bool:
        """Whether this message brings, or finds, the condition true."""

    def __str__(self) -> str: ...


class WaitingRole:
    """`await_condition`: for what, where to go then, and where to go when time runs out."""

    __slots__ = ("condition", "resume", "timeout_effects", "timeout_to", "transition_to")

    def __init__(
        self,
        condition: Condition,
        *,
        transition_to: RaftState = RaftState.FOLLOWER,
        timeout_to: RaftState = RaftState.FOLLOWER,
        timeout_effects: Callable[["Server"], list[Effect]] = lambda _server: [],
        resume: LeaderRole | None = None,
    ) -> None:
        self.condition = condition
        self.transition_to = transition_to
        self.timeout_to = timeout_to
        self.timeout_effects = timeout_effects
        self.resume = resume  # a leader that waits takes its leadership up again


Role = LeaderRole | CandidateRole | PreVoteRole | WaitingRole | None


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
        "effective_machine_version",
        "environment",
        "last_applied",
        "leader_id",
        "log",
        "machine_state",
        "machine_time_ms",
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
        self.cfg = config
        self.log = log
        self.environment = environment
        self.raft_state = RaftState.RECOVER
        self.role: Role = None
        # Persistent (Figure 2). An entry may be durable before the term that it carries is.
        last_term = log.last_index_term().term
        self.current_term = max(current_term, last_term)
        self.voted_for = voted_for if self.current_term == current_term else None
        # Volatile. last_applied ≤ commit_index, and both only grow.
        self.commit_index = min(last_applied, log.last_index_term().index)
        self.last_applied = Index(0)
        self.persisted_last_applied = self.commit_index
        self.leader_id: ServerId | None = None
        # Membership: the newest configuration in the log, committed or not.
        members = {*config.initial_members, config.id}
        uids = {**config.initial_uids, config.id: config.uid}
        self.cluster: dict[ServerId, Peer] = {m: Peer(uid=uids.get(m)) for m in sorted(members)}
        self.cluster_index_term: IndexTerm = NOWHERE
        self.cluster_change_permitted = False  # true once this term's noop is applied
        # The machine.
        self.machine_state: Any = config.machine.init(dict(config.machine_args))
        self.machine_time_ms = 0  # the newest timestamp applied; machine time never runs back
        self.effective_machine_version = 0
        self.aux_state: Any = config.machine.init_aux(config.id.name)
        self.query_index = 0  # of the newest consistent query, as a leader
        self.commit_latency_ms = 0
        self.decode_commands = msgspec.msgpack.Decoder(list[config.machine.command_type]).decode  # type: ignore[name-defined]  # a run-time type
        self.decode_query = msgspec.msgpack.Decoder(config.machine.query_type).decode

    # --- what handlers ask -------------------------------------------------------------

    @property
    def id(self) -> ServerId:
        """This server's own address."""
        return self.cfg.id

    def peers(self) -> list[tuple[ServerId, Peer]]:
        """Every other member, voter or not, in the order of their ids."""
        return [(member, peer) for member, peer in self.cluster.items() if member != self.cfg.id]

    def is_voter(self, member: ServerId) -> bool:
        """Whether this member counts in quorums."""
        peer = self.cluster.get(member)
        return peer is not None and peer.voter

    def quorum(self) -> int:
        """How many voters make a majority (ELEC-22)."""
        return majority(sum(peer.voter for peer in self.cluster.values()))

    def has_quorum(self, votes: set[ServerId]) -> bool:
        """Whether these members are a majority of the voters."""
        return sum(self.is_voter(member) for member in votes) >= self.quorum()

    def is_up_to_date(self, last_log_index: Index, last_log_term: Term) -> bool:
        """Whether a log that ends there is at least as up-to-date as ours (§3.6.1)."""
        ours = self.log.last_index_term()
        return (last_log_term, last_log_index) >= (ours.term, ours.index)

    def stay(self, *effects: Effect) -> Transition:
        """Answer a message without leaving the present state."""
        return Transition(self.raft_state, list(effects))

    # --- named transitions -------------------------------------------------------------

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

    def follow(self, leader: ServerId) -> RecordLeaderMsg:
        """A valid leader of the current term was heard from."""
        self.leader_id = leader
        return RecordLeaderMsg(leader)

    def become_follower(self) -> list[Effect]:
        """Leave any role. What waited for our leadership is refused: it did not happen."""
        role, self.role = self.role, None
        leader = role if isinstance(role, LeaderRole) else None
        if isinstance(role, WaitingRole):
            leader = role.resume
        if leader is None:
            return []
        if self.leader_id == self.id:
            self.leader_id = None
        return _refuse_what_waits(leader, self.leader_id)

    def step_down(self, term: Term) -> list[Effect]:
        """§3.3: someone is in a higher term; become its follower, of no known leader."""
        effects = self.adopt_term(term)
        self.leader_id = None
        return effects + self.become_follower()

    def leader_role(self) -> LeaderRole:
        """The leader's own state; only a leader may ask."""
        assert isinstance(self.role, LeaderRole), f"{self.raft_state} is no leader"
        return self.role


def _refuse_what_waits(leader: LeaderRole, now: ServerId | None) -> list[Effect]:
    """Queries never answered and commands never appended are safe to send elsewhere."""
    effects: list[Effect] = [
        Rejected(waiting.origin, waiting.first_correlation, len(waiting.payloads), Rejection.NOT_LEADER, now)
        for waiting in (*(leader.waiting_queries or ()), *leader.pending_queries)
    ]
    for commands in leader.low_priority or ():
        effects.extend(refuse_commands(commands, Rejection.NOT_LEADER, now))
    return effects


def refuse_commands(commands: Commands, reason: str, leader: ServerId | None) -> list[Effect]:
    """Say that these commands did not happen, if anybody waits for them."""
    head = decode_head(commands.body)
    if head.reply_mode is ReplyMode.NOREPLY:
        return []
    return [Rejected(head.origin, head.first_correlation, commands.count, reason, leader)]
