"""Measure which kind of test finds which planted bug, and after how much work.

A kind of test is called a ring. The rings `scripts` and `transcripts` follow known histories. Three rings
search: `search` (all interleavings within small bounds), `core` (random worlds of core servers) and `nodes`
(whole nodes with disks and network). `make mutants` measures everything and writes docs/reference/mutants.md;
that takes half an hour.
"""

import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from barque.testing.core.simulator import simulate_core
from barque.testing.sim.simulator import simulate
from tests.kit.mutants import MUTANTS, Mutant, planted
from tests.kit.scenarios import play
from tests.kit.scripts import SCRIPTS
from tests.kit.search import Bounds, search

SEARCHES: tuple[Bounds, ...] = (
    Bounds(elections=1, commands=1),
    Bounds(elections=1, commands=0, changes=2, spare="d"),
    Bounds(elections=2, commands=0, prompt_disks=False, late_reports=True),
    Bounds(elections=1, commands=1, crashes=1),
    Bounds(elections=2, commands=1, copies=1),
)
"""The bounds that the ring `search` tries, from a cluster that `a` leads."""
SEARCH_STATES = 2_500
RINGS = ("scripts", "transcripts", "search", "core", "nodes")


class Kill(msgspec.Struct, frozen=True):
    """The result of one ring with one bug: what it found (empty: nothing), in how many runs, in what time."""

    ring: str
    found: str
    runs: int
    seconds: float

    def __str__(self) -> str:
        spent = f"{self.runs} in {self.seconds:.1f} s"
        if self.ring in ("scripts", "transcripts"):
            return f"`{self.found}`" if self.found else "–"
        return spent if self.found else f"not: {spent}"


def hunt(mutant: Mutant, ring: str, budget_s: float, transcripts: Mapping[str, str] | None = None) -> Kill:
    """Let one ring look for one bug, for at most this many seconds of processor time."""
    looks: dict[str, Callable[[], Iterable[str]]] = {
        "scripts": _scripts,
        "transcripts": lambda: _transcripts(transcripts or {}),
        "search": _search,
        "core": lambda: _seeds(simulate_core),
        "nodes": lambda: _seeds(simulate),
    }
    start, runs = time.process_time(), 0
    with planted(mutant.name):
        for found in looks[ring]():
            runs += 1
            spent = time.process_time() - start
            if found or spent > budget_s:
                return Kill(ring, found, runs, spent)
    return Kill(ring, "", runs, time.process_time() - start)


def _scripts() -> Iterable[str]:
    for name, script in SCRIPTS.items():
        try:
            script()
        except Exception:  # a planted bug may show itself in any way
            yield name
        else:
            yield ""


def _transcripts(texts: Mapping[str, str]) -> Iterable[str]:
    for name, text in texts.items():
        try:
            same = play(text) == text
        except Exception:
            same = False
        yield "" if same else name


def _search() -> Iterable[str]:
    for bounds in SEARCHES:
        yield search(bounds, led_by="a", states_max=SEARCH_STATES).violation


def _seeds(run: Callable[[int], object]) -> Iterable[str]:
    seed = 0
    while True:
        seed += 1
        violation = getattr(run(seed), "violation", None)
        yield "" if violation is None else violation.name


def rings_for(mutant: Mutant) -> tuple[str, ...]:
    """The rings that can show this bug at all."""
    return RINGS if mutant.layer == "core" else ("nodes",)


PREAMBLE = """# Planted bugs

`make mutants` wrote this page. Each row is a bug that was planted in the code, and what found it: the script
or transcript that fails or, for tests that search, the number of runs and the seconds of one processor
(about {budget:.0f} s for each kind of test, up to 100 s where that found nothing). Rows in brackets are
rows of [the historical bugs](historical-bugs.md); I-numbers are [invariants](../explanation/simulation.md).
A dash: this kind of test cannot show the bug, or did not find it. Random seeds begin at 1.
"""


def row(mutant: Mutant, kills: Mapping[str, Kill]) -> str:
    """One line of the table."""
    cells = [str(kills[ring]) if ring in kills else "–" for ring in RINGS]
    return f"| `{mutant.name}` | {mutant.text} | {' | '.join(cells)} |"


def table(transcripts: Mapping[str, str], budget_s: float) -> Iterable[str]:
    """Yield docs/reference/mutants.md, line by line."""
    yield PREAMBLE.format(budget=budget_s)
    yield "| planted bug | what is wrong | script | transcript | search | core worlds | whole nodes |"
    yield "|---|---|---|---|---|---|---|"
    killed = by_search = 0
    left: list[str] = []
    for mutant in MUTANTS.values():
        kills = {ring: hunt(mutant, ring, budget_s, transcripts) for ring in rings_for(mutant)}
        yield row(mutant, kills)
        killed += any(kill.found for kill in kills.values())
        found = any(kills[ring].found for ring in ("search", "core", "nodes") if ring in kills)
        by_search += found
        if not found:
            left.append(mutant.name)
    yield ""
    yield f"{len(MUTANTS)} planted bugs; {killed} found by some test, {by_search} of them without a script."
    if left:
        yield f"By scripts only, or not at all: {', '.join(f'`{name}`' for name in left)}."
    equivalent = [mutant for mutant in MUTANTS.values() if mutant.equivalent]
    if equivalent:
        yield "\nThese bugs break no promise by themselves; scripts demand most of the rules anyway:\n"
        yield from (f"- `{mutant.name}`: {mutant.equivalent}." for mutant in equivalent)
