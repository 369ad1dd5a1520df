"""What a comparison found, and its tables: ratios of runs in the same round."""

from collections.abc import Sequence
from typing import Any

import msgspec

from barque.bench.measure import Sample
from barque.bench.report import ms_text, rate_text, spread, us_text

BY_LATENCY = ("sequential", "read", "failover")
"""Rows whose figure is a latency; the others' is a rate."""
COLUMNS = (
    "workload",
    "program",
    "runs",
    "commands/s",
    "p50 ms",
    "p99 ms",
    "nodes µs",
    "barque is … times as fast",
)


class Entry(msgspec.Struct):
    """One run of one row by one program, or why there is none."""

    round: int
    peer: str
    row: str
    sample: Sample | None = None
    error: str = ""


class Comparison(msgspec.Struct):
    """Everything; its JSON form is what bench/peers.py writes."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    peers: dict[str, dict[str, str]]
    entries: list[Entry]


def table(comparison: Comparison) -> list[list[str]]:
    """A row for each workload and program."""
    lines = []
    for row in dict.fromkeys(entry.row for entry in comparison.entries):
        for peer in dict.fromkeys(entry.peer for entry in comparison.entries if entry.row == row):
            samples = list(_samples(comparison, peer, row).values())
            lines.append(
                [
                    row,
                    peer,
                    str(len(samples)),
                    spread([s.per_second for s in samples], rate_text),
                    spread([s.p50_ms for s in samples], ms_text),
                    spread([s.p99_ms for s in samples], ms_text),
                    spread([s.nodes_cpu_us for s in samples], us_text),
                    "" if peer == "barque" else spread(ratios(comparison, peer, row), ratio_text),
                ]
            )
    return lines


def ratios(comparison: Comparison, peer: str, row: str) -> list[float]:
    """How many times as fast Barque was as this peer, in each round in which both ran."""
    ours, theirs = _samples(comparison, "barque", row), _samples(comparison, peer, row)
    found = []
    for number in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[number], theirs[number]
        rates = (mine.per_second, other.per_second)
        pair = (other.p50_ms, mine.p50_ms) if row in BY_LATENCY else rates
        if pair[0] is not None and pair[1]:
            found.append(pair[0] / pair[1])
    return found


def _samples(comparison: Comparison, peer: str, row: str) -> dict[int, Sample]:
    return {
        entry.round: entry.sample
        for entry in comparison.entries
        if entry.peer == peer and entry.row == row and entry.sample is not None
    }


def ratio_text(value: float) -> str:
    """Two digits that mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def promises(comparison: Comparison) -> list[list[str]]:
    """A row for each program: how it syncs, where its clients are, what it does not promise."""
    return [
        [name, facts["syncs"], facts["clients"], facts["not_promised"]]
        for name, facts in comparison.peers.items()
    ]


PROMISE_COLUMNS = ("program", "syncs", "clients", "does not promise")


def troubles(comparison: Comparison) -> Sequence[str]:
    """What was left out, and why."""
    lines = [
        f"{name}: {facts['missing']}" for name, facts in comparison.peers.items() if facts.get("missing")
    ]
    return lines + [
        f"{entry.peer}, {entry.row}, round {entry.round}: {entry.error}"
        for entry in comparison.entries
        if entry.error
    ]
