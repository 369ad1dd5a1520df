"""`barque.transport.secret`: who may read a secret, how long it is, and what it grants."""

import os
import threading
from pathlib import Path

import pytest

from barque.errors import ConfigurationError
from barque.transport.authorization import Role
from barque.transport.secret import Secrets, check_secret, load_secret, load_secrets

GOOD = b"0123456789abcdef"


def write(path: Path, content: bytes, mode: int = 0o600) -> str:
    """A file of this content and mode."""
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_private_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    """The secret is what stands in the file, without white space around it."""
    assert load_secret(write(tmp_path / "s", GOOD + b"\n")) == GOOD


def test_s18_a_file_may_hold_several_secrets(tmp_path: Path) -> None:
    """One a line; the first is the one to dial with. Empty lines do not count, short ones are refused."""
    path = write(tmp_path / "s", b"\n" + GOOD + b"1\r\n\n  " + GOOD + b"2\n")
    assert load_secrets(path) == (GOOD + b"1", GOOD + b"2")
    assert load_secret(path) == GOOD + b"1"
    with pytest.raises(ConfigurationError, match="at least 16"):
        load_secrets(write(tmp_path / "t", GOOD + b"\nshort\n"))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_s2_a_file_of_the_owner_or_its_group_is_read(tmp_path: Path, mode: int) -> None:
    """Containers and systemd hand secrets out with these modes."""
    assert load_secrets(write(tmp_path / "s", GOOD, mode)) == (GOOD,)


@pytest.mark.parametrize("mode", [0o644, 0o444, 0o604, 0o660, 0o606, 0o620, 0o601, 0o666, 0o777])
def test_s2_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Write permission for anyone else, and any for others, is refused, with the cure."""
    path = write(tmp_path / "s", GOOD, mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        load_secret(path)
    assert isinstance(caught.value.__cause__, PermissionError)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o444, 0o644, 0o777])
def test_s2_a_read_only_mount_of_root_may_be_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """So Kubernetes mounts secrets; the same mode on a file system that can be written is refused."""
    path = write(tmp_path / "s", GOOD, mode)
    real_stat = os.fstat

    def owned(descriptor: int) -> os.stat_result:
        found = list(real_stat(descriptor))
        found[4] = 0
        return os.stat_result(found)

    class Mount:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "fstat", owned)
    with pytest.raises(ConfigurationError):
        load_secrets(path)
    monkeypatch.setattr(os, "fstatvfs", lambda _descriptor: Mount())
    assert load_secrets(path) == (GOOD,)


def test_s2_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could exchange it."""
    path = write(tmp_path / "s", GOOD)
    real = os.fstat

    def foreign(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] = os.geteuid() + 4711
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", foreign)
    with pytest.raises(ConfigurationError, match="must belong to root or"):
        load_secrets(path)


def test_s2_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """`--secret-file <(command)` works, also when the command writes late and in pieces."""
    readable, writable = os.pipe()

    def write_late() -> None:
        for piece in (GOOD[:3], GOOD[3:], b"\n", GOOD + b"2"):
            os.write(writable, piece)
        os.close(writable)

    thread = threading.Thread(target=write_late)
    thread.start()
    assert load_secrets(f"/dev/fd/{readable}") == (GOOD, GOOD + b"2")
    thread.join()
    os.close(readable)


def test_short_long_and_empty_secrets_are_refused(tmp_path: Path) -> None:
    """Fewer than 16 bytes can be guessed; more than 4096 is no secret file."""
    with pytest.raises(ConfigurationError, match="at least 16"):
        load_secret(write(tmp_path / "a", b"0123456789abcde\n"))
    with pytest.raises(ConfigurationError, match="longer than"):
        load_secret(write(tmp_path / "b", b"x" * 4097))
    with pytest.raises(ConfigurationError, match="openssl"):
        check_secret(b"")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory and a pipe without a writer are refused and named; nothing blocks."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("missing", "", "pipe"):
        with pytest.raises(ConfigurationError, match=str(tmp_path)):
            load_secret(str(tmp_path / name))


def test_a_secret_grants_its_role_and_no_more() -> None:
    """The first secret that proves decides; nothing proves without a fitting one."""
    secrets = Secrets((b"n1", b"n2"), (b"a",), (b"c",))
    for secret, role in ((b"n1", 3), (b"n2", 3), (b"a", 2), (b"c", 1)):
        assert secrets.find(lambda tried, secret=secret: tried == secret) == (Role(role), secret)  # type: ignore[misc]
    assert secrets.find(lambda tried: tried == b"") is None
    assert "n1" not in repr(secrets)


def test_one_secret_for_two_roles_is_refused() -> None:
    """It would give clients the role of administrators, and nobody would notice."""
    with pytest.raises(ConfigurationError, match="twice"):
        Secrets((GOOD,), (GOOD,)).check()
    with pytest.raises(ConfigurationError, match="none of nodes"):
        Secrets((), (GOOD,)).check()
