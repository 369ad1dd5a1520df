"""Ra's rules, message by message, as checks of single steps.

A rule says what a role does with one kind of message of a lower, equal or higher term: which role it has
afterwards, and which kinds of messages it sends. `watched_rules` looks at each step of each server while its
block runs: it counts how often a rule applied, and notes each step that did something else. The ids are those
of Ra's `handle_…` functions. A rule that takes more than one step to be seen has a test of its own.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from barque.core import messages as m
from barque.core.effects import Effect, SendRpc, SendVoteRequests
from barque.core.log_contract import ChunkFlag
from barque.core.roles import RaftState, ReceivingRole
from barque.core.state import PeerStatus, Server
from barque.core.step import step
from barque.core.terms import TERM_STEP_MAX
from barque.testing.checkers.patching import replace

_L, _C, _P, _F, _S, _W = (
    RaftState.LEADER,
    RaftState.CANDIDATE,
    RaftState.PRE_VOTE,
    RaftState.FOLLOWER,
    RaftState.RECEIVE_SNAPSHOT,
    RaftState.AWAIT_CONDITION,
)
_BEGINS = (_F, _S)
"""Where a chunk of a snapshot leads: its beginning is taken, or it is of no use."""
_RESULTS = (m.RequestVoteResult, m.PreVoteResult)
_LOG_REPORTS = (m.Written, m.ResendWrite, m.WalUp, m.SnapshotWritten, m.SnapshotFailed)

Condition = Callable[[Server, Any], bool]


class Rule(NamedTuple):
    """When a rule applies, and what it demands; `sends` None: any messages."""

    id: str
    roles: tuple[RaftState, ...]
    kinds: tuple[type[Any], ...]
    when: Condition
    after: tuple[RaftState, ...]
    sends: frozenset[type[Any]] | None


def _rule(
    name: str,
    role: RaftState,
    kinds: type[Any] | tuple[type[Any], ...],
    when: Condition,
    after: RaftState | tuple[RaftState, ...],
    *sends: type[Any],
    any_messages: bool = False,
) -> Rule:
    return Rule(
        name,
        (role,),
        kinds if isinstance(kinds, tuple) else (kinds,),
        when,
        after if isinstance(after, tuple) else (after,),
        None if any_messages else frozenset(sends),
    )


# --- conditions ------------------------------------------------------------------------------


def _lower(server: Server, message: Any) -> bool:
    return bool(message.term < server.current_term)


def _same(server: Server, message: Any) -> bool:
    return bool(message.term == server.current_term)


def _higher(server: Server, message: Any) -> bool:
    return bool(0 < message.term - server.current_term <= TERM_STEP_MAX)


def _at_most(server: Server, message: Any) -> bool:
    return bool(message.term <= server.current_term)


def _at_least(server: Server, message: Any) -> bool:
    return _same(server, message) or _higher(server, message)


def _always(_server: Server, _message: Any) -> bool:
    return True


def _known_and_higher(server: Server, message: Any) -> bool:
    sender = m.SENDER_OF[type(message)](message)
    return _higher(server, message) and sender in server.cluster and sender != server.id


def _in_backoff(server: Server, message: m.SnapshotRetryTimeout) -> bool:
    peer = server.cluster.get(message.member)
    return peer is not None and peer.status is PeerStatus.SNAPSHOT_BACKOFF


def _supported(server: Server, message: m.InstallSnapshotRpc) -> bool:
    return message.meta.machine_version <= server.cfg.machine.version


def _useless(server: Server, message: m.InstallSnapshotRpc) -> bool:
    """F-14: what it holds is applied already, or its beginning is missing."""
    missed = message.chunk.number > 1 or message.chunk.flag is ChunkFlag.PRE
    behind = message.meta.position.index <= server.last_applied
    return _at_least(server, message) and _supported(server, message) and (behind or missed)


def _newer_machine(server: Server, message: m.InstallSnapshotRpc) -> bool:
    return _at_least(server, message) and not _supported(server, message)


def _begins_anew(server: Server, message: m.InstallSnapshotRpc) -> bool:
    """S-2: a chunk of another snapshot, or the first announcement again."""
    role = server.role
    assert isinstance(role, ReceivingRole)
    begun = bool(role.live_chunks) or role.pieces > 0
    again = message.chunk.flag is ChunkFlag.INIT and begun
    return _same(server, message) and _supported(server, message) and (message.meta != role.meta or again)


# --- the rules -------------------------------------------------------------------------------

LEADER = (
    _rule("L-4", _L, m.AppendEntriesReply, _known_and_higher, _F),
    _rule("L-12", _L, _LOG_REPORTS[1:], _always, _L, any_messages=True),
    _rule("L-14", _L, m.InstallSnapshotResult, _known_and_higher, _F),
    _rule("L-17", _L, m.SnapshotRetryTimeout, _in_backoff, _L, any_messages=True),
    _rule("L-18", _L, m.InstallSnapshotRpc, _known_and_higher, _BEGINS, any_messages=True),
    _rule("L-19", _L, m.AppendEntriesRpc, _higher, (_F, _W), any_messages=True),
    _rule("L-21", _L, m.AppendEntriesRpc, _lower, _L, m.AppendEntriesReply),
    _rule("L-25", _L, m.HeartbeatRpc, _lower, _L, m.HeartbeatReply),
    _rule("L-27", _L, m.HeartbeatReply, _lower, _L),
    _rule("L-28", _L, m.RequestVoteRpc, _known_and_higher, _F, m.RequestVoteResult),
    _rule("L-29", _L, m.RequestVoteRpc, _at_most, _L, m.RequestVoteResult),
    _rule("L-32", _L, _RESULTS, _at_most, _L),
)
CANDIDATE = (
    _rule("C-2", _C, m.RequestVoteResult, _higher, _F),
    _rule("C-5", _C, m.AppendEntriesRpc, _lower, _C, m.AppendEntriesReply),
    _rule("C-6", _C, m.HeartbeatRpc, _at_least, _F, m.HeartbeatReply),
    _rule("C-6", _C, m.HeartbeatRpc, _lower, _C, m.HeartbeatReply),
    _rule("C-7", _C, (m.AppendEntriesReply, m.HeartbeatReply), _higher, _F),
    _rule("C-8", _C, (m.AppendEntriesReply, m.HeartbeatReply), _at_most, _C),
    _rule("C-9", _C, (m.RequestVoteRpc, m.PreVoteRpc), _higher, _F, any_messages=True),
    _rule("C-10", _C, m.RequestVoteRpc, _at_most, _C, m.RequestVoteResult),
    _rule("C-11", _C, m.PreVoteRpc, _at_most, _C, m.PreVoteResult),
    _rule("C-12", _C, m.InstallSnapshotRpc, _at_least, _BEGINS, any_messages=True),
    _rule("C-13", _C, m.InstallSnapshotRpc, _lower, _C, m.InstallSnapshotResult),
    _rule("C-14", _C, _LOG_REPORTS, _always, _C),
    _rule("C-16", _C, m.ForceMemberChange, _always, _P, any_messages=True),
    _rule("C-17", _C, (m.InfoRpc, m.InfoReply), _higher, _F, any_messages=True),
    _rule("C-18", _C, m.PreVoteResult, _at_most, _C),
)
PRE_VOTE = (
    _rule("P-1", _P, m.AppendEntriesRpc, _at_least, (_F, _W), any_messages=True),
    _rule("P-1", _P, m.HeartbeatRpc, _at_least, _F, m.HeartbeatReply),
    _rule("P-2", _P, m.HeartbeatRpc, _lower, _P, m.HeartbeatReply),
    _rule("P-3", _P, (m.HeartbeatReply, m.PreVoteResult), _higher, _F),
    _rule("P-4", _P, m.RequestVoteRpc, _higher, _F, m.RequestVoteResult),
    _rule("P-5", _P, m.InstallSnapshotRpc, _at_least, _BEGINS, any_messages=True),
    _rule("P-10", _P, (m.InfoRpc, m.InfoReply), _higher, _F, any_messages=True),
    _rule("P-11", _P, (*_LOG_REPORTS, m.RequestVoteResult), _always, (_P, _F)),
    _rule("P-11", _P, m.ForceMemberChange, _always, _P, any_messages=True),
    _rule("P-12", _P, m.AppendEntriesRpc, _lower, _P, m.AppendEntriesReply),
)
FOLLOWER = (
    _rule("F-4", _F, m.HeartbeatRpc, _lower, _F, m.HeartbeatReply),
    _rule("F-11", _F, (m.AppendEntriesReply, m.HeartbeatReply), _always, _F),
    _rule("F-12", _F, m.InstallSnapshotRpc, _lower, _F, m.InstallSnapshotResult),
    _rule("F-14", _F, m.InstallSnapshotRpc, _useless, _F, m.InstallSnapshotResult, m.AppendEntriesReply),
    _rule("F-15", _F, m.InstallSnapshotRpc, _newer_machine, _F),
    _rule("F-16", _F, _RESULTS, _at_most, _F),
    _rule("F-20", _F, m.InfoReply, _always, _F),
)
RECEIVING = (
    _rule("S-2", _S, m.InstallSnapshotRpc, _begins_anew, _BEGINS, any_messages=True),
    _rule("S-7", _S, m.AppendEntriesRpc, _higher, (_F, _W), any_messages=True),
    _rule("S-7", _S, m.AppendEntriesRpc, _same, _S),
    _rule("S-8", _S, _LOG_REPORTS, _always, _S),
    _rule("S-9", _S, m.ReceiveSnapshotTimeout, _always, _F),
    _rule("S-10", _S, (m.InfoRpc, m.InfoReply), _higher, _F, any_messages=True),
    _rule("S-11", _S, m.RequestVoteRpc, _higher, _F, m.RequestVoteResult),
    _rule("S-11", _S, m.RequestVoteRpc, _at_most, _S, m.RequestVoteResult),
    _rule("S-12", _S, m.PreVoteRpc, _at_most, _S, m.PreVoteResult),
    _rule("S-13", _S, m.HeartbeatRpc, _same, _S),
    _rule("S-13", _S, (m.HeartbeatReply, m.AppendEntriesReply), _at_most, _S),
)
WAITING = (
    _rule("W-1", _W, m.RequestVoteRpc, _always, (_W, _F), m.RequestVoteResult),
    _rule("W-3", _W, m.ElectionTimeout, _always, (_P, _C, _W, _F, _L), any_messages=True),
    _rule("W-5", _W, m.Written, _always, (_W, _F, _L), any_messages=True),
)
RULES: tuple[Rule, ...] = (*LEADER, *CANDIDATE, *PRE_VOTE, *FOLLOWER, *RECEIVING, *WAITING)
"""Every rule that one step shows."""


class Watch:
    """How often each rule applied, and what broke one: the rule's id, and the step in words."""

    def __init__(self) -> None:
        self.applied: Counter[str] = Counter()
        self.broken: list[str] = []

    def check(
        self, rule: Rule, role: RaftState, message: object, server: Server, effects: list[Effect]
    ) -> None:
        """Judge a step to which this rule applied."""
        self.applied[rule.id] += 1
        if server.deleted or server.frozen:
            return  # the step went on: the server ends, or gives way
        sent = _sent(effects)
        if server.raft_state not in rule.after or (rule.sends is not None and sent != rule.sends):
            names = ", ".join(sorted(kind.__name__ for kind in sent)) or "nothing"
            self.broken.append(f"{rule.id}: {role} became {server.raft_state}, and sent {names}: {message}")


@contextmanager
def watched_rules() -> Iterator[Watch]:
    """Look at every step that is made while the block runs."""
    by_case: dict[tuple[RaftState, type[Any]], list[Rule]] = defaultdict(list)
    for rule in RULES:
        for role in rule.roles:
            for kind in rule.kinds:
                by_case[role, kind].append(rule)
    watch, real_step = Watch(), step  # the name here is replaced, too

    def watching(server: Server, message: Any) -> list[Effect]:
        role = server.raft_state
        due = [rule for rule in by_case.get((role, type(message)), ()) if rule.when(server, message)]
        effects = real_step(server, message)
        for rule in due:
            watch.check(rule, role, message, server, effects)
        return effects

    with replace(step, watching, package="barque"):
        yield watch


def _sent(effects: list[Effect]) -> frozenset[type[Any]]:
    """The kinds of messages that these effects send to other members."""
    sent = {type(effect.message) for effect in effects if isinstance(effect, SendRpc)}
    asked = {type(asked) for e in effects if isinstance(e, SendVoteRequests) for _, asked in e.requests}
    return frozenset(sent | asked)
