"""Three real node processes on this machine, for one benchmark, and their files."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import msgspec

from barque.errors import BarqueError, ConfigurationError

CLUSTER = "bench"
MACHINE = "bench"
_MACHINE_PATH = "barque.bench.machine:BenchMachine"
_STOP_S = 5.0


class Target(msgspec.Struct, frozen=True):
    """An installation to be measured. `processes` (node → pid) is empty if we did not start it."""

    addresses: tuple[str, ...]
    secret: bytes
    installation: str = "barque"
    cluster: str = CLUSTER
    processes: dict[str, int] = {}


class LocalCluster:
    """Starts nodes with synced logs; kills and restarts them; leaves nothing behind.

    `directory` must be on the disk that is to be measured: a temporary one is made inside it.
    """

    def __init__(self, directory: str, names: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="barque-bench-", dir=directory))
        self._addresses = dict(zip(names, free_addresses(len(names)), strict=True))
        self._secret = secrets.token_hex(16)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "LocalCluster":
        try:
            for name in self._addresses:
                self.start(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BarqueError):
            error.add_note(self.last_words())
        self.close()

    def target(self, cluster: str = CLUSTER) -> Target:
        """What a client needs to know of it."""
        pids = {name: process.pid for name, process in self._processes.items()}
        return Target(tuple(self._addresses.values()), self._secret.encode(), cluster=cluster, processes=pids)

    def start(self, name: str) -> None:
        """Start a node, new or with the files that it has."""
        config = self._home / f"{name}.toml"
        config.write_text(self._config(name), encoding="utf-8")
        config.chmod(0o600)
        with (self._home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603  # this very interpreter and package
                [sys.executable, "-m", "barque", "node", "--log-level", "warning", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _config(self, name: str) -> str:
        nodes = "".join(f'{node} = "{address}"\n' for node, address in self._addresses.items())
        return (
            f'name = "{name}"\ndata_dir = "{self._home / name}"\nsecret = "{self._secret}"\n'
            f'clusters = [{{name = "{CLUSTER}", machine = "{MACHINE}"}}]\n'
            f"[nodes]\n{nodes}"
            f'[machines]\n{MACHINE} = "{_MACHINE_PATH}"\n'
        )

    def kill(self, name: str) -> None:
        """SIGKILL, without waiting for the end of the process."""
        self._processes[name].send_signal(signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Start a killed node again."""
        self._processes[name].wait(_STOP_S)
        self.start(name)

    def last_words(self) -> str:
        """The ends of the nodes' logs, for an error's text."""
        words = []
        for name in self._addresses:
            log = self._home / f"{name}.log"
            if log.exists():
                words += [f"{name}: {line}" for line in log.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(words) or "the nodes logged nothing"

    def close(self) -> None:
        """End all processes, by force if need be, and remove the files."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()  # nothing of it is kept, so nothing need be handed over
        deadline = time.monotonic() + _STOP_S
        for process in self._processes.values():
            process.wait(max(0.1, deadline - time.monotonic()))
        shutil.rmtree(self._home, ignore_errors=True)


def free_addresses(count: int) -> list[str]:
    """Addresses on this machine where nobody listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return addresses


def check_directory(directory: str) -> str:
    """The directory as an absolute path. Raises `ConfigurationError` if it cannot be written to."""
    path = os.path.abspath(directory)
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"--dir {path}: not a directory that can be written to; give another")
    return path
