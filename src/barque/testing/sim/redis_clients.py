"""Simulated Redis clients: they append to lists kept as text, and read whole lists, in every way there is.

A client pipelines without reading, uses transactions with and without WATCH, times out and reconnects, and
sends garbage. Its history is judged like that of any other client.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from barque.client.client import Client
from barque.testing.checkers.history import Operation, Outcome
from barque.testing.sim.redis_link import RedisLink
from barque.testing.sim.sim_client import SimClient

if TYPE_CHECKING:
    from barque.testing.sim.clusters import SimCluster
    from barque.testing.sim.simulator import Simulation

GARBAGE: Final = (
    b"*1\r\n$-5\r\n",
    b"*x\r\n",
    b"SET 'a\r\n",
    b"*2\r\n$3\r\nGET\r\nk0\r\n",
    b"\x16\x03\x01\x00\r\n",
)
_GARBAGE_RATE = 0.02
_STAYS_DEAF_S = 0.02
_PERHAPS = ("UNKNOWN", "TIMEOUT")


class Lost(Exception):
    """The connection broke, or the time has passed: whatever was sent may have happened."""


class RedisError(Exception):
    """An error reply."""

    @property
    def is_unknown(self) -> bool:
        """Whether the command may have happened."""
        return str(self).split(" ", 1)[0] in _PERHAPS


class _Replies:
    """Takes replies of RESP2 off a connection."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def next(self) -> Any:
        """The next reply. An error reply is returned, since it may be a part of another."""
        line = await self._until_line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return True
        if kind == b"-":
            return RedisError(rest.decode())
        number = int(rest)
        if kind == b":" or number < 0:
            return number if kind == b":" else None
        if kind == b"$":
            return (await self._take(number + 2))[:-2]
        return [await self.next() for _ in range(number)]

    async def _until_line(self) -> bytes:
        while (end := self._link.received.find(b"\r\n")) < 0:
            await self._more()
        return (await self._take(end + 2))[:-2]

    async def _take(self, size: int) -> bytes:
        while len(self._link.received) < size:
            await self._more()
        taken = bytes(self._link.received[:size])
        del self._link.received[:size]
        return taken

    async def _more(self) -> None:
        if self._link.lost:
            raise Lost
        self._link.news.clear()
        await self._link.news.wait()


def encode(*arguments: bytes) -> bytes:
    """One command."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def elements(value: bytes | None) -> list[str]:
    """The list that a value stands for."""
    return [] if value is None else value.decode().split(",")[:-1]


class RedisClient(SimClient):
    """One client, with a connection for each call under way. `client` is for operators."""

    def __init__(self, name: str, cluster: "SimCluster", sim: "Simulation", client: Client) -> None:
        rng = sim.rng(name)
        super().__init__(name, cluster.name, sim.loop, sim.scenario, cluster.operations, rng, client)
        self._sim = sim
        self._links: list[RedisLink] = []  # free ones

    # --- connections

    async def _ask(
        self, link: RedisLink, *commands: tuple[bytes, ...], timeout_s: float | None = None
    ) -> list[Any]:
        """Send commands in one piece, and read their replies, perhaps some time later."""
        link.send(b"".join(encode(*command) for command in commands))
        try:
            async with asyncio.timeout(timeout_s or self._scenario.timeout_s):
                if self._rng.random() < self._scenario.burst_share:
                    link.read_on(False)
                    await asyncio.sleep(self._rng.random() * _STAYS_DEAF_S)
                    link.read_on(True)
                replies = _Replies(link)
                return [await replies.next() for _ in commands]
        except TimeoutError:
            raise Lost from None

    async def _connected(self, timeout_s: float | None) -> RedisLink:
        """A free connection, or a new one to a node that is up."""
        async with asyncio.timeout(timeout_s or self._scenario.timeout_s):
            while True:
                while self._links:
                    free = self._links.pop()
                    if not free.lost:
                        return free
                hosts = [host for host in self._sim.hosts if self.cluster in host.gateways]
                if hosts:
                    host: Any = self._rng.choice(hosts)
                    link: RedisLink = host.connect_redis(self.cluster, random.Random(self._rng.random()))  # noqa: S311
                    self._sim.transcript.counts["redis connections"] += 1
                    return link
                await asyncio.sleep(0.05)

    async def _work_with(self, operation: Operation, work: Any, timeout_s: float | None) -> Operation:
        """Do one operation on a free connection, and note its outcome. A broken one is not used again."""
        try:
            link = await self._connected(timeout_s)
        except TimeoutError:
            operation.outcome = Outcome.FAIL  # nothing was sent
            return operation
        try:
            if self._rng.random() < _GARBAGE_RATE:
                await self._misbehave(link)
            await work(link, operation)
        except Lost:
            link.leave()
        except RedisError as error:
            if not error.is_unknown:
                operation.outcome = Outcome.FAIL
            self._links.append(link)
        else:
            self._links.append(link)
        return operation

    async def _misbehave(self, link: RedisLink) -> None:
        """Another connection sends garbage: the gateway ends that one, and this one notices nothing."""
        other = await self._connected(None)
        other.send(self._rng.choice(GARBAGE))
        other.leave()
        self._sim.transcript.counts["redis garbage"] += 1

    def _answered(self, operation: Operation, result: Any) -> None:
        operation.returned = self._loop.time()
        operation.outcome = Outcome.OK
        operation.result = result
        self._sim.transcript.counts["redis answers"] += 1

    # --- operations

    async def change(self, key: str, timeout_s: float | None = None) -> Operation:
        """Append to one list, by one of three ways."""
        operation = self._begin_change(key, timeout_s)
        way = self._rng.choice((self._append, self._append_in_transaction, self._append_watched))
        return await self._work_with(operation, way, timeout_s)

    async def read(self, key: str, timeout_s: float | None = None) -> Operation:
        """Read one list."""
        operation = self._begin(self._operations.read(self.name, key, self._loop.time()), timeout_s)
        way = self._rng.choice((self._get, self._get_in_transaction))
        return await self._work_with(operation, way, timeout_s)

    async def _append(self, link: RedisLink, operation: Operation) -> None:
        key, text = _key(operation), f"{operation.element},".encode()
        [reply] = await self._ask(link, (b"APPEND", key, text))
        self._answered(operation, _no_error(reply) and None)

    async def _append_in_transaction(self, link: RedisLink, operation: Operation) -> None:
        key, text = _key(operation), f"{operation.element},".encode()
        *_, reply = await self._ask(link, (b"MULTI",), (b"APPEND", key, text), (b"GET", key), (b"EXEC",))
        _length, value = _no_error(reply)
        self._answered(operation, len(elements(value)))

    async def _append_watched(self, link: RedisLink, operation: Operation) -> None:
        """Read, and write what was read with one more element, unless somebody else has written."""
        key, text = _key(operation), f"{operation.element},".encode()
        try:
            watching, value = await self._ask(link, (b"WATCH", key), (b"GET", key))
            _no_error(watching), _no_error(value)
        except (Lost, RedisError) as error:
            operation.outcome = Outcome.FAIL
            if isinstance(error, Lost):
                raise
            await self._ask(link, (b"UNWATCH",))
            return
        *_, reply = await self._ask(link, (b"MULTI",), (b"SET", key, (value or b"") + text), (b"EXEC",))
        if _no_error(reply) is None:
            operation.outcome = Outcome.FAIL
            self._sim.transcript.counts["redis watches failed"] += 1
        else:
            self._answered(operation, len(elements(value)) + 1)

    async def _get(self, link: RedisLink, operation: Operation) -> None:
        [reply] = await self._ask(link, (b"GET", _key(operation)))
        self._answered(operation, elements(_no_error(reply)))

    async def _get_in_transaction(self, link: RedisLink, operation: Operation) -> None:
        operation.by_command = True
        *_, reply = await self._ask(link, (b"MULTI",), (b"GET", _key(operation)), (b"EXEC",))
        [value] = _no_error(reply)
        self._answered(operation, elements(value))

    async def _burst(self, count: int, priority: str) -> None:
        """Several appends and reads in one pipeline, whose replies come in the order of the requests."""
        operations = [
            self._begin_change(key) if self._rng.random() < 0.5
            else self._begin(self._operations.read(self.name, key, self._loop.time()), None)
            for key in (self._operations.draw_key(self._rng) for _ in range(count))
        ]  # fmt: skip

        async def pipeline(link: RedisLink, _first: Operation) -> None:
            commands = [
                (b"GET", _key(one)) if one.is_read else (b"APPEND", _key(one), f"{one.element},".encode())
                for one in operations
            ]
            for one, reply in zip(operations, await self._ask(link, *commands), strict=True):
                if not isinstance(reply, RedisError):
                    self._answered(one, elements(reply) if one.is_read else None)
                elif not reply.is_unknown:
                    one.outcome = Outcome.FAIL

        await self._work_with(operations[0], pipeline, None)


def _key(operation: Operation) -> bytes:
    return operation.key.encode()


def _no_error(reply: Any) -> Any:
    """The reply. Raises the error that it is, or that is in it."""
    for one in reply if isinstance(reply, list) else [reply]:
        if isinstance(one, RedisError):
            raise one
    return reply
