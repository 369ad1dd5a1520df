"""Replay the log of one server of a stopped node through a machine, entry by entry (LIFE-10).

The server is recovered on a disk whose writes stay in memory (`TrialDisk`), and its entries are applied by
the code that a node runs. So snapshots, segments, machine versions and built-in commands count as in a
start, and
nothing on the disk is changed.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from barque.core.applying import apply_to, decode_entries
from barque.core.entries import BODY_BYTES_MAX, decode_head
from barque.core.state import Server, ServerConfig
from barque.errors import ConfigurationError, MachineFault
from barque.log.background import InlineWorker
from barque.log.disk import Disk, join
from barque.log.identity import IDENTITY, Owner, decode_identity
from barque.log.storage import Storage, StorageConfig
from barque.machine.machine import Machine
from barque.offline.trial_disk import TrialDisk
from barque.runtime.directory import Directory
from barque.runtime.server_record import ServerRecord
from barque.types import Index, ServerId, Term


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it was applied; `command` is None for an entry of Barque's own."""

    index: Index
    term: Term
    kind: str
    """`user`, `noop`, `builtin`, `cluster_change` or `cluster_delete`."""
    command: Any
    machine_version: int
    machine_time_ms: int
    state: Any
    """The machine's state afterwards: the same object each time if the machine changes it in place."""
    fault: str = ""
    """What the machine raised at this entry; it is the last one then."""


class _NoTime:
    """The core's environment in a replay: nothing new is made, so no time is needed."""

    def now_ms(self) -> int:
        """See `Environment`."""
        return 0

    def token(self) -> int:
        """See `Environment`."""
        return 0


def replay(
    disk: Disk, data_dir: str, cluster: str, machine: Machine[Any], *, committed: bool = True
) -> Iterator[Replayed]:
    """Yield the state after each entry, from the newest snapshot on.

    With `committed`, up to the entry that the server is known to have applied; else to the end of its log,
    whose last entries the cluster may have replaced since. Raises `ConfigurationError` if the directory has
    no server of that cluster, and what a start would raise.
    """
    trial = TrialDisk(disk)
    owner = decode_identity(trial.read_file(join(data_dir, IDENTITY)))
    if owner is None:
        raise ConfigurationError(f"{data_dir}: of an old format; start a node with it once")
    directory = Directory(trial, data_dir, owner)
    storage = Storage.open(
        trial,
        data_dir,
        owner,
        StorageConfig(wal_writer="inline", wal_prefill=False),
        lambda _event: None,
        lambda _function: None,
        lambda: 0.0,
        make_worker=lambda _wake: InlineWorker(),
        complete=directory.create,
    )
    try:
        directory.load(all_there=not storage.unclaimed)
        record = _record_of(directory, cluster)
        yield from _apply_all(_server(storage, owner, record, machine), committed=committed)
    finally:
        storage.close()


def _record_of(directory: Directory, cluster: str) -> ServerRecord:
    for record in directory.records.values():
        if record.cluster == cluster:
            return record
    known = ", ".join(sorted(r.cluster for r in directory.records.values())) or "none"
    raise ConfigurationError(f"{directory.data_dir} has no server of cluster {cluster!r}; it has: {known}")


def _server(storage: Storage, owner: Owner, record: ServerRecord, machine: Machine[Any]) -> Server:
    config = ServerConfig(
        id=ServerId(record.name, owner.node),
        uid=record.uid,
        cluster_name=record.cluster,
        cluster_id=record.cluster_id,
        initial_members=record.initial_members,
        machine=machine,
        machine_args=record.arguments,
        machine_upgrade_strategy="quorum",  # a version that this code lacks stops the replay, not its begin
    )
    meta = storage.meta.read(record.uid)
    log = storage.log(record.uid)
    if meta is None:
        return Server(config, log, _NoTime())
    return Server(config, log, _NoTime(), current_term=meta.current_term, last_applied=meta.last_applied)


def _apply_all(server: Server, *, committed: bool) -> Iterator[Replayed]:
    end = server.commit_index if committed else server.log.last_index_term().index
    server.start_machine()
    for index in range(server.last_applied + 1, end + 1):
        [batch] = server.log.read(Index(index), Index(index), 1, BODY_BYTES_MAX)
        fault = ""
        try:
            apply_to(server, Index(index))
        except MachineFault as error:
            fault = str(error)
        if not fault and server.last_applied < index:
            fault = f"its machine version, {server.effective_machine_version}, is not in this code"
        yield Replayed(
            index=Index(index),
            term=batch.term,
            kind=decode_head(batch.body).kind.name.lower(),
            command=next(iter(decode_entries(server, batch)), None),
            machine_version=server.effective_machine_version,
            machine_time_ms=server.machine_time_ms,
            state=server.machine_state,
            fault=fault,
        )
        if fault or server.deleted:
            return
