"""The logs of all servers of a data directory, as they are after a restart.

`recover_logs` reads the write-ahead log and looks at the segments, and joins them for each server by the
rules of `reconcile`. It changes nothing but what a crash has left over; what it returns is on disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from barque.errors import Damaged
from barque.log.disk import Disk, join
from barque.log.memtable import Memtable
from barque.log.meta import MetaStore
from barque.log.reconcile import Missing, Stored, View, reconcile
from barque.log.segment import SegmentCache
from barque.log.segment_set import NO_SNAPSHOT, SEGMENTS, SegmentSet, SnapshotState
from barque.log.snapshots import SnapshotStore
from barque.log.wal_recovery import ADVICE, Progress, RecoveredWal, recover_wal, say_nothing
from barque.types import Index, Uid

WAL = "wal"
SERVERS = "servers"
OpenStore = Callable[[str, Uid], SnapshotStore]
"""Opens the snapshots in a server's directory."""

_UNBOUNDED = 1 << 62


def server_directory(data_dir: str, uid: Uid) -> str:
    """Where the files of a server are."""
    return join(join(data_dir, SERVERS), uid)


def segments_directory(data_dir: str, uid: Uid) -> str:
    """Where the segments of a server are."""
    return join(server_directory(data_dir, uid), SEGMENTS)


@dataclass
class RecoveredLog:
    """One server's log: its snapshots, what is in segments, and what is in memory."""

    snapshots: SnapshotStore
    segments: SegmentSet
    memtable: Memtable


@dataclass
class RecoveredLogs:
    """All logs, and the files of the write-ahead log from which they come."""

    wal: RecoveredWal
    logs: dict[Uid, RecoveredLog] = field(default_factory=dict)


class _Begun(NamedTuple):
    """What one server's files say, before they are joined."""

    uid: Uid
    snapshots: SnapshotStore
    segments: SegmentSet
    view: Memtable | None
    state: SnapshotState


def state_of(store: SnapshotStore) -> SnapshotState:
    """What the newest snapshot stands for and needs, and which entries behind an older one are sent for."""
    current = store.current()
    if current is None:
        return NO_SNAPSHOT
    sent = store.lowest_sent()
    floor = current.position.index if sent is None else min(sent, current.position.index)
    return SnapshotState(current.position, Index(floor), store.live_ranges())


def recover_logs(
    disk: Disk,
    data_dir: str,
    meta: MetaStore | None,
    cache: SegmentCache,
    open_store: OpenStore,
    progress: Progress = say_nothing,
) -> RecoveredLogs:
    """Read everything. Raises `Damaged` where starting would lose data; `OSError` when the disk fails."""
    wal = recover_wal(disk, join(data_dir, WAL), meta.tombstones if meta else (), progress)
    found = RecoveredLogs(wal)
    begun: list[_Begun] = []
    uids = {*wal.views, *(meta.uids() if meta else ()), *_with_segments(disk, data_dir)}
    for uid in sorted(uids):
        if meta is not None and meta.is_deleted(uid):
            continue
        snapshots = open_store(server_directory(data_dir, uid), uid)
        segments = SegmentSet(disk, segments_directory(data_dir, uid), uid, cache)
        segments.load()
        view, state, live_file = wal.views.get(uid), state_of(snapshots), snapshots.live_file()
        if live_file is not None:
            _settle(disk, segments, view, state, live_file)
        begun.append(_Begun(uid, snapshots, segments, view, state))
    _make_names_durable(disk, begun)
    for uid, snapshots, segments, view, state in begun:
        try:
            memtable = join_log(segments, view, state)
            _check_end(uid, memtable, snapshots)
        except Damaged as error:
            if not snapshots.notes:
                raise
            raise Damaged(f"{'; '.join(snapshots.notes)}. Without it: {error}") from error
        found.logs[uid] = RecoveredLog(snapshots, segments, memtable)
    return found


def _make_names_durable(disk: Disk, logs: list["_Begun"]) -> None:
    """A flush may have been cut before its names were durable.

    The write-ahead log still has its entries then, and must not let go of them for files that a loss of power
    takes away. All directories at once: most of a start of many servers would be spent waiting for them.
    """
    disk.fsync_dirs([log.segments.directory for log in logs if log.view is not None and log.segments.parts])


def _check_end(uid: Uid, log: Memtable, snapshots: SnapshotStore) -> None:
    """Refuse a log that ends before a snapshot that was skipped: it stood for entries that are gone now."""
    last = log.last().index
    if last < snapshots.skipped:
        raise Damaged(
            f"the log ends with entry {last}, and the snapshot stood for entry {snapshots.skipped}. "
            f"Servers concerned: {uid}. {ADVICE}"
        )


def _with_segments(disk: Disk, data_dir: str) -> Iterator[Uid]:
    """The servers that have a directory for segments."""
    root = join(data_dir, SERVERS)
    for name in disk.listdir(root) if disk.exists(root) else ():
        if disk.is_dir(segments_directory(data_dir, Uid(name))):
            yield Uid(name)


def _settle(
    disk: Disk, segments: SegmentSet, view: Memtable | None, snapshot: SnapshotState, live_file: str
) -> None:
    """Finish an install: its snapshot is there, and the file with the survivors below it has not moved yet.

    Until it moves, the old log is whole (`SegmentSet.settle`). If that log has the snapshot's position, it
    has the survivors, too, and goes on. Otherwise the snapshot has replaced it. If segments follow the
    snapshot, the install was finished: a loss of power has brought the file back.
    """
    position = snapshot.position
    in_view = (
        view is not None
        and view.base().index < position.index
        and view.fetch_term(position.index) == position.term
    )
    in_segments = segments.stored_term(position.index) == position.term
    follows = any(
        part.first == position.index + 1 and part.segment.tail.first.term >= position.term
        for part in segments.parts
    )
    if in_view or in_segments or follows:
        disk.unlink(live_file)
        disk.fsync_dir(live_file.rpartition("/")[0])
    else:
        segments.take_over(live_file)
        segments.load()


def join_log(segments: SegmentSet, view: Memtable | None, snapshot: SnapshotState) -> Memtable:
    """Join one server's segments, its view of the write-ahead log, and its snapshot: the rest is in memory.

    Raises `Damaged`.
    """
    stored = Stored(
        ranges=[(part.first, part.last) for part in segments.parts],
        gappy=[part.segment.tail.has_gaps for part in segments.parts],
        term_at=segments.stored_term,
    )
    seen = None if view is None else View(view.base(), view.last(), view.fetch_term)
    joined = reconcile(stored, seen, snapshot.position, snapshot.needs)
    if isinstance(joined, Missing):
        raise Damaged(
            f"{segments.directory}: entries are missing: {joined.reason}. "
            f"Servers concerned: {segments.uid}. {ADVICE}"
        )
    segments.snapshot = snapshot
    segments.join(joined.segments_end, joined.join, joined.untrusted)
    memtable = Memtable(joined.join, segments)
    if joined.view and view is not None:
        for batch in view.read(joined.join.index + 1, view.last().index, _UNBOUNDED, _UNBOUNDED):
            memtable.append(batch)
    return memtable
