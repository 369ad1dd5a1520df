"""Floods of clients against real nodes: they hurt themselves, and others are served."""

import asyncio
import contextlib
import gc
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import SECRET, Nodes, until

import barque
from barque.errors import InvalidCommand
from barque.machine.kv_commands import Get, Set
from barque.runtime.node_rpc import Caller
from barque.transport.client_link import ClientLink
from barque.transport.wire import (
    ClientAnswer,
    ClientCall,
    ClientCallReply,
    ClientCommands,
    ClientFailed,
    ClientQueries,
    ClientReplies,
)
from barque.types import ReplyMode

MIB = 1024 * 1024
KV = barque.ClusterConfig("kv", "kv")


class Raw:
    """A client without manners: it sends what it likes, and remembers every answer."""

    def __init__(self) -> None:
        self.answers: list[ClientAnswer] = []
        self.link: ClientLink

    async def connect(self, address: str) -> "Raw":
        """Connect to a node."""
        self.link = await ClientLink.connect(
            address, "barque", SECRET.encode(), on_answers=self.answers.extend, on_closed=lambda _: None
        )
        return self

    def send(self, *requests: Any) -> None:
        """Send these in one frame."""
        self.link.send(list(requests))
        self.link.flush()


@contextlib.asynccontextmanager
async def one_node(directory: Path, **settings: Any) -> AsyncIterator[tuple[Nodes, barque.Node]]:
    """A node with a key-value store that has its leader."""
    made = Nodes(directory, 1, clusters=(KV,), **settings)
    await made.start()
    try:
        async with made.client() as client:
            await until(lambda: client.leader("kv"), "a leader")
        yield made, made.running["n1"]
    finally:
        await made.stop()


def commands(cluster: str, first: int, count: int, timeout_ms: int = 60_000) -> ClientCommands:
    """Small commands."""
    columns = struct.pack(f"<{count}I", *[1] * count) + b"\x01" * count
    return ClientCommands(cluster, first, count, columns, ReplyMode.AWAIT_CONSENSUS, timeout_ms)


async def test_sec10_waiting_work_ends_with_its_client(tmp_path: Path) -> None:
    """Half a million commands for a cluster that nobody knows: others are served; a disconnect frees all."""
    async with one_node(tmp_path) as (made, node):
        flood = await Raw().connect(made.addresses["n1"])
        for number in range(20):
            flood.send(commands("nowhere", 1 + number * 60_000, 60_000))

        async def refused() -> bool:
            return any(isinstance(a, ClientFailed) and a.error == "Overloaded" for a in flood.answers)

        assert await until(refused, "the share")
        assert 100_000 <= node.requests.overview()["waiting"] <= 500_000
        async with made.client() as other:
            assert await other.process_command("kv", Set(b"k", b"v"))
        flood.link.close()

        async def freed() -> bool:
            found = node.requests.overview()
            return found["waiting"] == found["waiting_bytes"] == 0

        assert await until(freed, "an empty router")
        assert "nowhere" not in node.requests._routes


async def test_sec11_requests_for_unknown_clusters_leave_nothing(tmp_path: Path) -> None:
    """Reads and commands for thousands of names: once they have failed the node knows none of these names."""
    async with one_node(tmp_path) as (made, node):
        known = set(node.requests._routes)
        raw = await Raw().connect(made.addresses["n1"])
        count = 3_000
        raw.send(*(ClientQueries(f"no-{n}", 1 + n, (b"\x01",), "leader", 50) for n in range(count)))
        raw.send(*(commands(f"not-{n}", 10_000 + n, 1, 50) for n in range(count)))

        async def answered() -> bool:
            return sum(a.count for a in raw.answers if isinstance(a, ClientFailed)) == 2 * count

        assert await until(answered, "all refusals")
        assert set(node.requests._routes) == known
        async with made.client() as client:
            with pytest.raises(InvalidCommand, match="is no name of a cluster"):
                await client.process_command("x" * 300, 1)
        raw.link.close()


async def test_sec10_administration_is_bounded_for_each_client(tmp_path: Path) -> None:
    """A client's calls that wait lock nobody else out, whether it stays or goes."""
    async with one_node(tmp_path) as (made, node):
        flood = await Raw().connect(made.addresses["n1"])
        waits = {"cluster": "nowhere", "member": "n1"}
        flood.send(*(ClientCall(n, "member_remove", waits, 60_000) for n in range(1, 101)))

        async def refused() -> bool:
            answers = [a for a in flood.answers if isinstance(a, ClientCallReply)]
            return [a.error for a in answers] == ["Overloaded"] * 68

        assert await until(refused, "the share")
        assert node.rpc.working >= 32
        async with made.client() as other:
            assert (await other.status()).nodes
        flood.link.close()
        crowd = [await Raw().connect(made.addresses["n1"]) for _ in range(20)]
        for raw in crowd:
            raw.send(*(ClientCall(n, "member_remove", waits, 60_000) for n in range(1, 33)))
        async with made.client() as other:
            assert (await other.ping()).node == "n1"
            for raw in crowd:
                raw.link.close()

            async def found_place() -> bool:
                return (await other.ping()).node == "n1"

            assert await until(found_place, "a place")


async def test_sec10_questions_end_with_their_client(tmp_path: Path) -> None:
    """Nobody hears the answer, so nobody works on it."""
    async with one_node(tmp_path) as (made, node):
        begun, ended = asyncio.Event(), asyncio.Event()

        async def slow(_verb: str, _arguments: dict[str, Any]) -> None:
            begun.set()
            try:
                await asyncio.sleep(600)
            finally:
                ended.set()

        node.rpc._handler = slow
        raw = await Raw().connect(made.addresses["n1"])
        raw.send(ClientCall(1, "status", {}, 60_000))
        await asyncio.wait_for(begun.wait(), 20)
        raw.link.close()
        await asyncio.wait_for(ended.wait(), 20)


async def test_sec10_arguments_of_administration_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Large arguments of calls that wait are refused beyond the share of their client."""
    async with one_node(tmp_path) as (_, node):
        answers: list[Any] = []

        async def slow(_verb: str, _arguments: dict[str, Any]) -> None:
            await asyncio.sleep(600)

        node.rpc._handler = slow
        caller = Caller("a client", is_client=True)
        for _ in range(5):
            node.rpc.serve("status", {"x": bytes(12 * MIB)}, lambda *answer: answers.append(answer), caller)
        assert [answer[1] for answer in answers] == ["Overloaded"] * 3
        node.rpc.caller_gone(caller)

        async def freed() -> bool:
            return caller.bytes == 0 and not caller.tasks

        assert await until(freed, "the memory")


async def test_sec4_answers_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    """Many clients ask for large values and read nothing: memory stays bounded, and another one is served.

    The reads that do not fit are refused, which the clients find when they read again.
    """
    async with one_node(tmp_path) as (made, node):
        async with made.client(timeout_s=20.0) as setter:
            await setter.process_command("kv", Set(b"big", bytes(4 * MIB)))
        probe = msgspec.msgpack.encode(Get(b"big"))
        deaf = [await Raw().connect(made.addresses["n1"]) for _ in range(10)]
        for raw in deaf:
            transport = raw.link._connection._transport
            assert transport
            transport.pause_reading()
            raw.send(ClientQueries("kv", 1, (probe,) * 130, "leader", 30_000))
        budget = node.transport.output_budget

        async def stalled() -> bool:
            return budget.used > budget.total_max // 2

        assert await until(stalled, "unread answers")
        assert budget.used <= budget.total_max
        async with made.client() as other:
            assert await other.process_command("kv", Set(b"small", b"v"))
        for raw in deaf:
            raw.link._connection._transport.resume_reading()  # type: ignore[union-attr]

            async def answered(raw: Raw = raw) -> bool:
                ends = [a for a in raw.answers if isinstance(a, (ClientReplies, ClientFailed))]
                return sum(a.count for a in ends) == 130

            assert await until(answered, "every answer")
            failed = [a for a in raw.answers if isinstance(a, ClientFailed)]
            assert {a.error for a in failed} <= {"Overloaded"}
            raw.link.close()
            raw.answers.clear()
        gc.collect()


async def test_sec15_large_commands_of_one_starve_nobody(tmp_path: Path) -> None:
    """While one client writes 24 large values at once, another one's tiny commands go in between."""
    async with (
        one_node(tmp_path) as (made, _),
        made.client(timeout_s=60.0) as large,
        made.client() as tiny,
    ):
        await tiny.process_command("kv", Set(b"tiny", b"0"))
        writes = [
            asyncio.create_task(large.process_command("kv", Set(b"large%d" % n, bytes(4 * MIB))))
            for n in range(24)
        ]
        await asyncio.sleep(0)
        between = 0
        while not all(write.done() for write in writes):
            await tiny.process_command("kv", Set(b"tiny", b"1"))
            between += not all(write.done() for write in writes)
        assert between >= 3
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]


async def test_the_share_of_a_client_leaves_room_for_others(tmp_path: Path) -> None:
    """One client may have half of what may wait; then its commands are refused, and another one's are not."""
    settings = {"pending_commands_max": 1_000, "pending_bytes_max": 10 * MIB}
    async with one_node(tmp_path, **settings) as (made, node):
        greedy, other = [await Raw().connect(made.addresses["n1"]) for _ in range(2)]
        for number in range(30):
            greedy.send(commands("nowhere", 1 + number * 30, 30))

        async def refused() -> bool:
            return any(isinstance(a, ClientFailed) and a.error == "Overloaded" for a in greedy.answers)

        assert await until(refused, "the share")
        assert node.requests.overview()["waiting"] <= 510
        other.send(commands("nowhere", 1, 100))

        async def waits() -> bool:
            return node.requests.overview()["waiting"] > 540

        assert await until(waits, "the other's commands")
        assert not other.answers
        for raw in (greedy, other):
            raw.link.close()
