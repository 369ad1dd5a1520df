"""One connection: requests in, replies out in the order of the requests.

Redis runs the commands of a connection one after another; here they travel through a cluster, so
many must be under way at once. The order is kept by *runs*: consecutive writes are submitted
together, consecutive reads are submitted together, and a run begins when the run of the other kind
before it has been answered. So a read sees the writes before it and none of those after it. Commands
that change the connection itself wait until everything before them is answered.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from barque.errors import BarqueError
from barque.gateways.resp import encoder
from barque.gateways.resp.commands import (
    Command,
    CommandError,
    Kind,
    machine_error,
    outcome_reply,
    unknown_command,
    wrong_arity,
)
from barque.gateways.resp.parser import RequestError, RequestParser
from barque.gateways.resp.session import Session, find_command
from barque.machine.kv_commands import error_code

if TYPE_CHECKING:
    from barque.gateways.resp.server import RespServer

_NO_AUTH: Final = encoder.error("NOAUTH Authentication required.")
_STRANGER_BUFFER_BYTES: Final = 4096
_REPLY_BYTES_FEARED: Final = 64 * 1024  # before anything is known of a client's replies
_FORGET_SHIFT: Final = 6  # each reply takes a 64th off the memory of larger ones
_encode: Final = msgspec.msgpack.Encoder().encode


class Pending:
    """The place of one reply. The submitter calls it with the outcome."""

    __slots__ = ("command", "connection", "data")

    def __init__(self, connection: "Connection", command: Command | None, data: bytes | None = None) -> None:
        self.connection = connection
        self.command = command
        self.data = data
        """The reply; None until it is known."""

    def __call__(self, outcome: Any) -> None:
        """Convert the outcome. Never raises: a reply that cannot be written is an error reply."""
        command = cast(Command, self.command)
        assert command.reply is not None, "only commands of the machine have outcomes"
        try:
            if isinstance(outcome, BarqueError):
                self.data = outcome_reply(outcome)
            elif (code := error_code(outcome)) is not None:
                self.data = machine_error(code, command.name)
            else:
                self.data = command.reply(outcome, self.connection.session)
        except Exception as failure:  # the client must get an answer in spite of our bug
            self.data = encoder.error(f"ERR the reply to '{command.name}' failed: {type(failure).__name__}")
        self.connection.settled(len(self.data))


class Connection(asyncio.BufferedProtocol):
    """The protocol of one client. The server owns it; sessions and parsers are its parts."""

    __slots__ = (
        "_accepted",
        "_answered",
        "_batches",
        "_in_flight_bytes",
        "_outstanding",
        "_pumping",
        "_reading",
        "_replies",
        "_reply_bytes_expected",
        "_running",
        "_server",
        "_transport",
        "_waiting",
        "_writable",
        "closed",
        "ending",
        "flush_scheduled",
        "parser",
        "session",
    )

    def __init__(self, server: "RespServer") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._replies: deque[Pending] = deque()
        """Unanswered requests in order, and answers that wait for an earlier one."""
        self._waiting: deque[tuple[Pending, list[bytes]]] = deque()
        """Requests that may not run yet; all of them are also in `_replies`."""
        self._outstanding = 0
        """How many of the present run are with the submitter."""
        self._running = Kind.WRITE
        """The kind of the present run; means something while `_outstanding` > 0."""
        self._batches: deque[tuple[int, int]] = deque()
        """(requests accepted up to there, bytes) of each batch that is not answered in full."""
        self._accepted = self._answered = self._in_flight_bytes = 0
        self._reply_bytes_expected = _REPLY_BYTES_FEARED
        """How large a reply may be: the largest of late. Few large ones are asked for at once."""
        self._pumping = False
        self._reading = True
        self._writable = True
        self.flush_scheduled = False
        self.ending = False
        """Nothing more is read; the connection closes after its last reply."""
        self.closed = False

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the server, or turn away when it is full."""
        self._transport = cast(asyncio.Transport, transport)
        self.session: Session = self._server.new_session(transport)
        limits = self._server.limits
        self.parser = RequestParser(
            limits.bulk_bytes_max, limits.request_bytes_max, authenticated=self.session.authenticated
        )
        self._transport.set_write_buffer_limits(high=limits.output_high_water_bytes)
        if not self._server.admit(self):
            self.ending = True
            self._transport.write(encoder.error("ERR max number of clients reached"))
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer that all connections share: it is emptied before the loop does anything else."""
        if self.parser.authenticated:
            return self._server.receive_buffer
        return self._server.receive_buffer[:_STRANGER_BUFFER_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have arrived."""
        if not self.ending:
            self.parser.feed(bytes(self._server.receive_buffer[:nbytes]))
            self._process()

    def eof_received(self) -> bool:
        """The client has closed its side; keep the connection until its replies are sent."""
        self.ending = True
        return bool(self._replies)

    def pause_writing(self) -> None:
        """The client does not read its replies: stop reading its requests."""
        self._writable = False
        self._pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable = True
        self._process()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop waiting requests. Their outcomes are ignored."""
        self.closed = self.ending = True
        self._waiting.clear()
        self._replies.clear()
        self._batches.clear()
        self._server.leave(self)

    def abort(self) -> None:
        """End the connection at once."""
        self.ending = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection after what has been written."""
        self.ending = True
        if self._transport is not None:
            self._transport.close()

    # --- requests

    def _process(self) -> None:
        """Take complete requests off the parser while the limits allow; pause or resume reading."""
        limits = self._server.limits
        while not self.ending:
            window = limits.reply_bytes_max // (self._reply_bytes_expected + 1) + 1
            room = min(limits.outstanding_max, window) - len(self._replies)
            if not self._writable or room <= 0 or self._in_flight_bytes >= limits.outstanding_bytes_max:
                self._pause_reading()
                return
            if not self.parser.authenticated:
                room = 1  # the next request may be the one that authenticates
            requests: list[list[bytes]] = []
            before = self.parser.consumed
            complaint = None
            try:
                self.parser.parse(requests, room)
            except RequestError as error:
                complaint = error
            for request in requests:
                self._accept(request)
            if complaint is not None:
                self._refuse(complaint)
            elif requests:
                self._count(len(requests), self.parser.consumed - before)
            else:
                break
        if self.ending:
            self._pause_reading()
        elif not self._reading and self._transport is not None and not self.closed:
            self._reading = True
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _count(self, requests: int, size: int) -> None:
        self._accepted += requests
        self._in_flight_bytes += size
        self._batches.append((self._accepted, size))
        self._server.counters.commands += requests
        self._server.schedule_flush(self)

    def _refuse(self, complaint: RequestError) -> None:
        """The client does not speak the protocol: say so after the replies it is owed, and close."""
        if not self.ending:  # after QUIT nothing counts
            self._server.counters.protocol_errors += 1
            self._replies.append(Pending(self, None, encoder.error(f"ERR {complaint}")))
            self.ending = True
        self._server.schedule_flush(self)

    def _accept(self, request: list[bytes]) -> None:
        if self.ending:
            return
        command = find_command(request[0])
        pending = Pending(self, command)
        self._replies.append(pending)
        if command is None:
            pending.data = encoder.error(unknown_command(request))
        elif not command.accepts(len(request)):
            pending.data = encoder.error(wrong_arity(command.name))
        elif self._waiting or not self._start(pending, command, request):
            self._waiting.append((pending, request))

    def _start(self, pending: Pending, command: Command, request: list[bytes]) -> bool:
        """Run or submit one request; False if it has to wait for those before it."""
        kind = command.kind
        if self._outstanding and kind is not self._running and kind is not Kind.LOCAL:
            return False
        if not self.session.authenticated and not command.without_auth:
            pending.data = _NO_AUTH
            return True
        try:
            if kind is Kind.WRITE:
                payload = _encode(command.run(request))
                self._running = kind
                self._outstanding += 1
                self._server.submit_command(payload, pending)
            elif kind is Kind.READ:
                payload = _encode(command.run(request))
                self._running = kind
                self._outstanding += 1
                self._server.submit_query(payload, self.session.read_level, pending)
            else:
                pending.data = command.run(self.session, request)
        except CommandError as error:
            pending.data = encoder.error(str(error))
        except Exception as failure:  # a bug of ours in one command; the other connections go on
            pending.data = encoder.error(f"ERR '{command.name}' failed: {type(failure).__name__}")
        if kind is Kind.SESSION:
            self._after_session_command(pending)
        return True

    def _after_session_command(self, pending: Pending) -> None:
        self.parser.authenticated = self.session.authenticated
        if self.session.closing:
            self.ending = True
            self._waiting.clear()
            while self._replies[-1] is not pending:
                self._replies.pop()  # what came after QUIT

    # --- replies

    def settled(self, size: int) -> None:
        """One outstanding outcome has arrived; its reply takes `size` bytes."""
        if self.closed:
            return
        expected = self._reply_bytes_expected
        self._reply_bytes_expected = max(size, expected - (expected >> _FORGET_SHIFT))
        self._outstanding -= 1
        if self._waiting and not self._outstanding:
            self._pump()
        self._server.schedule_flush(self)

    def _pump(self) -> None:
        """Begin the next run. Outcomes may arrive while it is being submitted."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._waiting:
                pending, request = self._waiting.popleft()
                assert pending.command is not None, "unknown commands never wait"
                if not self._start(pending, pending.command, request):
                    self._waiting.appendleft((pending, request))
                    return
        finally:
            self._pumping = False

    def flush(self) -> None:
        """Write the replies that are due, in one piece; once in a turn of the loop."""
        self.flush_scheduled = False
        if self.closed or self._transport is None:
            return
        replies = self._replies
        ready: list[bytes] = []
        while replies and replies[0].data is not None:
            ready.append(cast(bytes, replies.popleft().data))
        if ready:
            self._transport.write(b"".join(ready))
            self._answered += len(ready)
            while self._batches and self._batches[0][0] <= self._answered:
                self._in_flight_bytes -= self._batches.popleft()[1]
            if self._transport.get_write_buffer_size() > self._server.limits.output_bytes_max:
                self._server.counters.slow_readers += 1
                self.abort()
                return
        if self.ending:
            if not replies:
                self._transport.close()
        elif not self._reading:
            self._process()
