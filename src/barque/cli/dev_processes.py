"""The processes of `barque dev` and `barque demo`: start, watch, signal, and ask them.

A pid is signalled only if its process began at the time that was noted at its start.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from barque.cli.dev_directory import CLUSTER, HOST, DevDirectory, DevNode, DevState, ProcessMark
from barque.cli.failures import UNAVAILABLE, USAGE, CliError
from barque.cli.reach import Reach, ask
from barque.errors import BarqueError
from barque.runtime.reporting import merge_reports
from barque.transport.secret import load_secret

STOP_S = 12.0
_POLL_S = 0.05


def mark_of(pid: int) -> ProcessMark | None:
    """The live process with that pid. A zombie is not alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else ProcessMark(pid, int(fields[19]))


def is_alive(process: ProcessMark | None) -> bool:
    """Whether exactly that process is alive."""
    return process is not None and mark_of(process.pid) == process


def send_signal(process: ProcessMark | None, number: signal.Signals) -> bool:
    """Signal exactly that process; False if it is gone.

    A pidfd pins the process before its start time is compared, so a reused pid is never hit.
    """
    if process is None:
        return False
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def wait_gone(process: ProcessMark | None, timeout_s: float) -> bool:
    """Wait until that process is gone; False if it is still alive after so many seconds."""
    deadline = time.monotonic() + timeout_s
    while alive := is_alive(process):
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(_POLL_S)
    return not alive


def check_ports(nodes: tuple[DevNode, ...]) -> None:
    """Check that all ports are free. Raises `CliError` that names the first that is not."""
    for node in nodes:
        for address, flag in ((node.address, "--port"), (node.resp_address, "--resp-port")):
            host, _, port = address.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError as error:
                    raise CliError(
                        f"port {port}, for node {node.name}, cannot be used: {error.strerror}; "
                        f"end the process that uses it, or choose other ports with {flag}",
                        UNAVAILABLE,
                    ) from error


def plan_nodes(count: int, port: int, resp_port: int) -> tuple[DevNode, ...]:
    """Nodes n1 … on consecutive ports of the loopback address. Raises `CliError` for impossible ports."""
    if max(port, resp_port) + count > 65536 or abs(port - resp_port) < count:
        raise CliError(
            f"{count} nodes need ports {port}–{port + count - 1} and, for Redis clients, "
            f"{resp_port}–{resp_port + count - 1}: these overlap or are too high; choose other --port, "
            "--resp-port",
            USAGE,
        )
    return tuple(DevNode(f"n{i + 1}", f"{HOST}:{port + i}", f"{HOST}:{resp_port + i}") for i in range(count))


class DevCluster:
    """The nodes of one directory. `children` are the nodes that this process has started."""

    def __init__(self, directory: DevDirectory) -> None:
        self.directory = directory
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def state(self) -> DevState:
        """The state on disk: other commands change it, too."""
        return self.directory.load()

    # --- processes -----------------------------------------------------------------------

    def start(self, name: str, log_level: str = "info") -> None:
        """Start one node in a session of its own, and note its process."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BARQUE_")}
        if place := self.state.imported_from:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (place, environment.get("PYTHONPATH"))))
        with self.directory.log_path(name).open("ab") as log:
            child = subprocess.Popen(  # noqa: S603  # our own program with our own arguments
                [
                    *(sys.executable, "-m", "barque", "node"),
                    *("--config", str(self.directory.config_path(name)), "--log-level", log_level),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in this terminal is for us; we stop the nodes in order
                env=environment,
            )
        self.children[name] = child
        self.directory.save(self.state.with_process(name, mark_of(child.pid) or ProcessMark(child.pid, 0)))

    def is_alive(self, name: str) -> bool:
        """Whether the newest process of that node is alive."""
        return is_alive(self.state.node(name).process)

    def how_it_ended(self, name: str) -> str:
        """`exit code 78`, `killed by SIGKILL`, or that another command started the node."""
        process, child = self.state.node(name).process, self.children.get(name)
        if process is None or child is None or child.pid != process.pid:
            return "exit code unknown: another command started it"
        try:
            code = child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "still ending"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def reap(self) -> None:
        """Collect the exit codes of children that have ended."""
        for child in self.children.values():
            child.poll()

    async def stop(self, names: list[str] | None = None) -> list[str]:
        """Stop these nodes (default: all) gracefully; return the names of nodes that had to be killed."""
        wanted = [node for node in self.state.nodes if names is None or node.name in names]
        for node in wanted:
            send_signal(node.process, signal.SIGTERM)
        stubborn = await self._wait_gone(wanted, STOP_S)
        for node in stubborn:
            send_signal(node.process, signal.SIGKILL)
        await self._wait_gone(stubborn, STOP_S)
        return [node.name for node in stubborn]

    async def kill(self, name: str) -> bool:
        """SIGKILL one node and wait until it is gone; False if it was down already."""
        node = self.state.node(name)
        killed = send_signal(node.process, signal.SIGKILL)
        if await self._wait_gone([node], STOP_S):
            raise CliError(
                f"{name} (pid {node.process and node.process.pid}) survives SIGKILL; is its disk stuck?"
            )
        return killed

    async def _wait_gone(self, nodes: list[DevNode], timeout_s: float) -> list[DevNode]:
        """Wait until these nodes are gone; return the nodes that are still alive at the deadline."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.reap()
            living = [node for node in nodes if is_alive(node.process)]
            if not living or time.monotonic() >= deadline:
                return living
            await asyncio.sleep(_POLL_S)

    # --- asking --------------------------------------------------------------------------

    def reach(self, timeout_s: float) -> Reach:
        """How to reach all of these nodes."""
        addresses = tuple(node.address for node in self.state.nodes)
        return Reach(addresses, load_secret(str(self.directory.secret_path("admin"))), "barque", timeout_s)

    async def report(self, timeout_s: float) -> dict[str, Any]:
        """Ask every node directly: the report is complete without a quorum, and even if all nodes are down.

        A node whose process is gone is `down`; a node that runs and does not answer is `unreachable`.
        """
        nodes, reach = self.state.nodes, self.reach(timeout_s)
        living = [node for node in nodes if is_alive(node.process)]
        answers = await asyncio.gather(
            *(ask(node.address, reach, "local_report", {}) for node in living), return_exceptions=True
        )
        reports: list[dict[str, Any]] = []
        missing: dict[str, str] = {}
        for node, answer in zip(living, answers, strict=True):
            if isinstance(answer, BarqueError):
                missing[node.name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                reports.append(answer)
        missing.update({node.name: "" for node in nodes if node not in living})
        merged = await merge_reports(reports, missing)
        for row in merged["nodes"]:
            if row["name"] in missing:
                node = self.state.node(row["name"])
                row["address"], row["resp_address"] = node.address, node.resp_address
                row["state"] = "down" if node not in living else "unreachable"
                row["pid"] = node.process.pid if node.process and node in living else None
        return merged

    async def wait_served(self, timeout_s: float) -> dict[str, Any]:
        """Wait until all nodes answer and agree on a leader; return the report.

        Raises `CliError` with the end of its log if a node dies meanwhile, or with what is missing.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.reap()
            report = await self.report(1.0)
            if serves(report, self.state.machines):
                return report
            for node in self.state.nodes:
                if not self.is_alive(node.name):
                    raise CliError(self.obituary(node.name))
            if time.monotonic() >= deadline:
                raise CliError(
                    f"no leader after {timeout_s:g} s: {lacking(report)}; "
                    f"see {self.directory.shown}/n*/node.log"
                )
            await asyncio.sleep(_POLL_S)

    def obituary(self, name: str) -> str:
        """How a node ended, and the last line of its log."""
        tail = self.directory.log_tail(name, 1)
        said = f"; its last line: {tail[0]}" if tail else ""
        return f"node {name} has died, {self.how_it_ended(name)}{said} (log: {self.directory.log_path(name)})"


def serves(report: dict[str, Any], machines: Iterable[str] = ()) -> bool:
    """Whether all nodes run, and all follow one leader in the cluster `kv` and in those of these machines."""
    if any(node["state"] != "running" for node in report["nodes"]):
        return False
    clusters = {cluster["name"]: cluster for cluster in report["clusters"]}
    return all(
        (cluster := clusters.get(name)) is not None
        and cluster["leader"] is not None
        and len(cluster["members"]) == len(report["nodes"])
        and all(m["leader"] == cluster["leader"] and m["last_applied"] > 0 for m in cluster["members"])
        for name in (CLUSTER, *machines)
    )


def lacking(report: dict[str, Any]) -> str:
    """What keeps the clusters of this report from serving."""
    bad = [f"{node['name']} is {node['state']}" for node in report["nodes"] if node["state"] != "running"]
    return ", ".join(bad) or "the members of a cluster agree on no leader"
