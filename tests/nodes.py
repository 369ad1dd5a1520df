"""Several nodes on one loop, for tests of the runtime and the client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import barque
from barque.runtime.clock import Clock
from barque.runtime.node_rpc import Caller
from barque.transport.answers import error_named
from tests.ports import free_port

SECRET = "a secret for tests only"
PATIENCE_S = 20.0


class Adder(barque.Machine[int]):
    """Adds numbers; `"boom"` makes it raise, `"later"` sets a timer that adds 100."""

    def init(self, args: dict[str, Any]) -> int:
        """Where to start."""
        return int(args.get("start", 0))

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The new sum, as state and reply."""
        match command:
            case int():
                return state + command, state + command
            case "boom":
                raise RuntimeError("boom")
            case "later":
                return state, "set", [barque.Timer("add", after_ms=1)]
            case "tell":
                return state, "told", [barque.SendMsg(meta.origin, {"sum": state})]
            case "again":
                return state, "asked", [barque.Append(1000)]
            case "opaque":
                return state, object()  # no value
            case barque.Timeout():
                return state + 100, None
            case _:
                return state, None

    def query(self, query: Any, state: int) -> Any:
        """The sum, an error for the query `"bad"`, and no value for `"opaque"`."""
        if query == "bad":
            raise ValueError("no such query")
        return object() if query == "opaque" else state

    def overview(self, state: int) -> dict[str, Any]:
        """The sum."""
        return {"sum": state}


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(barque.BarqueError):
                found = await condition()
                if found:
                    return found
            await asyncio.sleep(0.01)
    raise AssertionError(what)


class Nodes:
    """Nodes n1, n2, … of one installation, on free ports and in one directory."""

    def __init__(self, directory: Path, count: int, **settings: Any) -> None:
        names = [f"n{i}" for i in range(1, count + 1)]
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
        self.directory = directory
        self.settings = settings
        self.credentials: dict[str, Any] = {}
        self.running: dict[str, barque.Node] = {}

    def config(self, name: str) -> barque.NodeConfig:
        """What a node is told."""
        return barque.NodeConfig(
            name=name,
            data_dir=str(self.directory / name),
            nodes=self.addresses,
            **{"secret": SECRET, **self.credentials},
            **{
                "log": barque.LogConfig(wal_max_size_bytes=4 << 20),
                "time": barque.TimeConfig(broadcast_time_ms=20, detector_poll_ms=300, tick_ms=50),
                **self.settings,
            },
        )

    async def start(
        self,
        *names: str,
        machines: Mapping[str, barque.Machine[Any] | type[barque.Replicated]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Start these nodes, or all."""
        for name in names or self.addresses:
            node = barque.Node(self.config(name), machines or {"adder": Adder()}, clock=clock, checked=True)
            await node.start()
            self.running[name] = node

    async def stop(self, *names: str) -> None:
        """Stop these nodes, or all."""
        for name in names or list(self.running):
            node = self.running.pop(name, None)
            if node is not None:
                await node.stop()

    def client(self, *names: str, timeout_s: float = 10.0, secret: str = SECRET) -> barque.Client:
        """A client that knows these nodes, or all."""
        addresses = [self.addresses[name] for name in names or self.addresses]
        return barque.Client(addresses, secret=secret, timeout_s=timeout_s)

    async def leader(self, client: barque.Client, cluster: str) -> str:
        """The node whose member leads."""

        async def find() -> str | None:
            found = await client.leader(cluster)
            return found.node if found and found.node in self.running else None

        return str(await until(find, "a leader"))


@contextlib.asynccontextmanager
async def nodes(directory: Path, count: int = 3, **settings: Any) -> AsyncIterator[Nodes]:
    """Nodes that run, and are stopped at the end."""
    made = Nodes(directory, count, **settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def ask_as_a_node(node: barque.Node, verb: str, arguments: dict[str, Any]) -> Any:
    """Call a verb as another node would; raise its error."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(value: Any, error: str | None, text: str) -> None:
        if error is None:
            answered.set_result(value)
        else:
            answered.set_exception(error_named(error, text))

    node.rpc.serve(verb, arguments, answer, Caller("node n2"))
    return await answered
