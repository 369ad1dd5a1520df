"""The clusters of a run: how each is formed, who works on it, and what it must be like in the end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from barque.core.server import RaftState, Server
from barque.errors import BarqueError
from barque.testing.checkers.history import Outcome
from barque.testing.checkers.safety import Violation
from barque.testing.sim.operations import Operations
from barque.testing.sim.sim_client import SimClient
from barque.testing.sim.timer_model import PENDING

if TYPE_CHECKING:
    from barque.testing.sim.host import Host
    from barque.testing.sim.simulator import Simulation


Attempt = Callable[[SimClient], Awaitable[None]]
_NEVER = float("inf")


class SimCluster:
    """One cluster, by name. Until somebody was told that it is there, nothing is demanded of it."""

    def __init__(self, sim: "Simulation", name: str, operations: Operations, *, configured: bool) -> None:
        self.sim = sim
        self.name = name
        self.operations = operations
        self.configured = configured
        self._lived_s = 0.0
        self._formed_at = 0.0 if configured else None
        self.epoch = 0  # of the last creation that was tried; each answer names its own
        self.deleted: dict[int, float] = {}  # when the end of an epoch was acknowledged, in virtual seconds
        self.clients: list[SimClient] = []
        self.undecided = 0  # how many of its histories were too much for the checker

    @property
    def formed(self) -> bool:
        """Whether somebody was told that it is there."""
        return self._formed_at is not None

    @property
    def lived_s(self) -> float:
        """For how many virtual seconds it has been there."""
        since = 0.0 if self._formed_at is None else self.sim.loop.time() - self._formed_at
        return self._lived_s + since

    def is_there(self) -> None:
        """From now on it is demanded."""
        if self._formed_at is None:
            self._formed_at = self.sim.loop.time()

    def may_be_gone(self) -> None:
        """Nothing is demanded until somebody is told of it again."""
        self._lived_s, self._formed_at = self.lived_s, None

    # --- its beginning -------------------------------------------------------------------

    async def form(self) -> None:
        """Create it, as an administrator would, who tries again until it is there."""
        await self._form((self._create, self._find, self._elect))

    async def _form(self, attempts: tuple[Attempt, ...]) -> None:
        admin = self.clients[0]
        while not (self.formed or admin.stop):
            await asyncio.sleep(0.1)
            for attempt in attempts:
                try:
                    await attempt(admin)
                    break
                except BarqueError as error:
                    self.sim.transcript.note(admin.name, f"create {self.name}: {type(error).__name__}")

    async def recreate(self) -> None:
        """Delete it and create another one of its name; it may be that neither is done."""
        admin = self.clients[0]
        attempts: tuple[Attempt, ...] = (self._create, self._find, self._elect)
        try:
            epoch, _ = await admin.client.consistent_query(self.name, "k0")
            await admin.client.delete_cluster(self.name)
            self.deleted[epoch] = self.sim.loop.time()
        except BarqueError as error:
            self.sim.transcript.note(admin.name, f"delete {self.name}: {type(error).__name__}")
            attempts = (self._create, self._elect)  # what is found now may yet be deleted
        await self._form(attempts)

    async def _create(self, admin: SimClient) -> None:
        self.epoch += 1
        await admin.client.start_cluster(self.name, self.name, arguments={"epoch": self.epoch})
        self.is_there()

    async def _find(self, admin: SimClient) -> None:
        """An attempt whose outcome was unknown may have formed it."""
        await admin.client.members_info(self.name)
        self.is_there()

    async def _elect(self, admin: SimClient) -> None:
        """Its members may be there, and the one that was to stand for election has died."""
        await admin.client.call("trigger_election", {"cluster": self.name})

    # --- its end -------------------------------------------------------------------------

    def servers(self) -> list[tuple["Host", Server]]:
        """Its members that run, wherever they are."""
        found = [(host, host.server(self.name)) for host in self.sim.hosts]
        return [(host, server) for host, server in found if server is not None]

    def leader(self) -> Server | None:
        """Who leads, and nobody has met a newer term: a leader of old may not know yet."""
        servers = [server for _, server in self.servers()]
        leaders = [server for server in servers if server.raft_state is RaftState.LEADER]
        leader = max(leaders, key=lambda server: server.current_term, default=None)
        if leader is not None and any(_has_met_newer(server, leader) for server in servers):
            return None
        return leader

    @property
    def changes(self) -> bool:
        """Whether its members may be others than those of the configuration."""
        return not self.configured or "members" in self.sim.scenario.faults

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
            if server.cfg.cluster_id == leader.cfg.cluster_id and _belongs(server, leader)
        ]

    def missing(self) -> list[str] | None:
        """Nodes that have no server although its leader counts one there: a creation did not reach them.

        None if that cannot be told: without a leader, or as long as what it goes by may be undone.
        """
        leader = self.leader()
        known_for_good = leader is not None and leader.commit_index >= leader.cluster_index_term.index
        if not (known_for_good or self.configured):
            return None
        members = leader.cluster.items() if leader is not None else ()
        known = {host.name: host.uids.get(self.name) for host in self.sim.hosts}
        return [m.node for m, peer in members if (peer.uid or known[m.node]) != known[m.node]]

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

    def leftovers(self) -> list[str]:
        """I23: who still runs although the leader knows that it was removed, or its cluster deleted.

        A server that was only started, for a creation that came too late, has never taken part in anything.
        """
        leader = self.leader()
        if leader is None or not self.changes:
            return []
        observers, found = self.sim.observers, []
        once = observers.of(leader).configurations.named(leader)
        for _, server in self.servers():
            if server.cfg.cluster_id != leader.cfg.cluster_id:
                deleted = observers.departures.is_deleted(server.cfg.cluster_id)
                left = deleted and server.log.next_index() > 1
            else:
                left = server.cfg.uid in once and not _belongs(server, leader)
            if left:
                found.append(f"{server.id} ({server.cfg.uid}) still runs")
        return found

    def terms(self) -> list[int]:
        """The terms of its members."""
        return [server.current_term for server in self.owed() or ()]

    async def works(self) -> None:
        """Wait until each client's new command was committed."""
        for client in self.clients:
            await client.is_served()

    def timers_owed(self) -> list[str]:
        """I21: timers that are pending although their time is over, and who should have fired them."""
        leader = self.leader()
        if leader is None:
            return [f"{self.name}: no leader"]
        timeouts, now_s = self.sim.observers.of(leader).timeouts, self.sim.loop.now
        pending = leader.machine_state.get(PENDING, ())
        return [f"{leader.id}: timer {name}" for name in pending if timeouts.is_owed(leader, name, now_s)]

    async def shows_all(self) -> None:
        """Read every object once more, so that no change is left that nobody has seen."""
        for key in self.operations.used():
            while (await self.clients[0].read(key, 2.0)).outcome is not Outcome.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def check(self) -> Violation | None:
        """What the machines hold and what the clients were told, when all is over."""
        states = [server.machine_state for server in self.owed() or ()]
        if any(state != states[0] for state in states):
            return Violation("same state (I18)", "equal logs, different machines", tuple(map(str, states)))
        found = self.operations.judge([operation for client in self.clients for operation in client.history])
        self.undecided = found.undecided
        if found.text:
            return Violation("linearizability (I14 to I17)", f"{self.name}: {found.text}", found.shown)
        return self._check_deleted()

    def _check_deleted(self) -> Violation | None:
        """I23: whoever asks after a cluster was deleted is not answered by it."""
        for operation in (operation for client in self.clients for operation in client.history):
            deleted = self.deleted.get(operation.epoch, _NEVER)
            if operation.outcome is Outcome.OK and operation.called > deleted:
                states = (str(operation), f"it was deleted at {deleted:.6f}")
                text = f"{self.name}: a deleted cluster answers"
                return Violation("the removed stay away (I23)", text, states)
        return None

    def states(self) -> tuple[str, ...]:
        """Its members, in words."""
        there = {host.name: _describe(server) for host, server in self.servers()}
        return tuple(there.get(host.name, f"{self.name}@{host.name}: down") for host in self.sim.hosts)


def _has_met_newer(server: Server, leader: Server) -> bool:
    return server.cfg.cluster_id == leader.cfg.cluster_id and server.current_term > leader.current_term


def _belongs(server: Server, leader: Server) -> bool:
    peer = leader.cluster.get(server.id)
    return peer is not None and peer.uid in (None, server.cfg.uid)


def _describe(s: Server) -> str:
    last, written = s.log.last_index_term(), s.log.last_written()
    return (
        f"{s.id}: {s.raft_state}, term {s.current_term}, follows {s.leader_id}, voted {s.voted_for}, "
        f"log to {last.index}/{last.term}, on disk {written.index}/{written.term}, "
        f"commit {s.commit_index}, applied {s.last_applied}"
    )
