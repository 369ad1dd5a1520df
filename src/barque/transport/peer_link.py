"""Our outbound link to one peer: it connects, reconnects by itself, and bounds the bytes that wait."""

import asyncio
import random
import ssl
from collections.abc import Callable

from barque.errors import ProtocolError
from barque.transport import wire
from barque.transport.connection import FramedConnection, encode_frames, split_address
from barque.transport.contract import (
    Limits,
    PeerStatus,
    TransportCounters,
    TransportHandler,
    logger,
)
from barque.transport.framing import Frame, FrameKind
from barque.transport.handshake import DialerHandshake, Established
from barque.transport.resolve import connect
from barque.transport.tasks import begin_task
from barque.transport.wire import Alive, Envelope, PeerMessage

_ATTEMPTS_BEFORE_WARNING = 5
_SMALL_BYTES = 64 * 1024


class PeerLink:
    """One peer. Messages are queued for a turn, written at its end, and dropped when they cannot leave."""

    def __init__(
        self,
        name: str,
        address: str,
        handler: TransportHandler,
        limits: Limits,
        counters: TransportCounters,
        rng: random.Random,
        dial: Callable[[str], tuple[DialerHandshake, ssl.SSLContext | None]],
    ) -> None:
        split_address(address, f"the address of peer {name}")
        self.name = name
        self.address = address
        self._handler = handler
        self._limits = limits
        self._counters = counters
        self._rng = rng
        self._dial = dial
        self._outbox: list[Envelope] = []
        self._queued = (
            0  # about how many bytes wait, here and in the socket; fresh while the outbox is not empty
        )
        self._up: _OutboundConnection | None = None
        self._current: _OutboundConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._incarnation = 0
        self._dropped = 0
        self._last_error = "not connected yet"

    def start(self) -> None:
        """Connect, and reconnect until `stop`."""
        if self._task is None:
            self._task = begin_task(self._run(), name=f"barque link to {self.name}")

    def stop(self) -> list[asyncio.Task[None]]:
        """Stop connecting; bytes in the socket may still leave. Returns the task that ends now, if any."""
        if self._task is not None:
            self._task.cancel()
        if self._current is not None:
            self._current.close("the link is stopped")
        return [] if self._task is None else [self._task]

    def nudge(self) -> None:
        """Make the next attempt now, if the link waits before it."""
        self._nudged.set()

    def move(self, address: str) -> None:
        """Use another address of the peer from now on."""
        split_address(address, f"the address of peer {self.name}")
        if address != self.address:
            self.address = address
            if self._current is not None:
                self._current.cut_off("the peer's address has changed")
            self.nudge()

    def send(self, to: str, message: PeerMessage, cluster_id: str = "", sender_uid: str = "") -> int:
        """Queue a message for this turn's flush: 0 if it was dropped, 1 for the first, 2 for others."""
        connection = self._up
        outbox = self._outbox
        if connection is None or connection.over:
            return self._drop(1)
        place = 2
        if not outbox:
            place = 1
            self._queued = connection.bytes_queued()
        if self._queued > self._limits.peer_output_max and self._queued > self._bound(message):
            return self._drop(1)
        self._queued += wire.weight(message)
        outbox.append(Envelope(to, message, cluster_id, sender_uid))
        return place

    def _bound(self, message: PeerMessage) -> int:
        """How much may wait before this message. Small ones may follow a large one that fills the link.

        Otherwise the answers to clients would be lost behind every large entry.
        """
        limits = self._limits
        if type(message) is Alive:
            return limits.peer_output_max + limits.frame_bytes_max + limits.alive_reserve
        if wire.weight(message) <= _SMALL_BYTES:
            return limits.peer_output_max + limits.frame_bytes_max
        return limits.peer_output_max

    def flush(self) -> None:
        """Write queued messages, as one frame if they fit."""
        outbox, self._outbox = self._outbox, []
        connection = self._up
        if connection is None or connection.over:
            self._drop(len(outbox))
        elif outbox:
            limit = self._limits.frame_bytes_max
            connection.write(encode_frames(FrameKind.ENVELOPES, outbox, limit, self._counters, self.name))

    @property
    def is_up(self) -> bool:
        """Whether messages can be sent."""
        return self._up is not None

    def status(self) -> PeerStatus:
        """The state of the link, for `status`."""
        up = self._up
        return PeerStatus(
            address=self.address,
            connected=up is not None,
            incarnation=self._incarnation,
            last_error=self._last_error,
            dropped=self._dropped,
            bytes_queued=0 if up is None else up.bytes_queued(),
        )

    @property
    def connections(self) -> list[FramedConnection]:
        """The socket, if there is one."""
        return [] if self._current is None else [self._current]

    # --- called by the connection ---

    def opened(self, connection: "_OutboundConnection") -> None:
        """A socket is open; the handshake has yet to come."""
        self._current = connection

    def went_up(self, connection: "_OutboundConnection", other: Established) -> None:
        """The handshake is over: messages can leave."""
        self._up = connection
        self._incarnation = other.incarnation
        self._last_error = ""
        self._counters.connects += 1
        logger.info("connected to %s at %s", self.name, self.address)
        self._handler.on_peer_connected(self.name, other.incarnation)

    def went_down(self, connection: "_OutboundConnection", reason: str) -> None:
        """The socket is gone."""
        if self._current is connection:
            self._current = None
        if self._up is connection:
            self._up = None
            self._drop(len(self._outbox))
            self._outbox.clear()
            self._handler.on_peer_disconnected(self.name, reason)
            self._handler.on_turn()

    def turn_ended(self) -> None:
        """Tell the node that the link is up."""
        self._handler.on_turn()

    # --- inside ---

    def _drop(self, count: int) -> int:
        self._dropped += count
        self._counters.dropped_sends += count
        return 0

    async def _run(self) -> None:
        """Connect, wait for the end, and back off longer each time. A link that lasted resets that."""
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            started = loop.time()
            error = await self._connect_once()
            if error != self._last_error:
                self._last_error = error
                logger.info("link to %s at %s: %s", self.name, self.address, error)
            if attempts == _ATTEMPTS_BEFORE_WARNING:  # a peer that starts or restarts is no news
                logger.warning("link to %s at %s is still down: %s", self.name, self.address, error)
            if loop.time() - started > 2 * self._limits.backoff_max_s:
                attempts = 0
            delay = backoff_s(attempts, self._limits, self._rng)
            attempts += 1
            self._nudged.clear()
            try:
                async with asyncio.timeout(delay):
                    await self._nudged.wait()
                attempts = 0
            except TimeoutError:
                pass

    async def _connect_once(self) -> str:
        """Run one connection; return why it ended."""
        host, port = split_address(self.address, f"the address of peer {self.name}")
        try:  # the name is looked up again for each attempt: addresses change
            connection = await connect(self._open, host, port, self._limits.connect_timeout_s)
        except TimeoutError:
            return f"cannot connect: no answer within {self._limits.connect_timeout_s:g} s"
        except OSError as error:
            return f"cannot connect: {error}"
        return await asyncio.shield(connection.closed)

    def _open(self) -> "_OutboundConnection":
        handshake, tls = self._dial(self.name)
        return _OutboundConnection(self, handshake, self._limits, self._counters, tls)


class _OutboundConnection(FramedConnection):
    """The dialer's end between nodes. It only sends, so any frame that arrives is an error."""

    def __init__(
        self,
        link: PeerLink,
        handshake: DialerHandshake,
        limits: Limits,
        counters: TransportCounters,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(handshake, limits, counters, tls)
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open. uvloop makes protocols before that, and drops those of failed attempts."""
        self._link.opened(self)
        super().connection_made(transport)

    def established(self, other: Established) -> None:
        """The peer has proved its name."""
        self._link.went_up(self, other)

    def frame_received(self, frame: Frame) -> None:
        """Refuse a frame: peers send on their own connections."""
        raise ProtocolError(f"{frame.kind.name} on a link that only carries messages the other way")

    def turn_ended(self) -> None:
        """The handshake has ended well."""
        self._link.turn_ended()

    def lost(self, reason: str) -> None:
        """Tell the link."""
        self._link.went_down(self, reason)


def backoff_s(attempts: int, limits: Limits, rng: random.Random) -> float:
    """How long to wait after so many failed attempts: doubling, bounded, and between half and all of it."""
    longest = min(limits.backoff_max_s, limits.backoff_min_s * 2.0 ** min(attempts, 32))
    return longest * rng.uniform(0.5, 1.0)
