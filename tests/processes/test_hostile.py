"""Real nodes among people who mean no good: they hurt only themselves."""

import asyncio
import contextlib
import random
import resource
import socket
from pathlib import Path

import pytest
import redis
from tests.processes.support import Cluster, Writers, running

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]
_IDLE = 10_000


def _ports(cluster: Cluster) -> list[int]:
    node_ports = [int(address.rpartition(":")[2]) for address in cluster.addresses.values()]
    return [*node_ports, *cluster.resp_ports.values()]


async def _talk(port: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.drain(), 1)
        writer.close()


async def test_random_bytes_and_half_frames(tmp_path: Path) -> None:
    """Garbage and half messages on every port end their own connection and nothing else."""
    rng = random.Random(20261123)
    async with running(tmp_path) as cluster, cluster.client() as client:
        writers = Writers([client], 4)
        await writers.progress(50)
        pieces = [rng.randbytes(rng.randrange(1, 4096)) for _ in range(100)]
        pieces += [b"*3\r\n$3\r\nSET\r\n$1\r\nk", b"*1\r\n$99999999999\r\n", b"\xff" * 64, b"GET", b""]
        for port in _ports(cluster):
            await asyncio.gather(*(_talk(port, piece) for piece in pieces))
        await writers.progress(50)
        await writers.stop()
        await writers.check(client)


async def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """Ten thousand connections that say nothing do not keep others from being served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _IDLE + 500:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _IDLE + 500), hard))
    idle: list[socket.socket] = []
    try:
        async with running(tmp_path) as cluster, cluster.client() as client:
            port = cluster.resp_ports["n1"]
            for _ in range(_IDLE):
                idle.append(socket.create_connection(("127.0.0.1", port)))
            writers = Writers([client], 4)
            await writers.progress(200)
            await writers.stop()
            with redis.Redis(port=cluster.resp_ports["n2"]) as other:
                assert other.set("k", "v")
    finally:
        for peer in idle:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_reader_that_never_reads(tmp_path: Path) -> None:
    """Somebody asks for more and more and reads nothing: memory stays bounded, others are served."""
    async with running(tmp_path) as cluster, cluster.client() as client:
        port = cluster.resp_ports["n1"]
        with redis.Redis(port=port) as setter:
            setter.set("big", b"x" * 1_000_000)
        greedy = socket.create_connection(("127.0.0.1", port))
        greedy.settimeout(0.2)
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                greedy.sendall(b"GET big\r\n" * 100)
        writers = Writers([client], 4)
        await writers.progress(200)
        await writers.stop()
        resident = resident_kib(cluster.processes["n1"].pid)
        assert resident < 1_000_000, f"{resident} KiB"
        greedy.close()


def resident_kib(pid: int) -> int:
    """How much memory a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [resident] = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return resident
