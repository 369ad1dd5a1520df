"""Random schedules on three and five members: messages lost, repeated and reordered, disks that lag,
crashes, partitions, failing logs, members that come and go, wiped disks, snapshots. What must never
happen is checked after every step by the cluster's
`InvariantObserver` and by the histories kept here; then everything heals, and somebody must lead.

One seed decides everything and is part of the test's name: `pytest -k "seed-17"` runs it again.
`BARQUE_SEEDS=5000` runs more of them.
"""

import os
import random
from typing import Any

import msgspec
import pytest

from barque.core.configuration import may_change
from barque.core.effects import Rejected
from barque.core.entries import decode_head
from barque.core.messages import (
    ElectionTimeout,
    NodeStatus,
    ReceiveSnapshotTimeout,
    SenderOutcome,
    ServerDown,
    SnapshotRetryTimeout,
    SnapshotSenderDown,
    Tick,
    WalFailed,
    WalUp,
)
from barque.core.state import RaftState
from barque.machine.effects import ReleaseCursor
from barque.machine.machine import Builtin, CommandMeta, Machine, Result
from barque.testing.core.cluster import CoreCluster, Member
from barque.types import Membership, ReplyMode

SEEDS = int(os.environ.get("BARQUE_SEEDS", "300"))
STEPS = int(os.environ.get("BARQUE_STEPS", "1500"))
ACKED = (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY)


class Journal(Machine[list[Any]]):
    """Keeps what it was told; replies with the position. May ask for a snapshot every so often."""

    def __init__(self, snapshot_every: int = 0) -> None:
        self.snapshot_every = snapshot_every

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Result[list[Any]]:
        """Write it down."""
        if not isinstance(command, Builtin):
            state.append(command)
            if self.snapshot_every and len(state) % self.snapshot_every == 0:
                return state, len(state), [ReleaseCursor(meta.index, list(state))]
        return state, len(state)

    def query(self, query: Any, state: list[Any]) -> list[Any]:
        """All of it."""
        return list(state)


class Walk:
    """One random schedule, its own mix of faults, and what clients know."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        names = "abc" if rng.random() < 0.6 else "abcde"
        settings = {
            "max_append_entries_rpc_batch_size": rng.choice([1, 2, 4096]),
            "max_pipeline_count": rng.choice([2, 4, 16384]),
            "low_priority_commands_flush_size": rng.choice([1, 3]),
        }
        self.cluster = CoreCluster(
            *names,
            machine=Journal(rng.choice([0, 0, 3, 10])),
            settings=settings,
            hold_meta=rng.random() < 0.5,
            defer_flush=rng.random() < 0.5,
        )
        self.old: list[Any] = []  # messages that may come once more, much later
        self.values = 0
        self.proposed: dict[int, Any] = {}  # correlation: value
        self.acked: set[Any] = set()
        self.refused: set[Any] = set()
        self.asked: dict[int, set[Any]] = {}  # correlation of a read: what it has to see
        self.reads = 0
        # Swarm: each walk has its own weights; some faults are missing altogether.
        self.weights = {
            "deliver": 60,
            "sync": 12,
            "sync_meta": 8,
            "command": 6,
            "expire": 4,
            "tick": 2,
            "flush": 2,
            "hear": 3,
            "query": rng.choice([0, 2, 4]),
            "drop": rng.choice([0, 1, 8]),
            "duplicate": rng.choice([0, 2, 8]),
            "replay": rng.choice([0, 1, 3]),
            "crash": rng.choice([0, 0.3, 1]),
            "partition": rng.choice([0, 0.2, 0.6]),
            "heal": 0.6,
            "election": rng.choice([0, 0.3, 1, 3]),
            "transfer": rng.choice([0, 0.3, 1]),
            "wal_failed": rng.choice([0, 0, 0.4]),
            "wal_up": 0.8,
            "suspect": rng.choice([0, 0.3]),
            "remember": 1,
            "mail": 3,
            "coup": rng.choice([0, 0.3]),
        }
        if rng.random() < 0.6:  # harsh: leaders come and go before anything is finished
            self.weights |= {
                "coup": rng.choice([1, 2, 4]),
                "heal": 2,
                "crash": rng.choice([0.5, 2]),
                "expire": 8,
                "sync": rng.choice([3, 12]),
                "flush": 6,
                "hear": rng.choice([1, 4]),
                "command": 10,
            }
        self.chunk_bytes = rng.choice([100, 1 << 20])
        for member in self.cluster.members.values():
            member.log.snapshots.chunk_bytes = self.chunk_bytes
        self.fifo = rng.random() < 0.3
        self.weights |= {"sender": 1, "retry": 1, "receive_timeout": 0.3}
        self.wiped: str | None = None  # came back without its data, and is no voter again yet
        if rng.random() < 0.5:
            self.weights |= {"join": 6, "leave": rng.choice([0, 3]), "wipe": rng.choice([0, 1])}
            if rng.random() < 0.7:  # mild: changes need a leader that stays
                self.weights |= {"coup": 0.1, "election": 0.1, "expire": 1, "heal": 2, "deliver": 120}
                self.weights |= {"drop": rng.choice([0, 1]), "replay": rng.choice([0, 1]), "sync": 20}

    # --- one step --------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Walk, then heal and demand progress."""
        operations = list(self.weights)
        weights = [self.weights[operation] for operation in operations]
        self.elect_first()
        for step, operation in enumerate(self.random.choices(operations, weights, k=steps)):
            getattr(self, f"do_{operation}")(self.cluster[self.random.choice(list(self.cluster.members))])
            self.read_answers()
            if step % 50 == 0:
                self.check()
        self.check()
        self.heal_and_progress()
        self.check()

    def elect_first(self) -> None:
        """ELEC-20: an empty log waits to be asked."""
        self.cluster["a"].handle(ElectionTimeout())

    def do_deliver(self, _member: Member) -> None:
        network = self.cluster.network
        if not network:
            return
        if not self.fifo and self.random.random() < 0.5:
            network.rotate(-self.random.randrange(len(network)))
        envelope = network.popleft()
        if self.random.random() < 0.1:
            self.old.append(envelope)
        self.cluster.arrive(*envelope)

    def do_drop(self, _member: Member) -> None:
        network = self.cluster.network
        if network:
            network.rotate(-self.random.randrange(len(network)))
            network.popleft()

    def do_duplicate(self, _member: Member) -> None:
        network = self.cluster.network
        if network:
            network.append(network[self.random.randrange(len(network))])

    def do_replay(self, _member: Member) -> None:
        if self.old:
            self.cluster.arrive(*self.random.choice(self.old[-60:]))

    def do_sync(self, member: Member) -> None:
        member.sync()

    def do_flush(self, member: Member) -> None:
        member.flush()

    def do_hear(self, member: Member) -> None:
        member.hear()

    def do_sync_meta(self, member: Member) -> None:
        member.sync_meta()

    def do_command(self, member: Member) -> None:
        leaders = [m for m in self.cluster.members.values() if m.server.raft_state is RaftState.LEADER]
        if leaders and self.random.random() < 0.8:
            member = self.random.choice(leaders)
        values = [self.values + i for i in range(self.random.choice([1, 1, 2, 5]))]
        self.values += len(values)
        mode = self.random.choice([ReplyMode.AWAIT_CONSENSUS, ReplyMode.AWAIT_CONSENSUS, *ReplyMode])
        first = self.cluster.correlation
        if mode is not ReplyMode.NOREPLY:
            self.proposed |= {first + i: (value, mode) for i, value in enumerate(values)}
        self.cluster.command(member.id.name, *values, mode=mode, low_priority=self.random.random() < 0.2)

    def do_query(self, member: Member) -> None:
        leaders = [m for m in self.cluster.members.values() if m.server.raft_state is RaftState.LEADER]
        if leaders and self.random.random() < 0.8:
            member = self.random.choice(leaders)
        self.asked[self.cluster.correlation] = set(self.acked)
        self.cluster.query(member.id.name)

    def do_expire(self, member: Member) -> None:
        member.expire()

    def do_election(self, member: Member) -> None:
        member.handle(ElectionTimeout())

    def do_transfer(self, member: Member) -> None:
        self.cluster.transfer(member.id.name, self.random.choice(list(self.cluster.members)))

    def do_tick(self, member: Member) -> None:
        member.handle(Tick(self.cluster.environment.time_ms))

    def do_suspect(self, member: Member) -> None:
        other = self.random.choice(self.cluster.ids)
        up = self.random.random() < 0.5
        member.handle(NodeStatus(other.node, up) if self.random.random() < 0.7 else ServerDown(other, up))

    def do_crash(self, member: Member) -> None:
        member.restart(keep=self.random.choice([0, 0, 1, 100]))

    def do_partition(self, _member: Member) -> None:
        names = list(self.cluster.members)
        self.random.shuffle(names)
        at = self.random.randrange(1, len(names))
        self.cluster.partition("".join(names[:at]), "".join(names[at:]))
        if self.random.random() < 0.3:  # in one direction only
            self.cluster.cut = {link for link in self.cluster.cut if link[0].name in names[:at]}

    def do_coup(self, member: Member) -> None:
        """Cut a leader off, with perhaps a companion, and let another stand for election."""
        leaders = [m for m in self.cluster.members.values() if m.server.raft_state is RaftState.LEADER]
        if not leaders:
            member.handle(ElectionTimeout())
            return
        old = self.random.choice(leaders).id.name
        others = [name for name in self.cluster.members if name != old]
        self.random.shuffle(others)
        minority = others[: self.random.randrange((len(others) + 1) // 2)]
        rest = [name for name in others if name not in minority]
        self.cluster.partition(old + "".join(minority), "".join(rest))
        self.cluster[rest[0]].handle(ElectionTimeout())

    def do_heal(self, _member: Member) -> None:
        self.cluster.heal()

    def do_wal_failed(self, member: Member) -> None:
        if member.log.can_write():
            member.hear()
            member.handle(WalFailed("planned"))

    def do_wal_up(self, member: Member) -> None:
        if not member.log.can_write():
            member.handle(WalUp())

    def do_mail(self, member: Member) -> None:
        member.read_mail()

    def do_remember(self, member: Member) -> None:
        member.remember_applied()

    # --- members and snapshots -------------------------------------------------------------

    def leader(self) -> Member | None:
        """The newest leader, if one may change the cluster."""
        able = [
            m
            for m in self.cluster.members.values()
            if m.server.raft_state is RaftState.LEADER and may_change(m.server)
        ]
        return max(able, key=lambda m: m.server.current_term, default=None)

    def do_join(self, _member: Member) -> None:
        """Add somebody, or change what one may do; a wiped one is told apart by its uid."""
        leader = self.leader()
        if leader is None:
            return
        name = self.random.choice("abcdefg"[: len(self.cluster.ids) + 2])
        if name not in self.cluster.members:
            self.cluster.add(name).log.snapshots.chunk_bytes = self.chunk_bytes
        if self.cluster[name].stopped is not None:
            self.cluster[name].start()
        if self.wiped is not None:
            name, membership = self.wiped, Membership.PROMOTABLE
        else:
            membership = self.random.choice([Membership.VOTER, Membership.VOTER, *Membership])
        self.cluster.join(leader.id.name, name, membership)

    def do_leave(self, _member: Member) -> None:
        leader = self.leader()
        if leader is not None and self.wiped is None and len(leader.server.cluster) > 2:
            self.cluster.leave(leader.id.name, self.random.choice(list(leader.server.cluster)).name)

    def do_wipe(self, _member: Member) -> None:
        """Only one at a time, and only while the others are a majority without it."""
        leader = self.leader()
        if leader is None or self.wiped is not None:
            return
        voters = [m.name for m, peer in leader.server.cluster.items() if peer.voter]
        name = self.random.choice(voters)
        if len(voters) >= 3 and name != leader.id.name and self.cluster[name].up:
            self.wiped = name
            self.values += 1
            self.cluster[name].wipe(f"uid_{name}_{self.values}")
            self.cluster[name].log.snapshots.chunk_bytes = self.chunk_bytes

    def readmit(self) -> None:
        """Look whether the wiped member is a voter again, and ask for that if it is not."""
        leader = self.leader()
        if self.wiped is None or leader is None:
            return
        member = self.cluster[self.wiped]
        peer = leader.server.cluster.get(member.id)
        if peer is not None and peer.voter and peer.uid == member.log.uid:
            self.wiped = None
        else:
            self.do_join(leader)

    def do_sender(self, member: Member) -> None:
        if member.server.raft_state is RaftState.LEADER and member.senders:
            other = self.random.choice(list(member.senders))
            member.handle(SnapshotSenderDown(other, self.random.choice(list(SenderOutcome))))

    def do_retry(self, member: Member) -> None:
        retries, member.retries = member.retries, {}
        for other in retries:
            member.handle(SnapshotRetryTimeout(other))

    def do_receive_timeout(self, member: Member) -> None:
        if member.server.raft_state is RaftState.RECEIVE_SNAPSHOT:
            member.handle(ReceiveSnapshotTimeout())

    # --- what clients see ------------------------------------------------------------------

    def read_answers(self) -> None:
        """Take the answers; judge the reads at once."""
        for answer in self.cluster.answers:
            if isinstance(answer, Rejected):
                for correlation in range(answer.first_correlation, answer.first_correlation + answer.count):
                    if correlation in self.proposed:
                        self.refused.add(self.proposed[correlation][0])
                    self.asked.pop(correlation, None)
                continue
            for offset, reply in enumerate(answer.replies):
                correlation = answer.first_correlation + offset
                if correlation in self.asked:
                    self.reads += 1
                    assert self.asked[correlation] <= set(reply), f"a stale read: {answer}"
                    assert reply == self.committed()[: len(reply)]
                elif correlation in self.proposed and self.proposed[correlation][1] in ACKED:
                    value = self.proposed[correlation][0]
                    assert self.committed()[reply - 1] == value, "the answer to another command"
                    self.acked.add(value)
        self.cluster.answers.clear()

    def committed(self) -> list[Any]:
        """The user commands that leaders have committed, in their order."""
        bodies = [entry.body for entry, _ in self.cluster.observer.committed]
        heads = [decode_head(body) for body in bodies]
        return [
            msgspec.msgpack.decode(body[head.size + 4 :])
            for body, head in zip(bodies, heads, strict=True)
            if head.kind == 0
        ]

    def check(self) -> None:
        """What must hold of the whole at any time."""
        self.cluster.observer.check_logs()
        committed = self.committed()
        assert len(set(committed)) == len(committed), "a command happened twice"
        assert self.acked <= set(committed), "an acknowledged command is gone"
        assert not self.refused & set(committed), "a refused command happened"
        for member in self.cluster.members.values():
            state = member.server.machine_state
            assert state == committed[: len(state)], f"{member.id} has applied something else"

    # --- liveness --------------------------------------------------------------------------

    def heal_and_progress(self) -> None:
        """Everything works again: only armed timers run out, and a command gets through."""
        cluster = self.cluster
        cluster.heal()
        for member in cluster.members.values():
            self.do_wal_up(member)
        if not any(member.log.entries for member in cluster.members.values()):
            self.elect_first()
        for rounds in range(400):
            for _ in range(30):
                for member in cluster.members.values():
                    member.sync_meta()
                    member.sync()
                    member.read_mail()
                if not cluster.deliver():
                    break
            for member in cluster.members.values():
                if member.server.raft_state is RaftState.LEADER:
                    member.handle(Tick(0))
                    for other in list(member.senders):
                        member.handle(NodeStatus(other.node, up=True))
                        if rounds % 4 == 3:
                            member.handle(SnapshotSenderDown(other, SenderOutcome.FAILED))
                    self.do_retry(member)
                elif rounds % 8 == 7:
                    self.do_receive_timeout(member)
                if member.stopped is not None and self.is_wanted(member):
                    member.start()
                elif member.stopped is not None and rounds % 8 == 3:  # nodes say so to who asks there
                    for other in cluster.members.values():
                        other.handle(ServerDown(member.id, True))
            self.readmit()
            self.read_answers()
            leaders = [m for m in cluster.members.values() if m.server.raft_state is RaftState.LEADER]
            newest = max(leaders, key=lambda m: m.server.current_term, default=None)
            if newest is not None and self.wiped is None and self.in_step(newest):
                self.last_words(newest)
                return
            if newest is not None and self.random.random() < 0.7:
                self.do_command(newest)
                self.read_answers()
            armed = [m for m in cluster.members.values() if m.timer or m.condition_timer]
            if armed:
                self.random.choice(armed).expire()
        states = [
            (str(m.id), str(m.server.raft_state), m.server.current_term) for m in cluster.members.values()
        ]
        raise AssertionError(f"no progress after healing: {states}")

    def is_wanted(self, member: Member) -> bool:
        """Whether a leader takes this one for a member, though it has stopped."""
        return any(
            member.id in other.server.cluster
            for other in self.cluster.members.values()
            if other.server.raft_state is RaftState.LEADER
        )

    def in_step(self, leader: Member) -> bool:
        """Whether everybody has applied what this leader has, and it answers."""
        servers = [self.cluster[i.name].server for i in leader.server.cluster]
        return may_change(leader.server) and all(
            (s.current_term, s.last_applied) == (leader.server.current_term, leader.log.next_index() - 1)
            and s.raft_state in (RaftState.LEADER, RaftState.FOLLOWER)
            for s in servers
        )

    def last_words(self, leader: Member) -> None:
        """A command and a read go through in a cluster at rest; nobody waits without end."""
        role = leader.server.leader_role()
        assert not role.low_priority, "low-priority commands lie about"
        assert not role.pending_queries, "reads wait for a noop that is applied"
        before = len(self.acked)
        self.proposed[self.cluster.correlation] = ("last", ReplyMode.AWAIT_CONSENSUS)
        self.cluster.command(leader.id.name, "last")
        self.cluster.settle()
        self.read_answers()
        assert len(self.acked) == before + 1
        self.asked[self.cluster.correlation] = set(self.acked)
        reads = self.reads
        self.cluster.query(leader.id.name)
        self.cluster.settle()
        self.read_answers()
        assert self.reads == reads + 1


@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed}")
def test_nothing_bad_happens_on_a_random_schedule(seed: int) -> None:
    """Safety at every step whatever goes wrong, and progress when nothing does any more."""
    walk = Walk(seed)
    walk.run(STEPS)
