"""Three nodes in this process, for the other examples. In production each is a process: `barque node`."""

import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import barque

SECRET = "only-for-examples!"


@contextlib.asynccontextmanager
async def three_nodes(**machines: Any) -> AsyncIterator[tuple[barque.Client, dict[str, str]]]:
    """Run three nodes with these machines, each as a cluster of its name; a client, and the addresses."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(3)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        nodes = {f"n{i}": f"127.0.0.1:{probe.getsockname()[1]}" for i, probe in enumerate(sockets, start=1)}
        probes.close()
        async with contextlib.AsyncExitStack() as running:
            for name in nodes:
                config = barque.NodeConfig(
                    name=name, data_dir=f"{directory}/{name}", nodes=nodes, secret=SECRET
                )
                await running.enter_async_context(barque.Node(config, machines))
            client = barque.Client(list(nodes.values()), secret=SECRET, timeout_s=15)
            await running.enter_async_context(client)
            for name in machines:
                await client.start_cluster(name, name)
            yield client, nodes
