"""Which machines watch which processes and nodes (MON-01 to MON-03)."""

import logging
from collections.abc import Iterable
from typing import Protocol, TypeVar

from barque.core.messages import Component, NodeEvent, ProcessDown
from barque.machine.effects import DemonitorNode, DemonitorProcess, MonitorNode, MonitorProcess
from barque.runtime.server_process import ServerProcess
from barque.types import Pid, is_address

logger = logging.getLogger("barque.processes")

Key = TypeVar("Key")
Value = TypeVar("Value")
Watcher = tuple[ServerProcess, Component]
Watched = Pid | str
"""A process, or the name of a node."""


class ProcessTable(Protocol):
    """Knows the processes of this node, and asks other nodes about theirs (`processes.Processes`)."""

    def watch(self, pid: Pid) -> bool:
        """Report the end of this process to `Monitors.process_gone`; False if it is known to be gone."""


class Monitors:
    """The monitors of all servers of one node. A node stays watched when it goes down, a process does not.

    Each monitor is told the present state when it is set, and every later change. So the state lives here:
    a node is up from its connection on until that breaks, or the failure detector suspects it. `me` is
    this node's own reference: a process of an earlier life of this node is gone.

    However many watch a process, its node is asked once (MON-01).
    """

    def __init__(self, me: Pid) -> None:
        self.table: ProcessTable | None = None  # set before the first server starts
        self._watchers: dict[Watched, dict[Watcher, None]] = {}
        self._watched: dict[Watcher, dict[Watched, None]] = {}  # the same, the other way round
        self._up: dict[str, bool] = {me.node: True}  # the state of each node that watchers were last told of
        self._incarnations: dict[str, int] = {me.node: me.incarnation}  # of the processes last heard of

    def watch_node(self, process: ServerProcess, effect: MonitorNode) -> None:
        """Watch a node. Its present state is news for a machine that begins to watch it (EFF-06)."""
        component = Component.AUX if effect.aux else Component.MACHINE
        self._add(effect.node, (process, component))
        process.enqueue(NodeEvent(component, effect.node, self._is_up(effect.node)))

    def watch_process(self, process: ServerProcess, effect: MonitorProcess) -> None:
        """Watch a process; say at once that it is gone, if it is (EFF-06).

        A new leader sets its monitors again in `state_enter`: a process that has ended since, or whose node
        has gone or started anew, would never be reported otherwise. What is no address is watched by nobody.
        """
        pid = effect.pid
        if not is_address(pid):
            logger.warning("%s: its machine watches what is no address: %r", process.server.id, pid)
            return
        component = Component.AUX if effect.aux else Component.MACHINE
        if self._incarnations.get(pid.node, pid.incarnation) != pid.incarnation:
            process.enqueue(ProcessDown(component, pid, "noproc"))
        elif not self._is_up(pid.node):
            process.enqueue(ProcessDown(component, pid, "noconnection"))
        elif (
            pid.number and pid not in self._watchers and self.table is not None and not self.table.watch(pid)
        ):
            process.enqueue(ProcessDown(component, pid, "noproc"))
        else:
            self._add(pid, (process, component))

    def unwatch(self, process: ServerProcess, effect: DemonitorProcess | DemonitorNode) -> None:
        """Watch this process or node no longer."""
        watched = effect.pid if isinstance(effect, DemonitorProcess) else effect.node
        self._remove(watched, (process, Component.AUX if effect.aux else Component.MACHINE))

    def is_watched(self, pid: Pid) -> bool:
        """Whether the end of this process is news for anyone here."""
        return pid in self._watchers

    def process_gone(self, pid: Pid, reason: str) -> None:
        """This process has ended."""
        self._end([pid], reason)

    def node_changed(self, node: str, *, up: bool) -> None:
        """The node came within reach, or went out of it; with it go its processes."""
        if not up:
            self._end(self._processes_of(node), "noconnection")
        if self._is_up(node) is up:
            return
        self._up[node] = up
        for process, component in list(self._watchers.get(node, ())):
            process.handle(NodeEvent(component, node, up))

    def node_restarted(self, node: str, incarnation: int) -> None:
        """This process answers for that node now: the processes of any earlier one are gone.

        If the earlier one never went out of reach, as far as we saw, its watchers hear now that it did.
        """
        self._end([pid for pid in self._processes_of(node) if pid.incarnation != incarnation], "noproc")
        if self._incarnations.get(node, incarnation) != incarnation:
            self.node_changed(node, up=False)
        self._incarnations[node] = incarnation

    def forget(self, process: ServerProcess, *, only: Component | None = None) -> None:
        """Drop the monitors of a server that stops, or whose machine no longer leads (AUX-07)."""
        for component in Component:
            if only in (None, component):
                watcher = (process, component)
                for watched in list(self._watched.get(watcher, ())):
                    self._remove(watched, watcher)

    # --- inside --------------------------------------------------------------------------

    def _is_up(self, node: str) -> bool:
        return self._up.get(node, False)

    def _processes_of(self, node: str) -> list[Pid]:
        return [watched for watched in self._watchers if isinstance(watched, Pid) and watched.node == node]

    def _end(self, pids: Iterable[Pid], reason: str) -> None:
        for pid in pids:
            for watcher in list(self._watchers.get(pid, ())):
                self._remove(pid, watcher)
                process, component = watcher
                process.handle(ProcessDown(component, pid, reason))

    def _add(self, watched: Watched, watcher: Watcher) -> None:
        self._watchers.setdefault(watched, {})[watcher] = None
        self._watched.setdefault(watcher, {})[watched] = None

    def _remove(self, watched: Watched, watcher: Watcher) -> None:
        _take(self._watchers, watched, watcher)
        _take(self._watched, watcher, watched)


def _take(table: dict[Key, dict[Value, None]], key: Key, value: Value) -> None:
    """Take a value out of a key's values, and the key with its last one."""
    values = table.get(key)
    if values is not None:
        values.pop(value, None)
        if not values:
            del table[key]
