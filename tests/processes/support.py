"""Real node processes, and clients that remember what they were promised."""

import asyncio
import collections
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port

import barque
from barque.errors import BarqueError, OutcomeUnknown, QueryTimeout, Refused
from barque.machine.kv_commands import Append, Get
from barque.testing.chaos.nodes import NodeProcesses

SECRET = "a secret for tests only"
PATIENCE_S = 30.0
_clusters = itertools.count(1)


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait for a condition, not for a time; says what did not come true."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(BarqueError, OSError):
                found = await condition()
                if found:
                    return found
            await asyncio.sleep(0.02)
    raise AssertionError(what)


class Cluster:
    """Three `barque node` processes on free ports, with one cluster `kv`; `settings` is more TOML for all."""

    def __init__(
        self, directory: Path, names: tuple[str, ...] = ("n1", "n2", "n3"), settings: str = ""
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.installation = f"tests-{os.getpid()}-{next(_clusters)}"  # another run's node is refused
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
        self.resp_ports = {name: free_port() for name in names}
        self.nodes = NodeProcesses(directory, {name: self._config(name) for name in names})
        self.processes = self.nodes.running

    def _config(self, name: str) -> str:
        nodes = "\n".join(f'{n} = "{a}"' for n, a in self.addresses.items())
        return f"""
name = "{name}"
data_dir = "{self.directory / name}"
secret = "{SECRET}"
installation = "{self.installation}"
[nodes]
{nodes}
[resp]
bind = "127.0.0.1:{self.resp_ports[name]}"
[[clusters]]
name = "kv"
machine = "kv"
{self.settings}
"""

    def start(self, *names: str) -> None:
        """Start these nodes, or all."""
        self.nodes.start(names or self.addresses)

    def kill(self, *names: str) -> None:
        """SIGKILL: no farewell."""
        self.nodes.kill(names or self.addresses)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one node."""
        self.nodes.signal(name, number)

    def log(self, name: str) -> str:
        """What a node has said."""
        return self.nodes.log(name)

    def client(self, *names: str, timeout_s: float = 5.0) -> barque.Client:
        """A client that knows these nodes, or all."""
        addresses = [self.addresses[name] for name in names or self.addresses]
        return barque.Client(addresses, secret=SECRET, installation=self.installation, timeout_s=timeout_s)

    async def leader(self, client: barque.Client) -> str:
        """Wait until a member leads; return its node."""

        async def find() -> str | None:
            status = await client.status()
            leader = status.clusters[0].leader if status.clusters else None
            return leader and leader.node

        return str(await until(find, "a leader"))

    async def all_serve(self, client: barque.Client) -> None:
        """Wait until every node answers, to Redis clients too."""

        async def look() -> bool:
            nodes = (await client.status()).nodes
            return len(nodes) == len(self.addresses) and all(node.resp_address for node in nodes)

        await until(look, "all nodes to serve")

    async def caught_up(self, client: barque.Client) -> tuple[barque.MemberStatus, ...]:
        """All members, once all have applied and written all there is."""

        async def look() -> tuple[barque.MemberStatus, ...] | None:
            status = await client.status()
            members = status.clusters[0].members
            positions = {(m.last_applied, m.last_written_index, m.last_index) for m in members}
            return members if len(members) == len(self.addresses) and len(positions) == 1 else None

        found: tuple[barque.MemberStatus, ...] = await until(look, "all members to catch up")
        return found

    def stop(self) -> dict[str, int]:
        """End all that still runs; returns the exit codes."""
        return self.nodes.stop()


@contextlib.asynccontextmanager
async def running(directory: Path, settings: str = "") -> AsyncIterator[Cluster]:
    """A cluster that serves; at the end no process is left, and none has printed a traceback."""
    cluster = Cluster(directory, settings=settings)
    cluster.start()
    try:
        async with cluster.client() as client:
            await cluster.leader(client)
            await cluster.all_serve(client)
        yield cluster
    finally:
        cluster.stop()
    for name in cluster.addresses:
        assert "Traceback" not in cluster.log(name), cluster.log(name)


class Writers:
    """Clients that each append numbered tokens to a list of their own, one after the other.

    A list shows everything: a lost token, a doubled one, a phantom, a wrong order.
    """

    def __init__(self, clients: list[barque.Client], count: int) -> None:
        self.acked: dict[int, list[int]] = collections.defaultdict(list)
        self.unknown: dict[int, set[int]] = collections.defaultdict(set)
        self.total = 0
        self.stale: list[str] = []
        self.reads = 0
        self._stopping = False
        self._clients = clients
        self._tasks = [asyncio.create_task(self._write(i, clients[i % len(clients)])) for i in range(count)]

    def add_readers(self, count: int) -> None:
        """Readers who check that a read never misses what was acknowledged before it was asked."""
        for i in range(count):
            client = self._clients[(i + 1) % len(self._clients)]
            self._tasks.append(asyncio.create_task(self._read(i, client)))

    async def _write(self, i: int, client: barque.Client) -> None:
        token = 0
        while not self._stopping:
            token += 1
            try:
                await client.process_command("kv", Append(b"list-%d" % i, b"%d," % token))
            except OutcomeUnknown:
                self.unknown[i].add(token)
            except Refused:
                await asyncio.sleep(0.01)
            else:
                self.acked[i].append(token)
                self.total += 1

    async def _read(self, i: int, client: barque.Client) -> None:
        while not self._stopping:
            promised = list(self.acked[i])
            try:
                seen = set(await self.list_of(client, i))
            except (QueryTimeout, Refused):
                continue
            self.reads += 1
            missing = [token for token in promised if token not in seen]
            if missing:
                self.stale.append(f"list {i} lacks {missing}")

    async def list_of(self, client: barque.Client, i: int) -> list[int]:
        """One writer's list, by a linearizable read."""
        value = await client.consistent_query("kv", Get(b"list-%d" % i)) or b""
        return [int(token) for token in value.split(b",") if token]

    async def progress(self, amount: int) -> None:
        """Wait until so many more tokens are acknowledged."""
        goal = self.total + amount

        async def reached() -> bool:
            return self.total >= goal

        await until(reached, f"{amount} more acknowledged writes")

    async def stop(self) -> None:
        """Let every writer finish what it has begun."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def check(self, client: barque.Client) -> None:
        """Every acknowledged token is there once, in order; no other is but those of unknown fate."""
        for i in list(self.acked):
            acked, unknown = self.acked[i], self.unknown[i]
            found = await self.list_of(client, i)
            twice = sorted(t for t, n in collections.Counter(found).items() if n > 1)
            assert not twice, f"list {i}: {twice[:5]} twice in {len(found)}, unknown: {sorted(unknown)[:5]}"
            in_time = [token for token in found if token not in unknown]  # what is unknown may come late
            assert sorted(in_time) == in_time, f"list {i}: out of order"
            assert set(acked) <= set(found), f"list {i}: lost {set(acked) - set(found)}"
            assert set(found) <= set(acked) | unknown, f"list {i}: never sent {set(found) - set(acked)}"
