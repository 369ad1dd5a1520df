"""PySyncObj from PyPI with its journal: three processes, the clients inside the leader's."""

import subprocess
import time

from barque.bench.facts import cpu_seconds
from barque.bench.measure import Sample, Settings, quantile
from drivers.common import HERE, PEERS, NotInstalled, Processes, free_ports, processes, sample_of

_PYTHON = PEERS / "venv/bin/python"
_LEADER_S = 30.0


class PySyncObj:
    """Its defaults, with the journal turned on: without it, there is no log on disk."""

    name = "pysyncobj"
    syncs = "never"
    clients = "inside the leader's process; for failover, inside a follower's, without other load"
    not_promised = "durability (no sync), linearizable reads; a command waits for a tick"
    rows = ("pipeline", "sequential", "concurrent", "failover")

    def check(self) -> None:
        """Look for the virtual environment."""
        if not _PYTHON.exists() or not list(PEERS.glob("venv/lib/python*/site-packages/pysyncobj")):
            raise NotInstalled(f"no pysyncobj in {PEERS / 'venv'}; run bench/setup-peers")

    def run(self, row: str, settings: Settings) -> Sample:
        """Three nodes; orders go to them over pipes."""
        self.check()
        if row == "failover":
            times = sorted(_failover(settings) for _ in range(settings.kills))
            facts = {"times_ms": times}
            return Sample(row, len(times), p50_ms=quantile(times, 0.5), p99_ms=times[-1], facts=facts)
        with processes(settings, "pysyncobj") as running:
            cluster = _Cluster(running)
            leader = cluster.leader()
            warm_up = min(1.0, settings.seconds / 4)
            cluster.ask(leader, f"load {row} {warm_up} {settings.payload_bytes}")
            before = cpu_seconds(cluster.pids())
            line = cluster.ask(leader, f"load {row} {settings.seconds} {settings.payload_bytes}")
            used = cpu_seconds(cluster.pids()) - before
        sample = sample_of(row, line)
        sample.nodes_cpu_us = used / sample.commands * 1e6
        return sample


def _failover(settings: Settings) -> float:
    """Kill the leader of fresh nodes; a survivor attempts writes. Milliseconds to the first answer."""
    with processes(settings, "pysyncobj") as running:
        cluster = _Cluster(running)
        victim = cluster.leader()
        survivor = next(address for address in cluster.addresses if address != victim)
        cluster.ask(survivor, f"probe {settings.payload_bytes}")
        time.sleep(1)  # writes flow for a while before the leader dies
        cluster.kill(victim)
        return float(cluster.ask(survivor, f"probe {settings.payload_bytes}"))


class _Cluster:
    """Nodes by address, and how to talk to them."""

    def __init__(self, running: Processes) -> None:
        self._running = running
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        for address in self.addresses:
            self._start(address)

    def _start(self, address: str) -> None:
        others = ",".join(other for other in self.addresses if other != address)
        journal = str(self._running.home / f"{address.partition(':')[2]}.journal")
        command = [str(_PYTHON), str(HERE / "pysyncobj/node.py"), address, others, journal]
        self._running.start(address, command, piped=True)

    def pids(self) -> list[int]:
        """Of all nodes."""
        return [process.pid for process in self._running.by_name.values()]

    def ask(self, address: str, order: str) -> str:
        """One order, one line in answer."""
        process: subprocess.Popen[str] = self._running.by_name[address]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(order + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the node at {address} has ended")
        return line.strip()

    def kill(self, address: str) -> None:
        """SIGKILL."""
        process = self._running.by_name[address]
        process.kill()
        process.wait(10)

    def leader(self) -> str:
        """The address of the leader, when there is one."""
        deadline = time.monotonic() + _LEADER_S
        while time.monotonic() < deadline:
            for address in self.addresses:
                if self.ask(address, "leader") == "yes":
                    return address
            time.sleep(0.1)  # it can only be asked
        raise TimeoutError("PySyncObj elects no leader")
