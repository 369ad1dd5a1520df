"""Deal leaders out over nodes: which clusters are to be led elsewhere, and the transfers that bring it about.

A leader does more work than a follower, and leaders gather: on the node that formed the clusters, and on the
nodes that stayed up while another one restarted. `plan` finds the fewest transfers after which the nodes lead
about equally many clusters; `balance` makes them one after the other, so that no more than a few clusters are
between two leaders at a time.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from barque.client.results import ClusterStatus, LeaderBalance, LeaderMove, Status, Transfer
from barque.errors import BarqueError
from barque.types import ServerId

_CONFIRM_S = 5.0
_LOOK_EVERY_S = 0.1

Edges = dict[tuple[str, str], dict[str, None]]
"""(node, other node) → clusters that the node leads and the other one may lead."""


class Verbs(Protocol):
    """What is asked of a client."""

    async def status(
        self, clusters: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> Status:
        """See `Client`."""
        ...

    async def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> Transfer:
        """See `Client`."""
        ...


class Candidates:
    """The clusters that a status tells of: who leads each, and who could."""

    def __init__(self, status: Status) -> None:
        running = {node.name for node in status.nodes if node.state == "running"}
        self.leaders: dict[str, ServerId] = {}
        self.heirs: dict[str, dict[str, ServerId]] = {}  # by node: the voters that follow this leader
        self.counts = Counter(dict.fromkeys(running, 0))
        for cluster in status.clusters:
            if cluster.leader is not None:
                self.leaders[cluster.name] = cluster.leader
                self.heirs[cluster.name] = _heirs(cluster, running)
                self.counts[cluster.leader.node] += 1


def _heirs(cluster: ClusterStatus, running: set[str]) -> dict[str, ServerId]:
    return {
        member.server.node: member.server
        for member in cluster.members
        if member.voter and member.role == "follower" and member.leader == cluster.leader
        if member.server.node in running
    }


def plan(candidates: Candidates, moves_max: int | None = None) -> list[LeaderMove]:
    """The transfers, in an order in which each may be made; at most so many.

    Each round takes one leader from a node with many and gives one to a node with at least two fewer, if need
    be through nodes in between, along the shortest way. So no transfer is made in vain, and the rounds end.
    """
    counts, first = Counter(candidates.counts), {name: at.node for name, at in candidates.leaders.items()}
    now, edges = dict(first), _edges(candidates)
    while (path := _next_path(counts, edges)) is not None:
        for source, target in itertools.pairwise(path):
            name = next(iter(edges[source, target]))
            _move(name, source, target, candidates, edges)
            now[name] = target
        counts[path[0]] -= 1
        counts[path[-1]] += 1
        if moves_max is not None and sum(now[name] != first[name] for name in now) >= moves_max:
            break
    moved = [name for name in first if now[name] != first[name]]
    return [
        LeaderMove(cluster=name, source=candidates.leaders[name], target=candidates.heirs[name][now[name]])
        for name in moved[:moves_max]
    ]


def _edges(candidates: Candidates) -> Edges:
    edges: Edges = {}
    for name, leader in candidates.leaders.items():
        for node in candidates.heirs[name]:
            edges.setdefault((leader.node, node), {})[name] = None
    return edges


def _next_path(counts: Counter[str], edges: Edges) -> list[str] | None:
    """From a node with too many leaders to one with too few."""
    for start in sorted(counts, key=lambda node: (-counts[node], node)):
        came_from: dict[str, str] = {start: ""}
        queue = deque([start])
        while queue:
            node = queue.popleft()
            if counts[node] <= counts[start] - 2:
                path = [node]
                while came_from[path[-1]]:
                    path.append(came_from[path[-1]])
                return path[::-1]
            reachable = [other for other in counts if other not in came_from and edges.get((node, other))]
            for other in sorted(reachable, key=lambda other: (counts[other], other)):
                came_from[other] = node
                queue.append(other)
    return None


def _move(name: str, source: str, target: str, candidates: Candidates, edges: Edges) -> None:
    """The cluster is led on another node in the plan; its old leader becomes an heir."""
    heirs = candidates.heirs[name]
    for node in heirs:
        edges.get((source, node), {}).pop(name, None)
    heirs.setdefault(source, candidates.leaders[name])
    for node in heirs:
        if node != target:
            edges.setdefault((target, node), {})[name] = None


async def balance(
    client: Verbs, *, dry_run: bool, moves_max: int | None, per_second: float, timeout_s: float | None
) -> LeaderBalance:
    """Look, plan, transfer, look again. See `Client.balance_leaders`."""
    candidates = Candidates(await client.status(timeout_s=timeout_s))
    before = dict(candidates.counts)
    moves = plan(candidates, moves_max)
    if dry_run or not moves:
        after = Counter(before)
        after.update(move.target.node for move in moves)
        after.subtract(move.source.node for move in moves)
        return LeaderBalance(before=before, after=dict(after), moves=tuple(moves))
    loop = asyncio.get_running_loop()
    began = loop.time()
    made: list[LeaderMove] = []
    for number, move in enumerate(moves):
        await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
        try:
            await client.transfer_leadership(move.cluster, move.target, timeout_s=timeout_s)
        except BarqueError as error:
            made.append(msgspec.structs.replace(move, outcome="failed", reason=str(error)))
        else:
            made.append(msgspec.structs.replace(move, outcome="unconfirmed"))
    made = await _confirm(client, made, timeout_s)
    after = Candidates(await client.status(timeout_s=timeout_s)).counts
    return LeaderBalance(before=before, after=dict(after), moves=tuple(made))


async def _confirm(client: Verbs, moves: Iterable[LeaderMove], timeout_s: float | None) -> list[LeaderMove]:
    """See who leads now; targets are given a few seconds to win."""
    known = {move.cluster: move for move in moves}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CONFIRM_S
    while True:
        waiting = [name for name, move in known.items() if move.outcome == "unconfirmed"]
        if not waiting or loop.time() > deadline:
            return list(known.values())
        for cluster in (await client.status(waiting, timeout_s=timeout_s)).clusters:
            move = known[cluster.name]
            if cluster.leader == move.target:
                known[cluster.name] = msgspec.structs.replace(move, outcome="moved")
        await asyncio.sleep(_LOOK_EVERY_S)
