"""`barque.runtime.leaderboard`: who leads, as far as this node knows (REG-01)."""

from barque.runtime.leaderboard import Leaderboard, Standing
from barque.types import ServerId, Term

A, B = ServerId("s", "n1"), ServerId("s", "n2")


def test_nothing_is_known_of_an_unknown_cluster() -> None:
    """Lookups of unknown clusters give None."""
    board = Leaderboard()
    assert board.lookup("kv") is board.lookup_leader("kv") is board.lookup_members("kv") is None


def test_leader_and_members_are_recorded() -> None:
    """The newest news wins, also that nobody leads; clearing forgets."""
    board = Leaderboard()
    assert board.record("kv", A, (A, B), Term(1))
    assert (board.lookup_leader("kv"), board.lookup_members("kv")) == (A, (A, B))
    assert board.record("kv", None, (A, B), Term(2))
    assert board.lookup_leader("kv") is None
    assert board.overview() == {"kv": Standing(None, (A, B), Term(2))}
    board.clear("kv")
    assert board.overview() == {}


def test_news_of_an_older_term_is_dropped() -> None:
    """A late message cannot bring a deposed leader back."""
    board = Leaderboard()
    board.record("kv", B, (A, B), Term(5))
    assert not board.record("kv", A, (A, B), Term(4))
    assert board.lookup_leader("kv") == B


def test_listeners_hear_changes_only() -> None:
    """Each change is told once, in order; what is no change is not told; an ended listener hears nothing."""
    board, heard = Leaderboard(), []
    end = board.listen(lambda cluster, standing: heard.append((cluster, standing and standing.leader)))
    board.record("kv", A, (A,), Term(1))
    board.record("kv", A, (A,), Term(1))
    board.record("kv", B, (A, B), Term(2))
    board.clear("kv")
    board.clear("kv")
    end()
    end()
    board.record("kv", A, (A,), Term(3))
    assert heard == [("kv", A), ("kv", B), ("kv", None)]


def test_terms_of_another_cluster_of_that_name_do_not_count() -> None:
    """A cluster that was created again starts with term 1, and is news."""
    board = Leaderboard()
    assert board.record("kv", A, (A,), Term(7), "R1")
    assert not board.record("kv", B, (B,), Term(6), "R1")
    assert board.record("kv", B, (B,), Term(1), "R2")
    assert board.lookup_leader("kv") == B
