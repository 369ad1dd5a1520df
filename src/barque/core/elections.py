"""Elections: when to campaign, how to vote, how votes are counted (§3.4, §9.6; ELEC-01 to ELEC-27).

A vote needs three things: the candidate's term is ours (the term rule sees to that), we have not voted
for another server in it, and the candidate's log is at least as up-to-date as ours (§3.6.1). A pre-vote
needs the last one, and a machine version that we can live with; it binds us to nothing.
"""

from barque.core.applying import newest_version
from barque.core.check_quorum import unresolved_from
from barque.core.configuration import may_campaign
from barque.core.effects import Effect, SendRpc, StartElectionTimeout, TimerSpan
from barque.core.messages import (
    PROTOCOL_VERSION,
    NodeStatus,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
    ServerDown,
)
from barque.core.replication import broadcast_append
from barque.core.roles import CandidateRole, LeaderRole, PreVoteRole, RaftState
from barque.core.state import Server
from barque.core.transitions import (
    adopt_term_and_vote,
    become_candidate,
    become_follower,
    become_leader,
    become_pre_candidate,
    forget_leader,
    vote_requests,
)
from barque.core.versions import first_noop
from barque.types import Index

# --- when to campaign ------------------------------------------------------------------------


def campaign(server: Server) -> list[Effect]:
    """F-17, P-9, W-3: we know of no leader. Servers without a vote stay as they are (ELEC-21)."""
    return become_pre_candidate(server) if _can_lead(server) else _disown(server)


def _can_lead(server: Server) -> bool:
    """Whether we may campaign, and have the machine version that our log asks for (VER-02)."""
    return may_campaign(server) and newest_version(server) <= server.cfg.machine.version


def give_way(server: Server) -> list[Effect]:
    """VER-02: a leader that lacks the version in force can apply nothing: let another member lead."""
    unresolved = unresolved_from(server, Index(server.last_applied + 1))
    forget_leader(server)
    return [*become_follower(server), *unresolved, *_disown(server)]


def on_election_timeout(server: Server, _message: object) -> list[Effect]:
    """F-17, W-3: the leader was silent for too long, or asks us to take over (§3.10)."""
    return campaign(server)


def _disown(server: Server) -> list[Effect]:
    """Tell the voters that we no longer lead, if we may have led this term and cannot campaign.

    They take us for their leader and see that our node lives, so they would never campaign.
    """
    if server.leader_id is not None or server.voted_for != server.id:
        return []
    down = ServerDown(server.id, connected=True)
    told: list[Effect] = [SendRpc(member, down) for member, peer in server.peers if peer.voter]
    return [*told, StartElectionTimeout()]


def on_node_up(server: Server, node: str) -> list[Effect]:
    """Ask the members on this node again: they may have missed the question while it was out of reach.

    Votes are counted by voter, so an answer to both questions counts once (§3.4).
    """
    there = [(member, peer) for member, peer in server.peers if member.node == node and peer.voter]
    return [vote_requests(server, there)] if there else []


def on_server_down(server: Server, message: ServerDown) -> list[Effect]:
    """ELEC-18, §10.8: the leader is gone. How sure we are decides how soon we campaign.

    If the leader's server failed and its node lives, it no longer leads, and we forget it. If its node is
    out of reach, perhaps only the connection was lost.
    """
    if message.server != server.leader_id:
        return []
    if not message.connected:
        return [StartElectionTimeout(TimerSpan.SHORT)]
    forget_leader(server)
    return [StartElectionTimeout(TimerSpan.REALLY_SHORT)]


def on_leader_node_lost(server: Server) -> list[Effect]:
    """FD-03: the failure detector suspects the leader's node. Campaign unless the leader is heard first."""
    return [StartElectionTimeout()]


def is_leader_node(server: Server, message: NodeStatus) -> bool:
    """Whether the leader that we follow lives on this node."""
    return server.leader_id is not None and server.leader_id.node == message.node


# --- how to vote -----------------------------------------------------------------------------


def on_request_vote(server: Server, rpc: RequestVoteRpc) -> list[Effect]:
    """Figure 2, RequestVote receiver (§3.4, §3.6.1); F-7 to F-10.

    A member without a vote by its own configuration answers too (§4.1; Ra's F-7 is silence): the
    candidate's configuration may be newer, and its majority may need us. The candidate counts the members
    that its configuration calls voters.
    """
    granted = (
        server.voted_for in (None, rpc.candidate_id)  # one vote per term
        and server.is_up_to_date(rpc.last_log_index, rpc.last_log_term)
    )
    effects = adopt_term_and_vote(server, server.current_term, rpc.candidate_id) if granted else []
    return [*effects, _vote_result(server, rpc, granted=granted)]


def refuse_vote(server: Server, rpc: RequestVoteRpc) -> list[Effect]:
    """L-29, C-10, S-11: we vote for ourselves, or for nobody while we receive a snapshot."""
    return [_vote_result(server, rpc, granted=False)]


def _vote_result(server: Server, rpc: RequestVoteRpc, *, granted: bool) -> Effect:
    return SendRpc(rpc.candidate_id, RequestVoteResult(server.id, server.current_term, granted))


def on_pre_vote(server: Server, rpc: PreVoteRpc) -> list[Effect]:
    """Ra's `process_pre_vote` (§5); F-6, C-11, P-8, S-12, W-2. An answer binds us to nothing."""
    if not server.is_up_to_date(rpc.last_log_index, rpc.last_log_term):
        if server.raft_state is RaftState.FOLLOWER and _can_lead(server):
            # ELEC-07: stay silent and campaign ourselves, since our log is the better one.
            return [StartElectionTimeout()]
        return [_pre_vote_result(server, rpc, granted=False)]
    if rpc.version > PROTOCOL_VERSION:
        return [_pre_vote_result(server, rpc, granted=False)]
    if version_permits(server.cfg.machine.version, newest_version(server), rpc.machine_version):
        return [_pre_vote_result(server, rpc, granted=True)]
    return [_pre_vote_result(server, rpc, granted=False), StartElectionTimeout()]


def version_permits(own: int, newest: int, theirs: int) -> bool:
    """ELEC-06: the candidate runs the version that our log asks for, or a newer one that we have too."""
    return theirs == newest or newest <= theirs <= own


def refuse_pre_vote(server: Server, rpc: PreVoteRpc) -> list[Effect]:
    """Tell a server of a lower term ours. A leader asserts itself instead (L-31)."""
    if isinstance(server.role, LeaderRole) and server.raft_state is RaftState.LEADER:
        return broadcast_append(server)
    return [_pre_vote_result(server, rpc, granted=False)]


def on_pre_vote_as_leader(server: Server, rpc: PreVoteRpc) -> list[Effect]:
    """L-30, L-31: a member has not heard from us. Assert our leadership to all."""
    return broadcast_append(server)


def _pre_vote_result(server: Server, rpc: PreVoteRpc, *, granted: bool) -> Effect:
    return SendRpc(rpc.candidate_id, PreVoteResult(server.id, server.current_term, rpc.token, granted))


# --- how votes are counted -------------------------------------------------------------------


def on_pre_vote_result(server: Server, result: PreVoteResult) -> list[Effect]:
    """P-3, P-6, P-7: only answers to *this* round count (a round changes no term)."""
    role = server.role
    assert isinstance(role, PreVoteRole)
    if not (result.token == role.token and result.vote_granted and may_campaign(server)):
        return []
    role.votes.add(result.sender)
    return become_candidate(server) if server.has_quorum(role.votes) else []


def on_request_vote_result(server: Server, result: RequestVoteResult) -> list[Effect]:
    """Figure 2, Candidates 2: the votes of a majority make a leader; C-1 to C-3."""
    role = server.role
    assert isinstance(role, CandidateRole)
    if not result.vote_granted:
        return []
    role.votes.add(result.sender)
    if not server.has_quorum(role.votes):
        return []
    return [*become_leader(server), *first_noop(server)]
