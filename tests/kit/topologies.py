"""Every graph of links that a small cluster can have, still and flapping.

Basic Raft is not live when only some links work (this caused the outage of a large network company in
November 2020). The promise: if the members of some majority can all talk with each other, in both directions,
commands are committed, and then elections stop.
"""

import itertools
import random
from collections.abc import Iterator

import msgspec

from barque.config import TimeConfig
from barque.core.messages import ElectionTimeout
from barque.testing.checkers.history import Operation, Outcome, check_history
from barque.testing.core.world import NAMES, CoreWorld, WorldConfig

Link = tuple[str, str]
TIMES = TimeConfig(
    broadcast_time_ms=50, election_multiplier=5, heartbeat_interval_ms=100, detector_poll_ms=500, tick_ms=200
)
COMMIT_S = 20.0
"""How long a majority may take to commit its first command."""
CALM_S = 20.0
"""How long elections may go on after that, until suspicions and connections have ended."""
STABLE_S = 15.0
"""How long no election may happen then."""
FLAP_S = (0.15, 0.6, 2.5)
"""Periods of flapping links: shorter than an election, about as long, and much longer."""


class TopologyReport(msgspec.Struct, frozen=True):
    """What happened with one graph; `problem` is empty if the promise was kept."""

    nodes: int
    links: frozenset[Link]
    leader: str
    flap_s: float
    problem: str
    first_commit_s: float
    terms: tuple[int, ...]

    def __str__(self) -> str:
        shown = " ".join(sorted("".join(link) for link in self.links)) or "none"
        how = f", the others flap each {self.flap_s} s" if self.flap_s else ""
        return f"{self.nodes} nodes, first led by {self.leader}, links {shown}{how}: {self.problem or 'good'}"


def directed_graphs(nodes: int) -> Iterator[frozenset[Link]]:
    """Every set of directions that may work: 64 on three nodes."""
    links = [(x, y) for x in NAMES[:nodes] for y in NAMES[:nodes] if x != y]
    for chosen in itertools.product((False, True), repeat=len(links)):
        yield frozenset(link for link, works in zip(links, chosen, strict=True) if works)


def undirected_graphs(nodes: int) -> Iterator[frozenset[Link]]:
    """Every set of links that may work, in both directions: 1,024 on five nodes."""
    pairs = list(itertools.combinations(NAMES[:nodes], 2))
    for chosen in itertools.product((False, True), repeat=len(pairs)):
        works = [pair for pair, there in zip(pairs, chosen, strict=True) if there]
        yield frozenset([*works, *((y, x) for x, y in works)])


def shapes(graphs: Iterator[frozenset[Link]], nodes: int) -> list[frozenset[Link]]:
    """One graph of each shape: graphs that differ by names only count once."""
    seen: set[frozenset[Link]] = set()
    found = []
    for graph in graphs:
        if graph in seen:
            continue
        found.append(graph)
        for order in itertools.permutations(NAMES[:nodes]):
            to = dict(zip(NAMES[:nodes], order, strict=True))
            seen.add(frozenset((to[x], to[y]) for x, y in graph))
    return found


def connected_majorities(links: frozenset[Link], nodes: int) -> list[tuple[str, ...]]:
    """The majorities in which each member can talk with each other member, in both directions."""
    found = []
    for size in range(nodes // 2 + 1, nodes + 1):
        for group in itertools.combinations(NAMES[:nodes], size):
            if all((x, y) in links for x in group for y in group if x != y):
                found.append(group)
    return found


def run_topology(
    links: frozenset[Link], *, nodes: int, leader: str = "a", flap_s: float = 0.0, seed: int = 0
) -> TopologyReport:
    """Let a healthy cluster lose all other links at once (or again and again), and watch it."""
    world = CoreWorld(WorldConfig(nodes=nodes, time=TIMES), random.Random(seed))
    world.cluster[leader].handle(ElectionTimeout())
    world.settle(leader)
    world.run(3.0)
    whole = frozenset(world.links)
    world.links = set(links)
    if flap_s:
        _flap(world, links, whole - links, flap_s)
    problem, first_s = "", -1.0
    if connected_majorities(links, nodes):
        problem, first_s = _watch(world)
    anomaly = check_history(world.history)
    if anomaly is not None:
        problem = str(anomaly)
    return TopologyReport(nodes, links, leader, flap_s, problem, first_s, tuple(world.terms()))


def _flap(world: CoreWorld, links: frozenset[Link], rest: frozenset[Link], flap_s: float) -> None:
    """The links of `rest` come and go, all at once."""

    def flip(there: bool) -> None:
        world.links = set(links | rest) if there else set(links)
        world.after(flap_s * world.rng.uniform(0.8, 1.2), flip, not there)

    flip(False)


def _watch(world: CoreWorld) -> tuple[str, float]:
    """Check that a command is committed, then elections end, and commands are still committed."""
    began = world.now
    if not _commits(world, COMMIT_S, "first"):
        return f"nothing was committed within {COMMIT_S:.0f} s", -1.0
    first_s = world.now - began
    world.run(CALM_S)
    before = world.terms()
    world.run(STABLE_S)
    if max(world.terms()) != max(before):
        return f"elections go on: terms {before}, then {world.terms()}", first_s
    if not _commits(world, COMMIT_S, "last"):
        return f"later, nothing was committed within {COMMIT_S:.0f} s", first_s
    return "", first_s


def _commits(world: CoreWorld, seconds: float, name: str) -> bool:
    """Whether a member that believes it leads commits a command in this time."""
    asked: list[Operation] = []

    def ask() -> None:
        for member in world.leaders():
            asked.append(world.append(member.id.name, f"{name}.{len(asked)}"))
        if not any(operation.outcome is Outcome.OK for operation in asked):
            world.after(0.2, ask)

    ask()
    return world.run(seconds, lambda: bool(asked) and any(o.outcome is Outcome.OK for o in asked[-40:]))
