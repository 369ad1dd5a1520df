"""The servers that a node runs: found by name, by incarnation, and by cluster."""

from collections.abc import Callable
from typing import Any, NamedTuple

from barque.core.queries import run_query
from barque.errors import UnknownCluster
from barque.runtime.server_process import ServerProcess
from barque.types import Uid


class Ending(NamedTuple):
    """How a server ends: with its data or without, and with all of its cluster or alone."""

    reason: str
    delete: bool = True
    whole_cluster: bool = False


class ServerTable:
    """Holds the servers, and the endings that the system has yet to carry out.

    `changed` asks for a turn, at whose end `System.reap_finished` does that.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.by_name: dict[str, ServerProcess] = {}
        self.by_uid: dict[Uid, ServerProcess] = {}
        self.finished: dict[ServerProcess, Ending] = {}
        self._changed = changed

    def add(self, process: ServerProcess) -> None:
        """Register a server that is about to start."""
        self.by_name[process.server.id.name] = process
        self.by_uid[process.server.cfg.uid] = process

    def remove(self, process: ServerProcess) -> None:
        """Forget a server that is deleted."""
        del self.by_name[process.server.id.name]
        self.by_uid.pop(process.server.cfg.uid, None)
        self.finished.pop(process, None)

    def all(self) -> list[ServerProcess]:
        """All servers now; the list does not change when they do."""
        return list(self.by_name.values())

    def member_of(self, cluster: str) -> ServerProcess | None:
        """The member of a cluster that runs here and has not failed, if there is one."""
        named = self.by_name.get(cluster)
        if named is not None and named.server.cfg.cluster_name == cluster:
            return named if named.failure is None else None
        for process in self.by_name.values():
            if process.server.cfg.cluster_name == cluster and process.failure is None:
                return process
        return None

    def here(self, cluster: str) -> ServerProcess | None:
        """The member of a cluster that is here, whether it runs or not; of several, one that runs."""
        running = self.member_of(cluster)
        if running is not None:
            return running
        found = [p for p in self.by_name.values() if p.server.cfg.cluster_name == cluster]
        return found[0] if found else None

    def why_not_here(self, cluster: str) -> str:
        """Why the member here does not run; empty if it runs, or none is here."""
        process = self.here(cluster)
        if process is None or process.failure is None:
            return ""
        return f"{process.server.id} does not run: {process.failure}"

    def query(self, cluster: str, payload: bytes) -> Any:
        """Ask the member that runs here. Raises `UnknownCluster` if there is none, or the query's error."""
        process = self.member_of(cluster)
        if process is None:
            why = self.why_not_here(cluster) or f"no member of {cluster!r} runs on this node"
            raise UnknownCluster(f"{why}; ask another node")
        process.counters.local_queries += 1
        return run_query(process.server, payload)

    def finish(self, process: ServerProcess, ending: Ending) -> None:
        """This server is to end: it handles nothing from now on, and the end of the turn does the rest.

        It may be called from inside the server's own effects. With `delete` the server goes for good, after
        its last messages have left; without, it keeps its files and can start again with the node.
        """
        process.end(ending.reason)
        known = self.finished.get(process)
        if known is None or (ending.delete, ending.whole_cluster) > (known.delete, known.whole_cluster):
            self.finished[process] = ending
        self._changed()

    def take_finished(self) -> dict[ServerProcess, Ending]:
        """The endings that are to be carried out now."""
        finished, self.finished = self.finished, {}
        return finished
