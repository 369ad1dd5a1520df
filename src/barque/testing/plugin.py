"""The pytest plugin of Barque: fixtures for people who test their own machines.

Installed with Barque; pytest finds it by its entry point. It imports nothing until a fixture is used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--barque-seeds N`: how many seeds `simulated_machine` runs; 10 unless told."""
    parser.addoption("--barque-seeds", type=int, default=10, help="seeds that simulated_machine runs")


@pytest.fixture
def deterministic_machine() -> Callable[..., int]:
    """`deterministic_machine(MyMachine, commands)` fails unless the machine does the same everywhere."""
    from barque.testing.determinism import check_machine

    return check_machine


@pytest.fixture
def simulated_machine(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any], Sequence[Any]], int]:
    """`simulated_machine(MyMachine, commands)` runs it on three or five members that crash and lose messages.

    Fails with the seed if members differ. Returns how many commands were committed in all seeds together.
    """
    from barque.testing.determinism import simulate_machine

    seeds = request.config.getoption("--barque-seeds")

    def run(make: Callable[[], Any], commands: Sequence[Any]) -> int:
        committed = 0
        for seed in range(1, seeds + 1):
            report = simulate_machine(make, commands, seed)
            if report.violation is not None:
                pytest.fail(f"seed {seed}: {report.violation}", pytrace=False)
            committed += report.committed
        return committed

    return run
