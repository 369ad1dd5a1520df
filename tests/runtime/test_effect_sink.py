"""Where effects of servers go: leaders, ends, and what waits for the turn (runtime/effect_sink.py)."""

from pathlib import Path
from typing import Any

from tests.nodes import nodes, until

from barque.core.effects import MembersGone, StopReason, Unresolved
from barque.core.messages import ServerDown
from barque.errors import OutcomeUnknown
from barque.transport.wire import LeaderIs, MemberRemoved
from barque.types import ServerId, Uid


async def test_a_leader_is_announced_to_every_node_with_the_members_there(tmp_path: Path) -> None:
    """`LeaderIs` names the incarnations on the node that it is for; the own router hears directly."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2"])
        await client.process_command("sum", 1)
        node = three.running[await three.leader(client, "sum")]
        process = node.system.processes["sum"]
        said: list[tuple[str, Any]] = []
        node.transport.send = lambda to, _name, message, *_who: said.append((to, message)) or True  # type: ignore[func-returns-value, method-assign]
        node.sink.leader_established(process)
        announced = {to: message for to, message in said if isinstance(message, LeaderIs)}
        assert set(announced) == set(three.addresses) - {node.name}
        assert {message.leader for message in announced.values()} == {process.server.id}
        assert announced["n3"].uids == ()
        assert node.requests.leader_of("sum") == process.server.id


async def test_a_server_that_stops_says_so_to_its_peers_again_after_a_reconnect(tmp_path: Path) -> None:
    """Until there is a server of that name again."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        node = three.running[await three.leader(client, "sum")]
        process = node.system.processes["sum"]
        said: list[tuple[str, str, Any]] = []
        real = node.transport.send

        def send(to: str, name: str, message: Any, *who: str) -> bool:
            said.append((to, name, message))
            return real(to, name, message, *who)

        node.transport.send = send  # type: ignore[method-assign]
        process.fail(RuntimeError("a test"))
        down = ServerDown(process.server.id, connected=True)
        others = sorted(set(three.addresses) - {node.name})
        assert sorted(said) == [(other, "sum", down) for other in others]
        assert node.requests.leader_of("sum") != process.server.id
        said.clear()
        node.sink.node_connected(others[0])
        assert said == [(others[0], "sum", down)]
        process.failure = None
        node.sink.node_connected(others[1])
        assert len(said) == 1


async def test_removed_members_are_told_and_unknown_outcomes_are_no_refusals(tmp_path: Path) -> None:
    """A member without a known uid cannot be named."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        node = single.running["n1"]
        process = node.system.processes["sum"]
        told: list[tuple[str, Any]] = []
        node.dispatcher.notify_removed = lambda to, removed: told.append((to, removed))  # type: ignore[method-assign]
        gone = (
            (ServerId("sum", "n2"), Uid("U2")),
            (ServerId("sum", "n3"), None),
        )
        node.sink.members_gone(process, MembersGone(gone))
        assert told == [("n2", MemberRemoved(process.cluster_id, Uid("U2")))]
        outcomes: list[Any] = []
        session = node.open_session()

        class Receiver:
            """Notes the error."""

            def replied(self, *_: Any) -> None:
                raise AssertionError

            def failed(self, _offset: int, _count: int, error: Any) -> None:
                outcomes.append(type(error))

        correlation = session.expect(Receiver(), process.server.id, 5.0)
        node.sink.unresolved(Unresolved(node.me, correlation, 1))
        node.wake()

        async def is_told() -> bool:
            return outcomes == [OutcomeUnknown]

        await until(is_told, "the outcome")


async def test_a_server_that_has_come_to_its_end_is_deleted_at_the_end_of_the_turn(tmp_path: Path) -> None:
    """Its last messages leave first; a removed member goes alone, a deleted cluster for good."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        node = single.running["n1"]
        process = node.system.processes["sum"]
        node.sink.server_ended(process, StopReason.DELETED)
        assert (process.state, node.system.processes.get("sum")) == ("stopped", process)
        assert node.turn.is_scheduled

        async def is_gone() -> bool:
            return "sum" not in node.system.processes

        await until(is_gone, "the end of the turn")
        assert node.directory.deleted_cluster(process.cluster_id) is not None
