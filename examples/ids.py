"""Numbers that are given once: a machine from one function."""

import asyncio

from three_nodes import three_nodes

import barque


def next_block(size: int, last: int) -> int:
    """The command says how many numbers a client wants; the state, and the reply, is the last one given."""
    return last + size


async def main() -> None:
    """Two programs take blocks of numbers; no number comes twice."""
    async with three_nodes(ids=barque.SimpleMachine(next_block, 0)) as (client, _):
        ids = client.cluster("ids")
        ends = await asyncio.gather(*(ids.process_command(100) for _ in range(4)))
        blocks = [range(end - 99, end + 1) for end in ends]
        print("blocks:", *(f"{block[0]}-{block[-1]}" for block in sorted(blocks, key=lambda block: block[0])))
        print("different numbers:", len({number for block in blocks for number in block}))


if __name__ == "__main__":
    asyncio.run(main())
