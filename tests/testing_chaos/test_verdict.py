"""The verdict on a run, without a run."""

import subprocess
import sys
from pathlib import Path

from barque.testing.chaos import verdict
from barque.testing.chaos.nodes import End, NodeProcesses, open_descriptors, processes_naming
from barque.testing.checkers.history import Outcome
from barque.testing.checkers.records import Record


def _record(f: str, value: object, result: object, call: int) -> Record:
    return Record(
        process="c",
        f=f,
        key="k",
        value=value,
        call=call,
        returned=call + 1,
        outcome=Outcome.OK,
        result=result,
    )


def test_each_workload_has_its_checker() -> None:
    """A lost write is an anomaly in every kind of history."""
    lost = {
        "register": [_record("write", "a", None, 0), _record("read", None, None, 5)],
        "cas": [_record("cas", [None, "a"], True, 0), _record("read", None, None, 5)],
        "set": [_record("add", 1, None, 0), _record("read", None, [], 5)],
        "counter": [_record("add", 1, 1, 0), _record("read", None, 0, 5)],
        "list-append": [_record("append", "a", 1, 0), _record("read", None, [], 5)],
    }
    for workload, records in lost.items():
        assert [p.kind for p in verdict.judge_history(workload, records)] == ["anomaly"]
        assert verdict.judge_history(workload, records[:1]) == []


def test_orphans_are_found_by_the_directory_on_their_command_line(tmp_path: Path) -> None:
    """A process whose command line names a file of the run is found while it lives."""
    sleeper = [sys.executable, "-c", "print(flush=True); input()", f"{tmp_path}/n1.toml"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a program that is still loading has no command line yet
        assert process.pid in processes_naming(f"{tmp_path}/")
        assert [p.kind for p in verdict.judge_leftovers(tmp_path)] == ["orphan"]
        process.communicate(b"\n")
    assert verdict.judge_leftovers(tmp_path) == []
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "meta.tmp").touch()
    assert [p.kind for p in verdict.judge_leftovers(tmp_path)] == ["leak"]


def test_descriptors_that_stay_open_are_a_leak(tmp_path: Path) -> None:
    """More descriptors than at first, plus the slack, are a leak."""
    before = open_descriptors()
    with (tmp_path / "open").open("wb"):
        found = verdict.judge_descriptors("it", before, open_descriptors(), 0)
    assert [problem.kind for problem in found] == ["leak"]
    assert verdict.judge_descriptors("it", before, open_descriptors(), 0) == []


def test_what_nodes_say_and_how_they_end_is_judged(tmp_path: Path) -> None:
    """An exit code other than 0, and a word that only a bug logs, are problems."""
    nodes = NodeProcesses(tmp_path, {"n1": "", "n2": "", "n3": ""})
    nodes.log_path("n1").write_text("all is well\nERROR: Traceback (most recent call last) | …\n")
    problems = verdict.judge_nodes(nodes, {"n1": 0, "n2": -9})
    assert [(p.kind, p.text[:2]) for p in problems] == [("log", "n1"), ("exit", "n2"), ("exit", "n3")]


def test_only_a_failed_disk_may_end_a_node(tmp_path: Path) -> None:
    """A node that ended by itself is a problem, even if it was started again and ends well."""
    nodes = NodeProcesses(tmp_path, {"n1": ""})
    nodes.ends += [End("n1", 74, disk_failed=True), End("n1", 70, disk_failed=False)]
    problems = verdict.judge_nodes(nodes, {"n1": 0})
    assert [str(problem) for problem in problems] == ["exit: n1 ended by itself with exit code 70"]


def test_a_run_that_did_nothing_does_not_count() -> None:
    """A fault that never happened makes the run void."""
    assert [p.kind for p in verdict.judge_progress([], {"kill-one": 1, "reset": 0})] == ["void"]
    assert verdict.judge_progress([], {"kill-one": 1}) == []


def test_members_that_differ_are_an_anomaly() -> None:
    """Members have applied the same commands, so different states are an anomaly."""
    assert verdict.same_states({"n1": 1, "n2": 1}) == []
    assert [p.kind for p in verdict.same_states({"n1": 1, "n2": 2})] == ["anomaly"]
