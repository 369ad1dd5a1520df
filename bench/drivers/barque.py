"""Barque itself, as `barque bench` measures it."""

from barque.bench.facts import run
from barque.bench.measure import Sample, Settings, measure
from drivers.common import ROWS

_ROWS = {
    "pipeline": "pipeline, low priority",
    "pipeline, normal": "pipeline, normal priority",
    "concurrent": "concurrent, 1 connection",
}


class Barque:
    """Three node processes with default settings."""

    name = "barque"
    syncs = "O_DSYNC writes, one for each batch of the log"
    clients = "one process of its own, over TCP"
    not_promised = "–"
    rows = ROWS

    def check(self) -> None:
        """It is here: this is its repository."""

    def run(self, row: str, settings: Settings) -> Sample:
        """Fresh nodes, one row, once."""
        sample = run(measure(_ROWS.get(row, row), settings))
        sample.workload = row
        return sample
