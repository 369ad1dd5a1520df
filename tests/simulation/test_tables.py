"""Everything that the reference tables name exists, and each invariant has a bug that violates it."""

import re
from pathlib import Path

from tests.kit.mutants import MUTANTS

from barque.testing.sim.swarm import FAULTS

ROOT = Path(__file__).parents[2]
BUGS = (ROOT / "docs/reference/historical-bugs.md").read_text()
TABLE = (ROOT / "docs/reference/mutants.md").read_text()


def test_every_historical_bug_has_its_row() -> None:
    """All 87 historical bugs have a row, and all but a few have a test or a planted bug."""
    numbers: list[int] = []
    waiting: list[int] = []
    for first, last, here in re.findall(r"^\| (\d+)(?: to (\d+))? \|.*\| ([^|]+) \|$", BUGS, re.MULTILINE):
        numbers += range(int(first), int(last or first) + 1)
        known = re.search(r"`\w+`|`tests/|comes with|comes later|cannot apply", here)
        assert known, f"row {first}: {here}"
        waiting += [] if "`" in here else [int(first)]
    assert numbers == list(range(1, 88))
    assert len(numbers) - len(waiting) >= 80, waiting


def test_what_the_rows_name_exists() -> None:
    """Planted bugs, tests and transcripts in the rows exist."""
    for name in re.findall(r"`([^`]+)`", BUGS):
        if name.startswith("tests/") and "::" in name:
            path, test = name.split("::")
            assert f"def {test}(" in (ROOT / path).read_text(), name
        elif name.endswith(".txt") and "…" not in name:
            assert (ROOT / name).exists(), name
        elif re.fullmatch(r"[a-z_]+", name):
            assert name in MUTANTS or name in FAULTS, name


def test_the_table_of_planted_bugs_is_complete() -> None:
    """Every planted bug has a row, and something finds it, unless it breaks no promise."""
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", TABLE, re.MULTILINE))
    assert sorted(rows) == sorted(MUTANTS), "run `make mutants`"
    for name, row in rows.items():
        cells = [cell.strip() for cell in row.split("|")[1:]]
        found = [cell for cell in cells if cell != "–" and not cell.startswith("not:")]
        assert found or MUTANTS[name].equivalent, f"nothing finds {name}"


def test_each_checker_has_a_bug_that_shows_it_can_fail() -> None:
    """The table in docs/explanation/simulation.md names existing planted bugs without endy invariant."""
    text = (ROOT / "docs/explanation/simulation.md").read_text()
    rows = re.findall(r"^\| (I\d+|G7) [^|]+\| ([^|]+) \|$", text, re.MULTILINE)
    named = {property_: re.findall(r"`(\w+)`", bugs) for property_, bugs in rows}
    assert set(named) >= {f"I{i}" for i in (*range(1, 19), *range(21, 29), 31, 32)} | {"G7"}
    assert [bug for bugs in named.values() for bug in bugs if bug not in MUTANTS] == []
    assert str(len(MUTANTS)) in text
