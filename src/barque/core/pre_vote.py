"""Asking whether one would be elected, before disturbing anybody (§9.6; semantics §5)."""

from barque.core import messages as m
from barque.core.candidacy import CANDIDACY
from barque.core.effects import StartElectionTimeout, TimerSpan
from barque.core.elections import call_for_pre_vote, on_pre_vote, on_pre_vote_result
from barque.core.server import Server, Transition
from barque.core.table import ignore, on, total


def handle_pre_vote(server: Server, message: m.Message) -> Transition:
    """One message to a server that asks whether it would be elected."""
    return PRE_VOTE[type(message)](server, message)


def _on_election_timeout(server: Server, _message: m.ElectionTimeout) -> Transition:
    """P-9; the state stays, so it arms no timer of its own."""
    again = call_for_pre_vote(server)
    return Transition(again.state, [*again.effects, StartElectionTimeout(TimerSpan.MEDIUM)])


PRE_VOTE = total(
    "pre_vote",
    on(m.PreVoteResult, on_pre_vote_result),  # P-3, P-6, P-7
    on(m.PreVoteRpc, on_pre_vote),  # P-8
    on(m.ElectionTimeout, _on_election_timeout),
    on(m.RequestVoteResult, ignore),  # of a candidacy that has ended
    *CANDIDACY,
)
