"""Samples as a table of text: medians, with the least and the greatest."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from barque.bench.measure import Sample


class Report(msgspec.Struct):
    """Everything that one call of the benchmark found out; its JSON form is what `--json` writes."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    samples: list[Sample]


COLUMNS = (
    *("workload", "runs", "commands/s", "p50 ms", "p99 ms", "nodes µs", "client µs", "stall ms"),
    *("log writer", "sync ms"),
)


def header(report: Report) -> list[str]:
    """The machine and the settings, in two lines."""
    m, s = report.machine, report.settings
    return [
        f"{m['cores']} cores ({m['cpu']}), {m['memory_gib']} GiB, {m['kernel']}, {m['python']}, {m['loop']}; "
        f"{m['filesystem']}, a sync takes {m['sync_ms']} ms; load {m['load_average'][0]}; {m['date']}",
        f"three nodes and the clients on this machine; {s['payload_bytes']} bytes a command, "
        f"{s['seconds']:g} s a run; median (least–greatest) of the runs",
    ]


def rows(samples: Sequence[Sample]) -> list[list[str]]:
    """A row for each workload, in the order of the first sample of each."""
    table = []
    for workload, group in by_workload(samples).items():
        table.append(
            [
                workload,
                str(len(group)),
                spread([s.per_second for s in group], rate_text),
                spread([s.p50_ms for s in group], ms_text),
                spread([s.p99_ms for s in group], ms_text),
                spread([s.nodes_cpu_us for s in group], us_text),
                spread([s.client_cpu_us for s in group], us_text),
                spread([s.longest_stall_ms for s in group], ms_text),
                "/".join(sorted({s.writer for s in group})) or "–",
                spread([s.sync_ms for s in group], ms_text),
            ]
        )
    return table


def by_workload(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each workload."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.workload, []).append(sample)
    return groups


def notes(samples: Sequence[Sample]) -> list[str]:
    """What the columns do not say."""
    lines = []
    for sample in samples:
        facts = sample.facts
        if sample.workload == "failover":
            times = ", ".join(f"{t:.0f}" for t in facts["times_ms"])
            lines.append(
                f"failover: ms from SIGKILL to a newly acknowledged write: {times} (p99: the greatest)"
            )
        elif sample.workload == "idle":
            lines.append(
                f"idle: {facts['clusters']} clusters of three formed in {facts['formed_s']:.1f} s, "
                f"{facts['kib_per_member']:.1f} KiB a member; then each node used "
                f"{facts['cpu_percent_per_node']:.2f} % of a core, and all sent "
                f"{facts['messages_per_s']:.0f} messages and {facts['bytes_per_s']:.0f} bytes a second: "
                f"{facts['extra_messages_per_s']:+.1f} messages and {facts['extra_bytes_per_s']:+.0f} bytes, "
                f"{facts['extra_cpu_percent_per_node']:+.2f} % compared with one cluster"
            )
    return lines


def spread(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    """`median (least–greatest)`, the median alone if there is but one value, a dash for none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "–"
    median = text(statistics.median(known))
    return median if len(known) == 1 else f"{median} ({text(known[0])}–{text(known[-1])})"


def rate_text(value: float) -> str:
    """Commands a second."""
    return f"{value:,.0f}"


def ms_text(value: float) -> str:
    """Milliseconds, with three digits that mean something."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def us_text(value: float) -> str:
    """Microseconds."""
    return f"{value:.1f}"


def aligned(columns: Sequence[str], table: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A table for a terminal: the first `left` columns to the left, the others to the right."""
    lines = [list(columns), *map(list, table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    texts = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return [texts[0], "-" * max(map(len, texts)), *texts[1:]]
