"""The node's front: where commands and reads come in, and where their answers go out.

Everything that arrives in one turn of the loop for one cluster leaves as one batch for its
leader, wherever that is. The front numbers what it sends (`correlation`), remembers it in
*ranges*, and knows of each what it may say when no answer comes:

- never sent, or refused by the server it was sent to: it did not happen, try elsewhere;
- sent and unanswered: it may have happened, and is never sent again.

A leader that announces its established term (`LeaderIs`) has answered everything of earlier
terms that survived, so what was sent to an earlier leader and is unanswered then is unknown at
once, not only at its deadline. docs/explanation/routing.md tells the whole story.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from barque.core.effects import Rejection
from barque.core.entries import BODY_BYTES_MAX, COMMAND_BYTES_MAX, EntryKind, encode_head
from barque.core.messages import Commands, Queries, RemoteMessage
from barque.errors import ProtocolError
from barque.runtime.clock import Clock
from barque.runtime.ranges import Range, Ranges
from barque.runtime.refusals import describe_refusal
from barque.runtime.replies import encode_in_parts
from barque.transport.wire import ClientAnswer, ClientCommands, ClientFailed, ClientQueries, ClientReplies
from barque.types import ClientRef, ReplyMode, ServerId, Term

_BATCH_COMMANDS_MAX = 4_096
_BATCH_BYTES_MAX = 4 * 1024 * 1024
_REQUEST_BYTES_MAX = BODY_BYTES_MAX - 4096  # the rest is for the head of an entry
_RETRY_S = 0.02
_FINISHED_MAX = 256
_ROUTABLE = (Rejection.NOT_LEADER, Rejection.WAL_DOWN)
_decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.msgpack.encode


class Outside(Protocol):
    """What the front needs of its node."""

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        """Send to a server, here or elsewhere; False if it could not even be queued."""

    def local_query(self, cluster: str, payload: bytes) -> Any:
        """Ask the member on this node; raises `UnknownCluster` if there is none."""

    def wake(self) -> None:
        """Call `flush` before this turn ends."""

    def wake_later(self, after_s: float) -> None:
        """Call `flush` then."""


class Session:
    """One client, gateway or caller. Answers are handed over once a turn, in order of arrival."""

    __slots__ = ("_deliver", "_front", "closed", "outbox")

    def __init__(self, front: "Front", deliver: Callable[[list[ClientAnswer]], None]) -> None:
        self._front = front
        self._deliver = deliver
        self.outbox: list[ClientAnswer] = []
        self.closed = False

    def commands(self, request: ClientCommands) -> None:
        """Take commands. Raises `ProtocolError` if columns and count disagree."""
        self._front.take_commands(self, request)

    def queries(self, request: ClientQueries) -> None:
        """Take reads."""
        self._front.take_queries(self, request)

    def close(self) -> None:
        """Nobody listens any more; what was sent goes its way."""
        self.closed = True

    def deliver(self) -> None:
        """Hand over what has gathered."""
        outbox, self.outbox = self.outbox, []
        if outbox and not self.closed:
            self._deliver(outbox)


class Route:
    """What the front knows and holds of one cluster."""

    __slots__ = (
        "cluster",
        "cluster_id",
        "established",
        "leader",
        "parked",
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
        self.suspect = False  # its node is out of reach, for all we know: send it nothing new
        self.term = Term(0)  # the term in which `leader` leads, as far as is known
        self.established = Term(0)  # the newest term whose leader has announced itself
        self.parked: list[Range] = []  # not sent, or surely refused; in the order of arrival
        self.unanswered: dict[int, Range] = {}  # sent, by first correlation
        self.refusal = ""  # why the last server refused, for the message at the deadline
        self.retry_at = 0.0  # do not ask the same leader again before this


class Front:
    """Routes all commands and reads of one node."""

    def __init__(
        self, me: ClientRef, outside: Outside, clock: Clock, *, commands_max: int, bytes_max: int
    ) -> None:
        self.me = me
        self._outside = outside
        self._clock = clock
        self._commands_max = commands_max
        self._bytes_max = bytes_max
        self._ranges = Ranges()
        self._routes: dict[str, Route] = {}
        self._dirty: dict[str, Route] = {}
        self._deadlines: list[tuple[float, int, Range]] = []
        self._finished = 0  # since the deadlines were last cleared of what needs none any more
        self._sequence = 0
        self._talking: dict[Session, None] = {}

    def session(self, deliver: Callable[[list[ClientAnswer]], None]) -> Session:
        """A new way in; `deliver` gets its answers."""
        return Session(self, deliver)

    # --- in ----------------------------------------------------------------------------

    def take_commands(self, session: Session, request: ClientCommands) -> None:
        """Park commands until this turn's flush."""
        if not 1 <= request.count <= _BATCH_COMMANDS_MAX * 16 or len(request.columns) < 4 * request.count:
            raise ProtocolError(f"{request.count} commands in {len(request.columns)} bytes")
        self._park(
            Range(
                session,
                request.first_correlation,
                request.count,
                columns=request.columns,
                mode=request.reply_mode,
                low_priority=request.low_priority,
            ),
            request.cluster,
            request.timeout_ms,
        )

    def take_queries(self, session: Session, request: ClientQueries) -> None:
        """Answer local reads at once; park the others until this turn's flush."""
        if request.level == "local":
            self._answer_local(session, request)
            return
        if request.level not in ("leader", "consistent"):
            raise ProtocolError(f"unknown read level {request.level!r}; use local, leader or consistent")
        if not request.payloads:
            raise ProtocolError("a request for no reads")
        self._park(
            Range(
                session,
                request.first_correlation,
                len(request.payloads),
                payloads=request.payloads,
                consistent=request.level == "consistent",
            ),
            request.cluster,
            request.timeout_ms,
        )

    def _park(self, entry: Range, cluster: str, timeout_ms: int) -> None:
        if entry.size > _REQUEST_BYTES_MAX:
            text = f"a request of {entry.size} bytes; one command has {COMMAND_BYTES_MAX} at most"
            self._say(entry.session, ClientFailed(entry.session_first, entry.count, "InvalidCommand", text))
            self._outside.wake()
            return
        over = self._ranges.commands + entry.count > self._commands_max
        if over or self._ranges.bytes + entry.size > self._bytes_max:
            text = f"{self._ranges.commands} commands wait already on this node; slow down"
            self._say(entry.session, ClientFailed(entry.session_first, entry.count, "Overloaded", text))
            return
        route = self._route(cluster)
        entry.route = route
        entry.deadline = self._clock.monotonic() + timeout_ms / 1000
        self._ranges.waiting(entry)
        self._sequence += 1
        heapq.heappush(self._deadlines, (entry.deadline, self._sequence, entry))
        route.parked.append(entry)
        self._dirty[cluster] = route
        self._outside.wake()

    def _answer_local(self, session: Session, request: ClientQueries) -> None:
        replies: list[Any] = []
        errors: dict[int, str] = {}
        first = request.first_correlation
        for offset, payload in enumerate(request.payloads):
            try:
                replies.append(self._outside.local_query(request.cluster, payload))
            except Exception as error:  # the reader's own; it harms nothing else (QRY-17)
                replies.append(None)
                errors[offset] = str(error) or type(error).__name__
        leader = self._route(request.cluster).leader
        for at, count, raw, its in encode_in_parts(replies, errors):
            if raw is None:
                failed = ClientFailed(
                    first + at, count, *describe_refusal(Rejection.REPLY_NOT_SENT, read=True), leader
                )
                self._say(session, failed)
            else:
                self._say(session, ClientReplies(first + at, count, raw, its, leader))
        self._outside.wake()

    def _route(self, cluster: str) -> Route:
        route = self._routes.get(cluster)
        if route is None:
            route = self._routes[cluster] = Route(cluster)
        return route

    # --- out, to the leaders -----------------------------------------------------------

    def flush(self) -> None:
        """Send what is parked to those who lead, one batch a cluster, kind and size limit."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        now = self._clock.monotonic()
        for route in dirty.values():
            if route.leader is None or route.suspect or not route.parked:
                continue
            if now < route.retry_at:
                self._dirty[route.cluster] = route
                self._outside.wake_later(route.retry_at - now)
                continue
            parked, route.parked = route.parked, []
            for batch in _in_batches(parked):
                self._send(route, route.leader, batch)

    def _send(self, route: Route, leader: ServerId, batch: list[Range]) -> None:
        """Number these ranges and send them; if that is impossible they are parked again."""
        first = self._ranges.number(batch)
        message: Commands | Queries
        if batch[0].payloads:
            payloads = tuple(payload for entry in batch for payload in entry.payloads)
            message = Queries(self.me, first, payloads, batch[0].consistent)
        else:
            head = encode_head(EntryKind.USER, batch[0].mode, self.me, first)
            count = sum(entry.count for entry in batch)
            message = Commands(count, _join_columns(head, batch), batch[0].low_priority)
        for entry in batch:
            entry.sent_in = route.term
            route.unanswered[entry.first] = entry
        if not self._outside.send_to_server(leader, message):
            for entry in batch:
                self._withdraw(entry)
            self._retry_later(route, f"no connection to {leader.node}")
        elif batch[0].mode is ReplyMode.NOREPLY and not batch[0].payloads:
            for entry in batch:
                self._finish(entry)  # nobody will be told

    # --- back, from the servers --------------------------------------------------------

    def on_replies(
        self, first: int, count: int, replies: list[Any] | msgspec.Raw, errors: dict[int, str] | None
    ) -> None:
        """Replies to consecutive correlations; those we no longer wait for are dropped.

        From another node they come encoded, and mostly leave as they came.
        """
        entry = self._ranges.find(first)
        if isinstance(replies, msgspec.Raw):
            if entry is not None and entry.first == first and entry.count == count:
                self._reply(entry, 0, count, replies, errors)
                return
            replies = list(_decode_raws(replies))
        position = 0
        while position < count:
            entry = self._ranges.find(first + position)
            if entry is None:
                position += 1
                continue
            offset = first + position - entry.first
            size = min(entry.count - offset, count - position)
            part = replies if size == count else replies[position : position + size]
            own = {k - position: v for k, v in (errors or {}).items() if 0 <= k - position < size}
            for at, parts, raw, its in encode_in_parts(part, own):
                if raw is None:
                    self.on_rejected(entry.first + offset + at, parts, Rejection.REPLY_NOT_SENT, None)
                else:
                    self._reply(entry, offset + at, parts, raw, its)
            position += size

    def _reply(
        self, entry: Range, offset: int, count: int, raw: msgspec.Raw, errors: dict[int, str] | None
    ) -> None:
        leader = entry.route.leader if entry.route else None
        for first, size in entry.close(offset, count):
            part, own = raw, errors
            if size != count:  # another leader has answered the rest before
                at = first - offset
                part = msgspec.Raw(_encode(_decode_raws(raw)[at : at + size]))
                own = {k - at: v for k, v in (errors or {}).items() if at <= k < at + size} or None
            self._say(entry.session, ClientReplies(entry.session_first + first, size, part, own, leader))
        if entry.is_answered:
            self._finish(entry)

    def on_rejected(self, first: int, count: int, reason: str, leader: ServerId | None) -> None:
        """A server refused: these did not happen. Try elsewhere, or say so."""
        position = first
        while position < first + count:
            entry = self._ranges.find(position)
            if entry is None:
                position += 1
                continue
            part = min(entry.first + entry.count, first + count) - position
            route = entry.route
            routed = route is not None and self._routes.get(route.cluster) is route  # not by `expect`
            if reason in _ROUTABLE and part == entry.count and routed:
                self._withdraw(entry)
                assert entry.route is not None
                self._redirect(entry.route, reason, leader)
            else:
                # A part of a batch that was cut on its way, or a refusal that another server would repeat.
                error, text = describe_refusal(reason, read=bool(entry.payloads))
                offset = position - entry.first
                for at, size in entry.close(offset, part):
                    failed = ClientFailed(entry.session_first + at, size, error, text, leader)
                    self._say(entry.session, failed)
                if entry.is_answered:
                    self._finish(entry)
            position += part

    def _redirect(self, route: Route, reason: str, leader: ServerId | None) -> None:
        if leader is not None and leader != route.leader:
            self.leader_hint(route.cluster, leader, Term(route.term + 1))  # a later one than we knew
        else:
            self._retry_later(route, f"{route.leader} answered {reason}")

    def _retry_later(self, route: Route, refusal: str) -> None:
        route.refusal = refusal
        route.retry_at = self._clock.monotonic() + _RETRY_S
        self._dirty[route.cluster] = route
        self._outside.wake_later(_RETRY_S)

    def _withdraw(self, entry: Range) -> None:
        """It surely did not happen: park it again, ahead of what came later."""
        assert entry.route is not None
        entry.route.unanswered.pop(entry.first, None)
        self._ranges.forget(entry)
        at = bisect_right(entry.route.parked, entry.arrival, key=attrgetter("arrival"))
        entry.route.parked.insert(at, entry)

    def _finish(self, entry: Range) -> None:
        entry.done = True
        if entry.route is not None:
            entry.route.unanswered.pop(entry.first, None)
        self._ranges.done(entry)
        self._finished += 1
        if self._finished > _FINISHED_MAX and self._finished * 2 > len(self._deadlines):
            # They would stay, with all that was sent, until nothing with an earlier deadline waits.
            self._deadlines = [item for item in self._deadlines if not item[2].done]
            heapq.heapify(self._deadlines)
            self._finished = 0

    # --- who leads ---------------------------------------------------------------------

    def leader_of(self, cluster: str) -> ServerId | None:
        """Where commands for this cluster go now."""
        route = self._routes.get(cluster)
        return route.leader if route is not None and not route.suspect else None

    def leader_hint(self, cluster: str, leader: ServerId, term: Term, cluster_id: str = "") -> None:
        """Somebody was heard to lead; a hint may be wrong, and then costs a refusal.

        A member of another cluster of that name is about to hear that its own was deleted.
        """
        route = self._route(cluster)
        if cluster_id and cluster_id != route.cluster_id:
            if route.cluster_id:
                return
            route.cluster_id = cluster_id
        if term < route.term or (leader == route.leader and term == route.term and not route.suspect):
            return
        route.leader = leader
        route.term = term
        route.suspect = False
        route.retry_at = 0.0
        if route.parked:
            self._dirty[cluster] = route
            self._outside.wake()

    def leader_established(self, cluster: str, leader: ServerId, term: Term, cluster_id: str = "") -> None:
        """A leader has applied its noop: what earlier ones left unanswered is unknown for good.

        So is what was sent to another cluster of that name, whose terms say nothing about this one's.
        """
        route = self._route(cluster)
        if cluster_id != route.cluster_id:
            if route.cluster_id:
                route.leader, route.term, route.established = None, Term(0), Term(0)
                for entry in route.unanswered.values():
                    entry.sent_in = Term(0)
            route.cluster_id = cluster_id
        if term < route.established:
            return
        newer = term > route.established
        route.established = term
        self.leader_hint(cluster, leader, term)
        if not newer:
            return
        for entry in [e for e in route.unanswered.values() if e.sent_in < term]:
            if entry.payloads:
                self._withdraw(entry)  # a read can be asked again
            else:
                self._give_up(entry, f"leadership passed to {leader} before an answer came")
        if route.parked:
            self._dirty[cluster] = route
            self._outside.wake()

    def established_term(self, cluster: str, cluster_id: str) -> Term:
        """The newest term whose leader has announced itself; 0 for none."""
        route = self._routes.get(cluster)
        return route.established if route is not None and route.cluster_id == cluster_id else Term(0)

    def cluster_gone(self, cluster: str, cluster_id: str) -> None:
        """This cluster was deleted: everybody who waits for it hears what is true, and it is forgotten."""
        route = self._routes.get(cluster)
        if route is None or route.cluster_id not in ("", cluster_id):
            return  # another one of that name has taken its place
        del self._routes[cluster]
        self._dirty.pop(cluster, None)
        text = f"cluster {cluster!r} was deleted"
        for entry in list(route.unanswered.values()):
            if entry.payloads:
                self._fail(entry, "UnknownCluster", text)
            else:
                self._fail(entry, "OutcomeUnknown", f"{text} before an answer came")
        parked, route.parked = route.parked, []
        for entry in parked:
            self._fail(entry, "UnknownCluster", text)

    def expect(self, entry: Range, server: ServerId, timeout_s: float) -> int:
        """Wait for one answer to something that the caller itself sends to this server."""
        entry.route = Route(server.name)
        entry.deadline = self._clock.monotonic() + timeout_s
        self._ranges.waiting(entry)
        self._sequence += 1
        heapq.heappush(self._deadlines, (entry.deadline, self._sequence, entry))
        return self._ranges.number([entry])

    def leader_lost(self, server: ServerId) -> None:
        """This server failed, or its node is gone: send it nothing more until it is heard of."""
        for route in self._routes.values():
            if route.leader == server:
                route.leader = None

    def node_lost(self, node: str) -> None:
        """This node is out of reach, for all we know: what comes now waits for another leader."""
        for route in self._routes.values():
            if route.leader is not None and route.leader.node == node:
                route.suspect = True

    def node_back(self, node: str) -> None:
        """The suspicion was unfounded: whoever led there still leads, until we hear otherwise."""
        for route in self._routes.values():
            if route.suspect and route.leader is not None and route.leader.node == node:
                route.suspect = False
                if route.parked:
                    self._dirty[route.cluster] = route
                    self._outside.wake()

    # --- time --------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` has something to do; None if nothing waits."""
        while self._deadlines and self._deadlines[0][2].done:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Say of everything whose time is up what may be said of it."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, entry = heapq.heappop(self._deadlines)
            if entry.done:
                continue
            route = entry.route
            assert route is not None
            if entry.first:
                self._give_up(entry, f"no answer from the leader of {route.cluster!r} in time")
            else:
                route.parked.remove(entry)
                why = f" ({route.refusal})" if route.refusal else ""
                self._fail(entry, "NoLeader", f"no leader of {route.cluster!r} could be reached in time{why}")

    def _give_up(self, entry: Range, text: str) -> None:
        """It was sent. A write may have happened; a read changed nothing."""
        self._fail(entry, "QueryTimeout" if entry.payloads else "OutcomeUnknown", text)

    def _fail(self, entry: Range, error: str, text: str) -> None:
        leader = entry.route.leader if entry.route else None
        for first, count in entry.close(0, entry.count):
            self._say(entry.session, ClientFailed(entry.session_first + first, count, error, text, leader))
        self._finish(entry)
        self._outside.wake()

    # --- out, to the sessions ----------------------------------------------------------

    def _say(self, session: Session, answer: ClientAnswer) -> None:
        if not session.closed:
            session.outbox.append(answer)
            self._talking[session] = None

    def tell(self, session: Session, answer: ClientAnswer) -> None:
        """Queue an answer that the node itself made (calls, events)."""
        self._say(session, answer)
        self._outside.wake()

    def deliver(self) -> None:
        """Hand each session what has gathered for it in this turn."""
        if self._talking:
            talking, self._talking = self._talking, {}
            for session in talking:
                session.deliver()

    @property
    def busy(self) -> bool:
        """Whether there is something to flush now; what waits for its next attempt is not."""
        dirty = [r for r in self._dirty.values() if r.leader is not None and not r.suspect and r.parked]
        return bool(dirty) and self._clock.monotonic() >= min(route.retry_at for route in dirty)

    def overview(self) -> dict[str, Any]:
        """For `status`: how much waits, and for which clusters."""
        return {
            "waiting": self._ranges.commands,
            "waiting_bytes": self._ranges.bytes,
            "parked": {r.cluster: sum(e.count for e in r.parked) for r in self._routes.values() if r.parked},
        }


def _in_batches(parked: list[Range]) -> list[list[Range]]:
    """Neighbours of one kind together, up to the limits; order is kept."""
    batches: list[list[Range]] = []
    kind: Any = None
    count = size = 0
    for entry in parked:
        full = count + entry.count > _BATCH_COMMANDS_MAX or size + entry.size > _BATCH_BYTES_MAX
        if not batches or entry.kind != kind or full:
            batches.append([])
            kind, count, size = entry.kind, 0, 0
        batches[-1].append(entry)
        count += entry.count
        size += entry.size
    return batches


def _join_columns(head: bytes, batch: list[Range]) -> bytes:
    """One entry-batch body of several: all lengths, then all commands."""
    if len(batch) == 1:
        return head + batch[0].columns
    lengths = [entry.columns[: 4 * entry.count] for entry in batch]
    blobs = [entry.columns[4 * entry.count :] for entry in batch]
    return b"".join((head, *lengths, *blobs))
