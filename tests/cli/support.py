"""Running `barque` as a user does, and a development cluster that can be ended whatever happens."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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


FORKS = """
import asyncio, json, logging, os, ssl, sys, tempfile
import msgspec
from barque.cli.main import main

def outcome(arguments):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["barque", *arguments]
            try:
                main()
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(end.code)
            os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        return [code, *(file.read().decode(errors="replace") for file in (out, err))]

with open(sys.argv[2], "w") as results:
    json.dump([outcome(arguments) for arguments in json.loads(sys.argv[1])], results)
"""


def run_forked(
    commands: Sequence[Sequence[str]], **variables: str
) -> Iterator[subprocess.CompletedProcess[str]]:
    """Run `barque …` many times, in forks of one interpreter that has imported what all of them share."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BARQUE_")}
    with tempfile.NamedTemporaryFile() as results:
        subprocess.run(
            [sys.executable, "-c", FORKS, json.dumps(commands), results.name],
            timeout=2 * DEADLINE_S,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            check=True,
        )
        found = json.load(results)
    for arguments, (code, out, err) in zip(commands, found, strict=True):
        yield subprocess.CompletedProcess(list(arguments), code, out, err)


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
