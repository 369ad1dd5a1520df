"""Thousands of commands on their way at a time: send without waiting, and hear of each outcome."""

import asyncio

from three_nodes import three_nodes

import barque

COUNT = 5_000


async def main() -> None:
    """Count to five thousand in one go."""
    async with three_nodes(sum=barque.SimpleMachine(lambda command, total: command + total, 0)) as (
        client,
        _,
    ):
        total = client.cluster("sum")
        for number in range(COUNT):
            total.pipeline_command(1, correlation=number)
        heard = 0
        last = None
        while heard < COUNT:
            for outcome in await client.take_notifications():
                heard += 1
                last = outcome.reply if outcome.error is None else outcome.error
        print("heard of", heard, "commands; the last reply is", last)


if __name__ == "__main__":
    asyncio.run(main())
