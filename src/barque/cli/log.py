"""`barque log replay`: what a machine makes of the log of a stopped node's server. It only reads."""

from pathlib import Path
from typing import Any

import click
import msgspec

from barque.cli.failures import FAILED, OK
from barque.cli.output import output_option
from barque.cli.places import place_options, stopped_directory
from barque.log.disk import ReadingDisk
from barque.offline.replay import Replayed, replay
from barque.runtime.machines import load_machines

_TEXT_MAX = 200


@click.group()
def log() -> None:
    """Replay the log of a server."""


@log.command(name="replay")
@place_options
@click.option("--cluster", required=True, help="The cluster of the server.")
@click.option(
    "--machine",
    metavar="MODULE:CLASS",
    help="The state machine to replay through. Default: the key-value store.",
)
@click.option("--uncommitted", is_flag=True, help="Go on to the end of the log, which may be replaced yet.")
@click.option("--states", is_flag=True, help="Print the machine's state after each entry, too.")
@output_option
def replay_(
    place: Path, cluster: str, machine: str | None, uncommitted: bool, states: bool, output: str
) -> int:
    """Apply the entries of a server of a stopped node, from its snapshot on, and print each.

    PATH is the node's data directory, in which nothing is changed. So code can be tried on a log that made
    another one fail. Exits with 1 if the machine raises; `-o json` prints one object a line.
    """
    name = "replayed" if machine else "kv"
    found = load_machines({name: machine} if machine else {})[name]
    data_dir, failed = stopped_directory(place), False
    for entry in replay(ReadingDisk(), data_dir, cluster, found, committed=not uncommitted):
        click.echo(_as_json(entry, states) if output == "json" else _as_line(entry, states))
        failed |= bool(entry.fault)
    return FAILED if failed else OK


def _as_json(entry: Replayed, states: bool) -> str:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if states or name != "state"}
    return msgspec.json.encode(fields, enc_hook=repr).decode()


def _as_line(entry: Replayed, states: bool) -> str:
    what = entry.kind if entry.command is None else _text(entry.command)
    state = f"  → {_text(entry.state)}" if states else ""
    fault = f"  FAILED: {entry.fault}" if entry.fault else ""
    return f"{entry.index:>9}  term {entry.term}, version {entry.machine_version}: {what}{state}{fault}"


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"
