"""What a server may wait for (W-6); the table has the rest."""

import pytest

from barque.core.effects import CancelElectionTimeout
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, Term

HEARD = [CancelElectionTimeout()]
"""The leader was heard; nothing else is done."""


@pytest.mark.parametrize("prev", [(7, 1), (2, 2)], ids=["gap", "conflict"])
def test_a_new_leader_is_answered_although_another_was_asked_already(prev: tuple[int, int]) -> None:
    """The new leader's term ends the wait for the old leader's entries."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("c", [1, 1])
    wrong = (Index(prev[0]), Term(prev[1]))
    cluster["c"].handle(AppendEntriesRpc(Term(2), cluster["a"].id, Index(0), *wrong))
    assert cluster["c"].handle(AppendEntriesRpc(Term(2), cluster["a"].id, Index(0), *wrong)) == HEARD
    effects = cluster["c"].handle(AppendEntriesRpc(Term(3), cluster["b"].id, Index(0), *wrong))
    assert [to for to, _ in sent(effects, AppendEntriesReply)] == ["b"]
    assert cluster["c"].handle(AppendEntriesRpc(Term(3), cluster["b"].id, Index(0), *wrong)) == HEARD
