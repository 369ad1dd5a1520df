"""The benchmarks run and print a table (cli/bench.py, bench/). No test here asserts a time."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from barque.bench import availability, facts
from barque.bench.cluster import LocalCluster, check_directory
from barque.bench.measure import WORKLOADS, Sample, Settings, measure_at, quantile
from barque.bench.report import COLUMNS, Report, aligned, header, notes, rows, spread, us_text
from barque.bench.workloads import Background, first_success
from barque.cli.bench import bench
from barque.client.results import Status, typed_result
from barque.errors import ConfigurationError, NoLeader

ALL_ROWS = [row for names in WORKLOADS.values() for row in names]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three node processes."""
    with LocalCluster(str(tmp_path)) as running:
        yield running


@pytest.mark.processes
def test_every_workload_runs_and_prints_a_row(tmp_path: Path) -> None:
    """One short run of everything: a row each, the same in the JSON file, and nothing left behind."""
    json_file = tmp_path / "out.json"
    arguments = ["--seconds", "0.1", "--runs", "1", "--kills", "1", "--clusters", "3"]
    arguments += ["--dir", str(tmp_path), "--json", str(json_file)]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for row in ALL_ROWS:
        assert f"\n{row} " in result.output
    report = msgspec.json.decode(json_file.read_bytes(), type=Report)
    assert [sample.workload for sample in report.samples] == ALL_ROWS
    for sample in report.samples:
        assert sample.commands > 0
        assert sample.writer
    assert list(tmp_path.iterdir()) == [json_file]


@pytest.mark.processes
async def test_running_nodes_can_be_measured_but_are_not_harmed(nodes: LocalCluster) -> None:
    """Loads run against nodes that are up already; rows that kill or fill them are refused."""
    settings = Settings(".", seconds=0.1)
    sample = await measure_at(nodes.target(), "sequential", settings)
    assert sample.commands > 0
    with pytest.raises(ConfigurationError, match="starts itself"):
        await measure_at(nodes.target(), "failover", settings)


@pytest.mark.processes
def test_a_cluster_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither processes nor files, even if the benchmark fails; the error has the nodes' last words."""
    pids: list[int] = []

    def fail() -> None:
        with LocalCluster(str(tmp_path)) as running:
            pids.extend(running.target().processes.values())
            raise NoLeader("planted")

    with pytest.raises(NoLeader, match="planted") as failure:
        fail()
    assert len(pids) == 3
    assert [facts.resident_bytes(pid) for pid in pids] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []
    assert failure.value.__notes__


def test_against_needs_a_secret() -> None:
    """Without the secret nothing is tried."""
    result = CliRunner().invoke(bench, ["--against", "127.0.0.1:1"])
    assert result.exit_code != 0


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the option and the path."""
    with pytest.raises(ConfigurationError, match=r"--dir .*nowhere"):
        check_directory(str(tmp_path / "nowhere"))


async def test_the_first_success_does_not_wait_for_attempts_that_hang() -> None:
    """A new attempt is made while earlier ones wait for answers that never come."""
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            await asyncio.Event().wait()

    assert await first_success(ask, 0.001, 60.0) > 0
    assert asked == 3


async def test_no_success_is_an_error_with_a_text() -> None:
    """It says what was waited for."""

    async def ask() -> None:
        raise NoLeader("none")

    with pytest.raises(NoLeader, match="no write was acknowledged"):
        await first_success(ask, 0.001, 0.02)


async def test_background_load_goes_on_through_errors() -> None:
    """Callers that fail try again, until they are stopped."""
    asked = asyncio.Semaphore(0)

    async def ask() -> None:
        asked.release()
        raise NoLeader("none")

    load = Background([ask])
    await asked.acquire()
    await asked.acquire()
    await load.stop()


def test_settled_means_up_led_and_caught_up() -> None:
    """A node that is away, a cluster without a leader, or a member far behind: not settled."""

    def report(state: str = "running", leader: str | None = "b@n1", applied: int = 90_000) -> Status:
        members = [
            {"server": f"b@n{number}", "role": "follower", "last_applied": index}
            for number, index in enumerate((90_000, applied), start=1)
        ]
        clusters = [{"name": "b", "leader": leader, "term": 1, "members": members}]
        return typed_result(
            "status", {"nodes": [{"name": "n1", "state": state}], "clusters": clusters}, Status
        )

    assert availability._is_settled(report())
    assert not availability._is_settled(report(state="unreachable"))
    assert not availability._is_settled(report(leader=None))
    assert not availability._is_settled(report(applied=10))
    assert not availability._is_settled(Status(nodes=(), clusters=()))


def test_tables_show_the_median_and_the_extremes() -> None:
    """Three runs of a row are one line; what has no value is a dash."""
    samples = [Sample("pipeline", 10, per_second=rate, writer="inline") for rate in (3000.0, 1000.0, 2000.0)]
    [line] = rows(samples)
    assert line[:3] == ["pipeline", "3", "2,000 (1,000–3,000)"]
    assert line[3] == "–"
    assert len(line) == len(COLUMNS)
    assert notes(samples) == []
    assert len(set(map(len, aligned(("a", "b"), [["x", "10"], ["long", "2"]])))) == 1


def test_quantiles_and_spreads_of_little() -> None:
    """One value is every quantile, none is zero; a single run has no extremes."""
    assert quantile([], 0.5) == 0.0
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert spread([1.0], us_text) == "1.0"
    assert spread([None], us_text) == "–"


def test_the_header_tells_the_machine(tmp_path: Path) -> None:
    """Cores, interpreter, file system and the measured latency of a sync stand above the table."""
    machine = facts.machine_facts(str(tmp_path))
    text = "\n".join(header(Report(machine, msgspec.to_builtins(Settings(".")), [])))
    assert f"{machine['cores']} cores" in text
    assert "CPython" in text or "PyPy" in text
    assert f"a sync takes {machine['sync_ms']} ms" in text


def test_a_terminated_benchmark_cleans_up_and_exits() -> None:
    """SIGTERM cancels what runs, lets it clean up, and ends the program, even when it comes last of all."""
    cleaned = []

    async def work(*, wait: bool) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            if wait:
                await asyncio.Event().wait()
        finally:
            cleaned.append(wait)

    before = signal.getsignal(signal.SIGTERM)
    for wait in (True, False):
        with pytest.raises(SystemExit) as ended:
            facts.run(work(wait=wait))
        assert ended.value.code == 143
    assert cleaned == [True, False]
    assert signal.getsignal(signal.SIGTERM) is before
