"""Machines that watch clients and nodes (runtime/monitors.py)."""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, until

import barque
from barque.core.messages import Component, NodeEvent, ProcessDown
from barque.machine.effects import MonitorNode, MonitorProcess
from barque.machine.machine import Down
from barque.runtime.monitors import Monitors
from barque.types import ClientRef


class Watching(Adder):
    """`["watch", node, incarnation]` watches a client; each client that is gone adds 1000."""

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """Watch, or count what was watched."""
        match command:
            case ["watch", node, incarnation]:
                return state, "watched", [barque.MonitorProcess(ClientRef(node, incarnation))]
            case Down():
                return state + 1000, None
            case _:
                return super().apply(meta, command, state)


@pytest.mark.parametrize("whose", ["this node", "another node"])
async def test_a_client_that_is_gone_already_is_reported_at_once(tmp_path: Path, whose: str) -> None:
    """A machine that watches a client of an earlier process of a node hears of its end, not nothing."""
    some = Nodes(tmp_path, 2)
    await some.start(machines={"adder": Watching()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder", nodes=["n1"])
            assert await client.process_command("sum", 1) == 1
            node = some.running["n1" if whose == "this node" else "n2"]
            living = ["watch", node.name, node.incarnation]
            assert await client.process_command("sum", living) == "watched"
            assert await client.process_command("sum", ["watch", node.name, 7]) == "watched"

            async def is_told() -> bool:
                return bool(await client.consistent_query("sum") == 1001)

            await until(is_told, "the end of the client that is gone, and of no other")
    finally:
        await some.stop()


async def test_a_client_on_a_node_out_of_reach_is_reported_at_once(tmp_path: Path) -> None:
    """Its node is unknown here, or not connected (EFF-06)."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"adder": Watching()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
            await client.process_command("sum", ["watch", "n9", 7])

            async def is_told() -> bool:
                return bool(await client.consistent_query("sum") == 1000)

            await until(is_told, "the end of the client")
    finally:
        await some.stop()


class Heard:
    """A server that notes what its monitors tell it."""

    def __init__(self) -> None:
        self.news: list[Any] = []

    def handle(self, message: Any) -> None:
        """As `ServerProcess.handle`."""
        self.news.append(message)

    enqueue = handle


ME = ClientRef("n1", 5)
UP, DOWN = (NodeEvent(Component.MACHINE, "n2", up) for up in (True, False))


def gone(client: ClientRef, reason: str) -> ProcessDown:
    """The news that a client is gone."""
    return ProcessDown(Component.MACHINE, client, reason)


def test_k9_a_monitor_is_told_the_present_state_and_every_change() -> None:
    """K9: also when the node has never been within reach, and when it was suspected but stays connected."""
    monitors, heard = Monitors(ME), Heard()
    process: Any = heard
    monitors.watch_node(process, MonitorNode("n2"))
    monitors.node_restarted("n2", 1)
    monitors.node_changed("n2", up=True)
    monitors.node_changed("n2", up=False)  # the failure detector suspects it; the connection stands
    monitors.node_changed("n2", up=False)
    monitors.watch_node(process, MonitorNode("n2"))
    monitors.node_changed("n2", up=True)
    assert heard.news == [DOWN, UP, DOWN, DOWN, UP]


def test_k9_a_restart_that_nobody_saw_is_told_as_down_and_up() -> None:
    """K9: the new process connects before the old connection is known to be gone."""
    monitors, heard = Monitors(ME), Heard()
    process: Any = heard
    monitors.node_restarted("n2", 1)
    monitors.node_changed("n2", up=True)
    monitors.watch_node(process, MonitorNode("n2"))
    monitors.watch_process(process, MonitorProcess(ClientRef("n2", 1)))
    monitors.node_restarted("n2", 2)
    monitors.node_changed("n2", up=True)
    assert heard.news == [UP, gone(ClientRef("n2", 1), "noproc"), DOWN, UP]


@pytest.mark.parametrize(
    ("known", "up", "client", "reason"),
    [
        (None, False, ClientRef("n2", 1), "noconnection"),  # never heard of
        (2, True, ClientRef("n2", 1), "noproc"),  # of an earlier life of its node
        (2, False, ClientRef("n2", 1), "noconnection"),  # or of a later one
        (1, False, ClientRef("n2", 1), "noconnection"),
        (1, True, ClientRef("n2", 1), None),
        (None, False, ClientRef("n1", 4), "noproc"),  # of an earlier life of this node
        (None, False, ClientRef("n1", 5), None),
    ],
)
def test_k9_a_new_leader_hears_at_once_of_clients_that_are_gone(
    known: int | None, up: bool, client: ClientRef, reason: str | None
) -> None:
    """K9, EFF-06: a leader sets its monitors again in `state_enter`, perhaps long after the client's end."""
    monitors, heard = Monitors(ME), Heard()
    process: Any = heard
    if known is not None:
        monitors.node_restarted("n2", known)
        monitors.node_changed("n2", up=up)
    monitors.watch_process(process, MonitorProcess(client))
    assert heard.news == ([] if reason is None else [gone(client, reason)])


def test_k9_a_node_is_asked_about_a_process_of_another_life_than_the_known() -> None:
    """K9: it may have started anew, and nobody here has noticed yet; what it says counts."""
    monitors, heard, asked = Monitors(ME), Heard(), list[ClientRef]()

    class Table:
        def watch(self, pid: ClientRef) -> bool:
            asked.append(pid)
            return pid.node != ME.node

    process: Any = heard
    monitors.table = Table()
    monitors.node_restarted("n2", 1)
    monitors.node_changed("n2", up=True)
    later = [ClientRef("n2", 2), ClientRef("n2", 2, 4)]
    for pid in later:
        monitors.watch_process(process, MonitorProcess(pid))
    assert (heard.news, asked) == ([], later)
    monitors.node_restarted("n2", 2)
    monitors.node_changed("n2", up=True)
    assert heard.news == []
    monitors.watch_process(process, MonitorProcess(ClientRef("n1", 4, 1)))
    assert heard.news == [gone(ClientRef("n1", 4, 1), "noproc")]


async def test_k9_a_client_is_gone_whose_node_hangs_before_it_was_ever_judged(tmp_path: Path) -> None:
    """K9: the connection stands, and the failure detector never called that node up. The monitor fires."""
    some = Nodes(tmp_path, 2)
    await some.start(machines={"adder": Watching()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder", nodes=["n1"])
            node, other = some.running["n1"], some.running["n2"]
            await client.process_command("sum", ["watch", "n2", other.incarnation])
            detector = node.liveness.detector
            detector._histories.pop("n2", None)
            node.liveness.heard_from = lambda _node: None  # type: ignore[method-assign]  # n2 hangs from here on

            async def is_told() -> bool:
                return bool(await client.consistent_query("sum") == 1000)

            await until(is_told, "the end of the client")
            assert "n2" in node.transport.connected()
    finally:
        await some.stop()
