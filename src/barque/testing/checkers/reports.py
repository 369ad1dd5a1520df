"""I32: a node reports the truth about its members, judged by disks, messages and clients' histories."""

from typing import TYPE_CHECKING, Any

from barque.core.state import RaftState, Server
from barque.runtime import reporting
from barque.runtime.server_process import ServerProcess
from barque.testing.checkers.history import Outcome
from barque.testing.checkers.observers import ClusterObserver
from barque.testing.checkers.safety import Violation, incarnation
from barque.types import Index, IndexTerm, Term

if TYPE_CHECKING:
    from barque.testing.sim.clusters import SimCluster
    from barque.testing.sim.host import Host
    from barque.testing.sim.simulator import Simulation

EVERY_S = 1.0
"""The mean time between two checks of one node, while there are faults."""
_GAUGES = {
    "term": "current_term",
    "commit_index": "commit_index",
    "last_applied": "last_applied",
    "last_index": "last_index",
    "last_written_index": "last_written_index",
}
"""Counters that tell a server's position, with the fields of its status that tell the same."""


class Reports:
    """Asks one node now and then under faults, and all nodes in the end."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim
        self._rng = sim.rng("reports")
        self._committed: list[tuple[Server, Index, Term]] = []  # called committed, and by whom

    def begin(self) -> None:
        """Check one node after a while, again and again until the faults are over."""
        self._sim.loop.later(self._rng.expovariate(1 / EVERY_S), self._look)

    def _look(self) -> None:
        if self._sim.nemesis.over:
            return
        self.begin()
        running = [host for host in self._sim.hosts if host.up and not host.stopping]
        if running:
            host = self._rng.choice(running)
            with host.looked_at():
                host.check_bounds()
                for process in _processes(host):
                    self._judge(host, process)

    def _judge(self, host: "Host", process: ServerProcess) -> dict[str, Any]:
        """Check what holds of every member at any time."""
        said, server = reporting.cluster_overview(process), process.server
        observer = self._sim.observers.of(server)
        written = IndexTerm(said["last_written_index"], said["last_written_term"])
        kept = observer.durability.log(host.name, server.cfg.uid).fetch_term(written.index)
        if kept != written.term and written.index > observer.durability.covered(host.name, server.cfg.uid):
            self._lies(said, f"it says {written} is written; on its disk is term {kept}")
        if said["current_term"] < observer.elections.promised(incarnation(server)):
            self._lies(said, "it has spoken in a later term")
        # A request that raises the term (a pre-vote) is no reason to forget the last leader.
        leaders = observer.elections.leaders_until(said["current_term"])
        if said["leader"] is not None and said["leader"] not in leaders:
            self._lies(said, f"until this term only these have led: {', '.join(leaders)}")
        odd = [name for name, field in _GAUGES.items() if said["counters"][name] != said[field]]
        if odd:
            self._lies(said, f"the counters say otherwise of {', '.join(odd)}")
        term = server.log.fetch_term(said["commit_index"])
        if term is None or said["last_applied"] > said["commit_index"]:
            self._lies(said, "it says more is committed than it has, or less than is applied")
        else:
            self._committed.append((server, said["commit_index"], term))
        return said

    def finish(self, clusters: list["SimCluster"], settled_s: float) -> None:
        """Check all nodes at rest: everybody knows everything, and the leader has counted its work."""
        for cluster in clusters:
            owed, leader = cluster.owed() or (), cluster.leader()
            for host in self._sim.hosts:
                for process in _processes(host):
                    if any(server is process.server for server in owed):
                        self._judge_end(cluster, self._judge(host, process), process.server, settled_s)
            if leader is not None:
                self._judge_committed(leader)

    def _judge_committed(self, leader: Server) -> None:
        """Check that every position that a server called committed has stayed."""
        covered = leader.log.snapshot_index_term().index
        for server, index, term in self._committed:
            if server.cfg.cluster_id != leader.cfg.cluster_id or index <= covered:
                continue
            if leader.log.fetch_term(index) != term:
                text = f"{server.id} said {index} of term {term} is committed; {leader.id} does not have it"
                self._sim.report(Violation("honest reports (I32)", text))

    def _judge_end(
        self, cluster: "SimCluster", said: dict[str, Any], server: Server, settled_s: float
    ) -> None:
        observer = self._sim.observers.of(server)
        node, uid = server.id.node, server.cfg.uid
        log_end = observer.durability.log(node, uid).next_index() - 1
        end = max(log_end, observer.durability.covered(node, uid))
        fields = ("commit_index", "last_applied", "last_index", "last_written_index")
        behind = [field for field in fields if said[field] != end]
        if behind or end < observer.committed.newest:
            self._lies(said, f"its log ends at {end}, and everything is applied: {', '.join(behind)}")
        leader = observer.elections.leader_of(server.current_term)
        if leader is None or said["leader"] != str(leader.id):
            self._lies(said, f"all is well, and {leader} leads")
        if server.raft_state is RaftState.LEADER:
            self._judge_leader(cluster, said, observer, settled_s)

    def _judge_leader(
        self, cluster: "SimCluster", said: dict[str, Any], observer: ClusterObserver, settled_s: float
    ) -> None:
        """Check that the leader has counted at least the work of its own term."""
        history = [operation for client in cluster.clients for operation in client.history]
        reads = [o for o in history if o.called > settled_s and o.outcome is Outcome.OK and o.is_read]
        reads = [o for o in reads if not o.by_command]
        own = observer.timeouts.judged.keys() | observer.ends.keys()  # no client sent these
        terms = [term for index, (term, _, _) in observer.committed.entries.items() if index not in own]
        commands = terms.count(said["current_term"])
        least = {"elections": 1, "commands": commands, "consistent_queries": len(reads)}
        for name, count in least.items():
            if said["counters"][name] < count:
                self._lies(said, f"{name}: counted {said['counters'][name]}, there were {count}")
        late = [m for m, peer in said["peers"].items() if peer["match_index"] != said["last_index"]]
        running = [str(server.id) for server in cluster.owed() or ()]
        if any(member in running for member in late):
            self._lies(said, f"{', '.join(late)} have everything, and it says otherwise")

    def _lies(self, said: dict[str, Any], text: str) -> None:
        self._sim.report(Violation("honest reports (I32)", f"{said['server']}: {text}", (str(said),)))


def _processes(host: "Host") -> list[ServerProcess]:
    processes = host.node.system.processes.values() if host.node is not None else ()
    return [process for process in processes if process.failure is None]
