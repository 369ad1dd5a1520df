"""The pytest plugin of Barque: fixtures for people who test their own machines.

pytest finds the plugin by its entry point once Barque is installed. The plugin imports nothing until a test
uses a fixture.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--barque-seeds N`: how many seeds `simulated_machine` runs. The default is 10."""
    parser.addoption("--barque-seeds", type=int, default=10, help="seeds that simulated_machine runs")


@pytest.fixture
def deterministic_machine() -> Callable[..., int]:
    """`deterministic_machine(MyMachine, commands)` fails unless the machine does the same everywhere."""
    from barque.testing.determinism import check_machine

    return check_machine


@pytest.fixture
def simulated_machine(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any], Sequence[Any]], int]:
    """`simulated_machine(MyMachine, commands)` runs a machine on three or five members under faults.

    Members crash and messages get lost. The test fails, and names the seed, if members differ in the end.
    Returns how many commands all seeds together committed.
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
