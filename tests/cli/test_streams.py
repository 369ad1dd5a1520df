"""`barque node` and its standard streams: nobody who does not read them, or has closed them, stops it."""

import contextlib
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.support import run_forked, wait_for
from tests.ports import free_ports

from barque.cli.streams import Outlet
from barque.cli.verbs import _VERBS

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]

CHATTY = """
import sys, warnings
import barque

class Chatty(barque.Machine[int]):
    def init(self, args):
        return 0

    def apply(self, meta, command, state):
        {says}
        return state + 1, state + 1
"""
SAYS = {
    "print": "print('x' * 3_000)",
    "stderr": "print('x' * 3_000, file=sys.stderr)",
    "warning": "warnings.warn('x' * 3_000 + str(state), stacklevel=1)",
    "log": "__import__('logging').getLogger('mine').error('x' * 3_000)",
    "traceback": "__import__('asyncio').get_running_loop().call_soon(lambda: 1 / 0)",
    "excepthook": "sys.excepthook(ValueError, ValueError('x' * 3_000), None)",
}
"""What a machine may do in the node's loop that writes to a standard stream."""


class Started:
    """One node that serves Redis clients; its stdout and stderr are one pipe of 4 KiB."""

    def __init__(self, folder: Path, machine: str, program: str = "") -> None:
        ports = free_ports(2)
        self.resp_port = ports + 1
        (folder / "chatty.py").write_text(machine)
        secret = folder / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef")
        secret.chmod(0o600)
        config = folder / "node.toml"
        config.write_text(
            f'name = "n1"\ndata_dir = "{folder / "data"}"\nsecret_file = "{secret}"\n'
            f'[nodes]\nn1 = "127.0.0.1:{ports}"\n'
            f'[resp]\nbind = "127.0.0.1:{self.resp_port}"\n'
            '[[clusters]]\nname = "kv"\nmachine = "kv"\n[[clusters]]\nname = "chatty"\nmachine = "chatty"\n'
            '[machines]\nchatty = "chatty:Chatty"\n'
        )
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        command = [sys.executable, "-m", "barque", "node", "--config", str(config), "--log-level", "debug"]
        self.process = subprocess.Popen(
            ["sh", "-c", f"exec {shlex.join(command)} {program}"],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        )
        os.close(writer)
        self.address, self.secret = f"127.0.0.1:{ports}", str(secret)

    def set_and_get(self) -> bool:
        """Whether a Redis client is served."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.resp_port), 5) as redis,
        ):
            redis.settimeout(5)
            redis.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
            answer = b""
            while not answer.endswith(b"v\r\n") and (more := redis.recv(100)):
                answer += more
            return answer == b"+OK\r\n$1\r\nv\r\n"
        return False

    def fill(self, commands: int) -> None:
        """Let the machine write more than the pipe takes; each command must be answered."""
        import barque.sync

        with barque.sync.Client([self.address], secret=Path(self.secret).read_bytes()) as client:
            for number in range(1, commands + 1):
                assert client.process_command("chatty", 1, timeout_s=20) == number

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def end(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.reader)


@contextlib.contextmanager
def started(folder: Path, says: str = "pass", program: str = "") -> Iterator[Started]:
    """A node that has served once."""
    node = Started(folder, CHATTY.format(says=says), program)
    try:
        wait_for(node.set_and_get, "the node to serve", 40)
        yield node
    finally:
        node.end()


@pytest.mark.parametrize("says", SAYS.values(), ids=SAYS)
def test_h4_nobody_reads_what_the_node_writes(tmp_path: Path, says: str) -> None:
    """H4: whatever is written in the node's loop, it goes on, hears SIGTERM, and ends with 0."""
    with started(tmp_path, says) as node:
        node.fill(20)
        assert node.set_and_get()
        assert node.terminate() == 0


@pytest.mark.parametrize("program", ["2>/dev/full >/dev/full", "2>&1 | exit 0"], ids=["full disk", "closed"])
def test_h4_what_cannot_be_written_stops_nothing(tmp_path: Path, program: str) -> None:
    """H4: the file of the log is on a full disk, or the reader of the pipe has ended."""
    closed = program.endswith("exit 0")
    with started(tmp_path, SAYS["print"], "" if closed else program) as node:
        if closed:
            os.close(node.reader)
        node.fill(5)
        assert node.set_and_get()
        assert node.terminate() == 0


def test_h4_a_reader_who_comes_back_hears_how_much_was_dropped(tmp_path: Path) -> None:
    """H4: the newest lines are dropped and counted; afterwards the node logs as before."""
    with started(tmp_path, "[print('x' * 100, file=sys.stderr) for _ in range(3_000)]") as node:
        node.fill(1)
        heard: list[str] = []

        def read() -> None:
            with open(node.reader, closefd=False) as lines:
                heard.extend(lines)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        wait_for(lambda: any("lines were dropped" in line for line in heard), "the count")
        assert node.terminate() == 0
        thread.join(20)
        assert "has stopped" in heard[-1]
        told = sum(int(line.split()[1]) for line in heard if "lines were dropped" in line)
        assert sum(line.startswith("xxx") for line in heard) + told >= 3_000


def test_h4_a_second_signal_is_heard(tmp_path: Path) -> None:
    """H4: two signals end a node whose pipe is full, as they end any other."""
    with started(tmp_path, SAYS["print"]) as node:
        node.fill(5)
        node.process.send_signal(signal.SIGTERM)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(20) in (0, 128 + signal.SIGTERM)


def test_an_outlet_keeps_the_order_and_counts_exactly() -> None:
    """While nobody reads, the oldest lines are kept, and each line is written or counted, once."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    outlet = Outlet(writer, lines_max=10)
    for number in range(5_000):
        print(f"{number:>99}", file=outlet)
    with open(reader) as lines:
        kept: list[int] = []
        told = 0
        while len(kept) + told < 5_000:
            line = lines.readline()
            if "lines were dropped" in line:
                told += int(line.split()[1])
            else:
                kept.append(int(line))
        assert told
        assert kept == sorted(kept)
        print("after", end="", file=outlet)
        outlet.drain(10)
        os.close(writer)
        assert lines.read() == "after\n"


@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "0<&-", "1>&-", "2>&-", "1>&- 2>&-"])
def test_s6_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    """S6: no file and no socket takes the number of a standard stream; the node serves and ends with 0."""
    with started(tmp_path, SAYS["print"], closed) as node:
        for number in range(3):
            place = os.readlink(f"/proc/{node.process.pid}/fd/{number}")
            assert place == "/dev/null" or place.startswith("pipe:"), place
        node.fill(2)
        assert node.terminate() == 0


@pytest.mark.parametrize(
    "verb", ["version", "status --node 127.0.0.1:1", "wal dump /", "nonsense", "kv get k"]
)
def test_s6_any_verb_with_closed_streams(verb: str) -> None:
    """S6: each ends as it does with open ones, not by a signal."""
    command = shlex.join([sys.executable, "-m", "barque"])
    usual = subprocess.run(["sh", "-c", f"{command} {verb}"], capture_output=True, check=False, timeout=60)
    done = subprocess.run(["sh", "-c", f"{command} {verb} 0<&- 1>&- 2>&-"], check=False, timeout=60)
    assert done.returncode == usual.returncode


@pytest.mark.parametrize("package", ["click", "rich", "uvloop", "hiredis"])
def test_s6_a_package_of_an_extra_is_missing(tmp_path: Path, package: str) -> None:
    """S6: a verb works without it, or exits with 78 and one line that says what to install."""
    (tmp_path / f"{package}.py").write_text(
        f'raise ModuleNotFoundError("No module named {package!r}", name={package!r})'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    failed = 0
    for done in run_forked([(verb, "--help") for verb in _VERBS], PYTHONPATH=path):
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert done.returncode == 78
            assert len(done.stderr.splitlines()) == 1
            assert f"{package!r}" in done.stderr
            assert "pip install 'barque[cli]'" in done.stderr
            failed += 1
    assert failed == {"click": len(_VERBS), "uvloop": 0, "hiredis": 0}.get(package, failed)
    assert failed or package != "rich"


def test_s6_the_script_says_what_is_missing(tmp_path: Path) -> None:
    """S6: `barque` is as clear as `python -m barque`."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module named click', name='click')")
    script = "import sys; from barque.cli.main import main; sys.argv = ['barque', 'version']; main()"
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1


def test_s6_sighup_reads_credentials_again_and_ends_nothing(tmp_path: Path) -> None:
    """S6: a node goes on after SIGHUP; so does one whose terminal has gone."""
    with started(tmp_path) as node:
        for _ in range(3):
            node.process.send_signal(signal.SIGHUP)
            assert node.set_and_get()
        assert node.terminate() == 0
