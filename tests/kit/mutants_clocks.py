"""Planted bugs of clocks: whose time the machines see. See `mutants`."""

from statistics import mean
from typing import Any
from unittest.mock import patch

from barque.runtime import cluster_clock
from barque.runtime.cluster_clock import ClusterClock
from tests.kit.mutant_registry import mutant


@mutant("a node goes by its own clock, whatever the others show (I33)", layer="node")
def other_clocks_ignored() -> Any:
    """See `MUTANTS`."""
    return patch.object(ClusterClock, "heard", lambda *_: None)


@mutant("a node takes the mean of the clocks in the place of the median (I33)", layer="node")
def mean_of_clocks() -> Any:
    """See `MUTANTS`."""
    return patch.object(cluster_clock, "median_low", lambda known: int(mean(known)))


@mutant("a node takes one other clock for the right one (I33)", layer="node")
def latest_clock_taken() -> Any:
    """See `MUTANTS`."""
    real = ClusterClock.look

    def look(self: ClusterClock) -> None:
        real(self)
        self._base_ms = self._others[max(self._others)][-1] if self._others else self._own_ms

    return patch.object(ClusterClock, "look", look)
