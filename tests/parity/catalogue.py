"""Reads the rows of the parity page, and judges their evidence.

Two files hold the rows: `features.txt` has Ra's features, `api_page.txt` the API page of its server.
Each row has one verdict:

- `works`: a test or the simulator shows it through production's performer and log.
- `deviation`: Barque does it in another way on purpose; a line of decision 1 says how and why.
- `core only`: tests drive the core by hand; production does not reach it, or no test of whole nodes shows it.
- `partial`: a part of it is missing.
- `missing`: nothing of it is there.

Evidence is a list of these, separated by semicolons:

- `runtime/test_node.py::test_one_node_is_a_cluster`: a test function below `tests`.
- `bug:NAME`: a planted bug (tests/kit) that whole nodes found, as docs/reference/mutants.md says.
- `path:TEXT`: a rare path that tests/simulation/test_rare_paths.py sees whole nodes take.
- `decision:PLACE`: the first cell of a line of docs/decisions/0001-where-we-differ-from-ra.md.
- `row:ID`: in `api_page.txt` only, the evidence of a row of `features.txt`.
"""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

from tests.simulation.test_rare_paths import PATHS

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs"
DECISIONS = DOCS / "decisions" / "0001-where-we-differ-from-ra.md"
MUTANTS_PAGE = DOCS / "reference" / "mutants.md"
VERDICTS = ("works", "deviation", "core only", "partial", "missing")
THROUGH_PRODUCTION = (
    "runtime",
    "client",
    "cli",
    "gateways",
    "processes",
    "simulation",
    "log",
    "offline",
    "transport",
    "bench",
)
"""Folders whose tests run production's performer, log, transport or client."""
CORE_ALONE = {
    "simulation/test_checkers.py": "checkers are fed by hand",
    "simulation/test_core_worlds.py": "worlds of core servers",
    "simulation/test_search.py": "searches among core servers",
    "simulation/test_shrink.py": "shrinks scenarios",
    "simulation/test_tables.py": "reads tables",
    "simulation/test_test_machine.py": "drives a machine by hand",
}
"""Files of those folders that do not."""


class Feature(NamedTuple):
    """One of Ra's features. `starred`: Ra's API page names it; `why`: what is missing, or why."""

    id: str
    title: str
    starred: bool
    verdict: str
    evidence: tuple[str, ...]
    why: str


class Section(NamedTuple):
    """A section of the catalogue, with the number of rows that it must have."""

    title: str
    rows_due: int
    features: list[Feature]


class ApiRow(NamedTuple):
    """A row of Ra's API page: what it is called here, and the ids that tests name for it."""

    kind: str
    ra: str
    ours: str
    shown: str
    verdict: str
    evidence: tuple[str, ...]
    why: str


def _lines(name: str) -> list[str]:
    text = (TESTS / "parity" / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("# ")]


def _cells(line: str, count: int) -> list[str]:
    cells = [cell.strip() for cell in line.split(" |")]
    assert len(cells) == count, f"{len(cells)} cells instead of {count}: {line}"
    return cells


def _evidence(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


@functools.cache
def sections() -> tuple[Section, ...]:
    """Ra's features, by section."""
    found: list[Section] = []
    for line in _lines("features.txt"):
        if line.startswith("## "):
            title, _, count = line[3:].rpartition(": ")
            found.append(Section(title, int(count), []))
            continue
        name, title, verdict, evidence, why = _cells(line, 5)
        row = Feature(name.rstrip("*"), title, name.endswith("*"), verdict, _evidence(evidence), why)
        found[-1].features.append(row)
    return tuple(found)


@functools.cache
def features() -> dict[str, Feature]:
    """Ra's features, by id."""
    return {row.id: row for section in sections() for row in section.features}


@functools.cache
def api_rows() -> tuple[ApiRow, ...]:
    """The rows of Ra's API page."""
    rows = []
    for line in _lines("api_page.txt"):
        kind, ra, ours, shown, verdict, evidence, why = _cells(line, 7)
        rows.append(ApiRow(kind, ra, ours, shown, verdict, _evidence(evidence), why))
    return tuple(rows)


@functools.cache
def named_tests() -> frozenset[str]:
    """All test functions, as `path::name`."""
    return frozenset(
        f"{path.relative_to(TESTS)}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@functools.cache
def found_by_whole_nodes() -> dict[str, bool]:
    """Each planted bug, and whether whole nodes found it: the last column of the page's table."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", MUTANTS_PAGE.read_text(), re.M)
    return {name: re.match(r"\d+ in ", cell) is not None for name, cell in rows}


@functools.cache
def decided_places() -> frozenset[str]:
    """The first cells of the lines of decision 1."""
    lines = [line for line in DECISIONS.read_text().splitlines() if line.startswith("| ")]
    return frozenset(line.split("|")[1].strip() for line in lines[1:])


def complaint(evidence: str) -> str | None:
    """Why this evidence is none, or None if it is there."""
    kind, _, name = evidence.partition(":")
    match kind:
        case "bug":
            return None if found_by_whole_nodes().get(name) else f"whole nodes do not find {name!r}"
        case "path":
            return None if name in PATHS else f"test_rare_paths.py does not know {name!r}"
        case "decision":
            return None if name in decided_places() else f"decision 1 has no line for {name!r}"
        case "row":
            return None if name in features() else f"there is no row {name!r}"
        case _:
            return None if evidence in named_tests() else f"there is no test {evidence!r}"


def is_through_production(evidence: str) -> bool:
    """Whether this evidence runs production's performer, log, transport or client."""
    kind, _, name = evidence.partition(":")
    if kind == "row":
        return features()[name].verdict == "works"
    if kind in ("bug", "path"):
        return True
    path = evidence.partition("::")[0]
    return path.split("/")[0] in THROUGH_PRODUCTION and path not in CORE_ALONE


def complaints(verdict: str, evidence: tuple[str, ...], why: str) -> list[str]:
    """What is wrong with a row: the rules of its verdict, and evidence that does not exist."""
    found = [text for text in map(complaint, evidence) if text is not None]
    if found:
        return found
    production = any(map(is_through_production, evidence))
    decided = any(each.startswith("decision:") for each in evidence)
    match verdict:
        case "works":
            rules = {"no evidence through production": production}
        case "deviation":
            rules = {"no line of decision 1": decided}
        case "core only":
            rules = {
                "no test of the core": bool(evidence) and not decided,
                "evidence through production: then it is more than core only": not production,
                "no word on why": bool(why),
            }
        case "partial":
            rules = {"no evidence for the part that is there": bool(evidence), "no missing part": bool(why)}
        case "missing":
            rules = {"evidence for something missing": not evidence, "not said what it waits for": bool(why)}
        case _:
            rules = {f"no such verdict: {verdict!r}": False}
    return [text for text, kept in rules.items() if not kept]
