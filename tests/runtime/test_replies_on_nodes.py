"""Replies that a machine gives later, on whole nodes (EFF-04, EFF-21, EFF-22, CMD-05)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, nodes, until

import barque
from barque.core.effects import Applied
from barque.machine.replicated import machine_of
from barque.types import ReplyMode, ReplyTo, ServerId


class Gate(barque.Machine[list[ReplyTo]]):
    """Lets callers wait until another one opens the gate for the first, or the last, of them."""

    def init(self, args: dict[str, Any]) -> list[ReplyTo]:
        """Nobody waits."""
        return []

    def apply(self, meta: barque.CommandMeta, command: Any, state: list[ReplyTo]) -> Any:
        """Keep a caller, or answer one."""
        match command:
            case "wait":
                assert meta.reply_from is not None
                return [*state, meta.reply_from], barque.LATER
            case ["open", value]:
                return state[1:], "opened", barque.Reply(state[0], value)
            case ["open twice", first, second]:
                return state[1:], None, [barque.Reply(state[0], first), [barque.Reply(state[0], second)]]
            case ["pass on", value]:
                return state[1:], "passed", barque.Append(["say", value], reply_to=state[0])
            case ["say", value]:
                return state, ["said", value]
            case ["open by", by]:
                chosen = ServerId.parse(by) if "@" in by else by
                return state[1:], "opened", barque.Reply(state[0], by, by=chosen)
            case "meta":
                return state, meta.reply_from is None
            case _:
                return state, command

    def query(self, query: Any, state: list[ReplyTo]) -> int:
        """How many wait."""
        return len(state)


class Desk(barque.Replicated):
    """Answers the one who asked when somebody knows."""

    asker: ReplyTo | None = None

    @barque.command
    def ask(self, meta: barque.CommandMeta) -> str:
        """The answer of `tell`."""
        self.asker = meta.reply_from
        return barque.LATER

    @barque.command
    def tell(self, effects: barque.Effects, answer: str) -> bool:
        """Whether somebody had asked."""
        asker, self.asker = self.asker, None
        if asker is not None:
            effects.append(barque.Reply(asker, answer))
        return asker is not None


GATE = {"gate": Gate()}


async def waits(client: barque.Client, count: int = 1) -> None:
    """Wait until so many callers wait at the gate."""

    async def does() -> bool:
        return bool(await client.consistent_query("gate") == count)

    await until(does, "callers at the gate")


async def start(some: Nodes, client: barque.Client) -> None:
    """Form the cluster, on all nodes."""
    await some.stop()
    await some.start(machines=GATE)
    await client.connect()
    await client.start_cluster("gate", "gate")


async def test_a_machine_answers_a_caller_later(tmp_path: Path) -> None:
    """EFF-21: the first reply is the one, from whichever node the caller came; others do not wait with it."""
    async with nodes(tmp_path) as three:
        client = three.client("n1")
        await start(three, client)
        async with client, three.client("n2") as second, three.client("n3") as third:
            early = [asyncio.ensure_future(second.process_command("gate", c)) for c in ("wait", 1, "wait", 2)]
            waiting = [early[0], early[2], asyncio.ensure_future(third.process_command("gate", "wait"))]
            assert await early[1], await early[3] == (1, 2)
            await waits(client, 3)
            assert not any(task.done() for task in waiting)
            assert await client.process_command("gate", ["open", {"a": 1}]) == "opened"
            await client.process_command("gate", ["open twice", "first", "second"])
            assert await asyncio.gather(*waiting[:2]) == [{"a": 1}, "first"]
            await client.process_command("gate", ["open", None])
            assert await waiting[2] is None


async def test_the_reply_of_an_appended_command_reaches_the_caller_that_waits(tmp_path: Path) -> None:
    """EFF-04: `Append(command, reply_to=…)`; in one process, too, and for a pipelined command."""
    async with nodes(tmp_path, 1) as single:
        client = single.client()
        await start(single, client)
        async with client, barque.local_client(single.running["n1"]) as inside:
            for caller in (client, inside):
                caller.pipeline_command("gate", "wait", "mine", priority="normal")
                await waits(client)
                assert await client.process_command("gate", ["pass on", 7]) == "passed"
                [told] = await caller.take_notifications()
                assert (told.correlation, told.reply) == ("mine", ["said", 7])


async def test_nobody_waits_for_some_commands(tmp_path: Path) -> None:
    """CMD-19: a caller that is answered at the append, or never, has no `reply_from`."""
    meta = barque.CommandMeta(
        barque.Index(1), barque.Term(1), 0, 0, barque.ClientRef("n1", 5), ReplyMode.NOTIFY, 9
    )
    assert meta.reply_from == ReplyTo(barque.ClientRef("n1", 5), 9)
    async with nodes(tmp_path, 1) as single:
        client = single.client()
        await start(single, client)
        async with client:
            assert await client.process_command("gate", "meta") is False


async def test_a_caller_that_is_not_answered_in_time_hears_that_it_may_have_happened(tmp_path: Path) -> None:
    """EFF-21, CMD-15: at its deadline, and at once when another leader takes over; a reply is too late."""
    async with nodes(tmp_path) as three:
        client = three.client("n1")
        await start(three, client)
        async with client:
            with pytest.raises(barque.CommandTimeout):
                await client.process_command("gate", "wait", timeout_s=0.1)
            waiting = asyncio.ensure_future(client.process_command("gate", "wait"))
            await waits(client, 2)
            leader = await three.leader(client, "gate")
            heir = next(name for name in three.addresses if name != leader)
            await client.transfer_leadership("gate", ServerId("gate", heir))
            with pytest.raises(barque.OutcomeUnknown, match="leadership passed"):
                await waiting
            assert await client.process_command("gate", ["open", 1]) == "opened"
            assert await client.process_command("gate", ["open", 2]) == "opened"


async def test_a_machine_chooses_which_member_answers(tmp_path: Path) -> None:
    """EFF-22, EFF-30: the leader, the voter on the caller's node, or a named member; else the leader."""
    async with nodes(tmp_path) as three:
        client = three.client("n1")
        await start(three, client)
        async with client:
            leader = await three.leader(client, "gate")
            near, other = (name for name in three.addresses if name != leader)
            answers: list[tuple[str, Any]] = []
            for name, node in three.running.items():

                def answer(applied: Applied, name: str = name, real: Any = node.sink.answer) -> None:
                    answers.append((name, applied.replies))
                    real(applied)

                node.sink.answer = answer  # type: ignore[method-assign]
            async with three.client(near) as caller:
                choices = {
                    "leader": leader,
                    "local": near,
                    f"gate@{other}": other,
                    "gate@n9": leader,
                }
                for choice in choices:
                    waiting = asyncio.ensure_future(caller.process_command("gate", "wait"))
                    await waits(client)
                    await client.process_command("gate", ["open by", choice])
                    assert await waiting == choice
            for choice, by in choices.items():
                assert [name for name, replies in answers if replies == [choice]] == [by]


async def test_a_method_answers_later(tmp_path: Path) -> None:
    """EFF-21: a `Replicated` class, too; the answer has the method's type."""
    machine_of(Desk)
    async with nodes(tmp_path, 1) as single:
        await single.stop()
        await single.start(machines={"desk": Desk})
        async with single.client() as client:
            await client.start_cluster("desk", "desk")
            desk = client.cluster("desk").object(Desk)
            asked = asyncio.ensure_future(desk.call(Desk.ask))

            async def told() -> bool:
                return await desk.call(Desk.tell, "42")

            await until(told, "the question")
            assert await asked == "42"
            assert await desk.call(Desk.tell, "43") is False
