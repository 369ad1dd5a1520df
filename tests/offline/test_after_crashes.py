"""Whatever a crash leaves behind, an inspection of it finds notes at most: a node will start there."""

import pytest

from barque.config import LogConfig, SnapshotsConfig
from barque.offline.findings import Severity
from barque.offline.inspection import inspect
from barque.testing.sim.host import DATA
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario


@pytest.mark.parametrize("seed", range(6))
def test_no_damage_is_found_where_there_is_none(seed: int) -> None:
    """Nodes with small files lose power and are killed at random; each disk is inspected."""
    scenario = Scenario(
        duration_s=4.0,
        faults=("power_loss", "crash", "crash_in_disk", "stop", "disk_full", "sync_error"),
        pace_s=0.2,
        log=LogConfig(
            writer="inline",
            prefill=False,
            wal_max_size_bytes=4_096,
            segment_max_entries=16,
        ),
        snapshots=SnapshotsConfig(min_interval=10, checkpoint_min_interval=10),
        snapshot_every=20,
        checkpoint_every=30,
        live_every=7,
        think_s=0.005,
    )
    simulation = Simulation(seed, scenario)
    report = simulation.run()
    assert report.violation is None, str(report)
    segments = 0
    for host in simulation.hosts:
        for power in (True, False):
            disk = host.disk.fork()
            disk.space = None
            (disk.crash if power else disk.kill)()
            found = inspect(disk, DATA)
            assert found.worst in (None, Severity.NOTE), found.findings
            assert [server for server in found.servers if server.snapshot_index]
            servers = [f"{DATA}/servers/{server.uid}" for server in found.servers]
            segments += sum(len(disk.listdir(f"{path}/segments")) for path in servers)
    assert segments > 3, "there was something to look at"
