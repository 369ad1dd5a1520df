"""The candidate: which message goes where (§3.4; semantics §4)."""

from barque.core import messages as m
from barque.core.candidacy import CANDIDACY
from barque.core.effects import StartElectionTimeout, TimerSpan
from barque.core.elections import (
    call_for_election,
    call_for_pre_vote,
    on_pre_vote,
    on_request_vote_result,
    yield_to,
)
from barque.core.roles import CandidateRole
from barque.core.server import Server, Transition
from barque.core.table import ignore, on, total


def handle_candidate(server: Server, message: m.Message) -> Transition:
    """One message to a server that stands for election in the current term."""
    return CANDIDATE[type(message)](server, message)


def _on_pre_vote(server: Server, rpc: m.PreVoteRpc) -> Transition:
    """C-9, C-11."""
    if rpc.term > server.current_term:
        return yield_to(server, rpc.term, rpc)
    return on_pre_vote(server, rpc)


def _on_election_timeout(server: Server, _message: m.ElectionTimeout) -> Transition:
    """C-15: a split vote, most likely (§3.4): try again, with more time. Then ask if we could win (§9.6).

    Who cannot win would raise the term without end, and those who could would never catch up with it.
    """
    assert isinstance(server.role, CandidateRole)
    if server.role.second:
        return call_for_pre_vote(server)
    again = call_for_election(server, second=True)
    return Transition(again.state, [*again.effects, StartElectionTimeout(TimerSpan.MEDIUM)])


CANDIDATE = total(
    "candidate",
    on(m.RequestVoteResult, on_request_vote_result),  # C-1 to C-3
    on(m.PreVoteRpc, _on_pre_vote),
    on(m.ElectionTimeout, _on_election_timeout),
    on(m.PreVoteResult, ignore),  # C-18: that round is won already
    *CANDIDACY,
)
