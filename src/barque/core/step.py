"""One step of a server: settle the message's term, then let the present role's table handle it.

How the core works. A server is one object (`state.Server`) that nothing but `step` changes. `step` takes
one message and returns effects: values that ask the runtime to send, store, arm a timer or answer a
client. The core itself reads no clock, draws no random number, and touches no socket or file, so the same
messages always give the same effects.

1. `terms.settle_term` compares the message's term with ours. It refuses what is old, adopts what is new
   (leaving the present role for it), and records the leader whose message this is.
2. The table of the present role handles the message. Tables are total: each role has a row for each
   message. A handler changes the server's fields, may call a `become_*` function of `transitions`, and
   returns effects in the order in which they must happen.
3. If a deletion of the cluster was applied meanwhile, the server begins its end. If a machine version is in
   force that a leader lacks, the leader gives way.

An effect list is one order. `PersistTermAndVote` holds back everything behind it until the disk has it, so
a vote is durable before the reply that grants it leaves. When one message changes the durable pair twice (a
higher term, then a vote in it), one record says both.

`NextEvent` hands the server a message right after this step, and `Defer` one at the end of the turn. A
server's own vote, a new leader's noop and a promotion travel this way, so that each is a step of its own.

An exception leaves the server unusable; the runtime stops it and says why.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from barque.core.applying import apply_to
from barque.core.await_condition import AWAIT_CONDITION
from barque.core.candidate import CANDIDATE, PRE_VOTE
from barque.core.configuration import scan_uncommitted
from barque.core.dispatch import Handler
from barque.core.effects import Effect, PersistTermAndVote
from barque.core.elections import give_way
from barque.core.follower import FOLLOWER
from barque.core.leader import LEADER, has_leader_work
from barque.core.messages import Message
from barque.core.receive_snapshot import RECEIVE_SNAPSHOT
from barque.core.roles import RaftState
from barque.core.state import Server
from barque.core.terminating import (
    TERMINATING_FOLLOWER,
    TERMINATING_LEADER,
    begin_termination,
)
from barque.core.terms import KINDS, settle_term
from barque.core.transitions import become_follower, become_recovered
from barque.errors import InvariantViolation
from barque.types import Index

TABLES: dict[RaftState, Mapping[type[Any], Handler]] = {
    RaftState.LEADER: LEADER,
    RaftState.FOLLOWER: FOLLOWER,
    RaftState.CANDIDATE: CANDIDATE,
    RaftState.PRE_VOTE: PRE_VOTE,
    RaftState.AWAIT_CONDITION: AWAIT_CONDITION,
    RaftState.RECEIVE_SNAPSHOT: RECEIVE_SNAPSHOT,
    RaftState.TERMINATING_LEADER: TERMINATING_LEADER,
    RaftState.TERMINATING_FOLLOWER: TERMINATING_FOLLOWER,
}
"""The states that take messages."""
_SLICE = 10_000
"""How many entries are applied between two reports of a recovery."""
ENDING = (
    RaftState.TERMINATING_LEADER,
    RaftState.TERMINATING_FOLLOWER,
    RaftState.DELETE_AND_TERMINATE,
    RaftState.STOP,
)
"""The states that lead nowhere else."""


def step(server: Server, message: Message) -> list[Effect]:
    """Handle one message. Perform the effects in their order."""
    if server.raft_state not in TABLES:
        raise InvariantViolation(f"{server.id}: no messages are handled in state {server.raft_state}")
    if type(message) not in KINDS:  # a client's request or a local event: it belongs to no term
        effects = TABLES[server.raft_state][type(message)](server, message)
    else:
        settled: list[Effect] = []
        if not settle_term(server, message, settled):
            return settled
        effects = TABLES[server.raft_state][type(message)](server, message)
        if settled:
            effects = _store_once(settled + effects)
    if server.deleted and server.raft_state not in ENDING:
        effects = effects + begin_termination(server)
    if server.frozen and server.raft_state is RaftState.LEADER:
        effects = effects + give_way(server)
    return effects


def _store_once(effects: list[Effect]) -> list[Effect]:
    """Store the newest (term, vote) of this step, in the place of the first: it guards all that follows."""
    records = []
    for at, effect in enumerate(effects):  # a loop: each AppendEntries comes here
        if type(effect) is PersistTermAndVote:
            records.append(at)
    if len(records) > 1:
        newest = effects[records[-1]]
        for at in reversed(records[1:]):
            del effects[at]
        effects[records[0]] = newest
    return effects


def say_nothing(_count: int) -> None:
    """Report no progress."""


def recover(server: Server, applied: Callable[[int], None] = say_nothing) -> list[Effect]:
    """Ra's `recover` (§1): apply the entries that were known to be applied, then become a follower.

    Their machine effects and replies were performed before the restart, so they are dropped (CORE-04). A term
    that only the log knows is stored first: a snapshot may replace the entry that tells it.
    `applied` is told from time to time how many more entries are applied.
    """
    assert server.raft_state is RaftState.RECOVER
    server.start_machine()
    before = server.last_applied
    while before < server.commit_index:
        apply_to(server, Index(min(before + _SLICE, server.commit_index)))
        if server.last_applied == before:
            break  # the log ends, or the machine is frozen or deleted
        applied(server.last_applied - before)
        before = server.last_applied
    scan_uncommitted(server)
    owed: list[Effect] = [PersistTermAndVote(server.current_term, None)] if server.owes_term else []
    server.commit_latency_ms = 0
    if server.deleted:  # the deletion was applied, and the process died before it acted on it
        return [*owed, *begin_termination(server)]
    return [*owed, *become_recovered(server), *become_follower(server)]


def has_unfinished_business(server: Server) -> bool:
    """Whether a tick could do anything. An idle server needs none, and so costs nothing."""
    reason = _UNFINISHED.get(server.raft_state)
    return reason is not None and reason(server)


_UNFINISHED: dict[RaftState, Callable[[Server], bool]] = {
    RaftState.LEADER: lambda server: server.has_aux or has_leader_work(server),
    RaftState.FOLLOWER: attrgetter("has_aux"),
    RaftState.AWAIT_CONDITION: attrgetter("has_aux"),
    RaftState.TERMINATING_LEADER: lambda _server: True,
}
