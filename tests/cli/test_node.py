"""`barque node` in a process of its own: what it refuses, with which exit code, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.support import run_barque, wait_for
from tests.ports import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef0123456789abcdef")
    path.chmod(0o600)
    return path


@pytest.fixture
def flags(tmp_path: Path, secret: Path) -> list[str]:
    """Flags of a node that would run."""
    address = f"n1=127.0.0.1:{free_ports(1)}"
    return [
        *("--name", "n1", "--nodes", address, "--data-dir", str(tmp_path / "data")),
        *("--secret-file", str(secret), "--cluster", "kv=kv"),
    ]


@pytest.fixture
def started(flags: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A node of its own."""
    node = subprocess.Popen(
        [sys.executable, "-m", "barque", "node", *flags], stderr=subprocess.PIPE, text=True
    )
    yield node
    node.kill()
    node.communicate()


def wait_up(node: subprocess.Popen[str]) -> None:
    assert node.stderr is not None
    assert any("is up" in line for line in iter(node.stderr.readline, "")), "it ended before it was up"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(started: subprocess.Popen[str], number: signal.Signals) -> None:
    """SIGTERM and SIGINT end a node with exit code 0; its last line says that it has stopped."""
    wait_up(started)
    started.send_signal(number)
    _, rest = started.communicate(timeout=20)
    assert started.returncode == 0, rest
    assert "has stopped" in rest.splitlines()[-1]


def test_a_second_process_on_the_same_directory_is_refused(
    started: subprocess.Popen[str], flags: list[str]
) -> None:
    """The data directory is locked: exit code 74, one line."""
    wait_up(started)
    other = run_barque("node", *flags)
    assert other.returncode == 74
    assert "data" in other.stderr.splitlines()[-1]


def test_a_bad_file_is_a_configuration_error(tmp_path: Path, secret: Path) -> None:
    """Unknown settings, missing ones and unreadable files exit with 78 and name file and setting."""
    path = tmp_path / "node.toml"
    cases = {
        'nmae = "n1"\n': "nmae",
        'data_dir = "d"\n[nodes]\nn1 = "127.0.0.1:1"\n': "--name",
        'name = "n1"\ndata_dir = "d"\n[nodes]\nn2 = "127.0.0.1:1"\n': "not among them",
        "name = ": "not TOML",
    }
    for text, expected in cases.items():
        path.write_text(text)
        refused = run_barque("node", "--config", str(path), "--secret-file", str(secret))
        assert refused.returncode == 78, refused.stderr
        assert expected in refused.stderr
        assert str(path) in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    missing = run_barque("node", "--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 78
    assert "No such file" in missing.stderr


def test_an_open_secret_file_is_a_permission_error(flags: list[str], secret: Path) -> None:
    """A secret that others can read exits with 77, says chmod, and creates no data directory."""
    secret.chmod(0o644)
    refused = run_barque("node", *flags)
    assert refused.returncode == 77
    assert "chmod 600" in refused.stderr
    assert not (secret.parent / "data").exists()


def test_a_taken_address_has_its_exit_code(flags: list[str]) -> None:
    """An address in use exits with 69, for the node's own port and for the gateway's."""
    host, _, port = flags[3].partition("=")[2].rpartition(":")
    with socket.create_server((host, int(port))):
        refused = run_barque("node", *flags)
        assert refused.returncode == 69, refused.stderr
        assert port in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        refused = run_barque("node", *flags, "--resp-bind", f"127.0.0.1:{number}")
        assert refused.returncode == 69, refused.stderr
        assert str(number) in refused.stderr


def test_wrong_usage_exits_with_2() -> None:
    """An unknown option or verb is wrong usage."""
    assert run_barque("node", "--nonsense").returncode == 2
    assert run_barque("nonsense").returncode == 2


def test_flags_go_before_variables_before_the_file(tmp_path: Path, secret: Path) -> None:
    """The name comes from the flag, else from the variable, else from the file."""
    path = tmp_path / "node.toml"
    path.write_text(f'name = "file"\ndata_dir = "d"\nsecret_file = "{secret}"\n[nodes]\nx = "127.0.0.1:1"\n')
    for arguments, variables, expected in (
        ((), {}, "'file'"),
        ((), {"BARQUE_NAME": "variable"}, "'variable'"),
        (("--name", "flag"), {"BARQUE_NAME": "variable"}, "'flag'"),
    ):
        refused = run_barque("node", "--config", str(path), *arguments, **variables)
        assert f"this node, {expected}," in refused.stderr


def test_a_second_signal_ends_it_at_once(started: subprocess.Popen[str]) -> None:
    """However busy it is with stopping, a second SIGTERM ends the process."""
    wait_up(started)
    started.send_signal(signal.SIGTERM)
    started.send_signal(signal.SIGTERM)
    wait_for(lambda: started.poll() is not None, "the end", 10)


def test_s2_nodes_and_verbs_refuse_a_file_alike(flags: list[str], secret: Path) -> None:
    """A secret that others can read, or that is not there, has one exit code for nodes and verbs."""
    for mode in (0o644, 0o666, 0o620):
        secret.chmod(mode)
        for arguments in (
            ("node", *flags),
            ("status", "--node", "127.0.0.1:1", "--secret-file", str(secret)),
        ):
            refused = run_barque(*arguments)
            assert refused.returncode == 77, refused.stderr
            assert "chmod 600" in refused.stderr
    secret.unlink()
    codes = {
        run_barque("node", *flags).returncode,
        run_barque("status", "--node", "127.0.0.1:1", "--secret-file", str(secret)).returncode,
    }
    assert codes == {78}


def test_s2_a_secret_may_come_from_elsewhere(tmp_path: Path, flags: list[str], secret: Path) -> None:
    """A variable, a directory of credentials, and the standard input serve nodes and verbs."""
    text = secret.read_text()
    bare = [flag for flag in flags if flag not in ("--secret-file", str(secret))]
    address = next(flag for flag in flags if flag.startswith("n1=")).partition("=")[2]
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "barque-secret").write_text(text)
    (credentials / "barque-secret").chmod(0o440)
    for variables in ({"BARQUE_SECRET": text.strip()}, {"CREDENTIALS_DIRECTORY": str(credentials)}):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BARQUE_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "barque", "node", *bare],
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, **variables},
        )
        try:
            wait_up(process)
            asked = run_barque("status", "--node", address, BARQUE_SECRET=text.strip())
            assert asked.returncode == 0, asked.stderr
            piped = subprocess.run(
                [sys.executable, "-m", "barque", "status", "--node", address, "--secret-file", "-"],
                input=text,
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
                check=False,
            )
            assert piped.returncode == 0, piped.stderr
        finally:
            process.terminate()
            process.wait(20)
            assert process.stderr is not None
            process.stderr.close()


def test_s18_a_signal_makes_a_node_read_its_secrets_again(
    started: subprocess.Popen[str], secret: Path
) -> None:
    """After SIGHUP, and never by dying of it, the node accepts the secret that was added."""
    wait_up(started)
    address = next(part for part in started.args if str(part).startswith("n1=")).partition("=")[2]  # type: ignore[union-attr,arg-type]
    secret.write_text(secret.read_text().strip() + "\n" + "t" * 32 + "\n")
    started.send_signal(signal.SIGHUP)
    wait_for(
        lambda: run_barque("status", "--node", address, BARQUE_SECRET="t" * 32).returncode == 0,
        "the new secret",
        20,
    )
    assert started.poll() is None
