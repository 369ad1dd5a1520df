"""Many clusters on three simulated nodes: crashes of nodes, their recovery, and the balance of leaders."""

from collections.abc import Callable

import pytest

import barque
from barque.runtime import campaigns
from barque.runtime.campaigns import Campaigns
from barque.runtime.server_process import ServerProcess
from barque.testing.sim.clusters import SimCluster
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario


class ManyClusters(Simulation):
    """After some crashes all nodes lose power at once; then the leaders are dealt out."""

    def __init__(self, seed: int, clusters: int) -> None:
        scenario = Scenario(
            clusters=clusters,
            clients=clusters,
            workers=1,
            think_s=0.5,
            duration_s=1.0,
            faults=("crash",),
            pace_s=0.5,
        )
        super().__init__(seed, scenario)
        self.balanced: barque.LeaderBalance | None = None

    async def _become_well(self) -> list[SimCluster]:
        await super()._become_well()
        for host in self.hosts:
            host.crash(power=True)
        formed = await super()._become_well()
        client = formed[0].clients[0].client
        self.balanced = await client.balance_leaders(per_second=100.0, timeout_s=5.0)
        for cluster in formed:
            await cluster.works()
        return formed


def test_many_clusters_recover_and_are_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty clusters live through crashes with one campaign of a node at a time; leaders end up even."""
    monkeypatch.setattr(campaigns, "CAMPAIGNS_MAX", 1)
    waited = most = 0
    ask = Campaigns.ask

    def note(self: Campaigns, process: ServerProcess, campaign: Callable[[], None]) -> None:
        nonlocal waited, most
        ask(self, process, campaign)
        waited += process in self
        most = max(most, len(self._running))

    monkeypatch.setattr(Campaigns, "ask", note)
    simulation = ManyClusters(1, 50)
    report = simulation.run()
    assert report.violation is None, str(report)
    assert simulation.balanced is not None
    led = simulation.balanced.after.values()
    assert sum(led) == 50
    assert max(led) - min(led) <= 1
    assert {move.outcome for move in simulation.balanced.moves} <= {"moved"}
    assert waited > 20
    assert most == 1


def test_servers_that_wait_for_ever_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: nobody lets the next server campaign. Then some cluster has no leader."""
    monkeypatch.setattr(campaigns, "CAMPAIGNS_MAX", 1)
    monkeypatch.setattr(Campaigns, "_look", lambda self: None)
    report = ManyClusters(1, 30).run()
    assert report.violation is not None
    assert report.violation.name == "liveness (I25)"
