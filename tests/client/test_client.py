"""What a client promises its caller (client/client.py, connection.py, routing.py)."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import SECRET, Nodes, nodes, until
from tests.ports import free_port

import barque
from barque.client.connection import Connection
from barque.client.local import NodeSubmitter
from barque.client.requests import CommandBatch
from barque.core.entries import BODY_BYTES_MAX, COMMAND_BYTES_MAX
from barque.errors import NoLeader, OutcomeUnknown, Stopped, Unauthenticated
from barque.transport.wire import ClientFailed


async def test_pipelined_commands_are_applied_in_order(tmp_path: Path) -> None:
    """Ten thousand pipelined commands are answered in the order in which they were sent."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        for i in range(10_000):
            client.pipeline_command("sum", 1, i, priority="normal")
        told: list[barque.Notification] = []
        while len(told) < 10_000:
            told += await client.take_notifications()
        assert [n.correlation for n in told] == list(range(10_000))
        assert [n.reply for n in told] == list(range(1, 10_001))


@pytest.mark.parametrize("inside", [False, True])
async def test_more_than_a_node_takes_at_once_is_sent_in_parts(tmp_path: Path, inside: bool) -> None:
    """A loop without `await` may pipeline any number; the node takes 65,536 commands in a request."""
    count = 70_000
    async with nodes(tmp_path) as three:
        async with barque.local_client(three.running["n1"]) if inside else three.client() as client:
            await client.start_cluster("sum", "adder")
            for i in range(count):
                client.pipeline_command("sum", 1, i, priority="normal", timeout_s=60.0)
            told: list[barque.Notification] = []
            while len(told) < count:
                told += await client.take_notifications()
        assert [n.correlation for n in told] == list(range(count))
        assert {n.error for n in told} == {None}


async def test_a_gateway_may_submit_more_than_a_node_takes_at_once(tmp_path: Path) -> None:
    """Many connections may each bring thousands in one turn; nobody waits without end."""
    count = 70_000
    async with nodes(tmp_path, 1) as one, barque.local_client(one.running["n1"]) as client:
        await client.start_cluster("sum", "adder")
        submitter = NodeSubmitter(one.running["n1"])
        replies: list[object] = []
        for _ in range(count):
            submitter.command("sum", b"\x01", replies.append, 60_000)

        async def all_told() -> bool:
            return len(replies) == count

        await until(all_told, "all are answered")
        assert replies == list(range(1, count + 1))


async def test_low_priority_commands_all_arrive(tmp_path: Path) -> None:
    """Low-priority commands are flushed a few at a time, and each is answered once."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        for i in range(500):
            client.pipeline_command("sum", 1, i)
        replies = {}
        async for notification in client.notifications():
            replies[notification.correlation] = notification.reply
            if len(replies) == 500:
                break
        assert sorted(replies.values()) == list(range(1, 501))


async def test_commands_that_nobody_waits_for(tmp_path: Path) -> None:
    """Without a correlation a pipelined command is committed, and nobody is told."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        for _ in range(100):
            client.pipeline_command("sum", 1, priority="normal")
        assert await client.process_command("sum", 0) == 100


async def test_the_three_levels_of_reading(tmp_path: Path) -> None:
    """Consistent, leader and local reads all answer; each says its own errors, and harms nothing."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 7)
        assert await client.consistent_query("sum") == 7
        assert await client.leader_query("sum") == 7

        async def local() -> bool:
            return bool(await client.local_query("sum") == 7)

        await until(local, "the local member to apply")
        for ask in (client.consistent_query, client.leader_query, client.local_query):
            with pytest.raises(barque.InvalidCommand, match="no such query"):
                await ask("sum", "bad")
        assert await client.consistent_query("sum") == 7


async def test_the_position_after_an_append(tmp_path: Path) -> None:
    """`append_command` answers with index and term, before anything is committed."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        first = await client.append_command("sum", 1)
        second = await client.append_command("sum", 1)
        assert (second.index, second.term) == (first.index + 1, first.term)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_reply_that_cannot_be_encoded_is_an_error(tmp_path: Path, count: int) -> None:
    """A machine whose reply is no value hurts no others. Its command happened: it is not called refused."""
    async with nodes(tmp_path, count) as some, some.client("n1") as client:
        await client.start_cluster("sum", "adder")
        if count > 1:
            await client.transfer_leadership("sum", "n2")
        calls = [client.process_command("sum", command) for command in (1, "opaque", 2)]
        first, bad, last = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, OutcomeUnknown)
        assert "the machine applied the command" in str(bad)
        assert (first, last) == (1, 3)
        for ask in (client.consistent_query, client.local_query):
            with pytest.raises(barque.InvalidCommand, match="no encoding"):
                await ask("sum", "opaque")


async def test_a_command_that_cannot_be_encoded_is_refused_here(tmp_path: Path) -> None:
    """It never leaves the client."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        with pytest.raises(barque.InvalidCommand, match="cannot be encoded"):
            await client.process_command("sum", object())
        with pytest.raises(barque.InvalidCommand, match="cannot be encoded"):
            client.pipeline_command("sum", object(), "first of its turn")
        with pytest.raises(barque.InvalidCommand, match="above the limit of"):
            await client.process_command("sum", bytes(COMMAND_BYTES_MAX))
        with pytest.raises(barque.ConfigurationError, match="would not be kept as it is"):
            await client.start_cluster("other", "adder", arguments={"start": object()})
        client.pipeline_command("sum", 1, "next")
        assert [told.reply for told in await client.take_notifications()] == [1]


async def test_what_no_node_could_be_sent_is_refused(tmp_path: Path) -> None:
    """An entry that fits into no frame would keep its cluster from ever committing again."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        submitter = NodeSubmitter(three.running["n1"])
        replies: dict[str, Any] = {}
        for name, payload in (("small", b"\x01"), ("huge", bytes(BODY_BYTES_MAX)), ("other", b"\x02")):
            submitter.command("sum", payload, partial(replies.__setitem__, name), 60_000)

        async def all_told() -> bool:
            return len(replies) == 3

        await until(all_told, "all are answered")
        assert isinstance(replies["huge"], barque.InvalidCommand)
        assert (replies["small"], replies["other"]) == (1, 3)
        assert await client.process_command("sum", 1, timeout_s=20) == 4


async def test_cancelling_a_caller_stops_only_the_waiting(tmp_path: Path) -> None:
    """A cancelled call leaves the client usable, and the others in its batch answered."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        tasks = [asyncio.ensure_future(client.process_command("sum", 1)) for _ in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[3], asyncio.CancelledError)
        assert sum(isinstance(result, int) for result in done) == 9
        assert await client.process_command("sum", 0) in (9, 10)


async def test_nobody_there(tmp_path: Path) -> None:
    """A client that reaches no node says which, why, and in time."""
    client = barque.Client([f"127.0.0.1:{free_port()}"], secret=SECRET, timeout_s=0.3)
    with pytest.raises(NoLeader, match="cannot connect"):
        await client.connect()
    await client.close()


async def test_a_wrong_secret(tmp_path: Path) -> None:
    """A client with another secret is refused at once, and told so."""
    async with nodes(tmp_path, 1) as single:
        client = barque.Client(list(single.addresses.values()), secret="quite another secret")
        with pytest.raises(Unauthenticated):
            await client.connect()
        await client.close()


async def test_who_waits_for_news_hears_that_the_client_is_closed(tmp_path: Path) -> None:
    """Two who listen and two who wait for outcomes; and a client that connects again is as good as new."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")

        async def listen() -> list[Any]:
            return [event async for event in client.machine_events()]

        async def collect() -> list[Any]:
            return [told.reply async for told in client.notifications()]

        waiting = [asyncio.ensure_future(work()) for work in (listen, listen, collect)]
        taking = asyncio.ensure_future(client.take_notifications())
        await asyncio.sleep(0)
        await client.close()
        assert await asyncio.gather(*waiting) == [[], [], []]
        with pytest.raises(Stopped, match="the client was closed"):
            await taking
        await client.connect()
        heard = asyncio.ensure_future(anext(client.machine_events()))
        client.pipeline_command("sum", "tell", 1)
        assert [told.reply for told in await client.take_notifications()] == ["told"]
        assert await heard == ("sum", {"sum": 0})


async def test_a_closed_client_refuses(tmp_path: Path) -> None:
    """What is asked of a closed client did not happen."""
    async with nodes(tmp_path, 1) as single:
        async with single.client() as client:
            await client.ping()
        with pytest.raises(Stopped):
            await client.process_command("sum", 1)


async def test_reads_survive_the_loss_of_a_node(tmp_path: Path) -> None:
    """A read whose node goes away is asked again elsewhere."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 5)
        await three.stop(await three.leader(client, "sum"))
        assert await client.consistent_query("sum") == 5


async def test_a_client_inside_the_process(tmp_path: Path) -> None:
    """`local_client` speaks to its node without a socket, and to all clusters."""
    async with nodes(tmp_path) as three, barque.local_client(three.running["n2"]) as client:
        await client.start_cluster("sum", "adder")
        assert sum(await asyncio.gather(*(client.process_command("sum", 1) for _ in range(10)))) == 55
        assert (await client.ping("sum")).server == barque.ServerId("sum", "n2")
        assert (await client.overview("sum")).machine["sum"] == 10


async def test_a_client_inside_the_process_ends_with_its_node(tmp_path: Path) -> None:
    """What waits when the node stops is told so at once, whatever its time; later calls are refused."""
    async with nodes(tmp_path) as three:
        node = three.running["n2"]
        async with barque.local_client(node, timeout_s=60.0) as client:
            await client.start_cluster("sum", "adder")
            await three.stop("n1")
            await three.stop("n3")
            command = asyncio.create_task(client.process_command("sum", 1))
            read = asyncio.create_task(client.consistent_query("sum"))
            await asyncio.sleep(0.05)
            await three.stop("n2")
            async with asyncio.timeout(1.0):
                with pytest.raises(OutcomeUnknown):
                    await command
                with pytest.raises(Stopped):
                    await read
                with pytest.raises(Stopped):
                    await client.process_command("sum", 1)
        with pytest.raises(NoLeader, match="does not run"):
            await barque.local_client(node, timeout_s=0.1).connect()


async def test_a_local_read_asks_the_node_that_the_client_is_connected_to(tmp_path: Path) -> None:
    """A follower that is cut off answers what it has, although the client knows the leader."""
    async with nodes(tmp_path) as three, three.client("n3") as client:
        await client.start_cluster("sum", "adder")
        await client.transfer_leadership("sum", "n1")
        total = client.cluster("sum")

        async def is_known() -> bool:
            return await total.process_command(1) > 0 and "n1" in client._router._connections

        await until(is_known, "the client to talk to the leader")
        known = await total.consistent_query()

        async def has_applied() -> bool:
            return bool(await total.local_query() == known)

        await until(has_applied, "the follower to apply")
        cut_off(three, "n3")
        assert await total.process_command(10) == known + 10
        assert await total.leader_query() == known + 10
        assert await total.local_query() == known
        assert (await client.ping()).node == "n3"


def cut_off(some: Nodes, name: str) -> None:
    """Take all links between this node and the others away; clients still reach it."""
    for other, node in some.running.items():
        if other != name:
            node.transport.remove_peer(name)
            some.running[name].transport.remove_peer(other)


async def test_another_node_takes_the_place_of_a_lost_one(tmp_path: Path) -> None:
    """Local reads and calls go to a node that is connected."""
    async with nodes(tmp_path) as three, three.client("n3", "n2") as client:
        await client.start_cluster("sum", "adder")
        assert (await client.ping()).node == "n3"
        await three.stop("n3")

        async def elsewhere() -> bool:
            return (await client.ping()).node != "n3" and await client.local_query("sum") == 0

        await until(elsewhere, "another node to answer")


async def test_a_shrink_goes_to_no_other_node(tmp_path: Path) -> None:
    """The node that the client connected to is gone: no other node may become the whole cluster."""
    async with nodes(tmp_path) as three, three.client("n3", "n2") as client:
        await client.start_cluster("sum", "adder")
        await three.stop("n3")
        with pytest.raises(barque.BarqueError) as refused:
            await client.force_shrink("sum", timeout_s=0.5)
        assert isinstance(refused.value, barque.LeaderTimeout | OutcomeUnknown)

        async def elsewhere() -> bool:
            return (await client.ping()).node == "n2"

        await until(elsewhere, "another node to answer")
        with pytest.raises(barque.LeaderTimeout, match="node n3 could not be reached"):
            await client.force_shrink("sum", timeout_s=0.5)
        assert len(await client.members("sum")) == 3


async def test_a_call_that_ran_out_of_time_is_a_timeout(tmp_path: Path) -> None:
    """Without a leader every request ends as `LeaderTimeout`; without a node, a read as `QueryTimeout`."""
    async with nodes(tmp_path) as three, three.client("n3", timeout_s=0.5) as client:
        await client.start_cluster("sum", "adder", timeout_s=10)
        await client.process_command("sum", 1, timeout_s=10)
        await three.stop("n1", "n2")

        async def nobody_leads() -> bool:
            return (await client.status()).clusters[0].leader is None

        await until(nobody_leads, "the last node to lose its majority")
        command, read = partial(client.process_command, "sum", 1), partial(client.consistent_query, "sum")
        for ask in (command, read, partial(client.members_info, "sum")):
            with pytest.raises(barque.LeaderTimeout):
                await ask()
        await three.stop("n3")
        with pytest.raises(barque.LeaderTimeout, match="no node could be reached"):
            await command()
        with pytest.raises(barque.QueryTimeout, match="no node could be reached"):
            await read()


async def test_a_refusal_names_the_leader() -> None:
    """The leader that an answer names is in `NotLeader.leader`, and the client asks it from then on."""
    leader, heard = barque.ServerId("sum", "n2"), []
    connection = Connection("n1", lambda cluster, server: heard.append((cluster, server)))
    connection.link = SilentLink()
    batch = CommandBatch("sum", asyncio.get_running_loop().time() + 5.0, barque.ReplyMode.AWAIT_CONSENSUS)
    answer = batch.ask(b"\x01")
    connection.send([batch], 0.0)
    connection.on_answers([ClientFailed(1, 1, "NotLeader", "not here", leader)])
    with pytest.raises(barque.NotLeader, match="not here") as raised:
        await answer
    assert raised.value.leader == leader
    assert heard == [("sum", leader)]


async def test_a_command_that_is_never_answered_may_have_happened() -> None:
    """Its node is silent until long after the deadline: that is a `CommandTimeout`, an `OutcomeUnknown`."""
    connection = Connection("n1", lambda _cluster, _server: None)
    connection.link = SilentLink()
    now = asyncio.get_running_loop().time()
    batch = CommandBatch("sum", now + 1.0, barque.ReplyMode.AWAIT_CONSENSUS)
    answer = batch.ask(b"\x01")
    connection.send([batch], now)
    connection.expire(now + 1.5)
    assert not answer.done()
    connection.expire(now + 2.0)
    with pytest.raises(TimeoutError, match="n1 did not answer in time") as raised:
        await answer
    assert type(raised.value) is barque.CommandTimeout


class SilentLink:
    """A link to a node that never answers."""

    def send(self, requests: list[Any]) -> bool:
        """Take them."""
        return True

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("inside", [False, True])
async def test_a_wrong_timeout_or_name_is_refused_alone(tmp_path: Path, inside: bool) -> None:
    """Before anything is sent, with `InvalidCommand`: the requests of other callers go on."""
    async with (
        nodes(tmp_path, 1) as one,
        barque.local_client(one.running["n1"]) if inside else one.client() as client,
    ):
        await client.start_cluster("sum", "adder")
        calls: list[Any] = []
        for wrong in (float("nan"), float("inf"), -1, 1e300, "5"):
            calls.append(client.process_command("sum", 1, timeout_s=wrong))
            calls.append(client.consistent_query("sum", timeout_s=wrong))
            calls.append(client.members("sum", timeout_s=wrong))
        for name in (None, 3, "\ud800"):
            calls.append(client.process_command(name, 1))
            calls.append(client.local_query(name))
        calls.append(client.call("status", {3: "x"}))  # type: ignore[dict-item]
        outcomes = await asyncio.gather(client.process_command("sum", 5), *calls, return_exceptions=True)
        assert outcomes[0] == 5
        assert {type(outcome) for outcome in outcomes[1:]} == {barque.InvalidCommand}
        assert await client.consistent_query("sum") == 5


def test_a_client_needs_a_timeout_in_seconds() -> None:
    """The client is refused, not its first call."""
    with pytest.raises(barque.ConfigurationError, match="give seconds"):
        barque.Client(["127.0.0.1:1"], secret=SECRET, timeout_s=float("nan"))
