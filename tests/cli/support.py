"""Running `barque` as a user does, and a development cluster that can be ended whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_ports

from barque.cli.dev_directory import DevDirectory
from barque.cli.dev_processes import is_alive, send_signal

DEADLINE_S = 40.0


def run_barque(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `barque …` to its end, as a user's shell would, without this shell's BARQUE_* variables."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BARQUE_")}
    return subprocess.run(
        [sys.executable, "-m", "barque", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=cwd,
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        check=False,
    )


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
    """Poll until the condition gives something true; fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class Dev:
    """One directory of `barque dev`, and the verbs on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ports = free_ports(6)
        self.port, self.resp_port = ports, ports + 3
        self.directory = DevDirectory(root)

    @property
    def ports(self) -> tuple[str, ...]:
        return ("--port", str(self.port), "--resp-port", str(self.resp_port))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`barque … --dir`."""
        return run_barque(*arguments, "--dir", str(self.root))

    def ok(self, *arguments: str) -> str:
        """Likewise; the verb must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self, *arguments: str) -> str:
        """Start detached."""
        return self.ok("dev", "--detach", *self.ports, *arguments)

    def status(self) -> dict[str, Any]:
        """`barque dev status -o json`."""
        return dict(json.loads(self.ok("dev", "status", "-o", "json")))

    def node(self, name: str) -> dict[str, Any]:
        """One node's row."""
        return next(dict(n) for n in self.status()["nodes"] if n["name"] == name)

    def leader_node(self) -> str | None:
        """The node that leads kv."""
        for cluster in self.status()["clusters"]:
            if cluster["name"] == "kv" and cluster["leader"]:
                return str(cluster["leader"].rpartition("@")[2])
        return None

    def living(self) -> list[str]:
        """Nodes whose process lives."""
        if not self.directory.exists:
            return []
        return [n.name for n in self.directory.load().nodes if is_alive(n.process)]

    def end(self) -> None:
        """Kill what is left, by pid."""
        if self.directory.exists:
            for node in self.directory.load().nodes:
                send_signal(node.process, signal.SIGKILL)
