"""One core server and its durable state, driven by hand."""

from collections import deque
from typing import TYPE_CHECKING

from barque.core import invariants
from barque.core.applying import take_callback_effects
from barque.core.aux_machine import cast_aux, log_read, run_aux
from barque.core.effects import (
    Applied,
    AuxEval,
    CancelElectionTimeout,
    CancelSnapshotRetry,
    Defer,
    Effect,
    LeaderEstablished,
    MembersGone,
    NextEvent,
    PersistTermAndVote,
    Rejected,
    SendRpc,
    SendSnapshot,
    SendVoteRequests,
    SnapshotAcked,
    StartConditionTimeout,
    StartElectionTimeout,
    StartQuorumTimeout,
    StartReceiveTimeout,
    StartSnapshotRetry,
    StopReason,
    StopServer,
    Unresolved,
)
from barque.core.messages import (
    LIVENESS_EVENTS,
    AwaitConditionTimeout,
    ElectionTimeout,
    FlushCommands,
    LogEvent,
    Message,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    SenderOutcome,
    SnapshotSenderDown,
)
from barque.core.snapshots import SnapshotSender, make_checkpoint, update_release_cursor
from barque.core.state import RaftState, Server, ServerConfig
from barque.core.step import recover, step
from barque.machine.effects import Aux, Checkpoint, MachineEffect, ReadLog, ReleaseCursor
from barque.machine.machine import AuxKind
from barque.testing.core.memory_log import MemoryLog
from barque.types import NOWHERE, Index, Membership, ServerId, Term, Uid

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
        self.receiving = False  # its timer for snapshot chunks runs
        self.retries: dict[ServerId, StartSnapshotRetry] = {}
        self.senders: dict[ServerId, SnapshotSender] = {}
        self.unheard: deque[LogEvent] = deque()  # reports of the disk that the server has not handled yet
        self.unsynced_meta: PersistTermAndVote | None = None
        self.mail: deque[Message] = deque()  # messages to itself, with `defer_flush`
        self.held: list[Effect] | None = None  # effects that wait until the meta store has synced
        self.server = Server(
            config,
            self.log,
            self.cluster.environment,
            current_term=self.term,
            voted_for=self.voted_for,
            last_applied=self.last_applied,
        )
        self.follow_up(self.perform(recover(self.server)))

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
                self.timer = self.condition_timer = None
            if effects:
                queue += self.perform(effects)

    def perform(self, effects: list[Effect]) -> list[Message]:
        """Carry out effects; return the messages that this server must handle next."""
        self.effects += effects
        self.cluster.observer.overhear(self, effects)
        if self.held is not None:
            self.held += effects
            return []
        return self._perform(effects)

    def _perform(self, effects: list[Effect]) -> list[Message]:
        following: list[Message] = []
        for position, effect in enumerate(effects):
            match effect:
                case SendRpc():
                    self.cluster.send(self.id, effect.to, effect.message)
                case NextEvent():
                    following.append(effect.message)
                case Defer():
                    if self.cluster.defer_flush and isinstance(effect.message, FlushCommands):
                        self.mail.append(effect.message)
                    else:
                        following.append(effect.message)
                case CancelElectionTimeout():
                    self.timer = None
                case LeaderEstablished():
                    pass
                case AuxEval():
                    if wanted := cast_aux(self.server, "eval"):
                        following += self.perform(wanted)
                case Applied() | Rejected():
                    self.cluster.answers.append(effect)
                case PersistTermAndVote():
                    if self.cluster.hold_meta:
                        self.unsynced_meta, self.held = effect, effects[position + 1 :]
                        return following
                    self.term, self.voted_for = effect.term, effect.voted_for
                case SendVoteRequests():
                    for to, rpc in effect.requests:
                        self.cluster.send(self.id, to, rpc)
                case StartElectionTimeout():
                    self.timer = self.timer or effect
                case StartConditionTimeout():
                    self.condition_timer = effect
                case StartQuorumTimeout():
                    self.doubting = True
                    self.doubts += 1
                case StartReceiveTimeout():
                    self.receiving = True
                case SendSnapshot() | SnapshotAcked() | StartSnapshotRetry() | CancelSnapshotRetry():
                    following += self._perform_snapshot(effect)
                case StopServer():
                    self.stopped, self.up = effect.reason, False
                case MembersGone():
                    self.cluster.gone += effect.members
                case Unresolved():
                    self.cluster.unresolved.append(effect)
                case _:
                    following += self._perform_machine(effect)
        return following

    def _perform_snapshot(
        self, effect: SendSnapshot | SnapshotAcked | StartSnapshotRetry | CancelSnapshotRetry
    ) -> list[Message]:
        match effect:
            case SendSnapshot():
                sender = SnapshotSender(self.id, effect.term, effect.meta, self.log.snapshots)
                self.senders[effect.to] = sender
                self.cluster.send(self.id, effect.to, sender.first())
            case SnapshotAcked():
                sender = self.senders[effect.member]
                if not sender.is_current():  # SEND-06
                    return [SnapshotSenderDown(effect.member, SenderOutcome.FAILED)]
                following = sender.after(effect.chunk)
                if following is not None:
                    self.cluster.send(self.id, effect.member, following)
            case StartSnapshotRetry():
                self.retries[effect.member] = effect
            case CancelSnapshotRetry():
                self.retries.pop(effect.member, None)
        return []

    def _perform_machine(self, effect: MachineEffect) -> list[Message]:
        """Perform a machine effect. An effect that needs a node is only recorded."""
        self.machine_effects.append(effect)
        match effect:
            case ReleaseCursor():
                update_release_cursor(self.server, effect)
            case Checkpoint():
                make_checkpoint(self.server, effect)
            case Aux():
                return self.perform(run_aux(self.server, AuxKind.CAST, effect.command)[1])
            case ReadLog() if self.server.raft_state is RaftState.LEADER:
                wanted = effect.then(log_read(self.server, effect.indexes))
                return self.perform(take_callback_effects(wanted))
            case _:
                pass
        return []

    def read_mail(self) -> None:
        """Handle the messages that the server has sent to itself so far."""
        mail, self.mail = self.mail, deque()
        for message in mail:
            self.handle(message)

    # --- the disk, and the clock ---------------------------------------------------------

    def flush(self) -> None:
        """Make all submitted writes durable; the server does not learn of it yet."""
        self.unheard += self.log.take_written()

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
            self.follow_up(self._perform(held))

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
        assert self.receiving, "nothing is being received"
        self.receiving = False
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
