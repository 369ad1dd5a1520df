"""The verbs' table, errors as exit codes, and the verbs that only say that they are not there yet."""

import errno
import json

import pytest
from tests.cli.support import run_barque

from barque.cli.failures import CliError, exit_code_of, text_of
from barque.errors import (
    ConfigurationError,
    Damaged,
    InvariantViolation,
    NoLeader,
    OutcomeUnknown,
    StorageError,
)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoLeader("x"), 69),
        (OutcomeUnknown("x"), 75),
        (CliError("x", 2), 2),
        (ConfigurationError("x"), 78),
        (_caused(ConfigurationError("x"), OSError(errno.EADDRINUSE, "x")), 69),
        (_caused(ConfigurationError("x"), PermissionError(errno.EACCES, "x")), 77),
        (StorageError("x"), 74),
        (Damaged("x"), 74),
        (OSError(errno.ENOSPC, "x"), 74),
        (InvariantViolation("x"), 70),
        (KeyError("x"), 70),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    """The codes are those of docs/operations/exit-codes.md."""
    assert exit_code_of(error) == code
    assert "\n" not in text_of(error)


def test_version_tells_what_must_match() -> None:
    """`version -o json` has package, Python, protocol and formats."""
    done = run_barque("version", "-o", "json")
    facts = json.loads(done.stdout)
    assert {
        "barque",
        "python",
        "wire_protocol",
        "wal_format",
        "segment_format",
        "kv_machine",
        "uvloop",
        "hiredis",
    } == facts.keys()
    assert facts["wire_protocol"] == 8


def test_help_lists_all_verbs() -> None:
    """`--help` names every verb with a line."""
    said = run_barque("--help").stdout
    for verb in ("dev", "demo", "node", "status", "kv", "leader", "cluster", "wal", "bench", "version"):
        assert f"  {verb} " in said
