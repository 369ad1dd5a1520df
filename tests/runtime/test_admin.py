"""Administrative verbs (runtime/admin.py): a cluster that cannot be formed leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, nodes, until

from barque.errors import ConfigurationError, NoLeader, NotUpToDate
from barque.runtime.admin import Admin
from barque.types import ServerId


async def absent(some: Nodes) -> None:
    """Wait until no node has a server called `sum`."""

    async def is_absent() -> bool:
        return all("sum" not in node.system.processes for node in some.running.values())

    await until(is_absent, "the servers to be removed")


async def test_a_cluster_that_most_nodes_refuse_leaves_no_server(tmp_path: Path) -> None:
    """API-02: the one node that started its server removes it, and the name is free again."""
    some = Nodes(tmp_path, 3)
    await some.start("n1", machines={"adder": Adder(), "rare": Adder()})
    await some.start("n2", "n3")
    try:
        async with some.client("n1") as client:
            with pytest.raises(ConfigurationError, match="machine 'rare' is not among"):
                await client.start_cluster("sum", "rare")
            await absent(some)
            await client.start_cluster("sum", "adder")
            assert await client.process_command("sum", 1) == 1
    finally:
        await some.stop()


async def test_a_name_that_is_taken_on_one_node_costs_the_others_nothing(tmp_path: Path) -> None:
    """The cluster that has the name stays; what was started beside it goes."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        assert await client.process_command("sum", 5) == 5
        with pytest.raises(ConfigurationError, match="exists already"):
            await client.start_cluster("sum", "adder", nodes=["n1", "n2"])

        async def is_alone() -> bool:
            return "sum" not in three.running["n2"].system.processes

        await until(is_alone, "the second server to be removed")
        assert await client.consistent_query("sum") == 5


async def test_a_cluster_without_a_leader_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was elected in time, so nothing can have been committed: the servers go."""
    real, campaigns = Admin.trigger_election, False

    async def trigger(self: Admin, arguments: dict[str, Any]) -> Any:
        return await real(self, arguments) if campaigns else "ok"

    monkeypatch.setattr(Admin, "trigger_election", trigger)
    async with nodes(tmp_path) as three, three.client("n1") as client:
        with pytest.raises(NoLeader, match="no leader was elected in time"):
            await client.start_cluster("sum", "adder", timeout_s=1.0)
        await absent(three)
        campaigns = True
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1


async def test_members_that_hold_entries_are_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader was elected after all, and entries may be committed: none is lost."""

    async def hears_nothing(self: Admin, cluster: str, cluster_id: str) -> None:
        async def has_led() -> bool:
            return all(n.system.processes["sum"].server.commit_index >= 1 for n in three.running.values())

        await until(has_led, "a leader")
        raise TimeoutError

    async with nodes(tmp_path) as three, three.client("n1") as client:
        monkeypatch.setattr(Admin, "_wait_established", hears_nothing)
        with pytest.raises(NoLeader, match="hold entries by now, so they stay"):
            await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 3) == 3


async def test_a_leader_that_stops_asks_again_and_asks_those_within_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor out of reach is not asked, and one that was not up to date takes over when it is."""
    real, asked = Admin._transfer_here, list[ServerId]()

    async def refuse_once(self: Admin, leader: ServerId, target: ServerId, timeout_s: float) -> Any:
        asked.append(target)
        if len(asked) == 1:
            raise NotUpToDate("it lacks entries")
        return await real(self, leader, target, timeout_s)

    monkeypatch.setattr(Admin, "_transfer_here", refuse_once)
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        await three.stop("n2")
        await three.stop("n1")
        assert asked == [ServerId("sum", "n3")] * 2
