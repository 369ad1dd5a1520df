"""`barque simulate`: clusters on virtual time, with faults, from seeds."""

import json
import time
from collections import Counter

import click

from barque.testing.simulator import Report, simulate
from barque.testing.swarm import draw_scenario


@click.command("simulate")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds to run. Default: 20.")
@click.option("--start", type=int, help="The first seed of a campaign. Default: 1.")
@click.option("--seed", type=int, help="Run this seed only, and tell about it.")
@click.option("--hash", "show_hash", is_flag=True, help="Print the transcript's hash on the last line.")
@click.option("--trace", is_flag=True, help="Print every event of the run.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), help="Stop a campaign after so much processor time."
)
def simulate_command(
    seeds: int | None,
    start: int | None,
    seed: int | None,
    show_hash: bool,
    trace: bool,
    seconds: float | None,
) -> int:
    """Run whole clusters on virtual time, network and disk, with faults.

    The same seed always does the same. The exit code is 0 only if every run is clean. See
    docs/explanation/simulation.md.
    """
    if seed is not None:
        if seeds is not None or start is not None:
            raise click.UsageError("--seed runs one seed; --seeds and --start are for campaigns")
        return _one(seed, show_hash=show_hash, trace=trace)
    if show_hash or trace:
        raise click.UsageError("--hash and --trace need --seed")
    return _campaign(seeds or 20, 1 if start is None else start, seconds)


def _one(seed: int, *, show_hash: bool, trace: bool) -> int:
    scenario = draw_scenario(seed)
    click.echo(f"seed {seed}: {scenario.nodes} nodes, faults: {', '.join(scenario.faults)}")
    report = simulate(seed, scenario, trace=trace)
    click.echo(str(report))
    click.echo(_facts([report]))
    if show_hash:
        click.echo(report.hash)
    return 0 if report.violation is None else 1


def _campaign(seeds: int, start: int, seconds: float | None) -> int:
    reports: list[Report] = []
    spent = _processor_seconds()
    for seed in range(start, start + seeds):
        report = simulate(seed)
        reports.append(report)
        if report.violation is not None:
            click.echo(str(report))
        if seconds is not None and _processor_seconds() - spent > seconds:
            break
    spent = _processor_seconds() - spent
    click.echo(_facts(reports))
    hours = sum(report.virtual_s for report in reports) / 3600
    click.echo(f"processor: {spent:.1f} s; {hours / max(spent / 60, 1e-9):.2f} virtual hours a minute")
    failed = [report.seed for report in reports if report.violation is not None]
    click.echo(f"violations: {', '.join(map(str, failed)) or 'none'}")
    return 1 if failed else 0


def _facts(reports: list[Report]) -> str:
    """The summary of some runs."""
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)

    def total(field: str) -> int:
        return int(sum(getattr(report, field) for report in reports))

    hours = sum(report.virtual_s for report in reports) / 3600
    lines = (
        f"seeds: {reports[0].seed} to {reports[-1].seed}, {len(reports)} of them, "
        f"{sum(bool(report.void) for report in reports)} void; virtual hours: {hours:.3f}",
        f"elections: {total('elections')}; restarts: {total('restarts')}; frames: {total('frames')}",
        f"operations checked: {total('operations')} ({total('unknown')} unknown, {total('failed')} refused); "
        f"commits: {total('committed')}; looks at disks: {total('looks')}",
        f"faults: {json.dumps(dict(sorted(faults.items())))[1:-1]}",
    )
    return "\n".join(lines)


def _processor_seconds() -> float:
    return time.process_time()
