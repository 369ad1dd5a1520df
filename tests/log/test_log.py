"""One server's log: what counts as written, and what an event may confirm."""

import pytest
from tests.kit.storage import OTHER, UID, Node, batch, content

from barque.core.log_contract import Log
from barque.core.messages import WalUp, Written
from barque.types import Index, IndexTerm, Term


def position(index: int, term: int) -> IndexTerm:
    """An (index, term) pair."""
    return IndexTerm(Index(index), Term(term))


def test_a_new_log_is_empty_and_fulfils_the_contract() -> None:
    """Positions are (0, 0), and the next index is 1."""
    log: Log = Node().storage.log(UID)
    assert log.last_index_term() == log.last_written() == log.snapshot_index_term() == position(0, 0)
    assert log.next_index() == 1
    assert log.can_write()
    log.write([])
    assert log.overview()["last_index"] == 0


def test_appended_entries_count_only_when_reported() -> None:
    """Memory is ahead of the disk until the event comes."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=5))
    assert log.last_index_term() == position(5, 1)
    assert log.last_written() == position(0, 0)
    node.sync()
    assert log.last_written() == position(5, 1)


def test_a_truncation_lowers_what_is_written_at_once() -> None:
    """Historical bug 21: nobody may count entries that are gone."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=5))
    node.sync()
    log.set_last_index(Index(3))
    assert log.last_written() == log.last_index_term() == position(3, 1)
    log.write([batch(2, term=2, count=4)])
    assert log.last_written() == position(1, 1)
    log.set_last_index(Index(0))
    assert log.last_written() == position(0, 0)


def test_a_late_event_for_overwritten_entries_confirms_only_what_still_holds() -> None:
    """Historical bug 22: an event of an older term never confirms a newer entry."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=5))
    node.storage.flush()
    late = list(node.events)
    node.events.clear()
    log.write([batch(3, term=2, count=2)])
    for event in late:
        log.handle_event(event)
    assert log.last_written() == position(2, 1)
    node.sync()
    assert log.last_written() == position(4, 2)


@pytest.mark.parametrize(
    "event",
    [Written(OTHER, Term(1), Index(1), Index(3)), Written(UID, Term(2), Index(1), Index(3)), WalUp()],
)
def test_events_about_something_else_confirm_nothing(event: Written | WalUp) -> None:
    """Another server, another term, or no entries at all."""
    log = Node().storage.log(UID)
    log.append(batch(1, count=3))
    log.handle_event(event)
    assert log.last_written() == position(0, 0)


def test_an_event_that_leaves_a_hole_leads_to_a_resend() -> None:
    """If a report was lost, the entries are written again rather than believed."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=3))
    node.storage.flush()
    node.events.clear()
    log.append(batch(4))
    node.sync()
    assert log.last_written() == position(4, 1)


def test_only_the_next_index_can_be_appended() -> None:
    """Any other is our bug."""
    log = Node().storage.log(UID)
    with pytest.raises(AssertionError):
        log.append(batch(2))
    with pytest.raises(AssertionError):
        log.write([batch(3)])
    with pytest.raises(AssertionError):
        log.set_last_index(Index(1))


def test_a_truncation_without_an_append_may_come_back_and_the_next_append_ends_it() -> None:
    """Forgotten entries may return by a restart, but not behind a newer append."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=5))
    node.sync()
    log.set_last_index(Index(2))
    node.crash()
    assert len(content(node.storage)) == 5
    log = node.storage.log(UID)
    log.set_last_index(Index(2))
    log.append(batch(3, term=2))
    node.sync()
    node.crash()
    assert [entry[:2] for entry in content(node.storage)] == [(1, 1), (2, 1), (3, 2)]
