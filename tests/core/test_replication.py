"""AppendEntries from both ends, rule by rule (L-1 to L-6, L-16, F-1, F-2, F-5)."""

from barque.core.effects import Cast, PersistTermAndVote
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc
from barque.testing.core_cluster import CoreCluster
from barque.types import Index, ServerId, Term


def empty(leader: ServerId, term: int, prev: tuple[int, int], commit: int = 0) -> AppendEntriesRpc:
    """An AppendEntries without entries."""
    return AppendEntriesRpc(Term(term), leader, Index(commit), Index(prev[0]), Term(prev[1]))


def test_a_late_empty_rpc_takes_nothing_back() -> None:
    """An RPC that was overtaken must not drop what was acknowledged since: the leader counts on it."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.settle()
    late = empty(cluster["a"].id, 1, (1, 1), commit=1)
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.server("a").commit_index == 2
    cluster["b"].handle(late)
    assert cluster.log_terms("b") == [1, 1]


def test_a_late_empty_rpc_is_answered_with_what_it_proves() -> None:
    """An empty RPC in the middle of the log proves the log up to there, and says nothing of the rest."""
    cluster = CoreCluster("a", "b")
    cluster.load("b", [1, 1, 1])
    effects = cluster["b"].handle(empty(cluster["a"].id, 1, (2, 1)))
    [reply] = [effect.message for effect in effects if isinstance(effect, Cast)]
    assert reply == AppendEntriesReply(cluster["b"].id, Term(1), True, Index(3), Index(2), Term(1))


def test_the_new_term_is_stored_before_an_answer_that_names_it() -> None:
    """Whether an RPC fits, does not fit or is too far ahead: first the disk, then the answer (I12)."""
    for prev in ((1, 1), (1, 2), (5, 2)):
        cluster = CoreCluster("a", "b")
        cluster.load("b", [1])
        effects = cluster["b"].handle(empty(cluster["a"].id, 2, prev))
        kinds = [type(effect) for effect in effects if isinstance(effect, PersistTermAndVote | Cast)]
        assert kinds == [PersistTermAndVote, Cast]
