"""Whole runs over real node processes: a clean run, and runs with defective nodes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.support import run_barque

from barque.testing.chaos.clients import KINDS
from barque.testing.chaos.nodes import processes_naming
from barque.testing.chaos.presets import Preset
from barque.testing.chaos.run import Plan, run_plan
from barque.testing.chaos.verdict import judge_history
from barque.testing.checkers.records import read_records

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

FORGETFUL = """
from barque.cli.main import main
from barque.machine.kv_commands import IncrBy
from barque.machine.kv_writes import COMMANDS, COMMANDS_V0

add = COMMANDS[IncrBy]

def forgets(command, state):
    before = state.values.get(command.key)
    state, reply = add(command, state)
    if reply % 7 == 0:  # the same on every member, so only observers from outside can tell
        state.values[command.key] = before
    return state, reply

COMMANDS[IncrBy] = COMMANDS_V0[IncrBy] = forgets
main()
"""


CRASHING = """
import os, sys, threading
from pathlib import Path
from barque.cli.main import main

first = Path(sys.argv[3]).with_suffix(".first")
if first.name.startswith("n2") and not first.exists():
    first.touch()
    threading.Timer(3, os._exit, [70]).start()
main()
"""


def test_a_short_run_from_the_command_line(tmp_path: Path) -> None:
    """Nodes are killed under every workload: the run is clean, and leaves histories for other checkers."""
    arguments = ("--preset", "set-kill-vm", "--nodes", "3", "--seconds", "5", "--out", str(tmp_path))
    kinds = [part for kind in KINDS for part in ("--workload", kind)]
    done = run_barque("nemesis", *arguments, *kinds, "-o", "json")
    assert done.returncode == 0, done.stderr + done.stdout
    document = json.loads(done.stdout)
    assert document["clean"] is True
    [run] = document["runs"]
    assert f"seed {document['seed']}" in done.stderr
    assert run["faults"]["kill-minority"] >= 1
    assert run["starts"] >= 4
    assert set(run["workloads"]) == set(KINDS)
    directory = Path(run["directory"])
    for kind, counts in run["workloads"].items():
        records = list(read_records((directory / f"{kind}.jsonl").read_bytes().splitlines()))
        assert len(records) == counts["begun"] == counts["ok"] + counts["fail"] + counts["unknown"]
        assert counts["ok"] > 10
        assert judge_history(kind, records) == []
    assert not [name for name in os.listdir(directory) if (directory / name).is_dir()]
    assert processes_naming(str(directory)) == []


def _hear_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    """A run that is stopped amid its faults ends its nodes and itself."""
    command = [sys.executable, "-m", "barque", "nemesis", "--preset", "set-kill-vm", "--nodes", "3"]
    command += ["--seconds", "60", "--out", str(tmp_path), "--seed", "1"]
    # A shell's background jobs ignore SIGINT, and pass that on to this process.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_hear_signals) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "SIGKILL" in line:
                break
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(60) == code
    assert processes_naming(f"{tmp_path}/set-kill-vm-1/") == []


def gently(tmp_path: Path, name: str, program: str, seconds: float) -> Plan:
    """A run of nodes with this program, and with few faults."""
    return Plan(
        name=name,
        preset=Preset(about="", faults=("client-reset",), before_s=0.5),
        seed=1,
        seconds=seconds,
        directory=tmp_path / "run",
        nodes=3,
        workloads=("counter",),
        program=("-c", program),
    )


async def test_a_machine_that_forgets_is_found_out(tmp_path: Path) -> None:
    """The run is not clean, names the answers that contradict each other, and keeps its directory."""
    plan = gently(tmp_path, "forgetful", FORGETFUL, 2.0)
    said: list[str] = []
    report = await run_plan(plan, said.append)
    assert {problem.kind for problem in report.problems} == {"anomaly"}, said
    assert "is no counter" in report.problems[0].text
    assert (plan.directory / "n1" / "wal").is_dir()
    assert any("client-reset" in line for line in said)


async def test_a_node_that_crashes_is_found_out(tmp_path: Path) -> None:
    """The node is started again and the cluster serves, but that it ended by itself is a problem."""
    plan = gently(tmp_path, "crashing", CRASHING, 5.0)
    report = await run_plan(plan, lambda line: None)
    assert [str(problem) for problem in report.problems] == ["exit: n2 ended by itself with exit code 70"]
    assert (report.starts, report.restarts) == (4, 1)
