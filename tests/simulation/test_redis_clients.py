"""Simulated Redis clients: they are judged like native clients, and planted bugs are found."""

from collections import Counter

import pytest
from tests.kit.mutants_redis import REDIS_MUTANTS

from barque.testing.checkers.history import Outcome
from barque.testing.sim.redis_machine import REDIS
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario, draw_scenario, with_redis


def run(seed: int = 1, **fields: object) -> Simulation:
    """A run of one cluster with Redis clients only."""
    settings: dict[str, object] = {"objects": (REDIS,), "duration_s": 4.0, "burst_share": 0.3, **fields}
    simulation = Simulation(seed, Scenario(**settings))  # type: ignore[arg-type]
    simulation.run()
    return simulation


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("crash", "power_loss", "crash_all"),
        ("pause", "blocked_loop", "hung_sync", "clock_jump"),
        ("stop", "transfer", "upgrade"),
        ("partition", "loss", "flapping", "half_open"),
        ("members", "disk_full", "sync_error"),
    ],
    ids=lambda faults: faults[0] if faults else "none",
)
def test_redis_clients_work_amid_faults(faults: tuple[str, ...]) -> None:
    """Transactions, watches, pipelines and reconnects: no answer contradicts another, and work goes on."""
    simulation = run(faults=faults)
    assert simulation.violation is None, simulation.violation
    counts = simulation.transcript.counts
    assert counts["redis answers"] > 20
    assert counts["redis connections"] > 3
    outcomes = Counter(operation.outcome for client in simulation.clients for operation in client.history)
    assert outcomes[Outcome.OK] == counts["redis answers"]


@pytest.mark.parametrize("seed", [*range(1, 11), 42])
def test_drawn_scenarios_with_redis_clients(seed: int) -> None:
    """Whatever a seed draws, tiny limits and several clusters included: no violation, and answers."""
    simulation = Simulation(seed, with_redis(draw_scenario(seed)))
    simulation.run()
    assert simulation.violation is None, simulation.violation
    assert simulation.transcript.counts["redis answers"] > 0


def test_watches_meet_each_other() -> None:
    """Several clients append to one list by WATCH: some of them are refused, and none is lost."""
    simulation = run(keys=1, clients=4, workers=3, think_s=0.01, read_share=0.1)
    assert simulation.violation is None
    assert simulation.transcript.counts["redis watches failed"] > 10
    assert simulation.transcript.counts["redis garbage"] > 1


def test_a_run_with_redis_clients_repeats_itself() -> None:
    """The same seed gives the same run, answer for answer."""
    histories = [
        [
            str(operation)
            for client in run(6, faults=("crash", "partition"), duration_s=6.0).clients
            for operation in client.history
        ]
        for _ in range(2)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) > 100


@pytest.mark.parametrize("name", REDIS_MUTANTS)
def test_planted_bugs_of_the_gateway_are_found(name: str) -> None:
    """Each planted bug contradicts what some client was told, within a few seeds."""
    with REDIS_MUTANTS[name]():
        for seed in range(1, 9):
            simulation = run(
                seed,
                keys=1,
                clients=4,
                workers=3,
                think_s=0.01,
                faults=("crash", "partition", "one_way"),
                pace_s=0.2,
            )
            if simulation.violation is not None:
                assert "linearizability" in simulation.violation.name or name == "replies_swapped"
                return
    raise AssertionError(f"{name} was not found")
