"""Judge a run: the histories, by checkers that share no code with Raft, and what processes leave behind."""

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from barque.testing.chaos.clients import KINDS, Workload
from barque.testing.chaos.nodes import NodeProcesses, processes_naming
from barque.testing.checkers.history import check_history
from barque.testing.checkers.linearizability import Answer, check
from barque.testing.checkers.models import MODELS
from barque.testing.checkers.records import Record, as_list_operations

DESCRIPTORS_SLACK = 8
"""How many more descriptors than at first a node may have: log files come and go."""
_BAD_WORDS = ("Traceback", "InvariantViolation", "was never awaited", "never retrieved")
_ACKNOWLEDGED_MIN = 10


class Verdict(enum.StrEnum):
    """What a run has shown. A void run has found nothing wrong, and was too short to prove anything."""

    CLEAN = "clean"
    VOID = "void"
    NOT_CLEAN = "not clean"


class Problem(msgspec.Struct, frozen=True):
    """Why a run is not clean, or void.

    `kind`: anomaly, undecided, hang, state, leak, log, exit, orphan, void or error.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def judge(problems: Iterable[Problem]) -> Verdict:
    """Judge a run by its problems."""
    kinds = {problem.kind for problem in problems}
    if not kinds:
        return Verdict.CLEAN
    return Verdict.VOID if kinds == {"void"} else Verdict.NOT_CLEAN


def judge_history(workload: str, records: Iterable[Record]) -> list[Problem]:
    """Judge what the clients of one workload saw."""
    model = KINDS[workload].model
    if model == "list-append":
        found = check_history(as_list_operations(records))
        return [] if found is None else [Problem("anomaly", f"{workload}: {found}")]
    verdict = check(records, MODELS[model])
    if verdict.answer is Answer.OK:
        return []
    kind = "anomaly" if verdict.answer is Answer.VIOLATION else "undecided"
    return [Problem(kind, f"{workload}: {verdict}")]


def judge_progress(workloads: Iterable[Workload], faults: dict[str, int]) -> list[Problem]:
    """Judge whether a run counts: operations were acknowledged, and each of its faults happened."""
    problems = [
        Problem("void", f"{workload.name}: only {workload.acknowledged} operations were acknowledged")
        for workload in workloads
        if workload.acknowledged < _ACKNOWLEDGED_MIN
    ]
    never = sorted(name for name, count in faults.items() if not count)
    if never:
        problems.append(Problem("void", f"never happened: {', '.join(never)}; give it more --seconds"))
    for workload in workloads:
        problems += [Problem("hang", text) for text in workload.hangs]
    return problems


def judge_nodes(nodes: NodeProcesses, codes: dict[str, int]) -> list[Problem]:
    """Judge the nodes' logs, their exit codes, and processes that ended by themselves.

    Nodes that were started again count, too. A node may end only if its disk was made to fail.
    """
    problems = [
        Problem("exit", f"{end.name} ended by itself with exit code {end.code}")
        for end in nodes.ends
        if not end.disk_failed
    ]
    for name in nodes.names:
        if name not in codes:
            problems.append(Problem("exit", f"{name} had ended by itself"))
        elif codes[name] != 0:
            problems.append(Problem("exit", f"{name} ended with exit code {codes[name]}"))
        bad = [line for line in nodes.log(name).splitlines() if any(word in line for word in _BAD_WORDS)]
        problems += [Problem("log", f"{name}: {line[:2_000]}") for line in bad[:3]]
    return problems


def judge_leftovers(directory: Path) -> list[Problem]:
    """Find processes and temporary files that should be gone after all nodes have stopped."""
    orphans = processes_naming(f"{directory}/")
    problems = [Problem("orphan", f"process {pid} still lives") for pid in orphans]
    temporary = sorted(str(path.relative_to(directory)) for path in directory.rglob("*.tmp"))
    if temporary:
        problems.append(Problem("leak", f"temporary files: {', '.join(temporary[:5])}"))
    return problems


def judge_descriptors(what: str, before: int, after: int, slack: int) -> list[Problem]:
    """Find descriptors that were opened and never closed."""
    if after <= before + slack:
        return []
    return [Problem("leak", f"{what}: {before} descriptors at first, {after} at the end")]


def same_states(states: dict[str, Any]) -> list[Problem]:
    """Check that all members have equal states: all have applied the same entries."""
    if len({repr(state) for state in states.values()}) <= 1:
        return []
    return [Problem("anomaly", f"members differ: {states}")]
