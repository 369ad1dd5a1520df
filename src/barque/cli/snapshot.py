"""`barque snapshot`: list, inspect, check and copy snapshots; begin a new data directory with one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from barque.cli.doctor import show_findings
from barque.cli.failures import USAGE, CliError
from barque.cli.output import output_option, print_json
from barque.cli.places import place_options
from barque.errors import Damaged
from barque.log import snapshot_format
from barque.log.disk import ReadingDisk
from barque.log.identity import Owner
from barque.offline.findings import Finding
from barque.offline.inspection import snapshot_findings
from barque.offline.snapshot_files import FoundSnapshot, export_snapshot, find_snapshots, import_snapshot


@click.group()
def snapshot() -> None:
    """List, inspect, check and copy snapshots. A node may run meanwhile: a snapshot never changes."""


@snapshot.command(name="list")
@place_options
@output_option
def list_snapshots(place: Path, output: str) -> None:
    """List the snapshots and checkpoints in PATH, a node's data directory or a server's."""
    found = list(find_snapshots(ReadingDisk(), str(place)))
    if output == "json":
        print_json([_facts(each) for each in found])
        return
    for each in found:
        click.echo(_line(each))
    if not found:
        click.echo("no snapshots")


@snapshot.command()
@click.argument("file")
@output_option
def inspect(file: str, output: str) -> None:
    """Show what FILE, a snapshot or checkpoint, says about itself: position, members, version, time."""
    opened = ReadingDisk().open(str(_file_of(Path(file))))
    try:
        found, size = snapshot_format.read_description(opened.pread).description, opened.size()
    except snapshot_format.MalformedSnapshot as error:
        raise Damaged(
            f"{file}: damaged {error}; an older snapshot may be good: barque snapshot list"
        ) from error
    finally:
        opened.close()
    meta = found.meta
    facts = {
        "index": meta.position.index,
        "term": meta.position.term,
        "machine_version": meta.machine_version,
        "machine_time_ms": meta.machine_time_ms,
        "members": [
            {"server": str(member.id), "uid": member.uid, "membership": str(member.membership)}
            for member in meta.cluster
        ],
        "live_entries": [list(each) for each in found.live],
        "bytes": size,
        **_module_facts(found.module),
    }
    if output == "json":
        print_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")


@snapshot.command()
@place_options
@output_option
def verify(place: Path, output: str) -> int:
    """Check every byte of PATH: a snapshot file, or all snapshots of a node's data directory or a server."""
    if place.is_file() or (place / "snapshot").is_file():
        files = [str(_file_of(place))]
    else:
        files = [found.path for found in find_snapshots(ReadingDisk(), str(place))]
    return show_findings(_findings(files), output)


@snapshot.command()
@click.argument("source")
@click.argument("file")
def export(source: str, file: str) -> None:
    """Copy SOURCE, a snapshot that `list` shows, to FILE, a path where nothing is; every byte is checked."""
    described = export_snapshot(str(_file_of(Path(source))), str(Path(file).absolute()))
    position = described.meta.position
    click.echo(f"{file}: the state after entry {position.index} of term {position.term}")


@snapshot.command(name="import")
@click.argument("file")
@click.option(
    "--data-dir", metavar="DIR", required=True, help="The new data directory: nothing may be there."
)
@click.option("--node", "node_name", metavar="NAME", required=True, help="The node that gets it.")
@click.option("--installation", metavar="NAME", default="barque", show_default=True)
@click.option(
    "--cluster", metavar="NAME", default="kv", show_default=True, help="The name of the new cluster."
)
@click.option("--machine", metavar="NAME", default="kv", show_default=True, help="Its machine.")
@click.option("--arguments", metavar="JSON", default="{}", help="The machine's arguments, a JSON object.")
def import_file(
    file: str, data_dir: str, node_name: str, installation: str, cluster: str, machine: str, arguments: str
) -> None:
    """Make a data directory whose one member begins with the state in FILE, alone in a new cluster.

    The machine must be the one that made the snapshot. Start the node with this directory; then add members.
    """
    try:
        given = msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--arguments: {error}") from error
    owner = Owner(installation, node_name)
    target = str(Path(data_dir).absolute())
    record = import_snapshot(str(_file_of(Path(file))), target, owner, cluster, machine, given)
    click.echo(f"{data_dir}: {record.name}@{node_name}, alone in cluster {cluster!r} ({record.cluster_id})")
    click.echo(f"next: start {owner} with it, then: barque member add {cluster} NODE")


def _findings(files: list[str]) -> Iterator[Finding]:
    disk = ReadingDisk()
    for path in files:
        yield from snapshot_findings(disk, path, "snapshot")


def _module_facts(module: snapshot_format.ModuleRecord | None) -> dict[str, Any]:
    """What a snapshot module has said of its state, and its files. No code of the module is needed."""
    if module is None:
        return {}
    try:
        facts = msgspec.msgpack.decode(module.facts)
    except msgspec.MsgspecError:
        facts = "not readable"
    return {
        "module": module.name,
        "module_version": module.version,
        "facts": facts,
        "files": [msgspec.structs.asdict(file) for file in module.files],
    }


def _file_of(place: Path) -> Path:
    file = place / "snapshot" if place.is_dir() else place
    if not file.is_file():
        raise CliError(f"{place} is no snapshot; barque snapshot list shows a data directory's", USAGE)
    return file


def _facts(found: FoundSnapshot) -> dict[str, Any]:
    return msgspec.structs.asdict(found)


def _line(found: FoundSnapshot) -> str:
    if found.damage:
        return f"{found.kind} {found.path}: DAMAGED: {found.damage}"
    live = f", {found.live_entries} live entries" if found.live_entries else ""
    module = f", {found.module}" if found.module else ""
    return (
        f"{found.kind} of {found.uid} at entry {found.index} of term {found.term}: {found.bytes:,} bytes, "
        f"machine version {found.machine_version}{live}{module}, {found.path}"
    )
