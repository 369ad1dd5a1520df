"""What the simulated clients do: append unique elements to lists, and read whole lists."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from barque.client.client import Client
from barque.client.connection import Connection, Link
from barque.errors import BarqueError, OutcomeUnknown, QueryTimeout, Refused
from barque.machine.machine import CommandMeta, Machine, MachineVersion
from barque.testing.history import Operation, Outcome
from barque.testing.loop import VirtualLoop
from barque.testing.network import SimNetwork
from barque.testing.swarm import Scenario

_EPOCH = "epoch"
Lists = dict[str, list[Any]]
Applied = Callable[[CommandMeta, str], None]


class ListMachine(Machine[Lists]):
    """Lists by key. A command `[key, element]` appends and replies with the new length; a query reads.

    Each answer begins with the epoch, which a cluster is given when it is created.
    """

    def __init__(self, applied: Applied) -> None:
        self._applied = applied

    def init(self, args: dict[str, Any]) -> Lists:
        """No lists but the epoch."""
        return {_EPOCH: [args.get("epoch", 0)]}

    def apply(self, meta: CommandMeta, command: Any, state: Lists) -> Any:
        """Append. Which version does it is a part of what happened: all members must do it with the same."""
        key, element = command
        self._applied(meta, f"{key}+{element} by version {self.version}")
        found = state.setdefault(key, [])
        found.append(element)
        return state, [state[_EPOCH][0], len(found)]

    def query(self, query: Any, state: Lists) -> Any:
        """One whole list."""
        return [state[_EPOCH][0], list(state.get(query, ()))]


class NewListMachine(ListMachine):
    """The next version, which writes down in its state that the cluster has moved to it."""

    version: ClassVar[int] = 1

    def which_module(self, version: int) -> Machine[Lists]:
        """The code of the version in force."""
        return self if version else ListMachine(self._applied)

    def apply(self, meta: CommandMeta, command: Any, state: Lists) -> Any:
        """Append, or take over the state of the former version."""
        if isinstance(command, MachineVersion):
            state["moved"] = [f"{command.old} to {command.new} at {meta.index}"]
            return state, None
        return super().apply(meta, command, state)


class SimClient:
    """One client of one cluster: a `Client` over simulated connections, its workers, what they were told."""

    def __init__(
        self,
        name: str,
        cluster: str,
        loop: VirtualLoop,
        network: SimNetwork,
        nodes: list[str],
        scenario: Scenario,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.history: list[Operation] = []
        self.stop = False
        self.cancel_after_s: float | None = None  # the next call is cancelled after so long
        self.cancelled = 0
        self._loop = loop
        self._scenario = scenario
        self._rng = rng
        self._next = 0

        async def connect(
            address: str, connection: Connection, on_closed: Callable[[str], None]
        ) -> tuple[Link, str]:
            node = address if address in nodes else rng.choice(nodes)
            await asyncio.sleep(2 * network.delay())
            return network.reach(name, node, connection.on_answers, on_closed), node

        self.client = Client.over(connect, timeout_s=scenario.timeout_s)

    async def run(self) -> None:
        """All workers, until they are told to stop and have heard of everything."""
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
        while not self.stop:
            await asyncio.sleep(rng.expovariate(1 / scenario.think_s))
            key = f"k{rng.randrange(scenario.keys)}"
            if rng.random() < scenario.read_share:
                await self.read(key)
            elif bursts and rng.random() < scenario.burst_share:
                await self._burst(rng.randrange(2, 8), rng.choice(("low", "normal")))
            else:
                await self.append(key)

    def _begin(self, key: str, *, append: bool) -> Operation:
        self._next += append
        element = f"{self.name}.{self._next}" if append else None
        operation = Operation(self.name, key, self._loop.time(), element)
        self.history.append(operation)
        return operation

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

    async def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for an answer, unless this is the call to be cancelled."""
        after_s, self.cancel_after_s = self.cancel_after_s, None
        if after_s is None:
            return await work
        try:
            async with asyncio.timeout(after_s):
                return await work
        except TimeoutError:
            self.cancelled += 1
            raise OutcomeUnknown("the call was cancelled") from None

    async def append(self, key: str, timeout_s: float | None = None) -> Operation:
        """Append one element and wait for the outcome."""
        operation = self._begin(key, append=True)
        try:
            self._end(
                operation,
                await self._call(
                    self.client.process_command(self.cluster, [key, operation.element], timeout_s=timeout_s)
                ),
            )
        except BarqueError as error:
            self._end(operation, error)
        return operation

    async def read(self, key: str, timeout_s: float | None = None) -> Operation:
        """Read one list, linearizably."""
        operation = self._begin(key, append=False)
        try:
            self._end(
                operation,
                await self._call(self.client.consistent_query(self.cluster, key, timeout_s=timeout_s)),
            )
        except BarqueError as error:
            self._end(operation, error)
        return operation

    async def _burst(self, count: int, priority: str) -> None:
        """Several appends in one go, by pipeline."""
        waiting: dict[int, Operation] = {}
        for _ in range(count):
            operation = self._begin(f"k{self._rng.randrange(self._scenario.keys)}", append=True)
            waiting[self._next] = operation
            self.client.pipeline_command(
                self.cluster, [operation.key, operation.element], self._next, priority=priority
            )
        while waiting:
            for told in await self.client.take_notifications():
                self._end(waiting.pop(told.correlation), told.error or told.reply)
