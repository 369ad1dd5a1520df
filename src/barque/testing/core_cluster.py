"""A cluster of core servers, driven by hand: every message and every sync is a test's choice.

Nothing here is asynchronous and nothing happens by itself. Messages wait in `network`, writes
wait in each member's log, persisted terms are kept apart from the server so that a restart
reads them back. `invariants.check` runs after every step, and two leaders in one term fail
at once.
"""

from collections import deque
from typing import Any

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
from barque.core.entries import encode_body
from barque.core.messages import Commands, ElectionTimeout, Message, Queries, RemoteMessage
from barque.core.server import RaftState, Server, ServerConfig
from barque.core.step import recover, step
from barque.errors import InvariantViolation
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
    """One server with what outlives it: its log, and its durable term and vote."""

    def __init__(self, cluster: "CoreCluster", member: ServerId) -> None:
        self.cluster = cluster
        self.id = member
        self.log = MemoryLog(Uid(f"uid_{member.name}"))
        self.term = Term(0)
        self.voted_for: ServerId | None = None
        self.effects: list[Effect] = []  # everything it asked for, oldest first
        self.timer: StartElectionTimeout | None = None
        self.start()

    def start(self) -> None:
        """Start, or restart, from what is durable."""
        config = ServerConfig(
            id=self.id,
            uid=self.log.uid,
            cluster_name="c",
            initial_members=self.cluster.ids,
            machine=self.cluster.machine,
            **self.cluster.settings,
        )
        self.server = Server(
            config, self.log, self.cluster.environment, current_term=self.term, voted_for=self.voted_for
        )
        self.perform(recover(self.server))

    def handle(self, message: Message) -> list[Effect]:
        """One message and all that follows inside this server; returns the effects of both."""
        first = len(self.effects)
        queue = deque([message])
        while queue:
            before = invariants.observe(self.server)
            effects = step(self.server, queue.popleft())
            invariants.check(before, self.server)
            self.cluster.check_leaders()
            queue.extend(self.perform(effects))
        return self.effects[first:]

    def perform(self, effects: list[Effect]) -> list[Message]:
        """Carry effects out; returns the messages that this server is to handle next."""
        following: list[Message] = []
        self.effects += effects
        for effect in effects:
            match effect:
                case PersistTermAndVote():
                    self.term, self.voted_for = effect.term, effect.voted_for
                case SendRpc() | Cast():
                    self.cluster.send(self.id, effect.to, effect.message)
                case SendVoteRequests():
                    for to, rpc in effect.requests:
                        self.cluster.send(self.id, to, rpc)
                case NextEvent():
                    following.append(effect.message)
                case Applied() | Rejected():
                    self.cluster.answers.append(effect)
                case StartElectionTimeout():
                    self.timer = self.timer or effect
                case RecordLeaderMsg() | CancelElectionTimeout():
                    self.timer = None
                case _:
                    assert isinstance(
                        effect, (AppliedTo, AuxEval, LeaderEstablished, StartConditionTimeout)
                    ) or (type(effect).__module__ == "barque.machine.effects")
        return following

    def sync(self) -> None:
        """Everything submitted becomes durable, and the server hears of it."""
        for event in self.log.take_written():
            self.handle(event)

    def crash(self) -> None:
        """Stop without warning: what is not durable is gone, and so are messages to it."""
        self.log.crash()
        self.cluster.network = deque(e for e in self.cluster.network if e[1] != self.id)


def append_machine() -> Machine[Any]:
    """Replies to each command with the tuple of all commands so far."""
    return SimpleMachine(lambda command, state: (*state, command), ())


class CoreCluster:
    """Members by name, a network that a test delivers, and the answers that clients got."""

    def __init__(
        self, *names: str, machine: Machine[Any] | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        self.ids = tuple(ServerId(name, f"node_{name}") for name in names)
        self.machine = machine or append_machine()
        self.settings = settings or {}
        self.environment = FixedEnvironment()
        self.network: deque[tuple[ServerId, ServerId, RemoteMessage]] = deque()
        self.cut: set[tuple[ServerId, ServerId]] = set()
        self.answers: list[Applied | Rejected] = []
        self.leaders: dict[Term, ServerId] = {}
        self.members: dict[str, Member] = {}
        self._correlation = 0
        for member in self.ids:
            self.members[member.name] = Member(self, member)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def server(self, name: str) -> Server:
        """The core server of a member."""
        return self.members[name].server

    def send(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> None:
        """Put a message on the network, unless the link is cut."""
        if (sender, to) not in self.cut:
            self.network.append((sender, to, message))

    def deliver(self, *, only: type | None = None) -> int:
        """Deliver what is on the network now (of one kind, if given); returns how many."""
        batch, self.network = self.network, deque()
        count = 0
        for sender, to, message in batch:
            if only is not None and not isinstance(message, only):
                self.network.append((sender, to, message))
            elif (sender, to) not in self.cut:
                self.members[to.name].handle(message)
                count += 1
        return count

    def settle(self, *names: str) -> None:
        """Sync (these members, or all) and deliver until nothing moves any more."""
        for _ in range(1_000):
            for name in names or self.members:
                self.members[name].sync()
            if not self.deliver() and not any(m.log._submitted for m in self.members.values()):
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
            first_correlation=self._correlation,
        )
        self._correlation += len(values)
        return self.members[name].handle(Commands(len(values), body, low_priority))

    def query(self, name: str, *, consistent: bool = True) -> list[Effect]:
        """Ask a member for the machine's state."""
        self._correlation += 1
        payload = msgspec.msgpack.encode(None)
        return self.members[name].handle(Queries(CLIENT, self._correlation, (payload,), consistent))

    def replies(self) -> list[Any]:
        """All replies that clients have got, in order; forgets them."""
        answers, self.answers = self.answers, []
        return [reply for answer in answers if isinstance(answer, Applied) for reply in answer.replies]

    def log_terms(self, name: str) -> list[int]:
        """The term of each entry in a member's log."""
        return [entry.term for entry in self.members[name].log.entries]

    def load(self, name: str, terms: list[int], *, current_term: int | None = None) -> None:
        """Give a member a log of entries with these terms, durable, as Figure 7 draws them."""
        from barque.core.entries import EntryBatch

        member = self.members[name]
        member.log.entries = [
            EntryBatch(Index(i), Term(t), 1, 0, encode_body([msgspec.msgpack.encode(f"{t}.{i}")]))
            for i, t in enumerate(terms, start=1)
        ]
        member.log._written = member.log.last_index_term()
        member.term = Term(current_term if current_term is not None else max(terms, default=0))
        member.voted_for = None
        member.start()

    def check_leaders(self) -> None:
        """Election Safety (§3.4): at most one leader in a term, ever."""
        for member in self.members.values():
            server = member.server
            if server.raft_state is RaftState.LEADER:
                first = self.leaders.setdefault(server.current_term, server.id)
                if first != server.id:
                    raise InvariantViolation(f"{first} and {server.id} both led term {server.current_term}")
