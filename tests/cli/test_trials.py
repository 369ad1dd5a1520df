"""What happens to people at the command line: rows C1 to C9 and H6."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import pytest
from tests.cli.support import Dev, run_barque, run_forked, wait_for

DEV = (sys.executable, "-m", "barque", "dev")


# --- C: verbs on a running cluster -------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        ("kv", "get", "x", "--cluster", "never"),
        ("kv", "get", "x", "--cluster", "never", "--level", "local"),
        ("kv", "set", "x", "1", "--cluster", "never"),
        ("kv", "cas", "x", "1", "2", "--cluster", "never"),
        ("kv", "del", "x", "--cluster", "never"),
        ("kv", "scan", "--cluster", "never"),
        ("leader", "show", "never"),
        ("leader", "transfer", "--cluster", "never"),
        ("member", "list", "never"),
        ("member", "add", "never", "n1"),
        ("member", "remove", "never", "n1"),
        ("member", "promote", "never", "n1"),
        ("member", "replace", "never", "n1"),
        ("cluster", "delete", "never", "--yes"),
    ],
    ids=" ".join,
)
def test_c1_c5_an_unknown_cluster_is_named_with_those_there_are(running: Dev, verb: tuple[str, ...]) -> None:
    """C1, C5: every verb that takes a cluster says that there is none of that name, and which there are."""
    done = running.run(*verb, "--timeout", "1")
    assert done.returncode == 2, done.stderr
    assert "there is no cluster 'never'; there are: kv" in done.stderr


def test_c3_an_absent_key_and_a_failure_have_different_codes(running: Dev) -> None:
    """C3: a script can tell `no` from `cannot say`."""
    assert running.run("kv", "get", "absent").returncode == 1
    address = "127.0.0.1:1"
    dead = run_barque("kv", "get", "absent", "--node", address, "--timeout", "1", BARQUE_SECRET="x" * 16)
    assert dead.returncode == 69
    wrong = running.status()["nodes"][0]["address"]
    denied = run_barque("kv", "get", "absent", "--node", wrong, BARQUE_SECRET="x" * 16)
    assert denied.returncode == 77, denied.stderr


def test_c5_values_may_begin_with_a_dash(running: Dev) -> None:
    """C5: `-5` is a value; what looks like an option and is none is a value, too."""
    running.ok("kv", "set", "balance", "-5")
    assert running.ok("kv", "get", "balance") == "-5\n"
    running.ok("kv", "cas", "balance", "-5", "--7")
    assert running.ok("kv", "get", "balance") == "--7\n"
    running.ok("kv", "set", "-key", "-x")
    assert running.ok("kv", "get", "-key") == "-x\n"
    assert running.ok("kv", "del", "-key", "balance") == "2\n"


def test_c5_scan_escapes_control_characters(running: Dev) -> None:
    """C5: a key cannot command the terminal; `--raw` prints it as it is."""
    key = "evil\x1b[2J\nnext\\line\x7f"
    running.ok("kv", "set", key, "1")
    shown = running.ok("kv", "scan", "--match", "evil*")
    assert shown == "evil\\x1b[2J\\nnext\\\\line\\x7f\n"
    assert running.ok("kv", "scan", "--match", "evil*", "--raw") == key + "\n"
    running.ok("kv", "del", key)


def test_c5_a_transfer_to_nobody_names_the_members(running: Dev) -> None:
    """C5: the error says whom one could have meant."""
    done = running.run("leader", "transfer", "n9")
    assert done.returncode == 2, done.stderr
    assert "kv@n1, kv@n2, kv@n3" in done.stderr


def test_c5_leader_show_takes_a_cluster(running: Dev) -> None:
    """C5: as every other verb that is about one cluster."""
    assert running.ok("leader", "show", "kv") == running.ok("leader", "show", "--cluster", "kv")


@pytest.mark.parametrize(
    "verb", [("cluster", "delete", "kv"), ("recover", "force-shrink", "kv", "n1")], ids=" ".join
)
def test_c8_a_question_that_nobody_can_answer_says_so(running: Dev, verb: tuple[str, ...]) -> None:
    """C8: with stdin at its end nothing is done, and the error names `--yes`."""
    done = running.run(*verb)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "interrupted" not in done.stderr
    assert running.status()["clusters"][0]["leader"]


VERBS: list[tuple[str, ...]] = [
    ("status",),
    ("status", "-o", "json"),
    ("dev", "status"),
    ("member", "list", "kv"),
    ("cluster", "list"),
    ("leader", "show"),
    ("kv", "scan"),
    ("version",),
    ("--help",),
    ("wal", "dump", "--help"),
    ("bench", "--help"),
]


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"COLUMNS": "50"},
        {"COLUMNS": "20", "TERM": "dumb"},
    ],
    ids=["ascii", "latin-1", "50 columns", "20 columns"],
)
def test_c6_every_verb_works_on_poor_terminals(running: Dev, environment: dict[str, str]) -> None:
    """C6: no traceback, and names are whole."""
    local = {"version", "--help", "wal", "bench"}
    commands = [verb if verb[0] in local else (*verb, "--dir", str(running.root)) for verb in VERBS]
    for verb, done in zip(VERBS, run_forked(commands, **environment), strict=True):
        assert done.returncode == 0, f"{verb}: {done.stderr}"
        assert "Traceback" not in done.stderr
        if verb in (("status",), ("dev", "status"), ("member", "list", "kv")):
            assert {"n1", "n2", "n3"} <= set(re.findall(r"\bn\d\b", done.stdout))
            assert "leader" in done.stdout


def on_terminal(columns: int, *arguments: str, **variables: str) -> str:
    """Run a verb on a terminal of this width; return what it shows there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BARQUE_", "COLUMNS"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "barque", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(controller, 65536):
            shown += block
    except OSError:
        pass  # the verb has ended
    os.close(controller)
    assert process.wait(timeout=20) == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_c6_status_is_readable_at_any_width(running: Dev, columns: int, encoding: str) -> None:
    """C6: no line is longer than the terminal, and no name, address or role is cut."""
    shown = on_terminal(columns, "status", "--dir", str(running.root), PYTHONIOENCODING=encoding)
    assert max(map(len, shown.splitlines()[:-2])) <= columns, shown
    nodes = running.status()["nodes"]
    for word in ("leader", "follower", *(node["name"] for node in nodes)):
        assert word in shown, shown
    for node in nodes:
        assert node["address"] in shown, shown
        assert node["resp_address"] in shown, shown


# --- C2, C4: a sick cluster --------------------------------------------------------------------


def test_c2_c4_a_lost_quorum_is_explained_and_seen_by_a_health_check(dev: Dev) -> None:
    """C2: reads and writes say who leads not, and why. C4: `status --check` tells by its exit code."""
    dev.start()
    assert dev.run("status", "--check").returncode == 0
    dev.ok("dev", "kill", "n3")
    wait_for(lambda: dev.run("status", "--check").returncode == 1, "a node that is down to be seen")
    dev.ok("dev", "kill", "n1")

    def leaderless() -> bool:
        report = json.loads(dev.ok("status", "-o", "json"))
        return report["clusters"][0]["leader"] is None

    wait_for(leaderless, "the survivor to step down")
    checked = dev.run("status", "--check")
    assert checked.returncode == 69
    assert "no member leads cluster 'kv'" in checked.stderr
    assert dev.run("status").returncode == 0
    for verb in (
        ("kv", "get", "x"),
        ("kv", "set", "x", "1"),
        ("kv", "scan"),
        ("member", "remove", "kv", "n1"),
    ):
        done = dev.run(*verb, "--timeout", "1.5")
        assert done.returncode == 69, (verb, done.stderr)
        assert "no member leads 'kv': kv@n2 is" in done.stderr, (verb, done.stderr)
        assert "n1 does not answer" in done.stderr
        assert "n3 does not answer" in done.stderr


# --- H6: a foreground whose reader or terminal goes --------------------------------------------


def reader_goes(dev: Dev) -> "subprocess.Popen[Any]":
    """As `barque dev | head -3`."""
    process = subprocess.Popen(
        [*DEV, "--dir", str(dev.root), *dev.ports], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.stdout.close()
    dev.run("dev", "kill", "n2")  # so that there is something to tell
    return process


def terminal_goes(dev: Dev) -> "subprocess.Popen[Any]":
    """The window is closed, or the program `script` is killed."""
    controller, terminal = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*DEV, "--dir", str(dev.root), *dev.ports],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=take_terminal,
    )
    os.close(terminal)
    os.set_blocking(controller, False)

    def serves() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(controller, 65536)
        return len(dev.living()) == 3 and dev.leader_node() is not None

    wait_for(serves, "three nodes that serve", 30)
    os.close(controller)
    return process


@pytest.mark.parametrize("goes", [reader_goes, terminal_goes], ids=["reader", "terminal"])
def test_h6_the_nodes_stop_when_the_foreground_loses_its_reader(
    dev: Dev, goes: Callable[[Dev], "subprocess.Popen[Any]"]
) -> None:
    """H6: it stops the nodes first, and writes afterwards."""
    process = goes(dev)
    try:
        process.wait(timeout=40)
        assert dev.living() == []
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
