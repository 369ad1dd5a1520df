"""`barque simulate`: clusters on virtual time, with faults, from seeds."""

import json
import shutil
import subprocess  # asks git for the commit
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
import msgspec

from barque.testing.core_simulator import simulate_core
from barque.testing.core_swarm import draw_core_scenario
from barque.testing.shrink import changed, shrink
from barque.testing.simulator import simulate
from barque.testing.swarm import draw_scenario


@click.command("simulate")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds to run. Default: 20.")
@click.option("--start", type=int, help="The first seed of a campaign. Default: 1.")
@click.option("--seed", type=int, help="Run this seed only, and tell about it.")
@click.option("--core", is_flag=True, help="Core servers only: no runtime, no files, many times faster.")
@click.option("--with", "changes", metavar="JSON", help="With --seed: replace fields of its scenario.")
@click.option("--shrink", "shrinks", is_flag=True, help="With --seed: make a failing run as small as it can.")
@click.option("--hash", "show_hash", is_flag=True, help="Print the transcript's hash on the last line.")
@click.option("--trace", is_flag=True, help="Print every event of the run.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), help="Stop a campaign after so much processor time."
)
def simulate_command(
    seeds: int | None,
    start: int | None,
    seed: int | None,
    core: bool,
    changes: str | None,
    shrinks: bool,
    show_hash: bool,
    trace: bool,
    seconds: float | None,
) -> int:
    """Run whole clusters on virtual time, network and disk, with faults.

    The same seed always does the same. The exit code is 0 only if every run is clean. See
    docs/explanation/simulation.md.
    """
    if seed is None:
        if show_hash or trace or shrinks or changes is not None:
            raise click.UsageError("--hash, --trace, --shrink and --with need --seed")
        return _campaign(seeds or 20, 1 if start is None else start, seconds, core=core)
    if seeds is not None or start is not None:
        raise click.UsageError("--seed runs one seed; --seeds and --start are for campaigns")
    if core and trace:
        raise click.UsageError("--core has no trace of events")
    scenario = _scenario(seed, changes, core=core)
    if shrinks:
        return _shrink(seed, scenario, changes, core=core)
    return _one(seed, scenario, show_hash=show_hash, trace=trace, core=core)


def _scenario(seed: int, changes: str | None, *, core: bool) -> Any:
    """What the seed draws, with the fields that were asked for."""
    scenario: Any = draw_core_scenario(seed) if core else draw_scenario(seed)
    if changes is None:
        return scenario
    try:
        return changed(scenario, json.loads(changes))
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise click.UsageError(f"--with is no part of a scenario: {error}") from error


def _runner(seed: int, *, core: bool, trace: bool = False) -> Callable[[Any], Any]:
    if core:
        return lambda scenario: simulate_core(seed, scenario)
    return lambda scenario: simulate(seed, scenario, trace=trace)


def _one(seed: int, scenario: Any, *, show_hash: bool, trace: bool, core: bool) -> int:
    nodes = scenario.world.nodes if core else scenario.nodes
    click.echo(f"seed {seed}: {nodes} nodes, faults: {', '.join(scenario.faults)}")
    report = _runner(seed, core=core, trace=trace)(scenario)
    click.echo(str(report))
    _say_commit(report)
    click.echo(_facts([report]))
    if show_hash:
        click.echo(report.hash)
    return 0 if report.violation is None else 1


def _shrink(seed: int, scenario: Any, changes: str | None, *, core: bool) -> int:
    """Find the smallest scenario that still fails, and show it."""
    found = shrink(scenario, _runner(seed, core=core))
    if found is None:
        click.echo(f"seed {seed} is clean: there is nothing to shrink")
        return 0
    click.echo(str(found.report))
    _say_commit(found.report)
    known = json.loads(changes) if changes else {}
    text = json.dumps({**known, **found.changes})
    click.echo(f"shrunk in {found.tries} runs to faults: {', '.join(found.scenario.faults) or 'none'}; ")
    click.echo(f"replay: barque simulate {'--core ' if core else ''}--seed {seed} --with '{text}'")
    return 1


def _campaign(seeds: int, start: int, seconds: float | None, *, core: bool) -> int:
    reports: list[Any] = []
    spent = _processor_seconds()
    for seed in range(start, start + seeds):
        report: Any = simulate_core(seed) if core else simulate(seed)
        reports.append(report)
        if report.violation is not None:
            click.echo(str(report))
            _say_commit(report)
        if seconds is not None and _processor_seconds() - spent > seconds:
            break
    spent = _processor_seconds() - spent
    click.echo(_facts(reports))
    hours = sum(report.virtual_s for report in reports) / 3600
    click.echo(f"processor: {spent:.1f} s; {hours / max(spent / 60, 1e-9):.2f} virtual hours a minute")
    failed = [report.seed for report in reports if report.violation is not None]
    click.echo(f"violations: {', '.join(map(str, failed)) or 'none'}")
    return 1 if failed else 0


def _say_commit(report: Any) -> None:
    """A seed means what this code makes of it: say which code, for a run that failed."""
    git = shutil.which("git")
    if report.violation is None or git is None:
        return
    command = [git, "-C", __file__.rpartition("/")[0], "rev-parse", "--short=12", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if found.returncode == 0:
        click.echo(f"commit: {found.stdout.strip()}")


def _facts(reports: list[Any]) -> str:
    """The summary of some runs."""
    faults: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)

    def total(field: str) -> int:
        return int(sum(getattr(report, field, 0) for report in reports))

    hours = sum(report.virtual_s for report in reports) / 3600
    lines = (
        f"seeds: {reports[0].seed} to {reports[-1].seed}, {len(reports)} of them, "
        f"{sum(bool(getattr(report, 'void', '')) for report in reports)} void; virtual hours: {hours:.3f}",
        f"events: {total('events')}; elections: {total('elections')}; restarts: {total('restarts')}; "
        f"frames: {total('frames')}",
        f"operations checked: {total('operations')} ({total('unknown')} unknown, {total('failed')} refused); "
        f"commits: {total('committed')}; looks at disks: {total('looks')}",
        f"faults: {json.dumps(dict(sorted(faults.items())))[1:-1]}",
    )
    return "\n".join(lines)


def _processor_seconds() -> float:
    return time.process_time()
