"""Members compare digests of their states, and say which one differs since which entry."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, until

import barque


class Biased(barque.Machine[int]):
    """A sum; a member with a bias adds it when it is told to, as a clock or a random number would."""

    def __init__(self, bias: int) -> None:
        self.bias = bias

    def init(self, args: dict[str, Any]) -> int:
        """Nothing yet."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """Add; `"drift"` adds what differs between members."""
        if isinstance(command, int):
            state += command
        elif command == "drift":
            state += self.bias
        return state, state, barque.ReleaseCursor(meta.index, state)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Three nodes whose third member is biased, and which make a snapshot at every tenth entry."""
    made = Nodes(tmp_path, 3, snapshots=barque.SnapshotsConfig(min_interval=10))
    for name in made.addresses:
        await made.start(name, machines={"sum": Biased(bias=int(name == "n3"))})
    yield made
    await made.stop()


async def differing(client: barque.Client) -> dict[str, dict[str, int]]:
    """What `status` says of each member."""
    [cluster] = (await client.status()).clusters
    return {member.server.node: dict(member.state_differs) for member in cluster.members}


async def snapshots_are_at(client: barque.Client, index: int) -> None:
    """Wait until all members have a snapshot at this entry, or a later one."""

    async def there() -> bool:
        [cluster] = (await client.status()).clusters
        return all(member.snapshot_index >= index for member in cluster.members)

    await until(there, f"snapshots at {index}")


async def test_the_member_that_differs_is_named_with_the_entry(three: Nodes) -> None:
    """Equal states are not reported; after a drift both others name the member, and it names both."""
    async with three.client() as client:
        await client.start_cluster("sum", "sum")
        for _ in range(30):
            await client.process_command("sum", 1)
        await snapshots_are_at(client, 20)
        assert await differing(client) == {"n1": {}, "n2": {}, "n3": {}}
        at = (await client.append_command("sum", "drift")).index

        async def noticed() -> bool:
            await client.process_command("sum", 1)
            found = await differing(client)
            return all(found.values()) and set(found["n3"]) == {"n1", "n2"}

        await until(noticed, "the difference is noticed")
        found = await differing(client)
        assert (set(found["n1"]), set(found["n2"])) == ({"n3"}, {"n3"})
        assert all(index >= at for member in found.values() for index in member.values())
