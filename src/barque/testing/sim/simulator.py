"""Run whole nodes on virtual time, network and disk, from one seed: `simulate`.

Everything runs in one thread on a `VirtualLoop`, which jumps from call to call. A seed draws a `Scenario`
(`swarm`); a `Simulation` runs it once:

- Each `Host` is a machine with a disk that outlives its nodes. `Host.start` boots a `Node`, the production
  class, in a new `VirtualProcess`, on a `ProcessDisk` and with a `SimTransport`. When the process dies, the
  host boots another one after a while.
- Each `SimCluster` has clients, which draw operations (`operations`) and record what they were told.
- The `Nemesis` (`faults`) does one fault after the other to hosts, links, disks and clusters.
- `Observers` (`checkers`) see every message that a server sends, every command that a machine applies, every
  change of role, and the disks. `Reports` asks nodes about themselves.

A run has two phases. In the first, which lasts `duration_s`, faults happen while the clients work. In the
second all faults have ended; in some runs one machine stays away for good. Within `LIVENESS_S` every call
must end, each client must get a new command committed, due timers must fire, all members must become equal,
and removed servers must go. Then no election may happen for `STABLE_S`. In the end the checkers judge the
histories of the clients and the state of every node.

The first violation ends the run. It is part of the report; `run` raises nothing for it.

**Determinism.** The same seed must give the same hash of all events (`Transcript`), under any hash seed.
So each purpose has a random generator of its own (`rng`), sets are never iterated, the garbage collector is
off, and nothing dead is cleaned up at a random moment.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from barque.testing.checkers.digests import Digests
from barque.testing.checkers.history import Operation, Outcome
from barque.testing.checkers.observers import Observers
from barque.testing.checkers.reports import Reports
from barque.testing.checkers.safety import Durability, Violation
from barque.testing.faults.fault_schedule import COMMITS_MIN
from barque.testing.faults.nemesis import Nemesis
from barque.testing.faults.network import judge_strangers
from barque.testing.sim.clock import true_ms
from barque.testing.sim.clusters import SimCluster
from barque.testing.sim.guests import GuestBook
from barque.testing.sim.host import DATA, Host
from barque.testing.sim.in_process_clients import InProcessClient
from barque.testing.sim.loop import Deadlock, Livelock, Storm, VirtualLoop
from barque.testing.sim.network import SimNetwork
from barque.testing.sim.operations import make_operations
from barque.testing.sim.redis_clients import RedisClient
from barque.testing.sim.redis_machine import REDIS
from barque.testing.sim.sim_client import SimClient, reach
from barque.testing.sim.swarm import Scenario, draw_scenario
from barque.testing.sim.transcript import Transcript
from barque.types import ServerId, Uid

ABSENT_RATE = 0.3
"""The share of runs in which one machine stays away for good after all other faults have ended."""
GIVE_UP_S = 10.0
"""After this long, a client's connection to a machine that is gone breaks (production: 30 s)."""
LIVENESS_S = 60.0
"""Virtual seconds after the faults in which everything must be well again."""
SETTLE_S = 2.0
"""Old suspicions may still cause an election in this time; ten polls of the failure detector are added."""
STABLE_S = 3.0
T = TypeVar("T")
_LOGGERS = ("barque", "asyncio")


class Report(msgspec.Struct, kw_only=True):
    """What one seed did. `void` says why the run does not count; `violation` is what it found."""

    seed: int
    scenario: Scenario
    hash: str = ""
    violation: Violation | None = None
    void: str = ""
    virtual_s: float = 0.0
    cluster_s: float = 0.0
    """The time that each cluster has existed, added up."""
    events: int = 0
    frames: int = 0
    elections: int = 0
    restarts: int = 0
    committed: int = 0
    operations: int = 0
    unknown: int = 0
    failed: int = 0
    undecided: int = 0
    looks: int = 0
    recovered_s: float = 0.0
    faults: dict[str, int] = {}
    tail: str = ""

    @property
    def replay(self) -> str:
        """The command that repeats this run."""
        return f"barque simulate --seed {self.seed} --trace"

    def __str__(self) -> str:
        if self.violation is None:
            return f"seed {self.seed}: {self.void or 'clean'}"
        return "\n".join(
            (
                f"seed {self.seed} violates a property after {self.virtual_s:.3f} virtual seconds",
                str(self.violation),
                f"replay: {self.replay}",
                "the last events:",
                self.tail,
            )
        )


class _Stop(Exception):
    """A property was violated, so the run ends."""


class Simulation:
    """One run of one seed. Make it, then call `run` once."""

    def __init__(self, seed: int, scenario: Scenario, *, trace: bool = False) -> None:
        self.seed = seed
        self.scenario = scenario
        self.loop = VirtualLoop()
        self.loop.errors = self._on_error
        self.transcript = Transcript(self.loop, echo=trace)
        self.chance = self.rng("chance")
        self.network = SimNetwork(self.loop, self.rng("network"))
        self.network.latency = scenario.latency_s
        self.network.on_frame = self.transcript.frame
        self.digests: dict[str, Digests] = {}  # of each cluster's states
        self.names = [f"n{i}" for i in range(1, scenario.nodes + 1)]
        self.hosts = [Host(self, name) for name in self.names]
        self.violation: Violation | None = None
        disks = {host.name: host.disk for host in self.hosts}
        durability = Durability(self.report, disks, self.rng("looks"), DATA, scenario.look_rate)
        self.observers = Observers(self.report, durability, lambda: true_ms(self.loop))
        self.clusters = [
            SimCluster(
                self, name, make_operations(kind, scenario.keys), configured=name in scenario.configured_names
            )
            for name, kind in scenario.kinds
        ]
        self.clients = [self._make_client(number) for number in range(scenario.clients)]
        self.clients += [
            self._make_in_process_client(number) for number in range(scenario.in_process_clients)
        ]
        self.nemesis = Nemesis(self)
        self.guest_book = GuestBook(self.report)
        self.reports = Reports(self)
        self.recovered_s = 0.0
        self.absent: Host | None = None  # the machine that stays away in the second phase
        self._phase = ""  # what the second phase waits for
        self._failed: asyncio.Future[None] = self.loop.create_future()
        self._tasks: list[asyncio.Task[Any]] = []

    def _make_client(self, number: int) -> SimClient:
        """Make a client; clients are dealt to the clusters in turn."""
        cluster, name = self.clusters[number % len(self.clusters)], f"c{number + 1}"
        rng = self.rng(name)
        reaches = reach(name, self.network, self.names, self.scenario.timeout_s, rng)
        client: SimClient
        if dict(self.scenario.kinds)[cluster.name] == REDIS:
            client = RedisClient(name, cluster, self, reaches)
            cluster.clients.append(client)
            return client
        client = SimClient(name, cluster.name, self.loop, self.scenario, cluster.operations, rng, reaches)
        cluster.clients.append(client)
        return client

    def _make_in_process_client(self, number: int) -> SimClient:
        """Make a client in the process of a node that the seed draws; clusters in turn, as above."""
        cluster, name = self.clusters[number % len(self.clusters)], f"i{number + 1}"
        host = self.rng(f"{name}/home").choice(self.hosts)
        client = InProcessClient(name, cluster, host)
        host.in_process_clients.append(client)
        cluster.clients.append(client)
        return client

    def uid_of(self, member: ServerId) -> Uid | None:
        """The uid of a member that has started at least once."""
        return next((h.uids.get(member.name) for h in self.hosts if h.name == member.node), None)

    def rng(self, purpose: str) -> random.Random:
        """A random generator for one purpose, so that one use does not shift another."""
        return random.Random(f"{self.seed}/{purpose}")  # noqa: S311  # repeatable on purpose

    # --- called by the parts of the simulation -----------------------------------------------

    def report(self, violation: Violation) -> None:
        """Take a violation. The first one ends the run."""
        if self.violation is None:
            self.violation = violation
            self.transcript.note("!", violation.name)
            if not self._failed.done():
                self._failed.set_exception(_Stop())

    def _on_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, _Stop):
            states = (str(context.get("message")), repr(error), _where(error))
            self.report(Violation("no unhandled error (I28)", "an exception reached the loop", states))

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Hold a task until it is done. An exception in it is a violation."""
        self._tasks.append(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            states = (repr(error), _where(error))
            self.report(Violation("no unhandled error (I28)", "a client or the nemesis failed", states))

    def after_crash(self, host: Host) -> None:
        """Boot the machine again, at once or after a while."""
        if host is self.absent:
            return
        down = self.chance.choice((0.001, 0.02, 0.2)) + self.chance.expovariate(1 / self.scenario.fault_s)
        if self.nemesis.over:
            down = 0.05
        self.transcript.counts["restarts"] += 1
        self.loop.later(down, host.start)

    # --- the run -------------------------------------------------------------------------

    def run(self) -> Report:
        """Run both phases. A violation is part of the report; nothing is raised for it."""
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        collects = gc.isenabled()
        gc.disable()  # a run is short, and its garbage is collected afterwards
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._guarded(self._phases()))
        except _Stop:
            pass
        except (Deadlock, Livelock) as error:
            self.report(Violation("liveness (I25)", str(error)))
        except Storm as error:
            self.report(Violation("bounded work (I27)", str(error), self._states()))
        finally:
            for host in self.hosts:
                if host.process is not None:
                    host.process.kill()
            self._bury()
            asyncio.set_event_loop(None)
            if collects:
                gc.enable()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
        return self._result()

    def _bury(self) -> None:
        """Silently end what was under way in dead processes."""
        self.loop.errors = lambda _context: None
        works = [task.get_coro() for task in asyncio.all_tasks(self.loop)]
        for work in (*works, *self.loop.left_behind):
            if inspect.iscoroutine(work) or inspect.isgenerator(work):
                with contextlib.suppress(BaseException):  # its clean-up finds that its disk is gone
                    work.close()
        if self._failed.done():
            self._failed.exception()
        self.loop.close()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        await asyncio.wait([task, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            await self._failed
        await task

    async def _phases(self) -> None:
        for host in self.hosts:
            self.loop.later(self.chance.uniform(0, 0.05), host.start)
        self.nemesis.begin()
        self.reports.begin()
        for client in self.clients:
            self.keep(self.loop.create_task(client.run()))
        for cluster in self.clusters:
            if not cluster.formed:
                self.keep(self.loop.create_task(cluster.form()))
        nemesis = self.loop.create_task(self.nemesis.run())
        nemesis.add_done_callback(self._on_task_done)
        await asyncio.sleep(self.scenario.duration_s)
        nemesis.cancel()
        self.nemesis.heal()
        if self.chance.random() < ABSENT_RATE and not any(cluster.changes for cluster in self.clusters):
            self._leave(self.chance.choice(self.hosts))
        await self._recover()

    def _leave(self, host: Host) -> None:
        """Take a machine away for good. The others must do without it, but with all of their own servers."""
        self.absent = host
        self.transcript.note(host.name, "is gone for good")
        host.crash(power=True)
        for other in self.hosts:
            if other.failed:
                other.crash(power=False)
        self.loop.later(GIVE_UP_S, self.network.reset_clients, host.name)

    async def _leave_if_spared(self, formed: list[SimCluster]) -> None:
        """Perhaps take a machine away for good, if every cluster can spare it."""
        while self._is_changing() or not all(cluster.is_settled() for cluster in formed):  # noqa: ASYNC110  # not an event
            await asyncio.sleep(0.05)
        spared = [host for host in self.hosts if all(cluster.can_spare(host) for cluster in formed)]
        if spared and self.chance.random() < ABSENT_RATE:
            self._leave(self.chance.choice(spared))

    def _is_held(self) -> bool:
        """Whether a node stands still, for instance in its disk."""
        processes = (host.process for host in self.hosts)
        return any(process is not None and process.held_until > self.loop.now for process in processes)

    def _is_changing(self) -> bool:
        """Whether a node still works on a request that may remove a member that a cluster needs."""
        return any(host.node is not None and host.node.rpc.working for host in self.hosts)

    async def _become_well(self) -> list[SimCluster]:
        """Wait for everything that the clusters owe. Returns the clusters that exist."""
        self._phase = "every call of the clients to end"
        for client in self.clients:
            client.stop = True
        await asyncio.gather(*self._tasks)
        formed = [cluster for cluster in self.clusters if cluster.formed]
        if any(cluster.changes for cluster in self.clusters):
            self._phase = "all clusters to have their members"
            await self._leave_if_spared(formed)
        self._phase = "a new command to be committed by each client"
        for cluster in formed:
            await cluster.works()
        self._phase = "overdue timers to fire"
        while any(cluster.timers_owed() for cluster in formed):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._phase = "the ends of processes to be told"
        while any(cluster.ends_owed() for cluster in formed):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._phase = "all members to be equal"
        while not all(cluster.equal() for cluster in formed):  # noqa: ASYNC110  # looks at what others do
            await asyncio.sleep(0.05)
        self._phase = "removed servers to be gone"
        while any(cluster.leftovers() for cluster in formed):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return formed

    async def _recover(self) -> None:
        """Run the second phase: no faults, and everything must become well."""
        start = self.loop.time()
        formed = await self._in_time(self._become_well())
        if formed is None:
            return
        self.recovered_s = self.loop.time() - start
        await asyncio.sleep(SETTLE_S + self.scenario.time.detector_poll_ms / 100)
        terms = _terms(formed)
        await asyncio.sleep(STABLE_S)
        if _terms(formed) != terms:
            states = (f"terms before: {terms}", f"terms after: {_terms(formed)}")
            self.report(Violation("stability (I26)", "an election without any fault", states))
            return
        settled_s = self.loop.time()
        if await self._in_time(self._come_to_rest(formed)) is None:
            return
        self.reports.finish(formed, settled_s)
        judge_strangers(self)
        for host in self.hosts:
            host.check_registry(finished=True)
            host.check_rest()
        for violation in (cluster.check() for cluster in self.clusters):
            if violation is not None:
                self.report(violation)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Wait for this, up to `LIVENESS_S`. Returns None after a violation was reported."""
        try:
            async with asyncio.timeout(LIVENESS_S):
                return await work
        except TimeoutError:
            text = f"waited {LIVENESS_S:.0f} s without faults for {self._phase}"
            leftovers = [who for cluster in self.clusters for who in cluster.leftovers()]
            name = "the removed stay away (I23)" if leftovers else "liveness (I25)"
            owed = [due for c in self.clusters for due in (*c.timers_owed(), *c.ends_owed())]
            self.report(Violation(name, text, (*self._states(), *leftovers, *owed)))
            return None

    async def _come_to_rest(self, formed: list[SimCluster]) -> bool:
        """Read everything once more, and wait until nothing moves.

        A disk may still hang, and its node has then to answer what it was asked meanwhile.
        """
        self._phase = "every object to be read, and the nodes to come to rest"
        for cluster in formed:
            await cluster.shows_all()
        while self._is_held() or self._is_changing() or not all(c.equal() for c in formed):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return True

    def _states(self) -> tuple[str, ...]:
        return tuple(state for cluster in self.clusters for state in cluster.states())

    def _history(self) -> list[Operation]:
        return [operation for client in self.clients for operation in client.history]

    # --- the report ----------------------------------------------------------------------

    def _result(self) -> Report:
        history = self._history()
        counts = self.transcript.counts
        report = Report(
            seed=self.seed,
            scenario=self.scenario,
            hash=self.transcript.hexdigest(),
            violation=self.violation,
            virtual_s=self.loop.time(),
            cluster_s=sum(cluster.lived_s for cluster in self.clusters),
            events=self.transcript.events,
            frames=self.network.frames,
            elections=self.observers.elections,
            restarts=counts["restarts"],
            committed=self.observers.commits,
            operations=len(history),
            unknown=sum(o.outcome is Outcome.UNKNOWN for o in history),
            failed=sum(o.outcome is Outcome.FAIL for o in history),
            undecided=sum(cluster.undecided for cluster in self.clusters),
            looks=self.observers.durability.looks,
            recovered_s=self.recovered_s,
            faults={name: counts[name] for name in self.scenario.faults},
            tail=self.transcript.tail() if self.violation is not None else "",
        )
        report.void = _void(report)
        return report


def _void(report: Report) -> str:
    """Say why a run proves nothing; empty if it counts."""
    if report.committed < COMMITS_MIN:
        return f"void: {report.committed} commits"
    if report.elections < 1:
        return "void: no election"
    if report.undecided:
        return f"void: {report.undecided} histories are not decided"
    idle = [name for name, count in report.faults.items() if not count]
    return f"void: never happened: {', '.join(idle)}" if idle else ""


def _terms(clusters: list[SimCluster]) -> dict[str, int]:
    """The newest term of each cluster: an election raises it. Members may still come meanwhile."""
    return {cluster.name: max(cluster.terms(), default=0) for cluster in clusters}


def _where(error: Any) -> str:
    trace = getattr(error, "__traceback__", None)
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])


def simulate(seed: int, scenario: Scenario | None = None, *, trace: bool = False) -> Report:
    """Run one seed, with the scenario that it draws or with a scenario of yours.

    With `trace`, print every event. The report's `violation` is None for a clean run; `str(report)` explains
    a violation and names the command that repeats the run.
    """
    return Simulation(seed, scenario or draw_scenario(seed), trace=trace).run()
