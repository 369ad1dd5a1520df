"""The term rule (§3.3): one function settles the term of every message before a handler sees it.

`settle_term` compares the term of a message with the server's, once for all roles:

- *lower*: the sender is behind. A request is refused with the kind's own refusal, which carries our
  term, so that the sender learns it. A reply is dropped: what it says of that term may be untrue by now.
- *higher*: our term is over. Adopt the higher one, without a vote and without a leader, and become a
  follower. A server outside our configuration cannot depose a leader in this way (ELEC-11), unless it
  claims to lead itself: then it was elected, and our configuration may be older than its own. A term that
  is higher by more than `TERM_STEP_MAX` is refused: no elections lead there, and it would use up all terms.
- *equal*: if only a leader sends this kind, its sender leads this term. Candidates give way to it, and
  followers follow it. Two leaders in one term cannot be; if we see them, we stop before harm is done.

After that the message belongs to our term, whatever our role, and the role's table handles it. No other
module compares the terms of messages; `tests/test_tidy.py` checks that.

A message claims to come from a server (`messages.SENDER_OF`). `admits` decides whether an incarnation
(uid) of that server may say it (MEMB-10); the runtime asks before it hands a message over,
and the transport compares the sender's node with the connection (docs/explanation/identity.md).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from barque.core import messages as m
from barque.core.append_entries import refuse_append_entries
from barque.core.configuration import hears_candidate, recognises
from barque.core.effects import Effect, StartElectionTimeout, StopReason, TermRefused, TimerSpan
from barque.core.elections import refuse_pre_vote, refuse_vote
from barque.core.receive_snapshot import refuse_snapshot
from barque.core.replication import refuse_heartbeat
from barque.core.roles import RaftState
from barque.core.state import Server
from barque.core.transitions import become_follower, become_stopped, follow, step_down
from barque.core.versions import refuse_info
from barque.errors import InvariantViolation
from barque.types import ServerId, Term, Uid


class Kind(NamedTuple):
    """What the rule must know of one kind of message."""

    refuse: Callable[[Server, Any], list[Effect]]
    """The answer to one of a lower term."""
    from_leader: bool = False
    """Only the leader of the message's term sends it."""
    from_outside: bool = False
    """A higher term deposes a leader even if it does not know the sender."""
    counted: bool = False
    """It makes majorities or tells who a member is, so it counts from a known member only."""


def drop(server: Server, message: m.Message) -> list[Effect]:
    """A reply of a term that is over: the sender may have lost since what it tells."""
    return []


KINDS: dict[type[Any], Kind] = {
    # A leader of a lower term does not know that it was deposed: our reply tells it (F-2, L-21, C-5).
    m.AppendEntriesRpc: Kind(refuse_append_entries, from_leader=True, from_outside=True),
    m.HeartbeatRpc: Kind(refuse_heartbeat, from_leader=True, from_outside=True),
    # As Ra (L-18): a leader is deposed by a member's snapshot only; the AppendEntries before it came first.
    m.InstallSnapshotRpc: Kind(refuse_snapshot, from_leader=True),
    m.InfoRpc: Kind(refuse_info, from_leader=True, from_outside=True),
    # A candidate of a lower term learns ours; a leader that is asked for a pre-vote asserts itself (L-31).
    m.RequestVoteRpc: Kind(refuse_vote),
    m.PreVoteRpc: Kind(refuse_pre_vote),
    # Replies: only their term is news once ours is higher.
    m.AppendEntriesReply: Kind(drop, counted=True),
    m.HeartbeatReply: Kind(drop, counted=True),
    m.InstallSnapshotResult: Kind(drop, counted=True),
    m.RequestVoteResult: Kind(drop, counted=True),
    m.PreVoteResult: Kind(drop, counted=True),
    m.InfoReply: Kind(drop, counted=True),
}
"""The messages that carry a term."""

TERM_STEP_MAX = 1 << 32
"""How far above ours a plausible term may be: an election each 100 ms for 13 years."""

ASKS_FOR_VOTES = (m.PreVoteRpc, m.RequestVoteRpc)
"""A candidate's questions."""


def settle_term(server: Server, message: Any, effects: list[Effect]) -> bool:
    """Settle the term of a message that has one; return whether the role's handler sees the message.

    Appends to `effects` what that takes: a refusal, a new term to store, the end of a role.
    """
    kind = KINDS[type(message)]
    if message.term != server.current_term:
        if message.term < server.current_term:
            effects += kind.refuse(server, message)
            return False
        if not _adopt_higher_term(server, kind, message, effects):
            return False
    if kind.from_leader:
        _hear_leader(server, m.SENDER_OF[type(message)](message), effects)
    return True


def _adopt_higher_term(server: Server, kind: Kind, message: Any, effects: list[Effect]) -> bool:
    """§3.3: our term is over. False if the sender cannot end it, or if our server ends with it."""
    sender = m.SENDER_OF[type(message)](message)
    if message.term - server.current_term > TERM_STEP_MAX:
        effects.append(TermRefused(sender, message.term))
        return False
    leads, had_leader = server.leadership() is not None, server.leader_id is not None
    if leads and not kind.from_outside and (sender not in server.cluster or sender == server.id):
        return False
    if server.raft_state is RaftState.TERMINATING_LEADER:
        if kind.from_leader or type(message) is m.AppendEntriesReply:
            # Another server leads. It has the deletion, which is committed.
            effects += become_stopped(server, StopReason.DELETED)
        return False
    follows = server.raft_state is RaftState.FOLLOWER
    effects += step_down(server, message.term)
    if follows and had_leader and not kind.from_leader:
        # The leader that we followed is deposed, and if it no longer votes it does not campaign again.
        effects.append(StartElectionTimeout(TimerSpan.LONG))
    return True


def _hear_leader(server: Server, leader: ServerId, effects: list[Effect]) -> None:
    """§3.4: this server leads our term. Candidates give way, and followers follow it (C-4, P-1)."""
    if server.leadership() is not None:
        raise InvariantViolation(f"{server.id} and {leader} both lead in term {server.current_term}")
    if server.raft_state in (RaftState.CANDIDATE, RaftState.PRE_VOTE):
        effects += become_follower(server)
    effects.append(follow(server, leader))


# --- whose messages are heard ----------------------------------------------------------------


def admits(server: Server, sender: ServerId, uid: Uid, message: object) -> bool:
    """Whether a server hears this message from that incarnation of its sender (MEMB-10)."""
    if isinstance(message, ASKS_FOR_VOTES):
        return hears_candidate(server, sender, uid, in_own_config=message.in_own_config)
    kind = KINDS.get(type(message))
    return kind is None or not kind.counted or recognises(server, sender, uid)


def was_removed(server: Server, term: Term, uids: tuple[Uid, ...]) -> bool:
    """Whether an established leader of `term`, whose members on our node are `uids`, has removed us.

    A leader of the term in which we joined may have listed its members before that. A leader of a term
    below ours may not know that we have joined.
    """
    cfg = server.cfg
    joined_in = cfg.min_vote_position.term
    return cfg.uid not in uids and term > joined_in and term >= server.current_term
