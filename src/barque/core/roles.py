"""The states of a Raft server, and what belongs to each: one role object at a time.

A server has exactly one role. The role object is the state: `raft_state` repeats its `state`, and
only `transitions` exchanges it. Data that makes sense in one state lives in that state's role and
goes with it, so no other state can read a stale copy.
"""

import enum
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol, assert_never

from barque.core.effects import Effect
from barque.core.log_contract import Found, Log, SnapshotMeta, find_entry
from barque.core.messages import AppendEntriesRpc, AuxCommand, Commands, InstallSnapshotRpc, Message
from barque.types import ClientRef, Index, ServerId


class RaftState(enum.StrEnum):
    """Ra's states (CORE-02). A server in one of the last two handles no messages."""

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


class PlainRole:
    """A state that keeps nothing of its own. There is one object for each, below."""

    __slots__ = ("state",)

    def __init__(self, state: RaftState) -> None:
        self.state = state


RECOVERING = PlainRole(RaftState.RECOVER)
RECOVERED = PlainRole(RaftState.RECOVERED)
FOLLOWING = PlainRole(RaftState.FOLLOWER)
TERMINATING_FOLLOWING = PlainRole(RaftState.TERMINATING_FOLLOWER)
DELETED = PlainRole(RaftState.DELETE_AND_TERMINATE)
STOPPED = PlainRole(RaftState.STOP)


class WaitingQueries(NamedTuple):
    """Consistent queries that wait for a majority to answer heartbeat `query_index` (§6.4).

    Or one consistent aux command (QRY-05); `payloads` is empty then.
    """

    query_index: int
    origin: ClientRef
    first_correlation: int
    payloads: tuple[bytes, ...]
    read_index: Index
    aux: AuxCommand | None = None

    @property
    def size(self) -> int:
        """How many callers wait."""
        return 1 if self.aux is not None else len(self.payloads)


class LeaderRole:
    """What only a leader has. A leader that waits keeps it (`WaitingRole.resume`)."""

    state: ClassVar[RaftState] = RaftState.LEADER
    __slots__ = (
        "acked",
        "decoded",
        "decoded_bytes",
        "established",
        "low_priority",
        "noop_due",
        "pending_queries",
        "proposed_version",
        "silent",
        "waiting_queries",
    )

    def __init__(self, peers: Iterable[ServerId] = ()) -> None:
        self.silent = set(peers)  # members that have not answered since they failed, or since we lead
        self.established = False  # this term's noop is applied (§6.4)
        self.noop_due: int | None = None  # the machine version of a noop that the log refused
        self.low_priority: deque[Commands] | None = None  # not yet in the log
        self.pending_queries: list[WaitingQueries] = []  # until this term's noop is applied
        self.waiting_queries: deque[WaitingQueries] | None = None  # for heartbeats, oldest first
        self.proposed_version = 0  # the newest machine version that our noops ask for
        # The size and the commands of admitted bodies by first index, until they are applied; and all sizes.
        self.decoded: dict[int, tuple[int, list[Any]]] = {}
        self.decoded_bytes = 0
        self.acked: set[ServerId] | None = None  # members that answered since we suspect a lost quorum


class TerminatingLeaderRole(LeaderRole):
    """A leader that has applied its cluster's deletion and still replicates it (CORE-09)."""

    state: ClassVar[RaftState] = RaftState.TERMINATING_LEADER
    __slots__ = ()


class CandidateRole:
    """A real election: the voters that have granted their vote in the current term."""

    state: ClassVar[RaftState] = RaftState.CANDIDATE
    __slots__ = ("retried", "votes")

    def __init__(self, *, retried: bool = False) -> None:
        self.votes: set[ServerId] = set()
        self.retried = retried  # the election before this one failed, too


class PreVoteRole:
    """A trial election: its round's token, and the voters that would vote for us."""

    state: ClassVar[RaftState] = RaftState.PRE_VOTE
    __slots__ = ("token", "votes")

    def __init__(self, token: int) -> None:
        self.token = token
        self.votes: set[ServerId] = set()


class Condition(Protocol):
    """What a server in `await_condition` waits for."""

    def holds(self, log: Log, message: Message) -> bool:
        """Whether this message, to the server with this log, makes the condition true or finds it true."""

    def __str__(self) -> str: ...


class WaitingRole:
    """`await_condition`: the condition, the state that follows it, and the state after a timeout."""

    state: ClassVar[RaftState] = RaftState.AWAIT_CONDITION
    __slots__ = ("condition", "later", "resume", "timeout_effects", "timeout_to", "transition_to")

    def __init__(
        self,
        condition: Condition,
        *,
        transition_to: RaftState = RaftState.FOLLOWER,
        timeout_to: RaftState = RaftState.FOLLOWER,
        timeout_effects: tuple[Effect, ...] = (),
        resume: LeaderRole | None = None,
    ) -> None:
        self.condition = condition
        self.transition_to = transition_to
        self.timeout_to = timeout_to
        self.timeout_effects = timeout_effects
        self.resume = resume  # a leader that waits takes its leadership up again
        self.later: list[Message] = []  # news that it handles then, each once


class ReceivingRole:
    """`receive_snapshot`: the snapshot, and how much of it is here."""

    state: ClassVar[RaftState] = RaftState.RECEIVE_SNAPSHOT
    __slots__ = ("installed", "last", "live_chunks", "meta", "pieces")

    def __init__(self, meta: SnapshotMeta) -> None:
        self.meta = meta
        self.live_chunks: int | None = None  # of live entries, once they were announced
        self.pieces = 0  # of the snapshot
        self.last: InstallSnapshotRpc | None = None  # the last piece: all is here, and is being checked
        self.installed = False  # the snapshot has replaced log and state


Role = PlainRole | LeaderRole | CandidateRole | PreVoteRole | WaitingRole | ReceivingRole


# --- what a server may wait for (CORE-06; semantics §8) --------------------------------------


class CatchUp:
    """A follower with a gap, or with a conflicting end, waits for an RPC that continues its log."""

    __slots__ = ("missing",)

    def __init__(self, *, missing: bool) -> None:
        self.missing = missing

    def holds(self, log: Log, message: Message) -> bool:
        """An RPC of our leader whose previous entry is ours.

        An RPC that does not match passes only if a gap was the reason to wait: the follower answers it
        in another way then. An RPC of a later term never comes here: the term ends the wait.
        """
        if isinstance(message, InstallSnapshotRpc):
            return message.meta.position.index >= log.next_index()
        if not isinstance(message, AppendEntriesRpc):
            return False
        match find_entry(log, message.prev_log_index, message.prev_log_term):
            case Found.OK:
                return True
            case Found.MISMATCH:
                return self.missing
            case Found.MISSING:
                return False
            case found:
                assert_never(found)

    def __str__(self) -> str:
        return "the leader to send what is missing" if self.missing else "the leader to rewind"


class WalWritable:
    """The write-ahead log failed; wait until it takes writes again."""

    __slots__ = ()

    def holds(self, log: Log, message: Message) -> bool:
        """Any message may find the log writable again."""
        return log.can_write()

    def __str__(self) -> str:
        return "the write-ahead log to be writable"


class TransferDone:
    """A leader that handed over waits for its successor (§3.10), whose higher term ends the wait."""

    __slots__ = ()

    def holds(self, log: Log, message: Message) -> bool:
        """No message of our own term fulfils it; the successor's term makes us a follower."""
        return False

    def __str__(self) -> str:
        return "the new leader to be heard"
