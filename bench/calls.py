"""Count function calls for each command, by the process that would make them.

Three nodes and their clients run on one event loop, over real sockets, with logs in a temporary directory.
Every callback of the loop belongs to one role (`leader`, `follower`, `client`): a context variable, which
callbacks inherit, says which. Each role has a profiler of its own, which counts its calls. Calls inside
`asyncio` and `selectors` do not count: nodes run on uvloop, which makes none.

It also counts the iterations of the loop, and the frames and bytes that nodes send, for each request: with
the disk's writes these are the system calls.

Time on the loop is virtual: each iteration takes 150 µs, and an idle loop jumps to its next timer. So the
same code makes the same calls in every run, on a busy machine too.
"""

import argparse
import asyncio
import contextvars
import cProfile
import gc
import json
import random
import selectors
import tempfile
from asyncio import events
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import CodeType
from typing import Any, NamedTuple

from barque.bench.cluster import free_addresses
from barque.bench.machine import BenchMachine
from barque.client.client import Client
from barque.client.local import NodeSubmitter
from barque.config import ClusterConfig, LogConfig, NodeConfig
from barque.gateways.resp.server import RespServer
from barque.runtime.node import Node

NAMES = ("n1", "n2", "n3")
WORKLOADS = (
    "sequential",
    "read",
    "concurrent",
    "reads",
    "pipeline",
    "pipeline low",
    "redis set",
    "redis get",
)
_MANY = 64
_FOR_MANY = 32
"""Of many callers, or in a pipeline, so many times as many requests are counted."""
_WINDOW = 500
_ITERATION_S = 150e-6
_NOT_COUNTED = ("/asyncio/", "/selectors.py", "/contextlib.py", __file__)
_SECRET = "only for this measurement"  # noqa: S105
_role: contextvars.ContextVar[str] = contextvars.ContextVar("role", default="")


class _Selector(selectors.DefaultSelector):
    """Lets time pass for each look at the sockets, and jump when there is nothing to do."""

    now = 1_000.0
    iterations = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += _ITERATION_S
        self.iterations += 1
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        ready = super().select(0.002)  # loopback sockets are fast, not instantaneous
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """An event loop on the selector's time."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


class _Clock:
    """The loop's time, for nodes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = loop.time

    def wall_ms(self) -> int:
        return int(self.monotonic() * 1000)


class Counts:
    """The profilers of the roles."""

    def __init__(self) -> None:
        self._profiles: dict[str, cProfile.Profile] = {}
        self._real = events.Handle._run

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in here."""
        real = self._real

        def run(handle: Any) -> None:
            role = handle._context.get(_role, "")
            if not role:
                real(handle)
                return
            profile = self._profiles.get(role)
            if profile is None:
                profile = self._profiles[role] = cProfile.Profile()
            profile.enable()
            try:
                real(handle)
            finally:
                profile.disable()

        events.Handle._run = run  # type: ignore[method-assign]
        try:
            yield
        finally:
            events.Handle._run = self._real  # type: ignore[method-assign]

    def by_function(self, role: str) -> Counter[str]:
        """How often each function was called by a role."""
        found: Counter[str] = Counter()
        profile = self._profiles.get(role)
        for entry in profile.getstats() if profile is not None else ():
            code = entry.code
            if not isinstance(code, CodeType) or any(part in code.co_filename for part in _NOT_COUNTED):
                continue
            found[_name(code)] += entry.callcount
            for called in entry.calls or ():
                if not isinstance(called.code, CodeType):
                    found[str(called.code)] += called.callcount
        return found


def _name(code: CodeType) -> str:
    return f"{code.co_filename.rpartition('/barque/')[2]}:{code.co_qualname}"


def _config(home: str, name: str, addresses: dict[str, str]) -> NodeConfig:
    clusters = (ClusterConfig("bench", "bench"), ClusterConfig("kv", "kv"))
    log = LogConfig(writer="inline", prefill=False)
    return NodeConfig(
        name=name, data_dir=f"{home}/{name}", secret=_SECRET, nodes=addresses, clusters=clusters, log=log
    )


def _in_role(role: str, work: Callable[[], Awaitable[Any]]) -> "asyncio.Task[Any]":
    """Run this in a context of its own; what it schedules inherits the role."""
    context = contextvars.copy_context()
    context.run(_role.set, role)

    async def run() -> Any:
        return await work()

    return asyncio.get_running_loop().create_task(run(), context=context)


@asynccontextmanager
async def _nodes(home: str, clock: _Clock) -> AsyncIterator[list[Node]]:
    addresses = dict(zip(NAMES, free_addresses(len(NAMES)), strict=True))
    nodes: list[Node] = []
    try:
        for number, name in enumerate(NAMES):
            rng = random.Random(number)  # noqa: S311
            config = _config(home, name, addresses)
            node = Node(config, {"bench": BenchMachine()}, clock=clock, rng=rng)
            await _in_role(name, node.start)
            nodes.append(node)
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


async def _until_leads(cluster: str, nodes: list[Node]) -> Node:
    """The node that leads this cluster, once it has told the others."""
    while True:
        for node in nodes:
            process = node.servers.member_of(cluster)
            if process is not None and process.state == "leader" and process.server.commit_index > 0:
                return node
        await asyncio.sleep(0.05)


_SET = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$8\r\n" + b"x" * 8 + b"\r\n", b"+OK\r\n"
_GET = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", b"$8\r\n" + b"x" * 8 + b"\r\n"


async def _redis_caller(port: int, count: int, command: tuple[bytes, bytes]) -> None:
    """Send a command again and again, as a client without a library would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for sent, expected in (_SET, *(command,) * count):
        writer.write(sent)
        assert await reader.readexactly(len(expected)) == expected
    writer.close()


async def _callers(ask: Callable[[], Awaitable[Any]], callers: int, count: int) -> None:
    """So many callers that ask `count` times together, each one question after the other."""

    async def caller() -> None:
        for _ in range(count // callers):
            await ask()

    await asyncio.gather(*(caller() for _ in range(callers)))


async def _pipeline(client: Client, count: int, priority: str) -> None:
    """A window of commands in flight, topped up as they are answered."""
    sent = answered = 0
    while answered < count:
        for number in range(sent, min(count, answered + _WINDOW)):
            client.pipeline_command("bench", b"x" * 256, number, priority=priority)
        sent = min(count, answered + _WINDOW)
        answered += len(await client.take_notifications())


class Counted(NamedTuple):
    """What `count` requests took, by role and function; and together."""

    calls: dict[str, Counter[str]]
    iterations: int
    frames: int
    sent_bytes: int


async def _measure(workload: str, nodes: list[Node], count: int, loop: _Selector) -> Counted:
    cluster = "kv" if workload.startswith("redis") else "bench"
    leader = await _until_leads(cluster, nodes)
    client = Client([leader.config.nodes[leader.name]], secret=_SECRET, timeout_s=30.0)
    gateway = RespServer(NodeSubmitter(leader), "kv", "127.0.0.1:0", clock=leader.clock)

    async def prepare() -> None:
        await client.connect()
        for _ in range(20):
            await client.process_command("bench", b"warm")

    async def work() -> None:
        match workload:
            case "sequential" | "concurrent":
                callers = 1 if workload == "sequential" else _MANY
                await _callers(lambda: client.process_command("bench", b"x" * 256), callers, count)
            case "read" | "reads":
                await _callers(
                    lambda: client.consistent_query("bench"), 1 if workload == "read" else _MANY, count
                )
            case "pipeline" | "pipeline low":
                await _pipeline(client, count, "low" if workload.endswith("low") else "normal")
            case _:
                await _redis_caller(gateway.address[1], count, _SET if workload == "redis set" else _GET)

    await _in_role("client", prepare)
    await _in_role(leader.name, gateway.start)
    counts, counters = Counts(), [node.transport.counters for node in nodes]
    before = loop.iterations, sum(c.frames_sent for c in counters), sum(c.bytes_sent for c in counters)
    with counts.counting():
        await _in_role("client", work)
    after = loop.iterations, sum(c.frames_sent for c in counters), sum(c.bytes_sent for c in counters)
    await gateway.stop()
    await client.close()
    follower = next(name for name in NAMES if name != leader.name)
    roles = {"leader": leader.name, "follower": follower, "client": "client"}
    calls = {role: counts.by_function(name) for role, name in roles.items()}
    return Counted(calls, *(late - early for early, late in zip(before, after, strict=True)))


def count_calls(workload: str, count: int = 200) -> Counted:
    """What `count` requests of this workload cost."""
    gc.collect()
    loop = _Loop()
    asyncio.set_event_loop(loop)
    try:
        with tempfile.TemporaryDirectory() as home:

            async def run() -> Counted:
                async with _nodes(home, _Clock(loop)) as nodes:
                    return await _measure(workload, nodes, count, loop.virtual)

            return loop.run_until_complete(run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def main() -> None:
    """Print calls for each request, and the functions that are called most."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="requests that are counted")
    parser.add_argument("--functions", type=int, default=0, help="show so many functions of each role")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--json", action="store_true", help="print calls for each request as JSON")
    chosen = parser.parse_args()
    if chosen.json:
        print(json.dumps({name: figures(name, chosen.count)[0] for name in chosen.workload or WORKLOADS}))
        return
    columns = ("leader", "follower", "client", "iterations", "frames", "bytes")
    print(f"{'for each request':18}" + "".join(f"{column:>11}" for column in columns))
    for workload in chosen.workload or WORKLOADS:
        row, calls, count = figures(workload, chosen.count)
        print(f"{workload:18}" + "".join(f"{row[column]:11.1f}" for column in columns), flush=True)
        for role, functions in calls.items() if chosen.functions else ():
            for function, number in functions.most_common(chosen.functions):
                print(f"    {role:9}{number / count:8.2f}  {function}")


def figures(workload: str, count: int) -> tuple[dict[str, float], dict[str, Counter[str]], int]:
    """Each figure for one request, the calls of each role and function, and how many requests there were."""
    if not workload.startswith("redis") and workload not in ("sequential", "read"):
        count *= _FOR_MANY
    found = count_calls(workload, count)
    together = {"iterations": found.iterations, "frames": found.frames, "bytes": found.sent_bytes}
    totals = {role: calls.total() for role, calls in found.calls.items()} | together
    return {name: round(total / count, 1) for name, total in totals.items()}, found.calls, count


if __name__ == "__main__":
    main()
