"""`barque nemesis`: real node processes under faults, real clients, and checkers of their histories."""

import secrets
import shutil
import tempfile
from functools import partial
from pathlib import Path

import click

from barque.cli.failures import FAILED, OK, PROVES_NOTHING, USAGE, CliError
from barque.cli.output import output_option, print_json
from barque.cli.progress import Progress
from barque.cli.signals import run_until_told
from barque.testing.chaos.clients import KINDS
from barque.testing.chaos.presets import OURS, PRESETS, RA
from barque.testing.chaos.run import Plan, RunReport, run_plan, worst
from barque.testing.chaos.verdict import Verdict

_GROUPS = {"all": tuple(PRESETS), "ra": tuple(RA), "ours": tuple(OURS)}
_CODES = {Verdict.CLEAN: OK, Verdict.VOID: PROVES_NOTHING, Verdict.NOT_CLEAN: FAILED}


@click.command()
@click.option(
    "--preset",
    "names",
    multiple=True,
    default=("chaos",),
    show_default=True,
    metavar="NAME",
    help="A set of faults and workloads; may be repeated. all, ra and ours name groups; see --list.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=2),
    help="How long faults last in each run. Default: the preset's own.",
)
@click.option("--seed", type=int, help="The seed of faults and workloads. Default: a new one.")
@click.option("--out", type=click.Path(file_okay=False), help="Keep histories and reports in this directory.")
@click.option("--nodes", type=click.IntRange(3, 9), help="The number of nodes. Default: the preset's own.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="A workload of the clients; may be repeated. Default: the preset's own.",
)
@click.option("--list", "show_list", is_flag=True, help="Show the presets, and run nothing.")
@output_option
def nemesis(
    names: tuple[str, ...],
    seconds: float | None,
    seed: int | None,
    out: str | None,
    nodes: int | None,
    workloads: tuple[str, ...],
    show_list: bool,
    output: str,
) -> int:
    """Kill, freeze and cut off node processes under load, then check the clients' histories.

    Exits with 0 only if every run is clean: no anomaly, no hang, nothing left behind, and
    each fault happened. A run that was too short for its faults proves nothing: 3. See
    docs/how-to/nemesis.md.
    """
    if show_list:
        _show_presets(output)
        return OK
    chosen = _chosen(names)
    seed = secrets.randbits(31) if seed is None else seed
    root = _root(out)
    plans = [
        Plan(
            name=name,
            preset=PRESETS[name],
            seed=seed,
            seconds=PRESETS[name].seconds if seconds is None else seconds,
            directory=root / f"{name}-{seed}",
            nodes=nodes or PRESETS[name].nodes,
            workloads=workloads or PRESETS[name].workloads,
        )
        for name in chosen
    ]
    taken = [str(plan.directory) for plan in plans if plan.directory.exists()]
    if taken:
        raise CliError(f"{taken[0]} exists already; choose another --seed or --out", USAGE)
    reports = [_run(plan, output) for plan in plans]
    verdict = worst(reports)
    if verdict is not Verdict.NOT_CLEAN and out is None:
        shutil.rmtree(root)
    if output == "json":
        print_json({"seed": seed, "clean": verdict is Verdict.CLEAN, "verdict": verdict, "runs": reports})
    else:
        _conclude(reports)
    return _CODES[verdict]


def _conclude(reports: list[RunReport]) -> None:
    """Count the runs that are not clean, and say where their files are."""
    failed = [report for report in reports if report.verdict is Verdict.NOT_CLEAN]
    void = [report for report in reports if report.verdict is Verdict.VOID]
    for report in failed:
        click.echo(f"{report.preset}: everything is kept in {report.directory}")
    if failed:
        click.echo(f"{len(failed)} of {len(reports)} runs failed")
    if void:
        click.echo(
            f"{len(void)} of {len(reports)} runs were too short: they prove nothing; give more --seconds"
        )


def _chosen(names: tuple[str, ...]) -> list[str]:
    chosen = list(dict.fromkeys(one for name in names for one in _GROUPS.get(name, (name,))))
    for name in chosen:
        if name not in PRESETS:
            raise click.UsageError(f"there is no preset {name!r}; --list names them")
    return chosen


def _root(out: str | None) -> Path:
    """The directory of all runs. Without --out it is removed if all runs are clean."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="barque-nemesis-"))
    path = Path(out).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run(plan: Plan, output: str) -> RunReport:
    faults = ", ".join(plan.preset.faults)
    err = output == "json"
    click.echo(f"{plan.name}: seed {plan.seed}, {plan.nodes} nodes, {plan.seconds:g} s; {faults}", err=err)
    with Progress(f"{plan.name} goes on") as progress:
        tell = partial(progress.echo, err=err)
        report = run_until_told(run_plan(plan, tell), f"; {plan.directory} is kept")
    click.echo("\n".join(_summary(report)), err=err)
    return report


def _summary(report: RunReport) -> list[str]:
    lines = [
        f"  {name}: {counts['begun']} operations, {counts['ok']} acknowledged, "
        f"{counts['fail']} refused, {counts['unknown']} unknown"
        for name, counts in report.workloads.items()
    ]
    happened = ", ".join(f"{name} {count}" for name, count in report.faults.items())
    lines.append(f"  faults: {happened}; starts of nodes: {report.starts}, {report.restarts} by the keeper")
    if report.left_out:
        lines.append(f"  left out: {', '.join(report.left_out)}")
    recovered = "never" if report.recovered_s is None else f"after {report.recovered_s} s"
    lines.append(f"  served again {recovered}; checked in {report.checking_s} s")
    again = f"barque nemesis --preset {report.preset} --seed {report.seed} --seconds {report.seconds:g}"
    match report.verdict:
        case Verdict.CLEAN:
            lines.append("  clean")
        case Verdict.VOID:
            lines.append("  TOO SHORT: nothing wrong was found, and nothing is proved; use more --seconds")
        case Verdict.NOT_CLEAN:
            lines.append(f"  NOT CLEAN; the same schedule again: {again}")
    return lines


def _show_presets(output: str) -> None:
    if output == "json":
        print_json(PRESETS)
        return
    for name, preset in PRESETS.items():
        click.echo(f"{name}: {preset.about}; {preset.nodes} nodes, {preset.seconds:g} s")
