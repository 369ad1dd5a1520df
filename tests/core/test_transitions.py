"""Changes of role: the state follows from the role, and each role pays what it owes when it ends."""

from collections.abc import Callable

from barque.core import transitions as t
from barque.core.effects import PersistTermAndVote, Rejected, StartConditionTimeout, StopReason, StopServer
from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import SnapshotMeta
from barque.core.messages import WalFailed
from barque.core.roles import LeaderRole, RaftState, WaitingRole, WalWritable
from barque.testing.core.cluster import CoreCluster
from barque.types import NOWHERE, Index, Term


def led() -> CoreCluster:
    """Three members; a leads."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.settle()
    return cluster


def test_the_state_follows_from_the_role() -> None:
    """Each transition sets the role object; `raft_state` repeats the state of that role."""
    server = led().server("b")
    meta = SnapshotMeta(NOWHERE, (), 0)
    steps: list[tuple[Callable[[], object], RaftState]] = [
        (lambda: t.become_pre_candidate(server), RaftState.PRE_VOTE),
        (lambda: t.become_candidate(server), RaftState.CANDIDATE),
        (lambda: t.become_leader(server), RaftState.LEADER),
        (lambda: t.become_waiting(server, WalWritable(), 5), RaftState.AWAIT_CONDITION),
        (lambda: t.become_follower(server), RaftState.FOLLOWER),
        (lambda: t.become_receiver(server, meta), RaftState.RECEIVE_SNAPSHOT),
        (lambda: t.become_terminating_follower(server), RaftState.TERMINATING_FOLLOWER),
        (lambda: t.become_stopped(server, StopReason.DELETED), RaftState.DELETE_AND_TERMINATE),
    ]
    for become, state in steps:
        become()
        assert server.role.state is server.raft_state is state


def test_a_new_term_forgets_the_leader_and_the_vote() -> None:
    """(term, leader) is one fact: no server follows the leader of a term that is over."""
    server = led().server("b")
    assert server.leader_id is not None
    assert t.step_down(server, Term(5))[0] == PersistTermAndVote(Term(5), None)
    assert (server.current_term, server.voted_for, server.leader_id) == (5, None, None)


def test_a_leader_that_waits_keeps_its_leadership_and_pays_when_it_ends() -> None:
    """CORE-06, L-8: reads that wait for a round are refused when the wait ends in a higher term."""
    cluster = led()
    cluster.query("a")
    cluster["a"].handle(WalFailed("EIO"))
    server = cluster.server("a")
    assert isinstance(server.role, WaitingRole)
    assert isinstance(server.leadership(), LeaderRole)
    effects = t.step_down(server, Term(5))
    assert [effect.reason for effect in effects if isinstance(effect, Rejected)] == ["not_leader"]
    assert server.leadership() is None


def test_a_wait_has_a_timeout() -> None:
    """TIME-02: no server waits without end."""
    assert StartConditionTimeout(7) in t.become_waiting(led().server("b"), WalWritable(), 7)


def test_leaving_half_a_snapshot_drops_it() -> None:
    """S-9: what was accepted so far is forgotten, whatever ends the receiving."""
    cluster = led()
    server, snapshots = cluster.server("b"), cluster["b"].log.snapshots
    meta = SnapshotMeta(NOWHERE, (), 0)
    snapshots.begin_accept(meta)
    snapshots.accept_live([EntryBatch(Index(5), Term(1), 1, 0, encode_body([b"\x01"]))])
    t.become_receiver(server, meta)
    assert snapshots.accepting
    t.become_follower(server)
    assert not snapshots.accepting


def test_the_end_is_announced_once() -> None:
    """LIFE-06: the runtime hears that the server has stopped, and why."""
    effects = t.become_stopped(led().server("a"), StopReason.REMOVED)
    assert [e.reason for e in effects if isinstance(e, StopServer)] == [StopReason.REMOVED]
