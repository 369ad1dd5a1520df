"""The term rule (§3.3), in every role and every message that carries a term."""

from typing import Any, get_args

import pytest

from barque.core import messages as m
from barque.core.dispatch import FROM_LEADER
from barque.core.effects import PersistTermAndVote, StartElectionTimeout, TermRefused
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import SENDER_OF, claimed_node
from barque.core.roles import RaftState
from barque.core.terms import KINDS, TERM_STEP_MAX
from barque.errors import InvariantViolation
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import NOWHERE, Index, IndexTerm, ServerId, Term

B, STRANGER = ServerId("b", "node_b"), ServerId("z", "node_z")
META = SnapshotMeta(IndexTerm(Index(9), Term(1)), (), 0)
NONE = Index(0)
FOLLOWERS = (RaftState.FOLLOWER, RaftState.AWAIT_CONDITION, RaftState.RECEIVE_SNAPSHOT)


def message(kind: type[Any], term: Term, sender: ServerId) -> Any:
    """One message of this kind."""
    match kind:
        case m.AppendEntriesRpc:
            return m.AppendEntriesRpc(term, sender, NONE, NONE, Term(0))
        case m.HeartbeatRpc:
            return m.HeartbeatRpc(1, term, sender)
        case m.InstallSnapshotRpc:
            return m.InstallSnapshotRpc(term, sender, META, ChunkState(1, ChunkFlag.NEXT))
        case m.InfoRpc:
            return m.InfoRpc(sender, term, ())
        case m.RequestVoteRpc:
            return m.RequestVoteRpc(term, sender, Index(9), term)
        case m.PreVoteRpc:
            return m.PreVoteRpc(1, 0, term, 7, sender, Index(9), term)
        case m.AppendEntriesReply:
            return m.AppendEntriesReply(sender, term, False, Index(1), NONE, Term(0))
        case m.HeartbeatReply:
            return m.HeartbeatReply(sender, 0, term)
        case m.InstallSnapshotResult:
            taken = m.ChunkOutcome.TAKEN
            return m.InstallSnapshotResult(sender, term, term, NOWHERE, ChunkState(1, ChunkFlag.NEXT), taken)
        case m.RequestVoteResult:
            return m.RequestVoteResult(sender, term, False)
        case m.PreVoteResult:
            return m.PreVoteResult(sender, term, 1, False)
        case m.InfoReply:
            return m.InfoReply(sender, term, (), {})
    raise AssertionError(kind)


def in_state(state: RaftState) -> CoreCluster:
    """Three members; a is in this state, in term 1 or 2, and follows c where it follows anybody."""
    cluster = CoreCluster("a", "b", "c")
    a = cluster["a"]
    if state is RaftState.LEADER:
        cluster.elect("a")
        cluster.settle()
    else:
        cluster.elect("c")
        cluster.settle()
    if state in (RaftState.PRE_VOTE, RaftState.CANDIDATE):
        cluster.partition("a", "bc")
        a.handle(m.ElectionTimeout())
    if state is RaftState.CANDIDATE:
        a.handle(m.PreVoteResult(B, Term(1), cluster.server("a").role.token, True))  # type: ignore[union-attr]
    if state is RaftState.AWAIT_CONDITION:
        a.handle(m.AppendEntriesRpc(Term(1), cluster["c"].id, NONE, Index(7), Term(1)))
    if state is RaftState.RECEIVE_SNAPSHOT:
        rpc = m.InstallSnapshotRpc(Term(1), cluster["c"].id, META, ChunkState(1, ChunkFlag.NEXT), b"s")
        a.handle(rpc)
    assert cluster.server("a").raft_state is state
    return cluster


STATES = (*FOLLOWERS, RaftState.PRE_VOTE, RaftState.CANDIDATE, RaftState.LEADER)


def test_every_message_between_servers_that_has_a_term_has_a_row() -> None:
    """A new RPC must say what its term means; `TimeoutNow` and `ServerDown` carry none."""
    assert set(KINDS) == set(get_args(m.FromServer)) - {m.TimeoutNow, m.ServerDown}
    assert set(SENDER_OF) == set(get_args(m.FromServer))
    assert {kind for kind, row in KINDS.items() if row.from_leader} == set(FROM_LEADER)


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_higher_term_of_a_member_is_adopted_without_a_leader(state: RaftState, kind: type[Any]) -> None:
    """§3.3: whatever the message and the role, the old leader is forgotten, and the term is stored first."""
    cluster = in_state(state)
    effects = cluster["a"].handle(message(kind, Term(9), B))
    server = cluster.server("a")
    assert server.current_term == 9
    assert server.leader_id == (B if kind in FROM_LEADER else None)
    assert server.raft_state in FOLLOWERS
    assert isinstance(effects[0], PersistTermAndVote)
    assert [type(effect) for effect in effects].count(PersistTermAndVote) == 1
    if kind not in FROM_LEADER:  # nobody may lead the new term: campaign unless a leader is heard
        assert any(isinstance(effect, StartElectionTimeout) for effect in effects)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_stranger_deposes_a_leader_only_by_leading(kind: type[Any]) -> None:
    """ELEC-11, L-18, L-28, L-30: our configuration may be older than that of an elected leader."""
    cluster = in_state(RaftState.LEADER)
    effects = cluster["a"].handle(message(kind, Term(9), STRANGER))
    deposed = cluster.server("a").raft_state is not RaftState.LEADER
    assert deposed == (kind in (m.AppendEntriesRpc, m.HeartbeatRpc, m.InfoRpc))
    assert deposed or effects == []


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_lower_term_changes_nothing_and_a_request_learns_ours(state: RaftState, kind: type[Any]) -> None:
    """§3.3: a stale request is refused with our term, a stale reply is dropped."""
    cluster = in_state(state)
    server = cluster.server("a")
    before = (server.raft_state, server.current_term, server.voted_for, server.leader_id)
    effects = cluster["a"].handle(message(kind, Term(0), B))
    assert (server.raft_state, server.current_term, server.voted_for, server.leader_id) == before
    told = [said for to, said in sent(effects, object) if to == "b"]
    assert bool(told) == (not KINDS[kind].counted)
    assert all(said.term == server.current_term for said in told)  # type: ignore[attr-defined]
    assert not any(getattr(said, "vote_granted", False) or getattr(said, "success", False) for said in told)


@pytest.mark.parametrize("state", [RaftState.PRE_VOTE, RaftState.CANDIDATE], ids=str)
@pytest.mark.parametrize("kind", FROM_LEADER, ids=lambda kind: kind.__name__)
def test_a_leader_of_our_term_ends_a_candidacy(state: RaftState, kind: type[Any]) -> None:
    """§3.4, C-4, C-6, C-12, P-1: the candidate follows it."""
    cluster = in_state(state)
    server = cluster.server("a")
    cluster["a"].handle(message(kind, server.current_term, B))
    assert server.raft_state in FOLLOWERS
    assert server.leader_id == B


@pytest.mark.parametrize("kind", FROM_LEADER, ids=lambda kind: kind.__name__)
def test_two_leaders_in_one_term_stop_the_server(kind: type[Any]) -> None:
    """L-20, L-25: before harm is done; also while the leader waits."""
    for wait in (False, True):
        cluster = in_state(RaftState.LEADER)
        if wait:
            cluster.transfer("a", "b")
        with pytest.raises(InvariantViolation, match="both lead in term 1"):
            cluster["a"].handle(message(kind, Term(1), B))


def test_a_vote_in_a_higher_term_is_one_record() -> None:
    """ELEC-13: the term and the vote of one step are stored once, before the reply."""
    cluster = in_state(RaftState.LEADER)
    effects = cluster["a"].handle(m.RequestVoteRpc(Term(9), B, Index(9), Term(8)))
    records = [effect for effect in effects if isinstance(effect, PersistTermAndVote)]
    assert records == [PersistTermAndVote(Term(9), B)]
    assert effects[0] is records[0]
    [(_, result)] = sent(effects, m.RequestVoteResult)
    assert result.vote_granted


def test_a_message_names_the_node_that_it_claims_to_come_from() -> None:
    """The transport compares this node with the connection."""
    assert claimed_node(message(m.InfoReply, Term(1), B)) == "node_b"
    assert claimed_node(m.ServerDown(B, True)) == "node_b"
    assert claimed_node(m.Tick(0)) is None


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_sec7_a_term_that_no_elections_reach_is_refused(state: RaftState, kind: type[Any]) -> None:
    """Sec 7, S16: one message must not use up all terms, whatever it is and whatever we do."""
    cluster = in_state(state)
    server = cluster.server("a")
    before = (server.raft_state, server.current_term, server.voted_for, server.leader_id)
    far = Term(server.current_term + TERM_STEP_MAX + 1)
    assert cluster["a"].handle(message(kind, far, B)) == [TermRefused(B, far)]
    assert (server.raft_state, server.current_term, server.voted_for, server.leader_id) == before
    assert cluster["a"].counters.terms_refused == 1
    cluster["a"].handle(message(kind, Term(far - 1), B))
    assert server.current_term == far - 1
