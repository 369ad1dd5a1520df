"""Helpers that the transport's tests share."""

import asyncio
import time
from collections.abc import Callable, Iterator

from barque.transport.contract import ClientConnectionHandle
from barque.transport.wire import ClientRequest, Envelope

SECRET = b"a secret of the test cluster"


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 20.0) -> None:
    """Wait for a condition; a test that waits in vain says for what."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what or condition}"
        await asyncio.sleep(0.002)


class Sink:
    """Keeps what one client sends."""

    def __init__(self, connection: ClientConnectionHandle) -> None:
        self.connection = connection
        self.requests: list[ClientRequest] = []
        self.closed = 0

    def on_requests(self, requests: list[ClientRequest]) -> None:
        self.requests += requests

    def on_closed(self) -> None:
        self.closed += 1


class Recorder:
    """A node that only remembers what its transport told it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Envelope]] = []
        self.events: list[tuple[str, str, object]] = []
        self.sinks: list[Sink] = []
        self.turns = 0

    def on_envelopes(self, node: str, envelopes: list[Envelope]) -> None:
        self.received += [(node, envelope) for envelope in envelopes]

    def on_peer_connected(self, node: str, incarnation: int) -> None:
        self.events.append(("up", node, incarnation))

    def on_peer_disconnected(self, node: str, reason: str) -> None:
        self.events.append(("down", node, reason))

    def on_peer_gone(self, node: str) -> None:
        self.events.append(("gone", node, ""))

    def on_client(self, connection: ClientConnectionHandle) -> Sink:
        self.sinks.append(Sink(connection))
        return self.sinks[-1]

    def on_turn(self) -> None:
        self.turns += 1

    def messages(self) -> Iterator[object]:
        return (envelope.message for _, envelope in self.received)
