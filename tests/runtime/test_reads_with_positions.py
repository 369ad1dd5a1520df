"""Reads one by one: with and at a position, of a chosen member; facts about it (runtime/admin_queries.py)."""

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.errors import ConfigurationError, InvalidCommand, QueryTimeout, Refused, UnknownCluster
from barque.transport.authorization import Role
from barque.transport.wire import ClientCommands, ClientFailed, ClientQueries
from barque.types import Index, IndexTerm, ServerId, Term


class Seeing(Adder):
    """An adder whose reads tell which state has answered them."""

    version = 3

    def query_with_meta(self, meta: barque.QueryMeta, query: Any, state: int) -> Any:
        """The sum and the meta; an error for `"bad"`."""
        return [self.query(query, state), meta.index, meta.term, meta.machine_version]


class Connection:
    """A client's connection that keeps what it is sent."""

    peer = "a test"
    unread = 0

    def __init__(self) -> None:
        self.role = Role.CLIENT
        self.sent: list[Any] = []

    def send(self, answers: list[Any]) -> None:
        self.sent += answers

    def close(self, reason: str) -> None:
        raise AssertionError(reason)


def pause(some: Nodes, node: str) -> None:
    """Let a node's member handle nothing: its messages wait."""
    some.running[node].system.processes["sum"]._busy = True


def resume(some: Nodes, node: str) -> None:
    """Let it handle them, and go on."""
    process = some.running[node].system.processes["sum"]
    process._busy = False
    process._run()
    some.running[node].wake()


async def test_qry1_a_read_tells_its_position_its_member_and_the_leader(tmp_path: Path) -> None:
    """QRY-01, QRY-02, API-15: by the connected node, by a chosen one, and by the leader."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 5) == 5
        leader = await three.leader(client, "sum")
        term = (await client.key_metrics("sum", leader)).term
        by_leader = await client.query_with_position("sum", level="leader")
        assert by_leader == barque.QueryResult(
            value=5,
            position=IndexTerm(Index(2), term),
            server=ServerId("sum", leader),
            leader=ServerId("sum", leader),
        )
        for node in ("n1", "n2", "n3"):
            applied = IndexTerm(Index(2), term)
            found = await client.query_with_position("sum", node=node, applied=applied, reply_type=int)
            assert (found.value, found.server.node, found.leader) == (5, node, by_leader.leader)
        with pytest.raises(InvalidCommand, match="no such query"):
            await client.query_with_position("sum", "bad")
        with pytest.raises(InvalidCommand, match="unknown level 'eventual'"):
            await client.query_with_position("sum", level="eventual")
        with pytest.raises(ConfigurationError, match="n9"):
            await client.query_with_position("sum", node="n9")
        with pytest.raises(UnknownCluster, match="other"):
            await client.query_with_position("other")


async def test_qry16_a_read_waits_until_its_member_has_applied_what_it_names(tmp_path: Path) -> None:
    """QRY-16: a member that is behind answers when it has caught up, or the time runs out."""
    async with nodes(tmp_path) as three, three.client("n1", "n2", "n3") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        leader = await three.leader(client, "sum")
        behind = "n3" if leader != "n3" else "n2"
        pause(three, behind)
        position = await client.append_command("sum", 2)
        with pytest.raises(QueryTimeout, match="and not yet entry"):
            await client.query_with_position("sum", node=behind, applied=position, timeout_s=0.3)
        waiting = asyncio.ensure_future(client.query_with_position("sum", node=behind, applied=position))

        async def waits() -> bool:
            return bool(three.running[behind].admin.waits.waiting)

        await until(waits, "the read to wait")
        assert not waiting.done()
        resume(three, behind)
        found = await waiting
        assert (found.value, found.server.node) == (3, behind)
        assert found.position.index >= position.index
        assert not three.running[behind].admin.waits.waiting
        never = IndexTerm(position.index, Term(position.term + 1))
        with pytest.raises(Refused, match="was replaced"):
            await client.query_with_position("sum", applied=never)
        process = three.running[behind].system.processes["sum"]
        late = IndexTerm(Index(position.index + 5), position.term)
        waiting = asyncio.ensure_future(client.query_with_position("sum", node=behind, applied=late))
        await until(waits, "the read to wait")
        await client.stop_server("sum", behind)
        assert process.failure is not None
        with pytest.raises(UnknownCluster, match="does not run"):
            await waiting


async def test_qry15_a_machine_may_see_which_state_answers(tmp_path: Path) -> None:
    """QRY-15: index, term and version come with each kind of read, if the machine asks for them."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"adder": Seeing()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
            assert await client.process_command("sum", 4) == 4
            metrics = await client.key_metrics("sum")
            expected = [4, metrics.last_applied, metrics.term, 3]
            assert await client.consistent_query("sum") == expected
            assert await client.leader_query("sum") == expected
            assert await client.local_query("sum") == expected
            with pytest.raises(InvalidCommand, match="no such query"):
                await client.local_query("sum", "bad")
    finally:
        await some.stop()


async def test_qry18_facts_about_a_member(tmp_path: Path) -> None:
    """QRY-18: each kind, of the member on any node; another kind is refused with the list."""
    async with nodes(tmp_path, 2) as two, two.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 9)
        both = ["sum@n1", "sum@n2"]
        leader = await two.leader(client, "sum")
        for kind in ("voters", "members", "initial_members"):
            assert await client.state_query("sum", kind, "n2") == both
        assert await client.state_query("sum", "leader") == f"sum@{leader}"
        assert await client.state_query("sum", "machine", leader) == 9
        assert await client.state_query("sum", "last_applied", leader) >= 2
        assert set(await client.state_query("sum", "members_info", "n2")) == set(both)
        overview = await client.state_query("sum", "overview", "n2")
        assert overview["cluster_name"] == "sum"
        everything = await client.state_query("sum", "all", leader)
        assert everything["machine_state"] == 9
        assert set(everything) > set(overview) - {"machine_state"}
        with pytest.raises(InvalidCommand, match="unknown fact 'colour'; there are all, overview"):
            await client.state_query("sum", "colour")


async def test_cmd8_an_unknown_way_of_being_answered_is_an_error_and_counted(tmp_path: Path) -> None:
    """CMD-08, CNT-04: the connection goes on, for reply modes and for levels of reads."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        connection = Connection()
        session = one.running["n1"].sessions.open_remote(connection)  # type: ignore[arg-type]
        columns = struct.pack("<2I", 1, 1) + b"\x01\x02"
        session.on_requests([ClientCommands("sum", 5, 2, columns, 9, 1_000)])
        session.on_requests([ClientQueries("sum", 7, (b"\x01",), "eventual", 1_000)])

        async def answered() -> bool:
            return len(connection.sent) == 2

        await until(answered, "both answers")
        mode, level = connection.sent
        assert isinstance(mode, ClientFailed)
        assert (mode.first_correlation, mode.count, mode.error) == (5, 2, "InvalidCommand")
        assert "unknown reply mode 9" in mode.text
        assert isinstance(level, ClientFailed)
        assert "unknown read level 'eventual'" in level.text
        assert (await client.overview("sum")).counters["invalid_reply_mode_commands"] == 2
        assert await client.process_command("sum", 0) == 0, "none of them happened"
