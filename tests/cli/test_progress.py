"""Signs of life of long verbs: on stderr only, and none of short work."""

import contextlib
import io
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.support import run_barque, wait_for

from barque.cli import progress as module
from barque.cli.progress import Progress
from barque.testing.chaos.presets import Preset
from barque.testing.chaos.run import Plan, RunReport, run_plan, worst
from barque.testing.chaos.verdict import Problem, Verdict, judge

processes = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]


def test_c9_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """C9: work that is over at once leaves neither a line nor a control character."""
    with Progress("reading", "entries", 10) as progress:
        progress.done = 10
        progress.echo("found")
    assert capsys.readouterr() == ("found\n", "")


def test_c9_long_work_shows_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C9: without a terminal each sign is a line of its own on stderr; stdout has the output only."""
    monkeypatch.setattr(module, "_QUIET_S", 0.0)
    monkeypatch.setattr(module, "_TERMINAL_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_ELSEWHERE_EVERY_S", 0.01)
    said = ""
    with Progress("reading", "entries", 10_000) as progress:
        progress.done = 1_234
        progress.echo("found")

        def is_said() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return said.count("\n") >= 3

        wait_for(is_said, "three lines")
    assert re.fullmatch(r"(reading: 1,234 of 10,000 entries, \d+ s\n)+", said)


class Terminal(io.StringIO):
    """A terminal that remembers what it was sent."""

    def isatty(self) -> bool:
        """It is one."""
        return True

    def fileno(self) -> int:
        """A terminal of the system, for its width."""
        return self.descriptor

    descriptor = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    main, made.descriptor = pty.openpty()
    yield made
    os.close(main)
    os.close(made.descriptor)


def test_c9_a_terminal_shows_one_line_that_is_gone_afterwards(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C9: the line is written over in place, and cleared before other output and at the end."""
    monkeypatch.setattr(module, "_QUIET_S", 0.0)
    monkeypatch.setattr(module, "_TERMINAL_EVERY_S", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("forming") as progress:
        wait_for(lambda: terminal.getvalue().count("forming") >= 3, "three signs")
        progress.echo("said", err=True)
    said = terminal.getvalue()
    assert said.endswith(("\r\x1b[K", "said\n"))
    assert "\r\x1b[Ksaid\n" in said
    assert "\n" not in said.replace("said\n", "")


@pytest.mark.processes
def test_c9_a_verb_that_waits_says_so(tmp_path: Path) -> None:
    """C9: `cluster create` at a node that does not answer; nothing of it is on stdout."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run_barque(
            *("cluster", "create", "x", "--machine", "kv"),
            "--node",
            place,
            "--secret-file",
            str(secret),
            "--timeout",
            "4",
        )
    assert done.returncode == 69
    assert "forming 'x': " in done.stderr
    assert done.stdout == ""


@pytest.mark.processes
def test_c9_a_campaign_on_a_terminal_counts_its_seeds() -> None:
    """C9: `barque simulate` with its stderr on a terminal and its stdout in a pipe."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "barque", "simulate", "--seeds", "100000"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while not re.search(rb"simulating: \d+ of 100,000 seeds, \d+ s", shown):
            shown += os.read(main, 1024)
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(main)


# --- runs that prove nothing -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ([], Verdict.CLEAN),
        (["void"], Verdict.VOID),
        (["void", "void"], Verdict.VOID),
        (["void", "anomaly"], Verdict.NOT_CLEAN),
        (["hang"], Verdict.NOT_CLEAN),
    ],
)
def test_c7_a_run_is_clean_void_or_not_clean(kinds: list[str], verdict: Verdict) -> None:
    """C7: a fault that never happened accuses nobody; what was found nevertheless counts."""
    assert judge([Problem(kind, "") for kind in kinds]) is verdict
    reports = [
        RunReport(preset="", seed=1, nodes=3, seconds=1.0, problems=[Problem(kind, "")]) for kind in kinds
    ]
    assert worst(reports) is verdict


@pytest.mark.processes
@pytest.mark.xdist_group("verbs")
def test_c7_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    """C7: six faults have no time in two seconds: exit code 3, the word that it was too short, no accusation;
    nothing is kept without --out.
    """
    done = run_barque("nemesis", "--preset", "chaos", "--seconds", "2", TMPDIR=str(tmp_path))
    if done.returncode == 0:
        pytest.skip("each fault happened all the same")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "TOO SHORT" in done.stdout
    assert "--seconds" in done.stdout
    assert "NOT CLEAN" not in done.stdout
    assert not list(tmp_path.glob("barque-nemesis-*"))


# --- a terminal that goes away -----------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.xdist_group("verbs")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize(
    ("verb", "sign"),
    [
        ("nemesis --preset set-kill-vm --nodes 3 --seconds 60", "SIGKILL"),
        ("demo --keys 1000000", "Writing"),
        ("bench --workload sequential --seconds 60 --runs 1", "run 1"),
    ],
)
def test_s6_a_terminal_that_goes_away_stops_a_verb_in_order(
    tmp_path: Path, verb: str, sign: str, number: signal.Signals
) -> None:
    """S6: SIGHUP ends `nemesis`, `demo` and `bench` as SIGTERM does: no node and no file is left."""
    command = [sys.executable, "-m", "barque", *shlex.split(verb)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert any(sign in line for line in process.stdout)
        if verb.startswith("bench"):
            wait_for(lambda: list(tmp_path.glob("barque-bench-*/*.log")), "the nodes to start")
        process.send_signal(number)
        said = process.stdout.read()
        assert process.wait(60) == 128 + number, said
    assert "Traceback" not in said
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert str(tmp_path).encode() not in entry.read_bytes()
    if not verb.startswith("nemesis"):  # its directory is kept, and named
        assert not list(tmp_path.iterdir())


async def test_c7_a_fault_that_finds_no_victim_makes_a_run_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C7: the run itself is judged void, and its nodes' files are removed as after a clean one."""
    from barque.testing.chaos import run as chaos_run

    async def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(chaos_run.Run, "_happens", never)
    plan = Plan(
        name="none",
        preset=Preset(about="", faults=("client-reset",), before_s=0.5),
        seed=1,
        seconds=2.0,
        directory=tmp_path / "run",
        nodes=3,
        workloads=("counter",),
    )
    report = await run_plan(plan, lambda line: None)
    assert report.verdict is Verdict.VOID, report.problems
    assert not (plan.directory / "n1").is_dir()
