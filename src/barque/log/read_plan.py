"""A plan to read entries of a log: made on the loop in a moment, executed in any thread (EXT-03, EXT-04).

Theory of operation. A plan has the batches that are in memory, which never change, and for all other entries
the segment files and the ranges in them. A hold (`holds`) keeps these files readable, whatever becomes of
their names. So a plan yields the entries as they were when it was made, however the log goes on: flushed,
compacted, truncated, replaced by a snapshot.

A plan is a context manager. If nobody closes it, it ends when it is collected, with a `ResourceWarning`. If
the program keeps it and forgets it, it ends when the files that are kept for it exceed the bounds of `Holds`.
"""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from barque.core.entries import EntryBatch, EntryKind, decode_head, payloads_of
from barque.log.holds import Hold
from barque.log.segment import OpenSegment, Segment, reading
from barque.types import Index, Term

Decode = Callable[[bytes], Any]
"""Makes a command of its bytes; raises what msgspec raises for bytes that are none."""

_NO_COMMAND = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class LogEntry(msgspec.Struct, frozen=True):
    """A user command, and where it stands. `timestamp_ms`: the leader's clock at append (Unix ms)."""

    index: Index
    term: Term
    timestamp_ms: int
    command: Any


class PlanInfo(msgspec.Struct, frozen=True):
    """What a plan will read: entries of all kinds, of which only user commands are yielded.

    `memory_entries` are in memory; `segment_entries` are read from as many files as `segments` says.
    """

    memory_entries: int
    segment_entries: int
    segments: int


class Part(NamedTuple):
    """A file, and the range of entries in it that count."""

    segment: Segment
    first: int
    last: int


class Piece(NamedTuple):
    """A range of entries, and where they are: in one file, or in these batches."""

    segment: Segment | None
    batches: Sequence[EntryBatch]
    first: int
    last: int


def runs_of(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive indexes, in the order in which they are asked for."""
    if isinstance(indexes, range) and indexes.step == 1:
        if indexes:
            yield indexes[0], indexes[-1]
        return
    first = last = None
    for index in indexes:
        if first is not None and last is not None and index == last + 1:
            last = index
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = index
    if first is not None and last is not None:
        yield first, last


def pieces_in(parts: Sequence[Part], first: int, last: int) -> Iterator[Piece]:
    """What of a range is in these files, which are in the order of their indexes."""
    place = bisect_right(parts, first, key=lambda part: part.first) - 1
    for part in parts[max(0, place) :]:
        if part.first > last:
            return
        if part.last >= first:
            yield Piece(part.segment, (), max(first, part.first), min(last, part.last))


class ReadPlan:
    """Entries of a log, ready to be read. `WalLog.plan_read` and `barque.Node.read_entries` make one."""

    def __init__(self, hold: Hold, pieces: Sequence[Piece], decode: Decode) -> None:
        self._hold = hold
        self._pieces = pieces
        self._decode = decode

    def info(self) -> PlanInfo:
        """Say how many entries come from memory, and how many from how many files."""
        memory = sum(piece.last - piece.first + 1 for piece in self._pieces if piece.segment is None)
        stored = sum(piece.last - piece.first + 1 for piece in self._pieces if piece.segment is not None)
        files = {piece.segment for piece in self._pieces if piece.segment is not None}
        return PlanInfo(memory, stored, len(files))

    def execute(self) -> Iterator[LogEntry]:
        """Yield the user commands in the order that was asked for, one batch in memory at a time.

        Reads files: call it in another thread than the loop's. It may be called more than once, and in
        several threads. Entries that are not there, and entries of Barque's own, are left out. Raises
        `Stopped` with the reason if the plan was closed or dropped, or its server deleted; `Damaged` or
        `StorageError` if a file cannot be read.
        """
        for segment, group in groupby(self._pieces, key=lambda piece: piece.segment):
            if segment is None:
                for piece in group:
                    yield from self._from_memory(piece)
            else:
                yield from self._from_file(segment, group)

    def _from_memory(self, piece: Piece) -> Iterator[LogEntry]:
        for batch in piece.batches:
            self._hold.check()
            yield from self._entries(batch, piece.first, piece.last)

    def _from_file(self, segment: Segment, pieces: Iterable[Piece]) -> Iterator[LogEntry]:
        with self._hold.opened(segment) as opened:
            number, batch = -1, None
            for piece in pieces:
                for wanted in range(opened.find(piece.first), segment.tail.batches):
                    if opened.place(wanted).first_index > piece.last:
                        break
                    if batch is None or wanted != number:
                        number, batch = wanted, self._read(opened, wanted)
                    yield from self._entries(batch, piece.first, piece.last)

    def _read(self, opened: OpenSegment, number: int) -> EntryBatch:
        with self._hold.reading(), reading(opened.segment):
            return opened.batch(number)

    def _entries(self, batch: EntryBatch, first: int, last: int) -> Iterator[LogEntry]:
        """The user commands of a batch that are in a range."""
        head = decode_head(batch.body)
        if head.kind is not EntryKind.USER:
            return
        payloads = payloads_of(batch.body, batch.count, head)
        for index in range(max(first, batch.first_index), min(last, batch.last_index) + 1):
            try:
                command = self._decode(payloads[index - batch.first_index])
            except _NO_COMMAND:
                continue  # not committed: a member stops at a committed one (`core.applying`)
            yield LogEntry(Index(index), batch.term, batch.timestamp_ms, command)

    def close(self) -> None:
        """Let go of the files. In any thread; a second time is harmless."""
        self._hold.end("this plan is closed")

    def __enter__(self) -> "ReadPlan":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._hold.ended is None:
            warnings.warn("a plan to read the log was never closed", ResourceWarning, 2, source=self)
            self.close()
