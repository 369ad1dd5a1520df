"""Real processes whose disk fails, by system calls that strace makes fail."""

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.processes.support import Cluster, Writers, running, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]
_CALLS = "pwritev2,pwritev,pwrite64,fdatasync,fsync"


@contextlib.asynccontextmanager
async def failing_disk(cluster: Cluster, node: str, error: str) -> AsyncIterator[None]:
    """While this lasts, every write and sync of this node fails."""
    pid = cluster.processes[node].pid
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={_CALLS}"]
    command += ["-e", f"inject={_CALLS}:error={error}", "-p", str(pid)]
    tracer = subprocess.Popen(command)  # noqa: ASYNC220  # it returns at once
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_leader_whose_disk_fails_steps_aside(tmp_path: Path, error: str) -> None:
    """No acknowledged write is lost, the node says what is wrong, the cluster goes on, the node recovers."""
    async with running(tmp_path) as cluster, cluster.client() as client:
        writers = Writers([client], 8)
        await writers.progress(200)
        leader = await cluster.leader(client)
        async with failing_disk(cluster, leader, error):

            async def says_so() -> bool:
                nodes = (await client.status()).nodes
                [node] = [n for n in nodes if n.name == leader]
                return node.state == "degraded" and "cannot be written" in (node.failure or "")

            await until(says_so, "the node to say what is wrong")
            await writers.progress(500)

        async def is_well() -> bool:
            return all(n.state == "running" for n in (await client.status()).nodes)

        await until(is_well, "the node to recover by itself")
        await writers.progress(200)
        await writers.stop()
        await cluster.caught_up(client)
        await writers.check(client)
