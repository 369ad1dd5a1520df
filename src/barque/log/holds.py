"""Readers' right to files of a server that lose their names: to a merge, a compaction, a truncation.

Theory of operation. Plans and readers of the log go on beside it, in other threads, for as long as they like.
Meanwhile flushes merge files, compaction replaces them, and a snapshot lets them go. A *hold* names the files
that a reader may still read. While these keep their names, a hold costs nothing: a thread opens such a file
by its path. Before a name goes, or comes to mean another file, the set of segments calls `Holds.keep`: it
opens the file for every hold that has it, and an open file outlives its name.

What is kept so takes room on the disk, and descriptors. Both are bounded, for each server: beyond the bounds
the hold that keeps most is dropped, counted, and its owner is told at the next step. So a reader that never
lets go cannot fill the disk.

`Hold.end`, `Hold.reading` and `Hold.opened` may be called in any thread; everything else runs on the loop.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from barque.errors import Damaged, Stopped, StorageError
from barque.log.disk import Disk
from barque.log.segment import OpenSegment, Segment, SegmentCache, reading

KEPT_FILES_MAX = 64
"""The most files without a name that readers of one server keep open."""


class Hold:
    """One reader's right to read `segments`. `kept` are those that are open for it, as their names go.

    `ended` says why nothing may be read any more. `told` is called on the loop when other files of the server
    count, or other entries of them, and when the hold is dropped. It may look, and hold other files.
    """

    __slots__ = ("_disk", "ended", "kept", "segments", "told")

    def __init__(self, disk: Disk, told: Callable[[], None]) -> None:
        self._disk = disk
        self.segments: set[Segment] = set()
        self.kept: dict[Segment, OpenSegment] = {}
        self.ended: str | None = None
        self.told = told

    def end(self, reason: str) -> None:
        """Read nothing from now on. The files that are kept go at the next tick at the latest."""
        if self.ended is None:
            self.ended = reason

    def check(self) -> None:
        """Raise `Stopped`, with the reason, if the hold has ended."""
        if self.ended is not None:
            raise Stopped(self.ended)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read while a block runs. Raises `Stopped` if the hold has ended before the end of the block.

        A file that is closed meanwhile may yield anything: it is never given out.
        """
        self.check()
        try:
            yield
        except (Damaged, StorageError):
            self.check()
            raise
        self.check()

    @contextlib.contextmanager
    def opened(self, segment: Segment) -> Iterator[OpenSegment]:
        """Open a file of this hold while a block runs. Raises `Damaged`, `StorageError` or `Stopped`.

        A file is kept before its name goes. So what was opened by its name is right if it is not kept then.
        """
        kept, own = self.kept.get(segment), None
        if kept is None:
            try:
                with reading(segment):
                    own = OpenSegment(self._disk, segment)
            except (Damaged, StorageError):
                if segment not in self.kept:
                    self.check()
                    raise
            kept = self.kept.get(segment)
        found = own if kept is None else kept
        try:
            if found is None:  # it was kept, and has been let go since
                self.check()
                raise Stopped(f"{segment.path} is no longer held")
            yield found
        finally:
            if own is not None:
                own.close()


class Holds:
    """The holds on one server's files. `bytes_max` and `files_max` bound what they keep together."""

    def __init__(self, disk: Disk, cache: SegmentCache) -> None:
        self._disk = disk
        self._cache = cache
        self._holds: dict[Hold, None] = {}
        self.bytes_max = 1 << 62
        self.files_max = KEPT_FILES_MAX
        self.dropped = 0
        """How many holds have been dropped as they kept too much."""

    def __len__(self) -> int:
        """How many holds there are."""
        return len(self._holds)

    @property
    def kept(self) -> set[Segment]:
        """The files that are open for readers as their names go, or have gone."""
        return {segment for hold in self._holds for segment in hold.kept}

    @property
    def kept_bytes(self) -> int:
        """How many bytes these files have."""
        return sum(segment.size_bytes for segment in self.kept)

    def take(self, segments: Iterable[Segment], told: Callable[[], None] = lambda: None) -> Hold:
        """Hold these files. Raises `Stopped` if some are being replaced and cannot be kept."""
        hold = Hold(self._disk, told)
        self._holds[hold] = None
        self.add(hold, segments)
        hold.check()
        return hold

    def add(self, hold: Hold, segments: Iterable[Segment]) -> None:
        """Hold these files, too."""
        added = set(segments) - hold.segments
        hold.segments |= added
        # Whatever is pinned may be about to lose its name, or has lost it.
        self._keep(hold, [segment for segment in added if segment.pins])
        self._enforce()

    def let_go(self, hold: Hold, segments: Iterable[Segment]) -> None:
        """Hold these files no longer."""
        for segment in segments:
            hold.segments.discard(segment)
            if hold.kept.pop(segment, None) is not None:
                self._cache.unpin(segment)

    def keep(self, segments: Iterable[Segment]) -> None:
        """The names of these files are about to go: open them for the holds that have them."""
        if not self._holds:
            return
        self.sweep()
        segments = list(segments)
        for hold in list(self._holds):
            self._keep(hold, [s for s in segments if s in hold.segments and s not in hold.kept])
        self._enforce()

    def _keep(self, hold: Hold, segments: list[Segment]) -> None:
        for segment in segments:
            try:
                self._cache.pin(segment)
            except (Damaged, StorageError) as error:
                self._drop(hold, f"a file could not be kept for its reader: {error}")
                return
            hold.kept[segment] = self._cache.open(segment)

    def _enforce(self) -> None:
        """Drop the holds that keep most, until the rest keeps little enough."""
        while len(self.kept) > self.files_max or self.kept_bytes > self.bytes_max:
            largest = max(self._holds, key=lambda hold: sum(s.size_bytes for s in hold.kept))
            count, size = len(largest.kept), sum(s.size_bytes for s in largest.kept)
            self.dropped += 1
            self._drop(
                largest,
                f"a reader of the log was dropped: {count} files of {size} bytes were kept for it after the "
                f"log had replaced them (at most {self.files_max} files, {self.bytes_max} bytes)",
            )

    def tell(self) -> None:
        """Tell the owners of all holds that the files have changed."""
        for hold in list(self._holds):  # to tell one may drop another
            if hold.ended is None:
                hold.told()

    def sweep(self) -> None:
        """Let go of what ended holds have kept."""
        for hold in [hold for hold in self._holds if hold.ended is not None]:
            self._release(hold)

    def end_all(self, reason: str) -> None:
        """End all holds: the server is deleted, or its node stops."""
        for hold in list(self._holds):
            self._drop(hold, reason)

    def _drop(self, hold: Hold, reason: str) -> None:
        hold.end(reason)
        self._release(hold)
        hold.told()

    def _release(self, hold: Hold) -> None:
        del self._holds[hold]
        self.let_go(hold, list(hold.kept))
