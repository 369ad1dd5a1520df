"""The listening socket of the Redis protocol, and what its connections share."""

import asyncio
import contextlib
import ipaddress
import itertools
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from barque.errors import BarqueError, ConfigurationError
from barque.gateways.resp.connection import Connection
from barque.gateways.resp.info import gateway_sections
from barque.gateways.resp.limits import RespCounters, RespLimits
from barque.gateways.resp.memory import LITTLE_BYTES, Budget
from barque.gateways.resp.pending import Pending
from barque.gateways.resp.runs import Requests
from barque.gateways.resp.session import Session, Shared
from barque.gateways.resp.transaction import TransactionQueue
from barque.runtime.clock import Clock, SystemClock
from barque.runtime.command_submitter import CommandSubmitter
from barque.transport.connection import open_server
from barque.transport.doorway import Doorway

_LOOK_UP_S = 5.0
_RECEIVE_BUFFER_BYTES = 64 * 1024


_TICK_S: Final = 1.0
_GUESSERS_MAX: Final = 1_000
_FREE_GUESSES: Final = 3
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 4.0
PASSWORD_CHARACTERS_MIN: Final = 8


class RespServer:
    """Serves one cluster of `KvMachine` to Redis clients.

    `bind` is `host:port` (`[::1]:6379` for IPv6; port 0 takes a free one). Any address but loopback
    needs a `password`, or several, of which any will do. `info` returns sections for INFO, by title;
    `BARQUE.LEADER` reads the field `leader` of its section `Barque`. `clock` tells the time for the replies
    of TTL, `rng` chooses for RANDOMKEY, and `tls` returns the TLS context for a new connection. Raises
    `ConfigurationError` for a `bind` that cannot work, and for a password that is too short.
    """

    def __init__(
        self,
        submitter: CommandSubmitter,
        cluster: str = "kv",
        bind: str = "127.0.0.1:6379",
        password: str | Sequence[str] | None = None,
        limits: RespLimits | None = None,
        info: Callable[[], dict[str, dict[str, Any]]] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._submitter = submitter
        self._cluster = cluster
        passwords = (password,) if isinstance(password, str) else tuple(password or ())
        self._bind = _parse_bind(bind, passwords)
        self._info = info
        self.limits = limits or RespLimits()
        self.counters = RespCounters()
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_BYTES))
        """One for all connections: each reads from the socket and parses in one callback."""
        self.requests = Budget(self.limits.submitted_bytes_max, self.limits.submitted_bytes_total)
        self.replies = Budget(self.limits.reply_bytes_max, self.limits.reply_bytes_total)
        self.request_bytes = 0
        """Bytes of the requests of all connections, complete or not."""
        self._hungry: dict[Connection, None] = {}
        """Connections that are not read from, because requests take too much memory."""
        self._serving_line = self._ticking = self._stopping = False
        self._ticker: asyncio.TimerHandle | None = None
        self._strangers: dict[Connection, None] = {}
        self._guesses: dict[str, int] = {}
        """Wrong passwords by the host that they came from."""
        self._timeout_ms = self.limits.command_timeout_ms
        self._connections: dict[Connection, None] = {}
        self._client_ids = itertools.count(1)
        self._unflushed: list[Requests] = []
        self._emptied = asyncio.Event()
        """Set while there are no connections."""
        self._emptied.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Server | None = None
        self._doorway = None if tls is None else Doorway(lambda: Connection(self), tls)
        self._shared = Shared(
            passwords=passwords,
            info=self._sections,
            clock_ms=(clock or SystemClock()).wall_ms,
            sessions=lambda: [connection.session for connection in self._connections],
            settings=self._settings(),
            random=rng or random.Random(),  # noqa: S311 - no secret depends on it
            new_queue=self._new_queue,
        )

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve the connections that the caller makes, without a socket."""
        self._loop = loop
        self._stopping = False

    async def start(self) -> None:
        """Listen. Raises `ConfigurationError` if the address cannot be had."""
        self.attach(asyncio.get_running_loop())
        assert self._loop is not None, "attached"
        host, port = self._bind
        try:
            make = self._doorway or (lambda: Connection(self))
            async with asyncio.timeout(_LOOK_UP_S):
                self._listener = await open_server(make, host, port)
        except OSError as error:
            raise ConfigurationError(
                f"redis: cannot listen on {host}:{port}: {error.strerror or error}; "
                "choose another `bind` or stop what uses it"
            ) from error

    async def stop(self) -> None:
        """Stop listening and end all connections; replies that are not written yet are lost.

        Their clients cannot know whether the commands happened.
        """
        self._stopping = True
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        if self._doorway is not None:
            self._doorway.close()
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):  # a client that does not read must not hold us up
                await self._emptied.wait()
        for connection in list(self._connections):
            connection.abort()
        if self._ticker is not None:
            self._ticker.cancel()
        if listener is not None:
            await listener.wait_closed()

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
        if len(self._connections) >= self.limits.connections_max and not self._drop_stranger():
            self.counters.refused += 1
            return False
        self._connections[connection] = None
        self._emptied.clear()
        self.counters.accepted += 1
        self.counters.current = len(self._connections)
        if not connection.session.authenticated and self._loop is not None:
            if len(self._strangers) >= self.limits.strangers_max:
                self._drop_stranger()
            self._strangers[connection] = None
            self._loop.call_later(
                self.limits.authentication_timeout_ms / 1000, self._check_authenticated, connection
            )
        return True

    def _drop_stranger(self) -> bool:
        """Cut off the oldest connection that has not given the password; False if there is none."""
        for connection in list(self._strangers):
            self._strangers.pop(connection)
            if not connection.closed and not connection.session.authenticated:
                self.counters.late_authentications += 1
                connection.abort()
                self.leave(connection)
                return True
        return False

    def _check_authenticated(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        if not connection.closed and not connection.session.authenticated:
            self.counters.late_authentications += 1
            connection.abort()

    def after_wrong_password(self, connection: Requests, answer: Callable[[], None]) -> None:
        """Answer later, and ever later the more wrong passwords come from the same host."""
        self.counters.wrong_passwords += 1
        host = connection.session.address.rpartition(":")[0]
        guesses = self._guesses.pop(host, 0) + 1
        if len(self._guesses) >= _GUESSERS_MAX:
            del self._guesses[next(iter(self._guesses))]
        self._guesses[host] = guesses
        pause_s = 0.0
        if guesses > _FREE_GUESSES:
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(guesses - _FREE_GUESSES, 20))
        assert self._loop is not None, "connections exist only after start()"
        self._loop.call_later(pause_s, answer)

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.pop(connection, None)
        self._strangers.pop(connection, None)
        self._hungry.pop(connection, None)
        for budget in (self.requests, self.replies):
            budget.line.pop(connection, None)
        self.counters.current = len(self._connections)
        if not self._connections:
            self._emptied.set()
        self._serve_lines()

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

    def schedule_flush(self, connection: Requests) -> None:
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
        if self.requests.line or self.replies.line or self._hungry:
            self._serve_lines()

    def knows_guards(self) -> bool:
        """Whether the version of the machine in force has `Guarded`; so it will be in every later command."""
        version = self._submitter.machine_version(self._cluster)
        return version is None or version >= 1

    # --- memory

    def must_wait_with_requests(self, connection: Connection) -> bool:
        """Whether a connection must not be read from for now, because requests take too much memory."""
        if self.request_bytes <= self.limits.request_bytes_total or connection.request_bytes <= LITTLE_BYTES:
            self._hungry.pop(connection, None)
            return False
        self._hungry[connection] = None
        self.watch()
        return True

    def _serve_lines(self) -> None:
        """Let the connections that wait for memory try again."""
        if self._serving_line:
            return
        self._serving_line = True
        try:
            self.requests.serve_line()
            self.replies.serve_line()
            for connection in list(self._hungry):
                if self.request_bytes > self.limits.request_bytes_total:
                    break
                connection.take_stock()
        finally:
            self._serving_line = False

    def watch(self) -> None:
        """Look each second at clients that have replies to take, or wait for memory, until none is left."""
        if not self._ticking and not self._stopping:
            assert self._loop is not None, "connections exist only after start()"
            self._ticking = True
            self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        holders: list[Connection] = []
        for connection in list(self._connections):
            if connection.has_unread:
                connection.take_stock()
            if connection.bytes_held:
                holders.append(connection)
                connection.stalled_ticks = 0 if connection.moved else connection.stalled_ticks + 1
                connection.moved = False
        patience = self.limits.unread_timeout_ms / 1000 / _TICK_S
        for connection in holders:
            if connection.waits_for_client and connection.stalled_ticks >= patience:
                self.counters.slow_readers += 1
                connection.abort()
        self._serve_lines()
        if self.replies.line or self._hungry:
            self._evict(holders)
        if self.replies.line or self._hungry or any(one.has_unread for one in self._connections):
            self.watch()

    def _evict(self, holders: list[Connection]) -> None:
        """Somebody waits for memory: cut off who holds most of it and did not move since the last tick."""
        still = [one for one in holders if one.stalled_ticks and one.bytes_held > LITTLE_BYTES]
        victim = max((one for one in still if not one.closed), key=lambda one: one.bytes_held, default=None)
        if victim is not None:
            self.counters.evicted += 1
            victim.abort()

    def _new_queue(self) -> TransactionQueue:
        return TransactionQueue(self.limits.transaction_commands_max, self.limits.request_bytes_max)

    # --- facts

    def _sections(self) -> dict[str, dict[str, Any]]:
        sections = gateway_sections(self.counters, self.limits, self.address[1], self._shared.clock_ms())
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
            "notify-keyspace-events": "",
            "proto-max-bulk-len": str(self.limits.bulk_bytes_max),
            "save": "",
            "slowlog-log-slower-than": "-1",
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


def _parse_bind(bind: str, passwords: tuple[str, ...]) -> tuple[str, int]:
    """(host, port) of a `bind` setting. Other machines may only reach a server with a password."""
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"redis: bind {bind!r} is not host:port, as in 127.0.0.1:6379")
    if not passwords and not _is_loopback(host):
        raise ConfigurationError(
            f"redis: bind {bind!r} lets other machines in, and there is no password; "
            "set `password`, or bind to 127.0.0.1"
        )
    if any(len(password) < PASSWORD_CHARACTERS_MIN for password in passwords):
        raise ConfigurationError(
            f"redis: a password has at least {PASSWORD_CHARACTERS_MIN} characters; leave it out or choose a "
            "longer one, as `openssl rand -base64 24` prints"
        )
    return host, int(port)
