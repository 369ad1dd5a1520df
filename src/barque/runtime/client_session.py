"""The clients of a node: those connected over the transport, and those in the node's own process.

A `RemoteSession` gathers encoded answers and sends them as one frame a turn. An `InProcessSession` gathers
values and errors and hands them to receivers: nothing is encoded on the way. Both make requests of the
router, which numbers them; neither keeps a table of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from barque.core.effects import Rejection
from barque.errors import BarqueError, InvalidCommand, ProtocolError, Stopped
from barque.runtime import audit
from barque.runtime.command_submitter import Done
from barque.runtime.error_mapping import describe_refusal
from barque.runtime.node_rpc import Caller, NodeRpc
from barque.runtime.pending_requests import PendingRequest, Receiver
from barque.runtime.reply_encoding import (
    LIGHT_BYTES,
    Part,
    encode_if_light,
    encode_in_parts,
    in_slices,
    values_of,
)
from barque.runtime.requests import REQUEST_COMMANDS_MAX, RequestRouter
from barque.transport.answers import error_named
from barque.transport.authorization import VERBS, forbids
from barque.transport.contract import ClientConnectionHandle
from barque.transport.wire import (
    ClientAnswer,
    ClientCall,
    ClientCallReply,
    ClientCommands,
    ClientEvent,
    ClientFailed,
    ClientQueries,
    ClientReplies,
    ClientRequest,
)
from barque.types import Pid, ReplyMode, ServerId

logger = logging.getLogger("barque.clients")

_decode = msgspec.msgpack.decode
_HERE = Caller("a program in this process")
_DRAIN_LOOK_S = 0.02
_DRAIN_LOOKS = 25
_REPLY_MODES = {int(mode): mode for mode in ReplyMode}
SESSION_VERBS = frozenset(("pid",))
"""The verbs that a session answers by itself."""


class Addresses(Protocol):
    """Gives sessions addresses (`processes.Processes`)."""

    def pid_of(self, session: Any) -> Pid:
        """The address of this session."""

    def ended(self, session: Any, reason: str) -> None:
        """This session has ended."""


class RemoteSession:
    """One connected client: the node's end of its connection (`ClientSink`)."""

    is_client = True

    def __init__(self, sessions: "ClientSessions", connection: ClientConnectionHandle) -> None:
        self.closed = False
        self.waiting_bytes = self.waiting_commands = self.sent_bytes = 0
        self._sessions = sessions
        self._router = sessions.router
        self._connection = connection
        self._outbox: list[ClientAnswer] = []
        role = connection.role
        self._caller = Caller(f"{role.name.lower()} {connection.peer}", is_client=True)

    # --- in ----------------------------------------------------------------------------

    def on_requests(self, requests: list[ClientRequest]) -> None:
        """Take the requests of one frame; a malformed one ends the connection."""
        self._sessions.frames += 1
        try:
            for request in requests:
                if type(request) is ClientCommands:
                    self._commands(request)
                elif type(request) is ClientQueries:
                    self._queries(request)
                else:
                    assert isinstance(request, ClientCall)
                    self._call(request)
        except ProtocolError as error:
            self._connection.close(str(error))

    def on_closed(self) -> None:
        """The connection is gone, and what waits for it ends. A command that was sent may still happen."""
        self._sessions.end(self)
        self._router.end_session(self, "the client has gone")
        self._sessions.rpc.caller_gone(self._caller)

    def _commands(self, request: ClientCommands) -> None:
        count, columns = request.count, request.columns
        if not 1 <= count <= REQUEST_COMMANDS_MAX or len(columns) < 4 * count:
            raise ProtocolError(f"{count} commands in {len(columns)} bytes")
        mode = _REPLY_MODES.get(request.reply_mode)
        if mode is None:
            self._refuse_mode(request)
            return
        pending = PendingRequest(
            self,
            request.first_correlation,
            count,
            columns=columns,
            mode=mode,
            low_priority=request.low_priority,
        )
        self._router.take(pending, request.cluster, request.timeout_ms)

    def _refuse_mode(self, request: ClientCommands) -> None:
        """CMD-08: nobody knows how to answer these, so they are refused, and counted."""
        self._router.note_invalid_mode(request.cluster, request.count)
        text = f"unknown reply mode {request.reply_mode}; there are {', '.join(m.name for m in ReplyMode)}"
        self._gather(ClientFailed(request.first_correlation, request.count, "InvalidCommand", text))

    def _queries(self, request: ClientQueries) -> None:
        first, payloads = request.first_correlation, request.payloads
        level = request.level or "(none)"
        pending = PendingRequest(self, first, len(payloads), payloads=payloads, level=level)
        self._router.take(pending, request.cluster, request.timeout_ms)

    def _call(self, request: ClientCall) -> None:
        def answer(value: Any, error: str | None, text: str) -> None:
            self._gather(ClientCallReply(request.correlation, value, error, text))

        forbidden = forbids(self._connection.role, request)
        if request.verb not in VERBS:
            answer(None, "InvalidCommand", f"unknown verb {request.verb[:64]!r}")
        elif forbidden is not None:
            audit.note(request.verb, request.arguments, self._caller.name, f"Forbidden: {forbidden}")
            self._connection.note_forbidden(str(forbidden))
            answer(None, "Forbidden", str(forbidden))
        elif request.verb in SESSION_VERBS:
            answer(self._sessions.pid_of(self), None, "")
        else:
            arguments = {**request.arguments, "timeout_ms": request.timeout_ms}
            self._sessions.rpc.serve(request.verb, arguments, answer, self._caller)

    # --- out ---------------------------------------------------------------------------

    def replied(
        self,
        request: PendingRequest,
        offset: int,
        count: int,
        replies: list[Any] | msgspec.Raw,
        errors: dict[int, str] | None,
        leader: ServerId | None,
    ) -> None:
        """See `Session`. A reply that cannot be encoded fails alone."""
        first = request.session_first + offset
        if isinstance(replies, msgspec.Raw):
            weight = len(memoryview(replies))
            if weight <= LIGHT_BYTES and not self._connection.unread:
                self._outbox.append(ClientReplies(first, count, replies, errors, leader))
            else:
                self._large(request, weight, [Part(first, count, replies, errors)], first, count, leader)
            return
        raw = None if self._connection.unread else encode_if_light(replies)
        if raw is not None:
            self._outbox.append(ClientReplies(first, count, raw, errors, leader))
            return
        for weight, values, own, at in in_slices(replies, errors):
            parts = encode_in_parts(values, own, first + at)
            self._large(request, weight, parts, first + at, len(values), leader)

    def _large(
        self,
        request: PendingRequest,
        weight: int,
        parts: Iterable[Part],
        first: int,
        count: int,
        leader: ServerId | None,
    ) -> None:
        """Gather large replies if there is room for them; otherwise `parts` are never encoded, and they fail.

        A read changes nothing, so it is refused. A command has happened, and its caller does not learn how.
        """
        if self._connection.take_room(weight):
            for at, size, raw, errors in parts:
                if raw is not None:
                    self._outbox.append(ClientReplies(at, size, raw, errors, leader))
                else:
                    error, text = describe_refusal(Rejection.REPLY_NOT_SENT, read=request.is_read)
                    self._outbox.append(ClientFailed(at, size, error, text, leader))
            return
        happened = "" if request.is_read else "the command was applied, but "
        text = (
            f"{happened}a reply of about {weight} bytes does not fit beside the answers that wait for this "
            f"client: {self._connection.room} bytes are left; read first, or ask for less"
        )
        error = "Overloaded" if request.is_read else "OutcomeUnknown"
        self._outbox.append(ClientFailed(first, count, error, text, leader))

    def failed(
        self, request: PendingRequest, offset: int, count: int, error: str, text: str, leader: ServerId | None
    ) -> None:
        """See `Session`."""
        self._outbox.append(ClientFailed(request.session_first + offset, count, error, text, leader))

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """A machine's message has come for the clients of this node."""
        self._gather(ClientEvent(cluster, message))

    def _gather(self, answer: ClientAnswer) -> None:
        if not self.closed:
            self._outbox.append(answer)
            self._router.will_deliver(self)

    def deliver(self) -> None:
        """See `Session`."""
        outbox, self._outbox = self._outbox, []
        if outbox and not self.closed:
            self._connection.send(outbox)


class _Callbacks:
    """The callbacks of one request's items (`Receiver`)."""

    __slots__ = ("dones",)

    def __init__(self, first: Done) -> None:
        self.dones = [first]

    def replied(self, offset: int, replies: list[Any], errors: dict[int, BarqueError] | None) -> None:
        """See `Receiver`."""
        dones = self.dones if not offset else self.dones[offset:]
        for position, reply in enumerate(replies):
            outcome = reply if errors is None else errors.get(position, reply)
            _safely(dones[position], outcome)

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """See `Receiver`."""
        for done in self.dones[offset : offset + count]:
            _safely(done, error)


def _safely(done: Done, outcome: Any) -> None:
    """Call back. An error of one caller must not cost the others their outcome, or the node its turn."""
    try:
        done(outcome)
    except Exception:
        logger.exception("the callback of a caller in this process has failed")


class InProcessSession:
    """A program inside the node's process: a gateway, a `local_client`, the node's own administration.

    Outcomes come as values (`reply_encoding.values_of`) and errors, in a later phase of a turn. `on_event`
    takes machines' messages; `on_stopped` hears why the session has ended, if the node stops first.
    """

    is_client = False

    def __init__(
        self,
        sessions: "ClientSessions",
        on_event: Callable[[str, Any], None] | None = None,
        on_stopped: Callable[[str], None] | None = None,
    ) -> None:
        self.closed = False
        self.waiting_bytes = self.waiting_commands = self.sent_bytes = 0
        self._sessions = sessions
        self._router = sessions.router
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._outbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._filling: dict[
            str, tuple[PendingRequest, str, int]
        ] = {}  # the newest by cluster, level, timeout

    # --- in ----------------------------------------------------------------------------

    def submit(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """Submit one command (`level` is empty) or query. Raises `Stopped` if the session has ended.

        Neighbours of one cluster, level and timeout share a request; so order is kept.
        """
        filling = self._filling.get(cluster)
        if filling is not None and filling[1] == level and filling[2] == timeout_ms:
            request = filling[0]
            if self._router.add(request, payload):
                request.receiver.dones.append(done)  # type: ignore[union-attr]  # it is a `_Callbacks`
                return
        self._check_open()
        mode = ReplyMode.NOREPLY if level else ReplyMode.AWAIT_CONSENSUS
        request = PendingRequest(
            self, 0, 1, payloads=[payload], mode=mode, level=level, receiver=_Callbacks(done)
        )
        if self._router.take(request, cluster, timeout_ms) and level != "local":
            self._filling[cluster] = (request, level, timeout_ms)
        else:
            self._filling.pop(cluster, None)

    def request(
        self,
        cluster: str,
        payloads: list[bytes],
        receiver: Receiver,
        timeout_ms: int,
        *,
        level: str = "",
        mode: ReplyMode = ReplyMode.NOREPLY,
        low_priority: bool = False,
    ) -> None:
        """Make one request of many commands or queries. Raises `Stopped` if the session has ended."""
        self._check_open()
        request = PendingRequest(
            self,
            0,
            len(payloads),
            payloads=payloads,
            mode=mode,
            low_priority=low_priority,
            level=level,
            receiver=receiver,
        )
        self._router.take(request, cluster, timeout_ms)

    def call(self, verb: str, arguments: dict[str, Any], receiver: Receiver) -> None:
        """Make an administrative request. Raises `Stopped` if the session has ended."""

        def answer(value: Any, error: str | None, text: str) -> None:
            if error is None:
                self._gather(receiver.replied, 0, values_of([value])[0], None)
            else:
                self._gather(receiver.failed, 0, 1, error_named(error, text))

        self._check_open()
        if verb in SESSION_VERBS:
            answer(self._sessions.pid_of(self), None, "")
        else:
            self._sessions.rpc.serve(verb, arguments, answer, _HERE)

    def fill_before_flush(self, filler: Callable[[], None]) -> None:
        """See `RequestRouter.fill_before_flush`."""
        self._check_open()
        self._router.fill_before_flush(filler)

    def expect(self, receiver: Receiver, server: ServerId, timeout_s: float) -> int:
        """See `RequestRouter.expect`."""
        return self._router.expect(receiver, self, server, timeout_s)

    def _check_open(self) -> None:
        if self.closed:
            raise Stopped(self._sessions.why_closed or "this session has ended")

    # --- out ---------------------------------------------------------------------------

    def replied(
        self,
        request: PendingRequest,
        offset: int,
        count: int,
        replies: list[Any] | msgspec.Raw,
        errors: dict[int, str] | None,
        _leader: ServerId | None,
    ) -> None:
        """See `Session`. Values are taken now: a moment later the machine may have changed them."""
        assert request.receiver is not None
        values, without = values_of(replies)
        told: dict[int, BarqueError] | None = None
        if errors or without:
            told = {at: InvalidCommand(text) for at, text in (errors or {}).items()}
            for at in without:
                told[at] = error_named(*describe_refusal(Rejection.REPLY_NOT_SENT, read=request.is_read))
        self._outbox.append((request.receiver.replied, (offset, values, told)))

    def failed(
        self,
        request: PendingRequest,
        offset: int,
        count: int,
        error: str,
        text: str,
        leader: ServerId | None,
    ) -> None:
        """See `Session`."""
        assert request.receiver is not None
        self._outbox.append((request.receiver.failed, (offset, count, error_named(error, text, leader))))

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """A machine's message has come for the clients of this node."""
        if self._on_event is not None:
            self._gather(self._on_event, cluster, _decode(message))

    def _gather(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self.closed:
            self._outbox.append((function, arguments))
            self._router.will_deliver(self)

    def deliver(self) -> None:
        """See `Session`."""
        outbox, self._outbox = self._outbox, []
        if not self.closed:
            for function, arguments in outbox:
                function(*arguments)

    # --- ends --------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """End every request that is under way, and refuse further requests."""
        if not self.closed:
            self._router.end_session(self, reason)
            self.deliver()
            self.closed = True
            self._sessions.end(self)

    def stop(self, reason: str) -> None:
        """The node has stopped: likewise, and say so to the program."""
        self.close(reason)
        if self._on_stopped is not None:
            self._on_stopped(reason)


class ClientSessions:
    """All sessions of one node."""

    def __init__(self, router: RequestRouter, rpc: NodeRpc) -> None:
        self.router = router
        self.rpc = rpc
        self.frames = 0
        """How many frames of requests have come from remote clients."""
        self.why_closed = ""
        self.addresses: Addresses | None = None  # set before the first client comes
        self._remote: dict[RemoteSession, None] = {}
        self._in_process: dict[InProcessSession, None] = {}
        self._listeners: dict[RemoteSession | InProcessSession, None] = {}

    def open_remote(self, connection: ClientConnectionHandle) -> RemoteSession:
        """A client has authenticated."""
        session = RemoteSession(self, connection)
        self._remote[session] = self._listeners[session] = None
        return session

    def open_in_process(
        self,
        on_event: Callable[[str, Any], None] | None = None,
        on_stopped: Callable[[str], None] | None = None,
    ) -> InProcessSession:
        """A program in this process wants a session. Raises `Stopped` once the node has stopped."""
        if self.why_closed:
            raise Stopped(self.why_closed)
        session = InProcessSession(self, on_event, on_stopped)
        self._in_process[session] = None
        if on_event is not None:
            self._listeners[session] = None
        return session

    def end(self, session: RemoteSession | InProcessSession) -> None:
        """Forget a session whose connection or program is gone."""
        session.closed = True
        if self.addresses is not None:
            self.addresses.ended(session, "normal")
        self._listeners.pop(session, None)
        if isinstance(session, RemoteSession):
            self._remote.pop(session, None)
        else:
            self._in_process.pop(session, None)

    def pid_of(self, session: RemoteSession | InProcessSession) -> Pid:
        """The address of a session."""
        assert self.addresses is not None, "a node has processes"
        return self.addresses.pid_of(session)

    @property
    def listening(self) -> int:
        """How many clients hear machines' messages: all that are connected, over the transport or inside."""
        return len(self._listeners)

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """Pass a machine's message to every client of this node."""
        for session in self._listeners:
            session.notify(cluster, message)

    async def drain(self) -> None:
        """Before a stop, wait until remote clients have their answers, for half a second at most.

        Each answer names the leader, so its client goes there next. Programs in this
        process go down with it anyway.
        """
        for _ in range(_DRAIN_LOOKS):
            frames = self.frames
            if self._remote:
                await asyncio.sleep(_DRAIN_LOOK_S)
            if self.frames == frames and not any(session.waiting_commands for session in self._remote):
                return

    def stop(self, reason: str) -> None:
        """Nothing is answered after the last turn: programs in this process must not wait for it."""
        self.why_closed = reason
        for session in list(self._in_process):
            session.stop(reason)
