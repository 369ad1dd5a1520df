"""`barque doctor`: check everything in the data directory of a stopped node. Reads only."""

from collections.abc import Iterable

import click
import msgspec

from barque.cli.failures import FAILED, IO_ERROR, OK
from barque.cli.output import output_option, print_json
from barque.cli.places import dev_options, place_of, stopped_directory
from barque.cli.progress import Progress
from barque.log.disk import ReadingDisk
from barque.offline.findings import Finding, Severity
from barque.offline.inspection import Report, inspect
from barque.offline.surroundings import permission_findings, space_findings


@click.command()
@click.option("--data-dir", metavar="DIR", help="The data directory of a stopped node.")
@dev_options
@output_option
def doctor(data_dir: str | None, directory: str | None, node_name: str | None, output: str) -> int:
    """Check every file of a stopped node's data directory, and whether the node would start with it.

    Nothing is changed. Exits with 0 if nothing is wrong, with 1 after warnings, and with 74 if data are
    damaged or a node would not start.
    """
    path = stopped_directory(place_of(data_dir, directory, node_name, "--data-dir"))
    disk = ReadingDisk()
    progress = Progress("reading", "MiB")

    def heard(bytes_read: int) -> None:
        progress.done = bytes_read >> 20

    with progress:
        report = inspect(disk, path, heard)
    around = [*permission_findings(disk, path), *space_findings(disk, path)]
    report = msgspec.structs.replace(report, findings=(*report.findings, *around))
    if output == "json":
        print_json({**msgspec.structs.asdict(report), "verdict": report.worst or "clean"})
    else:
        _show(report)
    return exit_code_of(report.worst)


def exit_code_of(worst: Severity | None) -> int:
    """What `doctor` and `backup verify` end with."""
    match worst:
        case Severity.DAMAGE:
            return IO_ERROR
        case Severity.WARNING:
            return FAILED
        case _:
            return OK


def show_findings(findings: Iterable[Finding], output: str) -> int:
    """Print what a verification has found, one finding a line, and return its exit code."""
    worst: Severity | None = None
    for finding in findings:
        if worst is None or list(Severity).index(finding.severity) < list(Severity).index(worst):
            worst = finding.severity
        click.echo(msgspec.json.encode(finding).decode() if output == "json" else line_of(finding))
    if worst is None and output != "json":
        click.echo("nothing is wrong")
    return exit_code_of(worst)


def _show(report: Report) -> None:
    click.echo(f"{report.data_dir}: {report.owner or 'no owner known'}")
    for server in report.servers:
        click.echo(
            f"  {server.name} ({server.uid}) of cluster {server.cluster!r}, machine {server.machine!r}: "
            f"entries up to {server.last_index} of term {server.last_term}, applied {server.last_applied}, "
            f"snapshot {server.snapshot_index or '–'}"
        )
    for finding in report.findings:
        click.echo(line_of(finding))
    counts = [
        f"{sum(f.severity is severity for f in report.findings)} × {severity}"
        for severity in Severity
        if any(f.severity is severity for f in report.findings)
    ]
    click.echo(f"{report.bytes_read:,} bytes read: {', '.join(counts) or 'nothing is wrong'}")


def line_of(finding: Finding) -> str:
    """One finding for people."""
    at = f" at offset {finding.offset}" if finding.offset is not None else ""
    advice = f". What to do: {finding.remedy}" if finding.remedy else ""
    return f"{finding.severity.upper()} {finding.path}{at}: {finding.cause}{advice}"
