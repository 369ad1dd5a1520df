"""The consistency check of AppendEntries, against a naive model."""

import pytest
from hypothesis import given, strategies as st

from barque.core.append_entries import drop_present
from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import Found, find_entry
from barque.core.messages import AppendEntriesRpc
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, IndexTerm, ServerId, Term

LEADER = ServerId("b", "node_b")


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        (0, 0, Found.OK),
        (1, 1, Found.OK),
        (2, 2, Found.OK),
        (2, 1, Found.MISMATCH),
        (3, 2, Found.MISSING),
        (0, 1, Found.MISMATCH),
    ],
)
def test_an_entry_is_there_or_another_or_none(index: int, term: int, found: Found) -> None:
    """`find_entry` compares index and term; the empty position is everybody's."""
    cluster = CoreCluster("a", "b")
    cluster.load("a", [1, 2])
    assert find_entry(cluster.server("a").log, Index(index), Term(term)) is found


@pytest.mark.parametrize(("index", "found"), [(7, Found.OK), (8, Found.MISSING)])
def test_the_snapshot_stands_for_its_last_entry(index: int, found: Found) -> None:
    """What is in no log may be the snapshot's position."""
    cluster = CoreCluster("a", "b")
    cluster["a"].log.snapshot_index_term = lambda: IndexTerm(Index(7), Term(3))  # type: ignore[method-assign]
    assert find_entry(cluster.server("a").log, Index(index), Term(3)) is found
    assert find_entry(cluster.server("a").log, Index(7), Term(2)) is Found.MISMATCH


@given(data=st.data())
def test_what_is_dropped_is_there_and_what_is_left_is_not(data: st.DataObject) -> None:
    """Two logs that agree up to some entry, the RPC cut into batches anywhere: exactly the new entries
    remain.
    """
    common = data.draw(st.lists(st.integers(1, 2), max_size=5).map(sorted))
    ours = common + data.draw(st.lists(st.integers(3, 4), max_size=4).map(sorted))
    theirs = common + data.draw(st.lists(st.integers(5, 6), max_size=4).map(sorted))
    prev = data.draw(st.integers(0, len(common)))
    cluster = CoreCluster("a", "b")
    cluster.load("a", ours)
    batches: list[EntryBatch] = []
    for index in range(prev + 1, len(theirs) + 1):
        term = theirs[index - 1]
        if batches and batches[-1].term == term and data.draw(st.booleans()):
            last = batches.pop()
            count = last.count + 1
            batches.append(EntryBatch(last.first_index, last.term, count, 0, encode_body([b""] * count)))
        else:
            batches.append(EntryBatch(Index(index), Term(term), 1, 0, encode_body([b""])))
    before = theirs[prev - 1] if prev else 0
    rpc = AppendEntriesRpc(Term(6), LEADER, Index(0), Index(prev), Term(before), tuple(batches))
    new, matched = drop_present(cluster.server("a"), rpc)
    meeting = max(prev, min(len(common), len(theirs)))
    assert matched == meeting
    assert [(i, b.term) for b in new for i in range(b.first_index, b.last_index + 1)] == [
        (i, theirs[i - 1]) for i in range(meeting + 1, len(theirs) + 1)
    ]
