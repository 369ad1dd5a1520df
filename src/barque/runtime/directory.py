"""Which servers live in a data directory: name → uid, and what each needs to start again.

One file per server, `servers/<uid>/config`, written before the server exists anywhere else and
removed only with a tombstone (REG-02, LOG-14). Names become file names nowhere: only uids do.
Format: docs/formats/server-config.md.
"""

import random
import string
from typing import Any

import msgspec

from barque.errors import ConfigurationError, Damaged, UnknownCluster
from barque.log.disk import Disk
from barque.types import ServerId, Uid

_ALPHABET = string.ascii_uppercase + string.digits
_FORMAT = 1


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What restart needs of one server."""

    format: int = _FORMAT
    name: str
    uid: Uid
    cluster: str
    machine: str
    arguments: dict[str, Any]
    initial_members: tuple[ServerId, ...]


def new_uid(name: str, rng: random.Random) -> Uid:
    """A uid that no other server has: some letters of the name and 60 random bits (API-28)."""
    stem = "".join(c for c in name.upper() if c in _ALPHABET)[:6]
    return Uid(stem + "".join(rng.choice(_ALPHABET) for _ in range(12)))


class Directory:
    """The servers of one data directory."""

    def __init__(self, disk: Disk, data_dir: str) -> None:
        self._disk = disk
        self._root = f"{data_dir}/servers"
        self.records: dict[str, ServerRecord] = {}

    def load(self) -> None:
        """Read all records. Raises `Damaged` for a server whose record is missing or broken."""
        if not self._disk.exists(self._root):
            return
        for uid in sorted(self._disk.listdir(self._root)):
            path = f"{self._root}/{uid}/config"
            if not self._disk.exists(path):
                continue  # the directory was made, and then nothing: the server never began
            try:
                record = msgspec.json.decode(self._disk.read_file(path), type=ServerRecord)
            except msgspec.DecodeError as error:
                raise Damaged(
                    f"{path}: {error}; restore the file from a backup, or move {self._root}/{uid} away to "
                    "give this member up"
                ) from error
            if record.uid != uid or record.format != _FORMAT:
                raise Damaged(f"{path}: belongs to {record.uid!r}, format {record.format}; was it copied?")
            if record.name in self.records:
                raise Damaged(f"{path}: {record.name!r} is also the name of {self.records[record.name].uid}")
            self.records[record.name] = record

    def add(self, record: ServerRecord) -> None:
        """Make a new server's record durable. Raises `ConfigurationError` if the name is taken."""
        if record.name in self.records:
            raise ConfigurationError(f"server {record.name!r} exists already; start it again instead")
        folder = f"{self._root}/{record.uid}"
        for path in (self._root, folder):
            if not self._disk.exists(path):
                self._disk.mkdir(path)
                self._disk.fsync_dir(path.rpartition("/")[0])
        file = self._disk.create(f"{folder}/config.tmp")
        file.pwritev([msgspec.json.encode(record)], 0, True)
        file.close()
        self._disk.rename(f"{folder}/config.tmp", f"{folder}/config")
        self._disk.fsync_dir(folder)
        self.records[record.name] = record

    def get(self, name: str) -> ServerRecord:
        """The record of a server. Raises `UnknownCluster`."""
        record = self.records.get(name)
        if record is None:
            raise UnknownCluster(f"no server {name!r} on this node")
        return record

    def uids(self) -> set[Uid]:
        """All uids that have a record."""
        return {record.uid for record in self.records.values()}
