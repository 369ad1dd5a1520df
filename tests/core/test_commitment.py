"""When an entry is committed (COMMIT-01 to COMMIT-04)."""

from barque.core.commitment import advance_commit_index, match_indexes
from barque.core.messages import AppendEntriesReply
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, Term


def test_the_leader_counts_itself_by_its_disk() -> None:
    """COMMIT-01, L-11: not by the end of its log."""
    cluster = CoreCluster("a", "b", "c")
    server = cluster.elect("a")
    cluster.command("a", "x")
    assert match_indexes(server) == [1, 1, 1]
    cluster["a"].sync()
    assert match_indexes(server) == [2, 1, 1]


def test_members_without_a_vote_do_not_count() -> None:
    """COMMIT-01: only voters make a majority."""
    cluster = CoreCluster("a", "b", "c")
    server = cluster.elect("a")
    server.cluster[cluster["c"].id].voter = False
    assert len(match_indexes(server)) == 2
    assert server.quorum() == 2
    assert not server.has_quorum({cluster["a"].id, cluster["c"].id})


def test_the_commit_index_never_falls() -> None:
    """COMMIT-02: a peer that lost what it had takes nothing back."""
    cluster = CoreCluster("a", "b", "c")
    server = cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    for name in "bc":
        cluster["a"].handle(AppendEntriesReply(cluster[name].id, Term(1), False, Index(1), Index(0), Term(0)))
    assert [peer.match_index for _, peer in server.peers] == [0, 0]
    assert not advance_commit_index(server)
    assert server.commit_index == 2


def test_the_aux_machine_hears_of_commits_only_when_there_are_some() -> None:
    """COMMIT-06: a written event that commits nothing tells nobody anything."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    before = len(cluster["a"].effects)
    cluster["a"].sync()
    assert "AuxEval" not in [type(effect).__name__ for effect in cluster["a"].effects[before:]]
