"""The output of verbs: JSON for programs, tables for people."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Function = TypeVar("Function", bound=Callable[..., Any])

_PIPED_COLUMNS = 160


def output_option(function: Function) -> Function:
    """Add `-o table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(("table", "json")),
        default="table",
        show_default=True,
        help="A table for people, or JSON for programs.",
    )(function)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def make_console() -> "Console":
    """A rich console on stdout. It is wide unless stdout is a terminal: programs need unfolded lines."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_PIPED_COLUMNS, no_color=True)


def print_rich(renderable: "RenderableType") -> None:
    """Print a table or another rich object."""
    make_console().print(renderable)


def duration_text(seconds: float | None) -> str:
    """A time span for people: `12 s`, `3 min`, `5.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
