"""Clusters on virtual time, from a seed: `simulate`, `simulate_core` and `simulate_machine`.

The same seed always does the same. `simulate` runs whole nodes with their disks and their network;
`simulate_core` runs core servers alone, many times faster; `simulate_machine` runs a machine of yours on core
servers. Each returns a report whose `violation` is None if nothing was wrong. `shrink` makes a scenario that
fails as small as it can. docs/explanation/simulation.md tells what is simulated and what is checked.
"""

from barque.testing.core.machine_simulator import simulate_machine
from barque.testing.core.simulator import CoreReport, simulate_core
from barque.testing.core.swarm import CoreScenario, draw_core_scenario
from barque.testing.sim.shrink import Shrunk, changed, shrink
from barque.testing.sim.simulator import Report, simulate
from barque.testing.sim.swarm import Scenario, draw_scenario

__all__ = [
    "CoreReport",
    "CoreScenario",
    "Report",
    "Scenario",
    "Shrunk",
    "changed",
    "draw_core_scenario",
    "draw_scenario",
    "shrink",
    "simulate",
    "simulate_core",
    "simulate_machine",
]
