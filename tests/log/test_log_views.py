"""What one reader sees of a log that goes on: each entry of a segment; and no file is held for nothing."""

from collections.abc import Callable

import pytest
from tests.kit.storage import UID, Node, batch
from tests.log.test_read_plan import filled, install, payload, read, snapshot

from barque.errors import Stopped
from barque.log.log import WalLog
from barque.log.log_views import LogViews, View
from barque.types import Index


def views_of(node: Node, told: Callable[[], None] = lambda: None) -> tuple[LogViews, WalLog]:
    """A reader's views of a log, and the log."""
    log = node.storage.log(UID)
    return LogViews(log, lambda: log.last_index_term().index, told), log


def go_on(node: Node, count: int = 40) -> None:
    """Append, until what was there is in segments."""
    log = node.storage.log(UID)
    first = log.next_index()
    for index in range(first, first + count):
        log.append(batch(index))
        node.sync()
    node.tick()


def taken(views: LogViews) -> View:
    """The next view, which is there."""
    view = views.take()
    assert view is not None
    return view


def indexes_of(views: LogViews) -> list[int]:
    """What can be read of the view that was taken last."""
    with views.plan_read(range(1, 1000), bytes) as made:
        found = read(made)
    assert found == [(index, 1, payload(index)) for index, _, _ in found]
    return [index for index, _, _ in found]


def test_the_first_view_is_there_at_once_and_the_next_when_files_change() -> None:
    """EXT-01: a reader is told of each change; changes that go on from one another are one view."""
    node = filled()
    news: list[int] = []
    views, log = views_of(node, lambda: news.append(1))
    view = taken(views)
    assert (view.number, view.first, view.last) == (1, 1, log.segments.end.index)
    assert indexes_of(views) == list(range(1, view.last + 1))
    assert views.take() is None
    assert not news
    for _ in range(3):
        go_on(node)
    assert news
    later = taken(views)
    assert (later.number > 1, later.first, later.last) == (True, 1, log.segments.end.index)
    assert indexes_of(views) == list(range(1, later.last + 1))
    assert views.take() is None
    views.close()


def test_files_are_held_until_a_later_view_is_acknowledged() -> None:
    """EXT-01: files that merges have replaced are kept for the view that has them, and for no other."""
    node = filled()
    views, log = views_of(node)
    first = taken(views)
    for _ in range(2):
        go_on(node)
    log.set_last_index(Index(0))  # each file is replaced
    for _ in range(4):
        go_on(node)
    assert log.segments.holds.kept == {part.segment for part in first.parts}
    assert indexes_of(views) == list(range(1, first.last + 1))
    views.acknowledge(first.number)
    node.tick()  # which lets go of what closed plans have held
    assert indexes_of(views) == list(range(1, first.last + 1)), "it acknowledges those before"
    second = taken(views)
    views.acknowledge(second.number)
    node.tick()
    assert not log.segments.holds.kept
    assert indexes_of(views) == list(range(second.first, second.last + 1))
    views.close()
    assert len(log.segments.holds) == 0


def test_what_a_snapshot_drops_is_seen_before() -> None:
    """EXT-01: a slow reader gets each entry that was in a segment, though snapshots have dropped it since."""
    node = filled()
    views, log = views_of(node)
    seen = set()
    ends = set()
    for _ in range(3):
        go_on(node)
        ends.add(log.segments.end.index)
        snapshot(node, log.segments.end.index, [])
        go_on(node)
        assert log.first_index() > max(ends)
    while (view := views.take()) is not None:
        seen |= set(indexes_of(views))
        views.acknowledge(view.number)
    assert ends <= seen
    assert log.segments.end.index in seen
    assert seen >= set(range(1, min(ends) + 1))
    node.tick()
    assert not log.segments.holds.kept
    views.close()


def test_what_a_leaders_snapshot_replaces_was_not_committed() -> None:
    """EXT-01: replaced entries are never said to be committed, however late a reader takes their view."""
    node = filled()
    log = node.storage.log(UID)
    commit_index = [Index(20)]
    views = LogViews(log, lambda: commit_index[0])
    go_on(node)
    first = taken(views)
    assert (first.committed, first.last > 50) == (20, True)
    go_on(node)
    commit_index[0] = Index(25)
    install(log, 200, 2, [])
    commit_index[0] = Index(200)
    divergent = taken(views)
    assert (divergent.committed, divergent.last > first.last) == (25, True)
    assert 30 in indexes_of(views), "it may still be read"
    newest = taken(views)
    assert (newest.first, newest.last, newest.committed) == (201, 200, 200)
    views.close()


def test_two_readers_of_which_one_is_dropped() -> None:
    """EXT-01: a reader that acknowledges nothing is dropped, and told; the others go on."""
    node = filled()
    slow, log = views_of(node)
    taken(slow)
    quick = [views_of(node)[0] for _ in range(2)]
    log.segments.holds.bytes_max = log.segments.size_bytes
    log.set_last_index(Index(0))
    for _ in range(20):
        go_on(node)
        for views in quick:
            views.acknowledge(taken(views).number)
        if log.segments.holds.dropped:
            break
        slow.take()
        log.set_last_index(Index(0))
    with pytest.raises(Stopped, match="a reader of the log was dropped"):
        slow.take()
    go_on(node)
    for views in quick:
        assert taken(views).last == log.segments.end.index
        views.close()
    slow.close()
