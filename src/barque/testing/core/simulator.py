"""Run core servers under faults, from a seed: `simulate_core`, the small and fast sibling of `simulate`.

A seed draws a world (`world`), its faults and its clients. In the first phase faults happen. The cluster's
`InvariantObserver` checks elections, votes, commits and logs after every step. In the second phase all faults
have ended: a command must be committed, the members must become equal, a read must be answered, and then no
election may start. In the end `history` judges what the clients saw.

This cannot find defects of files, frames and the runtime.
"""

import gc
import random
from collections import Counter
from collections.abc import Callable

import msgspec

from barque.core.configuration import may_change
from barque.core.entries import EntryKind, decode_cluster, kind_of
from barque.core.messages import (
    ElectionTimeout,
    JoinMember,
    LeaveMember,
    Message,
    NodeStatus,
    TransferLeadership,
    WalFailed,
    WalUp,
)
from barque.errors import InvariantViolation
from barque.testing.checkers.history import Operation, Outcome, check_history
from barque.testing.checkers.safety import Violation
from barque.testing.core.cluster import CLIENT, Member
from barque.testing.core.swarm import MEMBER_FAULTS, STEADY, CoreScenario, draw_core_scenario
from barque.testing.core.world import CoreWorld, WorldConfig
from barque.testing.faults.fault_schedule import COMMITS_MIN, is_behind, order_faults, pause_s
from barque.testing.sim.loop import Storm
from barque.types import Membership, ReplyMode, ServerId, Uid

LIVENESS_S = 60.0


class CoreReport(msgspec.Struct, kw_only=True):
    """What one seed did. Fields that `sim.simulator.Report` also has mean the same there."""

    seed: int
    scenario: CoreScenario
    violation: Violation | None = None
    void: str = ""
    virtual_s: float = 0.0
    events: int = 0
    elections: int = 0
    committed: int = 0
    operations: int = 0
    unknown: int = 0
    faults: dict[str, int] = {}
    hash: str = ""

    def __str__(self) -> str:
        if self.violation is None:
            return f"core seed {self.seed}: {self.void or 'clean'}"
        return (
            f"core seed {self.seed} violates a property after {self.virtual_s:.3f} virtual seconds\n"
            f"{self.violation}\nreplay: barque simulate --core --seed {self.seed}"
        )


class CoreSimulation:
    """One run of one seed. Make it, then call `run` once."""

    def __init__(self, seed: int, scenario: CoreScenario) -> None:
        self.seed = seed
        self.scenario = scenario
        self.passing = [name for name in scenario.faults if name not in STEADY]
        self.rng = random.Random(f"{seed}/core nemesis")  # noqa: S311  # repeatable on purpose
        world_rng = random.Random(f"{seed}/core world")  # noqa: S311
        self.world = CoreWorld(scenario.world, world_rng)
        self.whole = frozenset(self.world.links)
        self.fired: Counter[str] = Counter()
        self.over = False
        self.elements = 0

    def run(self) -> CoreReport:
        """Run both phases. A violation is part of the report; nothing is raised for it."""
        violation: Violation | None = None
        collects = gc.isenabled()
        gc.disable()  # a run is short, and its garbage is collected afterwards
        try:
            violation = self._phases()
        except InvariantViolation as error:
            violation = Violation("an invariant of the core", str(error), self._states())
        except Storm as error:
            violation = Violation("bounded work (I27)", str(error), self._states())
        except Exception as error:
            violation = Violation("no unhandled error (I28)", f"{error!r}", self._states())
        finally:
            if collects:
                gc.enable()
        world = self.world
        history = world.history
        return CoreReport(
            seed=self.seed,
            scenario=self.scenario,
            violation=violation,
            void=self._void(),
            virtual_s=world.now,
            events=world.events,
            elections=len(world.cluster.observer.leaders),
            committed=len(world.cluster.observer.committed),
            operations=len(history),
            unknown=sum(o.outcome is Outcome.UNKNOWN for o in history),
            faults=dict(self.fired),
            hash=f"{world.events}/{world.now!r}/{world.terms()}/{len(history)}",
        )

    def _void(self) -> str:
        """Say why this run proves nothing; empty if it counts."""
        commits = len(self.world.cluster.observer.committed)
        if commits < COMMITS_MIN:
            return f"void: {commits} commits"
        idle = [name for name in self.passing if not self.fired[name]]
        return f"void: never happened: {', '.join(idle)}" if idle else ""

    def _phases(self) -> Violation | None:
        world, scenario = self.world, self.scenario
        first = self.rng.choice(world.names)
        world.cluster[first].handle(ElectionTimeout())
        world.settle(first)
        world.after(0.0, self._work)
        if self.passing:
            self._cause_later()
        world.run(scenario.duration_s)
        self._heal()
        return self._recover() or self._judge()

    def _judge(self) -> Violation | None:
        self.world.cluster.observer.check_logs()
        anomaly = check_history(self.world.history)
        if anomaly is not None:
            shown = tuple(map(str, anomaly.operations))
            return Violation("linearizability (I14 to I17)", anomaly.text, shown)
        states = [server.machine_state for server in self.world.servers()]
        if any(state != states[0] for state in states):
            return Violation("same state (I18)", "equal logs, different machines", tuple(map(str, states)))
        return None

    # --- clients ---------------------------------------------------------------------------

    def _work(self) -> None:
        if self.over:
            return
        rng, world = self.rng, self.world
        world.after(rng.expovariate(self.scenario.operations_a_s), self._work)
        leaders = [member.id.name for member in world.leaders()]
        name = rng.choice(leaders if leaders and rng.random() > self.scenario.anyone else world.names)
        if rng.random() < self.scenario.read_share:
            world.read(name)
        else:
            self._append(name)

    def _append(self, name: str) -> Operation:
        self.elements += 1
        return self.world.append(name, f"e{self.elements}")

    # --- faults ----------------------------------------------------------------------------

    def _cause(self) -> None:
        if self.over:
            return
        self._cause_later()
        self.world.config = self.scenario.world
        committed = len(self.world.cluster.observer.committed)
        if is_behind(committed, self.world.now / self.scenario.duration_s):
            self._rest()
            return
        for name in self._order_faults():
            if getattr(self, f"_{name}")() is not False:
                self.fired[name] += 1
                return

    def _cause_later(self) -> None:
        left_s = self.scenario.duration_s - self.world.now
        mean_s = pause_s(self.scenario.pace_s, left_s, self.passing, self.fired)
        self.world.after(self.rng.expovariate(1 / mean_s), self._cause)

    def _rest(self) -> None:
        """Stop all faults, and keep slow disks and links in time, so that the members can elect a leader."""
        self.world.config = msgspec.structs.replace(self.world.config, **_in_time(self.world.config))
        self._join()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Start an election if there was none: after a late disk in the first, all wait (ELEC-20)."""
        if not any(self.world.terms()):
            self._election()

    def _order_faults(self) -> list[str]:
        """Return the faults in the order in which to try them."""
        names = order_faults(self.passing, self.fired, self.rng)
        if {"leave", "enter"} <= set(names) and not (self.fired["enter"] or self._absent()):
            names.insert(names.index("enter"), "leave")  # nothing can enter before something has left
        return names

    def _length(self) -> float:
        return self.rng.expovariate(1 / self.scenario.fault_s)

    def _someone(self) -> str:
        return self.rng.choice(self.world.names)

    def _join_later(self) -> None:
        election_s = self.scenario.world.time.detector_poll_ms / 1000
        self.world.after(self._length() + self.rng.choice((0.0, 2.0)) * election_s, self._join)

    def _join(self) -> None:
        self.world.links = set(self.whole)

    def _partition(self) -> None:
        names = list(self.world.names)
        self.rng.shuffle(names)
        one = names[: self.rng.randrange(1, len(names))]
        self.world.links = {(x, y) for x, y in self.world.links if (x in one) == (y in one)}
        self._join_later()

    def _one_way(self) -> None:
        one = self._someone()
        self.world.links = {(x, y) for x, y in self.world.links if x != one}
        self._join_later()

    def _flapping(self) -> None:
        one, other = self.rng.sample(self.world.names, 2)
        self.world.links -= {(one, other), (other, one)}
        self._join_later()

    def _disconnect(self) -> None:
        self.world.disconnect(*self.rng.sample(self.world.names, 2))

    def _crash(self, name: str | None = None) -> bool:
        name = name or self._someone()
        up = self.world.cluster[name].up
        keep = self.rng.choice((0, 0, 1, 100))
        self.world.crash(name, keep, self.rng.choice((0.0, 0.01)) + self._length())
        return up

    def _crash_leader(self) -> bool:
        return any(self._crash(member.id.name) for member in self.world.leaders()[:1])

    def _crash_all(self) -> bool:
        were_up = [self._crash(name) for name in self.world.names]
        return any(were_up)

    def _pause(self) -> bool:
        name = self._someone()
        self.world.freeze(name, self._length())
        return self.world.cluster[name].up

    def _tell(self, name: str, message: Message) -> bool:
        """Hand a message to a member. Returns whether the member is up."""
        up = self.world.cluster[name].up
        self.world.handle(name, self.world.machines[name].boots, message)
        return up

    def _transfer(self) -> bool:
        target = self.world.cluster[self._someone()].id
        order = TransferLeadership(CLIENT, 1 << 40, target)
        return any(self._tell(member.id.name, order) for member in self.world.leaders()[:1])

    def _election(self) -> bool:
        return self._tell(self._someone(), ElectionTimeout())

    def _suspicion(self) -> bool:
        one, other = self.rng.sample(self.world.names, 2)
        return self._tell(one, NodeStatus(f"node_{other}", self.rng.random() < 0.5))

    def _coup(self) -> bool:
        """Cut off a leader, perhaps with a companion, and let another member campaign at once."""
        leaders = self.world.leaders()
        if not leaders:
            return False
        old = leaders[0].id.name
        others = [name for name in self.world.names if name != old]
        self.rng.shuffle(others)
        part = {old, *others[: self.rng.randrange((len(others) + 1) // 2)]}
        self.world.links = {(x, y) for x, y in self.world.links if (x in part) == (y in part)}
        rest = [name for name in others if name not in part]
        self.world.handle(rest[0], self.world.machines[rest[0]].boots, ElectionTimeout())
        self._join_later()
        return True

    def _wal_failed(self) -> bool:
        name = self._someone()
        member = self.world.cluster[name]
        machine = self.world.machines[name]
        boot = machine.boots
        if not (member.up and member.log.can_write() and machine.held_until <= self.world.now):
            return False
        member.sync()
        self.world.handle(name, boot, WalFailed("planned"))
        self.world.after(self._length(), self._wal_up, name, boot)
        return True

    def _wal_up(self, name: str, boot: int) -> None:
        if not self.world.cluster[name].log.can_write():
            self.world.handle(name, boot, WalUp())

    # --- membership ------------------------------------------------------------------------

    def _leave(self) -> bool:
        leaders = self.world.leaders()
        if not leaders or len(leaders[0].server.cluster) == 1:
            return False
        return self._ask_leave(leaders[0], self.rng.choice(list(leaders[0].server.cluster)))

    def _ask_leave(self, leader: Member, who: ServerId) -> bool:
        return self._tell(leader.id.name, LeaveMember(CLIENT, 1 << 41, ReplyMode.AWAIT_CONSENSUS, who))

    def _absent(self) -> list[str]:
        return [name for name, machine in self.world.machines.items() if machine.gone]

    def _enter(self) -> bool:
        leaders = self.world.leaders()
        absent = self._absent()
        if not (leaders and absent and may_change(leaders[0].server)):
            return False  # as a leader's node, which tells a new server what is committed
        name = self.rng.choice(absent)
        self.world.replace(name, leaders[0])
        self._ask_join(leaders[0], name, self.rng.choice(list(Membership)))
        return True

    def _change(self) -> bool:
        leaders = self.world.leaders()
        if not leaders:
            return False
        name, membership = self._someone(), self.rng.choice(list(Membership))
        voters = {member.name for member, peer in leaders[0].server.cluster.items() if peer.voter}
        if membership is not Membership.VOTER and voters == {name}:
            return False  # without a voter the cluster would end
        return self._ask_join(leaders[0], name, membership)

    def _ask_join(self, leader: Member, name: str, membership: Membership) -> bool:
        there = self.world.cluster[name]
        new = there.id in leader.server.cluster or not self._was_member(there.log.uid)
        if not new or self.world.machines[name].gone:
            return False
        mode = ReplyMode.AWAIT_CONSENSUS
        join = JoinMember(CLIENT, 1 << 41, mode, there.id, there.log.uid, membership)
        return self._tell(leader.id.name, join)

    def _complete(self) -> None:
        """Do what an operator would do, until a voter holds every place."""
        world = self.world
        world.after(0.1, self._complete)
        for leader in world.leaders()[:1]:
            present = world.members_of_last()
            for name, machine in world.machines.items():
                there = world.cluster[name]
                peer = leader.server.cluster.get(there.id)
                uid = there.log.uid
                if machine.gone:
                    if may_change(leader.server):
                        world.replace(name, leader)
                elif peer is None and uid not in present and self._was_member(uid):
                    world.remove(name, uid)
                elif peer is not None and peer.uid not in (None, uid):
                    self._ask_leave(leader, there.id)
                elif peer is None or not peer.voter:
                    self._ask_join(leader, name, Membership.VOTER)

    def _was_member(self, uid: Uid) -> bool:
        """Whether a committed configuration has named this uid; a removed server does not come back."""
        if uid in {f"uid_{name}" for name in self.world.names}:
            return True
        changes = (
            decode_cluster(entry.body)
            for entry, _ in self.world.cluster.observer.committed
            if kind_of(entry.body) is EntryKind.CLUSTER_CHANGE
        )
        return any(record.uid == uid for records in changes for record in records)

    # --- the second phase ------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        self.over = True
        if any(name in MEMBER_FAULTS for name in self.scenario.faults):
            self._complete()
        world.config = msgspec.structs.replace(
            world.config, loss_rate=0.0, duplicate_rate=0.0, reorder_rate=0.0, **_in_time(world.config)
        )
        self._join()

    def _recover(self) -> Violation | None:
        world = self.world
        start = world.now
        goals = (("a command to be committed", self._commits()), ("all to be equal", self._equal))
        for what, reached in goals:
            if not world.run(LIVENESS_S - (world.now - start), reached):
                text = f"waited {LIVENESS_S:.0f} s without faults for {what}"
                return Violation("liveness (I25)", text, self._states())
        world.run(2.0 + 3 * world.config.time.detector_poll_ms / 1000)  # old suspicions end in this time
        if not world.run(LIVENESS_S - (world.now - start), self._reads()):
            return Violation("liveness (I25)", "no read is answered", self._states())
        terms = world.terms()
        world.run(3.0)
        if world.terms() != terms:
            return Violation("stability (I26)", "an election without any fault", self._states())
        return None

    def _commits(self) -> Callable[[], bool]:
        asked: list[Operation] = []

        def ask() -> None:
            if not any(operation.outcome is Outcome.OK for operation in asked):
                asked.extend(self._append(member.id.name) for member in self.world.leaders()[:1])
                self._begin_anew()
                self.world.after(0.1, ask)

        ask()
        return lambda: any(operation.outcome is Outcome.OK for operation in asked[-50:])

    def _reads(self) -> Callable[[], bool]:
        asked: list[Operation] = []

        def ask() -> None:
            if not any(operation.outcome is Outcome.OK for operation in asked):
                asked.extend(self.world.read(member.id.name) for member in self.world.leaders()[:1])
                self.world.after(0.1, ask)

        ask()
        return lambda: any(operation.outcome is Outcome.OK for operation in asked[-50:])

    def _equal(self) -> bool:
        members = list(self.world.cluster.members.values())
        if not all(member.up and len(member.server.cluster) == len(members) for member in members):
            return False
        if not all(member.server.is_voter(member.id) for member in members):
            return False
        found = [
            (s.last_applied, s.log.last_index_term(), s.log.last_written(), s.leader_id, s.current_term)
            for s in self.world.servers()
        ]
        same = all(fact == found[0] for fact in found)
        return same and len(self.world.leaders()) == 1 and found[0][0] == found[0][1].index

    def _states(self) -> tuple[str, ...]:
        return tuple(
            f"{s.id}: {s.raft_state}, term {s.current_term}, follows {s.leader_id}, voted {s.voted_for}, "
            f"log to {s.log.last_index_term()}, on disk {s.log.last_written()}, commit {s.commit_index}, "
            f"applied {s.last_applied}"
            for s in self.world.servers()
        )


def simulate_core(seed: int, scenario: CoreScenario | None = None) -> CoreReport:
    """Run one seed of a core world, with the scenario that it draws or with one of yours."""
    return CoreSimulation(seed, scenario or draw_core_scenario(seed)).run()


def _in_time(config: WorldConfig) -> dict[str, tuple[float, float]]:
    """Keep latencies and syncs far below an election timeout, as liveness requires (§3.9)."""
    most = config.time.detector_poll_ms / 1000 / 10
    spans = {"latency_s": config.latency_s, "sync_s": config.sync_s, "meta_sync_s": config.meta_sync_s}
    return {name: (min(span[0], most), min(span[1], most)) for name, span in spans.items()}
