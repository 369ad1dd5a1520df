"""A way out when no code can apply an entry: all members leave it out (machine/skipping.py, `skip_entry`)."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.errors import BarqueError, Refused
from barque.machine.machine import CommandMeta
from barque.machine.skipping import skipping
from barque.types import NOBODY, Index, ReplyMode, ServerId, Term


async def stuck(some: Nodes, client: barque.Client, *, raise_min: int = 2) -> Index:
    """Send a command at which the machine raises; wait until so many members have; return its index."""
    with contextlib.suppress(BarqueError):
        await client.process_command("sum", "boom", timeout_s=0.5)
    processes = [node.system.processes["sum"] for node in some.running.values()]

    async def have_raised() -> bool:
        return sum(p.failure_index is not None for p in processes) >= raise_min

    await until(have_raised, "members to raise")
    [index] = {p.failure_index for p in processes if p.failure_index is not None}
    return Index(index)


async def has_sum(some: Nodes, node: str, expected: int) -> None:
    """Wait until the server on a node has applied what it should."""

    async def has() -> bool:
        process = some.running[node].system.processes.get("sum")
        return process is not None and bool(process.server.machine_state == expected)

    await until(has, f"{node} to have {expected}")


async def test_life1_all_members_leave_an_entry_out_and_go_on(tmp_path: Path) -> None:
    """LIFE-01: later members and restarts, too; every state is the same. Another entry is refused."""
    async with nodes(tmp_path, 4) as four, four.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2", "n3"])
        assert await client.process_command("sum", 1) == 1
        await four.stop("n4")
        index = await stuck(four, client)
        with pytest.raises(Refused, match=f"has raised at entry {index + 1}, but at"):
            await client.skip_entry("sum", Index(index + 1))
        assert await client.skip_entry("sum", index) == [ServerId("sum", n) for n in ("n1", "n2", "n3")]
        total = await until(lambda: client.process_command("sum", 2), "a leader")
        assert total == 3
        await four.start("n4")
        await client.add_member("sum", "n4")
        for node in ("n1", "n2", "n3", "n4"):
            await has_sum(four, node, 3)
        await four.stop()
        await four.start()
        assert await until(lambda: client.process_command("sum", 4), "a leader") == 7
        for node in ("n1", "n2", "n3", "n4"):
            await has_sum(four, node, 7)
            assert four.running[node].system.directory.get("sum").skipped == (index,)


async def test_life1_a_member_that_does_not_answer_has_not_agreed(tmp_path: Path) -> None:
    """LIFE-01: nothing is changed then; with all of them the same request works. It may be repeated."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        index = await stuck(three, client)
        await three.stop("n3")
        with pytest.raises(BarqueError):
            await client.skip_entry("sum", index, timeout_s=1.0)
        for node in ("n1", "n2"):
            assert three.running[node].system.directory.get("sum").skipped == ()
        await three.start("n3")
        await client.skip_entry("sum", index)
        await client.skip_entry("sum", index)
        assert await until(lambda: client.process_command("sum", 2), "a leader") == 2


class Telling(Adder):
    """An adder that tells its caller what nobody can be told."""

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
        """Ask for a message without an encoding."""
        if command == "boom":
            return state, None, [barque.SendMsg(meta.origin, object())]
        return super().apply(meta, command, state)


async def test_life1_an_effect_without_an_encoding_is_named_and_its_entry_can_be_left_out(
    tmp_path: Path,
) -> None:
    """Every member stops at the entry, not only the leader: so none has applied it, and all may skip it."""
    some = Nodes(tmp_path, 3)
    for name in ("n1", "n2", "n3"):
        await some.start(name, machines={"adder": Telling()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder")
            assert await client.process_command("sum", 1) == 1
            index = await stuck(some, client)
            status = await client.status()
            failures = [m.failure for c in status.clusters for m in c.members if m.failure]
            assert len(failures) >= 2
            for failure in failures:
                assert f"MachineFault: Telling.apply at index {index}: SendMsg holds" in failure
            await client.skip_entry("sum", index)
            assert await until(lambda: client.process_command("sum", 2), "a leader") == 3
    finally:
        await some.stop()


class Mild(Adder):
    """An adder that does not raise."""

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
        """As the adder's."""
        return (state, None) if command == "boom" else super().apply(meta, command, state)


async def test_life1_an_entry_that_a_member_has_applied_is_not_skipped(tmp_path: Path) -> None:
    """LIFE-01: its state would differ from the others'; nothing is changed."""
    some = Nodes(tmp_path, 3)
    await some.start("n1", "n2")
    await some.start("n3", machines={"adder": Mild()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder")
            await client.transfer_leadership("sum", "n3")

            async def n3_leads() -> bool:
                return await client.leader("sum") == ServerId("sum", "n3")

            await until(n3_leads, "n3 to lead")
            index = await stuck(some, client, raise_min=1)
            with pytest.raises(Refused, match=f"sum@n3 has applied entry {index}"):
                await client.skip_entry("sum", index)
            for node in some.running.values():
                assert node.system.directory.get("sum").skipped == ()
    finally:
        await some.stop()


def test_a_skipping_machine_is_of_the_same_class() -> None:
    """Only the entries that were named are left out, and the original goes on as it was."""
    machine = Adder()
    other = skipping(machine, frozenset((7,)))
    assert type(other) is Adder

    def meta(index: int) -> CommandMeta:
        return CommandMeta(Index(index), Term(1), 0, 0, NOBODY, ReplyMode.NOREPLY)

    assert other.apply(meta(7), 5, 1) == (1, None)
    assert other.apply(meta(8), 5, 1) == (6, 6)
    assert machine.apply(meta(7), 5, 1) == (6, 6)
