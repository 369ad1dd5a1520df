"""Writes docs/reference/ra-parity.md."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tests.parity.catalogue import VERDICTS, ApiRow, Feature, Section
from tests.parity.rules import ON_NODES, RULES, SECTIONS, UNTESTED, verdict_on

DECISION = "../decisions/0001-where-we-differ-from-ra.md"
HEAD = f"""# Ra's features, row by row

`tests/test_parity.py` makes this page from `tests/parity/`. It fails when a test, a planted bug or a decision
that a row names does not exist, when a row breaks the rules of its verdict, or when this page is old.

A row is one of Ra's features (v3.1.10), by the id that tests name in their docstrings. A star marks what the
API page of `ra_server` (v2.2) names. That page, and the rules of each role, come last.

| verdict | meaning |
|---|---|
| works | A test, or the simulator of whole nodes, shows it through production's performer and log. |
| deviation | Barque does it in another way on purpose; [decision 1]({DECISION}) says how and why. |
| core only | Core tests show it. Production does not reach it, or no test of whole nodes demands it. |
| partial | A part is missing; the row says which. |
| missing | Nothing of it is there; the row says what it waits for. |

A row becomes *works* when one piece of its evidence runs through production: a test below `tests/runtime`,
`client`, `cli`, `gateways`, `processes`, `simulation`, `log`, `transport` or `bench` (but not one of core
servers alone); a [planted bug](mutants.md) that whole nodes found; or a rare path that
`tests/simulation/test_rare_paths.py` sees whole nodes take, with all checkers on. A test that drives the core
by hand is never enough. To change a verdict, write the test, name it in `tests/parity/features.txt`, and run
`BARQUE_REWRITE=1 pytest tests/test_parity.py`.
"""


def text_of(evidence: str) -> str:
    """One piece of evidence, for people."""
    kind, _, name = evidence.partition(":")
    match kind:
        case "bug":
            return f"bug `{name}`"
        case "path":
            return f"path: {name}"
        case "decision":
            return f"decision 1: {name}"
        case "row":
            return name
        case _:
            return f"`{evidence}`"


def texts_of(evidence: Iterable[str]) -> str:
    """All evidence of a row, for people."""
    return "; ".join(map(text_of, evidence))


def counts(sections: Sequence[Section]) -> list[str]:
    """The table of verdicts by section."""
    lines = [
        f"| section | rows | {' | '.join(VERDICTS)} | ★ rows | ★ works |",
        "|---" * (len(VERDICTS) + 4) + "|",
    ]
    every: list[Feature] = []
    for section in sections:
        lines.append(_counted(section.title, section.features))
        every += section.features
    lines.append(_counted("**all**", every))
    stars = Counter(row.verdict for row in every if row.starred)
    told = ", ".join(f"{stars[verdict]} {verdict}" for verdict in VERDICTS)
    return [*lines, "", f"Of the {stars.total()} rows with a star: {told}."]


def _counted(title: str, rows: Sequence[Feature]) -> str:
    by_verdict = Counter(row.verdict for row in rows)
    starred = [row for row in rows if row.starred]
    works = sum(row.verdict == "works" for row in starred)
    cells = [len(rows), *(by_verdict[verdict] for verdict in VERDICTS), len(starred), works]
    return f"| {title} | {' | '.join(map(str, cells))} |"


def feature_tables(sections: Sequence[Section]) -> list[str]:
    """The rows of Ra's features."""
    lines = []
    for section in sections:
        lines += ["", f"## {section.title}", "", "| row | feature | verdict | evidence | note |"]
        lines.append("|---|---|---|---|---|")
        for row in section.features:
            star = "★" if row.starred else ""
            evidence = texts_of(row.evidence)
            note = f"waits for: {row.why}" if row.verdict == "missing" else row.why
            lines.append(f"| {row.id}{star} | {row.title} | {row.verdict} | {evidence} | {note} |")
    return lines


def api_table(rows: Sequence[ApiRow]) -> list[str]:
    """The rows of Ra's API page."""
    by_verdict = Counter(row.verdict for row in rows)
    told = ", ".join(f"{by_verdict[verdict]} {verdict}" for verdict in VERDICTS)
    lines = [
        "",
        "## The API page of `ra_server` (v2.2)",
        "",
        f"{len(rows)} rows: {told}. A row that names ids has their evidence.",
    ]
    lines += [
        "",
        "| kind | Ra | Barque | shown by | verdict | evidence | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        here = f"`{row.ours}`" if row.ours else "not here"
        evidence = texts_of(row.evidence)
        lines.append(
            f"| {row.kind} | `{row.ra}` | {here} | {row.shown} | {row.verdict} | {evidence} | {row.why} |"
        )
    return lines


def rule_tables(evidence: Mapping[str, list[str]], decided: dict[str, list[str]]) -> list[str]:
    """The rules of each role, and the tests that name them."""
    by_verdict = Counter(verdict_on(rule, decided) for rule in RULES)
    told = ", ".join(f"{by_verdict[verdict]} {verdict}" for verdict in VERDICTS if by_verdict[verdict])
    lines = ["", "## Rules, message by message", ""]
    lines += [f"{len(RULES)} rules: {told}. The tests named last drive the core by hand."]
    for letter, title in SECTIONS.items():
        lines += ["", f"### Rules of {title}", "", "| rule | verdict | on whole nodes | shown by | note |"]
        lines.append("|---|---|---|---|---|")
        for rule in (r for r in RULES if r.startswith(f"{letter}-")):
            nodes = text_of(ON_NODES[rule]) if rule in ON_NODES else ""
            tests = [test.split("::") for test in evidence.get(rule, [])]
            links = "; ".join(f"`{path}`: {name[5:].replace('_', ' ')}" for path, name in tests[:3])
            more = f", and {len(tests) - 3} more" if len(tests) > 3 else ""
            notes = (
                [UNTESTED[rule]] if rule in UNTESTED else [f"decision 1: {d}" for d in decided.get(rule, [])]
            )
            lines.append(
                f"| {rule} | {verdict_on(rule, decided)} | {nodes} | {links}{more} | {'; '.join(notes)} |"
            )
    return lines
