"""Inspect a data directory that no node runs in: every byte of every file, and whether a node would start.

Theory of operation. Two questions are asked, and both are answered by the code that a node runs:

- *Is each file what was written?* Each kind of file is read to its end with its codec (`_look_at_…`). A start
  reads less: heads and tails of segments, and only the snapshot that it uses.
- *Do the files fit together?* The recovery of a node runs on a disk whose writes stay in memory
  (`TrialDisk`). So gaps between snapshot, segments and log, lost votes, missing records of servers and
  whatever else a start refuses are found by the start itself, and never by a second opinion.

Nothing is changed and nothing is locked. Findings come in the order of the files (docs/operations/files.md).
"""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from barque.core.log_contract import SnapshotKind
from barque.errors import BarqueError, ConfigurationError, Damaged
from barque.log import meta_format, segment_format, snapshot_format, wal_format
from barque.log.background import InlineWorker
from barque.log.checked_text import MalformedText
from barque.log.disk import TEMPORARY, Disk, join
from barque.log.identity import IDENTITY, Owner, decode_identity
from barque.log.linked_copy import LINKED, is_unfinished
from barque.log.meta import META
from barque.log.module_files import STATE, check_files
from barque.log.snapshot_files import FILE, FOLDERS, LIVE
from barque.log.storage import Storage, StorageConfig
from barque.log.wal_files import MANIFEST, file_name, file_number, is_spare
from barque.log.wal_format import CleanEnd, Damage, FileEntry, MalformedHead, TornTail
from barque.log.wal_recovery import WalReader
from barque.offline.findings import RESTORE, Finding, Severity, damage, note, warning
from barque.offline.trial_disk import TrialDisk
from barque.runtime.adoption import check_contents, check_orphans
from barque.runtime.directory import Directory
from barque.runtime.server_record import ServerRecord, decode_record
from barque.runtime.tombstones import TOMBSTONES, decode_tombstones
from barque.types import Uid

SERVERS, WAL = "servers", "wal"
SEGMENTS = "segments"
SNAPSHOTS = {
    FOLDERS[SnapshotKind.SNAPSHOT]: "snapshot",
    FOLDERS[SnapshotKind.CHECKPOINT]: "checkpoint",
    FOLDERS[SnapshotKind.RECOVERY]: "recovery checkpoint",
}
"""The directories of a server that hold snapshots, and what one in them is called."""
_STRANGE = "look at it: Barque made no file of this name, and leaves it alone"

Heard = Callable[[int], None]
"""Hears how many bytes were read, now and then."""


class ServerFacts(msgspec.Struct, frozen=True):
    """One server of the directory, as a start would find it. Indexes are 0 where there is nothing."""

    name: str
    uid: str
    cluster: str
    machine: str
    current_term: int
    last_applied: int
    last_index: int
    last_term: int
    snapshot_index: int


class Report(msgspec.Struct, frozen=True):
    """What was found. `owner` and `servers` are as far as they could be read."""

    data_dir: str
    owner: Owner | None
    servers: tuple[ServerFacts, ...]
    bytes_read: int
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in Severity if severity in found), None)


def ignore(_bytes_read: int) -> None:
    """Show no progress."""


def inspect(disk: Disk, data_dir: str, heard: Heard = ignore) -> Report:
    """Inspect a whole data directory. Raises nothing: what cannot be read is a finding."""
    return _Inspection(disk, data_dir, heard).run()


def inspect_wal(disk: Disk, data_dir: str) -> tuple[Finding, ...]:
    """Inspect the write-ahead log alone, file by file."""
    inspection = _Inspection(disk, data_dir, ignore)
    inspection.look_at_wal(join(data_dir, WAL))
    return tuple(inspection.findings)


def is_data_directory(disk: Disk, path: str) -> bool:
    """Whether this is, or was, a node's data directory."""
    return any(disk.exists(join(path, name)) for name in (IDENTITY, META, WAL, SERVERS))


class _Inspection:
    """One inspection under way."""

    def __init__(self, disk: Disk, data_dir: str, heard: Heard) -> None:
        self._disk = disk
        self._data_dir = data_dir
        self._heard = heard
        self._bytes = 0
        self.findings: list[Finding] = []
        self._owner: Owner | None = None
        self._buried: set[Uid] = set()
        self._records: dict[Uid, ServerRecord] = {}
        self._servers: list[ServerFacts] = []

    def run(self) -> Report:
        """Look at everything."""
        root = self._data_dir
        for name in self._names(root):
            self._look_at_top(name, join(root, name))
        for name in (IDENTITY, META, WAL, SERVERS):
            if not self._disk.exists(join(root, name)):
                self._add(
                    [damage("missing", join(root, name), "it is missing; every data directory has one")]
                )
        if self._owner is not None:
            self._add(self._try_to_start(self._owner))
        return Report(root, self._owner, tuple(self._servers), self._bytes, tuple(self.findings))

    def _add(self, findings: Iterator[Finding] | list[Finding]) -> None:
        self.findings += findings

    def _names(self, path: str) -> list[str]:
        """The names in a directory that may be missing or closed to us."""
        try:
            return self._disk.listdir(path) if self._disk.is_dir(path) else []
        except OSError as error:
            self._add([_unreadable(path, error)])
            return []

    def _check(self, look: Callable[[str], Iterator[Finding]], path: str) -> None:
        """Look at one file; a file that cannot be read is a finding."""
        try:
            self._add(look(path))
        except OSError as error:
            self._add([_unreadable(path, error)])

    def _read(self, path: str) -> bytes:
        data = self._disk.read_file(path)
        self._count(len(data))
        return data

    def _count(self, size: int) -> None:
        self._bytes += size
        self._heard(self._bytes)

    # --- one file each -----------------------------------------------------------------------

    def _look_at_top(self, name: str, path: str) -> None:
        if name == IDENTITY:
            self._check(self._look_at_identity, path)
        elif name == META:
            self._check(self._look_at_meta, path)
        elif name == WAL:
            self.look_at_wal(path)
        elif name == SERVERS:
            self._look_at_servers(path)
        elif name.endswith(TEMPORARY) or name == LINKED:
            self._add([note("leftover", path, "a crash has left it")])
        elif name != "lock":
            self._add([warning("unknown", path, "it is no part of a data directory", _STRANGE)])

    def _look_at_identity(self, path: str) -> Iterator[Finding]:
        try:
            self._owner = decode_identity(self._read(path))
        except MalformedText as error:
            yield damage("identity", path, str(error), offset=0)
            return
        if self._owner is None:
            yield note(
                "old-format",
                path,
                "a release that recorded no owner made it, so whether a node would start was not tried",
                remedy="start the node once with this release",
            )

    def _look_at_meta(self, path: str) -> Iterator[Finding]:
        data = self._read(path)
        try:
            head = meta_format.decode_head(data)
        except MalformedHead as error:
            yield damage("meta", path, str(error), offset=0)
            return
        for found in meta_format.read_lines(data, head):
            if isinstance(found, Damage):
                yield damage("meta", path, found.reason, offset=found.offset)
            elif isinstance(found, TornTail):
                yield note("torn-tail", path, found.reason, offset=found.offset)

    def look_at_wal(self, path: str) -> None:
        """The manifest, each file that it lists, and what else is there."""
        names = self._names(path)
        if MANIFEST not in names:
            self._add([damage("missing", join(path, MANIFEST), "the list of log files is missing")])
            return
        entries: list[FileEntry] = []
        try:
            entries = wal_format.decode_manifest(self._read(join(path, MANIFEST)))
        except MalformedHead as error:
            self._add([damage("manifest", join(path, MANIFEST), str(error), offset=0)])
            return
        except OSError as error:
            self._add([_unreadable(join(path, MANIFEST), error)])
            return
        for entry in entries:
            self._check(partial(self._look_at_log_file, entry), join(path, file_name(entry.number)))
        listed = {file_name(entry.number) for entry in entries}
        for name in names:
            if name in listed or name == MANIFEST or is_spare(name):
                continue
            inner = join(path, name)
            if file_number(name) is not None:
                self._add([note("leftover", inner, "the manifest does not list this log file")])
            elif name.endswith(TEMPORARY):
                self._add([note("leftover", inner, "a crash has left it")])
            else:
                self._add([warning("unknown", inner, "it is no part of a log", _STRANGE)])

    def _look_at_log_file(self, entry: FileEntry, path: str) -> Iterator[Finding]:
        if not self._disk.exists(path):
            yield damage("missing", path, "the file is missing, and the manifest lists it")
            return
        file = self._disk.open(path)
        try:
            reader = WalReader(file)
            if reader.head.epoch != entry.number:
                cause = f"it says that it is number {reader.head.epoch}: it was renamed or copied"
                yield damage("log-file", path, cause, offset=0)
                return
            read = 0
            for found in reader.records(entry.end or None):
                if isinstance(found, Damage) or (isinstance(found, TornTail) and entry.end):
                    yield damage("log-file", path, found.reason, offset=found.offset)
                elif isinstance(found, TornTail):
                    yield note(
                        "torn-tail", path, f"{found.reason}; it was never acknowledged", offset=found.offset
                    )
                elif isinstance(found, CleanEnd) and found.offset < entry.end:
                    cause = f"its records end at {found.offset}, and the manifest says {entry.end}"
                    yield damage("log-file", path, cause, offset=found.offset)
                end = found.offset if not isinstance(found, wal_format.Record) else found.end
                self._count(max(0, end - read))
                read = max(read, end)
        except MalformedHead as error:
            yield damage("log-file", path, str(error), offset=0)
        finally:
            file.close()

    # --- servers -----------------------------------------------------------------------------

    def _look_at_servers(self, path: str) -> None:
        names = self._names(path)
        if TOMBSTONES not in names:
            self._add([damage("missing", join(path, TOMBSTONES), "the list of deleted servers is missing")])
        else:
            self._check(self._look_at_tombstones, join(path, TOMBSTONES))
        for name in names:
            inner = join(path, name)
            if self._disk.is_dir(inner):
                self._look_at_server(Uid(name), inner)
            elif name == TOMBSTONES + TEMPORARY:
                self._add([note("leftover", inner, "a crash has left it")])
            elif name != TOMBSTONES:
                self._add([warning("unknown", inner, "it is no server", _STRANGE)])

    def _look_at_tombstones(self, path: str) -> Iterator[Finding]:
        try:
            self._buried = {tombstone.uid for tombstone in decode_tombstones(self._read(path))}
        except MalformedText as error:
            yield damage("tombstones", path, f"{error}; servers that were deleted could come back", offset=0)

    def _look_at_server(self, uid: Uid, path: str) -> None:
        names = self._names(path)
        if uid in self._buried:
            self._add([note("deletion", path, "this server was deleted, and its files are still here")])
            return
        if "config" not in names:
            if set(names) <= {"config" + TEMPORARY}:
                self._add([note("leftover", path, "a crash came before this server began")])
            else:
                cause = "its config is missing, so no node knows this server"
                self._add([damage("missing", join(path, "config"), cause)])
        for name in names:
            inner = join(path, name)
            if name == "config":
                self._check(partial(self._look_at_config, uid), inner)
            elif name == SEGMENTS:
                self._look_at_segments(inner, uid)
            elif name in SNAPSHOTS:
                self._look_at_snapshots(inner, SNAPSHOTS[name], uid)
            elif is_unfinished(name):
                self._add([note("leftover", inner, "a crash has left it")])
            else:
                self._add([warning("unknown", inner, "it is no part of a server", _STRANGE)])

    def _look_at_config(self, uid: Uid, path: str) -> Iterator[Finding]:
        installation = self._owner.installation if self._owner is not None else ""
        try:
            record = decode_record(self._read(path), installation)
        except MalformedText as error:
            yield damage("config", path, str(error), offset=0)
            return
        if record.uid != uid:
            yield damage("config", path, f"it belongs to {record.uid!r}: it was copied or renamed", offset=0)
        else:
            self._records[uid] = record

    def _look_at_segments(self, path: str, uid: Uid) -> None:
        for name in self._names(path):
            inner = join(path, name)
            if is_unfinished(name):
                self._add([note("leftover", inner, "a crash has left it")])
            elif is_segment(name):
                self._check(partial(self._look_at_segment, uid), inner)
            else:
                self._add([warning("unknown", inner, "it is no segment", _STRANGE)])

    def _look_at_segment(self, uid: Uid, path: str) -> Iterator[Finding]:
        file = self._disk.open(path)
        try:
            yield from segment_findings(path, file.pread, file.size(), uid)
            self._count(file.size())
        finally:
            file.close()

    def _look_at_snapshots(self, path: str, what: str, uid: Uid) -> None:
        for name in self._names(path):
            inner = join(path, name)
            if is_unfinished(name):
                self._add([note("leftover", inner, "a crash has left it")])
            elif snapshot_format.parse_name(name) is None:
                self._add([warning("unknown", inner, f"it is no {what}", _STRANGE)])
            elif not (files := self._names(inner)):
                self._add([note("leftover", inner, f"this {what} was being removed")])
            else:
                self._check(partial(self._look_at_snapshot, what), join(inner, FILE))
                self._look_at_files_of_snapshot(inner, files, uid)

    def _look_at_files_of_snapshot(self, path: str, names: list[str], uid: Uid) -> None:
        for name in names:
            inner = join(path, name)
            if name == LIVE:
                self._check(partial(self._look_at_segment, uid), inner)
            elif name == STATE and self._disk.is_dir(inner):
                pass  # a snapshot module's files: those that the snapshot does not list are its damage
            elif name != FILE:
                self._add([warning("unknown", inner, "it is no part of a snapshot", _STRANGE)])

    def _look_at_snapshot(self, what: str, path: str) -> Iterator[Finding]:
        yield from snapshot_findings(self._disk, path, what)
        if self._disk.exists(path):
            file = self._disk.open(path)
            self._count(file.size())
            file.close()

    # --- all together ------------------------------------------------------------------------

    def _try_to_start(self, owner: Owner) -> Iterator[Finding]:
        """Open the directory as a node does, on a disk whose writes stay in memory."""
        disk = TrialDisk(self._disk)
        directory = Directory(disk, self._data_dir, owner)
        try:
            storage = Storage.open(
                disk,
                self._data_dir,
                owner,
                StorageConfig(wal_writer="inline", wal_prefill=False),
                lambda _event: None,
                lambda _function: None,
                lambda: 0.0,
                make_worker=lambda _wake: InlineWorker(),
                complete=directory.create,
            )
        except (BarqueError, OSError) as error:
            yield _refused(self._data_dir, error)
            return
        try:
            directory.load(all_there=not storage.unclaimed)
            check_orphans(storage, directory)
            if storage.unclaimed:
                check_contents(storage, directory)
            for record in directory.records.values():
                self._servers.append(_facts(storage, record))
        except (BarqueError, OSError) as error:
            yield _refused(self._data_dir, error)
        finally:
            storage.close()


def _facts(storage: Storage, record: ServerRecord) -> ServerFacts:
    log, meta = storage.log(record.uid), storage.meta.read(record.uid)
    last = log.last_index_term()
    return ServerFacts(
        name=record.name,
        uid=record.uid,
        cluster=record.cluster,
        machine=record.machine,
        current_term=meta.current_term if meta is not None else 0,
        last_applied=meta.last_applied if meta is not None else 0,
        last_index=last.index,
        last_term=last.term,
        snapshot_index=log.snapshot_index_term().index,
    )


def _refused(data_dir: str, error: Exception) -> Finding:
    """A start that fails. What is damaged says itself what to do, behind these words or in its own."""
    cause, _, remedy = str(error).partition(". What to do: ")
    if not remedy and not isinstance(error, (Damaged, ConfigurationError)):
        remedy = RESTORE
    return damage("start-refused", data_dir, f"a node would not start here: {cause}", remedy=remedy)


def _unreadable(path: str, error: OSError) -> Finding:
    """A file that cannot be read."""
    if isinstance(error, PermissionError):
        remedy = "give the directory to the user that runs the node: chown -R USER, and chmod 700"
    elif isinstance(error, FileNotFoundError):
        remedy = RESTORE
    else:
        remedy = "look at the disk; a link or a device in the place of a file is not followed"
    return damage("unreadable", path, f"it cannot be read: {error.strerror or error}", remedy=remedy)


def is_segment(name: str) -> bool:
    """Whether this is the name of a segment file."""
    stem, _, ending = name.partition(".")
    return ending == "segment" and len(stem) == 17 and stem.isascii() and stem.isdigit()


def segment_findings(
    path: str, read: Callable[[int, int], bytes], size: int, uid: Uid | None = None
) -> Iterator[Finding]:
    """What is wrong with a segment file; every byte is read. With `uid`, it must be that server's."""
    offset = 0
    try:
        owner, head_size = segment_format.decode_head(read(segment_format.HEAD_SIZE_MAX, 0))
        if uid is not None and owner != uid:
            raise segment_format.MalformedSegment(f"it holds entries of server {owner!r}")
        offset = max(0, size - segment_format.TAIL_SIZE)
        tail = segment_format.decode_tail(read(segment_format.TAIL_SIZE, offset), size)
        offset = tail.index_offset
        index = read(tail.index_size, offset)
        segment_format.check_index(index, tail)
        places = [segment_format.place_at(index, number) for number in range(tail.batches)]
        segment_format.check_places(places, head_size, tail)
        for place in places:
            offset = place.offset
            segment_format.decode_record(read(place.end - place.offset, place.offset), place)
    except segment_format.MalformedSegment as error:
        yield damage("segment", path, str(error), offset=offset)


def snapshot_findings(disk: Disk, path: str, what: str) -> Iterator[Finding]:
    """What is wrong with a snapshot or checkpoint; every byte is read. Its directory names its position."""
    remedy = "nothing, if a node starts here: it uses an older one. Else " + RESTORE
    if not disk.exists(path):
        yield warning("snapshot", path, f"the directory of this {what} has no file", remedy)
        return
    file = disk.open(path)
    try:
        found = snapshot_format.verify(file.pread)
        if found.module is not None:
            check_files(disk, path.rpartition("/")[0], found.module)
    except snapshot_format.LaterFormat as error:
        yield damage(
            "later-format", path, str(error), offset=error.offset, remedy="use the release that wrote it"
        )
    except snapshot_format.MalformedSnapshot as error:
        yield warning("snapshot", path, f"this {what} is damaged: {error}", remedy, offset=error.offset)
    else:
        named = snapshot_format.parse_name(path.split("/")[-2])
        if named is not None and found.meta.position != named:
            cause = f"this {what} is of entry {found.meta.position}, and its directory names another one"
            yield warning("snapshot", path, cause, remedy)
    finally:
        file.close()
