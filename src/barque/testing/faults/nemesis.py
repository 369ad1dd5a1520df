"""Cause the faults of a scenario, one after the other, and count what really happened.

*Steady* faults (`swarm.STEADY`) are rates of the network that hold for the whole first phase: `begin` sets
them. All other faults are functions without arguments, listed by name. `run` waits for a random time, draws
an order (`fault_schedule`) and tries fault after fault until one counts itself. A fault that finds no victim
does not count. A fault that lasts undoes itself later (`later`), unless all faults end first.

Three rules keep runs useful:

- Each fault of the scenario comes once before any comes again, and sooner when time is short.
- From the second quarter on, all faults rest while a cluster is so far behind that it would hardly commit
  ten commands. They also rest in the second half while the only faults that have not happened yet need a
  cluster that works.
- Faults do not add up without end: a blocked loop, for example, does not begin while another lasts.

`heal` ends the first phase: it undoes everything, starts every node, and upgrades all nodes if one is.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, RequestVoteResult, RequestVoteRpc
from barque.errors import BarqueError
from barque.testing.faults.clusters import ClusterNemesis
from barque.testing.faults.directories import DIRECTORY_FAULTS
from barque.testing.faults.disk import DISK_FAULTS
from barque.testing.faults.fault_schedule import is_behind, order_faults, pause_s
from barque.testing.faults.network import NETWORK_FAULTS
from barque.testing.faults.operators import losing_removal
from barque.testing.faults.process import PROCESS_FAULTS, complete_upgrade
from barque.testing.sim.host import Host
from barque.testing.sim.swarm import STEADY

if TYPE_CHECKING:
    from barque.testing.sim.simulator import Simulation

_CRASH_RATES: dict[type, float] = {
    RequestVoteResult: 0.2,
    RequestVoteRpc: 0.05,
    AppendEntriesReply: 0.005,
    AppendEntriesRpc: 0.002,
}
_LIE_IN_WAIT = ("machine_fails", "recreate", "cancel", "crash_on_send")
"""Faults that need a working cluster: its next command, call or promise, or that it exists."""
_HOUR_MS = 3_600_000
_OF_FRAMES = {"loss", "duplicates", "reordering", "late_frames"}


class Nemesis:
    """Draws faults for one run. `fired` counts them by name."""

    def __init__(self, sim: "Simulation") -> None:
        self.sim = sim
        self.scenario = sim.scenario
        self.rng = sim.rng("nemesis")
        self.fired = sim.transcript.counts
        self.over = False
        self.resting = False
        self._faults: dict[str, Callable[[], None]] = {
            "partition": self.partition,
            "one_way": self.one_way,
            "flapping": self.flapping,
            "disconnect": self.disconnect,
            "client_disconnect": self.client_disconnect,
            "crash": lambda: self._crash("crash", power=False),
            "power_loss": lambda: self._crash("power_loss", power=True),
            "crash_in_disk": self.crash_in_disk,
            "crash_all": self.crash_all,
            "pause": self.pause,
            "blocked_loop": self.blocked_loop,
            "clock_jump": self.clock_jump,
            "transfer": self.transfer,
            **{
                name: partial(fault, self)
                for table in (NETWORK_FAULTS, DISK_FAULTS, DIRECTORY_FAULTS, PROCESS_FAULTS)
                for name, fault in table.items()
            },
            "losing_removal": partial(losing_removal, self),
        }
        self._clusters = ClusterNemesis(self)
        self._faults.update(self._clusters.faults)

    def begin(self) -> None:
        """Start the steady faults, or start them again after a rest."""
        self.resting = False
        scenario, network = self.scenario, self.sim.network
        if "late_frames" in scenario.faults:
            network.tail_rate, network.tail_s = scenario.late_rate, scenario.late_s
        for source in self.sim.names:
            for target in self.sim.names:
                if source != target:
                    faults = network.faults(source, target)
                    faults.drop_rate = scenario.loss_rate if "loss" in scenario.faults else 0.0
                    faults.duplicate_rate = (
                        scenario.duplicate_rate if "duplicates" in scenario.faults else 0.0
                    )
                    faults.reorder_rate = scenario.reorder_rate if "reordering" in scenario.faults else 0.0

    async def run(self) -> None:
        """Cause one fault after the other, without end."""
        names = [name for name in self.scenario.faults if name not in STEADY]
        while names:
            left_s = self.scenario.duration_s - self.sim.loop.time()
            mean_s = pause_s(self.scenario.pace_s, left_s, names, self.fired)
            await asyncio.sleep(self.rng.expovariate(1 / mean_s))
            self._count_cancelled()
            waiting = {name for name in self.scenario.faults if not self.fired[name]} - _OF_FRAMES
            for name in _LIE_IN_WAIT:
                if name in waiting and name in self._faults:
                    self._faults[name]()
            if self._must_rest(waiting):
                self._rest()
            else:
                if self.resting:
                    self.begin()
                self._cause_one_of(names)

    def _share(self) -> float:
        """How much of the time for faults has passed, as a share of 1."""
        return self.sim.loop.time() / self.scenario.duration_s

    def _must_rest(self, waiting: set[str]) -> bool:
        """Whether the run would prove nothing unless the clusters get time to work."""
        if is_behind(self.sim.observers.commits, self._share()):
            return True
        return self._share() > 0.5 and bool(waiting) and waiting <= set(_LIE_IN_WAIT)

    def _cause_one_of(self, names: list[str]) -> None:
        """Cause one fault. A fault that finds no victim gives way to the next."""
        for name in order_faults(names, self.fired, self.rng):
            before = self.fired[name]
            self._faults[name]()
            if self.fired[name] > before:
                return

    def _rest(self) -> None:
        """Let the nodes elect a leader: undo what can be undone, and cause nothing more for a while."""
        self.resting = True
        self.sim.network.reunite()
        for host in self.sim.hosts:
            self._mend(host)
            host.start()

    def _mend(self, host: Host) -> None:
        """Give the host its own disk, give that space, end its errors, and let it start."""
        host.take_back()
        host.kept_down = False
        host.disk.fault = None
        host.disk.space = None
        host.mend_rot()
        if host.process_disk is not None:
            host.process_disk.crash_in = None
            host.process_disk.hang_s = 0.0
            host.process_disk.sync_seconds = self.scenario.sync_s

    def _count_cancelled(self) -> None:
        self.fired["cancel"] = sum(client.cancelled for client in self.sim.clients)

    def heal(self) -> None:
        """Undo all faults, and start every node that is down."""
        self.over = True
        network = self.sim.network
        for name, count in network.counts.items():
            known = {"lost": "loss", "duplicated": "duplicates", "reordered": "reordering"}
            self.fired[known.get(name, "late_frames")] += count
        self._count_cancelled()
        network.heal()
        complete_upgrade(self.sim.hosts)
        for host in self.sim.hosts:
            self._mend(host)
            host.start()
        self._clusters.heal()
        self.sim.transcript.note("", "all faults are over")

    # --- choices -----------------------------------------------------------------------

    def some_host(self) -> Host:
        """Draw a host; half of the time it is the leader's."""
        leaders = [host for host in self.sim.hosts if host.leads()]
        return self.rng.choice(leaders if leaders and self.rng.random() < 0.5 else self.sim.hosts)

    def length(self) -> float:
        """Draw how long a fault lasts, in seconds."""
        return self.rng.expovariate(1 / self.scenario.fault_s)

    def count(self, name: str, who: str) -> None:
        """Count a fault that has happened."""
        self.fired[name] += 1
        self.sim.transcript.note(who, f"fault: {name}")

    def later(self, undo: Callable[[], None], at_least_s: float = 0.0) -> None:
        """End a fault after a while, unless all faults end before."""

        def run() -> None:
            if not self.over:
                undo()

        self.sim.loop.later(at_least_s + self.length(), run)

    def election_s(self) -> float:
        """Half of the time long enough to miss a leader and elect another; otherwise 0."""
        times = self.scenario.time
        return self.rng.choice((0, 3 * times.detector_poll_ms + 20 * times.broadcast_time_ms)) / 1000

    def sent(self, host: Host, message: object) -> None:
        """`crash_on_send`: perhaps crash a process that has just sent a promise."""
        if self.over or "crash_on_send" not in self.scenario.faults or host.process is None:
            return
        rate = _CRASH_RATES.get(type(message), 0.0)
        if rate and self.fired["crash_on_send"]:
            rate *= not self.resting
        elif rate and self._share() > 0.5:
            rate *= 4  # it has not happened yet
        if rate and self.rng.random() < rate:
            process, power = host.process, self.rng.random() < 0.7
            self.count("crash_on_send", host.name)

            def die() -> None:
                if host.process is process and not self.over:
                    host.crash(power=power)

            self.sim.loop.later(self.rng.choice((0.0, 1.0)) * self.rng.random() * 0.01, die)

    # --- the network ---------------------------------------------------------------------

    def _sides(self) -> tuple[list[str], list[str]]:
        """Split the nodes into two parts, and give each client one of them."""
        names = list(self.sim.names)
        self.rng.shuffle(names)
        one = {self.some_host().name, *names[: self.rng.randrange(0, len(names) // 2)]}
        sides = ([n for n in self.sim.names if n in one], [n for n in self.sim.names if n not in one])
        for client in self.sim.clients:
            sides[self.rng.randrange(2)].append(client.name)
        return sides

    def partition(self) -> None:
        """Nothing passes between two parts; half of the time the links break as well."""
        one, other = self._sides()
        self.count("partition", "|".join(one))
        self.sim.network.partition(one, other)
        if self.rng.random() < 0.5:
            for source in one:
                for target in other:
                    if source in self.sim.names and target in self.sim.names:
                        self.sim.network.disconnect(source, target)
        self.later(lambda: self._join(one, other), self.election_s())

    def one_way(self) -> None:
        """Nothing passes from one part to the other."""
        one, other = self._sides()
        self.count("one_way", "|".join(one))
        self.sim.network.partition(one, other, one_way=True)
        self.later(lambda: self._join(one, other), self.election_s())

    def _join(self, one: list[str], other: list[str]) -> None:
        for source in one:
            for target in other:
                self.sim.network.faults(source, target).cut = False
                self.sim.network.faults(target, source).cut = False
        self.sim.transcript.note("|".join(one), "joined again")

    def flapping(self) -> None:
        """One link comes and goes, about as fast as elections."""
        one, other = self.rng.sample(self.sim.names, 2)
        self.count("flapping", f"{one}-{other}")
        period = self.scenario.time.broadcast_time_ms * self.rng.uniform(0.5, 5) / 1000

        def flip(times: int) -> None:
            if not self.over:
                faults = self.sim.network.faults(one, other)
                faults.cut = times % 2 == 1
                self.sim.network.faults(other, one).cut = faults.cut
                if times:
                    self.sim.loop.later(period, flip, times - 1)

        flip(2 * self.rng.randrange(1, 10))

    def disconnect(self) -> None:
        """A connection is reset; frames under way are lost."""
        one, other = self.rng.sample(self.sim.names, 2)
        self.count("disconnect", f"{one}-{other}")
        self.sim.network.disconnect(one, other)

    def client_disconnect(self) -> None:
        """A client's connection is reset."""
        if self.sim.network.break_client(self.rng):
            self.count("client_disconnect", "")

    # --- processes -----------------------------------------------------------------------

    def _crash(self, name: str, *, power: bool) -> None:
        host = self.some_host()
        if host.up:
            self.count(name, host.name)
            host.crash(power=power)

    def crash_in_disk(self) -> None:
        """A process dies between two of the next operations of its disk."""
        host = self.some_host()
        if host.process_disk is not None and host.up and host.process_disk.crash_in is None:
            self.count("crash_in_disk", host.name)
            host.loses_power = self.rng.random() < 0.7
            host.process_disk.crash_in = self.rng.randrange(1, 40)

    def crash_all(self) -> None:
        """All running machines lose power at once."""
        if any(host.up for host in self.sim.hosts):
            self.count("crash_all", "all")
            for host in self.sim.hosts:
                host.crash(power=True)

    def pause(self) -> None:
        """A process is stopped (SIGSTOP), and goes on later with everything that waits."""
        host = self.some_host()
        if host.up and host.process is not None:
            self.count("pause", host.name)
            host.process.freeze(self.sim.loop.time() + self.length())

    def clock_jump(self) -> None:
        """A wall clock is set forward or back."""
        host = self.some_host()
        if host.clock is not None:
            self.count("clock_jump", host.name)
            jump_ms = self.rng.choice((-1, 1)) * self.rng.choice((10, 1_000, _HOUR_MS))
            host.clock.jump(jump_ms)
            if abs(jump_ms) == _HOUR_MS:
                observers = self.sim.observers
                observers.clocks.set_wrong(host.name, observers.now_ms())

    def transfer(self) -> None:
        """An operator transfers the leadership."""
        client, target = self.rng.choice(self.sim.clients), self.rng.choice(self.sim.names)
        self.count("transfer", target)

        async def ask() -> None:
            try:
                await client.ask(lambda own: own.transfer_leadership(client.cluster, target))
            except BarqueError as error:
                self.sim.transcript.note(client.name, f"transfer: {type(error).__name__}")

        self.sim.keep(self.sim.loop.create_task(ask()))

    def blocked_loop(self) -> None:
        """A call in a node takes long: its loop does nothing else, and its clock runs on.

        No call blocks a node while another one does: together they could outlast the time for liveness.
        """
        host = self.some_host()
        if host.up and host.process is not None and host.process.busy_until <= self.sim.loop.now:
            self.count("blocked_loop", host.name)
            host.process.charge(min(self.length(), 5.0))
