"""Run a long campaign in portions, and print its page: `python tests/simulation/campaign.py DIRECTORY`.

A campaign runs whole nodes until their clusters have lived for the given hours, core servers for the given
number of seeds, and some seeds of both a second time under another hash seed. Each portion is a process of
its own and leaves a file in the directory, so a campaign can be interrupted and resumed. The exit code is 0
only if no property was violated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from barque.testing.checkers.probes import PROBES

NODES_SEEDS, CORE_SEEDS = 50, 2_000
"""The seeds of one portion."""
SHORTEST_S = 10.0
"""The mean length of a run of whole nodes is at least this, in virtual seconds."""
PROBED_EVERY = 10
"""One portion in this many counts rare paths, which costs a third of its speed."""


class Portion(NamedTuple):
    """Some seeds, one after the other, in one process."""

    kind: str
    start: int
    seeds: int
    hash_seed: int
    probed: bool

    @property
    def core(self) -> bool:
        """Whether it runs core servers only."""
        return self.kind.endswith("core")

    def file(self, directory: Path) -> Path:
        """The file with its lines."""
        return directory / f"{self.kind}-{self.start}.jsonl"


def portions(options: argparse.Namespace) -> Iterator[Portion]:
    """Yield all portions: the two kinds in turn, seeds that run twice first."""
    nodes_seeds = int(options.hours * 3600 / SHORTEST_S)
    for number in range(max(options.core_seeds // CORE_SEEDS, nodes_seeds // NODES_SEEDS) + 1):
        probed = number % PROBED_EVERY == 0
        nodes, core = number * NODES_SEEDS, number * CORE_SEEDS
        if nodes < nodes_seeds:
            yield Portion("nodes", options.start + nodes, NODES_SEEDS, 1, probed)
        if nodes < options.twice:
            yield Portion("again", options.start + nodes, NODES_SEEDS, 2 + number, False)
        if core < options.core_seeds:
            yield Portion("core", options.start + core, CORE_SEEDS, 1, probed)
        if core < min(options.twice, options.core_seeds):
            yield Portion("again-core", options.start + core, CORE_SEEDS, 2 + number, False)


def is_done(portion: Portion, directory: Path) -> bool:
    """Whether an earlier call has finished the portion."""
    file = portion.file(directory)
    return file.exists() and '"end": true' in file.read_text()


def run(portion: Portion, directory: Path) -> None:
    """Run one portion in a process of its own, with a hash seed of its own."""
    command = [sys.executable, "-m", "barque", "simulate", "--start", str(portion.start)]
    command += ["--seeds", str(portion.seeds), "--report", str(portion.file(directory))]
    command += [flag for flag, wanted in (("--core", portion.core), ("--probes", portion.probed)) if wanted]
    environment = {**os.environ, "PYTHONHASHSEED": str(portion.hash_seed)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr, file=sys.stderr)


class Sum:
    """The results of all portions of one kind."""

    def __init__(self, directory: Path, kind: str, start: str = "[0-9]*") -> None:
        self.seeds: dict[int, dict[str, Any]] = {}
        self.probes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.commits: dict[str, None] = {}
        self.processor_s = 0.0
        for file in sorted(directory.glob(f"{kind}-{start}.jsonl")):
            for line in map(json.loads, file.read_text().splitlines()):
                self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if "seed" in line:
            self.seeds[line["seed"]] = line
            self.faults.update(line["faults"])
        elif "probes" in line:
            self.probes.update(line["probes"])
        else:
            self.processor_s += line["processor_s"]
            self.commits[line["commit"]] = None

    def total(self, field: str) -> float:
        """The sum of one figure over all seeds."""
        return sum(line.get(field, 0) for line in self.seeds.values())

    @property
    def hours(self) -> float:
        """How long its clusters have lived, added up."""
        return sum(map(_lived_s, self.seeds.values())) / 3600

    def hours_of(self, nodes: int) -> float:
        """How long its clusters of this size have lived."""
        return sum(_lived_s(line) for line in self.seeds.values() if line["nodes"] == nodes) / 3600

    @property
    def void(self) -> int:
        """How many runs did too little to count."""
        return sum(bool(line.get("void")) for line in self.seeds.values())

    def failed(self) -> list[int]:
        """The seeds that violated a property."""
        return [seed for seed, line in self.seeds.items() if line["violation"] is not None]


def _lived_s(line: dict[str, Any]) -> float:
    return float(line.get("cluster_s", line["virtual_s"]))  # a world of core servers is one cluster


def differences(first: Sum, second: Sum) -> tuple[int, list[int]]:
    """How many seeds ran twice, and the seeds whose hashes differ."""
    both = [seed for seed in second.seeds if seed in first.seeds]
    return len(both), [s for s in both if first.seeds[s]["hash"] != second.seeds[s]["hash"]]


PREAMBLE = """`make campaign` wrote this page: whole nodes and core servers on virtual time, with all faults,
from consecutive seeds ([how](../explanation/simulation.md)). To repeat any of it: `barque simulate --seed N`,
with `--core` for the second column, on the commit named here.
"""


def page(directory: Path) -> Iterator[str]:
    """Yield the page, line by line."""
    nodes, core = Sum(directory, "nodes"), Sum(directory, "core")
    yield "# A campaign\n"
    yield PREAMBLE
    yield "| | whole nodes | core servers |"
    yield "|---|---|---|"
    yield f"| commit | {' '.join(nodes.commits)} | {' '.join(core.commits)} |"
    yield f"| seeds | {_span(nodes)} | {_span(core)} |"
    rows = {
        "hours of virtual time": lambda s: f"{s.total('virtual_s') / 3600:,.1f}",
        "cluster-hours (several clusters share a run)": lambda s: f"{s.hours:,.1f}",
        "of them on five nodes": lambda s: f"{s.hours_of(5):,.1f}",
        "void seeds (they did too little)": lambda s: f"{s.void:,}",
        "cluster-hours for a minute of processor": lambda s: f"{s.hours / max(s.processor_s / 60, 1e-9):.2f}",
        "violations": lambda s: ", ".join(map(str, s.failed())) or "none",
        "events": lambda s: f"{s.total('events'):,}",
        "elections": lambda s: f"{s.total('elections'):,}",
        "restarts": lambda s: f"{s.total('restarts'):,}",
        "commands committed": lambda s: f"{s.total('committed'):,}",
        "operations checked": lambda s: f"{s.total('operations'):,}",
        "of them of unknown outcome": lambda s: f"{s.total('unknown'):,}",
        "looks at disks": lambda s: f"{s.total('looks'):,}",
    }
    for name, cell in rows.items():
        yield f"| {name} | {cell(nodes)} | {cell(core)} |"
    yield "\n## The same twice\n"
    for name, one, kind in (("whole nodes", nodes, "again"), ("core servers", core, "again-core")):
        both, other = differences(one, Sum(directory, kind))
        text = f"- {name}: {both:,} seeds in two processes with different `PYTHONHASHSEED`"
        yield f"{text}; different hashes: {', '.join(map(str, other)) or 'none'}."
    yield "\n## Faults\n"
    yield "| fault | whole nodes | core servers |"
    yield "|---|---|---|"
    for name in sorted({*nodes.faults, *core.faults}):
        yield f"| `{name}` | {nodes.faults[name]:,} | {core.faults[name]:,} |"
    yield "\n## Rare paths\n"
    yield f"Counted for one seed in {PROBED_EVERY}. A zero is a path that those seeds did not take.\n"
    yield "| path | whole nodes | core servers |"
    yield "|---|---|---|"
    for name in PROBES:
        yield f"| {name} | {nodes.probes[name]:,} | {core.probes[name]:,} |"


def _span(kind: Sum) -> str:
    return f"{len(kind.seeds):,}, from {min(kind.seeds, default=0)}"


def main() -> int:
    """Run the portions that are not done yet, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--start", type=int, default=1_000_000)
    parser.add_argument("--hours", type=float, default=100.0, help="of clusters of whole nodes")
    parser.add_argument("--core-seeds", type=int, default=100_000)
    parser.add_argument("--twice", type=int, default=1_000, help="seeds of each kind that are run twice")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no portion after so long")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.minutes * 60

    left = {"hours": options.hours - Sum(options.directory, "nodes").hours}

    def work(portion: Portion) -> None:
        nodes = portion.kind == "nodes"
        if time.monotonic() > end or is_done(portion, options.directory) or (nodes and left["hours"] <= 0):
            return
        run(portion, options.directory)
        if nodes:
            left["hours"] -= Sum(options.directory, "nodes", f"{portion.start}").hours

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, portions(options)))
    for line in page(options.directory):
        print(line)
    return 1 if any(Sum(options.directory, kind).failed() for kind in ("nodes", "core")) else 0


if __name__ == "__main__":
    sys.exit(main())
