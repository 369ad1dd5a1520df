"""Planted bugs of elections. See `mutants`."""

from typing import Any
from unittest.mock import patch

import msgspec

from barque.core import quorum
from barque.core.effects import SendRpc, StartElectionTimeout
from barque.core.messages import AppendNoop, RequestVoteResult
from barque.core.roles import CandidateRole
from barque.core.server import RaftState, Server, Transition
from barque.types import Term
from tests.kit.mutant_registry import find, mutant, replace, together


class _Votes(list[Any]):
    """Votes that are counted, not voters."""

    add = list.append


# --- elections -----------------------------------------------------------------------------


@mutant("a restart forgets for whom it voted (row 1)", layer="core")
def vote_forgotten_at_restart() -> Any:
    """See `MUTANTS`."""
    init = Server.__init__

    def forget(self: Server, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "voted_for": None})

    return patch.object(Server, "__init__", forget)


@mutant("a second candidate gets the same vote (I2)", layer="core")
def votes_twice_a_term() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote")

    def twice(server: Server, rpc: Any) -> Any:
        if rpc.term == server.current_term:
            server.voted_for = None
        return real(server, rpc)

    return replace("on_request_vote", twice)


@mutant("a copy of a vote is counted as another vote", layer="core")
def duplicate_vote_counts() -> Any:
    """See `MUTANTS`."""

    def init(self: CandidateRole) -> None:
        self.votes = _Votes()  # type: ignore[assignment]  # that is what is wrong

    return patch.object(CandidateRole, "__init__", init)


@mutant("votes are given to candidates with shorter logs (§3.6.1)", layer="core")
def log_not_compared() -> Any:
    """See `MUTANTS`."""
    return patch.object(Server, "is_up_to_date", lambda *_: True)


@mutant("a new term keeps the old vote (row 4)", layer="core")
def new_term_keeps_vote() -> Any:
    """See `MUTANTS`."""

    def adopt(self: Server, term: Term) -> Any:
        return self.adopt_term_and_vote(term, self.voted_for) if term > self.current_term else []

    return patch.object(Server, "adopt_term", adopt)


@mutant("answers to an earlier round of pre-votes count (row 5)", layer="core")
def pre_vote_token_unchecked() -> Any:
    """See `MUTANTS`."""
    real = find("on_pre_vote_result")

    def accept(server: Server, result: Any) -> Any:
        role: Any = server.role
        return real(server, msgspec.structs.replace(result, token=role.token))

    return replace("on_pre_vote_result", accept)


@mutant("half of the voters are a majority (I1)", layer="core")
def half_is_a_majority() -> Any:
    """See `MUTANTS`."""
    return patch.object(Server, "quorum", lambda self: max(1, len(self.cluster) // 2))


@mutant("votes of earlier terms are counted", layer="core")
def old_votes_count() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote_result")

    def count(server: Server, result: RequestVoteResult) -> Any:
        term = max(result.term, server.current_term)
        return real(server, msgspec.structs.replace(result, term=term))

    return replace("on_request_vote_result", count)


@mutant("a refusal is counted as a vote (row 10)", layer="core")
def refusals_count() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote_result")

    def count(server: Server, result: RequestVoteResult) -> Any:
        return real(server, msgspec.structs.replace(result, vote_granted=True))

    return replace("on_request_vote_result", count)


@mutant("a candidate stands in the term in which it already is", layer="core")
def candidacy_without_new_term() -> Any:
    """See `MUTANTS`."""
    real = find("call_for_election")

    def stand(server: Server) -> Any:
        server.current_term = Term(max(0, server.current_term - 1))
        return real(server)

    return replace("call_for_election", stand)


@mutant("a granted pre-vote is kept as a vote (row 6)", layer="core")
def pre_vote_binds() -> Any:
    """See `MUTANTS`."""
    real = find("on_pre_vote")

    def bind(server: Server, rpc: Any) -> Any:
        done = real(server, rpc)
        granted = [
            e for e in done.effects if isinstance(e, SendRpc) and getattr(e.message, "vote_granted", False)
        ]
        if not granted:
            return done
        kept = server.adopt_term_and_vote(server.current_term, rpc.candidate_id)
        return Transition(done.state, [*kept, *done.effects])

    return replace("on_pre_vote", bind)


@mutant("the term is not learned from pre-votes and their answers (row 8)", layer="core")
def pre_vote_teaches_nothing() -> Any:
    """See `MUTANTS`."""
    real, result = find("on_pre_vote"), find("on_pre_vote_result")

    def answer(server: Server, rpc: Any) -> Any:
        if rpc.term > server.current_term:
            return server.stay()
        return real(server, rpc)

    def ignore(server: Server, answered: Any) -> Any:
        return server.stay() if answered.term > server.current_term else result(server, answered)

    return together(replace("on_pre_vote", answer), replace("on_pre_vote_result", ignore))


@mutant("a leader that hears of a higher term goes on leading (row 10)", layer="core")
def leader_never_yields() -> Any:
    """See `MUTANTS`."""
    return together(
        patch("barque.core.leader.yield_to", lambda server, *_: server.stay()),
        patch("barque.core.leader.yield_to_member", lambda server, *_: server.stay()),
    )


@mutant("a new leader appends no noop (§3.6.2)", layer="core")
def no_noop() -> Any:
    """See `MUTANTS`."""
    real = find("become_leader")

    def lead(server: Server) -> Any:
        done = real(server)
        assert any(isinstance(getattr(e, "message", None), AppendNoop) for e in done.effects)
        return Transition(done.state, [])

    return replace("become_leader", lead)


@mutant("a restart forgets the term (row 1)", layer="core")
def term_forgotten_at_restart() -> Any:
    """See `MUTANTS`."""
    init = Server.__init__

    def forget(self: Server, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "current_term": Term(0), "voted_for": None})

    return patch.object(Server, "__init__", forget)


@mutant(
    "a new leader believes in what it knew of others in earlier terms",
    layer="core",
    equivalent="all that lies below the noop of its term, and only entries from there on are counted",
)
def match_survives_elections() -> Any:
    """See `MUTANTS`."""
    real = find("become_leader")

    def lead(server: Server) -> Any:
        known = {member: peer.match_index for member, peer in server.peers()}
        done = real(server)
        for member, peer in server.peers():
            peer.match_index = min(known[member], peer.next_index - 1)  # type: ignore[assignment]
        return done

    return replace("become_leader", lead)


@mutant("an election timer is not disarmed when a leader is heard of (I26)", layer="core")
def leader_not_heard() -> Any:
    """See `MUTANTS`."""
    follow = Server.follow

    def deaf(self: Server, leader: Any) -> Any:
        follow(self, leader)
        return StartElectionTimeout()

    return patch.object(Server, "follow", deaf)


@mutant("a follower also votes while it has a log that is longer by term only", layer="core")
def terms_of_logs_not_compared() -> Any:
    """See `MUTANTS`."""

    def is_up_to_date(self: Server, index: Any, _term: Any) -> bool:
        return bool(index >= self.log.last_index_term().index)

    return patch.object(Server, "is_up_to_date", is_up_to_date)


@mutant("a pre-candidate ignores the leader that it hears (row 7)", layer="core")
def pre_candidate_never_yields() -> Any:
    """See `MUTANTS`."""
    real = find("yield_to")

    def ignore(server: Server, *told: Any) -> Any:
        if server.raft_state is RaftState.PRE_VOTE:
            return server.stay()
        return real(server, *told)

    return patch("barque.core.candidacy.yield_to", ignore)


@mutant("one voter fewer than a majority commits", layer="core")
def minority_commits() -> Any:
    """See `MUTANTS`."""
    real = quorum.agreed
    return patch("barque.core.commitment.agreed", lambda found: max(real(found), sorted(found)[-1]))
