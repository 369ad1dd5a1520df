"""One core server and its durable state, driven by hand."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from barque.core import invariants
from barque.core.aux_machine import log_read
from barque.core.effects import (
    Applied,
    Effect,
    MembersGone,
    NextEvent,
    PersistTermAndVote,
    Rejected,
    StartConditionTimeout,
    StartElectionTimeout,
    StartReceiveTimeout,
    StartSnapshotRetry,
    StopReason,
    Unresolved,
)
from barque.core.entries import encode_body
from barque.core.messages import (
    LIVENESS_EVENTS,
    AwaitConditionTimeout,
    Commands,
    ElectionTimeout,
    FlushCommands,
    LogEvent,
    Message,
    PipelineRpcs,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    RemoteMessage,
)
from barque.core.snapshots import SnapshotSender
from barque.core.state import Server, ServerConfig
from barque.core.step import recover, step
from barque.machine.effects import MachineEffect, ModCall
from barque.runtime.counters import ServerCounters
from barque.runtime.performer import Performer
from barque.testing.core.memory_log import MemoryLog
from barque.types import NOWHERE, Index, Membership, Named, Pid, ServerId, Term, Uid

if TYPE_CHECKING:
    from barque.testing.core.cluster import CoreCluster


class FixedEnvironment:
    """A clock that a test sets, and tokens that count."""

    def __init__(self) -> None:
        self.time_ms = 1_000
        self._token = 0

    def now_ms(self) -> int:
        """Return the time that the test has set."""
        return self.time_ms

    def token(self) -> int:
        """Return the next number."""
        self._token += 1
        return self._token


class Member:
    """One server and its durable state: its log, and its stored term, vote and last applied index."""

    def __init__(
        self,
        cluster: "CoreCluster",
        member: ServerId,
        *,
        uid: Uid | None = None,
        membership: Membership = Membership.VOTER,
    ) -> None:
        self.cluster = cluster
        self.id = member
        self.membership = membership  # as configured; a configuration in its log replaces it
        self.log = MemoryLog(uid or Uid(f"uid_{member.name}"))
        self.term = Term(0)
        self.voted_for: ServerId | None = None
        self.last_applied = Index(0)
        self.machine = cluster.machine
        self.joined_at = NOWHERE  # what was committed when it was made to join
        self.knows_uids = True  # the uids of the initial members; a server that joins later need not
        self.effects: list[Effect] = []  # all effects that it asked for, oldest first
        self.machine_effects: list[MachineEffect] = []
        self.start()

    def start(self) -> None:
        """Start, or restart, from the durable state."""
        config = ServerConfig(
            id=self.id,
            uid=self.log.uid,
            cluster_name="c",
            initial_members=self.cluster.ids,
            initial_uids=self._initial_uids(),
            machine=self.machine,
            membership=self.membership,
            min_vote_position=self.joined_at,
            **self.cluster.settings,
        )
        self.up = True
        self.stopped: StopReason | None = None
        self.timer: StartElectionTimeout | None = None
        self.condition_timer: StartConditionTimeout | None = None
        self.doubting = False  # its quorum timer runs
        self.doubts = 0  # how often the quorum timer was started; a new doubt gets the full time
        self.receive_timer: StartReceiveTimeout | None = None  # for the next chunk of a snapshot
        self.retries: dict[ServerId, StartSnapshotRetry] = {}
        self.counters = ServerCounters()
        self.make_performer()
        self._following: list[Message] = []  # messages to itself, from its own effects
        self.unheard: deque[LogEvent] = deque()  # reports of the disk that the server has not handled yet
        self.unsynced_meta: PersistTermAndVote | None = None
        self.mail: deque[Message] = deque()  # messages to itself, with `defer_flush`
        self.held: list[Effect] | None = None  # effects that wait until the meta store has synced
        self.server = Server(
            config,
            self.log,
            self.cluster.environment_of(self.id.name),
            current_term=self.term,
            voted_for=self.voted_for,
            last_applied=self.last_applied,
        )
        self.follow_up(self.perform(recover(self.server)))

    def make_performer(self) -> None:
        """Perform its effects with the performer of production, in an environment of this member alone."""
        self.performer = MemberPerformer(HandDriven(self), StoredMeta(self), HandTimers(), Unwatched())

    @property
    def senders(self) -> dict[ServerId, SnapshotSender]:
        """The snapshots that it sends, by receiver."""
        return self.performer.snapshot_senders.get(self, {})

    def _initial_uids(self) -> dict[ServerId, Uid]:
        known = self.cluster.ids if self.knows_uids else ()
        return {m: Uid(f"uid_{m.name}") for m in known} | {self.id: self.log.uid}

    def handle(self, message: Message) -> list[Effect]:
        """Handle a message and everything that follows inside this server; return all effects."""
        first = len(self.effects)
        self.take(message)
        return self.effects[first:]

    def take(self, message: Message) -> None:
        """Handle a message as a node does, without collecting the effects."""
        if self.held is not None and isinstance(message, LIVENESS_EVENTS):
            self.held.append(NextEvent(message))
        else:
            self.follow_up([message])

    def follow_up(self, queue: list[Message]) -> None:
        """Handle these messages, and everything that follows inside this server."""
        server, cluster = self.server, self.cluster
        now = invariants.observe(server)
        for message in queue:  # the queue grows meanwhile
            if self.stopped is not None:
                return
            before = now
            effects = step(server, message)
            now = invariants.check(before, server)
            if cluster.watch is not None:
                cluster.watch(self, message, before, effects)
            cluster.observer.look(self, before, now)
            if now.state is not before.state:  # a timer ends with the state that armed it
                self.timer = self.condition_timer = self.receive_timer = None
            if effects:
                queue += self.perform(effects)

    def perform(self, effects: list[Effect]) -> list[Message]:
        """Perform effects; return the messages that this server must handle next."""
        self.performer.perform(self, effects)
        return self._take_following()

    def record(self, effects: list[Effect]) -> None:
        """Note effects that this server asks for, before any is performed."""
        self.effects += effects
        self.machine_effects += [effect for effect in effects if isinstance(effect, MachineEffect)]
        self.cluster.observer.overhear(self, effects)

    def _take_following(self) -> list[Message]:
        """Return the messages that effects have queued for this server."""
        following, self._following = self._following, []
        return following

    # --- what the performer needs of a server (`PerformedServer`) ------------------------

    @property
    def uid(self) -> Uid:
        """The incarnation of this server."""
        return self.log.uid

    def enqueue(self, message: Message) -> None:
        """Handle this after the present message."""
        self._following.append(message)

    def defer_until_synced(self) -> None:
        """Hold the effects that follow, if the test decides when a term and vote are durable."""
        if self.cluster.hold_meta:
            self.held = []

    def read_mail(self) -> None:
        """Handle the messages that the server has sent to itself so far."""
        mail, self.mail = self.mail, deque()
        for message in mail:
            self.handle(message)

    # --- the disk, and the clock ---------------------------------------------------------

    def flush(self) -> None:
        """Make all submitted writes durable; the server does not learn of it yet."""
        self.unheard += self.log.take_written()
        self.cluster.observer.check_snapshot(self)

    def hear(self) -> None:
        """Hand the reports of the disk to the server."""
        while self.unheard:
            self.handle(self.unheard.popleft())

    def sync(self) -> None:
        """Make all submitted writes durable, and tell the server."""
        self.flush()
        self.hear()

    def sync_meta(self) -> None:
        """Make the term and vote that are being stored durable, and carry out the effects that waited."""
        if self.unsynced_meta is not None:
            self.term, self.voted_for = self.unsynced_meta.term, self.unsynced_meta.voted_for
            held, self.held, self.unsynced_meta = self.held or [], None, None
            self.performer.resume(self, held)
            self.follow_up(self._take_following())

    def remember_applied(self) -> None:
        """Store how far the machine is, but never beyond what is durable (COMMIT-08)."""
        self.last_applied = max(
            self.last_applied, min(self.server.last_applied, self.log.last_written().index)
        )

    def expire(self) -> list[Effect]:
        """Let the armed timer of the present state run out, the election timer first."""
        if self.timer is not None:
            self.timer = None
            return self.handle(ElectionTimeout())
        if self.condition_timer is not None:
            self.condition_timer = None
            return self.handle(AwaitConditionTimeout())
        return []

    def expire_quorum(self) -> list[Effect]:
        """End the wait for signs of a majority."""
        assert self.doubting, "nobody doubts"
        self.doubting = False
        return self.handle(QuorumTimeout())

    def expire_receiving(self) -> list[Effect]:
        """Let the timer for snapshot chunks run out."""
        assert self.receive_timer is not None, "nothing is being received"
        self.receive_timer = None
        return self.handle(ReceiveSnapshotTimeout())

    def wipe(self, uid: str) -> None:
        """Come back under the same address with another uid and no data."""
        self.cluster.observer.lost.append((self.id, self.log.uid, list(self.log.disk)))
        self.cluster.network = deque(e for e in self.cluster.network if self.id not in e[:2])
        self.log = MemoryLog(Uid(uid))
        self.term, self.voted_for, self.last_applied = Term(0), None, Index(0)
        self.start()

    def crash(self, keep: int = 0) -> None:
        """Stop without warning. What is not durable is lost, and so are the messages to this member.

        The first `keep` submitted writes survive nevertheless.
        """
        self.up = False
        self.log.crash(keep)
        self.cluster.network = deque(e for e in self.cluster.network if e[1] != self.id)

    def restart(self, keep: int = 0) -> None:
        """Crash, then start again."""
        self.crash(keep)
        self.start()


class MemberPerformer(Performer[Member]):
    """The performer of production; each list of effects is recorded first."""

    def perform(self, process: Member, effects: list[Effect]) -> None:
        """See `Performer`."""
        process.record(effects)
        super().perform(process, effects)

    def resume(self, process: Member, effects: list[Effect]) -> None:
        """Perform effects that were recorded when they were held."""
        super().perform(process, effects)


class HandDriven:
    """The environment of a member (`PerformerEnvironment`): its cluster's network and notes."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def wake(self) -> None:
        """No turn ends here: the test does everything."""

    def send(self, to: ServerId, message: RemoteMessage, process: Member) -> bool:
        """Put a message on the network."""
        process.cluster.send(process.id, to, message)
        return True

    def answer(self, applied: Applied) -> None:
        """Note replies."""
        self._member.cluster.answers.append(applied)

    def reject(self, rejected: Rejected) -> None:
        """Note a refusal."""
        self._member.cluster.answers.append(rejected)

    def unresolved(self, effect: Unresolved) -> None:
        """Note commands with an unknown outcome."""
        self._member.cluster.unresolved.append(effect)

    def send_event(self, process: Member, to: Pid | Named, message: object) -> None:
        """Nothing: `machine_effects` has it."""

    def call_function(self, process: Member, effect: ModCall) -> None:
        """Nothing: `machine_effects` has it."""

    def append_elsewhere(self, process: Member, leader: ServerId, payload: bytes) -> None:
        """Put a command for the leader on the network."""
        process.cluster.send(process.id, leader, Commands(1, encode_body([payload])))

    def plan_read(self, process: Member, indexes: Sequence[int]) -> list[Any]:
        """The commands themselves: there are no files."""
        return log_read(process.server, indexes)

    def leadership_changed(self, process: Member) -> None:
        """Nothing: there is no router."""

    def leader_established(self, process: Member) -> None:
        """Nothing: there is no router."""

    def replicate_soon(self, process: Member) -> None:
        """Replicate after the present message: no turn gathers such rounds here."""
        process.enqueue(PipelineRpcs())

    def flush_commands_soon(self, process: Member) -> None:
        """Flush after the present message, or when the test reads the mail."""
        if process.cluster.defer_flush:
            process.mail.append(FlushCommands())
        else:
            process.enqueue(FlushCommands())

    def apply_soon(self, process: Member) -> None:
        """Go on applying when the cluster wants."""
        process.cluster.apply_soon(process)

    def server_stopped(self, process: Member) -> None:
        """Nothing: the test stops members itself."""

    def server_ended(self, process: Member, reason: StopReason) -> None:
        """Stop the member, and remember why."""
        process.stopped, process.up = reason, False

    def members_gone(self, process: Member, effect: MembersGone) -> None:
        """Note removed servers."""
        process.cluster.gone += effect.members

    def server_deleted(self, process: Member, *, whole_cluster: bool) -> None:
        """Nothing: the test keeps what it needs."""


class StoredMeta:
    """The term and vote of a member (`TermAndVoteStore`)."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def store(self, uid: Uid, current_term: Term, voted_for: ServerId | None) -> None:
        """Store both: at once, or with `Member.sync_meta` if the test decides."""
        member = self._member
        if member.cluster.hold_meta:
            member.unsynced_meta = PersistTermAndVote(current_term, voted_for)
        else:
            member.term, member.voted_for = current_term, voted_for


class HandTimers:
    """The timers of a member (`performer.Timers`): armed here, and run out by the test."""

    def start_election(self, process: Member, effect: StartElectionTimeout) -> None:
        """Arm the election timer, unless it is armed already."""
        process.timer = process.timer or effect

    def cancel_election(self, process: Member) -> None:
        """Disarm it."""
        process.timer = None

    def start_condition(self, process: Member, effect: StartConditionTimeout) -> None:
        """Arm the timer of a waiting server."""
        process.condition_timer = effect

    def start_quorum(self, process: Member) -> None:
        """Arm the quorum timer anew."""
        process.doubting = True
        process.doubts += 1

    def start_receive(self, process: Member, effect: StartReceiveTimeout) -> None:
        """Arm the timer for chunks."""
        process.receive_timer = effect

    def start_snapshot_retry(self, process: Member, effect: StartSnapshotRetry) -> None:
        """Note that this member is to be tried again."""
        process.retries[effect.member] = effect

    def cancel_snapshot_retry(self, process: Member, member: ServerId) -> None:
        """It is tried now."""
        process.retries.pop(member, None)

    def set_machine_timer(self, process: Member, timer: object) -> None:
        """Nothing: `machine_effects` has it."""

    def state_left(self, process: Member) -> None:
        """Nothing: `Member.follow_up` ends such timers."""

    def cancel_machine_timers(self, process: Member) -> None:
        """Nothing: no machine timer runs."""

    def forget(self, process: Member) -> None:
        """Nothing: a restart begins with new timers."""


class Unwatched:
    """The monitors of a member (`performer.Watches`): `machine_effects` has them, and nothing happens."""

    def watch_node(self, process: Member, effect: object) -> None:
        """Nothing."""

    def watch_process(self, process: Member, effect: object) -> None:
        """Nothing."""

    def unwatch(self, process: Member, effect: object) -> None:
        """Nothing."""

    def forget(self, process: Member, *, only: object = None) -> None:
        """Nothing."""
