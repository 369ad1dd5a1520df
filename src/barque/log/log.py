"""One server's log (`barque.core.log_contract.Log`): its memtable, its segments, and what of it is on disk.

Theory of operation. The log has these marks, in the order of their indexes:

- *first*: the lowest index from which on no entry is missing;
- *snapshot*: the position that a snapshot stands for. Entries below it may be gone, live ones are not;
- *base*: up to here the segments answer, above it the memtable does. A flush moves it up, when its files are
  durable; an overwrite below it moves it down;
- *last written*: everything up to here is on disk, in the write-ahead log or in segments;
- *last*: the end of the memtable. What is above last written is pending: submitted, not confirmed.

Always base ≤ last written ≤ last. Whatever lowers or raises one of them (truncation, flush, snapshot,
install) moves all of them, and `_check` compares them afterwards.

A `Written` event confirms entries only if it names their term, and only as far as the memtable still holds
these entries (historical bugs 21 and 22 of Ra: a truncation that leaves `last_written` high, and a late
event that confirms overwritten entries). A flush counts as far as nothing in it was replaced since it began.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from barque.core.entries import EntryBatch
from barque.core.messages import LogEvent, ResendWrite, SnapshotWritten, WalFailed, WalUp, Written
from barque.errors import InvariantViolation, WalDown
from barque.log.flush import FlushPlan, SegmentLimits, plan_flush
from barque.log.memtable import Memtable
from barque.log.read_plan import Decode, Part as ReadablePart, Piece, ReadPlan, pieces_in, runs_of
from barque.log.recovery import state_of
from barque.log.segment import Segment
from barque.log.segment_set import SegmentSet
from barque.log.snapshots import SnapshotStore
from barque.log.wal import Wal
from barque.types import Index, IndexTerm, Term, Uid

_UNBOUNDED = 1 << 62


class WalLog:
    """The production log."""

    __slots__ = (
        "_bytes_recovered",
        "_clip",
        "_last_written",
        "_memtable",
        "_uid",
        "_uncut",
        "_wal",
        "_write_ops",
        "_write_resends",
        "fetch_term",
        "last_index_term",
        "next_index",
        "read",
        "retained_bytes_max",
        "segments",
        "snapshots",
    )

    def __init__(
        self, uid: Uid, wal: Wal, memtable: Memtable, segments: SegmentSet, snapshots: SnapshotStore
    ) -> None:
        self._uid = uid
        self._wal = wal
        self._memtable = memtable
        self._last_written = memtable.last()
        self._uncut: int | None = None  # where `set_last_index` has cut, if the disk may have more
        self._clip: int | None = None  # the lowest index kept since the flush under way began
        self.segments = segments
        self.snapshots = snapshots
        """The snapshots beside this log."""
        self._bytes_recovered = memtable.bytes_added
        self._write_ops = self._write_resends = 0
        self.retained_bytes_max = 1 << 62
        snapshots.attach(self)
        # The memtable answers these. Bound once: a server asks twenty times for each command.
        self.last_index_term = memtable.last
        """The last entry in memory; the snapshot's position, or (0, 0), for an empty log."""
        self.next_index = cast(Callable[[], Index], memtable.next_index)
        """The index that the next appended entry will have."""
        self.fetch_term: Callable[[Index], Term | None] = memtable.fetch_term
        """The term of the entry at an index; None outside the log (position 0 has term 0)."""
        self.read: Callable[[Index, Index, int, int], list[EntryBatch]] = memtable.read
        """Consecutive batches from the first index on, within the bounds that the contract names."""
        wal.register(uid, self._last_written.index)
        self._check()

    @property
    def uid(self) -> Uid:
        """The server whose log this is."""
        return self._uid

    # --- writing -----------------------------------------------------------------------

    def append(self, batch: EntryBatch) -> None:
        """Leader: add a batch that starts at `next_index()`. Raises `WalDown`."""
        if self._wal.failed_reason is not None:
            raise WalDown(f"the write-ahead log has failed: {self._wal.failed_reason}")
        self._write_ops += 1
        self._wal.submit(self._uid, self._memtable.append(batch), batch)

    def write(self, batches: Sequence[EntryBatch]) -> None:
        """Follower: add consecutive batches, replacing what they overlap (REPL-20). Raises `WalDown`."""
        if self._wal.failed_reason is not None:
            raise WalDown(f"the write-ahead log has failed: {self._wal.failed_reason}")
        if not batches:
            return
        self._write_ops += 1
        first, end = batches[0].first_index, self._memtable.next_index()
        assert 1 <= first <= end, (first, end)
        if first < end:
            self._truncate(Index(first - 1))
        for batch in batches:
            self._wal.submit(self._uid, self._memtable.append(batch), batch)

    def set_last_index(self, index: Index) -> None:
        """Forget every entry above `index` (LOG-07).

        Nothing is written: until the next append, a restart brings the forgotten entries
        back. That is safe. The server then is in a state in which it was before, except
        that its term and vote are newer; the entries were made by the leaders of their terms, so
        log matching holds; no leader counts them, as only what is reported after the restart
        is counted, and they conflict with a newer leader's log only until that leader
        overwrites them, as it would have done had its message come after the crash. But they must come back
        whole. So until an entry behind `index` is on disk, which tells a restart that they were forgotten,
        no file of the write-ahead log that may hold some of them goes.
        """
        end = self._memtable.last().index
        assert 0 <= index <= end, (index, end)
        if index < end:
            self._truncate(index)
            self._uncut = index

    def _truncate(self, last: Index) -> None:
        position = self._position(last)
        if last < self._memtable.base().index:
            self.segments.truncate(position)
            self._memtable.reset(position)
        else:
            self._memtable.truncate(last)
        if self._clip is not None and last < self._clip:
            self._clip = last
        if self._uncut is not None and last < self._uncut:
            self._uncut = last
        if last < self._last_written.index:  # at once: removed entries must not be counted
            self._last_written = position
        self._check()

    def _position(self, index: Index) -> IndexTerm:
        position = self._memtable.position(index)
        assert position is not None, index
        return position

    # --- what the disk reports -----------------------------------------------------------

    def last_written(self) -> IndexTerm:
        """The last entry known to be on disk, with everything before it."""
        return self._last_written

    def handle_event(self, event: LogEvent) -> None:
        """Take a report of the disk. Drop it if its entries were replaced."""
        match event:
            case Written():
                if event.uid == self._uid:
                    self._on_written(event)
            case ResendWrite():
                if event.uid == self._uid:
                    self._on_resend(event.index)
            case SnapshotWritten():
                if event.uid == self._uid:
                    self.trim()
            case WalUp() | WalFailed():
                pass  # the storage has all pending entries written again before it reports `WalUp`

    def _on_written(self, event: Written) -> None:
        """Confirm the entries of the event that the memtable still holds (§11)."""
        confirmed = self._last_written.index
        if event.first > confirmed + 1:
            # Events come in the order of the entries, so an event in between was lost.
            self.resubmit()
            return
        last = min(event.last, self._memtable.next_index() - 1)
        # Terms never decrease along a log, so one term at both ends means one term throughout.
        if last <= confirmed or self._memtable.fetch_term(confirmed + 1) != event.term:
            return
        while self._memtable.fetch_term(last) != event.term:
            last -= 1  # rare: the tail was overwritten while it was being synced
        if self._uncut is not None and last > self._uncut:
            self._uncut = None
        self._last_written = IndexTerm(Index(last), event.term)

    def resubmit(self) -> None:
        """Hand every pending entry to the write-ahead log again, from the memtable."""
        confirmed = self._last_written.index
        self._wal.register(self._uid, confirmed)
        if self.segments.settling and not self.segments.may_settle:
            self._wal.rebase(self._uid, self.segments.snapshot.position, self._on_base)
            confirmed = self.segments.snapshot.position.index
        self._submit_from(confirmed + 1)

    def _on_resend(self, first: Index) -> None:
        base = self._memtable.base().index
        if first <= base:  # segments have what is missing
            self._wal.register(self._uid, base)
        self._submit_from(max(first, base + 1))

    def _submit_from(self, first: int) -> None:
        self._write_resends += 1
        last = self._memtable.next_index() - 1
        previous = self._position(Index(first - 1))
        for batch in self._memtable.read(first, last, _UNBOUNDED, _UNBOUNDED):
            self._wal.submit(self._uid, previous, batch)
            previous = IndexTerm(batch.last_index, batch.term)

    def can_write(self) -> bool:
        """Whether the write-ahead log accepts writes."""
        return self._wal.accepting

    # --- flushes -------------------------------------------------------------------------

    def unflushed(self, limit: Index) -> Index:
        """Up to which index, at most `limit`, entries are only in the write-ahead log; 0 for none.

        What the log no longer holds needs no flush, once the disk says so, too. While files of a
        replaced log are there, it must go on to say that the log was replaced.
        """
        if self.segments.settling or self._uncut is not None:
            return limit
        last = min(limit, self._memtable.last().index)
        return Index(last) if last > self._memtable.base().index else Index(0)

    def begin_flush(self, limit: Index, limits: SegmentLimits, *, merge: bool) -> FlushPlan | None:
        """Plan to move confirmed entries up to `limit` to segments; None if there are none to move now.

        One flush at a time: `end_flush` or `abandon_flush` must follow.
        """
        assert self._clip is None, "one flush of a log at a time"
        if self.segments.settling:
            return None
        base = self._memtable.base().index
        last = min(limit, self._last_written.index)
        batches = self._memtable.read(base + 1, last, _UNBOUNDED, _UNBOUNDED) if last > base else []
        if not batches:
            return None
        self._clip = last
        return plan_flush(self.segments, batches, limits, merge=merge)

    def abandon_flush(self) -> None:
        """The flush has failed: everything stays as it was."""
        self._clip = None

    def end_flush(self, plan: FlushPlan, segments: Iterable[Segment]) -> None:
        """The files of a plan are durable: take them, as far as nothing was replaced meanwhile."""
        clip, self._clip = self._clip, None
        assert clip is not None, "no flush is under way"
        base = self._memtable.base()
        if plan.generation != self.segments.generation:
            self.segments.reject(segments)
            return
        end = self._position(Index(clip)) if clip > base.index else base
        self.segments.adopt(segments, end)
        self._memtable.forget(end)
        self.segments.compact()
        self._check()

    # --- snapshots -----------------------------------------------------------------------

    def snapshot_index_term(self) -> IndexTerm:
        """The position of the snapshot that stands for the entries before it; (0, 0) for none."""
        return self.segments.snapshot.position

    def first_index(self) -> Index:
        """The lowest index from which on no entry is missing; `next_index()` for an empty log."""
        return self.segments.first

    def trim(self) -> None:
        """Let go of entries that the snapshot stands for: up to its floor, without live ones (SNAP-05).

        A follower that is behind may get a snapshot that was older. What it needs to go on is kept, within
        `retained_bytes_max`.
        """
        state = state_of(self.snapshots)
        if self.segments.size_between(state.floor + 1, state.position.index) > self.retained_bytes_max:
            state = msgspec.structs.replace(state, floor=state.position.index)
        self.segments.snapshot = state
        base, last = self._memtable.base().index, self._memtable.last().index
        end = min(state.floor, last, state.next_live(base + 1) - 1)
        if end > base:
            position = self._position(Index(end))
            self._memtable.forget(position)
            self.segments.advance(position)
            if self._last_written.index < end:
                self._last_written = position  # the snapshot is on disk
        self.segments.compact()
        self._check()

    def install(self, position: IndexTerm) -> None:
        """Empty the log behind a snapshot that is durable (S-6). All marks are at its position afterwards.

        The old files stay until the write-ahead log says that the log begins anew, since a crash in between
        must find the old log whole, or not at all. There are no flushes until they are gone.
        """
        state = state_of(self.snapshots)
        assert state.position == position, (state.position, position)
        self.segments.replace_all(state, self.snapshots.live_file())
        self._memtable.reset(position)
        self._last_written = position
        self._uncut = None
        self._wal.rebase(self._uid, position, self._on_base)
        self._check()

    def _on_base(self) -> None:
        """The write-ahead log knows that this log begins anew: nothing of the old one is needed any more."""
        self.segments.may_settle = True
        self.segments.settle()

    def bytes_appended(self) -> int:
        """How many bytes of entries this process has added to the log."""
        return self._memtable.bytes_added - self._bytes_recovered

    @property
    def memory_bytes(self) -> int:
        """How many bytes of entries are in memory."""
        return self._memtable.size_bytes()

    def read_sparse(self, indexes: Iterable[Index]) -> list[EntryBatch]:
        """The entries at these indexes, each as a batch, in this order; without those that are not there.

        Raises `Damaged` or `StorageError` if a segment cannot be read.
        """
        base = self._memtable.base().index
        found = []
        for index in indexes:
            if index > base:
                found += self._memtable.read(index, index, 1, _UNBOUNDED)
            else:
                entry = self.segments.read_entry(index)
                found += [] if entry is None else [entry]
        return found

    def plan_read(self, indexes: Iterable[int], decode: Decode) -> ReadPlan:
        """Plan to read user commands at these indexes, in this order (EXT-04). Touches no file.

        Below the run without a gap, only what the snapshot still needs is there. Raises `Stopped` if
        files that are being replaced cannot be kept.
        """
        base, last = self._memtable.base().index, self._memtable.last().index
        parts, first = self.parts(), self.first_index()
        pieces: list[Piece] = []
        for start, end in runs_of(indexes):
            for begin, stop in self.segments.snapshot.live_within(start, min(end, first - 1)):
                pieces += pieces_in(parts, begin, stop)
            pieces += pieces_in(parts, max(start, first), min(end, base))
            low, high = max(start, base + 1), min(end, last)
            if low <= high:
                pieces.append(Piece(None, self._memtable.batches(low, high), low, high))
        return self._plan(pieces, decode)

    def plan_parts(
        self, parts: Sequence[ReadablePart], first: Index, indexes: Iterable[int], decode: Decode
    ) -> ReadPlan:
        """Plan to read from these files only, from `first` on. Raises as `plan_read` does."""
        runs = runs_of(indexes)
        pieces = [piece for low, high in runs for piece in pieces_in(parts, max(low, first), high)]
        return self._plan(pieces, decode)

    def _plan(self, pieces: Sequence[Piece], decode: Decode) -> ReadPlan:
        hold = self.segments.holds.take(piece.segment for piece in pieces if piece.segment is not None)
        return ReadPlan(hold, pieces, decode)

    def parts(self) -> list[ReadablePart]:
        """The segment files that count, and the ranges of them that do."""
        return [ReadablePart(part.segment, part.first, part.last) for part in self.segments.parts]

    # --- for people, and against bugs ----------------------------------------------------

    def _check(self) -> None:
        """Compare the marks. Raises `InvariantViolation`."""
        base, last, written = self._memtable.base(), self._memtable.last(), self._last_written
        segments = self.segments
        good = (
            base.index <= written.index <= last.index
            and segments.end == base
            and all(part.last <= base.index for part in segments.parts)
            and segments.snapshot.position.index <= last.index
            and (not base.index or segments.first <= max(base.index, segments.snapshot.position.index) + 1)
        )
        if not good:
            raise InvariantViolation(
                f"log of {self._uid}: base {base}, written {written}, last {last}, segments from "
                f"{segments.first} to {segments.end}, snapshot {segments.snapshot.position}"
            )

    def overview(self) -> dict[str, Any]:
        """Facts for an operator: positions, and sizes in bytes."""
        last, segments = self.last_index_term(), self.segments
        snapshot = segments.snapshot.position
        return {
            "last_index": last.index,
            "last_term": last.term,
            "last_written_index": self._last_written.index,
            "last_written_term": self._last_written.term,
            "pending": last.index - self._last_written.index,
            "first_index": self.first_index() if last.index else 0,
            "snapshot_index": snapshot.index,
            "snapshot_term": snapshot.term,
            "batches": len(self._memtable),
            "size_bytes": self.memory_bytes,
            "segments": len(segments.parts),
            "segment_bytes": segments.size_bytes,
            "can_write": self.can_write(),
            "wal_fill_ratio": self._wal.fill_ratio(),
            "readers": {
                "open": len(segments.holds),
                "kept_files": len(segments.holds.kept),
                "kept_bytes": segments.holds.kept_bytes,
                "dropped": segments.holds.dropped,
            },
            "snapshots": self.snapshots.overview(),
            "counters": self.counters(),
        }

    def counters(self) -> dict[str, int]:
        """See `Log.counters`: by Ra's names (CNT-01, CNT-02).

        Gauges: `open_segments`, and where the log stands (CNT-05): `num_segments`, `checkpoint_index`.
        """
        memtable, segments, snapshots = self._memtable, self.segments, self.snapshots
        return {
            "write_ops": self._write_ops,
            "write_resends": self._write_resends,
            "read_ops": memtable.reads,
            "read_mem_table": memtable.entries_read,
            "read_segment": segments.entries_read,
            "fetch_term": memtable.fetches,
            "open_segments": segments.open_files,
            "num_segments": len(segments.parts),
            "minor_compactions": segments.minor_compactions,
            "major_compactions": segments.major_compactions,
            "major_compaction_segments_written": segments.segments_written,
            "major_compaction_segments_compacted": segments.segments_compacted,
            **snapshots.counters(),
        }
