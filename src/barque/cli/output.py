"""The output of verbs: JSON for programs, tables for people."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from barque.cli.failures import USAGE, CliError

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


def confirm(question: str) -> None:
    """Ask, and go on only after a yes. Raises `CliError` if nobody can answer, and `click.Abort` for a no."""
    try:
        click.confirm(question, abort=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise CliError(
            f"nobody confirmed {question!r}: stdin is no terminal and gave no yes; use --yes to go on",
            USAGE,
        ) from None


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def make_console() -> "Console":
    """A rich console on stdout. It is wide unless stdout is a terminal: programs need unfolded lines."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_PIPED_COLUMNS, no_color=True)


def print_rich(renderable: "RenderableType", narrow: "RenderableType | None" = None) -> None:
    """Print a table or another rich object; `narrow` instead, on a terminal where the table has no room."""
    console = make_console()
    if narrow is not None:
        anything = console.options.update(max_width=_PIPED_COLUMNS * 10)
        if console.measure(renderable, options=anything).minimum > console.width:
            renderable = narrow
    console.print(renderable)


def duration_text(seconds: float | None) -> str:
    """A time span for people: `12 s`, `3 min`, `5.2 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
