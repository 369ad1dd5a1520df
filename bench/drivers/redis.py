"""Redis from Debian, one copy, which syncs its log before it answers; driven by redis-benchmark."""

import csv
import subprocess

from barque.bench.facts import cpu_seconds
from barque.bench.measure import Sample, Settings
from drivers.common import ROOT, NotInstalled, free_ports, processes, wait_for_port

_BIN = ROOT / "usr/bin"
_ENV = {"LD_LIBRARY_PATH": str(ROOT / "usr/lib/x86_64-linux-gnu")}
_SHAPES = {"pipeline": (64, 16), "sequential": (1, 1), "concurrent": (64, 1)}
"""Row → connections, and commands that each has in flight."""


class Redis:
    """`appendonly yes`, `appendfsync always`, no snapshots."""

    name = "redis, one copy"
    syncs = "fdatasync, one for each turn of its event loop"
    clients = "redis-benchmark; 64 connections with 16 commands in flight in the pipeline row"
    not_promised = "a second copy, failover, consensus"
    rows = tuple(_SHAPES)

    def check(self) -> None:
        """Look for the server and the benchmark."""
        for name in ("redis-server", "redis-benchmark"):
            if not (_BIN / name).exists():
                raise NotInstalled(f"no {_BIN / name}; run bench/setup-peers")

    def run(self, row: str, settings: Settings) -> Sample:
        """One server and redis-benchmark, with as many commands as fill the time."""
        self.check()
        with processes(settings, "redis") as running:
            [port] = free_ports(1)
            command = [str(_BIN / "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(running.home)]
            server = running.start("redis", command, env=_ENV)
            wait_for_port(port)
            connections, window = _SHAPES[row]
            trial = self._bench(port, connections, window, 500 * connections, settings)
            count = max(1000, int(float(trial["rps"]) * settings.seconds))
            before = cpu_seconds([server.pid])
            result = self._bench(port, connections, window, count, settings)
            used = cpu_seconds([server.pid]) - before
        return Sample(
            row,
            count,
            per_second=float(result["rps"]),
            p50_ms=float(result["p50_latency_ms"]),
            p99_ms=float(result["p99_latency_ms"]),
            nodes_cpu_us=used / count * 1e6,
        )

    def _bench(
        self, port: int, connections: int, window: int, count: int, settings: Settings
    ) -> dict[str, str]:
        command = [str(_BIN / "redis-benchmark"), "-p", str(port), "-t", "set", "--csv", "-r", "1000"]
        command += ["-c", str(connections), "-P", str(window), "-n", str(count)]
        command += ["-d", str(max(1, settings.payload_bytes))]
        done = subprocess.run(
            command, env=_ENV, capture_output=True, text=True, check=True, timeout=120 + settings.seconds * 10
        )
        return next(csv.DictReader(done.stdout.splitlines()))
