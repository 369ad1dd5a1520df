"""D1, sec 8: data are deleted only when several nodes confirm it by what they have committed."""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, ask_as_a_node, nodes, until

from barque.core.state import Server
from barque.errors import ChangeNotPermitted
from barque.runtime.removals import FORMER_MEMBER, is_confirmed
from barque.runtime.server_process import ServerProcess
from barque.transport.wire import Envelope, LeaderIs, MemberRemoved, NodeMessage, RemovalAnswer
from barque.types import Index, Term

HOSTILE_INDEX = Index(1 << 40)


def member(some: Nodes, node: str) -> ServerProcess:
    """The member of `sum` on a node."""
    return some.running[node].system.processes["sum"]


def says(some: Nodes, liar: str, to: str, message: NodeMessage) -> None:
    """A node that knows the secret sends what is not true."""
    some.running[to].on_envelopes(liar, [Envelope("", message)])


@pytest.mark.parametrize("whole_cluster", [False, True])
async def test_sec8_one_node_cannot_make_another_delete_its_member(
    tmp_path: Path, whole_cluster: bool
) -> None:
    """Sec 8: it claims the removal or the deletion, announces itself as a leader, and answers the questions
    that follow. The member keeps its data, and the cluster serves.
    """
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 5) == 5
        process = member(three, "n1")
        cluster_id, uid = process.cluster_id, process.uid
        voters = () if whole_cluster else ("n2",)
        for term in range(2, 6):
            says(three, "n2", "n1", MemberRemoved(cluster_id, "" if whole_cluster else uid))
            leader = member(three, "n2").server.id
            says(three, "n2", "n1", LeaderIs("sum", leader, Term(term), cluster_id, ()))
            says(three, "n2", "n1", RemovalAnswer(cluster_id, uid, True, HOSTILE_INDEX, voters))
        assert await client.process_command("sum", 1) == 6
        assert process.failure is None
        await three.stop()
        await three.start()
        assert "sum" in three.running["n1"].system.processes
        assert await client.consistent_query("sum") == 6


async def test_d1_an_answer_that_lists_the_member_ends_the_suspicion(tmp_path: Path) -> None:
    """D1: a node knows a newer configuration that names it, so the notice was out of date."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        process = member(three, "n1")
        cluster_id, uid = process.cluster_id, process.uid
        removals = three.running["n1"].dispatcher.removals
        says(three, "n2", "n1", MemberRemoved(cluster_id, uid))
        assert removals.is_suspected(process)
        says(three, "n3", "n1", RemovalAnswer(cluster_id, uid, False, HOSTILE_INDEX, ()))
        assert removals.is_suspected(process)  # n3 may be late to commit what n2 has told

        async def ended() -> bool:
            says(three, "n3", "n1", RemovalAnswer(cluster_id, uid, False, HOSTILE_INDEX, ()))
            return not removals.is_suspected(process)

        await until(ended, "the suspicion ends")
        assert await client.process_command("sum", 1) == 1


async def test_a_member_waits_for_a_second_node_before_it_goes(tmp_path: Path) -> None:
    """Its removal is committed, but only one other node is up: it goes when the second one confirms."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await three.stop("n3")
        await client.remove_member("sum", "n3")
        await three.stop("n1")
        await three.start("n3")
        ghost = member(three, "n3")
        removals = three.running["n3"].dispatcher.removals
        says(three, "n2", "n3", MemberRemoved(ghost.cluster_id, ghost.uid))

        async def confirmed_by_one() -> bool:
            suspicion = removals._suspicions.get(ghost)
            return suspicion is not None and set(suspicion.confirmed) == {"n2"}

        await until(confirmed_by_one, "n2 to confirm")
        assert ghost.failure is None
        await three.start("n1")

        async def gone() -> bool:
            return "sum" not in three.running["n3"].system.processes

        await until(gone, "the removed member to go")


async def test_an_operator_deletes_a_ghost_that_too_few_nodes_can_confirm(tmp_path: Path) -> None:
    """Of the cluster one node is left, which alone cannot confirm a removal. The operator can."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 5) == 5
        await client.transfer_leadership("sum", "n1")
        await three.stop("n3")
        await client.remove_member("sum", "n3")
        await client.remove_member("sum", "n2")
        await three.stop("n2")
        await three.start("n3")
        ghost = member(three, "n3")
        says(three, "n1", "n3", MemberRemoved(ghost.cluster_id, ghost.uid))
        assert ghost.failure is None
        async with three.client("n3") as there:
            done = await there.call("force_delete_server", {"cluster": "sum"})
        assert done == {"members": ["sum@n3"]}
        assert await client.process_command("sum", 1) == 6
        await three.stop("n3")
        await three.start("n3")
        assert "sum" not in three.running["n3"].system.processes


async def test_sec8_a_node_cannot_discard_a_member_or_take_its_place(tmp_path: Path) -> None:
    """Sec 8: verbs between nodes make room for new servers. A server that holds commands stays."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 5) == 5
        process = member(three, "n1")
        cluster_id, uid = process.cluster_id, process.uid
        place = {"cluster": "sum", "cluster_id": cluster_id, "uids": {"sum@n1": uid}}
        assert await ask_as_a_node(three.running["n1"], "discard_server", place) == "in use"
        replacement = {
            **place,
            "uids": {"sum@n1": "SUMNEW"},
            "machine": "adder",
            "members": ["sum@n1", "sum@n2", "sum@n3"],
            "term": 1 << 20,
        }
        with pytest.raises(ChangeNotPermitted, match="confirm"):
            await ask_as_a_node(three.running["n1"], "start_server", replacement)
        assert await client.process_command("sum", 1) == 6
        assert member(three, "n1") is process
        assert process.failure is None


class Named:
    """A server of this configuration."""

    def __init__(self, *names: str) -> None:
        self.id = server_id(names[0])
        self.cluster = dict.fromkeys(map(server_id, names))


def server_id(node: str) -> Any:
    """`sum` on that node."""
    from barque.types import ServerId

    return ServerId("sum", node)


@pytest.mark.parametrize(
    ("own", "confirmed", "enough"),
    [
        (("n1", "n2", "n3"), {"n2": ("n2", "n3")}, False),
        (("n1", "n2", "n3"), {"n2": ("n2", "n3"), "n3": ("n2", "n3")}, True),
        (("n1", "n2", "n3"), {"n2": (), "n3": ()}, True),
        (("n1", "n2", "n3"), {"n2": ()}, False),
        (("n1", "n2"), {"n2": ("n2",)}, True),
        (
            ("n1", "n2", "n3", "n4", "n5"),
            {"n2": ("n2", "n3", "n4", "n5"), "n3": ("n2", "n3", "n4", "n5")},
            False,
        ),
        (("n1", "n2", "n3"), {"n4": ("n4", "n5", "n6"), "n5": ("n4", "n5", "n6")}, True),
        (
            ("n1", "n2", "n3"),
            {"n2": ("n4", "n5"), "n3": ("n4", "n5")},
            False,
        ),  # not of the newest configuration
        (("n1",), {"n2": ("n2",)}, True),
    ],
)
def test_how_many_nodes_have_to_confirm(
    own: tuple[str, ...], confirmed: dict[str, tuple[str, ...]], enough: bool
) -> None:
    """Two nodes, and a majority of the voters that the newest configuration names."""
    answers = {node: RemovalAnswer("c", "u", True, Index(9), voters) for node, voters in confirmed.items()}
    server: Server = Named(*own)  # type: ignore[assignment]
    assert is_confirmed(server, answers) is enough


@pytest.mark.parametrize(
    ("told", "enough"),
    [
        ({"n2": (9, ("n2",))}, False),
        ({"n1": (0, FORMER_MEMBER), "n2": (9, ("n2",))}, True),
        ({"n1": (0, FORMER_MEMBER), "n2": (9, ("n2", "n4", "n5"))}, False),
        ({"n1": (0, FORMER_MEMBER), "n2": (0, FORMER_MEMBER)}, False),
    ],
)
def test_a_former_member_is_a_witness_beside_a_configuration(
    told: dict[str, tuple[int, tuple[str, ...]]], enough: bool
) -> None:
    """A cluster that has shrunk to one member can be believed, former members alone cannot."""
    answers = {n: RemovalAnswer("c", "u", True, Index(index), voters) for n, (index, voters) in told.items()}
    server: Server = Named("n1", "n2", "n3")  # type: ignore[assignment]
    assert is_confirmed(server, answers) is enough


async def test_a_cluster_that_shrank_to_one_member_leaves_no_ghosts(tmp_path: Path) -> None:
    """A member that missed its removal goes when it comes back, although one node alone is left."""
    async with nodes(tmp_path, 3) as made, made.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.transfer_leadership("sum", "n1")

        async def led_by_n1() -> bool:
            return await made.leader(client, "sum") == "n1"

        await until(led_by_n1, "n1 leads")
        await made.stop("n3")
        await client.remove_member("sum", "n3")
        await client.remove_member("sum", "n2", force=True)
        assert await client.process_command("sum", 1) == 1
        await made.start("n3")

        async def gone() -> bool:
            return "sum" not in made.running["n3"].system.processes

        await until(gone, "n3's member is gone")
