"""Clients that nobody here wrote, against real nodes: any node answers."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.processes.support import Cluster, running, until

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


async def _transactions_possible(cluster: Cluster) -> None:
    """Wait until the newest version of the machine is in force, which every member must report first."""
    async with cluster.client() as client:

        async def risen() -> bool:
            return bool((await client.overview("kv")).machine["effective_version"] >= 1)

        await until(risen, "version 1 of the machine to be in force")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_d6_two_clients_with_watch_lose_no_update(tmp_path: Path, protocol: int) -> None:
    """redis-py's default pipelines and WATCH loops on different nodes; a leader dies in between."""
    async with running(tmp_path) as cluster:
        await _transactions_possible(cluster)
        done, unknown = [0], [0]

        async def add(port: int) -> None:
            client = redis.asyncio.Redis(port=port, protocol=protocol, retry=Retry(NoBackoff(), 0))
            async with client.pipeline() as pipe:
                while done[0] < 150:
                    try:
                        await pipe.watch("counter")
                        old = int(await pipe.get("counter") or 0)
                        pipe.multi()
                        pipe.set("counter", old + 1).get("counter")
                        assert await pipe.execute() == [True, b"%d" % (old + 1)]
                        done[0] += 1
                    except redis.WatchError:
                        continue
                    except redis.RedisError as error:
                        unknown[0] += not str(error).startswith(("NOLEADER", "NOQUORUM", "REFUSED", "BUSY"))
                        await pipe.reset()
            await client.aclose()

        async with cluster.client() as client:
            leader = await cluster.leader(client)
            others = [port for name, port in cluster.resp_ports.items() if name != leader]
            tasks = [asyncio.create_task(add(port)) for port in others]

            async def begun() -> bool:
                return done[0] >= 50

            await until(begun, "50 transactions")
            cluster.kill(leader)
            await asyncio.gather(*tasks)
        with redis.Redis(port=others[0]) as reader:
            total = int(reader.get("counter"))
        assert done[0] <= total <= done[0] + unknown[0]


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
async def test_r2_redis_cli_shows_figures_and_big_keys(tmp_path: Path) -> None:
    """`redis-cli --stat` and `--bigkeys` read true figures from INFO, TYPE and STRLEN."""
    async with running(tmp_path) as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
        port = cluster.resp_ports[leader]
        with redis.Redis(port=port) as store:
            store.mset({f"key:{n}": "x" * n for n in range(1, 51)})
            store.expire("key:1", 100)
            info = store.info()
            assert info["db0"]["keys"] == 50
            assert info["db0"]["expires"] == 1
            assert info["used_memory"] > 1_000_000
            assert info["arch_bits"] == 64
            assert info["cluster_enabled"] == 0
        stat = _run("redis-cli", "-p", str(port), "--stat", "-i", "0.01", "-r", "1", timeout=3)
        row = stat.splitlines()[2].split()
        assert row[0] == "50"
        assert row[1].endswith("M")
        big = _run("redis-cli", "-p", str(port), "--bigkeys")
        assert "Biggest string found '\"key:50\"' has 50 bytes" in big or "key:50" in big


async def test_h1_a_long_pipeline_may_be_sent_before_its_replies_are_read(tmp_path: Path) -> None:
    """100,000 reads and 500,000 PINGs on one connection, whose replies are read when all are sent."""
    async with running(tmp_path) as cluster:
        port = next(iter(cluster.resp_ports.values()))
        with redis.Redis(port=port) as store:
            store.set("k", "x" * 50)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            for request, count, size in (
                (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", 100_000, 57),
                (b"PING\r\n", 500_000, 7),
            ):
                await asyncio.to_thread(client.sendall, request * count)
                missing = size * count
                while missing:
                    data = await asyncio.to_thread(client.recv, 1024 * 1024)
                    assert data, "the gateway ended the connection"
                    missing -= len(data)


async def test_sec4_clients_that_never_read_leave_the_others_alone(tmp_path: Path) -> None:
    """31 connections ask for 130 values of 16 MB each and read nothing: the node stays below 1 GiB."""
    async with running(tmp_path) as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
        port = cluster.resp_ports[leader]
        pid = cluster.processes[leader].pid
        good = redis.asyncio.Redis(port=port, socket_timeout=20, retry=Retry(NoBackoff(), 0))
        await good.set("big", b"x" * 16_000_000)
        request = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 130
        with contextlib.ExitStack() as stack:
            for _ in range(31):
                bad = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                bad.sendall(request)
            most = 0
            for n in range(20):
                assert await good.set("small", n)
                assert await good.get("small") == b"%d" % n
                most = max(most, _resident_bytes(pid))
                await asyncio.sleep(0.05)
            assert most < 1024**3, f"{most / 1024**2:.0f} MiB"
            assert len(await good.get("big")) == 16_000_000
            with pytest.raises(
                redis.ResponseError, match="more than the limit of 33554432; nothing was done"
            ):
                await good.mget(["big"] * 64)
            assert max(most, _resident_bytes(pid)) < 1024**3
        await good.aclose()


def _resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


async def test_sec15_large_writes_of_one_client_do_not_starve_another(tmp_path: Path) -> None:
    """Values of 16 MiB in one pipeline: a small SET on another connection is answered, and so are they."""
    async with running(tmp_path) as cluster:
        port = next(iter(cluster.resp_ports.values()))
        large = redis.asyncio.Redis(port=port, socket_timeout=110, retry=Retry(NoBackoff(), 0))
        small = redis.asyncio.Redis(port=port, socket_timeout=20, retry=Retry(NoBackoff(), 0))
        pipe = large.pipeline(transaction=False)
        for _ in range(15):
            pipe.set("large", b"x" * 16 * 1024 * 1024)
        task = asyncio.create_task(pipe.execute(raise_on_error=False))
        done = 0
        while not task.done():
            assert await small.set("small", done)
            done += 1
            await asyncio.sleep(0.05)
        assert done >= 1
        assert await task == [True] * 15
        await large.aclose()
        await small.aclose()


def _run(*command: str, timeout: float = 60) -> str:
    """The output of a program; one that does not end by itself is stopped after the time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired as stopped:
        return (stopped.stdout or b"").decode().strip()
    return done.stdout.strip()
