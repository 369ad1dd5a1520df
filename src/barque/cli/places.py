"""Which data directory an offline verb works on, and that no node runs in it."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from barque.cli.dev_directory import DEFAULT_DIRECTORY, DevDirectory
from barque.cli.failures import IO_ERROR, USAGE, CliError
from barque.log.disk import ReadingDisk, join
from barque.offline.inspection import is_data_directory

Function = TypeVar("Function", bound=Callable[..., Any])

logging.getLogger("barque").addHandler(logging.NullHandler())  # what a trial start logs is in the findings


def dev_options(function: Function) -> Function:
    """Add `--dir` and `--node-name`: a node of `barque dev` instead of a path."""
    function = click.option("--node-name", metavar="NAME", help="One of its nodes, as in n1.")(function)
    return click.option("--dir", "directory", metavar="DIR", help="A directory of `barque dev`.")(function)


def place_options(function: Function) -> Function:
    """Add PATH, `--data-dir`, and `--dir` with `--node-name`; the verb gets what they name, as `place`."""

    @functools.wraps(function)
    def verb(path: str | None, data_dir: str | None, **options: Any) -> Any:
        if path is not None and data_dir is not None:
            raise click.UsageError("give PATH or --data-dir, not both")
        directory, node_name = options.pop("directory"), options.pop("node_name")
        place = place_of(path or data_dir, directory, node_name, "PATH or --data-dir")
        return function(place=place, **options)

    verb = click.option("--data-dir", metavar="DIR", help="The data directory of a node.")(dev_options(verb))
    return cast("Function", click.argument("path", required=False)(verb))


def place_of(path: str | None, directory: str | None, node_name: str | None, what: str = "PATH") -> Path:
    """The path that was given, or the data directory of a node of `barque dev`. Raises `UsageError`."""
    if (path is None) == (node_name is None):
        raise click.UsageError(f"give {what}, or --node-name with --dir")
    if path is not None:
        return Path(path)
    assert node_name is not None
    known = DevDirectory(Path(directory or DEFAULT_DIRECTORY))
    return known.data_path(known.load().node(node_name).name)


def stopped_directory(place: Path) -> str:
    """The data directory there, as an absolute path. Raises `CliError` if it is none, or in use."""
    disk, path = ReadingDisk(), str(place.absolute())
    if not disk.is_dir(path) and not place.is_dir():
        raise CliError(f"{path}: there is no such directory", USAGE)
    if not is_data_directory(disk, path):
        raise CliError(f"{path} is no data directory of a node; name the node's data_dir", USAGE)
    refuse_running(path)
    return path


def refuse_running(data_dir: str) -> None:
    """Raise `CliError` if a node runs in this directory: its files change under the reader's eyes."""
    if ReadingDisk().is_locked(join(data_dir, "lock")):
        raise CliError(
            f"{data_dir}: a node runs in this data directory, and its files change; stop the node first",
            IO_ERROR,
        )
