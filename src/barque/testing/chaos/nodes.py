"""Real node processes in one directory: their configurations, signals, logs and descriptors.

Signals go only to processes that were started here, by the handles that Python holds on them.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

HOST = "127.0.0.1"
_FIRST_PORT, _LAST_PORT = 10_000, 19_999  # below the ports of outgoing connections
STOP_S = 15.0
_IO_ERROR = 74  # the exit code of a node whose disk fails: docs/operations/exit-codes.md


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now, and that no outgoing connection will take."""
    found: list[int] = []
    rng = random.Random()  # noqa: S311  # spreads runs that go on side by side; no secret
    while len(found) < count:
        port = rng.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in found:
                found.append(port)
    return found


class End(NamedTuple):
    """A process that has ended by itself."""

    name: str
    code: int
    disk_failed: bool
    """It said that its disk failed, and a fault had made it fail: a real node ends then, too."""


class NodeProcesses:
    """`barque node` processes by name. `start` starts them.

    Args:
        directory: for configurations, data and logs; it is not removed.
        configs: the text of each node's TOML file.
        program: the arguments of Python before `node --config …`.

    """

    def __init__(
        self, directory: Path, configs: Mapping[str, str], program: Sequence[str] = ("-m", "barque")
    ) -> None:
        self.directory = directory
        self.names = tuple(configs)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.starts = 0
        self.ends: list[End] = []
        """All processes that have ended by themselves, as far as `reap` has seen."""
        self._bad_disks: set[int] = set()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("BARQUE_")}
        self._program = tuple(program)
        for name, text in configs.items():
            path = self.config_path(name)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)

    def config_path(self, name: str) -> Path:
        """The path of a node's configuration."""
        return self.directory / f"{name}.toml"

    def log_path(self, name: str) -> Path:
        """The path of a node's log; each start appends to it."""
        return self.directory / f"{name}.log"

    def start(self, names: Iterable[str]) -> None:
        """Start these nodes, with the files that they have."""
        self.reap()
        for name in names:
            with self.log_path(name).open("ab") as log:
                self.running[name] = subprocess.Popen(  # noqa: S603  # this very interpreter and package
                    [sys.executable, *self._program, "node", "--config", str(self.config_path(name))],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,  # a Ctrl-C in this terminal is not for the nodes
                )
            self.starts += 1

    def reap(self) -> None:
        """Note which processes have ended by themselves."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self._note_end(name)

    def _note_end(self, name: str) -> None:
        process = self.running.pop(name)
        code = process.returncode
        self.ends.append(End(name, code, code == _IO_ERROR and process.pid in self._bad_disks))

    def disk_fails(self, name: str) -> None:
        """Allow the newest process of a node to end because of its disk."""
        self._bad_disks.add(self.pid(name))

    def is_alive(self, name: str) -> bool:
        """Whether the newest process of a node runs or is stopped."""
        process = self.running.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        """The process id of a node's newest process."""
        return self.running[name].pid

    def kill(self, names: Iterable[str]) -> None:
        """Send SIGKILL to all of these nodes, then wait until they are gone."""
        names = [name for name in names if name in self.running]
        for name in names:
            self.running[name].kill()
        for name in names:
            if self.running[name].wait() == -signal.SIGKILL:
                del self.running[name]
            else:
                self._note_end(name)  # it had ended before

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one node, if it still exists."""
        if name in self.running:
            self.running[name].send_signal(number)

    def stop(self) -> dict[str, int]:
        """Send SIGTERM to all nodes; return their exit codes. A node that takes too long is killed (-9)."""
        self.reap()
        living = dict(self.running)
        for process in living.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + STOP_S
        codes = {}
        for name, process in living.items():
            try:
                codes[name] = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
            del self.running[name]
        return codes

    def log(self, name: str) -> str:
        """The log of a node so far."""
        path = self.log_path(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def last_words(self, lines: int = 5) -> str:
        """The ends of all logs, for the text of an error."""
        words = [f"{name}: {line}" for name in self.names for line in self.log(name).splitlines()[-lines:]]
        return "\n".join(words) or "the nodes logged nothing"

    def descriptors(self, name: str) -> int:
        """How many files and sockets a node has open."""
        return open_descriptors(self.pid(name))


def open_descriptors(pid: int | None = None) -> int:
    """How many descriptors a process, by default this one, has open."""
    return len(os.listdir(f"/proc/{'self' if pid is None else pid}/fd"))


def processes_naming(text: str) -> list[int]:
    """Living processes, except this one, whose command line contains this text (such as a directory)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def quoted(text: str) -> str:
    """A TOML basic string; JSON's strings are a subset of these."""
    return msgspec.json.encode(text).decode()
