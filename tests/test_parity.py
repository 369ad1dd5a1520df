"""Every feature of Ra, row of its server's API page and rule of its roles has a verdict, or tests, that hold.

`BARQUE_REWRITE=1 pytest tests/test_parity.py` writes docs/reference/ra-parity.md anew. `tests/parity` has the
rows, and says what counts as evidence.
"""

import ast
import importlib
import os
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.parity.catalogue import ApiRow, Feature, api_rows, complaints, features, sections
from tests.parity.page import HEAD, api_table, counts, feature_tables, rule_tables
from tests.parity.rules import ON_NODES, RULES, UNTESTED, decisions_on

TESTS = Path(__file__).parent
pytestmark = pytest.mark.xdist_group("parity")  # all of them read the same files
FEATURES = 441
"""The rows of the catalogue."""
PAGE = TESTS.parent / "docs" / "reference" / "ra-parity.md"
ID = re.compile(r"\b([A-Z]+)-(\d+)(?: to (?:\1-)?(\d+))?")


def ids_in(text: str) -> Iterator[str]:
    """The rule and row ids that a text names, ranges spelt out."""
    for found in ID.finditer(text):
        for number in range(int(found[2]), int(found[3] or found[2]) + 1):
            yield f"{found[1]}-{number:02}" if len(found[1]) > 1 else f"{found[1]}-{number}"


def evidence() -> dict[str, list[str]]:
    """The tests that name each id in their docstring, or in a row of the table that they run."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        tree = ast.parse(path.read_text())
        tables = {ast.unparse(s.targets[0]): s for s in tree.body if isinstance(s, ast.Assign)} | {
            ast.unparse(s.target): s for s in tree.body if isinstance(s, ast.AnnAssign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                text = " ".join([ast.get_docstring(node) or "", *_rows_of(node, tables)])
                for name in dict.fromkeys(ids_in(text)):
                    found.setdefault(name, []).append(f"{path.relative_to(TESTS)}::{node.name}")
                if "§9" in text:
                    found.setdefault("§9", []).append(node.name)
    return found


def _rows_of(node: ast.FunctionDef | ast.AsyncFunctionDef, tables: Mapping[str, ast.AST]) -> Iterator[str]:
    """The rule ids that stand first in a row of the test's parameters, there or in a table of the module."""
    places: list[ast.AST] = [*node.decorator_list]
    for name in (n for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)):
        places += [tables[name.id]] if name.id in tables else []
    for place in places:
        for row in ast.walk(place):
            if isinstance(row, ast.Tuple) and row.elts and isinstance(row.elts[0], ast.Constant):
                yield str(row.elts[0].value)


EVIDENCE = evidence()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_shown_by_a_test_or_has_a_reason_not_to_be(rule: str) -> None:
    """A rule without a test is a rule that nobody keeps."""
    named = rule in EVIDENCE or rule in UNTESTED
    assert named, f"no test names {rule}"


@pytest.mark.parametrize("rule", ON_NODES)
def test_a_rule_that_works_is_shown_on_whole_nodes(rule: str) -> None:
    """Its evidence runs through production; no rule about snapshots has any."""
    assert complaints("works", (ON_NODES[rule],), "") == []
    assert rule in RULES


@pytest.mark.parametrize("row", features().values(), ids=lambda row: row.id)
def test_every_feature_has_a_verdict_that_its_evidence_bears(row: Feature) -> None:
    """`works` needs evidence through production, `deviation` a decision; the others say what is missing."""
    assert complaints(row.verdict, row.evidence, row.why) == []


def test_every_feature_of_the_catalogue_is_here_once() -> None:
    """Each section has its number of rows, numbered without a gap, and no id comes twice."""
    ids = [row.id for section in sections() for row in section.features]
    assert (len(ids), len(set(ids))) == (FEATURES, FEATURES)
    assert [len(section.features) for section in sections()] == [section.rows_due for section in sections()]
    for prefix, numbers in groupby(sorted(ids), key=lambda name: name.rpartition("-")[0]):
        found = [int(name.rpartition("-")[2]) for name in numbers]
        assert found == list(range(1, len(found) + 1)), prefix


@pytest.mark.parametrize("row", api_rows(), ids=lambda row: f"{row.kind} {row.ra}")
def test_every_row_of_the_api_page_is_here_or_has_a_reason_not_to_be(row: ApiRow) -> None:
    """What is named exists, and tests name its ids; its verdict keeps the rules of the features."""
    assert complaints(row.verdict, row.evidence, row.why) == []
    assert row.ours or row.verdict in ("deviation", "missing")
    if row.ours:
        resolve(row.ours)
    names = ["§9"] if row.shown == "§9" else list(ids_in(row.shown))
    missing = [name for name in names if name not in EVIDENCE]
    assert not missing, f"no test names {missing}"


@pytest.mark.parametrize(
    ("verdict", "evidence", "why"),
    [
        ("done", "runtime/test_node.py::test_one_node_is_a_cluster", ""),
        ("works", "", ""),
        ("works", "runtime/test_node.py::test_that_does_not_exist", ""),
        ("works", "core/test_rules.py::test_one_vote_a_term", ""),
        ("works", "simulation/test_core_worlds.py::test_fresh_core_seeds", ""),
        ("works", "bug:old_round_confirms", ""),
        ("works", "path:a write would leave a gap", ""),
        ("works", "row:SYS-26", ""),
        ("deviation", "core/test_rules.py::test_one_vote_a_term", "it is better so"),
        ("deviation", "decision:a place that nobody wrote about", ""),
        ("core only", "", "no test of whole nodes"),
        ("core only", "core/test_rules.py::test_one_vote_a_term", ""),
        ("core only", "bug:votes_twice_a_term", "no test of whole nodes"),
        ("partial", "runtime/test_node.py::test_one_node_is_a_cluster", ""),
        ("partial", "", "everything"),
        ("missing", "", ""),
        ("missing", "runtime/test_node.py::test_one_node_is_a_cluster", "segments"),
    ],
)
def test_a_verdict_without_its_evidence_is_refused(verdict: str, evidence: str, why: str) -> None:
    """Each rule of the verdicts can fail."""
    assert complaints(verdict, (evidence,) if evidence else (), why)


def resolve(dotted: str) -> Any:
    """The module, class or field of this name below `barque`."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module("barque." + ".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"no such name: {dotted}")


def page() -> str:
    """The page for people."""
    lines = [HEAD, *counts(sections()), *feature_tables(sections()), *api_table(api_rows())]
    lines += rule_tables(EVIDENCE, decisions_on(ids_in))
    return "\n".join(lines) + "\n"


def test_the_page_is_up_to_date() -> None:
    """People read what is true now; `BARQUE_REWRITE=1` writes it anew."""
    if os.environ.get("BARQUE_REWRITE"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run BARQUE_REWRITE=1 pytest tests/test_parity.py"
