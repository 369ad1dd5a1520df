"""`barque wal dump` and `verify`: print a write-ahead log, or check it. Both only read."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click
import msgspec

from barque.cli.doctor import show_findings
from barque.cli.failures import IO_ERROR, OK, USAGE, CliError
from barque.cli.output import output_option
from barque.cli.places import place_options, stopped_directory
from barque.cli.progress import Progress
from barque.log.disk import ReadingDisk
from barque.log.dump import Dumped, DumpedEnd, DumpedHead, DumpedRecord, dump_wal
from barque.offline.inspection import inspect_wal

_ENDINGS = {
    "clean": "clean end",
    "stale": "clean end; an older record of this recycled file follows",
    "torn": "torn tail: what follows was never acknowledged",
    "damaged": "DAMAGED",
}


@click.group()
def wal() -> None:
    """Print the records of write-ahead logs, or check them."""


@wal.command()
@place_options
@output_option
def dump(place: Path, output: str) -> int:
    """Print the records of PATH: a .wal file, or all .wal files of a node's data directory.

    `-o json` prints one object per line. Exits with 74 if a file is damaged. A file that a
    running node writes to may look torn.
    """
    damaged = False
    files = list(_files(place))
    progress = Progress("reading the log", "MiB", sum(file.stat().st_size for file in files) >> 20)
    before = 0
    with nullcontext() if sys.stdout.isatty() else progress:  # on a terminal, the records show how far it is
        for file in files:
            if output == "table":
                click.echo(str(file))
            for found in dump_wal(ReadingDisk(), str(file)):
                damaged |= isinstance(found, DumpedEnd) and found.how == "damaged"
                click.echo(_as_json(file, found) if output == "json" else _as_line(found))
                if isinstance(found, DumpedRecord):
                    progress.done = (before + found.offset) >> 20
            before += file.stat().st_size
    return IO_ERROR if damaged else OK


@wal.command()
@place_options
@output_option
def verify(place: Path, output: str) -> int:
    """Check every record in the log of a stopped node. PATH is its data directory.

    Unlike `dump` it knows from the manifest how far each file counts. `barque doctor` checks the rest, too.
    """
    data_dir = stopped_directory(place)
    return show_findings(inspect_wal(ReadingDisk(), data_dir), output)


def _files(place: Path) -> Iterator[Path]:
    """The log files in this place, oldest first. Raises `CliError` if there are none."""
    if place.is_file():
        yield place
        return
    folder = place / "wal" if (place / "wal").is_dir() else place
    files = sorted(file for file in folder.glob("*.wal") if file.stem.isdigit())
    if not files:
        raise CliError(f"{place} holds no write-ahead log; name a .wal file or a node's data_dir", USAGE)
    yield from files


def _as_json(file: Path, found: Dumped) -> str:
    kind = type(found).__name__.removeprefix("Dumped").lower()
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    return msgspec.json.encode({"file": str(file), "kind": kind, **fields}).decode()


def _as_line(found: Dumped) -> str:
    match found:
        case DumpedHead():
            return f"  head      file {found.number}, salt {found.salt:#010x}, {found.file_size:,} bytes"
        case DumpedRecord(uid=""):
            return f"  {found.offset:>9} mark: synced to {found.synced_to}"
        case DumpedRecord(batches=0):
            base = f"{found.previous_index} of term {found.previous_term}"
            return f"  {found.offset:>9} {found.uid} begins anew behind {base}, synced to {found.synced_to}"
        case DumpedRecord():
            terms = ", ".join(map(str, found.terms))
            term = "" if found.previous_term is None else f" of term {found.previous_term}"
            return (
                f"  {found.offset:>9} {found.uid} {found.first_index}–{found.last_index} "
                f"term {terms}, after {found.previous_index}{term}: entries {found.entries}, batches "
                f"{found.batches}, {found.size} bytes, synced to {found.synced_to}"
            )
        case DumpedEnd():
            reason = f": {found.reason}" if found.reason else ""
            return f"  {found.offset:>9} {_ENDINGS[found.how]}{reason}"
