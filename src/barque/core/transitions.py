"""Every change of role, term, vote and leader, in one place.

Each `become_*` function leaves the present role, takes the next one and returns the effects that
this brings: what the old role owes its callers, then the timers and the machine's wishes of the new
state (Ra's `handle_state_enter`). Nothing else sets `role`, `raft_state`, `leader_id`,
`current_term` or `voted_for`; a test checks that.

    become_follower ◄── higher term, leader heard, lost quorum, end of a wait
    become_pre_candidate ──► become_candidate ──► become_leader
    become_waiting ──► resume_leadership, or become_follower
    become_receiver ──► become_follower
    become_terminating_leader, become_terminating_follower ──► become_stopped

(term, vote) is one durable record, and (term, leader) is one fact: `step_down` forgets the leader of
the old term, so no server can follow a leader of an earlier term.
"""

from collections.abc import Sequence

from barque.core.applying import is_applying, take_callback_effects
from barque.core.configuration import is_in_own_config
from barque.core.effects import (
    CancelElectionTimeout,
    Defer,
    Effect,
    NextEvent,
    PersistTermAndVote,
    Rejected,
    Rejection,
    SendVoteRequests,
    StartConditionTimeout,
    StartElectionTimeout,
    StartReceiveTimeout,
    StopReason,
    StopServer,
    TimerSpan,
    refuse_commands,
)
from barque.core.events import ApplyRest
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import (
    PROTOCOL_VERSION,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
)
from barque.core.roles import (
    DELETED,
    FOLLOWING,
    RECOVERED,
    STOPPED,
    TERMINATING_FOLLOWING,
    CandidateRole,
    Condition,
    LeaderRole,
    PreVoteRole,
    RaftState,
    ReceivingRole,
    Role,
    TerminatingLeaderRole,
    WaitingRole,
)
from barque.core.state import Peer, PeerStatus, Server
from barque.types import ServerId, Term

# --- the term, the vote and the leader -------------------------------------------------------


def adopt_term_and_vote(server: Server, term: Term, voted_for: ServerId | None) -> list[Effect]:
    """Change the durable pair. What follows in the list waits for the disk (ELEC-13)."""
    assert term >= server.current_term, "a term never falls"
    if (term, voted_for) == (server.current_term, server.voted_for):
        return []
    if term > server.current_term:
        server.leader_id = None
        for peer in server.cluster.values():
            peer.query_index = 0  # heartbeats of another term prove nothing (QRY-08)
    server.current_term = term
    server.voted_for = voted_for
    return [PersistTermAndVote(term, voted_for)]


def step_down(server: Server, term: Term) -> list[Effect]:
    """§3.3: a member is in a higher term. Adopt it, as a follower without a vote and without a leader."""
    effects = adopt_term_and_vote(server, term, None)
    if server.raft_state is RaftState.TERMINATING_FOLLOWER:
        return effects
    return effects + become_follower(server)


def follow(server: Server, leader: ServerId) -> Effect:
    """The leader of the current term was heard: follow it, and do not campaign."""
    server.leader_id = leader
    server.lost_quorum = False
    return CancelElectionTimeout()


def forget_leader(server: Server) -> None:
    """The leader of the current term no longer leads, or does not send what it announced."""
    server.leader_id = None


# --- roles -----------------------------------------------------------------------------------


def become_recovered(server: Server) -> list[Effect]:
    """Ra's `recovered` (CORE-05): the log is replayed; the machine hears of this state before any other."""
    return _take_role(server, RECOVERED)


def become_follower(server: Server, reason: str = Rejection.NOT_LEADER) -> list[Effect]:
    """Leave any role. What waited for our leadership is refused with `reason`: it did not happen."""
    effects = [*_leave_role(server, reason), *_take_role(server, FOLLOWING)]
    if is_applying(server):
        effects.append(Defer(ApplyRest()))  # the state that we leave may have ignored it
    return effects


def become_pre_candidate(server: Server) -> list[Effect]:
    """§9.6: ask whether a majority would vote for us, before we disturb any term (ELEC-01).

    The server durably votes for itself in the present term: it has lost faith in that term's leader, and
    elects nobody else in it.
    """
    effects = adopt_term_and_vote(server, server.current_term, server.id)
    effects += _leave_role(server)
    server.leader_id = None
    token = server.environment.token()
    effects += _take_role(server, PreVoteRole(token))
    own = NextEvent(PreVoteResult(server.id, server.current_term, token, True))
    return [*effects, own, vote_requests(server, server.peers)]


def become_candidate(server: Server, *, retried: bool = False) -> list[Effect]:
    """Figure 2, Candidates 1: a new term, our own vote, and a question to all others (§3.4)."""
    effects = adopt_term_and_vote(server, Term(server.current_term + 1), server.id)
    effects += _take_role(server, CandidateRole(retried=retried))
    own = NextEvent(RequestVoteResult(server.id, server.current_term, True))
    return [*effects, own, vote_requests(server, server.peers)]


def vote_requests(server: Server, members: Sequence[tuple[ServerId, Peer]]) -> Effect:
    """The question of the present round, to those of these members that vote."""
    last, in_own_config = server.log.last_index_term(), is_in_own_config(server)
    term, version = server.current_term, server.cfg.machine.version
    rpc: RequestVoteRpc | PreVoteRpc
    if isinstance(server.role, PreVoteRole):
        token = server.role.token
        rpc = PreVoteRpc(
            PROTOCOL_VERSION, version, term, token, server.id, last.index, last.term, in_own_config
        )
    else:
        rpc = RequestVoteRpc(term, server.id, last.index, last.term, in_own_config)
    return SendVoteRequests(tuple((member, rpc) for member, peer in members if peer.voter))


def become_leader(server: Server) -> list[Effect]:
    """Figure 2, Leaders; C-1: know nothing of the others' logs. The first noop is the caller's (ELEC-23)."""
    next_index = server.log.next_index()
    for peer in server.cluster.values():
        peer.begin_term(next_index)
    server.leader_id = server.id
    server.lost_quorum = False
    return _take_role(server, LeaderRole(member for member, _ in server.peers))


def become_waiting(
    server: Server,
    condition: Condition,
    timeout_ms: int,
    *,
    transition_to: RaftState = RaftState.FOLLOWER,
    timeout_to: RaftState = RaftState.FOLLOWER,
    timeout_effects: tuple[Effect, ...] = (),
) -> list[Effect]:
    """Wait until `condition` holds, or for `timeout_ms` milliseconds (CORE-06).

    A leader that waits serves nobody, and keeps its role to resume it.
    """
    role = WaitingRole(
        condition,
        transition_to=transition_to,
        timeout_to=timeout_to,
        timeout_effects=timeout_effects,
        resume=server.role if isinstance(server.role, LeaderRole) else None,
    )
    return [*_take_role(server, role), StartConditionTimeout(timeout_ms)]


def resume_leadership(server: Server, waiting: WaitingRole) -> list[Effect]:
    """A leader that waited leads again, in the same term."""
    assert waiting.resume is not None
    return _take_role(server, waiting.resume)


def become_receiver(server: Server, meta: SnapshotMeta) -> list[Effect]:
    """Receive this snapshot from the leader (§5)."""
    return _take_role(server, ReceivingRole(meta))


def become_terminating_leader(server: Server) -> list[Effect]:
    """The deletion is applied: serve nobody, but replicate the end of the log (CORE-09)."""
    effects = _leave_role(server, Rejection.UNKNOWN_CLUSTER)
    server.leader_id = server.id  # it still replicates, as the leader of this term
    return effects + _take_role(server, TerminatingLeaderRole())


def become_terminating_follower(server: Server) -> list[Effect]:
    """The deletion is applied: stay until the end of the log is on our disk (CORE-10)."""
    return [*_leave_role(server), *_take_role(server, TERMINATING_FOLLOWING)]


def become_stopped(server: Server, reason: StopReason) -> list[Effect]:
    """The server has come to its end. It handles no further messages (MEMB-13, LIFE-06)."""
    effects = _leave_role(server)
    role = DELETED if reason is StopReason.DELETED else STOPPED
    return [*effects, *_take_role(server, role), StopServer(reason)]


# --- leaving and entering --------------------------------------------------------------------


def _leave_role(server: Server, reason: str = Rejection.NOT_LEADER) -> list[Effect]:
    """What the present role owes when it ends."""
    role = server.role
    if isinstance(role, ReceivingRole) and not role.installed:
        server.log.snapshots.abort_accept()
    leadership = server.leadership()
    if leadership is None:
        return []
    if server.leader_id == server.id:
        server.leader_id = None
    return _refuse_what_waits(leadership, reason, server.leader_id)


def _refuse_what_waits(leader: LeaderRole, reason: str, now: ServerId | None) -> list[Effect]:
    """Refuse queries that were not answered and commands that were not appended: clients may retry them."""
    effects: list[Effect] = [
        Rejected(waiting.origin, waiting.first_correlation, waiting.size, reason, now)
        for waiting in (*(leader.waiting_queries or ()), *leader.pending_queries)
    ]
    for commands in leader.low_priority or ():
        effects.extend(refuse_commands(commands, reason, now))
    return effects


def _take_role(server: Server, role: Role) -> list[Effect]:
    """Exchange the role object; the state follows from it."""
    old = server.raft_state
    server.role, server.raft_state = role, role.state
    return [] if role.state is old else handle_state_enter(server, old)


def handle_state_enter(server: Server, old: RaftState) -> list[Effect]:
    """Ra's `handle_state_enter`: the timers of the new state, then the machine's wishes (ELEC-18)."""
    effects: list[Effect] = []
    match server.raft_state:
        case RaftState.FOLLOWER:
            for peer in server.cluster.values():
                peer.status = PeerStatus.NORMAL  # CORE-17
            # ELEC-20: a new member waits to be asked. A server that has known a term does not: it may have
            # led and lost what it had not synced, and the others may wait for it.
            if server.log.next_index() > 1 or server.current_term > 0:
                span = TimerSpan.SHORT if old is RaftState.RECOVERED else TimerSpan.LONG
                effects.append(StartElectionTimeout(span))
        case RaftState.PRE_VOTE:
            effects.append(StartElectionTimeout())
        case RaftState.CANDIDATE:
            effects.append(StartElectionTimeout(TimerSpan.SHORT))
        case RaftState.RECEIVE_SNAPSHOT:
            effects.append(StartReceiveTimeout(server.cfg.receive_snapshot_timeout_ms))
        case _:
            pass
    return effects + _machine_enters(server)


def _machine_enters(server: Server) -> list[Effect]:
    """What the machine asks for as its server enters a state (MAC-05)."""
    return take_callback_effects(
        server, server.machine.state_enter(str(server.raft_state), server.machine_state), "state_enter"
    )
