"""A node whose disk is nearly full takes no new commands, says so, and goes on with everything else."""

from pathlib import Path

import pytest
from tests.nodes import nodes, until

import barque
from barque.log.disk import OsDisk

PLENTY = 1 << 40


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How much the file system of a node has left, by the node's name."""
    left: dict[str, int] = {}

    def free_bytes(_disk: OsDisk, path: str) -> int:
        return next((size for name, size in left.items() if f"/{name}" in path), PLENTY)

    monkeypatch.setattr(OsDisk, "free_bytes", free_bytes)
    return left


async def test_commands_are_refused_and_did_not_happen(tmp_path: Path, free: dict[str, int]) -> None:
    """Reads, elections and replication go on; the node says what is wrong, and recovers by itself."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        leader = await three.leader(client, "sum")
        free[leader] = three.running[leader].system.storage.guard.min_bytes - 1

        async def refuses() -> bool:
            return three.running[leader].dispatcher.disk_full

        await until(refuses, "the leader to notice")
        with pytest.raises(barque.DiskFull, match=r"did not happen.*barque leader transfer"):
            await client.process_command("sum", 10)
        assert issubclass(barque.DiskFull, barque.Refused)
        assert await client.consistent_query("sum", "value") == 1
        [node] = [node for node in (await client.status()).nodes if node.name == leader]
        assert node.state == "degraded"
        assert f"{free[leader]} bytes are free, fewer than disk_free_min_bytes" in (node.failure or "")

        other = next(name for name in three.addresses if name != leader)
        await client.transfer_leadership("sum", other)
        assert await client.process_command("sum", 100) == 101
        low = three.running[leader].system.processes["sum"].server

        async def follows() -> bool:
            return bool(low.last_applied >= 3 and low.machine_state == 101)

        await until(follows, "the node with little space to follow")
        assert three.running[leader].dispatcher.disk_full
        await client.transfer_leadership("sum", leader)
        free[leader] = PLENTY

        async def takes() -> bool:
            return await client.process_command("sum", 0) == 101

        await until(takes, "the leader to take commands again")
        assert all(node.state == "running" for node in (await client.status()).nodes)


async def test_a_follower_stops_before_its_disk_is_full(tmp_path: Path, free: dict[str, int]) -> None:
    """Below half of the limit it takes no commands: the others go on, and it catches up when it has space."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        leader = await three.leader(client, "sum")
        low = next(name for name in three.addresses if name != leader)
        server = three.running[low].system.processes["sum"].server
        assert await client.process_command("sum", 1) == 1
        term = server.current_term

        async def follows() -> bool:
            return bool(server.machine_state == await client.consistent_query("sum", "value"))

        await until(follows, "the follower to have everything")
        free[low] = 1_000

        async def stops() -> bool:
            return three.running[low].dispatcher.disk_critical

        await until(stops, "the follower's node to notice")
        end = server.log.last_index_term()
        for number in range(2, 6):
            assert await client.process_command("sum", 1) == number
        assert server.log.last_index_term() == end
        [node] = [node for node in (await client.status()).nodes if node.name == low]
        assert node.state == "degraded"
        assert "this node's followers take no commands" in (node.failure or "")

        del free[low]
        await until(follows, "the follower to catch up")
        assert (server.machine_state, server.current_term) == (5, term), "nobody had to elect"


async def test_operators_make_room_where_every_disk_is_short(tmp_path: Path, free: dict[str, int]) -> None:
    """No node takes commands; but another member can lead, one can leave, and a cluster can be deleted."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 7)
        free.update(dict.fromkeys(three.addresses, 0))

        async def short() -> bool:
            return all(node.dispatcher.disk_critical for node in three.running.values())

        await until(short, "all nodes to notice")
        with pytest.raises(barque.DiskFull):
            await client.process_command("sum", 1)
        leader = await three.leader(client, "sum")
        first, second = (name for name in three.addresses if name != leader)
        await client.transfer_leadership("sum", first)
        assert await client.consistent_query("sum", "value") == 7
        await client.remove_member("sum", second)
        await client.delete_cluster("sum")


async def test_a_cluster_can_be_deleted_to_make_room(tmp_path: Path, free: dict[str, int]) -> None:
    """The guard refuses commands of clients, and nothing that an operator needs."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        await client.start_cluster("other", "adder")
        free["n1"] = 0

        async def refuses() -> bool:
            return single.running["n1"].dispatcher.disk_full

        await until(refuses, "the node to notice")
        await client.delete_cluster("other")
        with pytest.raises(barque.DiskFull):
            await client.process_command("sum", 1)


async def test_a_node_that_starts_with_little_space_serves_reads(
    tmp_path: Path, free: dict[str, int]
) -> None:
    """It starts, elects and answers; only new commands are refused, from the first one on."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 7)
        await single.stop()
        free["n1"] = 0
        await single.start()

        async def answers() -> bool:
            return await client.consistent_query("sum", "value") == 7

        await until(answers, "the node to serve reads")
        with pytest.raises(barque.DiskFull):
            await client.process_command("sum", 1)
