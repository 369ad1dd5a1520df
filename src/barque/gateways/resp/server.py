"""The listening socket of the Redis protocol, and what its connections share."""

import asyncio
import contextlib
import ipaddress
import itertools
import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from barque.errors import BarqueError, ConfigurationError
from barque.gateways.resp.connection import Connection, Pending
from barque.gateways.resp.session import REDIS_VERSION, Session, Shared
from barque.runtime.clock import Clock, SystemClock
from barque.runtime.command_submitter import CommandSubmitter
from barque.transport.doorway import Doorway
from barque.transport.resolve import resolve

_RECEIVE_BUFFER_BYTES = 64 * 1024
_RESOLVE_S = 5.0


class RespLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client, and all of them together, may take."""

    connections_max: int = 10_000
    bulk_bytes_max: int = 16 * 1024 * 1024
    """The longest key or value."""
    request_bytes_max: int = 64 * 1024 * 1024
    """All arguments of one command together."""
    outstanding_max: int = 10_000
    """Unanswered requests of one connection; more are not read from its socket."""
    outstanding_bytes_max: int = 64 * 1024 * 1024
    """Bytes of the unanswered requests of one connection; more are not read."""
    reply_bytes_max: int = 8 * 1024 * 1024
    """Expected bytes of the replies under way to one connection; it is not read beyond them."""
    output_high_water_bytes: int = 1024 * 1024
    """A connection with more unread replies is not read from."""
    output_bytes_max: int = 256 * 1024 * 1024
    """A connection with more unread replies is cut off."""
    command_timeout_ms: int = 5_000
    authentication_timeout_ms: int = 5_000
    """How long a client may stay without the password, if there is one."""


class RespCounters(msgspec.Struct):
    """What has happened to connections since the server started."""

    current: int = 0
    accepted: int = 0
    refused: int = 0
    """Turned away, because there were too many."""
    protocol_errors: int = 0
    slow_readers: int = 0
    """Cut off, because they did not read their replies."""
    late_authentications: int = 0
    """Cut off, because they did not give the password in time."""
    commands: int = 0


class RespServer:
    """Serves one cluster of `KvMachine` to Redis clients.

    `bind` is `host:port` (`[::1]:6379` for IPv6; port 0 takes a free one). Any address but loopback
    needs a `password`. `info` returns sections for INFO, by title; `BARQUE.LEADER` reads the
    field `leader` of its section `Barque`. `clock` tells the time for the replies of TTL.
    `tls` returns the TLS context for a new connection. Raises `ConfigurationError` for a `bind` that
    cannot work.
    """

    def __init__(
        self,
        submitter: CommandSubmitter,
        cluster: str = "kv",
        bind: str = "127.0.0.1:6379",
        password: str | None = None,
        limits: RespLimits | None = None,
        info: Callable[[], dict[str, dict[str, Any]]] | None = None,
        clock: Clock | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._submitter = submitter
        self._cluster = cluster
        self._bind = _parse_bind(bind, password)
        self._info = info
        self.limits = limits or RespLimits()
        self.counters = RespCounters()
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_BYTES))
        """One for all connections: each reads from the socket and parses in one callback."""
        self._timeout_ms = self.limits.command_timeout_ms
        self._connections: dict[Connection, None] = {}
        self._client_ids = itertools.count(1)
        self._unflushed: list[Connection] = []
        self._emptied = asyncio.Event()
        """Set while there are no connections."""
        self._emptied.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Server | None = None
        self._doorway = None if tls is None else Doorway(lambda: Connection(self), tls)
        self._shared = Shared(
            password=password,
            info=self._sections,
            clock_ms=(clock or SystemClock()).wall_ms,
            sessions=lambda: [connection.session for connection in self._connections],
            settings=self._settings(),
        )

    async def start(self) -> None:
        """Listen. Raises `ConfigurationError` if the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        host, port = self._bind
        try:
            make = self._doorway or (lambda: Connection(self))
            async with asyncio.timeout(_RESOLVE_S):
                addresses = await resolve(host)
            self._listener = await self._loop.create_server(make, addresses, port, backlog=1024)
        except OSError as error:
            raise ConfigurationError(
                f"redis: cannot listen on {host}:{port}: {error.strerror or error}; "
                "choose another `bind` or stop what uses it"
            ) from error

    async def stop(self) -> None:
        """Stop listening and end all connections; replies that are not written yet are lost.

        Their clients cannot know whether the commands happened.
        """
        if self._listener is None:
            return
        self._listener.close()
        if self._doorway is not None:
            self._doorway.close()
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):  # a client that does not read must not hold us up
                await self._emptied.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._listener.wait_closed()
        self._listener = None

    @property
    def address(self) -> tuple[str, int]:
        """Where the server listens: (host, port)."""
        assert self._listener is not None, "start() first"
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    @property
    def connections(self) -> RespCounters:
        """Counters of connections and commands."""
        return self.counters

    # --- for connections

    def new_session(self, transport: asyncio.BaseTransport) -> Session:
        """The session of a new connection."""
        peer = _address_text(transport.get_extra_info("peername"))
        return Session(
            self._shared, next(self._client_ids), peer, _address_text(transport.get_extra_info("sockname"))
        )

    def admit(self, connection: Connection) -> bool:
        """Register a new connection; False if there are too many."""
        if len(self._connections) >= self.limits.connections_max:
            self.counters.refused += 1
            return False
        self._connections[connection] = None
        self._emptied.clear()
        self.counters.accepted += 1
        self.counters.current = len(self._connections)
        if self._shared.password is not None and self._loop is not None:
            self._loop.call_later(
                self.limits.authentication_timeout_ms / 1000, self._check_authenticated, connection
            )
        return True

    def _check_authenticated(self, connection: Connection) -> None:
        if not connection.closed and not connection.session.authenticated:
            self.counters.late_authentications += 1
            connection.abort()

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.pop(connection, None)
        self.counters.current = len(self._connections)
        if not self._connections:
            self._emptied.set()

    def submit_command(self, payload: bytes, done: Pending) -> None:
        """Commit one encoded command."""
        try:
            self._submitter.command(self._cluster, payload, done, self._timeout_ms)
        except BarqueError as error:
            done(error)

    def submit_query(self, payload: bytes, level: str, done: Pending) -> None:
        """Run one encoded query."""
        try:
            self._submitter.query(self._cluster, payload, level, done, self._timeout_ms)
        except BarqueError as error:
            done(error)

    def schedule_flush(self, connection: Connection) -> None:
        """Write the connection's replies at the end of this turn; one callback serves all connections."""
        if connection.flush_scheduled:
            return
        connection.flush_scheduled = True
        self._unflushed.append(connection)
        if len(self._unflushed) == 1:
            assert self._loop is not None, "connections exist only after start()"
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()

    # --- facts

    def _sections(self) -> dict[str, dict[str, Any]]:
        sections: dict[str, dict[str, Any]] = {
            "Server": {
                "redis_version": REDIS_VERSION,
                "redis_mode": "standalone",
                "tcp_port": self.address[1],
            },
            "Clients": {
                "connected_clients": self.counters.current,
                "maxclients": self.limits.connections_max,
            },
            "Stats": {
                "total_connections_received": self.counters.accepted,
                "total_commands_processed": self.counters.commands,
                "rejected_connections": self.counters.refused,
                "protocol_errors": self.counters.protocol_errors,
                "slow_readers": self.counters.slow_readers,
            },
            "Replication": {"role": "master"},
        }
        for title, fields in (self._info() if self._info is not None else {}).items():
            sections[title] = {**sections.get(title, {}), **fields}
        return sections

    def _settings(self) -> dict[str, str]:
        """What CONFIG GET shows. Never the password."""
        return {
            "appendfsync": "always",
            "appendonly": "yes",
            "databases": "1",
            "maxclients": str(self.limits.connections_max),
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "proto-max-bulk-len": str(self.limits.bulk_bytes_max),
            "save": "",
            "timeout": "0",
        }


def _address_text(name: Any) -> str:
    """A socket's name as `host:port`."""
    if isinstance(name, tuple) and len(name) >= 2:
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}"
    return "?:0"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # any other name may resolve to anything


def _parse_bind(bind: str, password: str | None) -> tuple[str, int]:
    """(host, port) of a `bind` setting. Other machines may only reach a server with a password."""
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"redis: bind {bind!r} is not host:port, as in 127.0.0.1:6379")
    if password is None and not _is_loopback(host):
        raise ConfigurationError(
            f"redis: bind {bind!r} lets other machines in, and there is no password; "
            "set `password`, or bind to 127.0.0.1"
        )
    if password == "":
        raise ConfigurationError("redis: the password is empty; leave it out or choose one")
    return host, int(port)
