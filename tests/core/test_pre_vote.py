"""The pre-candidate's table (P-1 to P-12)."""

from barque.core.effects import StartElectionTimeout
from barque.core.messages import ElectionTimeout
from barque.core.server import RaftState
from barque.testing.core.cluster import CoreCluster


def test_a_round_that_fails_is_followed_by_another_for_as_long_as_it_takes() -> None:
    """P-9: each round arms the timer of the next; a member that stops asking never leads again."""
    cluster = CoreCluster("a", "b", "c")
    cluster["b"].crash()
    cluster["c"].crash()
    cluster["a"].handle(ElectionTimeout())
    for _ in range(3):
        assert cluster.server("a").raft_state is RaftState.PRE_VOTE
        assert cluster["a"].timer is not None
        effects = cluster["a"].expire()
        assert any(isinstance(effect, StartElectionTimeout) for effect in effects)
