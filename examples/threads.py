"""Threads share one client: `barque.sync` has the same methods, without await."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from three_nodes import SECRET, three_nodes

import barque


def work(addresses: list[str]) -> list[int]:
    """Count with eight threads."""
    with barque.sync.Client(addresses, secret=SECRET, timeout_s=15) as client, ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: client.process_command("sum", 1), range(40)))


async def main() -> None:
    """The nodes run on this loop, the threads beside it."""
    async with three_nodes(sum=barque.SimpleMachine(lambda command, total: command + total, 0)) as (_, nodes):
        replies = await asyncio.to_thread(work, list(nodes.values()))
        print("each total was seen once:", sorted(replies) == list(range(1, 41)))


if __name__ == "__main__":
    asyncio.run(main())
