"""What belongs to one Raft state, and so cannot exist in another."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from barque.core.effects import Effect
from barque.core.messages import AuxCommand, Commands, InstallSnapshotRpc, Message
from barque.core.snapshots import ChunkFlag, SnapshotMeta
from barque.core.states import RaftState
from barque.types import ClientRef, Index, ServerId

if TYPE_CHECKING:
    from barque.core.server import Server


class WaitingQueries(NamedTuple):
    """Consistent queries that wait for a majority to answer heartbeat `query_index` (§6.4).

    Or one consistent aux command (QRY-05), and then no payloads.
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
    """What only a leader has. It survives `await_condition`, and nothing else does."""

    __slots__ = (
        "heard",
        "low_priority",
        "noop_due",
        "pending_queries",
        "proposed_version",
        "waiting_queries",
    )

    def __init__(self) -> None:
        self.noop_due: int | None = None  # the noop's machine version, if it found no disk
        self.low_priority: deque[Commands] | None = None  # not yet in the log
        self.pending_queries: list[WaitingQueries] = []  # until this term's noop is applied
        self.waiting_queries: deque[WaitingQueries] | None = None  # for heartbeats, oldest first
        self.proposed_version = 0  # the newest machine version that a noop of ours asks for
        self.heard: set[ServerId] | None = None  # since we began to doubt our quorum


class CandidateRole:
    """A real election: who has voted for us in the current term."""

    __slots__ = ("second", "votes")

    def __init__(self, *, second: bool = False) -> None:
        self.votes: set[ServerId] = set()
        self.second = second  # the first came to nothing


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


class ReceivingRole:
    """`receive_snapshot`: which one, how far it is, and the last chunk if it has to wait (S-5)."""

    __slots__ = ("awaiting_pending", "live", "meta", "phase")

    def __init__(self, meta: SnapshotMeta, phase: ChunkFlag) -> None:
        self.meta = meta
        self.phase = phase
        self.live = False  # live entries were announced
        self.awaiting_pending: InstallSnapshotRpc | None = None


Role = LeaderRole | CandidateRole | PreVoteRole | WaitingRole | ReceivingRole | None
