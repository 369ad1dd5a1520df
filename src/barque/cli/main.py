"""`barque`: run one verb; an error becomes one line on stderr and the exit code of the process.

It needs nothing but the standard library until it knows that the rest is there.
"""

import io
import sys
import traceback
from typing import NoReturn

from barque.cli import failures
from barque.cli.streams import open_closed_streams
from barque.errors import BarqueError

_OF_EXTRAS = ("click", "rich")
"""Packages of the extra `cli`, which a plain `pip install barque` leaves out."""


def run(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code. An error becomes one line on stderr."""
    _never_fail_to_print()
    try:
        import click

        from barque.cli.verbs import barque

        result = barque.main(arguments, prog_name="barque", standalone_mode=False)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        return _complain_of_missing(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        failures.complain("interrupted")
        return 130
    except BrokenPipeError:
        failures.die_quietly(sys.stdout)
        return failures.FAILED
    except (BarqueError, failures.CliError, OSError) as error:
        failures.complain(failures.text_of(error))
        return failures.exit_code_of(error)
    except Exception as error:
        return _report_bug(error)
    return result if isinstance(result, int) else failures.OK


def _complain_of_missing(error: ModuleNotFoundError) -> int:
    """A module of an extra is not installed; any other is a bug, or belongs to a user's machine."""
    package = (error.name or "").partition(".")[0]
    if package not in _OF_EXTRAS:
        return _report_bug(error)
    failures.complain(
        f"the command line needs the package {package!r}, which is not installed: pip install 'barque[cli]'"
    )
    return failures.BAD_CONFIGURATION


def _report_bug(error: Exception) -> int:
    traceback.print_exc()
    failures.complain(failures.text_of(error))
    return failures.exit_code_of(error)


def _never_fail_to_print() -> None:
    """On a terminal of few characters, print a question mark instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> NoReturn:
    """The `barque` script."""
    open_closed_streams()
    sys.exit(run())


if __name__ == "__main__":
    main()
