"""Faults aimed at one cluster, which the other clusters of the same nodes must not notice (I31)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from barque.testing.host import Host

if TYPE_CHECKING:
    from barque.testing.nemesis import Nemesis

STAYS_FAILED_RATE = 0.5
"""How often a server that has failed stays so, and its node goes on without it; also in the second phase."""


class ClusterNemesis:
    """The part of a nemesis that aims at one cluster."""

    def __init__(self, nemesis: "Nemesis") -> None:
        self._nemesis = nemesis
        self._sim = nemesis.sim
        self._rng = nemesis.sim.rng("nemesis of clusters")
        self.faults: dict[str, Callable[[], None]] = {"machine_fails": self.machine_fails}

    def heal(self) -> None:
        """What will fail has failed; some nodes with a failed server start again.

        All of those whose cluster may have no other member to spare.
        """
        needed = [cluster.name for cluster in self._sim.clusters if cluster.changes]
        for host in self._sim.hosts:
            host.failing.clear()
            if host.failed:
                stays = self._rng.random() < STAYS_FAILED_RATE
                if not stays or any(cluster in needed for cluster in host.failed):
                    host.crash(power=False)

    def machine_fails(self) -> None:
        """A machine raises at its next command on one node; that server is down until the node starts again.

        One at a time in each cluster, so that it can go on.
        """
        cluster = self._rng.choice(self._sim.clusters).name
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
