"""`barque segment dump` and `verify`: print segment files, or check every byte of them. Both only read."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from barque.cli.doctor import show_findings
from barque.cli.failures import USAGE, CliError
from barque.cli.output import output_option
from barque.cli.places import place_options
from barque.errors import Damaged
from barque.log import segment_format
from barque.log.disk import ReadingDisk
from barque.offline.findings import RESTORE, Finding
from barque.offline.inspection import is_segment, segment_findings


@click.group()
def segment() -> None:
    """Print segment files, or check them. A node may run meanwhile: segments never change."""


@segment.command()
@place_options
@output_option
def dump(place: Path, output: str) -> None:
    """Print the batches of PATH: a segment file, or all of a node's data directory or of one server.

    `-o json` prints one object per line. Exits with 74 if an index is damaged.
    """
    for file in _files(place):
        _dump(str(file), output)


@segment.command()
@place_options
@output_option
def verify(place: Path, output: str) -> int:
    """Check every byte of PATH: a segment file, or all of a node's data directory or of one server."""
    return show_findings(_findings(_files(place)), output)


def _findings(files: list[Path]) -> Iterator[Finding]:
    disk = ReadingDisk()
    for path in files:
        file = disk.open(str(path))
        try:
            yield from segment_findings(str(path), file.pread, file.size())
        finally:
            file.close()


def _files(place: Path) -> list[Path]:
    """The segments in this place, by server and number. Raises `CliError` if there are none."""
    if place.is_file():
        return [place]
    files = sorted(file for file in place.rglob("*.segment") if is_segment(file.name))
    if not files:
        raise CliError(f"{place} holds no segments; name a segment file or a node's data_dir", USAGE)
    return files


def _dump(path: str, output: str) -> None:
    """Print one file from its index. Raises `Damaged`."""
    file = ReadingDisk().open(path)
    try:
        uid, _ = segment_format.decode_head(file.pread(segment_format.HEAD_SIZE_MAX, 0))
        size = file.size()
        tail_offset = max(0, size - segment_format.TAIL_SIZE)
        tail = segment_format.decode_tail(file.pread(segment_format.TAIL_SIZE, tail_offset), size)
        index = file.pread(tail.index_size, tail.index_offset)
        segment_format.check_index(index, tail)
    except segment_format.MalformedSegment as error:
        raise Damaged(f"{path}: damaged: {error}. What to do: {RESTORE}") from error
    finally:
        file.close()
    if output == "table":
        gaps = ", with gaps" if tail.has_gaps else ""
        click.echo(
            f"{path}\n  server {uid}, entries {tail.first.index}–{tail.last.index}{gaps}: {tail.entries} in "
            f"{tail.batches} batches, {size:,} bytes"
        )
    for number in range(tail.batches):
        place = segment_format.place_at(index, number)
        if output == "json":
            fields = {**msgspec.structs.asdict(place), "last_index": place.last_index}
            click.echo(msgspec.json.encode({"file": path, "uid": uid, **fields}).decode())
        else:
            click.echo(
                f"  {place.offset:>9} {place.first_index}–{place.last_index} term {place.term}: entries "
                f"{place.count}, {place.size} bytes, at {place.timestamp_ms} ms"
            )
