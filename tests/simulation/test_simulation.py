"""Seeds: the same seed twice, seeds that once failed, and fresh seeds."""

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.kit.mutants import planted

from barque.config import LogConfig, SnapshotsConfig
from barque.log.snapshot_check import SnapshotCheck
from barque.log.snapshot_files import Kept
from barque.testing.faults.clusters import ClusterNemesis
from barque.testing.sim.simulator import Simulation, simulate
from barque.testing.sim.swarm import Scenario

REGRESSIONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "regressions.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
if not os.environ.get("BARQUE_ALL_REGRESSIONS"):
    REGRESSIONS = REGRESSIONS[-20:]
FRESH_S = 6.0


def hash_of(seeds: list[int], hash_seed: str) -> list[str]:
    """The hashes of some seeds, computed in a process of its own."""
    code = "import sys; from barque.testing.sim.simulator import simulate\n"
    code += "for seed in sys.argv[1:]: print(simulate(int(seed)).hash)"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", code, *map(str, seeds)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_same_seed_same_run() -> None:
    """Two processes with different hash seeds do exactly the same for the same seeds."""
    seeds = [3, 4, 16, 22]
    found = hash_of(seeds, "1")
    assert found == hash_of(seeds, "2")
    assert len(set(found)) == len(seeds)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_seeds_that_once_failed(seed: int) -> None:
    """Seeds that failed are clean now: the newest here, all of them in `make loops`."""
    report = simulate(seed)
    assert report.violation is None, str(report)


def test_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds that were never run before are clean, for some seconds of processor time."""
    seed = first = int(time.time()) * 1_000
    start = time.process_time()
    while time.process_time() - start < FRESH_S:
        report = simulate(seed)
        assert report.violation is None, str(report)
        seed += 1
    with capsys.disabled():
        print(f"\nsimulated seeds {first} to {seed - 1}")


def test_a_calm_cluster_elects_once_and_refuses_nothing() -> None:
    """Without any fault there is one election, every operation is answered, and the run counts."""
    report = simulate(1, Scenario(duration_s=3.0, think_s=0.02))
    assert report.violation is None, str(report)
    assert (report.elections, report.unknown, report.failed, report.void) == (1, 0, 0, "")
    assert report.operations > 100


def test_each_effect_of_a_machine_is_performed_once() -> None:
    """I21: without faults, only the leader sends each command's message, and sends it once."""
    simulation = Simulation(1, Scenario(duration_s=3.0, think_s=0.02, tells=True))
    report = simulation.run()
    assert report.violation is None, str(report)
    [observer] = simulation.observers._all.values()
    assert [index for _, index in observer.messages._sent] == sorted(observer.committed.entries)


def test_rot_is_found_or_means_nothing() -> None:
    """A node whose files changed while it was down names the file and refuses, or has lost nothing (G7).

    A start does not read the bodies of segments: the server that reads one later stops, and names it.
    """
    counts = Counter[str]()
    small = LogConfig(writer="inline", prefill=False, wal_max_size_bytes=4_096)
    for seed, every in ((1, 0), (2, 0), (3, 0), (66, 16), (77, 4)):
        scenario = Scenario(
            duration_s=4.0,
            faults=("bit_rot",),
            pace_s=0.3,
            log=small,
            snapshot_every=every,
            checkpoint_every=every // 4,
            live_every=every // 2,
            snapshots=SnapshotsConfig(min_interval=1, interval_bytes=100, checkpoint_min_interval=1),
        )
        simulation = Simulation(seed, scenario)
        report = simulation.run()
        assert report.violation is None, str(report)
        counts.update(simulation.transcript.counts)
    assert counts["bit rot refused"] > 10
    assert counts["servers stopped by bit rot"] > 2


def test_a_snapshot_that_rots_while_its_node_runs_is_found_and_never_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receiver refuses it, its node notices, and members that lag get the next one (G7)."""
    found: list[str] = []
    end = SnapshotCheck.end

    def watched(self: SnapshotCheck, kept: Kept, error: Exception | None) -> str | None:
        told = end(self, kept, error)
        found.extend([] if told is None else [told])
        return told

    monkeypatch.setattr(SnapshotCheck, "end", watched)
    seed = 0
    while not found and seed < 20:  # a member must need the snapshot while it is rotten: in one run of three
        seed += 1
        scenario = Scenario(
            duration_s=5.0,
            faults=("snapshot_rot", "partition"),
            think_s=0.01,
            pace_s=0.2,
            fault_s=1.0,
            log=LogConfig(writer="inline", prefill=False, wal_max_size_bytes=4_096),
            snapshot_every=8,
            snapshots=SnapshotsConfig(min_interval=8, interval_bytes=100),
        )
        report = Simulation(seed, scenario).run()
        assert report.violation is None, str(report)
    assert found


def test_nodes_that_are_stopped_leave_nothing_behind() -> None:
    """A node that stops at any moment leaves no open file, task or timer, also with failing disks (I27)."""
    stops = 0
    for seed in range(6000, 6012):
        faults = ("stop",) if seed % 2 else ("stop", "disk_full", "sync_error")
        simulation = Simulation(seed, Scenario(duration_s=4.0, faults=faults, pace_s=0.1, fault_s=0.1))
        report = simulation.run()
        assert report.violation is None, str(report)
        stops += simulation.transcript.counts["stopped"]
    assert stops > 100


def test_no_hang_that_was_ordered_comes_after_all_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that should have hung under faults does not hang after they have ended."""
    simulation = Simulation(1, Scenario(duration_s=2.0))
    heal = simulation.nemesis.heal

    def order_hangs_and_heal() -> None:
        for host in simulation.hosts:
            assert host.process_disk is not None
            host.process_disk.hang_s = 8.0
        heal()

    monkeypatch.setattr(simulation.nemesis, "heal", order_hangs_and_heal)
    report = simulation.run()
    assert report.violation is None, str(report)
    assert report.recovered_s < 8.0


@pytest.mark.parametrize("formed", [True, False])
def test_stability_is_demanded_of_clusters_that_somebody_was_told_of(
    monkeypatch: pytest.MonkeyPatch, formed: bool
) -> None:
    """A cluster that no client knows may still elect a leader after the faults have ended (I26)."""
    simulation = Simulation(1, Scenario(duration_s=2.0, clusters=2, created=1))
    configured, created = simulation.clusters
    terms = itertools.count()

    async def never_forms() -> None:
        """No client creates the cluster."""

    monkeypatch.setattr(created, "form", never_forms)
    monkeypatch.setattr(configured if formed else created, "terms", lambda: [next(terms)])
    violation = simulation.run().violation
    assert (violation.name if violation is not None else None) == ("stability (I26)" if formed else None)


def test_nobody_is_taken_away_while_others_may_never_have_been_started() -> None:
    """Members are only added as long as it is unknown whether a creation reached every node.

    A removal counts at once. It may need the member that never started, and then it is stuck without end.
    """
    simulation = Simulation(1, Scenario(clusters=2, created=1, faults=("members",)))
    configured, created = simulation.clusters
    nemesis = ClusterNemesis(simulation.nemesis)
    verbs = {
        cluster.name: {nemesis.draw_change(cluster)[0] for _ in range(200)}
        for cluster in (configured, created)
    }
    assert created.leader() is None
    assert verbs[created.name] == {"add", "promote"}
    assert verbs[configured.name] == {"remove", "replace", "promote"}
    simulation.loop.close()


@pytest.mark.parametrize("strategy", ["all", "quorum"])
def test_clusters_move_to_the_next_machine_version(strategy: str) -> None:
    """Nodes get new code one by one, amid crashes; all members move at one index, and most clusters move."""
    moved = 0
    for seed in range(1, 6):
        faults = ("upgrade", "crash", "transfer")
        scenario = Scenario(duration_s=5.0, faults=faults, pace_s=0.3, upgrade_strategy=strategy)
        simulation = Simulation(seed, scenario)
        report = simulation.run()
        assert report.violation is None, str(report)
        servers = [server for cluster in simulation.clusters for _, server in cluster.servers()]
        moved += any("moved" in server.machine_state for server in servers)
    assert moved >= 4


WRONG_DIRECTORIES = Scenario(duration_s=6.0, faults=("swapped_disks", "copied_disk", "crash"), pace_s=0.5)


def test_d1_nodes_refuse_the_directories_of_others_and_lose_nothing() -> None:
    """Disks are swapped and copied amid crashes: the starts are refused, and put right, nothing is lost."""
    refused = 0
    for seed in range(1, 7):
        run = Simulation(seed, WRONG_DIRECTORIES)
        report = run.run()
        assert report.violation is None, report
        refused += run.transcript.counts["directories refused"]
    assert refused > 20


@pytest.mark.parametrize("name", ["foreign_directory_accepted", "foreign_directory_taken"])
def test_d1_a_node_that_takes_a_foreign_directory_is_found(name: str) -> None:
    """The planted bugs show that the fault is no decoration."""
    with planted(name):
        reports = [Simulation(seed, WRONG_DIRECTORIES).run() for seed in range(1, 7)]
    found = [report.violation.name for report in reports if report.violation is not None]
    assert any("(D1)" in name for name in found), found
