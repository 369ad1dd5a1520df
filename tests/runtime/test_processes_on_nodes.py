"""Single processes that machines speak to, and watch, on whole nodes (EFF-01, EFF-02, EFF-06, MON-01, K9)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Nodes, until

import barque
from barque.runtime import processes
from barque.transport.wire import ProcessIs, WatchProcess
from barque.types import Named, Pid


class Hub(barque.Machine[dict[str, Any]]):
    """Sends messages, and watches processes as long as anybody is told to; notes who has gone."""

    def init(self, args: dict[str, Any]) -> dict[str, Any]:
        """Nobody is watched."""
        return {"watched": [], "gone": []}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, Any]) -> Any:
        """Do what is asked; addresses come as arrays."""
        match command:
            case ["tell", pid, message]:
                return state, None, barque.SendMsg(Pid(*pid), message)
            case ["tell name", name, node, message]:
                return state, None, barque.SendMsg(Named(name, node), message)
            case ["tell near", pid, message]:
                return state, None, barque.SendMsg(Pid(*pid), message, local=True)
            case ["watch", pid]:
                state["watched"].append(pid)
                return state, None, barque.MonitorProcess(Pid(*pid))
            case ["leave", pid]:
                state["watched"].remove(pid)
                return state, None, barque.DemonitorProcess(Pid(*pid))
            case barque.Down(pid, reason):
                state["gone"].append([[pid.node, pid.incarnation, pid.number], reason])
        return state, None

    def state_enter(self, raft_state: str, state: dict[str, Any]) -> Any:
        """A new leader watches again."""
        return (
            [barque.MonitorProcess(Pid(*pid)) for pid in state["watched"]] if raft_state == "leader" else []
        )

    def query(self, query: Any, state: dict[str, Any]) -> Any:
        """Who has gone."""
        return state["gone"]

    def handle_aux(self, raft_state: str, kind: Any, command: Any, aux: Any, member: Any) -> barque.AuxResult:
        """Watch for the aux machine; its state is what it has heard."""
        match command:
            case ["watch", pid]:
                return barque.AuxResult([], effects=[barque.MonitorProcess(Pid(*pid), aux=True)])
            case barque.Down(pid, reason):
                return barque.AuxResult([*aux, [pid.number, reason]])
            case "heard":
                return barque.AuxResult(aux, reply=aux)
        return barque.AuxResult(aux)


class Hubs(Nodes):
    """Nodes with a hub on some of them. A busy machine must not make them suspect each other."""

    def config(self, name: str) -> barque.NodeConfig:
        """Judge the heartbeats of others seldom."""
        found = super().config(name)
        calm = msgspec.structs.replace(found.time, detector_poll_ms=10_000)
        return msgspec.structs.replace(found, time=calm)

    async def again(self, *names: str) -> None:
        """Start these nodes."""
        await self.start(*names, machines={"hub": Hub()})


@contextlib.asynccontextmanager
async def hubs(directory: Path, on: str = "n1 n2 n3") -> AsyncIterator[tuple[Hubs, barque.Client]]:
    """Three nodes, a cluster of hubs on some of them, and a client of the first node."""
    some = Hubs(directory, 3)
    await some.again(*some.addresses)
    try:
        async with some.client("n1") as client:
            await client.start_cluster("hub", "hub", nodes=on.split())
            yield some, client
    finally:
        await some.stop()


def array(pid: Pid) -> list[Any]:
    """An address as it travels."""
    return [pid.node, pid.incarnation, pid.number]


def gone(client: barque.Client, *ends: tuple[Pid, str]) -> Callable[[], Awaitable[bool]]:
    """Whether the machine has heard of exactly these ends, in any order."""

    async def has_heard() -> bool:
        found = await client.consistent_query("hub")
        return sorted(found) == sorted([array(pid), reason] for pid, reason in ends)

    return has_heard


async def test_a_message_reaches_the_one_client_that_it_is_for(tmp_path: Path) -> None:
    """EFF-01: not the other clients of its node; across nodes, and inside a process, too."""
    async with hubs(tmp_path) as (some, client):
        leader = await some.leader(client, "hub")
        for name in some.addresses:
            async with some.client(name) as one, some.client(name) as other:
                pids = [await one.pid(), await other.pid()]
                assert pids[0] == await one.pid() != pids[1]
                assert (pids[0].node, pids[0].incarnation) == (name, some.running[name].incarnation)
                await client.process_command("hub", ["tell", array(pids[1]), "not for all"])
                await client.process_command("hub", ["tell", [*array(pids[0])[:2], 0], "for all"])
                assert [await anext(other.machine_events()) for _ in range(2)] == [
                    ("hub", "not for all"),
                    ("hub", "for all"),
                ]
                assert await anext(one.machine_events()) == ("hub", "for all")
        async with barque.local_client(some.running[leader]) as inside:
            await client.process_command("hub", ["tell", array(await inside.pid()), 7])
            assert await anext(inside.machine_events()) == ("hub", 7)


async def test_processes_and_names_of_a_node_get_messages(tmp_path: Path) -> None:
    """EFF-01: by callback and in a mailbox, and by a name; what is for nobody is dropped and counted."""
    async with hubs(tmp_path, on="n1") as (some, client):
        for name in ("n1", "n2"):
            node = some.running[name]
            heard: list[tuple[str, Any]] = []
            called = node.spawn(lambda cluster, message, heard=heard: heard.append((cluster, message)))
            boxed, named = node.spawn(), node.register("log")
            with pytest.raises(barque.ConfigurationError, match="'log' runs on node"):
                node.register("log")
            for _ in range(2):
                await client.process_command("hub", ["tell", array(called.pid), {"to": "callback"}])
            await client.process_command("hub", ["tell", array(boxed.pid), 2])
            await client.process_command("hub", ["tell name", "log", name, 3])
            await client.process_command("hub", ["tell name", "nobody", name, 4])
            assert await boxed.receive() == ("hub", 2)
            assert await named.receive() == ("hub", 3)
            assert heard == [("hub", {"to": "callback"})] * 2
            named.close()
            assert not named.is_alive
            with pytest.raises(barque.Stopped):
                await named.receive()
            assert [item async for item in named] == []

            async def dropped(node: barque.Node = node) -> bool:
                return node.processes.dropped_messages == 1

            await until(dropped, "the message for nobody to be dropped")
            again = node.register("log")
            assert again.pid != named.pid


async def test_a_mailbox_holds_so_many_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not read costs no memory without end."""
    monkeypatch.setattr(processes, "MAILBOX_MAX", 2)
    async with hubs(tmp_path, on="n1") as (some, client):
        node = some.running["n1"]
        boxed = node.spawn()
        for number in range(4):
            await client.process_command("hub", ["tell", array(boxed.pid), number])
        assert [await boxed.receive() for _ in range(2)] == [("hub", 0), ("hub", 1)]
        assert node.processes.dropped_messages == 2
        async with some.client() as client:
            assert (await client.node_overview()).processes["dropped_messages"] == 2


@pytest.mark.parametrize(
    "address",
    [["n2", 1, 2**63], ["n2", -1, 5], ["n2", 1, "x"], [7, 1, 1], ["n2", 2**63, 0], ["n2", 1, 1.5]],
    ids=str,
)
async def test_an_address_that_no_node_has_made_harms_nobody(tmp_path: Path, address: list[Any]) -> None:
    """A client may have sent it: no connection between nodes ends, and no member stops."""
    async with hubs(tmp_path, on="n1 n2") as (some, client):
        for command in ("tell", "watch", "tell near"):
            await client.process_command(
                "hub", [command, address, 1] if command != "watch" else [command, address]
            )
        await client.process_command("hub", ["tell name", "-no name", "n2", 1])
        assert await client.consistent_query("hub") == []
        assert all(not node.transport.counters.malformed_frames for node in some.running.values())
        status = await client.overview("hub")
        assert status.role in ("leader", "follower")


async def test_the_member_near_the_receiver_sends(tmp_path: Path) -> None:
    """EFF-02, EFF-30: `local`: the voter on the receiver's node, or the leader if there is none."""
    async with hubs(tmp_path, on="n1 n2") as (some, client):
        leader = await some.leader(client, "hub")
        follower = "n2" if leader == "n1" else "n1"
        senders: list[str] = []
        for name, node in some.running.items():

            def send(*given: Any, name: str = name, real: Any = node.sink.send_event) -> None:
                senders.append(name)
                real(*given)

            node.sink.send_event = send  # type: ignore[method-assign]
        for receiver, sender in ((follower, follower), (leader, leader), ("n3", leader)):
            process = some.running[receiver].spawn()
            await client.process_command("hub", ["tell near", array(process.pid), 1])
            assert await process.receive() == ("hub", 1)
            assert senders == [sender]
            senders.clear()


async def test_a_machine_hears_of_the_end_of_each_process(tmp_path: Path) -> None:
    """EFF-06, EFF-07, MON-02: closed, crashed, a client that has gone; not of others, nor after `leave`."""
    async with hubs(tmp_path, on="n1") as (some, client):
        ends: list[tuple[Pid, str]] = []
        for name in ("n1", "n2"):
            node = some.running[name]
            closed, crashed, lives, left = (
                node.spawn(),
                node.spawn(lambda *_: 1 // 0),
                node.spawn(),
                node.spawn(),
            )
            async with some.client(name) as guest:
                pids = [process.pid for process in (closed, crashed, lives, left)] + [await guest.pid()]
                for pid in pids:
                    await client.process_command("hub", ["watch", array(pid)])
                await client.process_command("hub", ["leave", array(left.pid)])
            left.close()
            closed.close()
            await client.process_command("hub", ["tell", array(crashed.pid), "boom"])
            ends += [(pids[0], "normal"), (pids[1], "crashed"), (pids[4], "normal")]
            await until(gone(client, *ends), "three ends")
            await client.process_command("hub", ["watch", array(closed.pid)])
            ends.append((closed.pid, "noproc"))
            await until(gone(client, *ends), "the end of one that is gone already")
            assert lives.is_alive


async def test_k9_processes_end_with_their_node(tmp_path: Path) -> None:
    """EFF-06, K9: `noconnection` when it stops; `noproc` for a process of its earlier life."""
    async with hubs(tmp_path, on="n1") as (some, client):
        pid = some.running["n2"].spawn().pid
        await client.process_command("hub", ["watch", array(pid)])
        await some.stop("n2")
        await until(gone(client, (pid, "noconnection")), "the end of the node")
        await some.again("n2")

        async def is_back() -> bool:
            return "n2" in some.running["n1"].transport.connected()

        await until(is_back, "n2")
        await client.process_command("hub", ["watch", array(pid)])
        await until(gone(client, (pid, "noconnection"), (pid, "noproc")), "its earlier life")


async def test_k9_a_new_leader_watches_again(tmp_path: Path) -> None:
    """EFF-06, K9: it hears of what ended before and after its election, each once."""
    async with hubs(tmp_path) as (some, client):
        first = await some.leader(client, "hub")
        heir = next(name for name in some.addresses if name != first)
        node = some.running[heir]
        before, after = node.spawn(), node.spawn()
        for process in (before, after):
            await client.process_command("hub", ["watch", array(process.pid)])
        some.running[first].monitors.process_gone = lambda *_: None  # type: ignore[method-assign]  # it notices nothing
        before.close()
        await client.transfer_leadership("hub", barque.ServerId("hub", heir))
        await until(gone(client, (before.pid, "noproc")), "the end before the election")
        after.close()
        await until(gone(client, (before.pid, "noproc"), (after.pid, "normal")), "the end after it")


async def test_aux_machines_watch_processes_for_themselves(tmp_path: Path) -> None:
    """EFF-08, MON-01: on a follower too; one question of the node serves all who watch."""
    async with hubs(tmp_path, on="n1 n2") as (some, client):
        leader = await some.leader(client, "hub")
        follower = "n2" if leader == "n1" else "n1"
        process = some.running["n3"].spawn()
        asked: list[str] = []
        table = some.running["n3"].processes
        real = table.on_watch

        def count(node: str, message: WatchProcess) -> None:
            asked.append(node)
            real(node, message)

        some.running["n3"].dispatcher.on(WatchProcess, count)
        async with some.client(follower) as near, some.client(leader) as at_leader:
            await client.process_command("hub", ["watch", array(process.pid)])
            await near.aux_command("hub", ["watch", array(process.pid)])

            async def is_known() -> bool:
                asking = [some.running[name].processes._unanswered for name in ("n1", "n2")]
                return len(table._watching.get(process.pid.number, ())) == 2 and asking == [{}, {}]

            await until(is_known, "both nodes to watch")
            asked.clear()
            await at_leader.aux_command("hub", ["watch", array(process.pid)])
            process.close()
            await until(gone(client, (process.pid, "normal")), "the machine to hear")
            for told in (near, at_leader):

                async def has_heard(told: barque.Client = told) -> bool:
                    return bool(await told.aux_command("hub", "heard") == [[process.pid.number, "normal"]])

                await until(has_heard, "the aux machine to hear")
        assert asked == []


async def test_questions_and_ends_that_are_lost_are_repeated(tmp_path: Path) -> None:
    """MON-01: messages between nodes may be lost; each end is heard all the same, and then forgotten."""
    async with hubs(tmp_path, on="n1") as (some, client):
        watcher, node = some.running["n1"], some.running["n2"]
        lost: list[Any] = []
        for here, kind, handler in (
            (node, WatchProcess, node.processes.on_watch),
            (watcher, ProcessIs, watcher.processes.on_process_is),
        ):

            def lose(sender: str, message: Any, handler: Any = handler) -> None:
                if len(lost) % 3 == 2:
                    handler(sender, message)
                lost.append(message)

            here.dispatcher.on(kind, lose)
        process = node.spawn()
        await client.process_command("hub", ["watch", array(process.pid)])

        async def is_watched() -> bool:
            return bool(node.processes._watching)

        await until(is_watched, "the question")
        process.close()
        await until(gone(client, (process.pid, "normal")), "the end")

        async def is_forgotten() -> bool:
            return not (node.processes._owed or watcher.processes._unanswered or watcher.monitors._watchers)

        await until(is_forgotten, "that nothing is left")
        assert len(lost) > 3


async def test_the_processes_of_a_node_that_stops_take_no_more(tmp_path: Path) -> None:
    """A mailbox that is waited for ends; nothing new is made."""
    some = Hubs(tmp_path, 1)
    await some.again("n1")
    node = some.running["n1"]
    process = node.spawn()
    waiting = asyncio.ensure_future(process.receive())
    await asyncio.sleep(0)
    await some.stop()
    with pytest.raises(barque.Stopped):
        await waiting
    with pytest.raises(barque.Stopped, match="does not run"):
        node.spawn()
    assert not process.is_alive
