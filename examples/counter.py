"""A replicated counter on three nodes, all in this process: define, start, form, use, stop."""

import asyncio
import tempfile

import barque


class Counter(barque.Machine[int]):
    """Adds numbers."""

    command_type = int

    def init(self, args: dict[str, int]) -> int:
        """The first total: `start`, from the arguments of `start_cluster`."""
        return args.get("start", 0)

    def apply(self, meta: barque.CommandMeta, command: int, state: int) -> tuple[int, int]:
        """Return the new state and the reply, which are both the new total."""
        return state + command, state + command

    def query(self, query: None, state: int) -> int:
        """Answer a read, which does not go through the log."""
        return state


async def main(data_dir: str, ports: tuple[int, int, int] = (7801, 7802, 7803)) -> int:
    """Form a cluster, count to 42, and survive the loss of a node."""
    addresses = {f"n{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports, start=1)}
    configs = [
        barque.NodeConfig(name=n, data_dir=f"{data_dir}/{n}", nodes=addresses, secret="only-an-example!")
        for n in addresses
    ]
    async with (
        barque.Node(configs[0], {"counter": Counter()}),
        barque.Node(configs[1], {"counter": Counter()}),
        barque.Node(configs[2], {"counter": Counter()}) as third,
        barque.Client(list(addresses.values()), secret="only-an-example!") as client,
    ):
        visits = client.cluster("visits")
        await visits.start_cluster("counter", arguments={"start": 40})
        print("after one command:", await visits.process_command(1))
        await third.stop()
        print("with one node down:", await visits.process_command(1))
        total: int = await visits.consistent_query()
        print("a linearizable read:", total)
        return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(directory))
