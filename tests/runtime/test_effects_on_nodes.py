"""Calls, appends from any state, plans and aux machines, on whole nodes (EFF and AUX rows)."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, until

import barque
from barque.core.messages import WalFailed
from barque.log.log import WalLog
from barque.log.read_plan import ReadPlan


class Busy(barque.Machine[list[Any]]):
    """Keeps commands, which name the effects that they ask for; its aux machine keeps what it is told."""

    def __init__(self) -> None:
        self.plans: list[ReadPlan] = []

    def init(self, args: dict[str, Any]) -> list[Any]:
        """No commands yet."""
        return []

    def apply(self, meta: barque.CommandMeta, command: Any, state: list[Any]) -> Any:
        """Keep it, and ask."""
        state.append(command)
        match command:
            case ["call", name, *arguments]:
                return state, None, barque.ModCall(name, arguments)
            case ["plan", indexes, node]:
                return state, None, barque.PlanRead(indexes, self._take, node)
            case "collect":
                return state, None, barque.GarbageCollect()
            case ["snap"]:
                return state, None, barque.ReleaseCursor(meta.index, state)
            case "try":
                return state, None, barque.Aux("try")
        return state, meta.index

    def _take(self, plan: ReadPlan) -> Any:
        self.plans.append(plan)
        return barque.Append("planned")

    def query(self, query: Any, state: list[Any]) -> Any:
        """All commands."""
        return state

    def init_aux(self, name: str) -> list[Any]:
        """What it was told."""
        return []

    def handle_aux(self, raft_state: str, kind: Any, command: Any, aux: Any, member: Any) -> barque.AuxResult:
        """Keep it; `["append", …]` appends from wherever this is."""
        match command:
            case ["append", value]:
                return barque.AuxResult(aux, effects=[barque.TryAppend(value)])
            case "heard":
                return barque.AuxResult(aux, reply=[list(item) for item in aux])
            case "look":
                stats = member.log_stats()
                facts = [stats["last_index"], member.wal_fill_ratio(), member.snapshot_size()]
                return barque.AuxResult(aux, reply=facts)
            case _:
                return barque.AuxResult([*aux, (raft_state, kind.value, command)])


@asynccontextmanager
async def busy(
    directory: Path, count: int, **functions: Any
) -> AsyncIterator[tuple[Nodes, barque.Client, dict[str, Busy]]]:
    """Nodes that have registered these functions, a cluster on all, and a client of the first."""
    some = Nodes(directory, count)
    machines = {name: Busy() for name in some.addresses}
    for name in some.addresses:
        node = barque.Node(some.config(name), {"busy": machines[name]}, checked=True)
        for called, function in functions.items():
            node.register_call(called, function)
        await node.start()
        some.running[name] = node
    try:
        async with some.client("n1") as client:
            await client.start_cluster("busy", "busy")
            yield some, client, machines
    finally:
        await some.stop()


def counted(some: Nodes, name: str) -> dict[str, int]:
    """A counter of each node's member."""
    return {node: getattr(n.servers.by_name["busy"].counters, name) for node, n in some.running.items()}


async def test_a_machine_calls_a_registered_function(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """EFF-03: once, on the leader, beside the loop; what it raises, and an unknown name, harm nobody."""
    calls: list[tuple[Any, ...]] = []
    goes_on = threading.Event()

    def note(*arguments: Any) -> None:
        calls.append((threading.current_thread() is threading.main_thread(), *arguments))

    def hang() -> None:
        goes_on.wait(20)

    functions = {"note": note, "hang": hang, "fail": lambda: 1 // 0}
    async with busy(tmp_path, 2, **functions) as (some, client, _):
        leader = await some.leader(client, "busy")
        with caplog.at_level(logging.CRITICAL):
            for command in (
                ["call", "hang"],
                ["call", "fail"],
                ["call", "nothing"],
                ["call", "note", {"a": [1]}],
            ):
                await client.process_command("busy", command)
        assert await client.process_command("busy", "and the loop goes on")
        assert not calls
        goes_on.set()

        async def has_called() -> bool:
            return calls == [(False, {"a": [1]})]

        await until(has_called, "the call")
        assert counted(some, "mod_calls") == {"n1": 0, "n2": 0} | {leader: 4}
        assert counted(some, "mod_call_failures") == {"n1": 0, "n2": 0} | {leader: 2}
        with pytest.raises(barque.ConfigurationError, match="'note' is registered"):
            some.running["n1"].register_call("note", note)


async def test_any_member_appends(tmp_path: Path) -> None:
    """EFF-05: a leader appends; a follower sends the command to the leader; each is applied once."""
    async with busy(tmp_path, 3) as (some, client, _):
        for name in some.addresses:
            async with some.client(name) as near:
                await near.cast_aux_command("busy", ["append", f"from {name}"])

        async def has_all() -> bool:
            found = await client.consistent_query("busy")
            return sorted(found) == ["from n1", "from n2", "from n3"]

        await until(has_all, "one command of each member")


async def test_a_machine_gets_a_plan_to_read_its_log(tmp_path: Path) -> None:
    """EFF-13, EFF-30: the leader, or the voter on the named node; the plan is executed in a thread."""
    async with busy(tmp_path, 2) as (some, client, machines):
        leader = await some.leader(client, "busy")
        follower = "n2" if leader == "n1" else "n1"
        first = await client.process_command("busy", "first")
        for node, chosen in ((None, leader), (follower, follower)):
            await client.process_command("busy", ["plan", [first], node])
            plans = machines[chosen].plans

            async def has_plan(plans: list[ReadPlan] = plans) -> bool:
                return len(plans) == 1

            await until(has_plan, "the plan")
            with plans.pop() as plan:
                entries = await asyncio.to_thread(list, plan.execute())
            assert [(entry.index, entry.command) for entry in entries] == [(first, "first")]
        assert all(not machine.plans for machine in machines.values())
        assert (await client.consistent_query("busy")).count("planned") == 1  # a follower appends nothing


async def test_garbage_is_collected_and_counted(tmp_path: Path) -> None:
    """EFF-19: on every member."""
    async with busy(tmp_path, 2) as (some, client, _):
        await client.process_command("busy", "collect")

        async def has_collected() -> bool:
            return counted(some, "forced_gcs") == {"n1": 1, "n2": 1}

        await until(has_collected, "the garbage of both")


async def test_clients_tell_an_aux_machine(tmp_path: Path) -> None:
    """AUX-03, API-23: the member on the connected node, without a reply; an unknown cluster is an error."""
    async with busy(tmp_path, 2) as (some, client, _):
        async with some.client("n2") as other:
            assert await other.cast_aux_command("busy", "hello") is None
            await other.cluster("busy").cast_aux_command("again")
            heard = await other.aux_command("busy", "heard")
            assert [item[1:] for item in heard if item[2] in ("hello", "again")] == [
                ["cast", "hello"],
                ["cast", "again"],
            ]
        assert not [item for item in await client.aux_command("busy", "heard") if item[2] == "hello"]
        with pytest.raises(barque.UnknownCluster):
            await client.cast_aux_command("nothing", 1)


async def test_an_aux_machine_sees_figures_of_its_log(tmp_path: Path) -> None:
    """AUX-05: the log's overview, how full the write-ahead log is, and the size of the snapshot."""
    async with busy(tmp_path, 1) as (some, client, _):
        last, ratio, size = await client.aux_command("busy", "look")
        assert 0 < ratio < 1
        assert (last, size) == (1, 0)
        for number in range(some.running["n1"].config.snapshots.min_interval + 1):
            client.pipeline_command("busy", number, priority="normal")
        await client.process_command("busy", ["snap"])

        async def has_snapshot() -> bool:
            return bool((await client.aux_command("busy", "look"))[2] > 0)

        await until(has_snapshot, "a snapshot")


async def test_an_aux_machine_hears_ticks_while_its_member_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUX-03: a leader whose log has failed waits in `await_condition`; its aux machine is ticked."""
    async with busy(tmp_path, 1) as (some, client, _):
        process = some.running["n1"].servers.by_name["busy"]
        monkeypatch.setattr(WalLog, "can_write", lambda _self: False)
        process.handle(WalFailed("EIO"))

        async def is_ticked() -> bool:
            heard = await client.aux_command("busy", "heard")
            return ["await_condition", "cast", "tick"] in heard

        await until(is_ticked, "a tick")


async def test_an_aux_machine_runs_while_a_snapshot_is_received(tmp_path: Path) -> None:
    """AUX-06: the leader sends the beginning of a snapshot, and its member here waits for the rest."""
    some = Nodes(tmp_path, 2, snapshots=barque.SnapshotsConfig(min_interval=1, chunk_size_bytes=4096))
    await some.start(machines={"busy": Busy()})
    try:
        async with some.client("n1") as client, some.client("n2") as late:
            await client.start_cluster("busy", "busy", nodes=["n1"])
            for _ in range(20):
                await client.process_command("busy", "x" * 2_000)
            await client.process_command("busy", ["snap"])
            leader = some.running["n1"]

            async def has_snapshot() -> bool:
                return leader.servers.by_name["busy"].server.log.snapshot_index_term().index > 0

            await until(has_snapshot, "a snapshot")
            sent: list[Any] = []
            real = leader.system.performer._send_piece

            def send_two(process: Any, member: Any, sender: Any) -> None:
                if len(sent) < 2:
                    sent.append(member)
                    real(process, member, sender)

            leader.system.performer._send_piece = send_two  # type: ignore[method-assign]
            await client.add_member("busy", "n2", membership=barque.Membership.NON_VOTER)

            async def answers() -> bool:
                await late.cast_aux_command("busy", "in between")
                heard = await late.aux_command("busy", "heard")
                return ["receive_snapshot", "cast", "in between"] in heard

            await until(answers, "the aux machine of a member that receives")
    finally:
        await some.stop()
