"""The servers of a data directory: their names, uids, and the settings that a restart needs.

One file per server, `servers/<uid>/config`, written before the server exists anywhere else and
removed only behind a tombstone (REG-02, LOG-14). Names become file names nowhere: only uids do.
Formats: docs/formats/server-config.md, docs/formats/tombstones.md.
"""

import random
import string
from collections.abc import Container

from barque.errors import ConfigurationError, Damaged, StorageError, UnknownCluster
from barque.log.checked_text import MalformedText
from barque.log.disk import TEMPORARY, Disk, join, remove_temporary, remove_tree, replace_file
from barque.log.identity import IDENTITY, Owner
from barque.runtime.server_record import (
    ServerRecord,
    check_record,
    configured_cluster_id,
    decode_record,
    encode_record,
    is_old,
)
from barque.runtime.tombstones import (
    TOMBSTONES,
    Tombstone,
    decode_tombstones,
    encode_tombstones,
    prune,
)
from barque.types import Uid

_ALPHABET = string.ascii_uppercase + string.digits
_CONFIG = "config"
_RESTORE = "restore the file from a copy of this directory"
_GHOSTS = "Without it, servers that were deleted could come back"


def new_uid(name: str, rng: random.Random) -> Uid:
    """A uid that no other server has: some letters of the name and 60 random bits (API-28)."""
    stem = "".join(c for c in name.upper() if c in _ALPHABET)[:6]
    return Uid(stem + "".join(rng.choice(_ALPHABET) for _ in range(12)))


def new_cluster_id(rng: random.Random) -> str:
    """Draw the id of a cluster that is being created: another one each time."""
    return "R" + "".join(rng.choice(_ALPHABET) for _ in range(19))


class Directory:
    """The servers of one data directory. `owner.installation` gives old records their cluster's id."""

    def __init__(self, disk: Disk, data_dir: str, owner: Owner) -> None:
        self.owner = owner
        self.data_dir = data_dir
        self._disk = disk
        self._root = f"{data_dir}/servers"
        self._tombstones: list[Tombstone] = []
        self._buried: set[Uid] = set()
        self._deleted_clusters: dict[str, Tombstone] = {}
        self._old: list[ServerRecord] = []  # their files are of a format without a checksum
        self.records: dict[str, ServerRecord] = {}
        self.unfinished: set[Uid] = set()  # buried, or never quite created, and something may be left of them

    # --- what is there -----------------------------------------------------------------

    def create(self) -> None:
        """Add our files to a new data directory: after that, a missing one is a loss. Raises `OSError`.

        Raises `Damaged` if servers are there already: then the directory has lost its identity.
        """
        names = self._disk.listdir(self._root) if self._disk.exists(self._root) else []
        found = [name for name in names if not name.startswith(TOMBSTONES)]
        if found:
            raise Damaged(
                f"{join(self.data_dir, IDENTITY)}: missing, in a directory that holds servers "
                f"({', '.join(found[:20])}); put back a good copy of the whole data directory"
            )
        self._complete()

    def load(self, *, all_there: bool = True, durable: Container[Uid] = ()) -> None:
        """Read all records and tombstones. Raises `Damaged` for a file that is missing or broken.

        Older releases made `servers/tombstones` with the first deletion: with their directories, `all_there`
        is false. What a killed process has renamed is seen, and may yet be lost with the power: it is made
        durable before anything is built on it. For the servers in `durable` it was: the meta store hears of a
        server only then. Raises `StorageError` if the disk refuses.
        """
        if not self._disk.exists(self._root):
            if not all_there:
                return
            raise Damaged(f"{self._root}: missing, with all servers of this directory; {_RESTORE}")
        self._make_durable(self._root)
        remove_temporary(self._disk, self._root, TOMBSTONES)
        if all_there or self._disk.exists(join(self._root, TOMBSTONES)):
            self._load_tombstones()
        for name in self._disk.listdir(self._root):
            uid = Uid(name)
            if uid in self._buried:
                self.unfinished.add(uid)
            elif self._disk.is_dir(f"{self._root}/{uid}"):
                if uid not in durable:
                    self._make_durable(f"{self._root}/{uid}")
                self._load_server(uid)

    def _load_server(self, uid: Uid) -> None:
        folder = f"{self._root}/{uid}"
        names = self._disk.listdir(folder)
        if _CONFIG in names:
            remove_temporary(self._disk, folder, _CONFIG)
            self._load_record(uid, join(folder, _CONFIG))
        elif not set(names) - {_CONFIG + TEMPORARY}:
            self.unfinished.add(uid)  # a crash came before the record: the server never began

    def migrate(self) -> None:
        """Write what older releases wrote without a checksum, or not at all. Raises `OSError`."""
        for record in self._old:
            self._write(record)
        self._old.clear()
        if not self._disk.exists(join(self._root, TOMBSTONES)):
            self._complete()

    def _complete(self) -> None:
        """Make the files that every directory has."""
        if not self._disk.exists(self._root):
            self._disk.mkdir(self._root)
            self._disk.fsync_dir(self.data_dir)
        replace_file(self._disk, self._root, TOMBSTONES, encode_tombstones(self._tombstones))

    def _make_durable(self, folder: str) -> None:
        try:
            self._disk.fsync_dir(folder)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be synced: {error}") from error

    def _load_tombstones(self) -> None:
        path = join(self._root, TOMBSTONES)
        try:
            self._set_tombstones(decode_tombstones(self._disk.read_file(path)))
        except FileNotFoundError:
            raise Damaged(f"{path}: missing; {_RESTORE}. {_GHOSTS}") from None
        except MalformedText as error:
            raise Damaged(f"{path}: damaged: {error}; {_RESTORE}. {_GHOSTS}") from error

    def _load_record(self, uid: Uid, path: str) -> None:
        data = self._disk.read_file(path)
        try:
            record = decode_record(data, self.owner.installation)
        except MalformedText as error:
            raise Damaged(
                f"{path}: damaged: {error}; {_RESTORE}, or move {self._root}/{uid} away to give this member "
                "up"
            ) from error
        if record.uid != uid or not record.cluster_id:
            raise Damaged(f"{path}: belongs to {record.uid!r}; was it copied? {_RESTORE.capitalize()}")
        if record.name in self.records:
            raise Damaged(f"{path}: {record.name!r} is also the name of {self.records[record.name].uid}")
        self.records[record.name] = record
        if is_old(data, record):
            self._old.append(record)

    def get(self, name: str) -> ServerRecord:
        """The record of a server. Raises `UnknownCluster`."""
        record = self.records.get(name)
        if record is None:
            raise UnknownCluster(f"no server {name!r} on this node")
        return record

    def uids(self) -> set[Uid]:
        """All uids that have a record, or had one."""
        return {record.uid for record in self.records.values()} | self._buried

    def buried(self) -> set[Uid]:
        """All uids that have a tombstone."""
        return self._buried

    def deleted_cluster(self, cluster_id: str) -> Tombstone | None:
        """The tombstone of a cluster, if all of it was deleted."""
        return self._deleted_clusters.get(cluster_id)

    def last_tombstone(self, cluster_id: str) -> Tombstone | None:
        """The newest tombstone of this cluster, or of a member of it that was here."""
        deleted = self._deleted_clusters.get(cluster_id)
        found = [t for t in self._tombstones if t.cluster_id == cluster_id]
        return deleted or (found[-1] if found else None)

    # --- changes -----------------------------------------------------------------------

    def add(self, record: ServerRecord) -> None:
        """Make a new server's record durable. Raises `ConfigurationError` if it must not exist, or `OSError`.

        A record that could not be made durable may be there all the same, and with a second one of its name
        the node could not start: so nothing is added before it is gone.
        """
        if record.name in self.records:
            raise ConfigurationError(f"server {record.name!r} exists already; start it again instead")
        check_record(record, self.owner.node)
        if record.cluster_id in self._deleted_clusters:
            raise ConfigurationError(f"cluster {record.cluster!r} ({record.cluster_id}) was deleted")
        folder = f"{self._root}/{record.uid}"
        if record.uid in self._buried or self._disk.exists(join(folder, _CONFIG)):  # all records have a file
            raise ConfigurationError(f"uid {record.uid!r} was used before, and is never used again")
        if self.unfinished:
            for uid in sorted(self.unfinished - self.buried()):
                self.erase(uid)
        self.unfinished.add(record.uid)
        self._disk.mkdir(folder)
        self._write(record)
        self.unfinished.discard(record.uid)
        self.records[record.name] = record

    def change(self, record: ServerRecord) -> None:
        """Make another record of a server that is there durable. Raises `UnknownCluster`, or `OSError`."""
        if self.get(record.name) != record:
            self._write(record)
            self.records[record.name] = record

    def _write(self, record: ServerRecord) -> None:
        replace_file(self._disk, f"{self._root}/{record.uid}", _CONFIG, encode_record(record))

    def remove(self, name: str, reason: str, *, at_ms: int, whole_cluster: bool) -> Uid:
        """Put a tombstone, durably, where the record was; `erase` then takes the data away.

        From here on the server cannot start again, whatever happens. Raises `UnknownCluster`; `OSError`
        when the disk fails: then nothing has changed, and it may be tried again.
        """
        record = self.get(name)
        self._bury(record, reason, at_ms, whole_cluster=whole_cluster)
        del self.records[name]
        self.unfinished.add(record.uid)
        return record.uid

    def _bury(self, record: ServerRecord, reason: str, at_ms: int, *, whole_cluster: bool) -> None:
        tombstone = Tombstone(
            uid=record.uid,
            cluster_id=record.cluster_id,
            cluster=record.cluster,
            whole_cluster=whole_cluster,
            configured=record.cluster_id == configured_cluster_id(self.owner.installation, record.cluster),
            at_ms=at_ms,
            reason=reason,
        )
        kept = prune([*self._tombstones, tombstone], {*self.unfinished, record.uid})
        replace_file(self._disk, self._root, TOMBSTONES, encode_tombstones(kept))
        self._set_tombstones(kept)

    def _set_tombstones(self, tombstones: list[Tombstone]) -> None:
        self._tombstones = tombstones
        self._buried = {tombstone.uid for tombstone in tombstones}
        self._deleted_clusters = {t.cluster_id: t for t in tombstones if t.whole_cluster}

    def erase(self, uid: Uid) -> None:
        """Remove the remains of a server that is `unfinished`; may be repeated. Raises `OSError`."""
        assert uid in self.unfinished, f"{uid} is in use"
        folder = f"{self._root}/{uid}"
        if self._disk.exists(folder):
            remove_tree(self._disk, folder)
        self.unfinished.discard(uid)
