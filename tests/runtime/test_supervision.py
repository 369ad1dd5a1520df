"""Servers that start again by themselves, and servers that do not (runtime/supervision.py)."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.errors import Damaged, InvariantViolation, MachineFault, StorageError
from barque.runtime.server_process import ServerProcess


def process_of(some: Nodes, node: str, cluster: str = "sum") -> ServerProcess:
    """The server of a cluster on a node."""
    return some.running[node].system.processes[cluster]


async def test_life1_a_server_whose_disk_fails_starts_again_some_times(tmp_path: Path) -> None:
    """LIFE-01, SYS-25: it comes back by itself and catches up; a third failure within the period is the last.

    An operator starts it again, and it may fail as often as before. Its neighbours notice nothing.
    """
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await client.start_cluster("other", "adder")
        neighbour = process_of(three, "n3", "other")

        async def fails(expected: str) -> ServerProcess:
            failed = process_of(three, "n3")
            failed.fail(StorageError("segment 7: cannot be read: EIO"))

            async def is_so() -> bool:
                process = process_of(three, "n3")
                other = process is not failed and process.failure is None
                return other if expected == "runs" else "stays down" in str(process.failure)

            await until(is_so, expected)
            return process_of(three, "n3")

        assert await client.process_command("sum", 1) == 1
        assert (await fails("runs")).restarts == 1
        assert (await fails("runs")).restarts == 2
        assert await client.process_command("sum", 2) == 3
        down = await fails("stays down")
        assert "barque server restart sum n3" in str(down.failure)
        status = await client.status(["sum"])
        [member] = [m for m in status.clusters[0].members if m.server.node == "n3"]
        assert (member.role, member.restarts) == ("failed", 2)
        assert await client.process_command("sum", 3) == 6
        await client.restart_server("sum", "n3")
        assert (await fails("runs")).restarts == 1

        async def has_all() -> bool:
            return bool(process_of(three, "n3").server.machine_state == 6)

        await until(has_all, "the server to catch up")
        assert process_of(three, "n3", "other") is neighbour
        assert await client.process_command("other", 1) == 1


@pytest.mark.parametrize(
    "error", [MachineFault("m"), InvariantViolation("i"), Damaged("d"), AssertionError("a")]
)
async def test_life1_other_failures_are_left_to_people(tmp_path: Path, error: Exception) -> None:
    """LIFE-01: a machine's error, a violated invariant and damage do not go away by a start."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        system, process = one.running["n1"].system, process_of(one, "n1")
        process.fail(error)
        system.tick()
        system.tick()
        assert process_of(one, "n1") is process
        assert process.restarts == 0


async def test_life1_a_server_that_was_stopped_meanwhile_stays_stopped(tmp_path: Path) -> None:
    """LIFE-01: the operator's word counts more. A restart that the disk refuses is tried again."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        system, process = one.running["n1"].system, process_of(one, "n1")
        process.fail(StorageError("a test"))
        system.stop(process)
        system.tick()
        assert process_of(one, "n1") is process
        assert system.directory.get("sum").stopped
        await client.restart_server("sum")
        assert await until(lambda: client.process_command("sum", 1), "a leader") == 1
        process = process_of(one, "n1")
        real = system.storage.sync_meta

        def refuse() -> None:
            system.storage.sync_meta = real  # type: ignore[method-assign]  # once
            raise StorageError("the meta store: EIO")

        system.storage.sync_meta = refuse  # type: ignore[method-assign]
        process.fail(OSError("a test"))

        async def runs() -> bool:
            return process_of(one, "n1").failure is None

        await until(runs, "the second attempt")
        assert await until(lambda: client.process_command("sum", 1), "a leader") == 2


class Bad(Adder):
    """An adder that misbehaves as it is told."""

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """Raise, block the loop, or return what is no result."""
        match command:
            case "block":
                time.sleep(0.4)
                return state, "slept"
            case "nonsense":
                return 7
            case "empty":
                return ()
            case _:
                return super().apply(meta, command, state)


@pytest.mark.parametrize("command", ["boom", "nonsense", "empty"])
async def test_life1_a_bad_apply_stops_its_cluster_alone_and_names_machine_and_index(
    tmp_path: Path, command: str
) -> None:
    """An `apply` that raises or returns nonsense: `status` names machine and entry; other clusters go on."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"bad": Bad(), "adder": Adder()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "bad")
            await client.start_cluster("other", "adder")
            assert await client.process_command("sum", 1) == 1
            with pytest.raises(barque.BarqueError):
                await client.process_command("sum", command, timeout_s=0.5)
            status = await client.status()
            members = {c.name: c.members[0] for c in status.clusters}
            assert members["sum"].role == "failed"
            failure = members["sum"].failure or ""
            assert "MachineFault" in failure
            assert "Bad" in failure
            assert "index 3" in failure
            assert members["other"].role == "leader"
            assert await client.process_command("other", 1) == 1
    finally:
        await some.stop()


async def test_life1_a_slow_apply_costs_no_leadership(tmp_path: Path) -> None:
    """An `apply` that blocks each member's loop: the node says so, and other clusters go on."""
    some = Nodes(tmp_path, 3)
    await some.start(machines={"bad": Bad(), "adder": Adder()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "bad")
            await client.start_cluster("other", "adder")
            assert await client.process_command("other", 1) == 1
            assert await client.process_command("sum", "block") == "slept"
            assert await client.process_command("other", 1) == 2
            stalls = [node.longest_stall_ms for node in (await client.status()).nodes]
            assert max(stalls) > 300
    finally:
        await some.stop()
