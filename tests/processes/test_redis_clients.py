"""Clients that nobody here wrote, against real nodes: any node answers."""

import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from tests.processes.support import running

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
async def test_redis_cli_writes_here_and_reads_there(tmp_path: Path) -> None:
    """What redis-cli sets on one node it gets from another, at once."""
    async with running(tmp_path) as cluster:
        ports = list(cluster.resp_ports.values())
        for i, port in enumerate(ports):
            other = ports[(i + 1) % 3]
            assert _run("redis-cli", "-p", str(port), "set", "k", str(i)) == "OK"
            assert _run("redis-cli", "-p", str(other), "get", "k") == str(i)


@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")
async def test_redis_benchmark_runs(tmp_path: Path) -> None:
    """redis-benchmark's writes and reads all succeed, on a node that leads and on one that follows."""
    async with running(tmp_path) as cluster:
        for port in cluster.resp_ports.values():
            args = ["-p", str(port), "-t", "set,get,incr", "-n", "1000", "-c", "20", "-P", "4", "-q"]
            assert "SET:" in _run("redis-benchmark", *args).replace("\r", "\n")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py(tmp_path: Path, protocol: int) -> None:
    """redis-py, in both protocols: pipelines, counters, expiry and scans across nodes."""
    async with running(tmp_path) as cluster:
        first, second, third = (
            redis.Redis(port=port, protocol=protocol) for port in cluster.resp_ports.values()
        )
        with first, second, third:
            pipe = first.pipeline(transaction=False)
            for i in range(200):
                pipe.incr("counter")
                pipe.set(f"key:{i}", i)
            pipe.execute()
            assert second.get("counter") == b"200"
            assert third.dbsize() == 201
            assert len(list(second.scan_iter("key:*"))) == 200
            assert third.set("soon", "gone", px=1)
            while first.exists("soon"):
                pass
            assert second.ttl("soon") == -2


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()
