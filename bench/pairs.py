"""Compare two commits: both run at the same time, and take turns in short chunks.

A virtual disk and a shared processor change from minute to minute, so figures of two runs say little. Here
each chunk of A has a chunk of B beside it, and the ratio is taken of such pairs. `.` is the working tree.

    python bench/pairs.py HEAD~5 . --workload sequential --workload read
    python bench/pairs.py main . --way inside   # processor time of three nodes and a client in one process
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "bench" / "pair_side.py"
WORKLOADS = ("sequential", "read", "concurrent", "reads", "pipeline", "pipeline low")
RULERS = {"inside": ("cpu_us", "µs of processor"), "live": ("p50_us", "µs, p50"), "rate": ("rate", "each s")}


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The files of a commit; of the working tree for `.`."""
    if commit == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as home:
        tree = Path(home) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def side(commit: str, way: str, directory: str) -> Iterator["subprocess.Popen[str]"]:
    """A driver that runs this commit."""
    with tree_of(commit) as tree:
        environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
        command = [sys.executable, str(DRIVER), way, directory]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{commit}: the driver has ended")
            yield process


def ask(process: "subprocess.Popen[str]", workload: str, seconds: float) -> dict[str, float]:
    """Let a driver run one chunk."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"workload": workload, "seconds": seconds}) + "\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def compare(
    sides: list[Any], workload: str, chunks: int, seconds: float, ruler: str
) -> list[tuple[float, float]]:
    """Pairs of measurements; who begins alternates."""
    for process in sides:
        ask(process, workload, seconds)  # to warm up
    pairs = []
    for number in range(chunks):
        order = [0, 1] if number % 2 == 0 else [1, 0]
        found = {at: ask(sides[at], workload, seconds)[ruler] for at in order}
        pairs.append((found[0], found[1]))
    return pairs


def main() -> None:
    """Print a line for each workload: both medians, and the ratio B/A with its quartiles."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="a commit, or . for the working tree")
    parser.add_argument("b", help="likewise")
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--way", choices=("live", "inside"), default="live")
    parser.add_argument("--chunks", type=int, default=20, help="pairs of chunks")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a chunk")
    parser.add_argument(
        "--dir", help="where nodes keep their files; inside: in memory, as a disk's syncs vary"
    )
    chosen = parser.parse_args()
    directory = chosen.dir or ("/dev/shm" if chosen.way == "inside" else str(ROOT))  # noqa: S108
    with ExitStack() as stack:
        sides = [stack.enter_context(side(commit, chosen.way, directory)) for commit in (chosen.a, chosen.b)]
        for workload in chosen.workload or WORKLOADS:
            by_rate = chosen.way == "live" and workload not in ("sequential", "read")
            ruler, unit = RULERS["rate" if by_rate else chosen.way]
            pairs = compare(sides, workload, chosen.chunks, chosen.seconds, ruler)
            a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
            low, middle, high = statistics.quantiles([second / first for first, second in pairs], n=4)
            print(
                f"{workload:14}{chosen.a[:10]:>10} {a:11.1f}   {chosen.b[:10]:>10} {b:11.1f} {unit:16}"
                f" ratio {middle:.3f} ({low:.3f} to {high:.3f})",
                flush=True,
            )
        for process in sides:
            process.stdin.close()


if __name__ == "__main__":
    main()
