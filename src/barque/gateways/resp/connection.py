"""One connection: its socket, and how much memory it takes. `runs` knows the order of its requests."""

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from barque.gateways.resp import encoder
from barque.gateways.resp.memory import LITTLE_BYTES
from barque.gateways.resp.parser import RequestError, RequestParser
from barque.gateways.resp.pending import Pending
from barque.gateways.resp.runs import Requests
from barque.gateways.resp.session import Session

if TYPE_CHECKING:
    from barque.gateways.resp.server import RespServer

_STRANGER_BUFFER_BYTES: Final = 4096
_UNREAD_BYTES_NOTED: Final = 64 * 1024  # the transport says when fewer are left


_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Notice a client whose machine vanished, after two minutes of silence."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return  # a simulated connection
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Connection(Requests, asyncio.BufferedProtocol):
    """The protocol of one client. The server owns it; sessions and parsers are its parts."""

    __slots__ = (
        "_accepted",
        "_answered",
        "_batches",
        "_counted",
        "_fed",
        "_in_flight_bytes",
        "_reading",
        "_transport",
        "request_bytes",
        "stalled_ticks",
    )

    def __init__(self, server: "RespServer") -> None:
        super().__init__(server)
        self._transport: asyncio.Transport | None = None
        self._batches: deque[tuple[int, int]] = deque()
        """(requests accepted up to there, bytes) of each batch that is not answered in full."""
        self._accepted = self._answered = self._in_flight_bytes = 0
        self._fed = self._counted = 0
        """Bytes that arrived, and how many of them belong to requests that are counted in `_batches`."""
        self.request_bytes = 0
        """Bytes of requests, complete or not, when we last looked."""
        self._reading = True
        self.stalled_ticks = 0
        """How many of the server's ticks have passed since anything came in or went out."""

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the server, or turn away when it is full."""
        self._transport = cast(asyncio.Transport, transport)
        self.session: Session = self._server.new_session(transport)
        _keep_alive(transport)
        self.session.kill = self.abort
        limits = self._server.limits
        self.parser = RequestParser(
            limits.bulk_bytes_max, limits.request_bytes_max, authenticated=self.session.authenticated
        )
        self._transport.set_write_buffer_limits(high=min(_UNREAD_BYTES_NOTED, limits.reply_bytes_max // 8))
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
        self.moved = True
        if not self.ending:
            self._fed += nbytes
            self.parser.feed(bytes(self._server.receive_buffer[:nbytes]))
            self._process()
            waits = self._fed - self._counted + self._in_flight_bytes
            if waits > LITTLE_BYTES or self.request_bytes or self.session.queue is not None:
                self.count_request_bytes()

    def eof_received(self) -> bool:
        """The client has closed its side; keep the connection until its replies are sent."""
        self.ending = True
        return bool(self._replies)

    def pause_writing(self) -> None:
        """The client is slower than its replies; `unread` counts."""

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.take_stock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop waiting requests. Their outcomes are ignored."""
        self.closed = self.ending = True
        self._server.requests.used -= self._submitted
        self._server.replies.used -= self._held + self._unread
        self._server.request_bytes -= self.request_bytes
        self._waiting.clear()
        self._replies.clear()
        self._batches.clear()
        self.session.queue = None
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

    # --- memory

    @property
    def bytes_held(self) -> int:
        """All memory that this client's requests and replies take."""
        return self._held + self._unread + self.request_bytes

    @property
    def has_unread(self) -> bool:
        """Whether the client has replies to take."""
        return self._unread > 0

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing goes on until the client takes some of its replies."""
        return self._unread > 0 and (self.is_paused or (bool(self._waiting) and not self._outstanding))

    def count_request_bytes(self) -> None:
        """Tell the server how much this client's requests take, and stop reading if that is too much."""
        queue = self.session.queue
        size = self._fed - self._counted + self._in_flight_bytes
        if queue is not None:
            size += queue.size
        self._server.request_bytes += size - self.request_bytes
        self.request_bytes = size
        if self._server.must_wait_with_requests(self):
            self._pause_reading()

    def take_stock(self) -> None:
        """Look how much the client has taken, and go on as far as there is room now."""
        if self.closed or self._transport is None:
            return
        unread = self._transport.get_write_buffer_size()
        if unread < self._unread:
            self.moved = True
        self._server.replies.used += unread - self._unread
        self._unread = unread
        if self._waiting:
            self.pump()
        if not self._reading:
            self._process()

    # --- requests

    def _process(self) -> None:
        """Take complete requests off the parser while the limits allow; pause or resume reading."""
        limits = self._server.limits
        while not self.ending:
            room = limits.outstanding_max - len(self._replies)
            paused = self._held + self._unread >= limits.reply_bytes_max
            if room <= 0 or paused or self._in_flight_bytes >= limits.outstanding_bytes_max:
                self._pause_reading()
                return
            if not self.parser.authenticated:
                room = 1  # the next request may be the one that authenticates
            requests: list[list[bytes]] = []
            complaint = None
            try:
                self.parser.parse(requests, room)
            except RequestError as error:
                complaint = error
            for request in requests:
                self.accept(request)
            if complaint is not None:
                self._refuse(complaint)
            elif requests:
                self._count(len(requests))
            else:
                break
        if self.ending:
            self._pause_reading()
        elif (
            not self._reading
            and self._transport is not None
            and not self.closed
            and not self._server.must_wait_with_requests(self)
        ):
            self._reading = True
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _count(self, requests: int) -> None:
        size = self.parser.consumed - self._counted
        self._counted = self.parser.consumed
        self._accepted += requests
        self._in_flight_bytes += size
        self._batches.append((self._accepted, size))
        self._server.counters.commands += requests
        self._server.schedule_flush(self)

    def _refuse(self, complaint: RequestError) -> None:
        """The client does not speak the protocol: say so after the replies it is owed, and close."""
        if not self.ending:  # after QUIT nothing counts
            self._server.counters.protocol_errors += 1
            pending = Pending(self, None, [])
            self._replies.append(pending)
            self._answer(pending, encoder.error(f"ERR {complaint}"))
            self.ending = True
        self._server.schedule_flush(self)

    def flush(self) -> None:
        """Write the replies that are due, in one piece; once in a turn of the loop."""
        self.flush_scheduled = False
        if self.closed or self._transport is None:
            return
        replies = self._replies
        ready: list[bytes] = []
        size = answered = 0
        while replies and replies[0].data is not None:
            pending = replies.popleft()
            data = cast(bytes, pending.data)
            size += len(data)
            answered += 1
            if not pending.muted:
                ready.append(data)
        if answered:
            if ready:
                self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self._held -= size
            self._server.replies.used -= size
            self._answered += answered
            while self._batches and self._batches[0][0] <= self._answered:
                self._in_flight_bytes -= self._batches.popleft()[1]
            if self.request_bytes:
                self.count_request_bytes()
            unread = self._transport.get_write_buffer_size()
            if unread or self._unread:
                self._server.replies.used += unread - self._unread
                self._unread = unread
                self._server.watch()
            if self._waiting:
                self.pump()  # what was written has made room
        if self.ending:
            if not replies:
                self._transport.close()
        elif not self._reading:
            self._process()
