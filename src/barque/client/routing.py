"""Which node gets a request, and over which connection.

A client holds one connection to each node that it needs. The first node that it reaches is its *home*: local
reads and administrative requests go there. Commands and other reads go to the node of the cluster's leader
as soon as an answer has named it, else to the home, which passes them on.

If the home is lost or silent, another connected node takes its place; a batch that names its node waits for
that node. A command that was sent is never sent
again; a read is. If no node is connected, requests wait for a connection until their deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeAlias

from barque.client.connection import Connection, Link
from barque.client.requests import Batch, Call, EncodedBatch
from barque.errors import BarqueError, LeaderTimeout, NoLeader, QueryTimeout, Stopped, Unauthenticated
from barque.transport.tasks import begin_task
from barque.types import ServerId

Connect: TypeAlias = Callable[[str, Connection, Callable[[str], None]], Awaitable[tuple[Link, str]]]
"""Connects to an address; returns the link and the node's name."""

_SWEEP_S = 0.1
_BACKOFF_S = 0.1
_DIAL_S = 2.0
_NODES_S = 5.0


class Router:
    """The connections of one client. Requests of one loop turn leave together."""

    def __init__(
        self, connect: Connect, addresses: Sequence[str], on_event: Callable[[str, Any], None]
    ) -> None:
        self._connect = connect
        self._addresses = list(addresses)
        self._on_event = on_event
        self._known: dict[str, str] = {}  # node -> address, from the nodes themselves
        self._connections: dict[str, Connection] = {}  # by node, the oldest first
        self.first_node = ""  # the node that `connect` has reached
        self._home = ""  # the node of local reads and calls
        self._leaders: dict[str, str] = {}  # cluster -> node
        self.filling: dict[Hashable, EncodedBatch] = {}  # being filled in this turn, by kind
        self._unsent: list[Batch] = []  # waiting for a connection
        self._scheduled = False
        self._dialing: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._last_error: BarqueError | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # from `connect` on

    def now(self) -> float:
        """Seconds, on the loop's clock."""
        return (self._loop or asyncio.get_running_loop()).time()

    # --- life --------------------------------------------------------------------------

    async def connect(self, timeout_s: float) -> None:
        """Connect to the first address that answers. Raises `LeaderTimeout` or `Unauthenticated`."""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        deadline = self.now() + timeout_s
        while not self._connections:
            await self._try_all(deadline)
            if self._connections:
                break
            if isinstance(self._last_error, Unauthenticated):
                raise self._last_error
            if self.now() + _BACKOFF_S >= deadline:
                raise LeaderTimeout(f"no node could be reached: {self._last_error}")
            await asyncio.sleep(_BACKOFF_S)
        self._home = self.first_node = next(iter(self._connections))
        self._sweep()

    async def _try_all(self, deadline: float) -> None:
        connected = {self._known[node] for node in self._connections if node in self._known}
        addresses = dict.fromkeys([*self._addresses, *self._known.values()])
        for address in [a for a in addresses if a not in connected]:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._dial(address)
            except (BarqueError, TimeoutError) as error:
                if isinstance(error, BarqueError):
                    self._last_error = error
                else:
                    self._last_error = NoLeader(f"{address} did not answer in time")
            else:
                return

    async def _dial(self, address: str) -> None:
        connection = Connection("", self._on_leader)
        connection.on_event = self._on_event
        link, node = await self._connect(address, connection, lambda why: self._on_closed(connection, why))
        if self._closed or node in self._connections:
            link.close()
            return
        connection.node, connection.link = node, link
        self._connections[node] = connection
        if node not in self._known:
            self._known[node] = address
            self._ask_for_nodes(connection)
        self._schedule()

    def _ask_for_nodes(self, connection: Connection) -> None:
        """Learn the other nodes' addresses, to reach a leader directly, and any node after a loss."""
        batch = Call("nodes", {}, self.now() + _NODES_S, _NODES_S)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        batch.waiters.append(answer)

        def learn(future: "asyncio.Future[Any]") -> None:
            if not future.cancelled() and future.exception() is None:
                self._known.update({str(k): str(v) for k, v in future.result().items()})

        answer.add_done_callback(learn)
        connection.send([batch], self.now())

    async def close(self) -> None:
        """End all connections, and every request with `Stopped` or `OutcomeUnknown`."""
        dialing = list(self._dialing.values())
        self.end("the client was closed")
        await asyncio.gather(*dialing, return_exceptions=True)
        await asyncio.sleep(0)

    def end(self, reason: str) -> None:
        """Do the same at once; `reason` is the text of the errors."""
        self._closed = True
        now = self.now()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._dialing.values():
            task.cancel()
        unsent = [*self._unsent, *self.filling.values()]
        self._unsent, self.filling = [], {}
        for connection in list(self._connections.values()):
            if connection.link is not None:
                unsent += connection.closed(reason, now)
                connection.link.close()
        self._connections.clear()
        for batch in unsent:
            batch.failed_rest(Stopped(reason))

    # --- requests ----------------------------------------------------------------------

    def open(self, key: Hashable, batch: EncodedBatch) -> EncodedBatch:
        """Begin a batch. It is sent at the end of this turn, or as soon as a node is connected."""
        self.filling[key] = batch
        self._schedule()
        return batch

    def submit(self, batch: Batch) -> None:
        """Send a batch that is complete, likewise."""
        self._unsent.append(batch)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and (self.filling or self._unsent) and not self._closed:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batches, opened = self._unsent, self.filling
        self._unsent, self.filling = [], {}
        for filled in opened.values():
            batches += filled.parts()
        ready: dict[str, list[Batch]] = {}
        for batch in batches:
            connection = self._choose(batch)
            if connection is None:
                self._unsent.append(batch)
            else:
                ready.setdefault(connection.node, []).append(batch)
        now = self.now()
        for node, group in ready.items():
            self._connections[node].send(group, now)
        if self._unsent:
            self._dial_any_node()

    def _choose(self, batch: Batch) -> Connection | None:
        """The connection for a batch; None if it has to wait for one."""
        if batch.node:
            return self._connections.get(batch.node)
        if batch.seeks_leader:
            leader = self._connections.get(self._leaders.get(batch.cluster, ""))
            if leader is not None and not leader.is_suspect:
                return leader
        return self._live_home()

    def _live_home(self) -> Connection | None:
        """The connection to the home; another node becomes it, if the home is lost or silent."""
        home = self._connections.get(self._home)
        if home is None or home.is_suspect:
            home = next((c for c in self._connections.values() if not c.is_suspect), None)
            if home is not None:
                self._home = home.node
        return home

    def _dial_any_node(self) -> None:
        if "" not in self._dialing and not self._closed:

            async def dial() -> None:
                while self._lacks_connection():
                    await self._try_all(self.now() + _DIAL_S)
                    await asyncio.sleep(_BACKOFF_S if self._lacks_connection() else 0)

            self._start_dial("", dial())

    def _lacks_connection(self) -> bool:
        return any(self._choose(batch) is None for batch in self._unsent)

    def _start_dial(self, node: str, work: Any) -> None:
        task = begin_task(work)
        self._dialing[node] = task

        def ended(done: "asyncio.Task[None]") -> None:
            self._dialing.pop(node, None)
            if not done.cancelled():
                done.exception()

        task.add_done_callback(ended)

    # --- what connections tell -----------------------------------------------------------

    def _on_leader(self, cluster: str, leader: ServerId) -> None:
        """An answer named the leader: send requests for this cluster to its node from now on."""
        for connection in self._connections.values():
            if connection.is_suspect and connection.node != leader.node:
                connection.give_up(cluster, self.now())
        if self._leaders.get(cluster) == leader.node:
            return
        if leader.node in self._connections:
            self._leaders[cluster] = leader.node
            return
        address = self._known.get(leader.node)
        if address is None or leader.node in self._dialing or self._closed:
            return

        async def dial() -> None:
            await self._dial(address)
            self._leaders[cluster] = leader.node

        self._start_dial(leader.node, dial())

    def _on_closed(self, connection: Connection, reason: str) -> None:
        if self._connections.get(connection.node) is connection:
            del self._connections[connection.node]
        for cluster in [c for c, node in self._leaders.items() if node == connection.node]:
            del self._leaders[cluster]
        self._unsent = connection.closed(reason, self.now()) + self._unsent
        self._last_error = NoLeader(f"node {connection.node}: {reason}")
        self._schedule()

    def _sweep(self) -> None:
        """Ten times a second, end the requests that are past their deadline, and suspect silent nodes."""
        now = self.now()
        for connection in list(self._connections.values()):
            self._unsent += connection.suspect(now)
            connection.expire(now)
        self._schedule()
        late = [batch for batch in self._unsent if batch.deadline <= now]
        if late:
            self._unsent = [batch for batch in self._unsent if batch.deadline > now]
            for batch in late:
                what = f"node {batch.node} could not" if batch.node else "no node could"
                text = f"{what} be reached: {self._last_error}"
                batch.failed_rest(QueryTimeout(text) if batch.is_read else LeaderTimeout(text))
        if not self._closed:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
