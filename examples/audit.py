"""Follow the log: a program in a node's process reads each command that was committed, in its order."""

import asyncio
import socket
import tempfile
from typing import Any

import barque


def append(entry: barque.LogEntry, found: list[Any]) -> list[Any]:
    """Take one command to the others."""
    return [*found, entry.command]


async def main() -> None:
    """Fold over all that was ever committed."""
    machine = barque.SimpleMachine(lambda command, total: command + total, 0)
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        config = barque.NodeConfig(
            name="n1", data_dir=directory, nodes={"n1": address}, secret="only-for-examples!"
        )
        async with barque.Node(config, {"sum": machine}) as node, barque.local_client(node) as client:
            await client.start_cluster("sum", "sum")
            for number in (3, 4, 5):
                await client.process_command("sum", number)
            committed: list[Any] = await node.log_fold("sum", append, [])
            print("committed:", committed)


if __name__ == "__main__":
    asyncio.run(main())
