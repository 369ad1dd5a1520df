"""Which machines watch which clients and nodes (MON-01 to MON-03)."""

from barque.core.messages import ClientDown, Component, NodeEvent
from barque.machine.effects import DemonitorClient, DemonitorNode, MonitorClient, MonitorNode
from barque.runtime.server_process import ServerProcess
from barque.types import ClientRef

Watcher = tuple[ServerProcess, Component]


class Monitors:
    """The monitors of all servers of one node. A node stays watched when it goes down, a client does not.

    Each monitor is told the present state when it is set, and every later change. So the state lives here:
    a node is up from its connection on until that breaks, or the failure detector suspects it. `me` is
    this node's own reference: a client of an earlier process of this node is gone.
    """

    def __init__(self, me: ClientRef) -> None:
        self._clients: dict[ClientRef, dict[Watcher, None]] = {}
        self._nodes: dict[str, dict[Watcher, None]] = {}
        self._up: dict[str, bool] = {me.node: True}  # the state of each node that watchers were last told of
        self._incarnations: dict[str, int] = {me.node: me.incarnation}  # of the processes last heard of

    def watch_node(self, process: ServerProcess, effect: MonitorNode) -> None:
        """Watch a node. Its present state is news for a machine that begins to watch it (EFF-06)."""
        component = Component.AUX if effect.aux else Component.MACHINE
        self._nodes.setdefault(effect.node, {})[process, component] = None
        process.enqueue(NodeEvent(component, effect.node, self._is_up(effect.node)))

    def watch_client(self, process: ServerProcess, effect: MonitorClient) -> None:
        """Watch a client; say at once that it is gone, if it is (EFF-06).

        A new leader sets its monitors again in `state_enter`: a client whose node has gone, or has started
        anew since, would never be reported otherwise.
        """
        client = effect.client
        component = Component.AUX if effect.aux else Component.MACHINE
        if self._incarnations.get(client.node, client.incarnation) != client.incarnation:
            process.enqueue(ClientDown(component, client, "noproc"))
        elif not self._is_up(client.node):
            process.enqueue(ClientDown(component, client, "noconnection"))
        else:
            self._clients.setdefault(client, {})[process, component] = None

    def unwatch(self, process: ServerProcess, effect: DemonitorClient | DemonitorNode) -> None:
        """Watch this client or node no longer."""
        watcher = (process, Component.AUX if effect.aux else Component.MACHINE)
        if isinstance(effect, DemonitorClient):
            self._clients.get(effect.client, {}).pop(watcher, None)
        else:
            self._nodes.get(effect.node, {}).pop(watcher, None)

    def node_changed(self, node: str, *, up: bool) -> None:
        """The node came within reach, or went out of it; with it go its clients."""
        if not up:
            self._end([client for client in self._clients if client.node == node], "noconnection")
        if self._is_up(node) is up:
            return
        self._up[node] = up
        for process, component in list(self._nodes.get(node, ())):
            process.handle(NodeEvent(component, node, up))

    def node_restarted(self, node: str, incarnation: int) -> None:
        """This process answers for that node now: the clients of any earlier one are gone.

        If the earlier one never went out of reach, as far as we saw, its watchers hear now that it did.
        """
        gone = [c for c in self._clients if c.node == node and c.incarnation != incarnation]
        self._end(gone, "noproc")
        if self._incarnations.get(node, incarnation) != incarnation:
            self.node_changed(node, up=False)
        self._incarnations[node] = incarnation

    def _is_up(self, node: str) -> bool:
        return self._up.get(node, False)

    def _end(self, clients: list[ClientRef], reason: str) -> None:
        for client in clients:
            for process, component in self._clients.pop(client, ()):
                process.handle(ClientDown(component, client, reason))

    def forget(self, process: ServerProcess, *, only: Component | None = None) -> None:
        """Drop the monitors of a server that stops, or whose machine no longer leads (AUX-07)."""
        for watchers in (*self._clients.values(), *self._nodes.values()):
            for component in Component:
                if only in (None, component):
                    watchers.pop((process, component), None)
