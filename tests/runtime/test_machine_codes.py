"""D5: nodes that run different code of a machine say so, and a member stops before it diverges."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import nodes, until

import barque
from barque.errors import BarqueError
from barque.runtime.machine_codes import MachineCodes
from barque.transport.wire import MachineCode, MachinesAre


class Add(msgspec.Struct, frozen=True, array_like=True, tag="add"):
    """Every node knows it."""

    by: int


class Mul(msgspec.Struct, frozen=True, array_like=True, tag="mul"):
    """Only one node knows it."""

    by: int


class OldSum(barque.Machine[int]):
    """Adds."""

    command_type = Add

    def init(self, args: dict[str, Any]) -> int:
        """Zero."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The new sum."""
        state = state * command.by if isinstance(command, Mul) else state + command.by
        return state, state

    def query(self, query: Any, state: int) -> int:
        """The sum."""
        return state


class NewSum(OldSum):
    """Multiplies as well; its author forgot to raise the version."""

    command_type = Add | Mul


async def test_d5_different_code_is_seen_and_stops_the_member(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D5: `status` and the log name the nodes and the machine. The command that only one node knows stops
    the others; with the right code they go on where they stopped.
    """
    async with nodes(tmp_path) as three, three.client(timeout_s=2.0) as client:
        await three.stop()
        await three.start("n1", machines={"sum": NewSum()})
        await three.start("n2", "n3", machines={"sum": OldSum()})

        async def warned() -> bool:
            found = {node.name: node.other_machine_code for node in (await client.status()).nodes}
            return found["n1"] == {"n2": ("sum",), "n3": ("sum",)} and "n3" not in found["n2"]

        await until(warned, "status to name the nodes")
        assert any("runs other code of sum" in record.getMessage() for record in caplog.records)
        await client.start_cluster("sum", "sum", nodes=["n1", "n2", "n3"])
        await until(lambda: client.transfer_leadership("sum", "n1"), "n1 to lead")

        async def lead() -> bool:
            return await three.leader(client, "sum") == "n1"

        await until(lead, "n1 to lead")
        assert await client.process_command("sum", Add(4)) == 4
        with contextlib.suppress(BarqueError):  # the followers stop before or after they acknowledge it
            await client.process_command("sum", Mul(10))
            await client.process_command("sum", Add(1), timeout_s=0.5)

        async def stopped() -> bool:
            processes = [three.running[name].system.processes["sum"] for name in ("n2", "n3")]
            return all("other code" in (process.failure or "") for process in processes)

        await until(stopped, "the members without the code to stop")
        await three.stop("n2", "n3")
        await three.start("n2", "n3", machines={"sum": NewSum()})

        await until(lambda: client.process_command("sum", Add(1)), "the cluster to serve again")

        async def agree() -> bool:
            servers = [node.system.processes["sum"].server for node in three.running.values()]
            return len({(server.last_applied, server.machine_state) for server in servers}) == 1

        await until(agree, "all members to have the same state")


def test_other_versions_and_unknown_machines_are_no_difference() -> None:
    """An upgrade under way is no fault, and nodes need not have the same machines."""
    codes = MachineCodes("n1", {"sum": OldSum()})
    [own] = codes.message().machines.values()
    codes.heard("n2", MachinesAre({"sum": MachineCode(1, "another"), "else": MachineCode(0, "x")}))
    assert codes.overview() == {}
    codes.heard("n2", MachinesAre({"sum": MachineCode(own.version, "another")}))
    assert codes.overview() == {"n2": ["sum"]}
    codes.heard("n2", codes.message())
    assert codes.overview() == {}
