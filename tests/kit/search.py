"""Search all interleavings of a few events on a few core servers, within bounds.

A *state* is a whole cluster (`Clients`): the members, the messages under way, what is written and not synced,
what the `InvariantObserver` has seen, and what the clients know. `actions` lists what may happen next in a
state: a message arrives, a disk syncs, a member campaigns, crashes or ticks, a client sends a command or a
read. `search` takes the first state from a queue, forks it once for each action, performs the action on the
fork, and puts the fork into the queue unless an equal state was there before.

- **Forks are cheap.** A fork shares its members with the original; `move` copies a member before an action
  changes it.
- **Equal states** have equal keys (`Clients.key`): a hash of everything that may influence the future. A
  field that is missing there would hide states, so new fields of a server count unless `_SHARED` names them.
- **Every step is judged**: by the invariants of the core, by the observer, and by `read_answers`, which
  compares each read with what clients had been told before.
- **Bounds** say how often each kind of event may happen, which keeps the number of states finite. With
  `whole_elections` and `whole_links`, several steps count as one action: far fewer states, but also fewer
  orders.

A search ends with a violation and the actions that lead to it (breadth first: the fewest possible), with all
states visited, or with `states_max`.
"""

import enum
import itertools
import operator
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from barque.core.configuration import may_campaign
from barque.core.effects import Applied
from barque.core.messages import (
    ElectionTimeout,
    Message,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
    Tick,
)
from barque.core.roles import PlainRole, WaitingRole
from barque.core.state import Peer, RaftState, Server
from barque.errors import InvariantViolation
from barque.testing.core.cluster import CoreCluster, Member
from barque.types import Membership, ServerId

_VOTING = (PreVoteRpc, PreVoteResult, RequestVoteRpc, RequestVoteResult)
_SHARED = {
    "aux_state",
    "cfg",
    "commit_latency_ms",
    "decode_commands",
    "decode_query",
    "environment",
    "id",
    "log",
    "others",
}
"""Fields of a server that are equal in all states, kept apart, or follow from other fields."""

_COUNTED = ("elections", "commands", "crashes", "reads", "transfers", "ticks", "copies", "losses", "changes")

ObjectT = TypeVar("ObjectT")
Link = tuple[ServerId, ServerId]
Action = tuple[str, Callable[["Clients"], None]]
"""What may happen next: its name, and a function that does it to a copy of the state."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How often each kind of event may happen in one history, and which members there are."""

    names: str = "abc"
    spare: str = ""
    """Servers that are not members at first."""
    elections: int = 2
    commands: int = 1
    crashes: int = 0
    reads: int = 0
    transfers: int = 0
    ticks: int = 0
    changes: int = 0
    """How often members may leave or join."""
    copies: int = 0
    """How many messages may arrive twice."""
    whole_elections: bool = True
    """An election is one action, with the voters that it needs; its messages mix with no others."""
    losses: int = 0
    """How often everything under way on a link may be lost."""
    whole_links: bool = True
    """Everything under way on a link arrives together; otherwise each message by itself, in any order."""
    prompt_disks: bool = True
    """A follower syncs before it does anything else; otherwise each sync is an event."""
    late_reports: bool = False
    """A disk's report of what it has written is an event of its own."""


class Clients(CoreCluster):
    """A cluster that counts what has happened, and knows what clients were told. `fork` copies it."""

    def __init__(self, bounds: Bounds, settings: dict[str, Any] | None = None) -> None:
        self.left = {kind: getattr(bounds, kind) for kind in _COUNTED}
        self.acked: frozenset[Any] = frozenset()
        self.asked: dict[int, frozenset[Any]] = {}
        self.keys: dict[str, Any] = {}  # of members that have not changed since
        super().__init__(*bounds.names, settings=settings)
        for name in bounds.spare:
            self.add(name, membership=Membership.NON_VOTER)

    def fork(self) -> "Clients":
        """Return a copy to act on. The copy shares its members until `move` asks for one."""
        other = _twin(self)
        other.left = dict(self.left)
        other.asked = dict(self.asked)
        other.keys = dict(self.keys)
        other.network = deque(self.network)
        other.answers, other.gone = [], []
        other.members = dict(self.members)
        other.environment = _twin(self.environment)
        other.observer = _twin(self.observer)
        other.observer._cluster = other
        other.observer.leaders = dict(self.observer.leaders)
        other.observer.votes = dict(self.observer.votes)
        other.observer.committed = list(self.observer.committed)
        return other

    def move(self, name: str) -> Member:
        """Return a member that may be changed in this state."""
        self.keys.pop(name, None)
        member = self.members[name] = _copy_member(self.members[name], self)
        return member

    def take(self, kind: str) -> None:
        """Use up one event of this kind."""
        self.left[kind] -= 1

    def read_answers(self) -> None:
        """Read the answers: a read must show everything that was acknowledged before it was asked."""
        for answer in self.answers:
            if not isinstance(answer, Applied):
                self.asked.pop(answer.first_correlation, None)
                continue
            reply = frozenset(answer.replies[0]) if isinstance(answer.replies[0], tuple) else frozenset()
            owed = self.asked.pop(answer.first_correlation, None)
            if owed is not None and not owed <= reply:
                raise InvariantViolation(f"a stale read: {sorted(reply)}, acknowledged were {sorted(owed)}")
            if owed is None:
                self.acked |= reply
        self.answers = []

    def key(self) -> int:
        """A number that tells this state from others."""
        for name, member in self.members.items():
            if name not in self.keys:
                self.keys[name] = _member_key(member)
        observer = self.observer
        return hash(
            (
                tuple(self.keys.values()),
                tuple(self.network),
                tuple(self.left.values()),
                tuple(observer.leaders.items()),
                tuple(sorted(observer.votes.items())),
                tuple(observer.committed),
                self.acked,
                tuple(self.asked.items()),
            )
        )


def _copy_member(member: Member, cluster: Clients) -> Member:
    other = _twin(member)
    other.cluster = cluster
    other.make_performer()
    other.effects, other.machine_effects = [], []
    other.unheard, other.mail = deque(member.unheard), deque(member.mail)
    other.held = None if member.held is None else list(member.held)
    log = other.log = _twin(member.log)
    for field, value in vars(log).items():
        if type(value) is list:
            setattr(log, field, value[:])
    snapshots = log._snapshots = _twin(log._snapshots)
    snapshots._log = log
    server = other.server = _copy_slots(member.server)
    server.log = log
    server.environment = cluster.environment
    server.set_configuration({name: _copy_slots(peer) for name, peer in server.cluster.items()})
    if not isinstance(server.role, PlainRole):
        role: Any = _copy_slots(server.role)
        server.role = role
        if isinstance(role, WaitingRole) and role.resume is not None:
            role.resume = _copy_slots(role.resume)
    return other


def _twin(value: ObjectT) -> ObjectT:
    """Copy an object without slots, sharing its containers; faster than `copy.copy`."""
    other: ObjectT = type(value).__new__(type(value))
    other.__dict__.update(value.__dict__)
    return other


def _copy_slots(value: Any) -> Any:
    """Copy an object with slots, and the containers in them."""
    kind: Any = type(value)
    other = kind.__new__(kind)
    for field in kind.__slots__:
        held = getattr(value, field)
        setattr(other, field, held.copy() if type(held) in _CONTAINERS else held)
    return other


_CONTAINERS = {list, set, deque}


def _member_key(member: Member) -> int:
    fields = tuple(map(_freeze, _SERVER_FIELDS(member.server)))
    # No machine here asks for snapshots; a search with one must count them in.
    log = tuple(_freeze(value) for field, value in vars(member.log).items() if field != "_snapshots")
    kept = (member.term, member.voted_for, member.last_applied, member.up, member.doubting)
    timers = (member.timer is None, member.condition_timer is None)
    return hash((fields, log, kept, timers, tuple(member.unheard)))


_SERVER_FIELDS = operator.attrgetter(*(field for field in Server.__slots__ if field not in _SHARED))


def _freeze(value: Any) -> Any:
    """Return something hashable that equal states share."""
    kind = type(value)
    how = _KINDS.get(kind)
    if how is None:
        how = _KINDS[kind] = _kind(kind)
    if how == "plain":
        return value
    if how == "peer":
        return tuple(tuple(held) if type(held) is list else held for held in _PEER_FIELDS(value))
    if how == "sequence":
        return tuple(map(_freeze, value))
    if how == "mapping":
        return tuple((key, _freeze(held)) for key, held in value.items())
    if how == "set":
        return frozenset(value)
    fields = (getattr(value, field) for field in kind.__slots__)
    return (kind.__name__, *(_freeze(held) for held in fields if not callable(held)))


_PEER_FIELDS = operator.attrgetter(*Peer.__slots__)
_KINDS: dict[type, str] = {Peer: "peer"}


def _kind(kind: type) -> str:
    if issubclass(kind, list | tuple | deque):
        return "sequence"
    if issubclass(kind, dict):
        return "mapping"
    if issubclass(kind, set | frozenset):
        return "set"
    slotted = "__slots__" in vars(kind) and not issubclass(kind, msgspec.Struct | enum.Enum | str)
    return "slots" if slotted else "plain"


# --- actions -------------------------------------------------------------------------------


def actions(state: Clients, bounds: Bounds) -> Iterator[Action]:
    """Yield everything that may happen next, in an order that never changes."""
    for name, member in state.members.items():
        yield from _steps_of_disk(name, member, bounds)
        yield from _steps_of_leader(state, name, member)
    yield from _deliveries_of_links(state, bounds) if bounds.whole_links else _deliveries(state, bounds)
    if state.left["elections"]:
        yield from _elections(state, bounds)
    if state.left["crashes"]:
        for name in state.members:
            yield f"{name} loses power", _later(_crash, name)
    if state.left["transfers"]:
        yield from _transfers(state)
    if state.left["changes"]:
        yield from _changes(state)


def _later(act: Callable[..., None], *details: Any) -> Callable[[Clients], None]:
    """The action without the state, of which it will get a copy."""
    return lambda state: act(state, *details)


def _leads(member: Member) -> bool:
    return member.server.raft_state is RaftState.LEADER


def _steps_of_disk(name: str, member: Member, bounds: Bounds) -> Iterator[Action]:
    """A member's disk syncs or reports. A leader's disk may always be late, others' by `prompt_disks`."""
    if bounds.late_reports and member.unheard:
        yield f"{name} hears of its disk", _later(_hear, name)
    if member.log.unsynced and (_leads(member) or not bounds.prompt_disks):
        yield f"{name} syncs", _later(_sync, name, bounds)


def _steps_of_leader(state: Clients, name: str, member: Member) -> Iterator[Action]:
    """A leader stops waiting for a majority, gets a command or a read, or ticks."""
    if member.doubting:
        yield f"{name} waits for a majority no longer", _later(_give_up, name)
    if not _leads(member):
        return
    if state.left["commands"]:
        yield f"{name} is given a command", _later(_command, name)
    if state.left["reads"]:
        yield f"{name} is given a read", _later(_read, name)
    if state.left["ticks"]:
        yield f"{name} ticks", _later(_tick, name)


def _elections(state: Clients, bounds: Bounds) -> Iterator[Action]:
    """An election timer runs out; with `whole_elections` the whole election happens at once."""
    for name in state.members:
        if not bounds.whole_elections:
            yield f"{name} times out", _later(_timeout, name)
        elif may_campaign(state.server(name)):
            for helpers in _helpers(state, name):
                text = f"{name} campaigns, asking {' and '.join(helpers) or 'nobody'}"
                yield text, _later(_elect, name, helpers)


def _helpers(state: Clients, name: str) -> Iterator[tuple[str, ...]]:
    """Whom the candidate may ask: each smallest majority of its voters."""
    server = state.server(name)
    others = [member.name for member, peer in server.peers if peer.voter and member.name in state.members]
    return itertools.combinations(others, server.quorum() - server.is_voter(server.id))


def _transfers(state: Clients) -> Iterator[Action]:
    """A leader hands over to any other member."""
    for name, member in state.members.items():
        if _leads(member):
            for target in state.members:
                if target != name:
                    yield f"{name} hands over to {target}", _later(_transfer, name, target)


def _changes(state: Clients) -> Iterator[Action]:
    """A leader removes a member, or adds a server as a voter."""
    for name, member in state.members.items():
        if _leads(member):
            for other, there in state.members.items():
                if there.id in member.server.cluster:
                    yield f"{name} removes {other}", _later(_leave, name, other)
                else:
                    yield f"{name} adds {other}", _later(_join, name, other)


def _deliveries_of_links(state: Clients, bounds: Bounds) -> Iterator[Action]:
    """Everything under way on one link arrives, is lost, or arrives and stays under way."""
    for link in dict.fromkeys((sender, to) for sender, to, _ in state.network):
        text = f"{link[0].name}→{link[1].name}"
        yield text, _later(_deliver_link, link, bounds)
        if state.left["losses"]:
            yield f"{text} is lost", _later(_lose, link)
        if state.left["copies"]:
            yield f"{text} and again", _later(_deliver_link_again, link, bounds)


def _deliveries(state: Clients, bounds: Bounds) -> Iterator[Action]:
    """One message arrives, or arrives and stays under way."""
    seen: set[Any] = set()
    for place, envelope in enumerate(state.network):
        if envelope in seen:
            continue
        seen.add(envelope)
        sender, to, message = envelope
        text = f"{sender.name}→{to.name} {type(message).__name__}"
        yield text, _later(_deliver, place, bounds)
        if state.left["copies"]:
            yield f"{text}, a copy", _later(_deliver_again, place, bounds)


def _deliver_link(state: Clients, link: Link, bounds: Bounds) -> None:
    messages = [e[2] for e in state.network if e[:2] == link]
    state.network = deque(e for e in state.network if e[:2] != link)
    _arrive(state, link[1].name, messages, bounds)


def _deliver_link_again(state: Clients, link: Link, bounds: Bounds) -> None:
    state.take("copies")
    _arrive(state, link[1].name, [e[2] for e in state.network if e[:2] == link], bounds)


def _arrive(state: Clients, name: str, messages: Sequence[Message], bounds: Bounds) -> None:
    member = state.move(name)
    for message in messages:
        member.handle(message)
    _settle(member, bounds)


def _settle(member: Member, bounds: Bounds) -> None:
    if bounds.prompt_disks and member.server.raft_state is not RaftState.LEADER:
        member.sync()


def _lose(state: Clients, link: Link) -> None:
    state.take("losses")
    state.network = deque(e for e in state.network if e[:2] != link)


def _deliver(state: Clients, place: int, bounds: Bounds) -> None:
    _, to, message = state.network[place]
    del state.network[place]
    _arrive(state, to.name, [message], bounds)


def _deliver_again(state: Clients, place: int, bounds: Bounds) -> None:
    state.take("copies")
    _, to, message = state.network[place]
    _arrive(state, to.name, [message], bounds)


def _hear(state: Clients, name: str) -> None:
    state.move(name).hear()


def _sync(state: Clients, name: str, bounds: Bounds) -> None:
    member = state.move(name)
    if bounds.late_reports:
        member.flush()
    else:
        member.sync()


def _give_up(state: Clients, name: str) -> None:
    state.move(name).expire_quorum()


def _command(state: Clients, name: str) -> None:
    state.take("commands")
    state.move(name)
    state.command(name, state.correlation)


def _read(state: Clients, name: str) -> None:
    state.take("reads")
    state.move(name)
    state.asked[state.correlation] = state.acked
    state.query(name)


def _tick(state: Clients, name: str) -> None:
    state.take("ticks")
    state.move(name).handle(Tick(0))


def _timeout(state: Clients, name: str) -> None:
    state.take("elections")
    state.move(name).handle(ElectionTimeout())


def _elect(state: Clients, name: str, helpers: tuple[str, ...]) -> None:
    """Run a whole election in which only these other members hear the candidate."""
    state.take("elections")
    there = {name, *helpers}
    for member in sorted(there):
        state.move(member)
    state.members[name].handle(ElectionTimeout())
    for _ in range(8):
        voting = [e for e in state.network if isinstance(e[2], _VOTING)]
        state.network = deque(e for e in state.network if not isinstance(e[2], _VOTING))
        for sender, to, message in voting:
            if sender.name in there and to.name in there and name in (sender.name, to.name):
                state.members[to.name].handle(message)


def _crash(state: Clients, name: str) -> None:
    state.take("crashes")
    state.move(name).restart()


def _leave(state: Clients, name: str, other: str) -> None:
    state.take("changes")
    state.move(name)
    state.leave(name, other)


def _join(state: Clients, name: str, other: str) -> None:
    state.take("changes")
    state.move(name)
    state.join(name, other)


def _transfer(state: Clients, name: str, target: str) -> None:
    state.take("transfers")
    state.move(name)
    state.transfer(name, target)
    state.answers = []


# --- the search ----------------------------------------------------------------------------


class SearchReport(msgspec.Struct, kw_only=True):
    """What a search did. `violation` is empty if nothing was found; `path` leads to the violation."""

    states: int = 0
    steps: int = 0
    exhausted: bool = False
    violation: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.violation:
            how = "all of them" if self.exhausted else "as many as were allowed"
            return f"{self.states} states, {how}: good"
        steps = "\n".join(f"  {number}. {text}" for number, text in enumerate(self.path, start=1))
        return f"{self.violation}\nafter {self.states} states, by\n{steps}"


def search(
    bounds: Bounds,
    *,
    states_max: int = 20_000,
    depth_first: bool = False,
    seed: int | None = None,
    settings: dict[str, Any] | None = None,
    led_by: str = "",
    more: Callable[[Clients], Iterator[Action]] = lambda _state: iter(()),
) -> SearchReport:
    """Try every order of what the bounds allow, nearest first, or depth first.

    With `led_by`, that member is elected and everything settles before the first event. A `seed` shuffles the
    actions of each state, so that capped searches see different parts. `more` adds actions of your own.
    """
    report = SearchReport()
    rng = random.Random(seed) if seed is not None else None  # repeatable on purpose
    start = Clients(bounds, settings)
    try:
        if led_by:
            start.elect(led_by)
            start.answers = []
    except Exception as error:
        report.violation = f"{type(error).__name__}: {error}"
        report.path = (f"{led_by} is elected",)
        return report
    seen = {start.key()}
    frontier: deque[tuple[Clients, tuple[Any, ...] | None]] = deque([(start, None)])
    while frontier:
        state, path = frontier.pop() if depth_first else frontier.popleft()
        if report.states >= states_max:
            return report
        report.states += 1
        found = [*actions(state, bounds), *more(state)]
        if rng is not None:
            rng.shuffle(found)
        for text, act in found:
            report.steps += 1
            following = state.fork()
            try:
                act(following)
                following.read_answers()
            except Exception as error:  # the search looks for any error of a step
                report.violation = f"{type(error).__name__}: {error}"
                report.path = _texts((text, path))
                return report
            key = following.key()
            if key not in seen:
                seen.add(key)
                frontier.append((following, (text, path)))
    report.exhausted = True
    return report


def _texts(path: tuple[Any, ...] | None) -> tuple[str, ...]:
    texts: list[str] = []
    while path is not None:
        texts.append(path[0])
        path = path[1]
    return tuple(reversed(texts))
