"""The listening socket for HTTP: `/metrics`, `/health` and `/ready`.

Starlette answers and uvicorn's protocol speaks HTTP/1.1, on the node's own event loop. Clients are strangers:
at most `CONNECTIONS_MAX` are connected, each for at most `CONNECTION_S`, and one page is made at a time.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from barque.errors import ConfigurationError
from barque.gateways.http.exposition import CONTENT_TYPE, render
from barque.gateways.http.metrics import node_families, page_families
from barque.gateways.http.readiness import reasons_against
from barque.runtime.node import Node
from barque.transport.connection import join_address, open_server
from barque.transport.doorway import Doorway

CONNECTIONS_MAX = 32
CONNECTION_S = 30.0
TOP, PAGE, MEMBERS_MAX = 20, 100, 200
"""Members with figures of their own: beside the node's, on a page of members, and at most: 1 MB of text."""
_HEADERS_MAX = 8 * 1024
_KEEP_ALIVE_S = 10
_STOP_S = 1.0
_FRESH_S = 1.0
"""A page of the whole node is given out again so long: scrapers cannot keep the node busy."""


class HttpServer:
    """Serves one node's figures. `bind` is `host:port`; `tls` returns the context for a new connection."""

    def __init__(self, node: Node, bind: str, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self._node = node
        self._bind = parse_bind(bind)
        self._state = ServerState()
        self._making = asyncio.Lock()
        self._pages: dict[int, tuple[float, str]] = {}  # by the number of busiest members on it
        self._listener: asyncio.Server | None = None
        routes = [
            Route("/metrics", self._metrics),
            Route("/health", self._health),
            Route("/ready", self._ready),
        ]
        self._config = Config(
            Starlette(routes=routes),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=_HEADERS_MAX,
        )
        self._doorway = None if tls is None else Doorway(self._connection, tls)

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        assert self._listener is not None, "started"
        host, port = self._listener.sockets[0].getsockname()[:2]
        return join_address(host, port)

    async def start(self) -> None:
        """Listen. Raises `ConfigurationError` if the address cannot be had."""
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers would write our log
        self._config.load()
        host, port = self._bind
        try:
            self._listener = await open_server(self._doorway or self._connection, host, port)
        except OSError as error:
            raise ConfigurationError(
                f"http: cannot listen on {join_address(host, port)}: {error.strerror or error}; "
                "choose another `bind` or stop what uses it"
            ) from error

    async def stop(self) -> None:
        """Stop listening, and end all connections."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        if self._doorway is not None:
            self._doorway.close()
        tasks = list(self._state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        if listener is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await listener.wait_closed()

    def _connection(self) -> "Connection":
        return Connection(self._config, self._state)

    # --- paths -------------------------------------------------------------------------

    async def _metrics(self, request: Request) -> Response:
        """`/metrics?top=N`, or a page of members: `/metrics?prefix=P&after=CLUSTER&limit=N`."""
        asked = request.query_params
        try:
            top = _number(asked.get("top"), TOP)
            limit = _number(asked.get("limit"), PAGE)
        except ValueError:
            return PlainTextResponse(f"top and limit are numbers from 0 to {MEMBERS_MAX}\n", 400)
        async with self._making:
            if "prefix" in asked:
                families = await page_families(self._node, asked["prefix"], asked.get("after", ""), limit)
                text = render(families)
            else:
                text = await self._page(top)
        return Response(text, media_type=CONTENT_TYPE)

    async def _page(self, top: int) -> str:
        now = asyncio.get_running_loop().time()
        made = self._pages.get(top)
        if made is None or now - made[0] >= _FRESH_S:
            made = (now, render(await node_families(self._node, top)))
            self._pages = {top: made}
        return made[1]

    async def _health(self, _request: Request) -> Response:
        """The process lives, and its loop runs."""
        return JSONResponse({"node": self._node.name, "uptime_s": round(self._node.reporter.uptime_s, 3)})

    async def _ready(self, _request: Request) -> Response:
        """All members have recovered and know a leader; otherwise 503, and why."""
        async with self._making:
            count, reasons = await reasons_against(self._node)
        told = {"node": self._node.name, "ready": count == 0, "problems": count, "reasons": reasons}
        return JSONResponse(told, 503 if count else 200)


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """One client. It reads through a buffer of its own, as connections that speak TLS here do."""

    def __init__(self, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._buffer = bytearray(4 * 1024)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        crowded = len(self.connections) >= CONNECTIONS_MAX
        super().connection_made(transport)
        if crowded:
            transport.abort()
        else:
            self._deadline = self.loop.call_later(CONNECTION_S, transport.abort)

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """So many bytes have come."""
        if not self.transport.is_closing():
            self.data_received(bytes(self._buffer[:count]))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)


def parse_bind(bind: str) -> tuple[str, int]:
    """(host, port) of a `bind` setting. Raises `ConfigurationError`."""
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"http: bind {bind!r} is not host:port, as in 127.0.0.1:9100")
    return host, int(port)


def _number(text: str | None, default: int) -> int:
    """A number from a query; raises `ValueError`."""
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    if not 0 <= number <= MEMBERS_MAX:
        raise ValueError(text)
    return number
