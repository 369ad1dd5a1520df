"""A cluster of core servers, driven by hand: the test decides every delivery and every sync.

Nothing happens by itself. Messages wait in `network` until the test delivers them. Writes wait in each
member's log until the test syncs. A term and vote become durable with `Member.sync_meta`, and a restart
reads them back. `invariants.check` runs after every step of a server, and an `InvariantObserver`, which sees
all members and all messages, checks the invariants that no single server can check.

`settle` runs the usual case: sync and deliver until nothing moves. `core.world` runs such a cluster on
virtual time.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from barque.core import invariants
from barque.core.configuration import is_removed
from barque.core.effects import (
    Applied,
    Effect,
    Rejected,
    SendRpc,
    SendVoteRequests,
    Unresolved,
)
from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import (
    ApplyRest,
    Commands,
    DeleteCluster,
    ElectionTimeout,
    ForceMemberChange,
    JoinMember,
    LeaveMember,
    Message,
    Queries,
    RemoteMessage,
    TransferLeadership,
)
from barque.core.state import Environment, RaftState, Server
from barque.core.terms import ASKS_FOR_VOTES, admits
from barque.machine.machine import Machine
from barque.machine.simple import SimpleMachine
from barque.testing.core.member import FixedEnvironment as FixedEnvironment, Member as Member
from barque.testing.core.observer import InvariantObserver as InvariantObserver
from barque.types import ClientRef, Index, Membership, ReplyMode, ServerId, Term, Uid

CLIENT = ClientRef("client", 1)


def append_machine() -> Machine[Any]:
    """Return a machine that replies to each command with the tuple of all commands so far."""
    return SimpleMachine(lambda command, state: (*state, command), ())


class CoreCluster:
    """Members by name, a network that the test delivers, and the answers to clients.

    With `hold_meta`, a term and vote become durable only by `Member.sync_meta`; until then the effects behind
    them wait, as in a node. With `defer_flush`, the flush of low-priority commands waits for
    `Member.read_mail`, so that other messages can come first.
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
        self.unresolved: list[Unresolved] = []
        self.gone: list[tuple[ServerId, Uid | None]] = []  # servers that leaders have reported as removed
        self.observer = InvariantObserver(self)
        self.watch: Callable[[Member, Message, invariants.Facts, list[Effect]], None] | None = None
        self.members: dict[str, Member] = {}
        self.correlation = 0
        for member in self.ids:
            self.members[member.name] = Member(self, member)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def environment_of(self, name: str) -> Environment:
        """Return the clock and the tokens of a member."""
        return self.environment

    def server(self, name: str) -> Server:
        """Return the core server of a member."""
        return self.members[name].server

    def apply_soon(self, member: Member) -> None:
        """Let a member go on applying, after the present message or when the test reads the mail."""
        if self.defer_flush:
            member.mail.append(ApplyRest())
        else:
            member.enqueue(ApplyRest())

    # --- the network -----------------------------------------------------------------------

    def send(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> None:
        """Put a message on the network, unless the link is cut."""
        self.observer.hear(self.members[sender.name], to, message)
        if (sender, to) not in self.cut and to.name in self.members:
            self.network.append((sender, to, message))

    def arrive(self, sender: ServerId, to: ServerId, message: RemoteMessage) -> bool:
        """Hand a message to its receiver. Returns False if the link is cut or the receiver refuses it."""
        member = self.members[to.name]
        if (sender, to) in self.cut or not member.up:
            return False
        uid = self.members[sender.name].log.uid
        if not admits(member.server, sender, uid, message):
            return False
        if isinstance(message, ASKS_FOR_VOTES) and is_removed(member.server, sender, uid):
            self.gone.append((sender, uid))
            return False  # the receiver's node tells the sender's that the sender was removed
        member.handle(message)
        return True

    def add(self, name: str, *, uid: str | None = None, membership: Membership = Membership.VOTER) -> Member:
        """Start a server that is not a member yet; `join` makes it one."""
        member = ServerId(name, f"node_{name}")
        server = Member(self, member, uid=None if uid is None else Uid(uid), membership=membership)
        self.members[name] = server
        return server

    def deliver(self, *, only: type | None = None, link: tuple[str, str] | None = None) -> int:
        """Deliver the messages on the network now (of one kind or link, if given). Returns how many."""
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
        """Sync (these members, or all) and deliver until nothing moves."""
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
        ids = [member.id for member in self.members.values()]
        self.cut = {(x, y) for x in ids for y in ids if group_of.get(x.name) != group_of.get(y.name)}
        self.network = deque(e for e in self.network if (e[0], e[1]) not in self.cut)

    def heal(self) -> None:
        """Restore every link."""
        self.cut = set()

    # --- what people and clients do ------------------------------------------------------

    def elect(self, name: str) -> Server:
        """Let this member's election timer run out, and settle; the member must win."""
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
        """Ask a member for the state of the machine."""
        payload = msgspec.msgpack.encode(None)
        queries = Queries(CLIENT, self.correlation, (payload,), consistent)
        self.correlation += 1
        return self.members[name].handle(queries)

    def transfer(self, name: str, target: str) -> list[Effect]:
        """Ask a member to hand over its leadership."""
        to = next((m.id for m in self.members.values() if m.id.name == target), ServerId(target, "nowhere"))
        request = TransferLeadership(CLIENT, self.correlation, to)
        self.correlation += 1
        return self.members[name].handle(request)

    def join(
        self, name: str, member: str, membership: Membership = Membership.VOTER, target: int | None = None
    ) -> list[Effect]:
        """Ask `name` to add a member, with its present uid, or to change its membership."""
        there = self.members[member]
        asked = JoinMember(
            CLIENT,
            self.correlation,
            ReplyMode.AWAIT_CONSENSUS,
            there.id,
            there.log.uid,
            membership,
            None if target is None else Index(target),
        )
        self.correlation += 1
        return self.members[name].handle(asked)

    def leave(self, name: str, member: str) -> list[Effect]:
        """Ask `name` to remove a member."""
        asked = LeaveMember(
            CLIENT, self.correlation, ReplyMode.AWAIT_CONSENSUS, ServerId(member, f"node_{member}")
        )
        self.correlation += 1
        return self.members[name].handle(asked)

    def delete(self, name: str) -> list[Effect]:
        """Ask `name` to delete the cluster."""
        asked = DeleteCluster(CLIENT, self.correlation, ReplyMode.AWAIT_CONSENSUS)
        self.correlation += 1
        return self.members[name].handle(asked)

    def force(self, name: str) -> list[Effect]:
        """Make this member the only member."""
        self.correlation += 1
        return self.members[name].handle(ForceMemberChange(CLIENT, self.correlation - 1))

    def replies(self) -> list[Any]:
        """Return all replies to clients, in order, and forget them."""
        answers, self.answers = self.answers, []
        return [reply for answer in answers if isinstance(answer, Applied) for reply in answer.replies]

    def refusals(self) -> list[str]:
        """Return the reasons of all refusals, in order, and forget all answers."""
        answers, self.answers = self.answers, []
        return [answer.reason for answer in answers if isinstance(answer, Rejected)]

    # --- logs ------------------------------------------------------------------------------

    def log_terms(self, name: str) -> list[int]:
        """List the term of each entry in a member's log."""
        return [entry.term for entry in self.members[name].log.entries]

    def load(self, name: str, terms: list[int], *, current_term: int | None = None) -> None:
        """Give a member a durable log of entries with these terms, as Figure 7 draws it."""
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
    """Select the messages of one kind from these effects, each with the name of its receiver."""
    found: list[tuple[str, Any]] = []
    for effect in effects:
        match effect:
            case SendRpc():
                found.append((effect.to.name, effect.message))
            case SendVoteRequests():
                found += [(to.name, rpc) for to, rpc in effect.requests]
            case _:
                pass
    return [(to, message) for to, message in found if isinstance(message, kind)]
