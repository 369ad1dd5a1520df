"""`barque.transport.secret`: who may read the secret, and how long it is."""

import os
from pathlib import Path

import pytest

from barque.errors import ConfigurationError
from barque.transport.secret import check_secret, load_secret


def write(path: Path, content: bytes, mode: int = 0o600) -> str:
    """A file of this content and mode."""
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_private_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    """The secret is what stands in the file, without white space around it."""
    assert load_secret(write(tmp_path / "s", b"0123456789abcdef\n")) == b"0123456789abcdef"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o606, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Any permission for group or others is refused, with the cure and without the secret."""
    path = write(tmp_path / "s", b"0123456789abcdef", mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        load_secret(path)
    assert "0123456789" not in str(caught.value)


def test_short_long_and_empty_secrets_are_refused(tmp_path: Path) -> None:
    """Fewer than 16 bytes can be guessed; more than 4096 is no secret file."""
    with pytest.raises(ConfigurationError, match="at least 16"):
        load_secret(write(tmp_path / "a", b"0123456789abcde\n"))
    with pytest.raises(ConfigurationError, match="longer than"):
        load_secret(write(tmp_path / "b", b"x" * 4097))
    with pytest.raises(ConfigurationError, match="openssl"):
        check_secret(b"")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory and a pipe are refused and named; nothing blocks."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("missing", "", "pipe"):
        with pytest.raises(ConfigurationError, match=str(tmp_path)):
            load_secret(str(tmp_path / name))
