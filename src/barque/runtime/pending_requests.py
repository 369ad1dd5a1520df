"""Requests that wait for an answer: runs of consecutive correlations, found by any number in them."""

import struct
from bisect import bisect_right
from typing import Any, Protocol

import msgspec

from barque.core.messages import RemoteMessage
from barque.errors import BarqueError
from barque.transport.answers import UnansweredRanges
from barque.types import ReplyMode, ServerId, Term

BATCH_COMMANDS_MAX = 4_096
BATCH_BYTES_MAX = 4 * 1024 * 1024
SENT_BYTES_MAX = 8 * 1024 * 1024
"""So much of one session is on its way to leaders at a time, or one request that is larger."""
REQUEST_OVERHEAD = 512
"""What a request takes beside its bytes."""


class Receiver(Protocol):
    """Takes the outcomes of one request of a caller in this process. Offsets count from its first item."""

    def replied(self, offset: int, replies: list[Any], errors: dict[int, BarqueError] | None) -> None:
        """Replies to consecutive items from `offset` on. An error, at its relative offset, replaces one."""

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """`count` items from `offset` on have no reply."""


class Speaker(Protocol):
    """Gathers something for a program, and delivers it in a phase of the turn."""

    def deliver(self) -> None:
        """Hand over everything that was gathered, in the order in which it came."""


class Session(Speaker, Protocol):
    """The maker of a request, as the router sees it. It gathers outcomes until `deliver`."""

    closed: bool
    is_client: bool
    """Whether it may have a share only of what may wait."""
    waiting_bytes: int
    waiting_commands: int
    sent_bytes: int

    def replied(
        self,
        request: "PendingRequest",
        offset: int,
        count: int,
        replies: list[Any] | msgspec.Raw,
        errors: dict[int, str] | None,
        leader: ServerId | None,
    ) -> None:
        """`count` items from `offset` on have replies; `errors` are relative to `offset`.

        From the leader on this node replies come as values, which may be references to the machine's
        state; from another node they come encoded.
        """

    def failed(
        self,
        request: "PendingRequest",
        offset: int,
        count: int,
        error: str,
        text: str,
        leader: ServerId | None,
    ) -> None:
        """`count` items from `offset` on ended without a reply; `error` names a class of `barque.errors`."""


class RequestTransport(Protocol):
    """How the router reaches servers."""

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        """Send to a server, here or elsewhere; False if the message could not even be queued."""

    def local_query(self, cluster: str, payload: bytes) -> Any:
        """Ask the member on this node. Raises `UnknownCluster` if there is none, or it does not run."""

    def note_invalid_mode(self, cluster: str, count: int) -> None:
        """Count so many commands that named a way of being answered that nobody knows."""

    def why_not_here(self, cluster: str) -> str:
        """Why the member on this node does not run; empty if it runs, or there is none."""


class TurnControl(Protocol):
    """How the router asks for a turn of the loop."""

    def wake(self) -> None:
        """Call `flush` and `deliver` before this turn ends."""

    def wake_later(self, after_s: float) -> None:
        """Call them after so many seconds."""


class PendingRequest:
    """One request of one session: `count` commands, or `count` reads of one level.

    A client in another process sends the commands as `columns` (lengths, then bytes); a caller in this
    process leaves them in `payloads`. `first` is the correlation of its first item while the request is sent
    and unanswered, and 0 otherwise. The session knows the items from `session_first` on, or by `receiver`.
    """

    __slots__ = (
        "arrival",
        "asked_again",
        "columns",
        "count",
        "deadline",
        "done",
        "first",
        "is_read",
        "kind",
        "mode",
        "payloads",
        "receiver",
        "round",
        "route",
        "sent_in",
        "session",
        "session_first",
        "size",
        "unanswered",
    )

    def __init__(
        self,
        session: "Session",
        session_first: int,
        count: int,
        *,
        columns: bytes = b"",
        payloads: list[bytes] | tuple[bytes, ...] = (),
        mode: ReplyMode = ReplyMode.NOREPLY,
        low_priority: bool = False,
        level: str = "",
        receiver: Receiver | None = None,
    ) -> None:
        self.session = session
        self.session_first = session_first
        self.count = count
        self.columns = columns
        self.payloads = payloads
        self.mode = mode
        self.is_read = bool(level)
        self.kind: tuple[str, ReplyMode, bool] = (level, mode, low_priority)
        """Only requests of equal kind can travel in one batch: level (empty for commands), mode, priority."""
        self.receiver = receiver
        self.size = len(columns) if columns else sum(map(len, payloads))
        self.route: ClusterRoute | None = None
        self.round = 0  # the flush of the router before which it came
        self.first = 0
        self.arrival = 0
        self.unanswered: UnansweredRanges | None = None  # None: no item has an answer
        self.sent_in = Term(0)
        self.asked_again = False  # a read that a leader had when it was replaced
        self.deadline = 0.0
        self.done = False

    def close(self, first: int, count: int) -> list[tuple[int, int]]:
        """Mark items as answered; return those that were unanswered until now, as (first, count)."""
        if self.unanswered is None:
            if count >= self.count:
                return [(0, count)]  # nearly always: all at once, and then the request is done
            self.unanswered = UnansweredRanges(self.count)
        return self.unanswered.close(first, count)

    @property
    def is_answered(self) -> bool:
        """After `close`: whether every item has its answer."""
        return not self.unanswered

    def lengths_and_bytes(self) -> tuple[bytes, bytes]:
        """The two halves of an entry-batch body's columns."""
        if self.columns:
            split = 4 * self.count
            return self.columns[:split], self.columns[split:]
        return struct.pack(f"<{self.count}I", *map(len, self.payloads)), b"".join(self.payloads)


class ClusterRoute:
    """One cluster: its leader, as far as the router knows, and the requests that wait for it."""

    __slots__ = (
        "cluster",
        "cluster_id",
        "established",
        "leader",
        "queued",
        "refusal",
        "retry_at",
        "suspect",
        "term",
        "unanswered",
    )

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.cluster_id = ""  # which cluster of that name; empty until its leader has announced itself
        self.leader: ServerId | None = None
        self.suspect = False  # the leader's node seems to be out of reach: send it nothing new
        self.term = Term(0)  # the term in which `leader` leads, as far as is known
        self.established = Term(0)  # the newest term whose leader has announced itself
        self.queued: list[PendingRequest] = []  # not sent, or surely refused; in the order of arrival
        self.unanswered: dict[int, PendingRequest] = {}  # sent, by first correlation
        self.refusal = ""  # why the last server refused, for the message at the deadline
        self.retry_at = 0.0  # do not ask the same leader again before this


class PendingRequests:
    """All requests of one router, in the order of their correlations once they have some."""

    __slots__ = (
        *("_arrivals", "_by_first", "_dead", "_firsts", "_next", "bytes", "bytes_max", "commands"),
        "commands_max",
    )

    def __init__(self, commands_max: int, bytes_max: int) -> None:
        self.commands_max = commands_max
        self.bytes_max = bytes_max
        self._firsts: list[int] = []  # ascending; may hold numbers whose request is gone
        self._by_first: dict[int, PendingRequest] = {}
        self._dead = 0
        self._next = 1
        self._arrivals = 0
        self.commands = 0  # how many items wait, reads included
        self.bytes = 0

    def refusal(self, request: PendingRequest) -> str:
        """Why this request may not wait; empty if it may.

        A client may have as much waiting as is left free then: half of all if it is alone, and a later one
        finds room. Its first request may always wait.
        """
        session, size = request.session, request.size + REQUEST_OVERHEAD
        commands_free, bytes_free = self.commands_max - self.commands, self.bytes_max - self.bytes
        if request.count > commands_free or size > bytes_free:
            return f"{self.commands} commands wait already on this node; slow down"
        if not session.is_client or not session.waiting_bytes:
            return ""
        waiting = session.waiting_commands
        is_fair = waiting + 2 * request.count <= commands_free
        if is_fair and session.waiting_bytes + 2 * size <= bytes_free:
            return ""
        return f"{waiting} commands of this client wait already; slow down"

    def waiting(self, request: PendingRequest) -> None:
        """Count a request that has come in."""
        self._arrivals += 1
        request.arrival = self._arrivals
        self.commands += request.count
        self.bytes += request.size + REQUEST_OVERHEAD
        session = request.session
        if session.is_client:
            session.waiting_commands += request.count
            session.waiting_bytes += request.size + REQUEST_OVERHEAD

    def number(self, batch: list[PendingRequest]) -> int:
        """Give these requests consecutive correlations; return the first."""
        first = self._next
        for request in batch:
            request.first = self._next
            self._firsts.append(self._next)
            self._by_first[self._next] = request
            self._next += request.count
            request.session.sent_bytes += request.size
        return first

    def find(self, correlation: int) -> PendingRequest | None:
        """The request that this correlation belongs to, if it still waits."""
        request = self._by_first.get(correlation)
        if request is not None:
            return request
        at = bisect_right(self._firsts, correlation) - 1
        if at < 0:
            return None
        request = self._by_first.get(self._firsts[at])
        return request if request is not None and correlation < request.first + request.count else None

    def forget(self, request: PendingRequest) -> None:
        """Take its correlations away; the request will be sent anew, or never."""
        if request.first and self._by_first.pop(request.first, None) is not None:
            self._dead += 1
            request.session.sent_bytes -= request.size
            if self._dead > 256 and self._dead * 2 > len(self._firsts):
                self._firsts = sorted(self._by_first)
                self._dead = 0
        request.first = 0

    def done(self, request: PendingRequest) -> None:
        """Count it no longer: it has its answer, or has failed."""
        self.forget(request)
        self.commands -= request.count
        self.bytes -= request.size + REQUEST_OVERHEAD
        session = request.session
        if session.is_client:
            session.waiting_commands -= request.count
            session.waiting_bytes -= request.size + REQUEST_OVERHEAD


def admitted(queued: list[PendingRequest]) -> tuple[list[PendingRequest], list[PendingRequest]]:
    """Divide these: requests that may be sent now, and requests of sessions that have enough on their way.

    So the large requests of one session go one after the other, and small ones of others go in between. The
    requests of a session stay in their order.
    """
    now: list[PendingRequest] = []
    later: list[PendingRequest] = []
    on_the_way: dict[Session, int] = {}
    full: set[Session] = set()
    for request in queued:
        session = request.session
        sent = on_the_way.get(session, session.sent_bytes)
        if session in full or (sent and sent + request.size > SENT_BYTES_MAX):
            full.add(session)
            later.append(request)
        else:
            on_the_way[session] = sent + request.size
            now.append(request)
    return now, later


def in_batches(
    queued: list[PendingRequest],
) -> tuple[list[list[PendingRequest]], list[PendingRequest]]:
    """Put neighbours of one kind together, up to the limits; return these batches, and what is for later.

    Order is kept. About as much as one batch may hold is for now: so one cluster whose clients send without
    end holds up the others for no longer than that takes.
    """
    if len(queued) == 1:
        return [queued], []
    batches: list[list[PendingRequest]] = []
    kind: Any = None
    count = size = all_count = all_size = 0
    for number, request in enumerate(queued):
        full = count + request.count > BATCH_COMMANDS_MAX or size + request.size > BATCH_BYTES_MAX
        if not batches or request.kind != kind or full:
            if all_count >= BATCH_COMMANDS_MAX or all_size >= BATCH_BYTES_MAX:
                return batches, queued[number:]
            batches.append([])
            kind, count, size = request.kind, 0, 0
        batches[-1].append(request)
        count += request.count
        size += request.size
        all_count += request.count
        all_size += request.size
    return batches, []


def body_of(head: bytes, batch: list[PendingRequest]) -> bytes:
    """One entry-batch body of several requests: all lengths, then all commands."""
    if len(batch) == 1 and batch[0].columns:
        return head + batch[0].columns
    columns = [request.lengths_and_bytes() for request in batch]
    return b"".join((head, *(lengths for lengths, _ in columns), *(commands for _, commands in columns)))


def part_of(errors: dict[int, str] | None, position: int, size: int) -> dict[int, str] | None:
    """The errors of `size` items from `position` on, relative to it."""
    if not errors:
        return None
    return {k - position: v for k, v in errors.items() if 0 <= k - position < size} or None
