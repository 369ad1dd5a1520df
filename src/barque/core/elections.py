"""Elections: pre-votes, votes and what a winner does first (§3.4, §9.6; ELEC-01 to ELEC-27)."""

from collections.abc import Sequence

from barque.core.configuration import is_named
from barque.core.effects import Effect, NextEvent, SendRpc, SendVoteRequests, StartElectionTimeout, TimerSpan
from barque.core.messages import (
    PROTOCOL_VERSION,
    Message,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
    ServerDown,
)
from barque.core.peers import Peer
from barque.core.roles import CandidateRole, LeaderRole, PreVoteRole
from barque.core.server import RaftState, Server, Transition
from barque.core.upgrade import first_noop
from barque.types import Membership, ServerId, Term

# --- asking --------------------------------------------------------------------------------


def call_for_pre_vote(server: Server) -> Transition:
    """§9.6: would a majority vote for us? Disturbs no term until it would (ELEC-01).

    Our vote of the present term becomes our own, durably: having lost faith in its leader
    we shall elect nobody else in it.
    """
    effects = server.adopt_term_and_vote(server.current_term, server.id)
    effects += server.become_follower()
    server.leader_id = None
    token = server.environment.token()
    server.role = PreVoteRole(token)
    own = NextEvent(PreVoteResult(server.id, server.current_term, token, True))
    return Transition(RaftState.PRE_VOTE, [*effects, own, _ask(server, server.peers())])


def call_for_election(server: Server, *, second: bool = False) -> Transition:
    """Figure 2, Candidates 1: a new term, our own vote, and a question to all others (§3.4)."""
    effects = server.adopt_term_and_vote(Term(server.current_term + 1), server.id)
    server.leader_id = None
    server.role = CandidateRole(second=second)
    own = NextEvent(RequestVoteResult(server.id, server.current_term, True))
    return Transition(RaftState.CANDIDATE, [*effects, own, _ask(server, server.peers())])


def _ask(server: Server, members: Sequence[tuple[ServerId, Peer]]) -> Effect:
    """The question of the present round, to these members."""
    last, named = server.log.last_index_term(), is_named(server)
    rpc: RequestVoteRpc | PreVoteRpc
    if isinstance(server.role, PreVoteRole):
        version, token = server.cfg.machine.version, server.role.token
        term = server.current_term
        rpc = PreVoteRpc(PROTOCOL_VERSION, version, term, token, server.id, last.index, last.term, named)
    else:
        rpc = RequestVoteRpc(server.current_term, server.id, last.index, last.term, named)
    return SendVoteRequests(tuple((member, rpc) for member, peer in members if peer.voter))


def on_node_up(server: Server, node: str) -> Transition:
    """A node came within reach: ask its members again, who may have missed the question (§3.4).

    Votes are counted by voter, so an answer to both questions counts once.
    """
    there = [(member, peer) for member, peer in server.peers() if member.node == node and peer.voter]
    return server.stay(*([_ask(server, there)] if there else []))


def on_election_timeout(server: Server) -> Transition:
    """F-17, P-9, W-3: nobody leads, as far as we can tell. Those without a vote stay (ELEC-21)."""
    return call_for_pre_vote(server) if may_stand(server) else server.stay(*_disown(server))


def _disown(server: Server) -> list[Effect]:
    """We may have led this term, and have given up our vote: nobody shall go on following us.

    Others take us for their leader, and our node lives. Who votes would wait for ever; we cannot stand.
    """
    if server.leader_id is not None or server.voted_for != server.id:
        return []
    down = ServerDown(server.id, connected=True)
    told: list[Effect] = [SendRpc(member, down) for member, peer in server.peers() if peer.voter]
    return [*told, StartElectionTimeout()]


def may_stand(server: Server) -> bool:
    """Whether we vote, or did until a change that is not known to be committed (§4.2.2).

    Perhaps nobody else has that change, and with a log behind ours nobody else can win. Our own
    vote counts only if the newest configuration says so.
    """
    if server.is_voter(server.id) or server.cluster_index_term.index <= server.commit_index:
        return server.is_voter(server.id)
    before = server.previous_cluster[1] if server.previous_cluster is not None else ()
    return any(
        r.id == server.id and r.uid in (None, server.cfg.uid) and r.membership is Membership.VOTER
        for r in before
    )


# --- being asked ---------------------------------------------------------------------------


def on_request_vote(server: Server, rpc: RequestVoteRpc) -> Transition:
    """Figure 2, RequestVote receiver (§3.4, §3.6.1); F-7 to F-10.

    Who has no vote by its own configuration answers too (§4.1; Ra's F-7 is silence): the
    candidate's may be newer, and its majority may need us. It counts whom it takes for a voter.
    A higher term ends that of our leader (§3.3): from then on we wait for the next one.
    """
    if rpc.term < server.current_term:
        return server.stay(vote_result(server, rpc, granted=False))
    forgets = rpc.term > server.current_term and server.leader_id is not None
    effects = server.adopt_term(rpc.term)
    granted = (
        server.voted_for in (None, rpc.candidate_id)  # one vote per term
        and server.is_up_to_date(rpc.last_log_index, rpc.last_log_term)
    )
    if granted:
        effects += server.adopt_term_and_vote(rpc.term, rpc.candidate_id)
    effects = [*_merge_persists(effects), vote_result(server, rpc, granted=granted)]
    if forgets:
        # The leader that we follow is deposed, and if it has no vote any more it does not stand again.
        server.leader_id = None
        effects.append(StartElectionTimeout(TimerSpan.LONG))
    return server.stay(*effects)


def _merge_persists(effects: list[Effect]) -> list[Effect]:
    """The last (term, vote) of one message says it all; one record, one sync."""
    return effects[-1:]


def refuse_vote(server: Server, rpc: RequestVoteRpc) -> Transition:
    """L-29, C-10, S-11: not in this term, or not now."""
    return server.stay(vote_result(server, rpc, granted=False))


def vote_result(server: Server, rpc: RequestVoteRpc, *, granted: bool) -> Effect:
    """Our answer to a candidate, in our term."""
    return SendRpc(rpc.candidate_id, RequestVoteResult(server.id, server.current_term, granted))


def on_pre_vote(server: Server, rpc: PreVoteRpc) -> Transition:
    """Ra's `process_pre_vote` (§5); F-6, C-11, P-8, S-12, W-2. Binds us to nothing but the term."""
    if rpc.term < server.current_term:
        return server.stay(_pre_vote_result(server, rpc, granted=False))
    effects = server.adopt_term(rpc.term)
    if not server.is_up_to_date(rpc.last_log_index, rpc.last_log_term):
        if server.raft_state is RaftState.FOLLOWER and may_stand(server):
            # ELEC-07: silence, and a candidacy of our own, since our log is the better one.
            return server.stay(*effects, StartElectionTimeout())
        return server.stay(*effects, _pre_vote_result(server, rpc, granted=False))
    if rpc.version > PROTOCOL_VERSION:
        return server.stay(*effects, _pre_vote_result(server, rpc, granted=False))
    if version_permits(server.cfg.machine.version, server.effective_machine_version, rpc.machine_version):
        return server.stay(*effects, _pre_vote_result(server, rpc, granted=True))
    return server.stay(*effects, _pre_vote_result(server, rpc, granted=False), StartElectionTimeout())


def version_permits(own: int, effective: int, theirs: int) -> bool:
    """ELEC-06: the candidate runs the version in force, or a newer one that we have too."""
    return theirs == effective or effective <= theirs <= own


def _pre_vote_result(server: Server, rpc: PreVoteRpc, *, granted: bool) -> Effect:
    return SendRpc(rpc.candidate_id, PreVoteResult(server.id, server.current_term, rpc.token, granted))


# --- counting ------------------------------------------------------------------------------


def on_pre_vote_result(server: Server, result: PreVoteResult) -> Transition:
    """P-3, P-6, P-7: only answers to *this* round count (a round changes no term)."""
    role = server.role
    assert isinstance(role, PreVoteRole)
    if result.term > server.current_term:
        return Transition(RaftState.FOLLOWER, server.step_down(result.term))
    current = result.term == server.current_term and result.token == role.token
    if not (current and result.vote_granted and may_stand(server)):
        return server.stay()
    role.votes.add(result.sender)
    return call_for_election(server) if server.has_quorum(role.votes) else server.stay()


def on_request_vote_result(server: Server, result: RequestVoteResult) -> Transition:
    """Figure 2, Candidates 2: votes of a majority make a leader; C-1 to C-3."""
    role = server.role
    assert isinstance(role, CandidateRole)
    if result.term > server.current_term:
        return Transition(RaftState.FOLLOWER, server.step_down(result.term))
    if result.term < server.current_term or not result.vote_granted:
        return server.stay()
    role.votes.add(result.sender)
    return become_leader(server) if server.has_quorum(role.votes) else server.stay()


def become_leader(server: Server) -> Transition:
    """Figure 2, Leaders; C-1: know nothing of the others, and commit a noop (§3.6.2)."""
    next_index = server.log.next_index()
    for peer in server.cluster.values():
        peer.begin_term(next_index)
    server.role = LeaderRole()
    server.leader_id = server.id
    server.lost_quorum = False
    return Transition(RaftState.LEADER, first_noop(server))


# --- giving way ----------------------------------------------------------------------------


def yield_to(server: Server, term: Term, message: Message) -> Transition:
    """§3.3, §3.4: someone leads, or asks, in a term at least ours: take it as a follower.

    The message is handled again in that state (CORE-20). An equal term keeps its vote.
    """
    effects = server.adopt_term(term)
    effects += server.become_follower()
    return Transition(RaftState.FOLLOWER, [*effects, NextEvent(message)])


def yield_to_member(server: Server, term: Term, sender: object, message: Message) -> Transition:
    """L-28, L-30: as `yield_to`, but a stranger cannot depose a leader (ELEC-11)."""
    if sender not in server.cluster:
        return server.stay()
    effects = server.step_down(term)
    return Transition(RaftState.FOLLOWER, [*effects, NextEvent(message)])
