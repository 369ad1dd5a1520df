"""`barque version`: the versions to compare before a rolling upgrade."""

import importlib.metadata
import platform

import click

from barque.cli.output import output_option, print_json
from barque.log.segment_format import VERSION as SEGMENT_VERSION
from barque.log.wal_format import VERSION as WAL_VERSION
from barque.machine.kv import KvMachine
from barque.transport.handshake import WIRE_VERSION


def installed(distribution: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@click.command()
@output_option
def version(output: str) -> None:
    """Show the versions of the package, the wire protocol, the formats and the optional packages."""
    facts: dict[str, str | int | None] = {
        "barque": installed("barque"),
        "python": platform.python_version(),
        "wire_protocol": WIRE_VERSION,
        "wal_format": WAL_VERSION,
        "segment_format": SEGMENT_VERSION,
        "kv_machine": KvMachine.version,
        "uvloop": installed("uvloop"),
        "hiredis": installed("hiredis"),
    }
    if output == "json":
        print_json(facts)
        return
    for name, value in facts.items():
        shown = "not installed" if value is None else value
        click.echo(f"{name.replace('_', ' '):<14} {shown}")
