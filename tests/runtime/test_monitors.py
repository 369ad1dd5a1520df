"""Machines that watch clients and nodes (runtime/monitors.py)."""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, until

import barque
from barque.machine.machine import Down
from barque.types import ClientRef


class Watching(Adder):
    """`["watch", node, incarnation]` watches a client; each client that is gone adds 1000."""

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """Watch, or count what was watched."""
        match command:
            case ["watch", node, incarnation]:
                return state, "watched", [barque.MonitorClient(ClientRef(node, incarnation))]
            case Down():
                return state + 1000, None
            case _:
                return super().apply(meta, command, state)


@pytest.mark.parametrize("whose", ["this node", "another node"])
async def test_a_client_that_is_gone_already_is_reported_at_once(tmp_path: Path, whose: str) -> None:
    """A machine that watches a client of an earlier process of a node hears of its end, not nothing."""
    some = Nodes(tmp_path, 2)
    await some.start(machines={"adder": Watching()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder", nodes=["n1"])
            assert await client.process_command("sum", 1) == 1
            node = some.running["n1" if whose == "this node" else "n2"]
            living = ["watch", node.name, node.incarnation]
            assert await client.process_command("sum", living) == "watched"
            assert await client.process_command("sum", ["watch", node.name, 7]) == "watched"

            async def is_told() -> bool:
                return bool(await client.consistent_query("sum") == 1001)

            await until(is_told, "the end of the client that is gone, and of no other")
    finally:
        await some.stop()


async def test_a_client_on_a_node_out_of_reach_is_reported_at_once(tmp_path: Path) -> None:
    """Its node is unknown here, or not connected (EFF-06)."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"adder": Watching()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
            await client.process_command("sum", ["watch", "n9", 7])

            async def is_told() -> bool:
                return bool(await client.consistent_query("sum") == 1000)

            await until(is_told, "the end of the client")
    finally:
        await some.stop()
