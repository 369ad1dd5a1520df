"""Leadership transfer: who is refused (L-35); §3.10 has its tests in tests/paper."""

from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster


def test_a_member_without_a_vote_cannot_lead() -> None:
    """L-35, NonVoter."""
    cluster = CoreCluster("a", "b", "c")
    server = cluster.elect("a")
    server.cluster[cluster["b"].id].voter = False
    cluster.transfer("a", "b")
    assert cluster.refusals() == ["non_voter"]
    assert server.raft_state is RaftState.LEADER


def test_a_leader_that_is_asked_for_itself_has_nothing_to_do() -> None:
    """L-35: already_leader is an answer, not a refusal."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.transfer("a", "a")
    assert cluster.replies() == ["already_leader"]
