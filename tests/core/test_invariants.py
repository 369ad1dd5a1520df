"""Each invariant, of one server and of the cluster, is shown able to fail."""

from collections.abc import Callable

import msgspec
import pytest

from barque.core import invariants
from barque.core.effects import PersistTermAndVote, SendRpc
from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesReply, RequestVoteResult, RequestVoteRpc, TimeoutNow
from barque.core.roles import FOLLOWING
from barque.core.state import RaftState, Server
from barque.errors import InvariantViolation
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, IndexTerm, Term


def leader() -> CoreCluster:
    """Three members; a leads term 1 with two entries."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    return cluster


def set_log(server: Server, term: int) -> None:
    """Put an entry of another term at the end of the log."""
    entry = EntryBatch(server.log.next_index(), Term(term), 1, 0, encode_body([b"\x01"]))
    server.log.append(entry)


def set_peer(server: Server, match: int, next_index: int) -> None:
    """Believe something of the first peer."""
    peer = server.peers[0][1]
    peer.match_index, peer.next_index = Index(match), Index(next_index)


DAMAGES: dict[str, tuple[Callable[[Server], None], str]] = {
    "commit": (lambda s: (setattr(s, "last_applied", 1), setattr(s, "commit_index", 1)), "commit index fell"),
    "applied": (lambda s: setattr(s, "last_applied", 1), "last_applied fell"),
    "new term": (lambda s: setattr(s, "current_term", 9), "changed its term"),
    "applied beyond": (lambda s: setattr(s, "last_applied", 9), "applied beyond"),
    "committed beyond": (lambda s: setattr(s, "commit_index", 9), "committed beyond"),
    "written beyond": (lambda s: setattr(s.log, "_written", IndexTerm(Index(9), Term(1))), "written beyond"),
    "future": (lambda s: set_log(s, 7), "a future term"),
    "role": (lambda s: setattr(s, "role", FOLLOWING), "its role is that of state follower"),
    "leader": (lambda s: setattr(s, "leader_id", s.peers[0][0]), "follows another"),
    "match": (lambda s: set_peer(s, 2, 2), "match ≥ next"),
    "next": (lambda s: set_peer(s, 2, 4), "next beyond"),
    "waiting": (
        lambda s: setattr(s, "raft_state", RaftState.AWAIT_CONDITION),
        "its role is that of state leader",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_invariant_of_a_server_can_fail(damage: str) -> None:
    """A damaged server is noticed, and the message says what is wrong."""
    cluster = leader()
    server = cluster.server("a")
    change, message = DAMAGES[damage]
    before = invariants.observe(server)
    invariants.check(before, server)
    change(server)
    with pytest.raises(InvariantViolation, match=message):
        invariants.check(before, server)


def test_a_term_that_falls_is_noticed() -> None:
    """§3.3: terms only grow."""
    server = leader().server("b")
    before = invariants.observe(server)
    with pytest.raises(InvariantViolation, match="the term fell from 2 to 1"):
        invariants.check(msgspec.structs.replace(before, term=Term(2)), server)


def test_a_vote_that_is_given_away_twice_is_noticed() -> None:
    """§3.4: within a term a vote may only be taken back for oneself (§5, become_candidate)."""
    cluster = leader()
    server = cluster.server("b")
    before = invariants.observe(server)
    server.voted_for = cluster["b"].id
    invariants.check(before, server)
    server.voted_for = cluster["c"].id
    with pytest.raises(InvariantViolation, match="the vote of term 1 went from"):
        invariants.check(before, server)


def test_a_leader_that_voted_for_another_is_noticed() -> None:
    """A leader has its own vote, or (after a restart that forgot it) none."""
    server = leader().server("a")
    server.voted_for = server.peers[0][0]
    with pytest.raises(InvariantViolation, match="voted for another"):
        invariants.check(invariants.observe(server), server)


def test_a_leader_that_shortens_its_log_is_noticed() -> None:
    """§3.5, Leader Append-Only."""
    cluster = leader()
    cluster.command("a", "y")
    server = cluster.server("a")
    before = invariants.observe(server)
    server.log.set_last_index(Index(2))
    for _, peer in server.peers:
        peer.next_index = Index(3)
    with pytest.raises(InvariantViolation, match="shortened its log"):
        invariants.check(before, server)


# --- the cluster's observer -----------------------------------------------------------------


def test_the_observer_notices_two_leaders_of_a_term() -> None:
    """Election Safety."""
    cluster = leader()
    server = cluster.server("b")
    before = invariants.observe(server)
    server.raft_state = RaftState.LEADER
    with pytest.raises(InvariantViolation, match="both led term 1"):
        cluster.observer.look(cluster["b"], before, invariants.observe(server))


def test_the_observer_notices_a_leader_without_committed_entries() -> None:
    """Leader Completeness: of a later term only."""
    cluster = leader()
    server = cluster.server("b")
    before = invariants.observe(server)
    server.raft_state, server.current_term = RaftState.LEADER, Term(2)
    cluster["b"].log.set_last_index(Index(1))
    with pytest.raises(InvariantViolation, match="without committed entry 2"):
        cluster.observer.look(cluster["b"], before, invariants.observe(server))


def test_the_observer_notices_a_second_vote() -> None:
    """One vote a term, over restarts, by what was sent."""
    cluster = CoreCluster("a", "b", "c")
    a, b, c = (cluster[name] for name in "abc")
    c.term = Term(1)
    cluster.observer.hear(c, a.id, RequestVoteResult(c.id, Term(1), True))
    cluster.observer.hear(c, a.id, RequestVoteResult(c.id, Term(1), True))
    with pytest.raises(InvariantViolation, match="voted for"):
        cluster.observer.hear(c, b.id, RequestVoteResult(c.id, Term(1), True))
    with pytest.raises(InvariantViolation, match="voted for"):
        cluster.observer.hear(c, b.id, RequestVoteRpc(Term(1), c.id, Index(0), Term(0)))


def test_the_observer_notices_words_of_a_term_that_is_not_stored() -> None:
    """I12: the record first."""
    cluster = CoreCluster("a", "b")
    with pytest.raises(InvariantViolation, match="speaks of term 4"):
        cluster.observer.hear(
            cluster["a"], cluster["b"].id, RequestVoteResult(cluster["a"].id, Term(4), False)
        )


def test_the_observer_notices_a_claim_that_the_disk_does_not_bear_out() -> None:
    """I11: what a member says it has is on its disk."""
    cluster = leader()
    claim = AppendEntriesReply(cluster["b"].id, Term(1), True, Index(4), Index(3), Term(1))
    with pytest.raises(InvariantViolation, match="not on its disk"):
        cluster.observer.overhear(cluster["b"], [SendRpc(cluster["a"].id, claim)])


def test_the_observer_notices_who_sends_before_storing() -> None:
    """I12, by the order of the list."""
    cluster = leader()
    effects = [SendRpc(cluster["b"].id, TimeoutNow(cluster["a"].id)), PersistTermAndVote(Term(2), None)]
    with pytest.raises(InvariantViolation, match="sends before it stores"):
        cluster.observer.overhear(cluster["a"], effects)


def test_the_observer_notices_a_commit_that_no_majority_has() -> None:
    """I8: counted on the disks, not by match indexes."""
    cluster = leader()
    cluster.command("a", "y")
    server = cluster.server("a")
    before = invariants.observe(server)
    server.commit_index = Index(3)
    with pytest.raises(InvariantViolation, match="on 0 disks"):
        cluster.observer.look(cluster["a"], before, invariants.observe(server))


def test_the_observer_notices_a_follower_that_commits_on_its_own() -> None:
    """Only leaders commit."""
    cluster = leader()
    cluster.command("a", "y")
    cluster.deliver()
    server = cluster.server("b")
    before = invariants.observe(server)
    server.commit_index = Index(3)
    with pytest.raises(InvariantViolation, match="no leader has committed"):
        cluster.observer.look(cluster["b"], before, invariants.observe(server))


def test_the_observer_notices_different_entries_at_one_index() -> None:
    """State Machine Safety."""
    cluster = leader()
    server = cluster.server("c")
    before = msgspec.structs.replace(invariants.observe(server), commit_index=Index(1))
    cluster["c"].log.entries[1] = EntryBatch(Index(2), Term(1), 1, 0, encode_body([b"\x05"]))
    with pytest.raises(InvariantViolation, match="another entry 2"):
        cluster.observer.look(cluster["c"], before, invariants.observe(server))


def test_the_observer_notices_committed_entries_that_are_dropped() -> None:
    """I10."""
    cluster = leader()
    before = invariants.observe(cluster.server("c"))
    cluster["c"].log.set_last_index(Index(1))
    now = invariants.observe(cluster.server("c"))
    with pytest.raises(InvariantViolation, match="dropped committed"):
        cluster.observer.look(cluster["c"], before, now)


def test_the_observer_notices_logs_that_meet_again() -> None:
    """Log Matching: equal at 2, so equal at 1."""
    cluster = leader()
    cluster["c"].log.entries[0] = EntryBatch(Index(1), Term(1), 1, 0, encode_body([b"\x05"]))
    with pytest.raises(InvariantViolation, match="meet at 2"):
        cluster.observer.check_logs()
