"""`barque backup`: copy a stopped node's data directory, check the copy, restore it."""

import time
from pathlib import Path

import click

import barque
from barque.cli.doctor import show_findings
from barque.cli.output import output_option
from barque.cli.places import dev_options, place_of, stopped_directory
from barque.cli.progress import Progress
from barque.offline.backup import create_backup, restore_backup, verify_backup


@click.group()
def backup() -> None:
    """Copy the data directory of a stopped node, check the copy, restore it."""


@backup.command()
@click.argument("target", metavar="BACKUP")
@click.option("--data-dir", metavar="DIR", help="The data directory of a stopped node.")
@dev_options
def create(target: str, data_dir: str | None, directory: str | None, node_name: str | None) -> None:
    """Copy a stopped node's data directory to BACKUP, a path where nothing is.

    The directory is checked first, and every file is written with its checksum. A running node is refused:
    stop it first, its cluster goes on if a majority is up.
    """
    path = stopped_directory(place_of(data_dir, directory, node_name, "--data-dir"))
    progress = _Progress("copying")
    with progress.shown:
        made = create_backup(
            path,
            str(Path(target).absolute()),
            at_ms=time.time_ns() // 1_000_000,
            release=barque.__version__,
            heard=progress.heard,
        )
    size = sum(file.size for file in made.files)
    click.echo(f"{target}: {len(made.files)} files of {made.owner}, {size:,} bytes")


@backup.command()
@click.argument("source", metavar="BACKUP")
@output_option
def verify(source: str, output: str) -> int:
    """Check that BACKUP is what was copied, and that a node would start with it."""
    progress = _Progress("reading")
    with progress.shown:
        findings = list(verify_backup(str(Path(source).absolute()), progress.heard))
    return show_findings(findings, output)


@backup.command()
@click.argument("source", metavar="BACKUP")
@click.option(
    "--to", "target", metavar="DIR", required=True, help="The new data directory: nothing may be there."
)
@click.option("--as-node", metavar="NAME", help="The node that gets it, if that is another one.")
@click.option("--installation", metavar="NAME", help="Its installation, if that is another one.")
def restore(source: str, target: str, as_node: str | None, installation: str | None) -> None:
    """Make a data directory of BACKUP, for the node that it came from, or for another one.

    Never start a node from an old copy beside nodes that went on: docs/operations/backup.md.
    """
    progress = _Progress("copying")
    with progress.shown:
        owner = restore_backup(
            str(Path(source).absolute()),
            str(Path(target).absolute()),
            node=as_node,
            installation=installation,
            heard=progress.heard,
        )
    click.echo(f"{target}: the data directory of {owner}")
    if as_node is not None:
        click.echo(f"next: start this node alone, then: barque recover force-shrink CLUSTER {owner.node}")


class _Progress:
    """Shows how many MiB were read or copied."""

    def __init__(self, what: str) -> None:
        self.shown = Progress(what, "MiB")

    def heard(self, done: int) -> None:
        """So many bytes were."""
        self.shown.done = done >> 20
