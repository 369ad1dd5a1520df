"""A cluster of core servers, driven by hand: every message and every sync is a test's choice.

Nothing here is asynchronous and nothing happens by itself. Messages wait in `network`, writes
wait in each member's log, persisted terms are kept apart from the server so that a restart
reads them back. `invariants.check` runs after every step, and a `Witness` who sees all members
and all messages checks what no member can see alone.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from barque.core import invariants
from barque.core.effects import (
    Applied,
    AppliedTo,
    AuxEval,
    CancelElectionTimeout,
    Cast,
    Effect,
    LeaderEstablished,
    NextEvent,
    PersistTermAndVote,
    RecordLeaderMsg,
    Rejected,
    SendRpc,
    SendVoteRequests,
    StartConditionTimeout,
    StartElectionTimeout,
)
from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import (
    AppendEntriesReply,
    AwaitConditionTimeout,
    Commands,
    ElectionTimeout,
    FlushCommands,
    Message,
    Queries,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    TransferLeadership,
    Written,
)
from barque.core.server import RaftState, Server, ServerConfig
from barque.core.step import recover, step
from barque.errors import InvariantViolation
from barque.machine.effects import MachineEffect
from barque.machine.machine import Machine
from barque.machine.simple import SimpleMachine
from barque.testing.memory_log import MemoryLog
from barque.types import ClientRef, Index, ReplyMode, ServerId, Term, Uid

CLIENT = ClientRef("client", 1)


class FixedEnvironment:
    """A clock that a test sets, and tokens that count."""

    def __init__(self) -> None:
        self.time_ms = 1_000
        self._token = 0

    def now_ms(self) -> int:
        """The time that the test has set."""
        return self.time_ms

    def token(self) -> int:
        """The next number."""
        self._token += 1
        return self._token


class Member:
    """One server with what outlives it: its log, and its durable term, vote and last_applied."""

    def __init__(self, cluster: "CoreCluster", member: ServerId) -> None:
        self.cluster = cluster
        self.id = member
        self.log = MemoryLog(Uid(f"uid_{member.name}"))
        self.term = Term(0)
        self.voted_for: ServerId | None = None
        self.last_applied = Index(0)
        self.machine = cluster.machine
        self.effects: list[Effect] = []  # everything it asked for, oldest first
        self.machine_effects: list[MachineEffect] = []
        self.start()

    def start(self) -> None:
        """Start, or restart, from what is durable."""
        config = ServerConfig(
            id=self.id,
            uid=self.log.uid,
            cluster_name="c",
            initial_members=self.cluster.ids,
            machine=self.machine,
            **self.cluster.settings,
        )
        self.up = True
        self.timer: StartElectionTimeout | None = None
        self.condition_timer: StartConditionTimeout | None = None
        self.unheard: deque[Written] = deque()  # what the disk has reported, and nobody took yet
        self.unsynced_meta: PersistTermAndVote | None = None
        self.mail: deque[Message] = deque()  # to itself, with `defer_flush`
        self.held: list[Effect] | None = None  # until the meta store has synced
        self.server = Server(
            config,
            self.log,
            self.cluster.environment,
            current_term=self.term,
            voted_for=self.voted_for,
            last_applied=self.last_applied,
        )
        self._follow_up(self.perform(recover(self.server)))

    def handle(self, message: Message) -> list[Effect]:
        """One message and all that follows inside this server; returns the effects of both."""
        first = len(self.effects)
        self._follow_up([message])
        return self.effects[first:]

    def _follow_up(self, messages: list[Message]) -> None:
        queue = deque(messages)
        while queue:
            server = self.server
            before = invariants.observe(server)
            message = queue.popleft()
            effects = step(server, message)
            invariants.check(before, server)
            self.cluster.watch(self, message, before, effects)
            self.cluster.witness.look(self, before)
            if server.raft_state is not before.state:  # the timers of a state end with it
                self.timer = self.condition_timer = None
            queue.extend(self.perform(effects))

    def perform(self, effects: list[Effect]) -> list[Message]:
        """Carry effects out; returns the messages that this server is to handle next."""
        self.effects += effects
        self.cluster.witness.overhear(self, effects)
        if self.held is not None:
            self.held += effects
            return []
        return self._perform(effects)

    def _perform(self, effects: list[Effect]) -> list[Message]:
        following: list[Message] = []
        for position, effect in enumerate(effects):
            match effect:
                case PersistTermAndVote():
                    if self.cluster.hold_meta:
                        self.unsynced_meta, self.held = effect, effects[position + 1 :]
                        return following
                    self.term, self.voted_for = effect.term, effect.voted_for
                case SendRpc() | Cast():
                    self.cluster.send(self.id, effect.to, effect.message)
                case SendVoteRequests():
                    for to, rpc in effect.requests:
                        self.cluster.send(self.id, to, rpc)
                case NextEvent(FlushCommands()) if self.cluster.defer_flush:
                    self.mail.append(effect.message)
                case NextEvent():
                    following.append(effect.message)
                case Applied() | Rejected():
                    self.cluster.answers.append(effect)
                case StartElectionTimeout():
                    self.timer = self.timer or effect
                case RecordLeaderMsg() | CancelElectionTimeout():
                    self.timer = None
                case StartConditionTimeout():
                    self.condition_timer = effect
                case AppliedTo() | AuxEval() | LeaderEstablished():
                    pass
                case _:
                    self.machine_effects.append(effect)
        return following

    def read_mail(self) -> None:
        """Handle what the server has sent to itself so far."""
        mail, self.mail = self.mail, deque()
        for message in mail:
            self.handle(message)

    # --- the disk, and the clock ---------------------------------------------------------

    def flush(self) -> None:
        """Everything submitted becomes durable; the server does not know yet."""
        self.unheard += self.log.take_written()

    def hear(self) -> None:
        """The server hears of what has become durable."""
        while self.unheard:
            self.handle(self.unheard.popleft())

    def sync(self) -> None:
        """Everything submitted becomes durable, and the server hears of it."""
        self.flush()
        self.hear()

    def sync_meta(self) -> None:
        """The term and vote that are being stored become durable; what waited goes on."""
        if self.unsynced_meta is not None:
            self.term, self.voted_for = self.unsynced_meta.term, self.unsynced_meta.voted_for
            held, self.held, self.unsynced_meta = self.held or [], None, None
            self._follow_up(self._perform(held))

    def remember_applied(self) -> None:
        """Store how far the machine is, but never beyond what is durable (COMMIT-08)."""
        self.last_applied = max(
            self.last_applied, min(self.server.last_applied, self.log.last_written().index)
        )

    def expire(self) -> list[Effect]:
        """The timer of the present state runs out, if one is armed; one of elections first."""
        if self.timer is not None:
            self.timer = None
            return self.handle(ElectionTimeout())
        if self.condition_timer is not None:
            self.condition_timer = None
            return self.handle(AwaitConditionTimeout())
        return []

    def crash(self, keep: int = 0) -> None:
        """Stop without warning: what is not durable is gone, and so are messages to it.

        The first `keep` writes that nobody waited for survive nevertheless.
        """
        self.up = False
        self.log.crash(keep)
        self.cluster.network = deque(e for e in self.cluster.network if e[1] != self.id)

    def restart(self, keep: int = 0) -> None:
        """Crash, and come back."""
        self.crash(keep)
        self.start()


class Witness:
    """Sees every member and every message, and checks what holds of a whole cluster.

    Election Safety, one vote a term over restarts, Leader Completeness, State Machine Safety,
    and that nobody speaks of what is not on its disk. (Figure 3.2; reliability I1 to I13.)
    """

    def __init__(self, cluster: "CoreCluster") -> None:
        self._cluster = cluster
        self.leaders: dict[Term, ServerId] = {}
        self.votes: dict[tuple[ServerId, Term], ServerId] = {}
        self.committed: list[tuple[EntryBatch, Term]] = []  # and the term in which it was committed

    def look(self, member: Member, before: invariants.Facts) -> None:
        """After each step of a member."""
        server = member.server
        leads = server.raft_state is RaftState.LEADER
        if leads and before.state is not RaftState.LEADER:
            self._check_new_leader(server)
        if server.commit_index > before.commit_index:
            self._check_commit(member, before.commit_index)
            if leads:
                self._check_quorum(server)
        if server.log.last_index_term().index < before.commit_index:
            _violated(f"{server.id} has dropped committed entries")

    def _check_new_leader(self, server: Server) -> None:
        first = self.leaders.setdefault(server.current_term, server.id)
        if first != server.id:
            _violated(f"{first} and {server.id} both led term {server.current_term}")
        for index, (entry, term) in enumerate(self.committed, start=1):
            if term < server.current_term and server.log.fetch_term(Index(index)) != entry.term:
                _violated(f"{server.id} leads term {server.current_term} without committed entry {index}")

    def _check_commit(self, member: Member, before: int) -> None:
        server = member.server
        for entry in member.log.entries[before : server.commit_index]:
            index = entry.first_index
            if index <= len(self.committed):
                if self.committed[index - 1][0] != entry:
                    _violated(f"{server.id} commits another entry {index} than was committed")
            elif server.raft_state is not RaftState.LEADER:
                _violated(f"{server.id} commits {index}, which no leader has committed")
            else:
                self.committed.append((entry, server.current_term))

    def _check_quorum(self, server: Server) -> None:
        index = server.commit_index
        term = server.log.fetch_term(index)
        holders = 0
        for member in self._cluster.members.values():
            disk = member.log.disk
            holders += index <= len(disk) and disk[index - 1].term == term
        if holders < server.quorum():
            _violated(f"{server.id} commits {index}, which is on {holders} disks")

    def hear(self, sender: Member, to: ServerId, message: RemoteMessage) -> None:
        """Before each message leaves."""
        disk = sender.log.disk
        known = max(sender.term, disk[-1].term if disk else 0)
        term = getattr(message, "term", 0)
        if term > known:
            _violated(f"{sender.id} speaks of term {term} and has stored {known}: {message}")
        match message:
            case RequestVoteRpc():
                self._vote(sender.id, message.term, sender.id)
            case RequestVoteResult() if message.vote_granted:
                self._vote(sender.id, message.term, to)
            case _:
                pass

    def overhear(self, member: Member, effects: list[Effect]) -> None:
        """When a server has made up its mind: later, its disk may be ahead of what it said."""
        disk = member.log.disk
        sending = False
        for effect in effects:
            if sending and isinstance(effect, PersistTermAndVote):
                _violated(f"{member.id} sends before it stores: {effects}")
            sending = sending or isinstance(effect, Cast | SendRpc | SendVoteRequests)
            if isinstance(effect, Cast) and isinstance(effect.message, AppendEntriesReply):
                index, term = effect.message.last_index, effect.message.last_term
                if index and (index > len(disk) or disk[index - 1].term != term):
                    _violated(f"{member.id} claims what is not on its disk: {effect.message}")

    def _vote(self, voter: ServerId, term: Term, candidate: ServerId) -> None:
        first = self.votes.setdefault((voter, term), candidate)
        if first != candidate:
            _violated(f"{voter} voted for {first} and for {candidate} in term {term}")

    def check_logs(self) -> None:
        """Log Matching (§3.5): the same index and term mean the same entries up to there."""
        members = list(self._cluster.members.values())
        for number, one in enumerate(members):
            for other in members[number + 1 :]:
                for logs in ((one.log.entries, other.log.entries), (one.log.disk, other.log.disk)):
                    _check_matching(one.id, other.id, *logs)


def _check_matching(one: ServerId, other: ServerId, ours: list[EntryBatch], theirs: list[EntryBatch]) -> None:
    meeting = 0
    for index in range(min(len(ours), len(theirs)), 0, -1):
        if ours[index - 1].term == theirs[index - 1].term:
            meeting = index
            break
    if ours[:meeting] != theirs[:meeting]:
        _violated(f"the logs of {one} and {other} meet at {meeting} and differ before")


def _violated(what: str) -> None:
    raise InvariantViolation(what)


def append_machine() -> Machine[Any]:
    """Replies to each command with the tuple of all commands so far."""
    return SimpleMachine(lambda command, state: (*state, command), ())


class CoreCluster:
    """Members by name, a network that a test delivers, and the answers that clients got.

    With `hold_meta` a term and vote become durable only by `Member.sync_meta`; until then the
    effects behind them wait, as they do in a node. With `defer_flush` the flush of low-priority
    commands waits for `Member.read_mail`, so that other messages can come first.
    """

    def __init__(
        self,
        *names: str,
        machine: Machine[Any] | None = None,
        settings: dict[str, Any] | None = None,
        hold_meta: bool = False,
        defer_flush: bool = False,
    ) -> None:
        self.ids = tuple(ServerId(name, f"node_{name}") for name in names)
        self.machine = machine or append_machine()
        self.settings = settings or {}
        self.hold_meta = hold_meta
        self.defer_flush = defer_flush
        self.environment = FixedEnvironment()
        self.network: deque[tuple[ServerId, ServerId, RemoteMessage]] = deque()
        self.cut: set[tuple[ServerId, ServerId]] = set()
        self.answers: list[Applied | Rejected] = []
        self.witness = Witness(self)
        self.watch: Callable[[Member, Message, invariants.Facts, list[Effect]], None] = lambda *_: None
        self.members: dict[str, Member] = {}
        self.correlation = 0
        for member in self.ids:
            self.members[member.name] = Member(self, member)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def server(self, name: str) -> Server:
        """The core server of a member."""
        return self.members[name].server

    # --- the network -----------------------------------------------------------------------

    def send(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> None:
        """Put a message on the network, unless the link is cut."""
        self.witness.hear(self.members[sender.name], to, message)
        if (sender, to) not in self.cut and to.name in self.members:
            self.network.append((sender, to, message))

    def arrive(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> bool:
        """Hand one message over, unless its link is cut or its receiver down."""
        member = self.members[to.name]
        if (sender, to) in self.cut or not member.up:
            return False
        member.handle(message)
        return True

    def deliver(self, *, only: type | None = None, link: tuple[str, str] | None = None) -> int:
        """Deliver what is on the network now (of one kind or link, if given); returns how many."""
        batch, self.network = self.network, deque()
        count = 0
        for sender, to, message in batch:
            other_kind = only is not None and not isinstance(message, only)
            if other_kind or (link is not None and (sender.name, to.name) != link):
                self.network.append((sender, to, message))
            else:
                count += self.arrive(sender, to, message)
        return count

    def settle(self, *names: str) -> None:
        """Sync (these members, or all) and deliver until nothing moves any more."""
        for _ in range(1_000):
            for name in names or self.members:
                if self.members[name].up:
                    self.members[name].sync_meta()
                    self.members[name].sync()
            if not self.deliver() and not any(
                m.up and (m.log.unsynced or m.unsynced_meta)
                for m in map(self.__getitem__, names or self.members)
            ):
                return
        raise AssertionError("the cluster does not come to rest")

    def partition(self, *groups: str) -> None:
        """Cut every link between these groups of one-letter names: `partition("a", "bc")`."""
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        self.cut = {
            (x, y) for x in self.ids for y in self.ids if group_of.get(x.name) != group_of.get(y.name)
        }
        self.network = deque(e for e in self.network if (e[0], e[1]) not in self.cut)

    def heal(self) -> None:
        """Restore every link."""
        self.cut = set()

    # --- what people and clients do ------------------------------------------------------

    def elect(self, name: str) -> Server:
        """Let this member's timer expire and everything settle; it must win."""
        self.members[name].handle(ElectionTimeout())
        self.settle()
        assert self.server(name).raft_state is RaftState.LEADER, self.server(name).raft_state
        return self.server(name)

    def command(
        self, name: str, *values: Any, mode: ReplyMode = ReplyMode.AWAIT_CONSENSUS, low_priority: bool = False
    ) -> list[Effect]:
        """Give a member commands, as one batch, without settling."""
        body = encode_body(
            [msgspec.msgpack.encode(value) for value in values],
            mode=mode,
            origin=CLIENT,
            first_correlation=self.correlation,
        )
        self.correlation += len(values)
        return self.members[name].handle(Commands(len(values), body, low_priority))

    def query(self, name: str, *, consistent: bool = True) -> list[Effect]:
        """Ask a member for the machine's state."""
        payload = msgspec.msgpack.encode(None)
        queries = Queries(CLIENT, self.correlation, (payload,), consistent)
        self.correlation += 1
        return self.members[name].handle(queries)

    def transfer(self, name: str, target: str) -> list[Effect]:
        """Ask a member to hand its leadership over."""
        to = next((m.id for m in self.members.values() if m.id.name == target), ServerId(target, "nowhere"))
        request = TransferLeadership(CLIENT, self.correlation, to)
        self.correlation += 1
        return self.members[name].handle(request)

    def replies(self) -> list[Any]:
        """All replies that clients have got, in order; forgets them."""
        answers, self.answers = self.answers, []
        return [reply for answer in answers if isinstance(answer, Applied) for reply in answer.replies]

    def refusals(self) -> list[str]:
        """The reasons of all refusals that clients have got, in order; forgets all answers."""
        answers, self.answers = self.answers, []
        return [answer.reason for answer in answers if isinstance(answer, Rejected)]

    # --- logs ------------------------------------------------------------------------------

    def log_terms(self, name: str) -> list[int]:
        """The term of each entry in a member's log."""
        return [entry.term for entry in self.members[name].log.entries]

    def load(self, name: str, terms: list[int], *, current_term: int | None = None) -> None:
        """Give a member a log of entries with these terms, durable, as Figure 7 draws them."""
        member = self.members[name]
        member.log.load(
            [
                EntryBatch(Index(i), Term(t), 1, 0, encode_body([msgspec.msgpack.encode(f"{t}.{i}")]))
                for i, t in enumerate(terms, start=1)
            ]
        )
        member.term = Term(current_term if current_term is not None else max(terms, default=0))
        member.voted_for = None
        member.start()


MessageT = TypeVar("MessageT")


def sent(effects: list[Effect], kind: type[MessageT]) -> list[tuple[str, MessageT]]:
    """The messages of one kind among these effects, each with the name of its receiver."""
    found: list[tuple[str, Any]] = []
    for effect in effects:
        match effect:
            case SendRpc() | Cast():
                found.append((effect.to.name, effect.message))
            case SendVoteRequests():
                found += [(to.name, rpc) for to, rpc in effect.requests]
            case _:
                pass
    return [(to, message) for to, message in found if isinstance(message, kind)]
