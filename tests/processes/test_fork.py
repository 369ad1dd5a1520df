"""H2: a process that has an open `barque.sync` client forks, as gunicorn, Celery and multiprocessing do."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes.support import SECRET, Cluster

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

PROGRAM = """
import multiprocessing, os, sys, threading
from barque import sync
from barque.machine.kv_commands import Append, Get

addresses, secret, installation = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
client = sync.Client(addresses, secret=secret, installation=installation, timeout_s=10.0)
client.connect()
client.process_command("kv", Append(b"log", b"p"))

def work(number):
    return client.process_command("kv", Append(b"log", b"c"))

if MODE == "pool":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert len(pool.map(work, range(4))) == 4
elif MODE == "close":
    child = os.fork()
    if child == 0:
        client.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
elif MODE == "with":
    child = os.fork()
    if child == 0:
        client.close()
        with client:
            work(0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
elif MODE == "threads":
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            client.consistent_query("kv", Get(b"log"))
    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads: thread.start()
    for _ in range(5):  # a thread may hold the client's lock just now
        child = os.fork()
        if child == 0:
            work(0)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads: thread.join()
client.process_command("kv", Append(b"log", b"p"))
print(client.consistent_query("kv", Get(b"log")).decode())
client.close()
"""


@pytest.mark.parametrize(("mode", "children"), [("pool", 4), ("close", 0), ("with", 1), ("threads", 5)])
async def test_h2_a_forked_child_connects_anew(tmp_path: Path, mode: str, children: int) -> None:
    """H2: the child's calls are answered, its `close` ends, and the parent's client works on."""
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        async with cluster.client() as client:
            await cluster.leader(client)
        program = PROGRAM.replace("MODE", repr(mode))
        addresses = ",".join(cluster.addresses.values())
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "ignore", "-c", program, addresses, SECRET, cluster.installation],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        written = done.stdout.strip()
        assert (written[0], written[-1], written.count("c")) == ("p", "p", children)
    finally:
        cluster.stop()
