"""`barque.client.balancing`: leaders are dealt out with the fewest transfers, and at a bounded rate."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from tests.nodes import nodes, until

import barque
from barque.client.balancing import Candidates, plan
from barque.client.results import ClusterStatus, MemberStatus, NodeStatus
from barque.types import Term

NODES = ("n1", "n2", "n3", "n4")


def status_of(
    clusters: Mapping[str, tuple[str | None, Sequence[str]]], down: Sequence[str] = (), **changes: Any
) -> barque.Status:
    """A status: cluster → its leader's node, and the nodes of its members."""
    made = []
    for name, (leader, places) in clusters.items():
        leads = barque.ServerId(name, leader) if leader else None
        members = tuple(
            MemberStatus(
                server=barque.ServerId(name, node),
                **{
                    "leader": leads,
                    "role": "leader" if node == leader else "follower",
                    **changes.get(node, {}),
                },
            )
            for node in places
        )
        made.append(ClusterStatus(name=name, leader=leads, term=Term(1), members=members))
    states = {node: "unreachable" if node in down else "running" for node in NODES[:3]}
    states |= {node: "running" for _, places in clusters.values() for node in places if node not in states}
    told = tuple(NodeStatus(name=node, state=state) for node, state in states.items())
    return barque.Status(nodes=told, clusters=tuple(made))


def test_leaders_of_one_node_are_dealt_out() -> None:
    """Nine clusters that one node leads: six move, three to each other node."""
    clusters = {f"c{number}": ("n1", NODES[:3]) for number in range(9)}
    moves = plan(Candidates(status_of(clusters)))
    assert sorted(move.target.node for move in moves) == ["n2"] * 3 + ["n3"] * 3
    assert {move.source.node for move in moves} == {"n1"}
    assert len({move.cluster for move in moves}) == 6


def test_what_is_even_stays() -> None:
    """A difference of one is none: nothing moves back and forth."""
    clusters = {f"c{number}": (NODES[number % 3], NODES[:3]) for number in range(7)}
    assert plan(Candidates(status_of(clusters))) == []
    assert plan(Candidates(status_of({}))) == []


def test_only_followers_that_vote_on_nodes_that_run_take_over() -> None:
    """No leader goes to a node that does not answer, a member without a vote, or one that campaigns."""
    clusters = {f"c{number}": ("n1", NODES[:3]) for number in range(6)}
    assert {m.target.node for m in plan(Candidates(status_of(clusters, down=["n2"])))} == {"n3"}
    for change in ({"voter": False}, {"role": "pre_vote"}, {"leader": None}):
        moves = plan(Candidates(status_of(clusters, n2=change)))
        assert {move.target.node for move in moves} == {"n3"}
    leaderless = {name: (None, places) for name, (_, places) in clusters.items()}
    assert plan(Candidates(status_of(leaderless))) == []


def test_a_way_through_a_node_in_between_is_found() -> None:
    """Clusters of n1 have no member on n3, but clusters of n2 do: each node gives one on."""
    clusters = {
        **{f"a{number}": ("n1", ("n1", "n2")) for number in range(3)},
        **{f"b{number}": ("n2", ("n2", "n3")) for number in range(2)},
        "c": ("n3", ("n3",)),
    }
    moves = plan(Candidates(status_of(clusters)))
    assert sorted((m.source.node, m.target.node) for m in moves) == [("n1", "n2"), ("n2", "n3")]


def test_a_plan_may_be_bounded() -> None:
    """The first moves of a plan are a plan."""
    clusters = {f"c{number}": ("n1", NODES[:3]) for number in range(9)}
    assert len(plan(Candidates(status_of(clusters)), moves_max=2)) == 2
    assert plan(Candidates(status_of(clusters)), moves_max=0) == []


@given(
    st.lists(st.lists(st.sampled_from(NODES), min_size=1, max_size=4, unique=True), min_size=0, max_size=30)
)
def test_every_plan_can_be_made_and_helps(places: list[list[str]]) -> None:
    """Each move is to a member of its cluster, no cluster moves twice, and the spread shrinks.

    With members on all nodes the counts end within one of each other.
    """
    clusters = {f"c{number}": (own[0], own) for number, own in enumerate(places)}
    candidates = Candidates(status_of(clusters))
    before = dict(candidates.counts)
    after = dict(before)
    moves = plan(candidates)
    for move in moves:
        leader, own = clusters[move.cluster]
        assert leader == move.source.node != move.target.node
        assert move.target.node in own
        after[move.source.node] -= 1
        after[move.target.node] += 1
    assert len({move.cluster for move in moves}) == len(moves)
    squares = sum(count**2 for count in before.values()), sum(count**2 for count in after.values())
    assert squares[1] < squares[0] if moves else squares[1] == squares[0]
    if places and all(len(own) == 4 for own in places):
        assert max(after.values()) - min(after.values()) <= 1


async def test_a_client_balances_leaders(tmp_path: Path) -> None:
    """API-21: a dry run moves nothing; then each node leads two of six clusters, and nothing is left."""
    async with nodes(tmp_path, 3) as running, running.client("n1") as client:
        for number in range(6):
            await client.start_cluster(f"c{number}", "adder")
            await client.transfer_leadership(f"c{number}", "n1")

        async def gathered() -> bool:
            found = await client.balance_leaders(dry_run=True)
            return found.before == {"n1": 6, "n2": 0, "n3": 0}

        await until(gathered, "all leaders on n1")
        planned = await client.balance_leaders(dry_run=True)
        assert planned.after == {"n1": 2, "n2": 2, "n3": 2}
        assert {move.outcome for move in planned.moves} == {"planned"}
        began = time.monotonic()
        done = await client.balance_leaders(per_second=40.0)
        assert time.monotonic() - began >= 3 / 40
        assert [move.outcome for move in done.moves] == ["moved"] * 4, done
        assert done.after == {"n1": 2, "n2": 2, "n3": 2}
        assert (await client.balance_leaders()).moves == ()
        for number in range(6):
            assert await client.process_command(f"c{number}", 1) == 1


async def test_a_transfer_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other transfers are made all the same; a rate or a number that makes no sense is refused."""
    async with nodes(tmp_path, 3) as running, running.client("n1") as client:
        for number in range(6):
            await client.start_cluster(f"c{number}", "adder")
            await client.transfer_leadership(f"c{number}", "n1")

        async def gathered() -> bool:
            return (await client.balance_leaders(dry_run=True)).before["n1"] == 6

        await until(gathered, "all leaders on n1")
        transfer, refused = client.transfer_leadership, []

        async def first_fails(cluster: str, target: Any, *, timeout_s: float | None = None) -> Any:
            if not refused:
                refused.append(cluster)
                raise barque.NotUpToDate("it lags")
            return await transfer(cluster, target, timeout_s=timeout_s)

        monkeypatch.setattr(client, "transfer_leadership", first_fails)
        done = await client.balance_leaders(per_second=100.0)
        outcomes = {move.cluster: (move.outcome, move.reason) for move in done.moves}
        assert outcomes.pop(refused[0]) == ("failed", "it lags")
        assert set(outcomes.values()) == {("moved", "")}
        for arguments in ({"per_second": 0.0}, {"per_second": float("nan")}, {"moves_max": -1}):
            with pytest.raises(barque.InvalidCommand):
                await client.balance_leaders(**arguments)
