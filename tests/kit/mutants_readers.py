"""Planted bugs of readers of the log: files go too early, or never. The tests of plans find each.

They are no part of the table of `mutants`, which is about rings of whole servers.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from barque.log.batch_cache import BatchCache
from barque.log.holds import Hold, Holds
from barque.log.log_views import LogViews, View
from barque.log.read_plan import ReadPlan
from barque.log.segment import OpenSegment, Segment


def replaced_files_not_kept() -> Any:
    """A file that is merged, dropped or replaced goes, though a plan may still read it."""
    return patch.object(Holds, "keep", lambda _self, _segments: None)


def compacted_files_not_kept() -> Any:
    """A compaction gives its first source's name away without a word."""
    return _keep_only(lambda segment: not segment.pins)


def survivors_file_not_kept() -> Any:
    """The file of the survivors of an installed snapshot moves away from under its readers."""
    return _keep_only(lambda segment: "/segments/" in segment.path)


def _keep_only(may: Callable[[Segment], bool]) -> Any:
    real = Holds.keep

    def wrong(self: Holds, segments: Iterable[Segment]) -> None:
        real(self, [segment for segment in segments if may(segment)])

    return patch.object(Holds, "keep", wrong)


def files_under_compaction_not_kept() -> Any:
    """A plan that is made during a compaction trusts the names of its sources."""

    def wrong(self: Holds, hold: Hold, segments: Iterable[Segment]) -> None:
        hold.segments |= set(segments)

    return patch.object(Holds, "add", wrong)


def kept_files_opened_by_name() -> Any:
    """A plan opens by its name what is kept open for it."""

    @contextmanager
    def wrong(self: Hold, segment: Segment) -> Iterator[OpenSegment]:
        opened = OpenSegment(self._disk, segment)
        yield opened
        opened.close()

    return patch.object(Hold, "opened", wrong)


def closed_plans_keep_files() -> Any:
    """The files of a closed plan stay open."""

    def wrong(self: Holds, hold: Hold) -> None:
        del self._holds[hold]

    return patch.object(Holds, "_release", wrong)


def forgotten_plans_keep_files() -> Any:
    """A plan that is collected without having been closed holds its files without end."""
    return patch.object(ReadPlan, "__del__", lambda _self: None)


def no_bound() -> Any:
    """What forgotten plans keep has no bound."""
    return patch.object(Holds, "_enforce", lambda _self: None)


def deletion_not_told() -> Any:
    """A plan of a deleted server goes on."""
    return patch.object(Holds, "end_all", lambda _self, _reason: None)


def read_after_the_end() -> Any:
    """What is read from a file that was closed meanwhile is given out."""

    @contextmanager
    def wrong(self: Hold) -> Iterator[None]:
        yield

    return patch.object(Hold, "reading", wrong)


def views_not_queued() -> Any:
    """What a snapshot has dropped before a slow reader came to it has escaped it."""
    real = LogViews._note

    def wrong(self: LogViews) -> None:
        real(self)
        while len(self._noted) > 1:
            self._forget(self._noted.popleft(), self._taken)

    return patch.object(LogViews, "_note", wrong)


def replaced_entries_called_committed() -> Any:
    """A view of an earlier time is said to be committed as far as the log is now."""
    real = LogViews.take

    def wrong(self: LogViews) -> View | None:
        view = real(self)
        return view if view is None else self._committed_now(view)

    return patch.object(LogViews, "take", wrong)


def changes_not_told() -> Any:
    """Readers do not hear that other files count."""
    return patch.object(Holds, "tell", lambda _self: None)


def acknowledged_view_let_go() -> Any:
    """A reader that acknowledges a view loses it, and not those before it only."""
    real = LogViews.acknowledge
    return patch.object(LogViews, "acknowledge", lambda self, number: real(self, number + 1))


def nothing_acknowledged() -> Any:
    """What a reader acknowledges is kept for it all the same."""
    return patch.object(LogViews, "acknowledge", lambda _self, _number: None)


def forgotten_views_keep_files() -> Any:
    """The files of a view that gave way before it was taken are kept."""
    return patch.object(LogViews, "_forget", lambda _self, _view, _before: None)


def forgotten_views_share_nothing() -> Any:
    """The files of a view that gave way go, though the view before it has them."""
    real = LogViews._forget
    return patch.object(LogViews, "_forget", lambda self, view, _before: real(self, view, None))


def batches_of_any_file() -> Any:
    """The cache takes a batch of one file for that of another."""
    real = BatchCache.read
    return patch.object(BatchCache, "read", lambda self, _file, number, load: real(self, "", number, load))


def cache_without_a_bound() -> Any:
    """The cache of batches grows for as long as a node runs."""
    real = BatchCache.__init__
    return patch.object(BatchCache, "__init__", lambda self, _bytes_max=0: real(self, 1 << 40))


READER_MUTANTS: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
    replaced_files_not_kept,
    compacted_files_not_kept,
    survivors_file_not_kept,
    files_under_compaction_not_kept,
    kept_files_opened_by_name,
    closed_plans_keep_files,
    forgotten_plans_keep_files,
    no_bound,
    deletion_not_told,
    read_after_the_end,
    views_not_queued,
    replaced_entries_called_committed,
    changes_not_told,
    acknowledged_view_let_go,
    nothing_acknowledged,
    forgotten_views_keep_files,
    forgotten_views_share_nothing,
    batches_of_any_file,
    cache_without_a_bound,
)
