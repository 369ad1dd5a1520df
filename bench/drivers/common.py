"""What all peers have in common: processes that are always ended, and results in one form."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from barque.bench.measure import Sample, Settings, quantile

HERE = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get("BENCH_PEERS", HERE / ".peers"))
ROOT = PEERS / "root"
ROWS = ("pipeline", "pipeline, normal", "sequential", "concurrent", "read", "reads", "failover")
"""Rows of the comparison.

`pipeline` has low priority where there is one, as in `ra_bench` of that version; `pipeline, normal`
is for the programs that know priorities. `concurrent` means 64 callers who share one connection,
if it can be shared.
"""

_START_S = 60.0


class NotInstalled(Exception):
    """The peer is not on this machine."""


class Peer(Protocol):
    """A program to compare with."""

    name: str
    syncs: str
    clients: str
    not_promised: str
    rows: tuple[str, ...]

    def check(self) -> None:
        """Raise `NotInstalled`, saying what is missing."""

    def run(self, row: str, settings: Settings) -> Sample:
        """Start fresh processes, run one row once, end them."""
        ...


class Processes:
    """Child processes by name, and a directory for their files; both are gone at the end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.by_name: dict[str, subprocess.Popen[str]] = {}

    def start(
        self,
        name: str,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
        cwd: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """Start one; its output goes to a file, or to pipes."""
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd or self.home,
                text=True,
            )
        self.by_name[name] = process
        return process

    def reap(self, name: str) -> None:
        """Wait for the end of one that was killed."""
        self.by_name[name].wait(10)

    def last_words(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"{log.name}: {line}"
            for log in sorted(self.home.glob("*.log"))
            for line in log.read_text(errors="replace").splitlines()[-8:]
        )

    def close(self) -> None:
        """Kill all, by their ids, and wait."""
        for process in self.by_name.values():
            if process.poll() is None:
                process.kill()
        for process in self.by_name.values():
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def processes(settings: Settings, peer: str) -> Iterator[Processes]:
    """An empty directory on the disk that is measured, and what runs in it."""
    home = Path(tempfile.mkdtemp(prefix=f"bench-{peer}-", dir=settings.directory))
    running = Processes(home)
    try:
        yield running
    except Exception as error:
        error.add_note(running.last_words())
        raise
    finally:
        running.close()
        shutil.rmtree(home, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of this machine where nobody listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def wait_for_port(port: int) -> None:
    """Until somebody listens there. Raises `TimeoutError`."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {port} after {_START_S:.0f} s") from None
            time.sleep(0.05)  # another process: nobody tells us when it listens
        else:
            return


def drive(driver: "subprocess.Popen[str]", restart: Callable[[str], str], timeout_s: float) -> str:
    """Serve a driver's `restart NAME` lines until its result, a line of JSON, comes."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    deadline = time.monotonic() + timeout_s
    for line in driver.stdout:
        if line.startswith('{"commands"'):
            return line
        if line.startswith("restart "):
            driver.stdin.write(restart(line.split()[1]) + "\n")
            driver.stdin.flush()
        if time.monotonic() > deadline:
            break
    raise RuntimeError(f"the driver ended without a result (exit code {driver.poll()})")


def sample_of(row: str, line: str) -> Sample:
    """A driver's JSON as a sample."""
    result = json.loads(line)
    latencies = sorted(t / 1000 for t in result["latencies_us"])
    commands = int(result["commands"])
    sample = Sample(row, commands, p50_ms=quantile(latencies, 0.5), p99_ms=quantile(latencies, 0.99))
    if row == "failover":
        sample.p99_ms = latencies[-1]
        sample.facts = {"times_ms": latencies}
        return sample
    sample.per_second = commands / result["seconds"]
    if result.get("nodes_cpu_us") is not None:
        sample.nodes_cpu_us = result["nodes_cpu_us"] / commands
    if result.get("client_cpu_us") is not None:
        sample.client_cpu_us = result["client_cpu_us"] / commands
    return sample


def timeout_of(row: str, settings: Settings) -> float:
    """How long a run may take before it counts as hung, in seconds."""
    return 60 + (settings.kills * 45 if row == "failover" else settings.seconds * 4)
