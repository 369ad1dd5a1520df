"""A simulated client: its workers change objects, and read whole objects.

Most clients have a machine of their own (`reach`). `in_process_clients` live in the process of a node.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from barque.client.client import Client
from barque.client.connection import Connection, Link
from barque.errors import BarqueError, OutcomeUnknown, QueryTimeout, Refused
from barque.testing.checkers.history import Operation, Outcome
from barque.testing.sim.loop import VirtualLoop
from barque.testing.sim.network import SimNetwork
from barque.testing.sim.operations import Operations
from barque.testing.sim.swarm import Scenario

T = TypeVar("T")


def reach(name: str, network: SimNetwork, nodes: list[str], timeout_s: float, rng: random.Random) -> Client:
    """A `Client` with simulated connections, on a machine of its own."""

    async def connect(
        address: str, connection: Connection, on_closed: Callable[[str], None]
    ) -> tuple[Link, str]:
        node = address if address in nodes else rng.choice(nodes)
        await asyncio.sleep(2 * network.delay())
        return network.reach(name, node, connection.on_answers, on_closed), node

    return Client.over(connect, timeout_s=timeout_s)


class SimClient:
    """One client of one cluster: its `Client`, its workers, and its history."""

    def __init__(
        self,
        name: str,
        cluster: str,
        loop: VirtualLoop,
        scenario: Scenario,
        operations: Operations,
        rng: random.Random,
        client: Client,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.client = client
        self.history: list[Operation] = []
        self.stop = False
        self.cancel_after_s: float | None = None  # cancel the next call after this long
        self.cancelled = 0
        self._loop = loop
        self._scenario = scenario
        self._operations = operations
        self._rng = rng
        self._next = 0

    async def run(self) -> None:
        """Run all workers until they are stopped and every call has ended."""
        while True:
            try:
                await self.client.connect()
                break
            except BarqueError:
                await asyncio.sleep(0.1)
        await asyncio.gather(*(self._work(i) for i in range(self._scenario.workers)))

    async def _work(self, number: int) -> None:
        rng, scenario = self._rng, self._scenario
        bursts = number == 0 and scenario.burst_share > 0
        while not self.is_over:
            await self._think(rng.expovariate(1 / scenario.think_s))
            key = self._operations.draw_key(rng)
            if rng.random() < scenario.read_share:
                await self.read(key)
            elif bursts and rng.random() < scenario.burst_share:
                await self._burst(rng.randrange(2, 8), rng.choice(("low", "normal")))
            else:
                await self.change(key)

    @property
    def is_over(self) -> bool:
        """Whether its workers must begin no further call."""
        return self.stop

    async def _think(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _begin(self, operation: Operation, _timeout_s: float | None) -> Operation:
        self.history.append(operation)
        return operation

    def _begin_change(self, key: str, timeout_s: float | None = None) -> Operation:
        self._next += 1
        element = f"{self.name}.{self._next}"
        change = self._operations.change(self.name, key, self._loop.time(), element, self._rng)
        return self._begin(change, timeout_s)

    def _end(self, operation: Operation, result: Any) -> None:
        if isinstance(result, BarqueError):
            if isinstance(result, Refused):
                operation.outcome = Outcome.FAIL
            else:
                assert isinstance(result, OutcomeUnknown | QueryTimeout), result
            return
        operation.returned = self._loop.time()
        operation.outcome = Outcome.OK
        operation.epoch, operation.result = result
        self._operations.learn(operation)

    async def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for an answer, unless this is the call to cancel."""
        after_s, self.cancel_after_s = self.cancel_after_s, None
        if after_s is None:
            return await work
        try:
            async with asyncio.timeout(after_s):
                return await work
        except BarqueError:
            raise  # the client's own answer; some are `TimeoutError`s
        except TimeoutError:
            self.cancelled += 1
            raise OutcomeUnknown("the call was cancelled") from None

    async def change(self, key: str, timeout_s: float | None = None) -> Operation:
        """Change one object and wait for the outcome."""
        operation = self._begin_change(key, timeout_s)
        command = self._operations.command(operation)
        try:
            call = self.client.process_command(self.cluster, command, timeout_s=timeout_s)
            self._end(operation, await self._call(call))
        except BarqueError as error:
            self._end(operation, error)
        return operation

    async def read(self, key: str, timeout_s: float | None = None) -> Operation:
        """Read one object, linearizably."""
        operation = self._begin(self._operations.read(self.name, key, self._loop.time()), timeout_s)
        try:
            self._end(
                operation,
                await self._call(self.client.consistent_query(self.cluster, key, timeout_s=timeout_s)),
            )
        except BarqueError as error:
            self._end(operation, error)
        return operation

    async def _burst(self, count: int, priority: str) -> None:
        """Change several objects at once, by pipeline."""
        waiting: dict[int, Operation] = {}
        for _ in range(count):
            operation = self._begin_change(self._operations.draw_key(self._rng))
            command = self._operations.command(operation)
            try:
                self.client.pipeline_command(self.cluster, command, self._next, priority=priority)
                waiting[self._next] = operation
            except BarqueError as error:
                self._end(operation, error)
        while waiting:
            for told in await self.client.take_notifications():
                self._end(waiting.pop(told.correlation), told.error or told.reply)

    # --- for faults and checks ----------------------------------------------------------------

    async def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Let the client ask for something other than its objects."""
        return await work(self.client)

    async def is_served(self) -> None:
        """Wait until a new command of this client is committed."""
        while not await self._is_served():  # noqa: ASYNC110  # not an event
            await asyncio.sleep(0.05)

    async def _is_served(self) -> bool:
        return (await self.change("k0", 2.0)).outcome is Outcome.OK
