"""`barque dev`: start, kill, restart, carry on, and leave nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.support import Dev, run_barque, wait_for
from tests.ports import free_ports

import barque
from barque.cli.dev_directory import ProcessMark
from barque.cli.dev_processes import is_alive, mark_of, send_signal

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]


def test_a_leader_is_killed_and_comes_back(dev: Dev) -> None:
    """A write survives the leader's SIGKILL, another node leads, and the killed one catches up."""
    said = dev.start()
    assert f"redis-cli -p {dev.resp_port}" in said
    dev.ok("kv", "set", "k", "v1")
    old = dev.leader_node()
    assert old is not None
    dev.ok("dev", "kill", old)
    assert dev.node(old)["state"] == "down"
    wait_for(lambda: dev.leader_node() not in (None, old), "another leader")
    assert dev.ok("kv", "get", "k") == "v1\n"
    assert dev.run("dev", "kill", old).returncode == 1
    dev.ok("dev", "restart", old)
    dev.ok("dev", "restart", "n1")

    def caught_up() -> bool:
        [kv] = dev.status()["clusters"]
        applied = {member["last_applied"] for member in kv["members"]}
        return len(kv["members"]) == 3 and len(applied) == 1

    wait_for(caught_up, "all members have applied the same")
    dev.ok("dev", "stop")
    assert dev.living() == []
    states = {node["state"] for node in dev.status()["nodes"]}
    assert states == {"down"}


def test_it_carries_on_with_its_data_and_fresh_removes_it(dev: Dev) -> None:
    """A second start reads what the first wrote; --fresh starts with nothing; what runs is not touched."""
    dev.start("--nodes", "1")
    dev.ok("kv", "set", "k", "v")
    again = dev.run("dev", "--detach", "--fresh", *dev.ports)
    assert again.returncode == 1
    assert "already" in again.stderr
    assert dev.living() == ["n1"]
    dev.ok("dev", "stop")
    assert dev.run("dev", "--detach", "--nodes", "3").returncode == 2
    dev.start()
    assert dev.ok("kv", "get", "k") == "v\n"
    dev.ok("dev", "stop")
    dev.start("--fresh", "--nodes", "1")
    assert dev.run("kv", "get", "k").returncode == 1


STOCK = """
import barque

class Stock(barque.Replicated):
    pieces: dict[str, int] = {}

    @barque.command
    def add(self, product: str, count: int = 1) -> int:
        self.pieces[product] = self.pieces.get(product, 0) + count
        return self.pieces[product]
"""


def test_it_runs_a_machine_of_the_users(dev: Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--machine MODULE:CLASS` forms a cluster of it, and later starts know it, from any directory."""
    (tmp_path / "stock.py").write_text(STOCK)
    monkeypatch.chdir(tmp_path)
    assert dev.run("dev", "--detach", "--machine", "stock").returncode == 2
    broken = dev.run("dev", "--detach", "--nodes", "1", *dev.ports, "--machine", "stock:Missing")
    assert broken.returncode == 1
    assert "machines.missing" in broken.stderr
    said = dev.start("--fresh", "--nodes", "1", "--machine", "shelf=stock:Stock")
    [url] = re.findall(r"barque://127.0.0.1:\d+/shelf", said)
    secret_file = str(dev.directory.secret_path("client"))
    with barque.sync.connect(url, secret_file=secret_file) as client:
        assert client.cluster().process_command(["add", "bolts", 5]) == {"value": 5}
    dev.ok("dev", "stop")
    monkeypatch.chdir("/")
    dev.start()
    with barque.sync.connect(url, secret_file=secret_file) as client:
        assert client.cluster().process_command(["add", "bolts", 5]) == {"value": 10}


def test_foreign_files_are_never_removed(dev: Dev, tmp_path: Path) -> None:
    """A directory that holds something else is refused, with --fresh and without, and left as it is."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("precious")
    for extra in ((), ("--fresh",)):
        refused = dev.run("dev", "--detach", *dev.ports, *extra)
        assert refused.returncode == 2
        assert "thesis.txt" in refused.stderr
    assert (tmp_path / "d" / "thesis.txt").read_text() == "precious"


def test_a_taken_port_is_named(dev: Dev) -> None:
    """When a port is taken, nothing is started and the message names the port and the option."""
    with socket.create_server(("127.0.0.1", dev.resp_port + 1)):
        refused = dev.run("dev", "--detach", *dev.ports)
    assert refused.returncode == 69
    assert str(dev.resp_port + 1) in refused.stderr
    assert "--resp-port" in refused.stderr
    assert not dev.root.exists()


def test_a_child_that_cannot_start_is_reported(dev: Dev) -> None:
    """A node that dies while starting ends the start with its last words, and no node is left."""
    dev.start("--nodes", "1")
    dev.ok("dev", "stop")
    (dev.directory.data_path("n1") / "identity").write_bytes(b"something else")
    failed = dev.run("dev", "--detach")
    assert failed.returncode == 1
    assert "exit code 74" in failed.stderr
    assert "identity" in failed.stderr
    assert dev.living() == []


def test_in_the_foreground_it_tells_events_and_stops_on_sigint(dev: Dev) -> None:
    """Without a terminal it prints plain lines: a death with its cause; Ctrl-C stops all nodes."""
    foreground = subprocess.Popen(
        [sys.executable, "-m", "barque", "dev", "--dir", str(dev.root), *dev.ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: len(dev.living()) == 3 and dev.leader_node(), "three nodes and a leader")
        assert foreground.stdout is not None
        lines = iter(foreground.stdout.readline, "")
        assert any("Ctrl-C" in line for line in lines)
        os.kill(foreground.pid, 0)
        wait_for(lambda: dev.node("n2")["state"] == "running", "n2 runs")
        dev.ok("dev", "kill", "n2")
        assert any("n2 has died" in line and "SIGKILL" in line for line in lines)
        foreground.send_signal(signal.SIGINT)
        rest, _ = foreground.communicate(timeout=20)
        assert foreground.returncode == 0, rest
        assert "data stays" in rest
        assert dev.living() == []
    finally:
        foreground.kill()
        foreground.wait()


def test_a_reused_pid_is_never_signalled() -> None:
    """A process that began at another time is not ours, whatever its pid."""
    me = mark_of(os.getpid())
    assert me is not None
    assert is_alive(me)
    other = ProcessMark(me.pid, me.began - 1)
    assert not is_alive(other)
    assert not send_signal(other, signal.SIGKILL)


def test_verbs_say_what_is_missing(tmp_path: Path) -> None:
    """Outside of any cluster, a verb says how to name one; with dead nodes it fails at once."""
    lost = run_barque("status", cwd=tmp_path)
    assert lost.returncode == 2
    assert "--node" in lost.stderr
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    dead = f"127.0.0.1:{free_ports(1)}"
    down = run_barque("status", "--node", dead, BARQUE_SECRET_FILE=str(secret))
    assert down.returncode == 69
    assert f"{dead}: connection refused" in down.stderr
