"""etcd from Debian: three processes, driven by its own Go client over gRPC (bench/etcd/main.go)."""

from barque.bench.measure import Sample, Settings
from drivers.common import (
    PEERS,
    ROOT,
    ROWS,
    NotInstalled,
    Processes,
    drive,
    free_ports,
    processes,
    sample_of,
    timeout_of,
    wait_for_port,
)

_SERVER = ROOT / "usr/bin/etcd"
_DRIVER = PEERS / "bin/etcd-driver"
_NAMES = ("e1", "e2", "e3")


class Etcd:
    """Default settings: 100 ms heartbeats, 1 s election timeout."""

    name = "etcd"
    syncs = "fdatasync of the log, one for each batch; bbolt commits every 100 ms or 10,000 writes"
    clients = "one process, Go, gRPC; 2,500 callers in the pipeline row, as it has no pipelines"
    not_promised = "one cluster a process; no state machines of your own"
    rows = tuple(row for row in ROWS if row != "pipeline, normal")

    def check(self) -> None:
        """Look for the server and the driver."""
        for path in (_SERVER, _DRIVER):
            if not path.exists():
                raise NotInstalled(f"no {path}; run bench/setup-peers")

    def run(self, row: str, settings: Settings) -> Sample:
        """Three servers and the driver."""
        self.check()
        with processes(settings, "etcd") as running:
            cluster = _Cluster(running)
            for name in _NAMES:
                cluster.start(name)
            for port, _ in cluster.ports.values():
                wait_for_port(port)
            command = [str(_DRIVER), "-nodes", cluster.nodes(), "-row", row]
            command += ["-seconds", f"{settings.seconds:.3f}", "-payload", str(settings.payload_bytes)]
            command += ["-kills", str(settings.kills)]
            driver = running.start("driver", command, piped=True)
            return sample_of(row, drive(driver, cluster.restart, timeout_of(row, settings)))


class _Cluster:
    """The servers' addresses and command lines."""

    def __init__(self, running: Processes) -> None:
        self._running = running
        ports = free_ports(2 * len(_NAMES))
        self.ports = {name: (ports[2 * i], ports[2 * i + 1]) for i, name in enumerate(_NAMES)}

    def nodes(self) -> str:
        """As the driver wants them."""
        return ",".join(
            f"{name}=http://127.0.0.1:{port}={self._running.by_name[name].pid}"
            for name, (port, _) in self.ports.items()
        )

    def start(self, name: str) -> int:
        """Start one, new or with its files; returns its process id."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self.ports[name])
        initial = ",".join(f"{other}=http://127.0.0.1:{port}" for other, (_, port) in self.ports.items())
        command = [str(_SERVER), "--name", name, "--data-dir", str(self._running.home / name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", initial, "--log-level", "error"]
        return self._running.start(name, command).pid

    def restart(self, name: str) -> str:
        """Start a killed one again; the driver wants to know its process id."""
        self._running.reap(name)
        pid = self.start(name)
        wait_for_port(self.ports[name][0])
        return str(pid)
