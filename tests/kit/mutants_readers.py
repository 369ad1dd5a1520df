"""Planted bugs of readers of the log: files go too early, or never. The tests of plans find each.

They are no part of the table of `mutants`, which is about rings of whole servers.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from barque.log.holds import Hold, Holds
from barque.log.read_plan import ReadPlan
from barque.log.segment import OpenSegment, Segment


def replaced_files_not_kept() -> Any:
    """A file that is merged, dropped or replaced goes, whoever may still read it."""
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
)
