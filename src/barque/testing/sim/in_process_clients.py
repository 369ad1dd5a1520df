"""Simulated clients inside a node's process, as in a program that embeds Barque (`local_client`).

Such a client stands still with its process and dies with it. The outcome of the calls under way then stays
unknown. It begins again with the next start of the node. When the node stops, the program lives on for a
moment, and every call must end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from barque.client.client import Client
from barque.client.local import local_client
from barque.errors import BarqueError, OutcomeUnknown, Stopped
from barque.runtime.node import Node
from barque.testing.checkers.history import Operation, Outcome
from barque.testing.checkers.safety import Violation
from barque.testing.sim.loop import VirtualProcess
from barque.testing.sim.sim_client import SimClient

if TYPE_CHECKING:
    from barque.testing.sim.clusters import SimCluster
    from barque.testing.sim.host import Host

GRACE_S = 0.2
"""How much longer a call may take. The node in the same process answers in time; looks come each 0.1 s."""
_HURRIES_RATE = 0.3
"""How often a client allows its calls only a quarter of the usual time."""
_LOOK_S = 0.1
_CLOSES_FIRST_RATE = 0.5
"""How often a program closes its client before it stops the node; otherwise the node ends the client."""
T = TypeVar("T")


class _Life:
    """The life of a client in one process, which begins when the node has started."""

    def __init__(self, process: VirtualProcess, client: Client) -> None:
        self.process = process
        self.client = client
        self.work: asyncio.Task[None] | None = None
        self.listener: asyncio.Task[None] | None = None
        self.over = asyncio.Event()  # set once the node has stopped
        self.waiting: dict[int, _Call] = {}  # by the identity of the operation
        self.told: list[tuple[str, Any]] | None = None  # machines' messages while it was connected
        self.heard: list[tuple[str, Any]] = []

    @property
    def works(self) -> bool:
        """Whether it lives and still has calls under way."""
        busy = self.work is not None and not self.work.done()
        return self.process.alive and (busy or bool(self.waiting))


class _Call(NamedTuple):
    operation: Operation
    limit_s: float
    stood_s: float  # how long the process had stood still by then


class InProcessClient(SimClient):
    """One client of one cluster, in the process of one node."""

    def __init__(self, name: str, cluster: "SimCluster", host: "Host") -> None:
        sim = host.sim
        super().__init__(
            name, cluster.name, sim.loop, sim.scenario, cluster.operations, sim.rng(name), _nowhere()
        )
        self._host = host
        self._timeout_s = sim.scenario.timeout_s * (0.25 if self._rng.random() < _HURRIES_RATE else 1)
        self._life: _Life | None = None

    # --- its lives -----------------------------------------------------------------------

    def begin(self, process: VirtualProcess, node: Node) -> None:
        """Begin a life: the node has started."""
        self.client = local_client(node, timeout_s=self._timeout_s)
        life = self._life = _Life(process, self.client)
        life.work = process.spawn(self._live(life))
        if self._scenario.tells:
            life.listener = process.spawn(self._listen(life))

    async def _live(self, life: _Life) -> None:
        try:
            await life.client.connect()
        except BarqueError:
            return  # the node is stopping already
        life.told = []
        await asyncio.gather(*(self._work(i) for i in range(self._scenario.workers)))

    async def _listen(self, life: _Life) -> None:
        async for message in life.client.machine_events():
            life.heard.append(message)

    async def before_stop(self) -> None:
        """Begin one more call before the program stops the node, and perhaps close the client first."""
        life = self._life
        assert life is not None
        life.process.spawn(self.change(self._operations.draw_key(self._rng)))
        await asyncio.sleep(self._rng.choice((0.0, 0.001, 0.01)))
        if self._rng.random() < _CLOSES_FIRST_RATE:
            life.told = None
            await life.client.close()

    def after_stop(self) -> None:
        """End what the program has begun: the node has stopped. Each worker still makes one last call."""
        life = self._life
        assert life is not None
        life.told = None
        life.over.set()
        if life.listener is not None:
            life.listener.cancel()

    async def run(self) -> None:
        """Watch the calls from outside, until the client is stopped and every call has ended."""
        while not self.stop or (self._life is not None and self._life.works):
            await asyncio.sleep(_LOOK_S)
            if self._life is not None:
                for call in list(self._life.waiting.values()):
                    self._judge(self._life, call)

    # --- its calls -----------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """See `SimClient`."""
        return self.stop or (self._life is not None and self._life.over.is_set())

    async def _think(self, seconds: float) -> None:
        assert self._life is not None
        try:
            async with asyncio.timeout(seconds):
                await self._life.over.wait()
        except TimeoutError:
            pass

    def _begin(self, operation: Operation, timeout_s: float | None) -> Operation:
        life = self._life
        assert life is not None
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        life.waiting[id(operation)] = _Call(operation, limit_s, life.process.stood_s)
        return super()._begin(operation, timeout_s)

    def _end(self, operation: Operation, result: Any) -> None:
        life = self._life
        assert life is not None
        self._judge(life, life.waiting.pop(id(operation)))
        super()._end(operation, result)
        if operation.outcome is Outcome.OK:
            self._host.sim.transcript.counts["answered inside"] += 1

    def _judge(self, life: _Life, call: _Call) -> None:
        """Check that a call ends in time, whatever the node does; frozen time is added."""
        late_s = self._loop.time() - call.operation.called - call.limit_s - GRACE_S
        if life.process.alive and late_s > life.process.stood_s - call.stood_s:
            states = (str(call.operation), f"{late_s:.3f} s late, in a process that was free to run")
            self._host.sim.report(Violation("calls end in time (I25)", f"{self.name} waits", states))

    # --- for faults and checks ----------------------------------------------------------------

    async def ask(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """See `SimClient`. The call runs in the process, and ends with it."""
        life = self._life
        if life is None or not life.process.alive:
            raise Stopped(f"{self._host.name} is down")

        async def inside() -> T:
            return await work(life.client)

        task = life.process.spawn(inside())
        while not task.done():
            if not life.process.alive:
                raise OutcomeUnknown(f"{self._host.name} has died")
            await asyncio.wait([task], timeout=_LOOK_S)
        return task.result()

    async def _is_served(self) -> bool:
        if self._host is self._host.sim.absent:
            return True
        try:
            return await self.ask(lambda _: super(InProcessClient, self)._is_served())
        except BarqueError:
            return False

    @property
    def is_connected(self) -> bool:
        """Whether the node has a session for this client."""
        return self._life is not None and self._life.process.alive and self._life.told is not None

    # --- machines' messages ------------------------------------------------------------------

    def is_told(self, cluster: str, message: Any) -> None:
        """Record a message of a machine to this node."""
        if self._life is not None and self._life.told is not None:
            self._life.told.append((cluster, message))

    def judge_heard(self) -> Violation | None:
        """Check at rest that the client has heard every message to its node while connected, in order."""
        life = self._life
        if life is None or life.told is None or not life.process.alive or life.heard == life.told:
            return None
        states = (f"its node was told {life.told}", f"it has heard {life.heard}")
        return Violation("messages of machines arrive (I21)", f"{self.name} in {self._host.name}", states)


def _nowhere() -> Client:
    """A client without a node, which refuses everything."""

    async def connect(*_: Any) -> Any:
        raise Stopped("there is no node")

    return Client.over(connect)
