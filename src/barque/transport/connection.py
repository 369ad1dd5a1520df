"""One socket: frames in, frames out, and its end. Both ends of every connection build on this."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

from barque.errors import ConfigurationError, ProtocolError, Unauthenticated
from barque.transport import wire
from barque.transport.budget import Budget
from barque.transport.contract import Limits, TransportCounters, logger
from barque.transport.framing import (
    FRAME_VERSION,
    HEADER,
    HEADER_SIZE,
    HELLO_BYTES_MAX,
    Frame,
    FrameKind,
    FrameReader,
)
from barque.transport.handshake import DialerHandshake, Established, ListenerHandshake, refusal
from barque.transport.resolve import resolve
from barque.transport.tasks import begin_task
from barque.transport.tls import certificate_of, explain, secure

_SCRATCH_BYTES = 1024
_BACKLOG = 1_024


class FramedConnection(asyncio.BufferedProtocol):
    """A connection that begins with a handshake, over TLS if there is a `tls`, and then carries frames.

    Subclasses say what happens `established`, on each `frame_received` and when it is `lost`; each of the
    first two may raise `ProtocolError`, which cuts the other side off. No other connection is affected.
    """

    def __init__(
        self,
        handshake: DialerHandshake | ListenerHandshake,
        limits: Limits,
        counters: TransportCounters,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits
        self.counters = counters
        self.over = False  # nothing is read or written any more
        self.reason = ""  # why; empty while open
        self.is_established = False
        self._handshake = handshake
        self._reader = FrameReader(HELLO_BYTES_MAX)
        self._tls = tls
        self._raw: asyncio.Transport | None = None  # the socket below TLS
        self._securing: asyncio.Task[None] | None = None  # while TLS begins
        self._transport: asyncio.Transport | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._has_input = False
        self._is_held = False
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # --- for subclasses ---

    def established(self, other: Established) -> None:
        """The other side has proved its identity."""
        raise NotImplementedError

    def frame_received(self, frame: Frame) -> None:
        """A frame has arrived after the handshake."""
        raise NotImplementedError

    def turn_ended(self) -> None:
        """All frames of one read were handed over."""

    def refused(self, error: Unauthenticated) -> None:
        """The handshake has failed: the secret, a name or the version is wrong."""

    def lost(self, reason: str) -> None:
        """The connection is gone; called once, also if it was never established."""

    # --- what the loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open: begin the handshake, and limit the time for the other side's part."""
        self._transport = stream = cast(asyncio.Transport, transport)  # uvloop's is one without inheriting
        if self.over:  # given up while it was being opened
            stream.abort()
            return
        self._set_options(transport.get_extra_info("socket"))
        loop = asyncio.get_running_loop()
        self._timeout = loop.call_later(self.limits.handshake_timeout_s, self._on_handshake_timeout)
        if self._tls is None:
            self._begin()
        else:
            stream.pause_reading()
            self._securing = begin_task(self._secure(stream, self._tls))

    def _begin(self) -> None:
        """Frames can travel: the dialer speaks first."""
        if isinstance(self._handshake, DialerHandshake) and self._transport is not None:
            self._transport.write(self._handshake.start())

    async def _secure(self, raw: asyncio.Transport, tls: ssl.SSLContext) -> None:
        def take(transport: asyncio.Transport) -> None:
            self._raw, self._transport, self._securing = raw, transport, None
            if self.over:
                transport.abort()
                return
            self._handshake.certificate = certificate_of(transport)
            self._begin()

        try:
            is_listener = isinstance(self._handshake, ListenerHandshake)
            await secure(raw, self, tls, self.limits.handshake_timeout_s, server_side=is_listener, take=take)
        except OSError as error:
            raw.abort()
            if not isinstance(error, ssl.SSLError):
                self.reason = self.reason or "the other side hung up while TLS began; does it speak TLS?"
            self.connection_lost(error)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the loop's next read."""
        try:
            return self._reader.buffer()
        except ProtocolError as error:
            self.counters.refused_frames += 1
            self.over = True
            asyncio.get_running_loop().call_soon(self.cut_off, str(error))  # uvloop dies if closed in here
            return memoryview(bytearray(_SCRATCH_BYTES))

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have arrived: handle every frame that is now complete."""
        if self.over:
            return
        reader = self._reader
        reader.received(nbytes)
        self._has_input = False
        try:
            while (
                reader.has_more
                and not (self.over or self._is_held)
                and (frame := reader.next_frame()) is not None
            ):
                if self.is_established:
                    self._has_input = True
                    self.frame_received(frame)
                else:
                    self.shake_hands(frame)
        except ProtocolError as error:
            self.counters.malformed_frames += 1
            self.cut_off(str(error))
        if self._has_input:
            self.turn_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.over = True
        self._reader.close()
        self._securing = None
        if self._timeout is not None:
            self._timeout.cancel()
        if isinstance(exc, ssl.SSLError) and not self.is_established and not self.reason:
            self.reason = explain(exc)
            self.counters.handshakes_refused += 1
            self.refused(Unauthenticated(self.reason))
        self.reason = self.reason or (str(exc) if exc else "closed by the other side")
        if not self.closed.done():
            self.closed.set_result(self.reason)
        self.lost(self.reason)

    # --- what owners call ---

    def write(self, frames: Sequence[bytes | bytearray]) -> int:
        """Hand frames to the loop; return their bytes. They must not be changed afterwards."""
        if self.over or self._transport is None:
            return 0
        total = 0
        for frame in frames:
            self._transport.write(frame)
            self.counters.frames_sent += 1
            total += len(frame)
        self.counters.bytes_sent += total
        return total

    def bytes_queued(self) -> int:
        """How many bytes the socket has not taken yet."""
        queued = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return queued if self._raw is None else queued + self._raw.get_write_buffer_size()

    def close(self, reason: str, farewell: bytes = b"") -> None:
        """Send queued bytes and a last frame, then close. Read nothing from now on."""
        if not self.over and self._transport is not None:
            self.over, self.reason = True, reason
            if farewell and self._securing is None:
                self._transport.write(farewell)
            self._transport.close()

    def cut_off(self, reason: str) -> None:
        """Close at once; queued bytes are lost."""
        self.reason = self.reason or reason
        self.over = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def remote_address(self) -> str:
        """The other end's address, for log lines."""
        found = None if self._transport is None else self._transport.get_extra_info("peername")
        return join_address(found[0], found[1]) if isinstance(found, tuple) else "unknown"

    @property
    def remote_host(self) -> str:
        """The other end's host, which guesses are counted for."""
        found = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(found[0]) if isinstance(found, tuple) else "unknown"

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if not self.over and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self.over and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- inside ---

    def hold(self, pause_s: float, then: Callable[[], None]) -> None:
        """Handle nothing that arrives for a while; then go on."""

        def go_on() -> None:
            self._is_held = False
            if self.over:
                return
            self.resume()
            try:
                then()
            except ProtocolError as error:
                self.counters.malformed_frames += 1
                self.cut_off(str(error))
            else:
                self.buffer_updated(0)

        self._is_held = True
        self.pause()
        asyncio.get_running_loop().call_later(pause_s, go_on)

    def share_memory(self, budget: Budget) -> None:
        """Take memory for large frames out of this budget."""
        self._reader.budget = budget

    def shake_hands(self, frame: Frame) -> None:
        """Take a frame of the handshake."""
        try:
            step = self._handshake.receive(frame.kind, frame.payload)
        except Unauthenticated as error:
            self.counters.handshakes_refused += 1
            self.refused(error)
            self.close(str(error), b"" if frame.kind is FrameKind.REFUSED else refusal(str(error)))
            return
        if step.send and self._transport is not None:
            self._transport.write(step.send)
        if step.established is not None:
            self.is_established = self._has_input = True
            if self._timeout is not None:
                self._timeout.cancel()
            self.established(step.established)

    def raise_limits(self, frame_bytes_max: int, buffer_kept: int) -> None:
        """Set the largest frame that this side accepts, and the memory that it keeps between frames."""
        self._reader.limit = frame_bytes_max
        self._reader.kept = buffer_kept

    def _on_handshake_timeout(self) -> None:
        self.cut_off(f"no handshake within {self.limits.handshake_timeout_s:g} s")

    def _set_options(self, sock: Any) -> None:
        """Send small frames without delay, and notice a peer that vanished (TCP keepalive)."""
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        silence_s = max(3, int(self.limits.silence_max_s))
        for option, value in (
            ("TCP_KEEPIDLE", silence_s // 3),
            ("TCP_KEEPINTVL", silence_s // 3),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", silence_s * 1000),
        ):
            if hasattr(socket, option):  # not everywhere; without them a dead peer is noticed later
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def encode_frames(
    kind: FrameKind, messages: Sequence[Any], limit: int, counters: TransportCounters, whom: str
) -> list[bytearray]:
    """As few frames as the limit allows, in order; nearly always one frame.

    A message that is too large alone, or that has no encoding, is dropped, counted and logged: it must
    not take the link down with it, and nobody may wonder where it went.
    """
    cause: object = "too many messages for one frame"
    count = len(messages)
    if count <= wire.MESSAGES_MAX:
        frame = bytearray(HEADER_SIZE)
        try:
            wire.encode_into(messages, frame, HEADER_SIZE)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            cause = error
        else:
            size = len(frame) - HEADER_SIZE
            if size <= limit:
                HEADER.pack_into(frame, 0, size, FRAME_VERSION, kind, 0)  # no copy: batches are large
                counters.messages_sent += count
                return [frame]
            cause = f"{size} bytes are above the frame limit of {limit}"
    if count == 1:
        if isinstance(cause, Exception):
            counters.unencodable_messages += 1
        else:
            counters.oversize_messages += 1
        message = getattr(messages[0], "message", messages[0])
        logger.error("dropped one %s for %s: %s", type(message).__name__, whom, cause)
        return []
    middle = count // 2
    return [
        *encode_frames(kind, messages[:middle], limit, counters, whom),
        *encode_frames(kind, messages[middle:], limit, counters, whom),
    ]


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Split `host:port` or `[v6 address]:port`. Raises `ConfigurationError` that names the setting."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{setting} is {address!r}, but must be host:port, such as 127.0.0.1:7400")
    return host, int(port)


async def open_server(protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> asyncio.Server:
    """Listen there, or at all addresses of a name; `::` serves IPv4 as well. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if host != "::":
        return await loop.create_server(protocol, await resolve(host), port, backlog=_BACKLOG)
    both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return await loop.create_server(protocol, sock=both, backlog=_BACKLOG)


def join_address(host: str, port: int) -> str:
    """Host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
