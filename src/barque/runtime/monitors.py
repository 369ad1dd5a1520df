"""Who watches which clients and nodes (MON-01 to MON-03)."""

from barque.core.messages import ClientDown, Component, NodeEvent
from barque.machine.effects import DemonitorClient, DemonitorNode, MonitorClient, MonitorNode
from barque.runtime.server_process import ServerProcess
from barque.types import ClientRef

Watcher = tuple[ServerProcess, Component]
MonitorEffect = MonitorClient | DemonitorClient | MonitorNode | DemonitorNode


class Monitors:
    """The monitors of all servers of one node. A node stays watched when it goes down, a client does not."""

    def __init__(self) -> None:
        self._clients: dict[ClientRef, dict[Watcher, None]] = {}
        self._nodes: dict[str, dict[Watcher, None]] = {}
        self._up: dict[str, bool] = {}  # as was last told

    def perform(self, process: ServerProcess, effect: MonitorEffect) -> None:
        """Begin or stop to watch."""
        watcher = (process, Component.AUX if effect.aux else Component.MACHINE)
        match effect:
            case MonitorClient():
                self._clients.setdefault(effect.client, {})[watcher] = None
            case MonitorNode():
                self._nodes.setdefault(effect.node, {})[watcher] = None
            case DemonitorClient():
                self._clients.get(effect.client, {}).pop(watcher, None)
            case DemonitorNode():
                self._nodes.get(effect.node, {}).pop(watcher, None)

    def node_changed(self, node: str, *, up: bool) -> None:
        """The node came within reach, or went out of it; with it go its clients."""
        if not up:
            self._end([client for client in self._clients if client.node == node], "noconnection")
        if self._up.get(node) is up:
            return
        self._up[node] = up
        for process, component in list(self._nodes.get(node, ())):
            process.handle(NodeEvent(component, node, up))

    def node_restarted(self, node: str, incarnation: int) -> None:
        """Another process answers for that node: the clients of the former are gone."""
        gone = [c for c in self._clients if c.node == node and c.incarnation != incarnation]
        self._end(gone, "noproc")

    def _end(self, clients: list[ClientRef], reason: str) -> None:
        for client in clients:
            for process, component in self._clients.pop(client, ()):
                process.handle(ClientDown(component, client, reason))

    def forget(self, process: ServerProcess, *, only: Component | None = None) -> None:
        """A server stops, or its machine leads no more (AUX-07)."""
        for watchers in (*self._clients.values(), *self._nodes.values()):
            for component in Component:
                if only in (None, component):
                    watchers.pop((process, component), None)
