"""Programs in the node's process: values, order, limits, ends (runtime/client_session.py, local.py)."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.client.local import NodeSubmitter
from barque.errors import Overloaded, Stopped
from barque.runtime.reply_encoding import values_of

FOREVER_MS = 60_000


class Lists(barque.Machine[list[int]]):
    """Appends, and replies with its very state: the same list each time."""

    def init(self, args: dict[str, Any]) -> list[int]:
        """Empty."""
        return []

    def apply(self, meta: barque.CommandMeta, command: Any, state: list[int]) -> Any:
        """The state itself, or a pair."""
        if command == "pair":
            return state, (1, "two")
        state.append(command)
        return state, state

    def query(self, query: Any, state: list[int]) -> list[int]:
        """The state itself."""
        return state


async def submitted(submitter: NodeSubmitter, *commands: Any, cluster: str = "sum") -> list[Any]:
    """The outcomes of commands that were submitted in one turn."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in commands]
    for command, future in zip(commands, futures, strict=True):
        submitter.command(cluster, msgspec.msgpack.encode(command), future.set_result, FOREVER_MS)
    return list(await asyncio.gather(*futures))


async def test_a_reply_does_not_change_with_the_machine(tmp_path: Path) -> None:
    """A machine may reply with its state, which the next command changes: the caller keeps what it was."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"lists": Lists()})
    try:
        node = some.running["n1"]
        async with barque.local_client(node) as client:
            await client.start_cluster("sum", "lists")
            submitter, told = NodeSubmitter(node), list[Any]()
            for command in (1, 2, "pair"):
                told += await submitted(submitter, command)
            assert told == [[1], [1, 2], [1, "two"]]
            first = await client.process_command("sum", 3)
            assert await client.process_command("sum", 4) == [1, 2, 3, 4]
            assert first == [1, 2, 3]
            read = await client.consistent_query("sum")
            local = await client.local_query("sum")
            first.append(99)
            read.append(99)
            local.append(99)
            state = node.system.processes["sum"].server.machine_state
            assert state == [1, 2, 3, 4]
    finally:
        await some.stop()


@pytest.mark.parametrize("leader", ["n1", "n2"])
async def test_replies_do_not_depend_on_where_the_leader_is(tmp_path: Path, leader: str) -> None:
    """On this node or another: the same values, and the same outcome for a reply that is no value."""
    some = Nodes(tmp_path, 2)
    await some.start(machines={"lists": Lists(), "adder": Adder()})
    try:
        node = some.running["n1"]
        async with some.client() as client:
            await client.start_cluster("sum", "lists")
            await client.start_cluster("plain", "adder")
            for cluster in ("sum", "plain"):

                async def leads(cluster: str = cluster) -> bool:
                    await client.transfer_leadership(cluster, leader)
                    return node.requests.leader_of(cluster) == barque.ServerId(cluster, leader)

                await until(leads, "the leader")
        assert await submitted(NodeSubmitter(node), "pair") == [[1, "two"]]
        first, opaque, last = await submitted(NodeSubmitter(node), 1, "opaque", 2, cluster="plain")
        assert (first, type(opaque), last) == (1, barque.OutcomeUnknown, 3)
    finally:
        await some.stop()


def test_values_are_those_of_msgpack() -> None:
    """Plain values are passed on as they are; all others as msgpack would deliver them."""
    text, data, nested = "plain", b"bytes", {"k": (1, 2)}
    values, without = values_of([None, True, 1.5, -(2**63), text, data, "ä", nested, 2**64, "\ud800"])
    assert values[:9] == [None, True, 1.5, -(2**63), text, data, "ä", {"k": [1, 2]}, None]
    assert (values[4] is text, values[5] is data, values[7] is nested) == (True, True, False)
    assert without == [8, 9]
    assert values_of(msgspec.Raw(msgspec.msgpack.encode([1, [2]]))) == ([1, [2]], [])


async def test_commands_of_one_submitter_are_applied_in_order(tmp_path: Path) -> None:
    """Whatever their times, and with reads between them."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"lists": Lists()})
    try:
        async with barque.local_client(some.running["n1"]) as client:
            await client.start_cluster("sum", "lists")
            submitter, told = NodeSubmitter(some.running["n1"]), list[Any]()
            for number in range(50):
                payload, timeout_ms = msgspec.msgpack.encode(number), FOREVER_MS + number % 3
                submitter.command("sum", payload, told.append, timeout_ms)
                if number % 7 == 0:
                    submitter.query("sum", b"\xc0", "consistent", lambda _: None, FOREVER_MS)

            async def all_told() -> bool:
                return len(told) == 50

            await until(all_told, "all outcomes")
            assert told[-1] == list(range(50))
    finally:
        await some.stop()


async def test_more_than_may_wait_is_refused_alone(tmp_path: Path) -> None:
    """Those that found room are applied; the others did not happen, and each hears so once."""
    async with nodes(tmp_path, 1, pending_commands_max=10) as single:
        node = single.running["n1"]
        async with barque.local_client(node) as client:
            await client.start_cluster("sum", "adder")
            told = await submitted(NodeSubmitter(node), *([1] * 15))
            assert told[:10] == list(range(1, 11))
            assert [type(outcome) for outcome in told[10:]] == [Overloaded] * 5
            assert await client.consistent_query("sum") == 10
        assert node.requests.overview() == {"waiting": 0, "waiting_bytes": 0, "queued": {}}


async def test_submitted_commands_end_with_their_node(tmp_path: Path) -> None:
    """What was queued did not happen; what was sent may have; nothing waits on, and nothing more is taken."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.transfer_leadership("sum", "n1")
        node = three.running["n1"]
        submitter, told = NodeSubmitter(node), dict[str, Any]()
        await three.stop("n2", "n3")
        submitter.command("sum", b"\x01", lambda outcome: told.setdefault("sent", outcome), FOREVER_MS)
        submitter.command("other", b"\x01", lambda outcome: told.setdefault("queued", outcome), FOREVER_MS)
        submitter.query("sum", b"\xc0", "consistent", lambda o: told.setdefault("read", o), FOREVER_MS)

        async def is_sent() -> bool:
            return node.requests.overview()["queued"] == {"other": 1}

        await until(is_sent, "the command to be sent")
        await three.stop("n1")
        kinds = {name: type(outcome) for name, outcome in told.items()}
        assert kinds == {"sent": barque.OutcomeUnknown, "queued": Stopped, "read": Stopped}
        with pytest.raises(Stopped, match="n1 has stopped"):
            submitter.command("sum", b"\x01", told.clear, FOREVER_MS)  # type: ignore[arg-type]


async def test_a_callback_that_fails_harms_nobody(tmp_path: Path) -> None:
    """The other callers of its turn get their outcome, and the node goes on."""
    async with nodes(tmp_path, 1) as single, barque.local_client(single.running["n1"]) as client:
        await client.start_cluster("sum", "adder")
        submitter, told = NodeSubmitter(single.running["n1"]), list[Any]()

        def bad(_outcome: Any) -> None:
            raise ValueError("a test")

        for done in (told.append, bad, told.append):
            submitter.command("sum", b"\x01", done, FOREVER_MS)

        async def all_told() -> bool:
            return len(told) == 2

        await until(all_told, "the others")
        assert told == [1, 3]
        assert await client.process_command("sum", 1) == 4


async def test_a_client_that_is_closed_takes_back_what_was_not_sent(tmp_path: Path) -> None:
    """A queued command of a closed client is never sent; it is told that it did not happen."""
    async with nodes(tmp_path, 1) as single:
        node = single.running["n1"]
        client = barque.local_client(node, timeout_s=60.0)
        await client.connect()
        waiting = asyncio.ensure_future(client.process_command("nowhere", 1))

        async def is_queued() -> bool:
            return node.requests.overview()["queued"] == {"nowhere": 1}

        await until(is_queued, "the command to be queued")
        await client.close()
        with pytest.raises(Stopped, match="the client was closed"):
            await waiting
        assert node.requests.overview()["waiting"] == 0
        assert node.sessions.listening == 0
