"""The comparison with other programs: tables and missing peers (bench/peers.py). Runs no peer."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"


def found(rates: dict[str, list[float]]) -> bytes:
    """A result file: rates by program, one for each round."""
    return msgspec.json.encode(
        {
            "machine": {
                "date": "today",
                "cpu": "c",
                "cores": 2,
                "memory_gib": 1,
                "kernel": "k",
                "python": "p",
                "loop": "l",
                "filesystem": "f",
                "sync_ms": 0.1,
                "load_average": [0, 0, 0],
            },
            "settings": {"payload_bytes": 256, "seconds": 1.0},
            "peers": {name: {"syncs": "s", "clients": "c", "not_promised": "n"} for name in rates},
            "entries": [
                {
                    "round": number,
                    "peer": name,
                    "row": "pipeline",
                    "sample": {"workload": "pipeline", "commands": 1, "per_second": rate},
                }
                for name, values in rates.items()
                for number, rate in enumerate(values)
            ],
        }
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the scripts, from anywhere."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(
    not BENCH.is_dir(), reason="the benchmarks are part of the repository, not of the package"
)
def test_ratios_are_of_runs_in_the_same_round(tmp_path: Path) -> None:
    """Barque's rate by the other's, round by round: never the ratio of two medians."""
    file = tmp_path / "peers.json"
    file.write_bytes(found({"barque": [100.0, 900.0, 300.0], "other": [50.0, 300.0, 300.0]}))
    done = run(str(BENCH / "report.py"), str(file))
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("| pipeline | other |")]
    assert line.endswith("| 2.00 (1.00–3.00) |")


@pytest.mark.skipif(
    not BENCH.is_dir(), reason="the benchmarks are part of the repository, not of the package"
)
def test_figures_go_between_the_marks_only(tmp_path: Path) -> None:
    """What stands around them stays, and doing it twice changes nothing."""
    file, page = tmp_path / "peers.json", tmp_path / "page.md"
    file.write_bytes(found({"barque": [1.0]}))
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    for _ in range(2):
        assert run(str(BENCH / "report.py"), str(file), "--into", str(page)).returncode == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| pipeline | barque |") == 1


@pytest.mark.skipif(
    not BENCH.is_dir(), reason="the benchmarks are part of the repository, not of the package"
)
def test_a_peer_that_is_not_installed_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, with what to do, and left out."""
    monkeypatch.setenv("BENCH_PEERS", str(tmp_path))
    done = run(str(BENCH / "peers.py"), "--peer", "etcd", "--runs", "1", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "not installed" in done.stdout
    assert "setup-peers" in done.stdout
