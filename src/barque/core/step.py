"""One step of a server: the handler of its state, then what entering a new state brings.

Same server, same message, same effects. An exception leaves the server unusable; whoever
runs it must stop it and say why.
"""

from collections.abc import Callable

from barque.core.applying import apply_to, take_callback_effects
from barque.core.aux_machine import has_aux
from barque.core.await_condition import handle_await_condition
from barque.core.candidate import handle_candidate
from barque.core.commands import on_resume
from barque.core.configuration import scan_uncommitted
from barque.core.effects import Defer, Effect, StartElectionTimeout, StartReceiveTimeout, TimerSpan
from barque.core.events import PipelineRpcs
from barque.core.follower import handle_follower
from barque.core.leader import handle_leader
from barque.core.membership import promotables_wait
from barque.core.messages import Message
from barque.core.peers import PeerStatus
from barque.core.pre_vote import handle_pre_vote
from barque.core.progress import progress
from barque.core.receive_snapshot import handle_receive_snapshot
from barque.core.replication import is_stale
from barque.core.server import RaftState, Server, Transition
from barque.core.termination import (
    begin_termination,
    handle_terminating_follower,
    handle_terminating_leader,
)
from barque.core.versions import asks_on_tick
from barque.errors import InvariantViolation
from barque.machine.machine import Machine
from barque.types import Membership

Handler = Callable[[Server, Message], Transition]

HANDLERS: dict[RaftState, Handler] = {
    RaftState.LEADER: handle_leader,
    RaftState.FOLLOWER: handle_follower,
    RaftState.CANDIDATE: handle_candidate,
    RaftState.PRE_VOTE: handle_pre_vote,
    RaftState.AWAIT_CONDITION: handle_await_condition,
    RaftState.RECEIVE_SNAPSHOT: handle_receive_snapshot,
    RaftState.TERMINATING_LEADER: handle_terminating_leader,
    RaftState.TERMINATING_FOLLOWER: handle_terminating_follower,
}
"""The states that take messages."""
ENDING = (
    RaftState.TERMINATING_LEADER,
    RaftState.TERMINATING_FOLLOWER,
    RaftState.DELETE_AND_TERMINATE,
    RaftState.STOP,
)
"""The states that lead nowhere else."""


def step(server: Server, message: Message) -> list[Effect]:
    """Handle one message. The effects are to be performed in their order."""
    old = server.raft_state
    handler = HANDLERS.get(old)
    if handler is None:
        raise InvariantViolation(f"{server.id}: no messages are handled in state {old}")
    new, effects = handler(server, message)
    if server.deleted and new not in ENDING:
        ending = begin_termination(server, new)
        new, effects = ending.state, [*effects, *ending.effects]
    if new is not old:
        server.raft_state = new
        effects = effects + handle_state_enter(server, old)
    return effects


def recover(server: Server) -> list[Effect]:
    """Ra's `recover` (§1): apply what was known to be applied, quietly, and become a follower.

    Machine effects and replies of that time were performed then; they are dropped (CORE-04).
    """
    assert server.raft_state is RaftState.RECOVER
    server.start_machine()
    apply_to(server, server.commit_index)
    scan_uncommitted(server)
    server.commit_latency_ms = 0
    if server.deleted:  # we had applied the end, and did not live to act on it
        server.raft_state, effects = begin_termination(server, RaftState.FOLLOWER)
        return effects
    server.raft_state = RaftState.RECOVERED
    effects = _machine_enters(server)
    server.raft_state = RaftState.FOLLOWER
    return effects + handle_state_enter(server, RaftState.RECOVERED)


def handle_state_enter(server: Server, old: RaftState) -> list[Effect]:
    """Ra's `handle_state_enter`: timers of the new state, then the machine's wishes (ELEC-18)."""
    effects: list[Effect] = []
    match server.raft_state:
        case RaftState.FOLLOWER:
            for peer in server.cluster.values():
                peer.status = PeerStatus.NORMAL  # CORE-17
            # ELEC-20: a new member waits to be asked. One that has known a term does not: it may have
            # led, and lost what it had not synced, and the others may wait for it.
            if server.log.next_index() > 1 or server.current_term > 0:
                span = TimerSpan.SHORT if old is RaftState.RECOVERED else TimerSpan.LONG
                effects.append(StartElectionTimeout(span))
        case RaftState.PRE_VOTE:
            effects.append(StartElectionTimeout())
        case RaftState.CANDIDATE:
            effects.append(StartElectionTimeout(TimerSpan.SHORT))
        case RaftState.LEADER if old is RaftState.AWAIT_CONDITION:
            # Back from waiting: what became durable meanwhile counts now.
            effects += [*progress(server), Defer(PipelineRpcs()), *on_resume(server)]
        case RaftState.LEADER:
            server.cluster_change_permitted = False  # until this term's noop is applied
        case RaftState.RECEIVE_SNAPSHOT:
            effects.append(StartReceiveTimeout(server.cfg.receive_snapshot_timeout_ms))
        case _:
            pass
    return effects + _machine_enters(server)


def _machine_enters(server: Server) -> list[Effect]:
    return take_callback_effects(server.machine.state_enter(str(server.raft_state), server.machine_state))


def has_unfinished_business(server: Server) -> bool:
    """Whether a tick could do anything: an idle server needs none (design: idle costs nothing)."""
    if server.raft_state is RaftState.TERMINATING_LEADER:
        return True
    if has_aux(server) and server.raft_state in (RaftState.LEADER, RaftState.FOLLOWER):
        return True
    if server.raft_state is not RaftState.LEADER:
        return False
    if server.membership is not Membership.VOTER:
        return True  # it hands over, or asks again whom it asked
    role = server.leader_role()
    if type(server.machine).tick is not Machine.tick:
        return True
    waiting = bool(role.waiting_queries or role.pending_queries or role.low_priority)
    if waiting or any(is_stale(server, peer) for _, peer in server.peers()):
        return True
    return promotables_wait(server) or asks_on_tick(server)
