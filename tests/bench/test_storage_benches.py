"""The benchmarks of storage run to their ends with small arguments. What they measure is not judged here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are part of the repository only"),
]


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("bounded.py", ("--seconds", "3", "--growth-max", "100"), "levelled off"),
        ("restart.py", ("--entries", "2000", "--peer", "barque", "--pause-s", "0"), "all clusters"),
        (
            "restart.py",
            ("--entries", "2000", "--peer", "barque", "--clusters", "5", "--snapshot-every", "500"),
            "all clusters",
        ),
        (
            "lagging.py",
            ("--behind-mib", "4", "--keys", "200", "--seconds", "1", "--share-min", "0"),
            "good",
        ),
        (
            "snapshots.py",
            ("--state-mib", "2", "--snapshots", "1", "--chunks", "2", "--seconds", "0.2"),
            "1 snapshots later",
        ),
        (
            "pairs.py",
            (".", ".", "--way", "inside", "--chunks", "2", "--seconds", "0.1", "--workload", "sequential"),
            "ratio",
        ),
        ("many.py", ("--clusters", "12", "--seconds", "0.3"), "recovered_all_s"),
        ("day.py", ("--seconds", "6", "--kill-every-s", "2", "--disk-max-mib", "1000"), "good"),
    ],
)
def test_a_benchmark_runs(tmp_path: Path, script: str, arguments: tuple[str, ...], said: str) -> None:
    """It starts nodes, loads them, says what it found, and leaves nothing behind."""
    command = [sys.executable, str(BENCH / script), *arguments, "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert list(tmp_path.iterdir()) == []
