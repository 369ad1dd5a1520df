"""A connection of a Redis client to a gateway in a simulated node: bytes arrive late, in pieces, in order.

The gateway's end is an `asyncio.Transport`, so the parser, the session and the order of requests are those
of the product. The client's end can stop reading; then the bytes stay in the transport, where the gateway
counts them.
"""

import asyncio
import random
from typing import Any

from barque.gateways.resp.connection import Connection
from barque.gateways.resp.server import RespServer
from barque.testing.sim.loop import VirtualLoop, VirtualProcess

_PIECES_RATE = 0.3  # how often bytes arrive in pieces
_PIECE_BYTES_MAX = 4_000
_DELAY_S = 0.002


class RedisLink(asyncio.Transport):
    """One connection; this object is the gateway's end of it."""

    def __init__(
        self, loop: VirtualLoop, process: VirtualProcess, gateway: RespServer, rng: random.Random
    ) -> None:
        super().__init__({"peername": ("simulated", 1), "sockname": ("simulated", 2)})
        self.received = bytearray()
        """What the client has, and has not looked at."""
        self.news = asyncio.Event()
        self.lost = False
        """Whether the connection is over, as the client knows."""
        self._loop = loop
        self._process = process
        self._rng = rng
        self._inbound: list[bytes] = []  # arrived, but the gateway reads nothing now
        self._unsent = bytearray()  # written by the gateway, and not taken by the client
        self._in_at = self._out_at = 0.0  # no byte overtakes another
        self._client_reads = True
        self._gateway_reads = True
        self._closing = False
        self._connection = Connection(gateway)
        process.call(self._connection.connection_made, self)

    # --- the client's end

    def send(self, data: bytes) -> None:
        """Send bytes to the gateway; they arrive later, perhaps in pieces."""
        while data:
            size = len(data)
            if self._rng.random() < _PIECES_RATE or size > _PIECE_BYTES_MAX:
                size = self._rng.randint(1, min(size, _PIECE_BYTES_MAX))
            piece, data = data[:size], data[size:]
            self._in_at = max(self._in_at, self._loop.now + self._rng.random() * _DELAY_S)
            self._loop.at(self._in_at, self._process.call, self._arrives, piece)

    def read_on(self, reads: bool) -> None:
        """Begin or stop to take replies."""
        self._client_reads = reads
        if reads:
            self._loop.later(self._rng.random() * _DELAY_S, self._take)

    def leave(self) -> None:
        """End the connection without a word."""
        self.lose()
        self._process.call(self._end, None)

    def lose(self) -> None:
        """The client learns that the connection is over; the node may have died."""
        self.lost = True
        self.news.set()

    def _take(self) -> None:
        if self._client_reads and not self.lost and self._unsent:
            self.received += self._unsent
            self._unsent.clear()
            self.news.set()
            self._process.call(self._connection.resume_writing)
        if self._closing and not self._unsent:
            self._process.call(self._end, None)

    # --- the gateway's end

    def _arrives(self, data: bytes) -> None:
        self._inbound.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._inbound and self._gateway_reads and not self._closing:
            buffer = self._connection.get_buffer(-1)
            data = self._inbound.pop(0)
            if len(data) > len(buffer):
                self._inbound.insert(0, data[len(buffer) :])
                data = data[: len(buffer)]
            buffer[: len(data)] = data
            self._connection.buffer_updated(len(data))

    def write(self, data: Any) -> None:
        """See `asyncio.Transport`."""
        if self._closing:
            return
        self._unsent += data
        self._out_at = max(self._out_at, self._loop.now + self._rng.random() * _DELAY_S)
        self._loop.at(self._out_at, self._take)

    def get_write_buffer_size(self) -> int:
        """See `asyncio.Transport`."""
        return len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.Transport`; this one reports whenever the client takes something."""

    def pause_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._gateway_reads = False

    def resume_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._gateway_reads = True
        self._loop.call_soon(self._deliver)

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return self._closing

    def close(self) -> None:
        """See `asyncio.Transport`."""
        self._closing = True
        self._loop.later(_DELAY_S, self._take)

    def abort(self) -> None:
        """See `asyncio.Transport`."""
        self._closing = True
        self._unsent.clear()
        self._loop.call_soon(self._end, None)

    def _end(self, error: Exception | None) -> None:
        """The connection is over at the gateway; the client hears of it a little later."""
        self._closing = True
        if not self._connection.closed:
            self._connection.connection_lost(error)
        self._loop.later(self._rng.random() * _DELAY_S, self.lose)
