"""Three node processes with storage settings of one's own, for benchmarks of the log."""

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import barque
from barque.bench.facts import resident_bytes
from barque.machine.kv_commands import Set
from barque.testing.chaos.nodes import NodeProcesses, free_ports, quoted

NAMES = ("n1", "n2", "n3")
WINDOW = 500
MIB = 1 << 20


class StorageNodes:
    """Nodes n1 to n3 with a cluster `kv`. `settings` are tables of the configuration, by name."""

    def __init__(self, home: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.home = home
        self.secret = secrets.token_hex(16)
        ports = free_ports(len(NAMES))
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self.processes = NodeProcesses(home, {name: self._config(name, settings) for name in NAMES})

    def _config(self, name: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
        lines = [
            f"name = {quoted(name)}",
            f"data_dir = {quoted(str(self.data_dir(name)))}",
            f"secret = {quoted(self.secret)}",
            'clusters = [{name = "kv", machine = "kv"}]',
            "[nodes]",
            *(f"{node} = {quoted(address)}" for node, address in self.addresses.items()),
        ]
        for table, fields in settings.items():  # tables, of numbers and texts
            lines.append(f"[{table}]")
            lines += [f"{key} = {quoted(v) if isinstance(v, str) else v}" for key, v in fields.items()]
        return "\n".join(lines) + "\n"

    def data_dir(self, name: str) -> Path:
        """The data directory of a node."""
        return self.home / f"data-{name}"

    def start(self, *names: str) -> None:
        """Start these nodes, or all."""
        self.processes.start(names or NAMES)

    def client(self, *names: str, timeout_s: float = 30.0) -> barque.Client:
        """A client that knows these nodes, or all."""
        addresses = [self.addresses[name] for name in names or NAMES]
        return barque.Client(addresses, secret=self.secret, timeout_s=timeout_s)

    def memory(self, name: str) -> int:
        """What the process of a node occupies, in bytes."""
        return resident_bytes(self.processes.pid(name)) if self.processes.is_alive(name) else 0

    def disk(self, name: str) -> int:
        """What the files of a node occupy, in bytes; files that vanish meanwhile count as nothing."""
        total = 0
        for folder, _, files in os.walk(self.data_dir(name)):
            for file in files:
                try:
                    total += os.stat(os.path.join(folder, file)).st_blocks * 512
                except FileNotFoundError:
                    continue
        return total

    def check(self) -> None:
        """Raise if a process has ended by itself: what it says goes into the error."""
        self.processes.reap()
        if self.processes.ends:
            raise RuntimeError(f"nodes have ended: {self.processes.ends}\n{self.processes.last_words()}")


@contextmanager
def storage_nodes(directory: str, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[StorageNodes]:
    """Nodes in a temporary directory on the disk that is measured; nothing of them is left."""
    home = Path(tempfile.mkdtemp(prefix="barque-bench-", dir=directory))
    nodes = StorageNodes(home, settings)
    try:
        nodes.start()
        yield nodes
    except BaseException as error:
        error.add_note(nodes.processes.last_words())
        raise
    finally:
        nodes.processes.kill(NAMES)
        shutil.rmtree(home, ignore_errors=True)


class Writers:
    """Clients that overwrite keys as fast as they are answered, until they are stopped.

    `acknowledged` counts commands. Errors count as `failed`, and the client goes on: nodes may be killed.
    """

    def __init__(
        self, clients: list[barque.Client], keys: int, value_bytes: int, window: int = WINDOW
    ) -> None:
        self.acknowledged = self.failed = 0
        self._keys, self._value, self._window = keys, value_bytes, window
        self._stopped = False
        self._tasks = [asyncio.create_task(self._write(client, i)) for i, client in enumerate(clients)]

    async def _write(self, client: barque.Client, offset: int) -> None:
        number, waiting = offset * 7919, 0
        while not self._stopped or waiting:
            while waiting < self._window and not self._stopped:
                key = b"key:%d" % (number % self._keys)
                value = os.urandom(16) * (self._value // 16)
                client.pipeline_command("kv", Set(key, value), number, priority="normal")
                number += 1
                waiting += 1
            told = await client.take_notifications()
            waiting -= len(told)
            failed = sum(each.error is not None for each in told)
            self.failed += failed
            self.acknowledged += len(told) - failed
            if failed:
                await asyncio.sleep(0.02)  # nobody leads at the moment

    async def rate(self, seconds: float) -> float:
        """Acknowledged commands a second, measured from now on for so long."""
        before, began = self.acknowledged, time.perf_counter()
        await asyncio.sleep(seconds)
        return (self.acknowledged - before) / (time.perf_counter() - began)

    async def written(self, commands: int) -> None:
        """Wait until so many commands were acknowledged."""
        while self.acknowledged < commands:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Wait for what is in flight, and end."""
        self._stopped = True
        await asyncio.gather(*self._tasks)
