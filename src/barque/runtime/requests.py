"""The request router: where commands and reads come into a node, and where their answers go out.

Theory of operation
-------------------

The router keeps one table, `cluster -> ClusterRoute`. A route knows who leads its cluster, as far as this
node has heard, and holds the requests for it. It is the node's only memory of leaders, and the node's only
place that numbers requests (`correlation`) and finds the request that an answer belongs to.

A *request* is what one session (a client's connection, a gateway, a caller in this process) asks in one
piece: some commands, or some reads. It goes through these states::

    queued  --flush-->  unanswered  --answer, refusal, deadline-->  done
      ^                     |
      +----- withdrawn -----+

`take` queues it. `flush`, once or more in each turn of the loop, sends everything that is queued for a
cluster as one batch to its leader, wherever the leader is. What the router may say when no answer comes
follows from the state, and from nothing else:

- A *queued* request was never sent, or was refused by the server that it was sent to. It did not happen, so
  the router may send it elsewhere, and at the deadline says `NoLeader`.
- An *unanswered* request was sent. Its commands may have happened, so they are never sent again, and at the
  deadline their outcome is unknown. Reads change nothing, so they may be asked again.

A leader announces itself (`LeaderIs`) after it has applied the noop of its term. By then it has answered
every command of earlier terms that survived, and its answers took the same road to this router as its
announcement. So what was sent to an earlier leader and is unanswered when the announcement arrives has an
unknown outcome at once, not only at its deadline.

Answers are gathered for each session and handed over in a phase of the turn of their own (`deliver`): they
come up while a server performs its effects, and callers must not run then (docs/explanation/routing.md).
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from barque.core.effects import Rejection
from barque.core.entries import COMMAND_BYTES_MAX, EntryKind, encode_head
from barque.core.messages import Commands, Queries
from barque.errors import ProtocolError, UnknownCluster
from barque.runtime.clock import Clock
from barque.runtime.error_mapping import describe_refusal
from barque.runtime.pending_requests import (
    BATCH_BYTES_MAX,
    BATCH_COMMANDS_MAX,
    SENT_BYTES_MAX,
    ClusterRoute,
    PendingRequest,
    PendingRequests,
    Receiver,
    RequestTransport,
    Session,
    Speaker,
    TurnControl,
    admitted,
    body_of,
    in_batches,
    part_of,
)
from barque.types import NAME_RULE, ClientRef, ReplyMode, ServerId, Term, is_valid_name

REQUEST_COMMANDS_MAX = BATCH_COMMANDS_MAX * 16
_RETRY_S = 0.02
_FINISHED_MAX = 256
_ROUTABLE = (Rejection.NOT_LEADER, Rejection.WAL_DOWN)
_decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.msgpack.encode


class RequestRouter:
    """Routes all commands and reads of one node."""

    def __init__(
        self,
        me: ClientRef,
        transport: RequestTransport,
        turn: TurnControl,
        clock: Clock,
        *,
        commands_max: int,
        bytes_max: int,
    ) -> None:
        self.me = me
        self.round = 0
        """Counts flushes. A session may add commands to a request of this round: it is not sent yet."""
        self.dirty: dict[str, ClusterRoute] = {}  # routes to be flushed
        self.put_off: dict[str, ClusterRoute] = {}  # routes of which the next turn sends more
        self.fillers: dict[Callable[[], None], None] = {}  # called once, before the next flush
        self.speaking: dict[Speaker, None] = {}  # sessions that have gathered outcomes, and processes
        self._transport = transport
        self._turn = turn
        self._clock = clock
        self._pending = PendingRequests(commands_max, bytes_max)
        self._held: dict[str, ClusterRoute] = {}  # with requests of sessions that have enough on their way
        self._routes: dict[str, ClusterRoute] = {}
        self.deadlines: list[tuple[float, int, PendingRequest]] = []  # a heap; may hold finished requests
        self._finished = 0  # since `_deadlines` was last cleared of requests that are done
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    # --- in ----------------------------------------------------------------------------

    def take(self, request: PendingRequest, cluster: str, timeout_ms: int) -> bool:
        """Queue a request until this turn's flush; False if it was refused: too large, or too many wait.

        Local reads are answered at once. Raises `ProtocolError` for a request without reads.
        """
        level = request.kind[0]
        if level:
            if level == "local":
                self._answer_local(request, cluster)
                return True
            if level not in ("leader", "consistent"):
                text = f"unknown read level {level[:64]!r}; use local, leader or consistent"
                return self._turn_away(request, "InvalidCommand", text)
            if not request.count:
                raise ProtocolError("a request for no reads")
        lengths = 4 * request.count if request.columns else 0  # they are no part of any command
        if request.size - lengths > COMMAND_BYTES_MAX:
            text = f"a request of {request.size - lengths} bytes is above the limit of {COMMAND_BYTES_MAX}"
            return self._turn_away(request, "InvalidCommand", text)
        if refusal := self._pending.refusal(request):
            return self._turn_away(request, "Overloaded", refusal)
        route = self._routes.get(cluster)
        if route is None:
            if not is_valid_name(cluster):
                text = f"{cluster[:80]!r} is no name of a cluster: a name has {NAME_RULE}"
                return self._turn_away(request, "InvalidCommand", text)
            route = self._route(cluster)
        request.route = route
        request.round = self.round
        self._await(request, timeout_ms / 1000)
        route.queued.append(request)
        self.dirty[cluster] = route
        self._turn.wake()
        return True

    def note_invalid_mode(self, cluster: str, count: int) -> None:
        """So many commands named a way of being answered that nobody knows (CMD-08)."""
        self._transport.note_invalid_mode(cluster, count)

    def _turn_away(self, request: PendingRequest, error: str, text: str) -> bool:
        self._say_failed(request, 0, request.count, error, text, None)
        self._turn.wake()
        return False

    def _await(self, request: PendingRequest, timeout_s: float) -> None:
        request.deadline = self._clock.monotonic() + timeout_s
        self._pending.waiting(request)
        heapq.heappush(self.deadlines, (request.deadline, request.arrival, request))

    def add(self, request: PendingRequest, payload: bytes) -> bool:
        """Add an item to a request that was taken in this round; False if it must travel in a new one.

        So a payload that is too large is refused alone, and takes no other command of its turn with it.
        """
        size, pending = len(payload), self._pending
        if (
            request.round != self.round
            or request.done
            or request.count >= BATCH_COMMANDS_MAX
            or request.size + size > BATCH_BYTES_MAX
            or pending.commands >= pending.commands_max
            or pending.bytes + size > pending.bytes_max
        ):
            return False
        assert isinstance(request.payloads, list)
        request.payloads.append(payload)
        request.count += 1
        request.size += size
        pending.commands += 1
        pending.bytes += size
        return True

    def fill_before_flush(self, filler: Callable[[], None]) -> None:
        """Call this at the beginning of this turn's flush; it may `take` requests."""
        self.fillers[filler] = None
        self._turn.wake()

    def expect(self, receiver: Receiver, session: Session, server: ServerId, timeout_s: float) -> int:
        """Wait for one answer to a message that the caller sends itself; return its correlation."""
        request = PendingRequest(session, 0, 1, receiver=receiver)
        request.route = ClusterRoute(server.name)
        self._await(request, timeout_s)
        return self._pending.number([request])

    def _answer_local(self, request: PendingRequest, cluster: str) -> None:
        replies: list[Any] = []
        errors: dict[int, str] = {}
        for offset, payload in enumerate(request.payloads):
            try:
                replies.append(self._transport.local_query(cluster, payload))
            except UnknownCluster as error:
                self._turn_away(request, "UnknownCluster", str(error))
                return
            except Exception as error:  # the query's own; it harms nothing else (QRY-17)
                replies.append(None)
                errors[offset] = str(error) or type(error).__name__
        route = self._routes.get(cluster)
        leader = route.leader if route is not None else None
        if not request.session.closed:
            request.session.replied(request, 0, request.count, replies, errors or None, leader)
            self.will_deliver(request.session)

    def _route(self, cluster: str) -> ClusterRoute:
        route = self._routes.get(cluster)
        if route is None:
            route = self._routes[cluster] = ClusterRoute(cluster)
        return route

    # --- out, to the leaders -----------------------------------------------------------

    def flush(self) -> None:
        """Send queued requests to the leaders, one batch for each cluster, kind and size limit."""
        while self.fillers:
            fillers, self.fillers = self.fillers, {}
            for fill in fillers:
                fill()
        self.round += 1
        dirty, self.dirty = self.dirty, {}
        now = self._clock.monotonic()
        for route in dirty.values():
            if route.leader is None or route.suspect or not route.queued:
                continue
            if now < route.retry_at:
                self.dirty[route.cluster] = route
                self._turn.wake_later(route.retry_at - now)
                continue
            queued, route.queued = route.queued, []
            if self._pending.bytes > SENT_BYTES_MAX:
                queued, route.queued = admitted(queued)
                self._held[route.cluster] = route
            batches, rest = in_batches(queued)
            if rest:
                route.queued = rest + route.queued
                self.put_off[route.cluster] = route
            for batch in batches:
                self._send(route, route.leader, batch)

    def go_on(self) -> None:
        """Let a new turn send what an earlier one has put off, since others must have their turn."""
        put_off, self.put_off = self.put_off, {}
        self.dirty |= put_off

    def _send(self, route: ClusterRoute, leader: ServerId, batch: list[PendingRequest]) -> None:
        """Number these requests and send them; if that is impossible they are queued again."""
        first = self._pending.number(batch)
        level, mode, low_priority = batch[0].kind
        message: Commands | Queries
        if level:
            payloads = tuple(payload for request in batch for payload in request.payloads)
            message = Queries(self.me, first, payloads, level == "consistent")
        else:
            count = sum(request.count for request in batch) if len(batch) > 1 else batch[0].count
            message = Commands(
                count, body_of(encode_head(EntryKind.USER, mode, self.me, first), batch), low_priority
            )
        for request in batch:
            request.sent_in = route.term
            route.unanswered[request.first] = request
        if not self._transport.send_to_server(leader, message):
            for request in batch:
                self._withdraw(request)
            self._retry_later(route, f"no connection to {leader.node}")
        elif mode is ReplyMode.NOREPLY and not level:
            for request in batch:
                self._finish(request)  # it has no answer

    # --- back, from the servers --------------------------------------------------------

    def on_replies(
        self, first: int, count: int, replies: list[Any] | msgspec.Raw, errors: dict[int, str] | None
    ) -> None:
        """Take replies to consecutive correlations; drop replies to requests that are done.

        From another node they come encoded, and mostly leave as they came.
        """
        request = self._pending.find(first)
        if request is not None and request.first == first and request.count == count:
            self._reply(request, 0, count, replies, errors)
            return
        if isinstance(replies, msgspec.Raw):
            raws = _decode_raws(replies)
            self._split(first, raws, errors, lambda part: msgspec.Raw(_encode(part)))
        else:
            self._split(first, replies, errors, lambda part: part)

    def _split(
        self,
        first: int,
        replies: list[Any],
        errors: dict[int, str] | None,
        as_replies: Callable[[list[Any]], list[Any] | msgspec.Raw],
    ) -> None:
        """Give each request its part of a batch's replies."""
        position, count = 0, len(replies)
        while position < count:
            request = self._pending.find(first + position)
            if request is None:
                position += 1
                continue
            offset = first + position - request.first
            size = min(request.count - offset, count - position)
            part = as_replies(replies[position : position + size])
            self._reply(request, offset, size, part, part_of(errors, position, size))
            position += size

    def _reply(
        self,
        request: PendingRequest,
        offset: int,
        count: int,
        replies: list[Any] | msgspec.Raw,
        errors: dict[int, str] | None,
    ) -> None:
        session = request.session
        leader = request.route.leader if request.route is not None else None
        for first, size in request.close(offset, count):
            part, own = replies, errors
            if size != count:  # another leader has answered the rest before
                at = first - offset
                if isinstance(replies, msgspec.Raw):
                    part = msgspec.Raw(_encode(_decode_raws(replies)[at : at + size]))
                else:
                    part = replies[at : at + size]
                own = part_of(errors, at, size)
            if not session.closed:
                session.replied(request, first, size, part, own or None, leader)
                self.speaking[session] = None
        if not request.unanswered:
            self._finish(request)

    def on_rejected(self, first: int, count: int, reason: str, leader: ServerId | None) -> None:
        """A server refused these correlations: they did not happen. Try elsewhere, or say so."""
        position = first
        while position < first + count:
            request = self._pending.find(position)
            if request is None:
                position += 1
                continue
            part = min(request.first + request.count, first + count) - position
            route = request.route
            if reason in _ROUTABLE and part == request.count and self._is_routed(route):
                self._withdraw(request)
                assert route is not None
                self._redirect(route, reason, leader)
            else:
                # A part of a batch that was cut on its way, or a refusal that another server would repeat.
                error, text = describe_refusal(reason, read=request.is_read)
                for at, size in request.close(position - request.first, part):
                    self._say_failed(request, at, size, error, text, leader)
                if request.is_answered:
                    self._finish(request)
            position += part

    def _is_routed(self, route: ClusterRoute | None) -> bool:  # one of `expect` is in no table
        return route is not None and self._routes.get(route.cluster) is route

    def _redirect(self, route: ClusterRoute, reason: str, leader: ServerId | None) -> None:
        if leader is not None and leader != route.leader:
            self.leader_hint(route.cluster, leader, Term(route.term + 1))  # a later one than we knew
        else:
            self._retry_later(route, f"{route.leader} answered {reason}")

    def _retry_later(self, route: ClusterRoute, refusal: str) -> None:
        route.refusal = refusal
        route.retry_at = self._clock.monotonic() + _RETRY_S
        self.dirty[route.cluster] = route
        self._turn.wake_later(_RETRY_S)

    def _withdraw(self, request: PendingRequest) -> None:
        """Queue a request again that surely did not happen, ahead of requests that came later."""
        route = request.route
        assert route is not None
        route.unanswered.pop(request.first, None)
        self._pending.forget(request)
        at = bisect_right(route.queued, request.arrival, key=attrgetter("arrival"))
        route.queued.insert(at, request)
        if self._held:
            self._let_go()

    def _finish(self, request: PendingRequest) -> None:
        request.done = True
        route = request.route
        if route is not None:
            route.unanswered.pop(request.first, None)
            unheard_of = route.leader is None and not route.cluster_id
            if unheard_of and not (route.queued or route.unanswered) and self._is_routed(route):
                del self._routes[route.cluster]
        self._pending.done(request)
        if self._held:
            self._let_go()
        self._finished += 1
        if self._finished > _FINISHED_MAX and self._finished * 2 > len(self.deadlines):
            # Finished requests would stay in the heap, with all their bytes, until their deadline comes up.
            self.deadlines = [item for item in self.deadlines if not item[2].done]
            heapq.heapify(self.deadlines)
            self._finished = 0

    def _let_go(self) -> None:  # one request is no longer on its way: others may be sent
        held, self._held = self._held, {}
        self.dirty.update(held)
        self._turn.wake()

    # --- who leads ---------------------------------------------------------------------

    def leader_of(self, cluster: str) -> ServerId | None:
        """The leader that commands for this cluster go to now."""
        route = self._routes.get(cluster)
        return route.leader if route is not None and not route.suspect else None

    def leader_hint(self, cluster: str, leader: ServerId, term: Term, cluster_id: str = "") -> None:
        """Take a hint about the leader. It may be wrong, and then costs a refusal.

        A hint from another cluster of that name does not count: a member of a deleted cluster may not have
        heard yet that it is gone.
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
        self._flush_soon(route)

    def _flush_soon(self, route: ClusterRoute) -> None:
        if route.queued:
            self.dirty[route.cluster] = route
            self._turn.wake()

    def leader_established(self, cluster: str, leader: ServerId, term: Term, cluster_id: str = "") -> None:
        """A leader has applied its noop: what earlier ones left unanswered stays unknown.

        So does what was sent to another cluster of that name, whose terms say nothing about this one's.
        """
        route = self._route(cluster)
        if cluster_id != route.cluster_id:
            if route.cluster_id:
                route.leader, route.term, route.established = None, Term(0), Term(0)
                for request in route.unanswered.values():
                    request.sent_in = Term(0)
            route.cluster_id = cluster_id
        if term >= route.established:
            newer = term > route.established
            route.established = term
            self.leader_hint(cluster, leader, term)
            if newer:
                self._give_up_earlier(route, leader, term)
        for watcher in self._watchers.pop(cluster, ()):
            watcher()

    def _give_up_earlier(self, route: ClusterRoute, leader: ServerId, term: Term) -> None:
        for request in [r for r in route.unanswered.values() if r.sent_in < term]:
            if request.is_read and not request.asked_again:
                # Once only: a read that takes a leader too long must not end one leader after the other.
                request.asked_again = True
                self._withdraw(request)
            else:
                self._give_up(request, f"leadership passed to {leader} before an answer came")
        self._flush_soon(route)

    def established_term(self, cluster: str, cluster_id: str) -> Term:
        """The newest term whose leader has announced itself; 0 for none."""
        route = self._routes.get(cluster)
        return route.established if route is not None and route.cluster_id == cluster_id else Term(0)

    def watch_established(self, cluster: str, watcher: Callable[[], None]) -> None:
        """Call this once, when the next leader of a cluster of that name announces itself."""
        self._watchers.setdefault(cluster, []).append(watcher)

    def cluster_gone(self, cluster: str, cluster_id: str) -> None:
        """This cluster was deleted: fail every request for it, and forget it."""
        route = self._routes.get(cluster)
        if route is None or route.cluster_id not in ("", cluster_id):
            return  # another one of that name has taken its place
        del self._routes[cluster]
        self.dirty.pop(cluster, None)
        text = f"cluster {cluster!r} was deleted"
        for request in list(route.unanswered.values()):
            if request.is_read:
                self._fail(request, "UnknownCluster", text)
            else:
                self._fail(request, "OutcomeUnknown", f"{text} before an answer came")
        queued, route.queued = route.queued, []
        for request in queued:
            self._fail(request, "UnknownCluster", text)

    def leader_lost(self, server: ServerId) -> None:
        """This server failed, or its node is gone: send it nothing until it is heard of again."""
        for route in self._routes.values():
            if route.leader == server:
                route.leader = None

    def node_lost(self, node: str) -> None:
        """This node seems to be out of reach: requests that come now wait for another leader."""
        for route in self._routes.values():
            if route.leader is not None and route.leader.node == node:
                route.suspect = True

    def node_back(self, node: str) -> None:
        """The suspicion was unfounded: a leader on that node still leads, until we hear otherwise."""
        for route in self._routes.values():
            if route.suspect and route.leader is not None and route.leader.node == node:
                route.suspect = False
                self._flush_soon(route)

    # --- ends --------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` has something to do; None if nothing waits."""
        while self.deadlines and self.deadlines[0][2].done:
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None

    def expire(self, now: float) -> None:
        """Fail every request that is past its deadline."""
        while self.deadlines and self.deadlines[0][0] <= now:
            _, _, request = heapq.heappop(self.deadlines)
            if request.done:
                continue
            route = request.route
            assert route is not None
            if request.first:
                self._give_up(request, f"no answer from the leader of {route.cluster!r} in time")
            else:
                route.queued.remove(request)
                refusal = self._transport.why_not_here(route.cluster) or route.refusal
                why = f" ({refusal})" if refusal else ""
                text = f"no leader of {route.cluster!r} could be reached in time{why}"
                self._fail(request, "NoLeader", text)

    def end_session(self, session: Session, reason: str) -> None:
        """End every request of this session: queued ones are never sent, sent commands may have happened."""
        for route in list(self._routes.values()):
            if not (route.queued or route.unanswered):
                continue
            queued = [r for r in route.queued if r.session is session]
            if queued:
                route.queued = [r for r in route.queued if r.session is not session]
            for request in queued:
                self._fail(request, "Stopped", reason)
            for request in [r for r in route.unanswered.values() if r.session is session]:
                self._fail(request, "Stopped" if request.is_read else "OutcomeUnknown", reason)

    def _give_up(self, request: PendingRequest, text: str) -> None:
        """The request was sent. Commands may have happened; reads changed nothing."""
        self._fail(request, "QueryTimeout" if request.is_read else "OutcomeUnknown", text)

    def _fail(self, request: PendingRequest, error: str, text: str) -> None:
        leader = request.route.leader if request.route is not None else None
        for first, count in request.close(0, request.count):
            self._say_failed(request, first, count, error, text, leader)
        self._finish(request)
        self._turn.wake()

    # --- out, to the sessions ----------------------------------------------------------

    def _say_failed(
        self, request: PendingRequest, offset: int, count: int, error: str, text: str, leader: ServerId | None
    ) -> None:
        session = request.session
        if not session.closed:
            session.failed(request, offset, count, error, text, leader)
            self.speaking[session] = None

    def will_deliver(self, speaker: Speaker) -> None:
        """This session, or process, has gathered something of its own accord: deliver it in this turn."""
        self.speaking[speaker] = None
        self._turn.wake()

    def deliver(self) -> None:
        """Hand each session the outcomes that it has gathered in this turn."""
        speaking, self.speaking = self.speaking, {}
        for speaker in speaking:
            speaker.deliver()

    @property
    def busy(self) -> bool:
        """Whether `flush` has something to send now; a request that waits for its next attempt is not."""
        dirty = [r for r in self.dirty.values() if r.leader is not None and not r.suspect and r.queued]
        due = bool(dirty) and self._clock.monotonic() >= min(route.retry_at for route in dirty)
        return due or bool(self.fillers)

    def overview(self) -> dict[str, Any]:
        """For `status`: how many commands and bytes wait, and for which clusters."""
        return {
            "waiting": self._pending.commands,
            "waiting_bytes": self._pending.bytes,
            "queued": {r.cluster: sum(q.count for q in r.queued) for r in self._routes.values() if r.queued},
        }
