"""Planted bugs of elections. See `mutants`."""

from typing import Any
from unittest.mock import patch

import msgspec

from barque.core import quorum
from barque.core.dispatch import FROM_LEADER
from barque.core.effects import SendRpc, StartElectionTimeout
from barque.core.messages import PreVoteResult, PreVoteRpc, RequestVoteResult
from barque.core.roles import CandidateRole
from barque.core.state import RaftState, Server
from barque.types import Term
from tests.kit.mutant_registry import find, lower_term_passes, mutant, replace


class _Votes(list[Any]):
    """A list that counts votes, not voters."""

    add = list.append


# --- elections -----------------------------------------------------------------------------


@mutant("a server forgets its vote in a restart (row 1)", layer="core")
def vote_forgotten_at_restart() -> Any:
    """See `MUTANTS`."""
    init = Server.__init__

    def forget(self: Server, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "voted_for": None})

    return patch.object(Server, "__init__", forget)


@mutant("a server votes for a second candidate in the same term (I2)", layer="core")
def votes_twice_a_term() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote")

    def twice(server: Server, rpc: Any) -> Any:
        server.voted_for = None
        return real(server, rpc)

    return replace("on_request_vote", twice)


@mutant("a copy of a vote is counted as another vote", layer="core")
def duplicate_vote_counts() -> Any:
    """See `MUTANTS`."""

    def init(self: CandidateRole, *, retried: bool = False) -> None:
        self.retried = retried
        self.votes = _Votes()  # type: ignore[assignment]  # that is what is wrong

    return patch.object(CandidateRole, "__init__", init)


@mutant("a server votes for a candidate with a shorter log (§3.6.1)", layer="core")
def log_not_compared() -> Any:
    """See `MUTANTS`."""
    return patch.object(Server, "is_up_to_date", lambda *_: True)


@mutant("a server keeps its old vote in a new term (row 4)", layer="core")
def new_term_keeps_vote() -> Any:
    """See `MUTANTS`."""
    adopt, become_follower = find("adopt_term_and_vote"), find("become_follower")

    def keep(server: Server, term: Term) -> Any:
        return adopt(server, term, server.voted_for) + become_follower(server)

    return replace("step_down", keep)


@mutant("results of an earlier round of pre-votes count (row 5)", layer="core")
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
    return lower_term_passes(RequestVoteResult)


@mutant("a refusal is counted as a vote (row 10)", layer="core")
def refusals_count() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote_result")

    def count(server: Server, result: RequestVoteResult) -> Any:
        return real(server, msgspec.structs.replace(result, vote_granted=True))

    return replace("on_request_vote_result", count)


@mutant("a candidate campaigns without raising its term", layer="core")
def candidacy_without_new_term() -> Any:
    """See `MUTANTS`."""
    real = find("become_candidate")

    def stand(server: Server, **options: Any) -> Any:
        server.current_term = Term(max(0, server.current_term - 1))
        return real(server, **options)

    return replace("become_candidate", stand)


@mutant("a granted pre-vote counts as a vote (row 6)", layer="core")
def pre_vote_binds() -> Any:
    """See `MUTANTS`."""
    real = find("on_pre_vote")

    def bind(server: Server, rpc: Any) -> Any:
        done = real(server, rpc)
        granted = [e for e in done if isinstance(e, SendRpc) and getattr(e.message, "vote_granted", False)]
        if not granted:
            return done
        kept = find("adopt_term_and_vote")(server, server.current_term, rpc.candidate_id)
        return [*kept, *done]

    return replace("on_pre_vote", bind)


@mutant("a server learns no term from pre-votes and their results (row 8)", layer="core")
def pre_vote_teaches_nothing() -> Any:
    """See `MUTANTS`."""
    real = find("settle_term")

    def ignore(server: Server, message: Any, effects: list[Any]) -> Any:
        if isinstance(message, PreVoteRpc | PreVoteResult) and message.term > server.current_term:
            return False
        return real(server, message, effects)

    return replace("settle_term", ignore)


@mutant("a leader that learns of a higher term goes on leading (row 10)", layer="core")
def leader_never_yields() -> Any:
    """See `MUTANTS`."""
    real = find("_adopt_higher_term")

    def lead_on(server: Server, *told: Any) -> Any:
        return server.raft_state is not RaftState.LEADER and real(server, *told)

    return replace("_adopt_higher_term", lead_on)


@mutant("a new leader appends no noop (§3.6.2)", layer="core")
def no_noop() -> Any:
    """See `MUTANTS`."""
    return replace("first_noop", lambda _server: [])


@mutant("a server forgets its term in a restart (row 1)", layer="core")
def term_forgotten_at_restart() -> Any:
    """See `MUTANTS`."""
    init = Server.__init__

    def forget(self: Server, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "current_term": Term(0), "voted_for": None})

    return patch.object(Server, "__init__", forget)


@mutant(
    "a new leader keeps the match indexes of earlier terms",
    layer="core",
    equivalent="such indexes lie below the noop of its term, and a leader counts only entries from there on",
)
def match_survives_elections() -> Any:
    """See `MUTANTS`."""
    real = find("become_leader")

    def lead(server: Server) -> Any:
        known = {member: peer.match_index for member, peer in server.peers}
        done = real(server)
        for member, peer in server.peers:
            peer.match_index = min(known[member], peer.next_index - 1)  # type: ignore[assignment]
        return done

    return replace("become_leader", lead)


@mutant("a follower that hears its leader does not stop its election timer (I26)", layer="core")
def leader_not_heard() -> Any:
    """See `MUTANTS`."""
    follow = find("follow")

    def deaf(server: Server, leader: Any) -> Any:
        follow(server, leader)
        return StartElectionTimeout()

    return replace("follow", deaf)


@mutant("a follower votes although its own log ends with a later term", layer="core")
def terms_of_logs_not_compared() -> Any:
    """See `MUTANTS`."""

    def is_up_to_date(self: Server, index: Any, _term: Any) -> bool:
        return bool(index >= self.log.last_index_term().index)

    return patch.object(Server, "is_up_to_date", is_up_to_date)


@mutant("a pre-candidate ignores the leader of its term (row 7)", layer="core")
def pre_candidate_never_yields() -> Any:
    """See `MUTANTS`."""
    real = find("settle_term")

    def ignore(server: Server, message: Any, effects: list[Any]) -> Any:
        if server.raft_state is RaftState.PRE_VOTE and isinstance(message, FROM_LEADER):
            return False
        return real(server, message, effects)

    return replace("settle_term", ignore)


@mutant("one voter fewer than a majority may commit", layer="core")
def minority_commits() -> Any:
    """See `MUTANTS`."""
    real = quorum.agreed
    return patch("barque.core.commitment.agreed", lambda found: max(real(found), sorted(found)[-1]))
