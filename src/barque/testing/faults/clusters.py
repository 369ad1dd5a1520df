"""Faults of one cluster, which the other clusters on the same nodes must not notice (I31)."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from barque.client.client import Client
from barque.errors import BarqueError
from barque.testing.sim.clusters import SimCluster
from barque.testing.sim.host import Host
from barque.types import Membership

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis

STAYS_FAILED_RATE = 0.5
"""How often a failed server stays down, also in the second phase, while its node goes on without it."""


class ClusterNemesis:
    """The part of the nemesis that aims at one cluster."""

    def __init__(self, nemesis: "Nemesis") -> None:
        self._nemesis = nemesis
        self._sim = nemesis.sim
        self._rng = nemesis.sim.rng("nemesis of clusters")
        self.faults: dict[str, Callable[[], None]] = {
            "machine_fails": self.machine_fails,
            "members": self.members,
            "recreate": self.recreate,
        }

    def heal(self) -> None:
        """End the faults; some nodes with a failed server start again.

        A node always starts again if its cluster could not lose another member.
        """
        needed = [cluster.name for cluster in self._sim.clusters if cluster.changes]
        for host in self._sim.hosts:
            host.failing.clear()
            if host.failed:
                stays = self._rng.random() < STAYS_FAILED_RATE
                if not stays or any(cluster in needed for cluster in host.failed):
                    host.crash(power=False)
        if needed:
            self._reconnect()

    def _reconnect(self) -> None:
        """Break connections that have lost frames, as TCP does in the end.

        A node without a member of a cluster learns its leader from one announcement on each connection.
        """
        names = self._sim.names
        for at, one in enumerate(names):
            for other in names[at + 1 :]:
                self._sim.network.disconnect(one, other)

    def machine_fails(self) -> None:
        """A machine raises at its next command on one node; its server is down until that node starts again.

        This happens to one member at a time in each cluster, so that the cluster can go on.
        """
        cluster = self._rng.choice([c for c in self._sim.clusters if c.formed] or self._sim.clusters).name
        victims = [host for host in self._sim.hosts if host.server(cluster) is not None]
        spoiled = any(cluster in host.failed or cluster in host.failing for host in self._sim.hosts)
        if spoiled or not victims:
            return
        host = self._rng.choice(victims)
        host.failing[cluster] = None
        if self._rng.random() >= STAYS_FAILED_RATE:
            self._nemesis.later(lambda: self._restart(host, cluster), at_least_s=1.0)

    def _restart(self, host: Host, cluster: str) -> None:
        host.failing.pop(cluster, None)
        if cluster in host.failed:
            host.crash(power=False)

    # --- members -------------------------------------------------------------------------

    def members(self) -> None:
        """An operator adds, removes, replaces or promotes a member, whichever nodes lead and run."""
        cluster = self._rng.choice([cluster for cluster in self._sim.clusters if cluster.formed] or [None])
        if cluster is None:
            return
        verb, node = self.draw_change(cluster)
        self._nemesis.count("members", f"{verb} {cluster.name}@{node}")
        self._ask(cluster, verb, lambda client: self._change(client, verb, cluster.name, node))

    def draw_change(self, cluster: SimCluster) -> tuple[str, str]:
        """Draw a verb and the node of a member.

        No member is removed while another is missing, or may be missing: the others might need the removed
        one, and could not even undo the change.
        """
        node, leader, missing = self._rng.choice(self._sim.names), cluster.leader(), cluster.missing()
        if missing is None:
            return self._rng.choice(("add", "promote")), node
        if missing:
            return "replace", self._rng.choice(missing)
        if leader is not None and self._rng.random() < 0.3:
            node = leader.id.node
        here = leader is None or any(member.node == node for member in leader.cluster)
        return self._rng.choice(("remove", "replace", "promote") if here else ("add", "add", "replace")), node

    def _change(self, client: Client, verb: str, cluster: str, node: str) -> Awaitable[Any]:
        match verb:
            case "add":
                kind = self._rng.choice((Membership.VOTER, Membership.VOTER, Membership.NON_VOTER))
                return client.add_member(cluster, node, membership=kind)
            case "remove":
                return client.remove_member(cluster, node)
            case "replace":
                others = [name for name in self._sim.names if name != node]
                target = self._rng.choice((None, None, self._rng.choice(others)))
                return client.replace_member(cluster, node, node=target)
            case _:
                return client.promote_member(cluster, node)

    def _ask(self, cluster: SimCluster, what: str, ask: Callable[[Client], Awaitable[Any]]) -> None:
        admin = self._rng.choice(cluster.clients)

        async def run() -> None:
            try:
                answer = await admin.ask(ask)
                self._sim.transcript.note(admin.name, f"{what}: {answer}")
            except BarqueError as error:
                self._sim.transcript.note(admin.name, f"{what}: {type(error).__name__}")

        self._sim.keep(self._sim.loop.create_task(run()))

    def recreate(self) -> None:
        """An operator deletes a created cluster, and creates another one under its name."""
        created = [c for c in self._sim.clusters if c.formed and not c.configured]
        if created:
            cluster = self._rng.choice(created)
            cluster.may_be_gone()
            self._nemesis.count("recreate", cluster.name)
            self._sim.keep(self._sim.loop.create_task(cluster.recreate()))
