"""`barque node` in a process of its own: what it refuses, with which exit code, and how it ends."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.support import run_barque, wait_for
from tests.directories import tree
from tests.ports import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]


def has_ipv6() -> bool:
    """Whether the loopback has an address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


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


def test_d1_another_nodes_directory_is_refused_and_can_be_read(
    started: subprocess.Popen[str], flags: list[str]
) -> None:
    """A changed name exits with 78, one line names both nodes; `wal dump` still reads the directory."""
    wait_up(started)
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=20)
    folder = flags[5]
    renamed = ["n2" if flag == "n1" else flag.replace("n1=", "n2=") for flag in flags]
    before = tree(Path(folder))
    refused = run_barque("node", *renamed)
    assert refused.returncode == 78
    assert re.search(r"belongs to node 'n1'.*this is node 'n2'", refused.stderr.splitlines()[-1])
    assert tree(Path(folder)) == before
    assert run_barque("wal", "dump", folder).returncode == 0


@pytest.mark.parametrize(
    "shape", ["new/", "new", "./new//", "a/b/c", "~/new", "link", "link/new", "~", "new/../other/"]
)
def test_s5_every_way_to_name_a_directory_works_at_the_first_start(
    flags: list[str], tmp_path: Path, shape: str
) -> None:
    """With a slash at the end, relative, below the home, through a link: the node is up at once."""
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    named = [shape if flag == str(tmp_path / "data") else flag for flag in flags]
    with subprocess.Popen(
        [sys.executable, "-m", "barque", "node", *named],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    ) as node:
        try:
            wait_up(node)
            place = Path(os.path.normpath(tmp_path / shape.replace("~", ".")))
            assert (place / "identity").exists()
        finally:
            node.terminate()
            node.communicate(timeout=20)
    assert node.returncode == 0


@pytest.mark.parametrize("shape", ["file", "file/", "file/below", "dangling", ""])
def test_s5_what_is_no_directory_is_refused_clearly(flags: list[str], tmp_path: Path, shape: str) -> None:
    """One line that names the path; no traceback."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    named = [shape if flag == str(tmp_path / "data") else flag for flag in flags]
    refused = run_barque("node", *named, cwd=tmp_path)
    assert refused.returncode in (74, 78), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert (
        "data_dir" in refused.stderr if not shape else f"{tmp_path}/{shape.split('/')[0]}" in refused.stderr
    )
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root and setpriv")
@pytest.mark.parametrize("place", [".", "identity", "meta", "wal", "servers"])
def test_s6_a_directory_that_may_not_be_used_exits_with_77(
    flags: list[str], started: subprocess.Popen[str], tmp_path: Path, place: str
) -> None:
    """The owner is another user: the line names the path and says chown."""
    wait_up(started)
    started.terminate()
    started.communicate(timeout=20)
    for path in (tmp_path, *tmp_path.parents):
        if path == Path(tempfile.gettempdir()):
            break  # everybody's
        path.chmod(0o755)
    for path in tmp_path.rglob("*"):
        os.chown(path, 65534, 65534)
    os.chown(tmp_path / "data" / place, 0, 0)
    (tmp_path / "data" / place).chmod(0o700)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "barque"]
    refused = subprocess.run(
        [*command, "node", *flags], capture_output=True, text=True, check=False, timeout=60
    )
    if "No module named" in refused.stderr or "Permission denied" in refused.stderr.partition("barque:")[0]:
        pytest.skip("another user cannot run this interpreter")
    assert refused.returncode == 77, refused.stderr
    assert str(tmp_path / "data") in refused.stderr
    assert "chown" in refused.stderr


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
        for option in ("--resp-bind", "--http-bind"):
            refused = run_barque("node", *flags, option, f"127.0.0.1:{number}")
            assert refused.returncode == 69, refused.stderr
            assert str(number) in refused.stderr


def test_a_node_serves_its_figures_over_http(flags: list[str]) -> None:
    """CNT-08: `--http-bind` opens a port with metrics, health and readiness; it closes with the node."""
    address = f"127.0.0.1:{free_ports(1)}"
    node = subprocess.Popen(
        [sys.executable, "-m", "barque", "node", *flags, "--http-bind", address],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_up(node)

        def ready() -> bool:
            with contextlib.suppress(urllib.error.HTTPError):
                return bool(urllib.request.urlopen(f"http://{address}/ready", timeout=10).status == 200)
            return False

        wait_for(ready, "a node that is ready")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert '\nbarque_members{state="leader"} 1\n' in text
        assert '\nbarque_member_leads{cluster="kv",member="kv@n1"} 1\n' in text
        node.terminate()
        assert node.wait(timeout=20) == 0
    finally:
        node.kill()
        _, said = node.communicate()
    assert "Traceback" not in said


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


@pytest.mark.parametrize("setting", ["own name", "resp.bind"])
def test_s1_a_name_that_does_not_resolve_yet_is_worth_another_start(
    flags: list[str], tmp_path: Path, setting: str
) -> None:
    """At boot the network may come later: exit code 69, which a supervisor tries again."""
    path = tmp_path / "node.toml"
    path.write_text('[resp]\nbind = "no-such-host.invalid:6379"\npassword = "long enough"\n')
    if setting == "own name":
        path.write_text("")
        flags = [flag.replace("127.0.0.1", "no-such-host.invalid") for flag in flags]
    refused = run_barque("node", "--config", str(path), *flags)
    assert refused.returncode == 69, refused.stderr
    assert "no-such-host.invalid" in refused.stderr.splitlines()[-1]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_s4_every_address_serves_both_families(flags: list[str]) -> None:
    """`[::]` as `bind` is reached by IPv4 and by IPv6."""
    port = flags[3].rpartition(":")[2]
    with subprocess.Popen(
        [sys.executable, "-m", "barque", "node", *flags, "--bind", f"[::]:{port}"],
        stderr=subprocess.PIPE,
        text=True,
    ) as node:
        try:
            wait_up(node)
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, int(port)), timeout=10).close()
        finally:
            node.terminate()
            node.communicate(timeout=20)
