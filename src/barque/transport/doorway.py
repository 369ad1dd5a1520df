"""A listener whose connections must begin TLS before their protocol hears of them: for gateways.

The connections that have not finished the TLS handshake are strangers: they are bounded in number, the oldest
goes first, and each has a few seconds. Each connection uses the certificate that is the newest when it comes.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from barque.transport.strangers import Strangers
from barque.transport.tasks import begin_task
from barque.transport.tls import secure

MakeProtocol = Callable[[], asyncio.BufferedProtocol]
_HANDSHAKE_S = 5.0
_STRANGERS_MAX = 1_000


class Doorway:
    """Makes protocols for `create_server`: each becomes one of `make` once the connection speaks TLS."""

    def __init__(self, make: MakeProtocol, context: Callable[[], ssl.SSLContext]) -> None:
        self.make = make
        self.context = context
        self.strangers: Strangers[_Visitor] = Strangers(_STRANGERS_MAX)
        self.failures = 0
        """Handshakes that have failed."""

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for one connection that was accepted."""
        return _Visitor(self)

    def close(self) -> None:
        """End the connections that have not finished their handshake."""
        while (visitor := self.strangers.oldest()) is not None:
            self.strangers.remove(visitor)
            visitor.leave()


class _Visitor(asyncio.Protocol):
    def __init__(self, doorway: Doorway) -> None:
        self._doorway = doorway
        self._raw: asyncio.Transport
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin TLS; the oldest stranger may have to go for this one."""
        self._raw = cast(asyncio.Transport, transport)
        self._raw.pause_reading()
        oldest = self._doorway.strangers.add(self)
        if oldest is not None:
            oldest.leave()
        self._task = begin_task(self._enter())

    async def _enter(self) -> None:
        doorway = self._doorway
        protocol = doorway.make()
        try:
            await secure(
                self._raw,
                protocol,
                doorway.context(),
                _HANDSHAKE_S,
                server_side=True,
                take=protocol.connection_made,
            )
        except OSError:
            doorway.failures += 1
            self._raw.abort()
        finally:
            doorway.strangers.remove(self)

    def leave(self) -> None:
        """Close at once."""
        self._raw.abort()
