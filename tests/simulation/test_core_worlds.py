"""Worlds of core servers: random worlds, and every graph of links that a small cluster can have.

With `BARQUE_ALL_WORLDS=1` (`make worlds`), all graphs run, still and flapping, with every first leader.
"""

import os
import time

import msgspec
import pytest
from tests.kit.topologies import (
    FLAP_S,
    Link,
    TopologyReport,
    connected_majorities,
    directed_graphs,
    run_topology,
    shapes,
    undirected_graphs,
)

from barque.testing.core.simulator import simulate_core
from barque.testing.core.swarm import CoreScenario, draw_core_scenario

ALL = os.environ.get("BARQUE_ALL_WORLDS") == "1"
FRESH_S = 4.0
FLAPS_MOST_ELECTIONS = 8
"""Links that flap each 2.5 s cause at most this many elections in the 15 s that should be without any."""


def test_fresh_core_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds that were never run before are clean, for some seconds of processor time."""
    seed = first = int(time.time()) * 1_000
    start = time.process_time()
    while time.process_time() - start < FRESH_S:
        report = simulate_core(seed)
        assert report.violation is None, str(report)
        seed += 1
    with capsys.disabled():
        print(f"\nsimulated core seeds {first} to {seed - 1}")


@pytest.mark.parametrize("seed", [37, 158, 218, 20_001_020, 30_003_771])
def test_members_come_and_go(seed: int) -> None:
    """Members are removed, replaced and demoted, leaders too: nothing committed is lost, and all recover.

    In these seeds a world had dropped the messages of a later leader, and a voter had ignored a candidate
    with a later configuration. In the last one the voter knew no committed configuration; a joining member
    now learns what is committed.
    """
    report = simulate_core(seed)
    assert report.violation is None, str(report)
    assert {"leave", "enter", "change"} <= set(report.faults)


@pytest.mark.parametrize(
    "seed",
    [
        84_001_826,  # a leader that gave up its vote chose its successor before it waited
        85_011_990,  # the same
        84_004_273,  # a commit index that came before its entries was forgotten
        84_010_044,  # the same
        86_072_426,  # the end of a leader was heard before its last message, which waited for a disk
        84_009_894,  # a voter without a committed configuration ignored a candidate with a later one
    ],
)
def test_a_seed_that_failed_is_clean(seed: int) -> None:
    """The cluster is live and correct; a test of the core covers each defect, too."""
    report = simulate_core(seed)
    assert report.violation is None, str(report)


def test_seeds_differ_in_kind() -> None:
    """About a third of the seeds are harsh and short, about three in ten change members."""
    scenarios = [draw_core_scenario(seed) for seed in range(300)]
    assert 70 < sum(scenario.pace_s < 0.1 for scenario in scenarios) < 130
    assert all(scenario.duration_s <= 6.0 for scenario in scenarios if scenario.pace_s < 0.1)
    assert 60 < sum("leave" in scenario.faults for scenario in scenarios) < 120


def test_a_run_that_did_nothing_is_void() -> None:
    """A run without commits, or without a fault that it drew, calls itself void."""
    quiet = CoreScenario(duration_s=0.1, operations_a_s=0.1)
    assert simulate_core(1, quiet).void.startswith("void: ")
    idle = CoreScenario(duration_s=6.0, faults=("crash", "enter"))  # no member leaves
    assert simulate_core(1, idle).void == "void: never happened: enter"
    assert simulate_core(1, msgspec.structs.replace(idle, faults=("crash",))).void == ""


def test_the_same_core_seed_is_the_same_run() -> None:
    """A seed gives the same events, terms and times twice."""
    first = [simulate_core(seed).hash for seed in (1, 2, 3)]
    assert first == [simulate_core(seed).hash for seed in (1, 2, 3)]


def _judge(reports: list[TopologyReport]) -> None:
    bad = [str(report) for report in reports if report.problem]
    assert not bad, "\n".join(bad)
    assert reports


def _play(
    graphs: list[frozenset[Link]], nodes: int, leaders: str, flap_s: float = 0.0
) -> list[TopologyReport]:
    return [
        run_topology(links, nodes=nodes, leader=leader, flap_s=flap_s, seed=seed)
        for seed, links in enumerate(graphs)
        for leader in leaders
        if connected_majorities(links, nodes)
    ]


def test_there_are_so_many_graphs() -> None:
    """There are 64 directed graphs on three nodes, of 16 shapes, and 1,024 undirected on five, of 34."""
    assert len(list(directed_graphs(3))) == 64
    assert len(list(undirected_graphs(5))) == 1_024
    assert len(shapes(directed_graphs(3), 3)) == 16
    assert len(shapes(undirected_graphs(5), 5)) == 34


def test_all_directed_graphs_on_three_nodes() -> None:
    """If two nodes can talk in both directions, commands are committed, and then elections end."""
    _judge(_play(list(directed_graphs(3)), 3, "abc"))


def test_graphs_on_five_nodes() -> None:
    """If three nodes can talk, each with each, the same holds: for one graph of each shape, or for all."""
    graphs = list(undirected_graphs(5)) if ALL else shapes(undirected_graphs(5), 5)
    _judge(_play(graphs, 5, "abcde"))


@pytest.mark.parametrize("flap_s", FLAP_S)
@pytest.mark.parametrize("nodes", [3, 5])
def test_flapping_graphs(nodes: int, flap_s: float) -> None:
    """The links of a majority stay, all others come and go: commands are committed all the time.

    Elections end as well, except with links that stay up or down for longer than an election takes. Such a
    link may cause an election each time (a member that heard no leader asks members that hear theirs).
    """
    graphs = list(directed_graphs(3)) if nodes == 3 else list(undirected_graphs(5))
    if not ALL:
        graphs = shapes(iter(graphs), nodes)
    reports = _play(graphs, nodes, "abcde"[:nodes] if ALL else "ac", flap_s)
    if flap_s == max(FLAP_S):
        assert max(max(report.terms) for report in reports) <= 40 * FLAPS_MOST_ELECTIONS / 15
        reports = [report for report in reports if "elections go on" not in report.problem]
    _judge(reports)
