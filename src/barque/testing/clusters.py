"""The clusters of a run: how each is formed, who works on it, and what it must be like in the end."""

import asyncio
from typing import TYPE_CHECKING

from barque.core.server import RaftState, Server
from barque.errors import BarqueError
from barque.testing.checkers import Violation
from barque.testing.history import Outcome, check_history
from barque.testing.workload import SimClient

if TYPE_CHECKING:
    from barque.testing.host import Host
    from barque.testing.simulator import Simulation


class SimCluster:
    """One cluster, by name. Until somebody was told that it is there, nothing is demanded of it."""

    def __init__(self, sim: "Simulation", name: str, *, configured: bool) -> None:
        self.sim = sim
        self.name = name
        self.configured = configured
        self.formed = configured
        self.clients: list[SimClient] = []

    # --- its beginning -------------------------------------------------------------------

    async def form(self) -> None:
        """Create it, as an administrator would, who tries again until it is there."""
        admin = self.clients[0]
        while not (self.formed or admin.stop):
            await asyncio.sleep(0.1)
            for attempt in (self._create, self._find, self._elect):
                try:
                    await attempt(admin)
                    break
                except BarqueError as error:
                    self.sim.transcript.note(admin.name, f"create {self.name}: {type(error).__name__}")

    async def _create(self, admin: SimClient) -> None:
        await admin.client.start_cluster(self.name, self.name)
        self.formed = True

    async def _find(self, admin: SimClient) -> None:
        """An attempt whose outcome was unknown may have formed it."""
        await admin.client.members_info(self.name)
        self.formed = True

    async def _elect(self, admin: SimClient) -> None:
        """Its members may be there, and the one that was to stand for election has died."""
        await admin.client.call("trigger_election", {"cluster": self.name})

    # --- its end -------------------------------------------------------------------------

    def servers(self) -> list[tuple["Host", Server]]:
        """Its members that run, wherever they are."""
        found = [(host, host.server(self.name)) for host in self.sim.hosts]
        return [(host, server) for host, server in found if server is not None]

    def leader(self) -> Server | None:
        """Who leads, by the newest term."""
        leaders = [server for _, server in self.servers() if server.raft_state is RaftState.LEADER]
        return max(leaders, key=lambda server: server.current_term, default=None)

    @property
    def changes(self) -> bool:
        """Whether its members are others than those of the configuration."""
        return not self.configured

    def is_settled(self) -> bool:
        """Whether its configuration is committed, and a majority of its voters runs."""
        leader = self.leader()
        return leader is not None and self.owed() is not None and self._keeps_a_majority(leader, None)

    def can_spare(self, host: "Host") -> bool:
        """Whether a majority of the voters runs on other machines."""
        leader = self.leader()
        return leader is not None and self._keeps_a_majority(leader, host)

    def _keeps_a_majority(self, leader: Server, without: "Host | None") -> bool:
        voters = [member.node for member, peer in leader.cluster.items() if peer.voter]
        there = [host for host, server in self._members(leader) if host is not without]
        return 2 * sum(host.name in voters for host in there) > len(voters)

    def _members(self, leader: Server) -> list[tuple["Host", Server]]:
        """Those that run and are members by the configuration of this leader."""
        return [
            (host, server)
            for host, server in self.servers()
            if server.id in leader.cluster and server.cfg.cluster_id == leader.cfg.cluster_id
        ]

    def owed(self) -> list[Server] | None:
        """Those who must be equal in the end; None as long as it cannot be said.

        All members by the leader's configuration, but not those who are gone for good or have failed. A
        creation may also have reached only a majority of its nodes.
        """
        leader = self.leader()
        if leader is None or leader.commit_index < leader.cluster_index_term.index:
            return None
        excused = [
            host.name for host in self.sim.hosts if host is self.sim.absent or self.name in host.failed
        ]
        found = [server for host, server in self._members(leader) if host is not self.sim.absent]
        wanted = [member for member in leader.cluster if member.node not in excused]
        return found if len(found) == len(wanted) or not self.configured else None

    def equal(self) -> bool:
        """Whether all its members have the same, and follow one leader."""
        servers = self.owed()
        if servers is None:
            return False
        found = [
            (s.last_applied, s.log.last_index_term(), s.log.last_written(), s.leader_id, s.current_term)
            for s in servers
        ]
        leaders = sum(s.raft_state is RaftState.LEADER for s in servers)
        return leaders == 1 and all(f == found[0] for f in found) and found[0][0] == found[0][1].index

    def terms(self) -> list[int]:
        """The terms of its members."""
        return [server.current_term for _, server in self.servers()]

    async def works(self) -> None:
        """Wait until each client's new command was committed."""
        for client in self.clients:
            while (await client.append("k0", 2.0)).outcome is not Outcome.OK:  # noqa: ASYNC110  # not an event
                await asyncio.sleep(0.05)

    async def shows_all(self, keys: int) -> None:
        """Read every list once more, so that no append is left that nobody has seen."""
        for key in range(keys):
            while (await self.clients[0].read(f"k{key}", 2.0)).outcome is not Outcome.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def check(self) -> Violation | None:
        """What the machines hold and what the clients were told, when all is over."""
        states = [server.machine_state for server in self.owed() or ()]
        if any(state != states[0] for state in states):
            return Violation("same state (I18)", "equal logs, different machines", tuple(map(str, states)))
        anomaly = check_history([operation for client in self.clients for operation in client.history])
        if anomaly is None:
            return None
        shown = tuple(map(str, anomaly.operations))
        return Violation("linearizability (I14 to I17)", f"{self.name}: {anomaly.text}", shown)

    def states(self) -> tuple[str, ...]:
        """Its members, in words."""
        there = {host.name: _describe(server) for host, server in self.servers()}
        return tuple(there.get(host.name, f"{self.name}@{host.name}: down") for host in self.sim.hosts)


def _describe(s: Server) -> str:
    last, written = s.log.last_index_term(), s.log.last_written()
    return (
        f"{s.id}: {s.raft_state}, term {s.current_term}, follows {s.leader_id}, voted {s.voted_for}, "
        f"log to {last.index}/{last.term}, on disk {written.index}/{written.term}, "
        f"commit {s.commit_index}, applied {s.last_applied}"
    )
