"""`barque simulate`: clusters on virtual time, with faults, from seeds."""

import json
import shutil
import subprocess  # asks git for the commit
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import IO, Any, NamedTuple

import click
import msgspec

from barque.cli.progress import Progress
from barque.testing.checkers.probes import PROBES, watched
from barque.testing.simulate import (
    changed,
    draw_core_scenario,
    draw_scenario,
    shrink,
    simulate,
    simulate_core,
)


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
@click.option("--report", type=click.File("w"), help="Write a line of JSON for each seed of a campaign.")
@click.option("--probes", "probed", is_flag=True, help="Count how often a campaign reached each rare path.")
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
    report: IO[str] | None,
    probed: bool,
) -> int:
    """Run whole clusters on virtual time, network and disk, with faults.

    The same seed always does the same. The exit code is 0 only if every run is clean. See
    docs/explanation/simulation.md.
    """
    if seed is None:
        if show_hash or trace or shrinks or changes is not None:
            raise click.UsageError("--hash, --trace, --shrink and --with need --seed")
        campaign = _Campaign(seeds or 20, 1 if start is None else start, seconds, core, report)
        return campaign.run_probed() if probed else campaign.run()
    if seeds is not None or start is not None or report is not None or probed:
        raise click.UsageError(
            "--seed runs one seed; --seeds, --start, --report and --probes are for campaigns"
        )
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
    with nullcontext() if trace else Progress(f"simulating seed {seed}"):
        report = _runner(seed, core=core, trace=trace)(scenario)
    click.echo(f"{report}{_commit_line(report)}")
    click.echo(_facts([report]))
    if show_hash:
        click.echo(report.hash)
    return 0 if report.violation is None else 1


def _shrink(seed: int, scenario: Any, changes: str | None, *, core: bool) -> int:
    """Find the smallest scenario that still fails, and show it."""
    with Progress(f"shrinking seed {seed}"):
        found = shrink(scenario, _runner(seed, core=core))
    if found is None:
        click.echo(f"seed {seed} is clean: there is nothing to shrink")
        return 0
    click.echo(f"{found.report}{_commit_line(found.report)}")
    known = json.loads(changes) if changes else {}
    text = json.dumps({**known, **found.changes})
    click.echo(f"shrunk in {found.tries} runs to faults: {', '.join(found.scenario.faults) or 'none'}; ")
    click.echo(f"replay: barque simulate {'--core ' if core else ''}--seed {seed} --with '{text}'")
    return 1


class _Campaign(NamedTuple):
    """Many seeds, one after the other."""

    seeds: int
    start: int
    seconds: float | None
    core: bool
    lines: IO[str] | None

    def run(self) -> int:
        """Run them, say what they did, and whether all were clean."""
        reports: list[Any] = []
        begun = time.process_time()
        with Progress("simulating", "seeds", self.seeds) as progress:
            for seed in range(self.start, self.start + self.seeds):
                report: Any = simulate_core(seed) if self.core else simulate(seed)
                reports.append(report)
                progress.done += 1
                self._note(line_of(report))
                if report.violation is not None:
                    progress.echo(f"{report}{_commit_line(report)}")
                if self.seconds is not None and time.process_time() - begun > self.seconds:
                    break
        spent = time.process_time() - begun
        self._note({"end": True, "processor_s": round(spent, 3), "commit": _commit()})
        click.echo(_facts(reports))
        hours = sum(report.virtual_s for report in reports) / 3600
        click.echo(f"processor: {spent:.1f} s; {hours / max(spent / 60, 1e-9):.2f} virtual hours a minute")
        failed = [report.seed for report in reports if report.violation is not None]
        click.echo(f"violations: {', '.join(map(str, failed)) or 'none'}")
        return 1 if failed else 0

    def run_probed(self) -> int:
        """Likewise, and count the rare paths that were reached."""
        with watched() as reached:
            code = self.run()
        self._note({"probes": dict(reached)})
        never = [name for name in PROBES if not reached[name]]
        for name in PROBES:
            click.echo(f"{reached[name]:>10}  {name}")
        click.echo(f"probes reached: {len(PROBES) - len(never)} of {len(PROBES)}")
        return code

    def _note(self, line: dict[str, Any]) -> None:
        if self.lines is not None:
            self.lines.write(json.dumps(line) + "\n")
            self.lines.flush()


def line_of(report: Any) -> dict[str, Any]:
    """What one seed did, without what can be had again from the seed."""
    line = msgspec.to_builtins(report)
    del line["scenario"]
    line.pop("tail", None)
    return {"nodes": nodes_of(report), **line}


def nodes_of(report: Any) -> int:
    """How many nodes its cluster had."""
    scenario = report.scenario
    return int(scenario.world.nodes if hasattr(scenario, "world") else scenario.nodes)


def _commit_line(report: Any) -> str:
    """A seed means what this code makes of it: a line that says which code, for a run that failed."""
    commit = _commit() if report.violation is not None else ""
    return f"\ncommit: {commit}" if commit else ""


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "-C", __file__.rpartition("/")[0], "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


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
