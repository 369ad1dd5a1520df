"""Snapshots are words of a later release: nobody answers, nobody is harmed."""

import pytest

from barque.core.messages import InstallSnapshotResult, InstallSnapshotRpc
from barque.core.server import RaftState
from barque.testing.core_cluster import CoreCluster
from barque.types import Index, IndexTerm, Term


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_snapshot_is_not_answered(name: str) -> None:
    """Silence is safe: the sender keeps its log."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    other = cluster["b" if name == "a" else "a"].id
    state = cluster.server(name).raft_state
    for term in (0, 1, 9):
        rpc = InstallSnapshotRpc(Term(term), other, IndexTerm(Index(9), Term(term)))
        assert cluster[name].handle(rpc) == []
        assert cluster[name].handle(InstallSnapshotResult(other, Term(term), Index(9), Term(1))) == []
    assert cluster.server(name).raft_state is state in (RaftState.LEADER, RaftState.FOLLOWER)
