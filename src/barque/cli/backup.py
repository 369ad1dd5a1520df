"""`barque backup`: copy the data directory of a stopped or a running node, check the copy, restore it."""

import time
from pathlib import Path

import click

import barque
from barque.cli.doctor import show_findings
from barque.cli.failures import USAGE, CliError
from barque.cli.output import output_option
from barque.cli.places import dev_options, place_of, stopped_directory
from barque.cli.progress import Progress
from barque.cli.reach import Reach, reach_options, run_with_client
from barque.offline.backup import create_backup, restore_backup, verify_backup


@click.group()
def backup() -> None:
    """Copy the data directory of a node, check the copy, restore it."""


@backup.command()
@click.argument("target", metavar="BACKUP")
@click.option("--data-dir", metavar="DIR", help="The data directory of a stopped node.")
@dev_options
def create(target: str, data_dir: str | None, directory: str | None, node_name: str | None) -> None:
    """Copy a stopped node's data directory to BACKUP, a path where nothing is.

    The directory is checked first, and every file is listed with its checksum. The files of a running node
    change: use `barque backup live` for it.
    """
    _copy(stopped_directory(place_of(data_dir, directory, node_name, "--data-dir")), target)


@backup.command()
@click.argument("target", metavar="BACKUP")
@reach_options
def live(reach: Reach, target: str) -> None:
    """Copy the data of a running node to BACKUP, a path where nothing is, as of one moment.

    Give the node as the only --node, and run this on its machine, as its user: the node makes second names
    for its files, which costs no space, and this command copies those. The node serves meanwhile.
    """
    if len(reach.addresses) != 1:
        raise CliError("a backup is of one node: name it, as in --node 127.0.0.1:7401", USAGE)
    made = run_with_client(reach, lambda client: client.call("make_linked_copy"))
    try:
        if not Path(made["path"]).is_dir():
            raise CliError(
                f"node {made['node']} has its copy at {made['path']}, which is not on this machine, or not "
                "for this user; run this where the node runs",
                USAGE,
            )
        _copy(made["path"], target)
    finally:
        run_with_client(reach, lambda client: client.call("remove_linked_copy"))


def _copy(data_dir: str, target: str) -> None:
    progress = _Progress("copying")
    with progress.shown:
        made = create_backup(
            data_dir,
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
