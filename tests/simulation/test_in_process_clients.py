"""Simulated clients in a node's process share its fate, and every call ends."""

from unittest.mock import patch

import pytest
from tests.kit.mutants import planted

from barque.runtime.requests import RequestRouter
from barque.testing.checkers.history import Outcome
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario, draw_scenario


def run(seed: int = 1, **fields: object) -> Simulation:
    """A run with three clients in nodes' processes and one outside."""
    settings: dict[str, object] = {
        "clients": 1,
        "in_process_clients": 3,
        "workers": 2,
        "duration_s": 6.0,
        **fields,
    }
    simulation = Simulation(seed, Scenario(**settings))  # type: ignore[arg-type]
    simulation.run()
    return simulation


def violation(simulation: Simulation) -> str:
    """The name of the violated property, or ""."""
    return simulation.violation.name if simulation.violation is not None else ""


@pytest.mark.parametrize(
    "faults",
    [("crash", "power_loss"), ("pause", "blocked_loop", "hung_sync"), ("stop",), ("transfer", "cancel")],
    ids=lambda faults: faults[0],
)
def test_in_process_clients_work_amid_faults(faults: tuple[str, ...]) -> None:
    """Their calls are answered whatever happens to the process, and no property is violated."""
    simulation = run(faults=faults)
    assert violation(simulation) == ""
    for client in simulation.clients:
        assert any(operation.outcome is Outcome.OK for operation in client.history)


def test_what_a_dead_process_had_asked_stays_unknown() -> None:
    """Calls of a dead process stay unknown; the next start of the node has clients that work again."""
    simulation = run(faults=("crash_all",), read_share=0.0)
    assert violation(simulation) == ""
    in_process_clients = [client for client in simulation.clients if client.name.startswith("i")]
    for client in in_process_clients:
        outcomes = [operation.outcome for operation in client.history]
        assert Outcome.OK in outcomes[outcomes.index(Outcome.UNKNOWN) :]


def test_a_call_that_outlives_its_node_is_reported() -> None:
    """A node that stops without telling its clients leaves calls and tasks behind, which is reported."""
    with planted("in_process_clients_forgotten"):
        assert violation(run(faults=("stop",))) == "nothing is left behind (I27)"


def test_a_call_that_outlives_its_time_is_reported() -> None:
    """The router does not fail requests that are past their deadline."""
    forever = lambda _self, _now: None  # noqa: E731
    with patch.object(RequestRouter, "expire", forever):
        assert violation(run(faults=("crash",), timeout_s=0.2)) == "calls end in time (I25)"


def test_a_refusal_of_what_happened_is_reported() -> None:
    """A command that was under way when the node stopped may have happened, so "refused" is reported."""
    with planted("stopped_called_refused"):
        found = [violation(run(seed, faults=("stop",), pace_s=0.2)) for seed in range(1, 6)]
    assert "linearizability (I14 to I17)" in found


def test_in_process_clients_hear_machines() -> None:
    """Each client hears every message of a machine to its node, in order."""
    assert violation(run(tells=True)) == ""
    with planted("one_listener_hears"):
        assert violation(run(tells=True)) == "messages of machines arrive (I21)"


def test_a_connection_that_has_ended_is_forgotten() -> None:
    """A node at rest has as many sessions as clients are connected, inside and outside."""
    faults = ("client_disconnect",)
    assert violation(run(clients=3, in_process_clients=1, faults=faults)) == ""
    with planted("ended_clients_kept"):
        assert violation(run(clients=3, in_process_clients=1, faults=faults)) == "queues drain (I27)"


def test_in_process_clients_are_drawn_apart() -> None:
    """One seed in six has clients in processes; what else a seed draws does not depend on them."""
    some = [seed for seed in range(1, 601) if draw_scenario(seed).in_process_clients]
    assert 60 <= len(some) <= 140
