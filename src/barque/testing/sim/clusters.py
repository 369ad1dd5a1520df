"""The clusters of a run: how each is formed, which clients use it, and what must hold in the end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from barque.core.state import RaftState, Server
from barque.errors import BarqueError
from barque.testing.checkers.history import Outcome
from barque.testing.checkers.safety import Violation
from barque.testing.sim.guests import WATCHED
from barque.testing.sim.operations import Operations
from barque.testing.sim.sim_client import SimClient
from barque.testing.sim.timer_model import PENDING
from barque.types import Pid

if TYPE_CHECKING:
    from barque.testing.sim.host import Host
    from barque.testing.sim.simulator import Simulation


Attempt = Callable[[SimClient], Awaitable[None]]
_NEVER = float("inf")


class SimCluster:
    """One cluster, by name. Nothing is demanded of it until a client has learned that it exists."""

    def __init__(self, sim: "Simulation", name: str, operations: Operations, *, configured: bool) -> None:
        self.sim = sim
        self.name = name
        self.operations = operations
        self.configured = configured
        self._lived_s = 0.0
        self._formed_at = 0.0 if configured else None
        self.epoch = 0  # of the last attempt to create it; each answer carries its epoch
        self.deleted: dict[int, float] = {}  # by epoch, when its deletion was acknowledged
        self.clients: list[SimClient] = []
        self.undecided = 0  # how many histories its checker could not decide

    @property
    def formed(self) -> bool:
        """Whether a client has learned that it exists."""
        return self._formed_at is not None

    @property
    def lived_s(self) -> float:
        """For how many virtual seconds it has existed."""
        since = 0.0 if self._formed_at is None else self.sim.loop.time() - self._formed_at
        return self._lived_s + since

    def is_there(self) -> None:
        """Demand everything of the cluster from now on."""
        if self._formed_at is None:
            self._formed_at = self.sim.loop.time()

    def may_be_gone(self) -> None:
        """Demand nothing until a client learns again that the cluster exists."""
        self._lived_s, self._formed_at = self.lived_s, None

    # --- its beginning -------------------------------------------------------------------

    async def form(self) -> None:
        """Create it as an operator would, again and again until it exists."""
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
        """Delete it and create another cluster of its name; perhaps neither succeeds."""
        admin = self.clients[0]
        attempts: tuple[Attempt, ...] = (self._create, self._find, self._elect)
        try:
            epoch, _ = await admin.client.consistent_query(self.name, "k0")
            await admin.client.delete_cluster(self.name)
            self.deleted[epoch] = self.sim.loop.time()
        except BarqueError as error:
            self.sim.transcript.note(admin.name, f"delete {self.name}: {type(error).__name__}")
            attempts = (self._create, self._elect)  # what a client finds now may still be deleted
        await self._form(attempts)

    async def _create(self, admin: SimClient) -> None:
        self.epoch += 1
        await admin.client.start_cluster(self.name, self.name, arguments={"epoch": self.epoch})
        self.is_there()

    async def _find(self, admin: SimClient) -> None:
        """Find the cluster that an attempt with unknown outcome may have formed."""
        await admin.client.members_info(self.name)
        self.is_there()

    async def _elect(self, admin: SimClient) -> None:
        """Start an election: the members may exist, but the first candidate may have died."""
        await admin.client.call("trigger_election", {"cluster": self.name})

    # --- its end -------------------------------------------------------------------------

    def servers(self) -> list[tuple["Host", Server]]:
        """Its running members, on any machine."""
        found = [(host, host.server(self.name)) for host in self.sim.hosts]
        return [(host, server) for host, server in found if server is not None]

    def leader(self) -> Server | None:
        """Its leader, if no member knows a newer term: a deposed leader may not know yet."""
        servers = [server for _, server in self.servers()]
        leaders = [server for server in servers if server.raft_state is RaftState.LEADER]
        leader = max(leaders, key=lambda server: server.current_term, default=None)
        if leader is not None and any(_has_met_newer(server, leader) for server in servers):
            return None
        return leader

    @property
    def changes(self) -> bool:
        """Whether its members may differ from the nodes' configuration."""
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
        """The running members of this leader's configuration."""
        return [
            (host, server)
            for host, server in self.servers()
            if server.cfg.cluster_id == leader.cfg.cluster_id and _belongs(server, leader)
        ]

    def missing(self) -> list[str] | None:
        """Nodes without a server although the leader counts one there: a creation did not reach them.

        None if that is unknown: without a leader, or while the leader's configuration may be undone.
        """
        leader = self.leader()
        known_for_good = leader is not None and leader.commit_index >= leader.cluster_index_term.index
        if not (known_for_good or self.configured):
            return None
        members = leader.cluster.items() if leader is not None else ()
        known = {host.name: host.uids.get(self.name) for host in self.sim.hosts}
        return [m.node for m, peer in members if (peer.uid or known[m.node]) != known[m.node]]

    def owed(self) -> list[Server] | None:
        """The servers that must be equal in the end, or None while that is unknown.

        These are all members of the leader's configuration, except members on a machine that is gone for good
        and members with a failed machine. A creation may have reached only a majority of its nodes.
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
        """Whether all its members have the same state, and follow one leader."""
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
        """I23: servers that still run although the leader knows of their removal, or of their cluster's end.

        A server that only a late creation has started has never taken part in anything, and does not count.
        Nor does one whose end only one node could confirm: that is not enough to delete data.
        """
        leader = self.leader()
        if leader is None or not self.changes:
            return []
        observers, found = self.sim.observers, []
        once = observers.of(leader).configurations.named(leader)
        for _, server in self.servers():
            if server.cfg.cluster_id != leader.cfg.cluster_id:
                witnesses = observers.departures.deleted_on(server.cfg.cluster_id)
                left = bool(witnesses) and server.log.next_index() > 1
            else:
                witnesses = {member.node for member in leader.cluster if leader.is_voter(member)}
                left = server.cfg.uid in once and not _belongs(server, leader)
            needed = 2 if len({member.node for member in server.cluster}) >= 3 else 1
            if left and len(witnesses - {server.id.node}) >= needed:
                found.append(f"{server.id} ({server.cfg.uid}) still runs")
        return found

    def terms(self) -> list[int]:
        """The terms of its members."""
        return [server.current_term for server in self.owed() or ()]

    async def works(self) -> None:
        """Wait until a new command of each client is committed."""
        for client in self.clients:
            await client.is_served()

    def timers_owed(self) -> list[str]:
        """I21: overdue timers that are still pending, each with the leader that should have fired it."""
        leader = self.leader()
        if leader is None:
            return [f"{self.name}: no leader"]
        timeouts, now_s = self.sim.observers.of(leader).timeouts, self.sim.loop.now
        pending = leader.machine_state.get(PENDING, ())
        return [f"{leader.id}: timer {name}" for name in pending if timeouts.is_owed(leader, name, now_s)]

    def ends_owed(self) -> list[str]:
        """I21: processes that have ended, and that the leader's machine still takes for living."""
        leader = self.leader()
        if leader is None:
            return [f"{self.name}: no leader"]
        watched = [Pid(*what) for what in leader.machine_state.get(WATCHED, ())]
        return [f"{leader.id}: {pid} has ended" for pid in watched if not self.sim.guest_book.lives(pid)]

    async def shows_all(self) -> None:
        """Read every object once more, so that a client has seen every change."""
        for key in self.operations.used():
            while (await self.clients[0].read(key, 2.0)).outcome is not Outcome.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def check(self) -> Violation | None:
        """Judge the states of all machines and the histories of all clients, at the end."""
        states = [server.machine_state for server in self.owed() or ()]
        if any(state != states[0] for state in states):
            return Violation("same state (I18)", "equal logs, different machines", tuple(map(str, states)))
        doubted = [f"{host.name}: {told}" for host in self.sim.hosts if (told := host.doubts(self.name))]
        if doubted:
            return Violation("same state (I18)", "digests of equal states differ", tuple(doubted))
        found = self.operations.judge([operation for client in self.clients for operation in client.history])
        self.undecided = found.undecided
        if found.text:
            return Violation("linearizability (I14 to I17)", f"{self.name}: {found.text}", found.shown)
        return self._check_deleted()

    def _check_deleted(self) -> Violation | None:
        """I23: a deleted cluster answers no call that began after its deletion was acknowledged."""
        for operation in (operation for client in self.clients for operation in client.history):
            deleted = self.deleted.get(operation.epoch, _NEVER)
            if operation.outcome is Outcome.OK and operation.called > deleted:
                states = (str(operation), f"it was deleted at {deleted:.6f}")
                text = f"{self.name}: a deleted cluster answers"
                return Violation("the removed stay away (I23)", text, states)
        return None

    def states(self) -> tuple[str, ...]:
        """Describe its members."""
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
