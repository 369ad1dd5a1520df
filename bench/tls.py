"""The price of TLS: two clusters in one process, one plain and one with mutual TLS, in alternating chunks.

Each cluster has three nodes with logs in a temporary directory, and a client. `python bench/tls.py [SECONDS]`
prints for each workload the median time of a command over plain TCP and over TLS, and their ratio. It needs
`trustme`, which the test extra installs.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trustme

import barque
from barque.bench.cluster import free_addresses
from barque.bench.machine import BenchMachine

NAMES = ("n1", "n2", "n3")
SECRET = "only for this benchmark"  # noqa: S105  # of nodes that live for seconds
PAYLOAD = b"x" * 256
_SEQUENTIAL, _PIPELINED, _WINDOW = 50, 4_000, 1_000


class Side:
    """Three nodes and a client, plain or over TLS."""

    def __init__(self, home: Path, *, tls: bool) -> None:
        home.mkdir()
        self._home = home
        self._tls = tls
        self._nodes: list[barque.Node] = []
        self.client: barque.Client

    async def start(self) -> None:
        """Start the nodes, and connect."""
        addresses = dict(zip(NAMES, free_addresses(3), strict=True))
        authority = trustme.CA()
        ca_file = self._home / "ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        for name in NAMES:
            config = barque.NodeConfig(
                name=name,
                data_dir=str(self._home / name),
                nodes=addresses,
                secret=SECRET,
                clusters=(barque.ClusterConfig("bench", "bench"),),
                tls=self._certificate(authority, ca_file, name) if self._tls else None,
            )
            node = barque.Node(config, {"bench": BenchMachine()})
            await node.start()
            self._nodes.append(node)
        trusted = str(ca_file) if self._tls else None
        addresses_known = list(addresses.values())
        self.client = barque.Client(addresses_known, secret=SECRET, timeout_s=30, tls_ca_file=trusted)
        await self.client.connect()
        await self.client.process_command("bench", PAYLOAD)

    def _certificate(self, authority: trustme.CA, ca_file: Path, name: str) -> barque.TlsConfig:
        made = authority.issue_cert(name, "127.0.0.1")
        cert_file, key_file = self._home / f"{name}.pem", self._home / f"{name}.key"
        made.private_key_pem.write_to_path(key_file)
        for part in made.cert_chain_pems:
            part.write_to_path(cert_file, append=True)
        key_file.chmod(0o600)
        return barque.TlsConfig(str(cert_file), str(key_file), str(ca_file))

    async def stop(self) -> None:
        """End the client, then the nodes."""
        await self.client.close()
        for node in self._nodes:
            await node.stop()


async def sequential(client: barque.Client) -> int:
    """One command after the other."""
    for _ in range(_SEQUENTIAL):
        await client.process_command("bench", PAYLOAD)
    return _SEQUENTIAL


async def pipeline(client: barque.Client) -> int:
    """Many commands in flight."""
    sent = answered = 0
    while answered < _PIPELINED:
        while sent < min(_PIPELINED, answered + _WINDOW):
            client.pipeline_command("bench", PAYLOAD, sent, priority="normal")
            sent += 1
        answered += len(await client.take_notifications())
    return _PIPELINED


async def compare(
    plain: Side, tls: Side, name: str, chunk: Callable[[barque.Client], Awaitable[int]], seconds: float
) -> None:
    """Alternate chunks for some seconds, and print the medians."""
    times: dict[Side, list[float]] = {plain: [], tls: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side, found in times.items():
            began = time.perf_counter()
            count = await chunk(side.client)
            found.append((time.perf_counter() - began) / count * 1e6)
    one, other = statistics.median(times[plain]), statistics.median(times[tls])
    chunks = len(times[plain])
    print(
        f"{name:<10} plain {one:7.1f} us, TLS {other:7.1f} us, ratio {other / one:.2f} ({chunks} chunks each)"
    )


async def main(seconds: float) -> None:
    """Run both workloads."""
    with tempfile.TemporaryDirectory() as directory:
        sides = []
        for label, tls in (("plain", False), ("tls", True)):
            side = Side(Path(directory, label), tls=tls)
            await side.start()
            sides.append(side)
        for name, chunk in (("sequential", sequential), ("pipeline", pipeline)):
            await compare(sides[0], sides[1], name, chunk, seconds)
        for side in sides:
            await side.stop()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(float(sys.argv[1]) if sys.argv[1:] else 10.0))
