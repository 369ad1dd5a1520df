"""The key-value machine behind the Redis gateway, without Redis: keys, times to live, compare and set."""

import asyncio

from three_nodes import three_nodes

from barque.machine.kv_commands import Get, Set


async def main() -> None:
    """Set a key, and set it only if it is absent."""
    async with three_nodes() as (client, _):
        await client.start_cluster("cache", "kv")
        cache = client.cluster("cache")
        print("set:", await cache.process_command(Set(b"colour", b"red")))
        print("get:", await cache.consistent_query(Get(b"colour")))
        print("absent:", await cache.consistent_query(Get(b"taste")))


if __name__ == "__main__":
    asyncio.run(main())
