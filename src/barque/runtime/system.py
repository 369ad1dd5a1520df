"""One data directory: its shared log, its meta store, and the servers that live in it."""

import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from barque.config import LogConfig, ServerSettings, SnapshotsConfig, TimeConfig
from barque.core.applying import persist_last_applied
from barque.core.messages import (
    AcceptFailed,
    LogEvent,
    ResendWrite,
    SnapshotAccepted,
    SnapshotFailed,
    SnapshotWritten,
    WalFailed,
    WalUp,
    Written,
)
from barque.core.packing import packing_named
from barque.core.snapshots import make_recovery_checkpoint
from barque.core.state import RaftState, Server, ServerConfig
from barque.errors import ConfigurationError, InvariantViolation, MachineFault, Refused, StorageError
from barque.log.background import MakeWorker, ThreadWorker
from barque.log.disk import Disk
from barque.log.storage import Storage
from barque.log.wal_writer import MakeWriter, choose_writer
from barque.machine.arguments import canonical_arguments
from barque.machine.machine import Machine
from barque.runtime.adoption import check_contents, check_orphans
from barque.runtime.clock import Clock
from barque.runtime.commit_rate import CommitRate
from barque.runtime.directory import Directory, new_uid
from barque.runtime.monitors import Monitors
from barque.runtime.performer import Performer
from barque.runtime.performer_contract import PerformerEnvironment
from barque.runtime.recovery_progress import RecoveryProgress
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_record import ServerRecord, check_record
from barque.runtime.server_settings import server_config, storage_config
from barque.runtime.server_table import Ending, ServerTable
from barque.runtime.server_timers import ServerTimers
from barque.runtime.supervision import Supervisor
from barque.runtime.timers import Timers
from barque.types import NOWHERE, ClientRef, Index, IndexTerm, Membership, ServerId, Uid

logger = logging.getLogger("barque.system")

_META_FAILED = "the meta store cannot be written: "


STOPPED_BY_OPERATOR = "an operator has stopped it"
_BUGS = (InvariantViolation, AssertionError)
"""After these a server's log in memory may be wrong: only what is on disk counts, read by a new process."""
_TERMINATING = (RaftState.TERMINATING_LEADER, RaftState.TERMINATING_FOLLOWER)


class SystemEnvironment:
    """Gives the core the time for its timestamps, and random numbers (`Environment`)."""

    __slots__ = ("_rng", "now_ms")

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._rng = rng
        self.now_ms = clock.wall_ms
        """Unix milliseconds."""

    def token(self) -> int:
        """64 random bits."""
        return self._rng.getrandbits(63)


class System:
    """The servers of one node that share a write-ahead log."""

    def __init__(
        self,
        *,
        me: ClientRef,
        disk: Disk,
        log: LogConfig,
        snapshots: SnapshotsConfig,
        times: TimeConfig,
        machine_upgrade_strategy: str = "all",
        recovery_strategy: str | tuple[str, ...] = "all",
        settings: Mapping[str, ServerSettings] = MappingProxyType({}),
        restarts_max: int = 2,
        machines: Mapping[str, Machine[Any]],
        servers: ServerTable,
        directory: Directory,
        environment: PerformerEnvironment[ServerProcess],
        timers: Timers,
        clock: Clock,
        rng: random.Random,
        run_on_loop: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
        monitors: Monitors | None = None,
        checked: bool = False,
        make_writer: MakeWriter = choose_writer,
        make_worker: MakeWorker = ThreadWorker,
    ) -> None:
        self.node = me.node
        self.servers = servers
        self.processes = servers.by_name
        self.directory = directory
        self.failure: str | None = None
        self.snapshot_made: Callable[[ServerProcess, SnapshotWritten], None] = lambda _process, _event: None
        """Hears of each snapshot and checkpoint; the node sets it."""
        self._active: dict[ServerProcess, None] = {}
        self._machines = machines
        self._times = times
        self._snapshots = snapshots
        packing_named(snapshots.compression)  # refuses now what this Python cannot do
        self._log_config = log
        self._upgrade_strategy = machine_upgrade_strategy
        self._recovery_strategy = recovery_strategy
        self._settings = settings
        self._clock = clock
        self._checked = checked
        self._rng = rng
        self._environment_of_core = SystemEnvironment(clock, rng)
        self._progress = RecoveryProgress(clock)
        self.storage = Storage.open(
            disk,
            directory.data_dir,
            directory.owner,
            storage_config(log, snapshots),
            self._on_log_event,
            run_on_loop,
            make_writer=make_writer,
            make_worker=make_worker,
            complete=directory.create,
            progress=self._progress.read,
        )
        self._changed = changed
        self._environment = environment
        self.supervisor = Supervisor(
            self._restart, restarts_max=restarts_max, period_s=times.restarts_period_ms / 1000
        )
        self._deleting: dict[str, Ending] = {}  # ended, and still without a durable tombstone
        self.monitors = monitors or Monitors(me)
        self.server_timers = ServerTimers(timers, clock, rng, times, environment.wake)
        self.performer = Performer(environment, self.storage.meta, self.server_timers, self.monitors)
        self.awaiting_sync = self.performer.awaiting_sync

    def recover(self) -> None:
        """Start the servers of this directory that are to start with the node (LIFE-02, SYS-23).

        Raises `Damaged` if the log holds entries of servers that have no record: absence is
        never deletion; and `StorageError` when the disk fails.
        """
        unclaimed = self.storage.unclaimed
        try:
            self.directory.load(all_there=not unclaimed, durable=self.storage.meta.uids())
        except OSError as error:
            raise StorageError(f"the servers of this directory cannot be read: {error}") from error
        check_orphans(self.storage, self.directory)
        if unclaimed:
            check_contents(self.storage, self.directory)
        try:
            self.directory.migrate()
            if unclaimed:
                self.storage.claim(self.directory.owner)
        except OSError as error:
            raise StorageError(f"old files cannot be written in the present format: {error}") from error
        self._finish_what_a_crash_left()
        self._progress.begin_applying()
        for record in list(self.directory.records.values()):
            why_not = self._why_not_started(record)
            if why_not is None:
                self._start(record)
            else:
                self._make(record).end(why_not)

    def _why_not_started(self, record: ServerRecord) -> str | None:
        """Why a server does not start with its node; None if it does."""
        cure = f"barque server restart {record.cluster} {self.node}"
        if record.stopped:
            return f"{STOPPED_BY_OPERATOR}; to start it again: {cure}"
        strategy = self._recovery_strategy
        if strategy == "all" or (isinstance(strategy, tuple) and record.cluster in strategy):
            return None
        return f"server_recovery_strategy of this node does not start it; to start it: {cure}"

    def _finish_what_a_crash_left(self) -> None:
        """Deletions that were durable, and not complete. Raises `StorageError`."""
        try:
            for record in list(self.directory.records.values()):
                deleted = self.directory.deleted_cluster(record.cluster_id)
                if deleted is not None:  # another member of it that was here has been told; this one was not
                    self._bury(record.name, Ending(deleted.reason, whole_cluster=True))
            for uid in sorted(self.directory.buried() & self.storage.recovered_uids()):
                self.storage.delete(uid)
            for uid in sorted(self.directory.unfinished):
                self.directory.erase(uid)
        except OSError as error:
            raise StorageError(f"a deletion cannot be completed: {error}") from error

    def plan(
        self,
        name: str,
        cluster: str,
        machine: str,
        arguments: dict[str, Any],
        members: tuple[ServerId, ...],
        *,
        cluster_id: str,
        uids: Mapping[str, Uid] | None = None,
        membership: Membership = Membership.VOTER,
        joined_at: IndexTerm = NOWHERE,
        initial_machine_version: int = 0,
        skipped: tuple[int, ...] = (),
    ) -> ServerRecord:
        """The record of a new server, checked; changes nothing.

        `uids` are the members' incarnations (`name@node`), as far as they are known; without its own, the
        server draws one. Raises `ConfigurationError` for an unknown machine, arguments that would not be kept
        or that the machine does not take, and whatever else could not be started again.
        """
        arguments = canonical_arguments(arguments)
        _try_machine(self._machine(machine), machine, arguments)
        known = dict(uids or {})
        record = ServerRecord(
            name=name,
            uid=known.get(f"{name}@{self.node}") or new_uid(name, self._rng),
            cluster=cluster,
            machine=machine,
            arguments=arguments,
            initial_members=members,
            cluster_id=cluster_id,
            membership=membership,
            initial_uids=known,
            joined_at=joined_at,
            initial_machine_version=initial_machine_version,
            skipped=skipped,
        )
        check_record(record, self.node)
        self._config_of(record).check()
        return record

    def create(self, record: ServerRecord) -> ServerProcess:
        """Make and start the server of a record that `plan` has made.

        A server of that name that is about to end is finished first. Raises `ConfigurationError` for a name
        that is taken, and `StorageError`.
        """
        present = self.processes.get(record.name)
        if present is not None and present.server.raft_state in _TERMINATING:
            self.servers.finish(present, Ending("its cluster was deleted", whole_cluster=True))
        self.reap_finished()
        try:
            self.directory.add(record)
        except OSError as error:
            raise StorageError(f"server {record.name!r} cannot be created: {error}") from error
        return self._start(record)

    def _machine(self, name: str) -> Machine[Any]:
        machine = self._machines.get(name)
        if machine is None:
            known = ", ".join(sorted(self._machines)) or "none"
            raise ConfigurationError(
                f"machine {name!r} is not among this node's ({known}); list it in the configuration"
            )
        return machine

    def _start(self, record: ServerRecord) -> ServerProcess:
        process = self._make(record)
        process.start(self._progress.of(process.server.id, process.server.commit_index))
        return process

    def _config_of(self, record: ServerRecord) -> ServerConfig:
        return server_config(
            record,
            self.node,
            self._machine(record.machine),
            self._times,
            self._log_config,
            self._snapshots,
            self._upgrade_strategy,
            self._settings.get(record.cluster),
        )

    def _make(self, record: ServerRecord) -> ServerProcess:
        """Make the server of a record, and register it; it has not recovered yet."""
        config = self._config_of(record)
        meta = self.storage.meta.read(record.uid)
        log = self.storage.log(record.uid)
        if meta is None:
            server = Server(config, log, self._environment_of_core)
        else:
            server = Server(
                config,
                log,
                self._environment_of_core,
                current_term=meta.current_term,
                voted_for=meta.voted_for,
                last_applied=meta.last_applied,
            )
        process = ServerProcess(server, self.performer, self._active, checked=self._checked)
        self.servers.add(process)
        return process

    # --- stopped, and started again ------------------------------------------------------

    def stop(self, process: ServerProcess) -> None:
        """Stop a server on purpose (API-07). Its files stay, and it starts again only when it is told to.

        Raises `StorageError` if that cannot be made durable: then the server goes on.
        """
        self._change(msgspec.structs.replace(self.directory.get(process.server.id.name), stopped=True))
        cure = f"barque server restart {process.server.cfg.cluster_name} {self.node}"
        self._halt(process, f"{STOPPED_BY_OPERATOR}; to start it again: {cure}")

    def _halt(self, process: ServerProcess, reason: str) -> None:
        """End a server and keep its files; its machine's state, too, if that saves enough replaying."""
        if process.failure is None:
            self._keep(process)
            process.end(reason)
            self.performer.server_failed(process)
        process.server.log.snapshots.abort_accept()
        self._active.pop(process, None)
        self._end_readers(process)

    def restart(self, name: str) -> ServerProcess:
        """Start a server again that was stopped, or has failed (API-06); one that runs is left alone.

        Raises `UnknownCluster`; `StorageError` if its files cannot be read, or the disk refuses; `Refused` if
        what it has in memory must not be used again.
        """
        self.reap_finished()
        record, old = self.directory.get(name), self.processes.get(name)
        if old is not None and old.failure is None:
            return old
        if old is not None and old.failure_type in _BUGS:
            text = f"{old.server.id} has stopped over a bug: stop its node and start it again"
            raise Refused(f"{text}; {old.failure}")
        self._change(msgspec.structs.replace(record, stopped=False))
        self.supervisor.forget(record.uid)
        return self._restart(name)

    def _restart(self, name: str) -> ServerProcess:
        """Put a new server in the place of one that no longer runs. Raises `StorageError`."""
        self.storage.sync_meta()  # the new server may repeat a vote, which must be on disk before that
        old = self.processes.get(name)
        if old is not None:
            old.server.log.snapshots.abort_accept()
        try:
            return self._start(self.directory.get(name))
        except StorageError as error:
            self.processes[name].fail(error)
            raise

    def skip(self, name: str, index: Index) -> None:
        """Let a server's machine leave this entry out from its next start on; it runs no longer until then.

        Its log and its state stay as they are. Raises `Refused` if it has applied the entry, `StorageError`.
        """
        process, record = self.processes[name], self.directory.get(name)
        if process.server.last_applied >= index:
            raise Refused(
                f"{process.server.id} has applied entry {index}: to skip it would split its cluster"
            )
        self._change(msgspec.structs.replace(record, skipped=tuple(sorted({*record.skipped, index}))))
        self._halt(
            process, f"entry {index} is to be skipped; barque server restart {record.cluster} {self.node}"
        )

    def keep_data(self, name: str, *, keep: bool) -> None:
        """Whether a server's files stay when its cluster removes it (API-12). Raises as `stop`."""
        self._change(msgspec.structs.replace(self.directory.get(name), keep_data=keep))

    def _change(self, record: ServerRecord) -> None:
        try:
            self.directory.change(record)
        except OSError as error:
            raise StorageError(f"the record of {record.name!r} cannot be written: {error}") from error

    # --- ends --------------------------------------------------------------------------

    def reap_finished(self) -> None:
        """Carry out the endings that `ServerTable.finish` has noted."""
        for process, ending in self.servers.take_finished().items():
            if ending.delete and not ending.whole_cluster and self._keeps_data(process):
                self._halt_removed(process, ending.reason)
            elif ending.delete:
                self.delete(process, ending.reason, whole_cluster=ending.whole_cluster)
            else:
                self.performer.server_failed(process)

    def _keeps_data(self, process: ServerProcess) -> bool:
        record = self.directory.records.get(process.server.id.name)
        return record is not None and record.keep_data

    def _halt_removed(self, process: ServerProcess, reason: str) -> None:
        """Stop a server that its cluster has removed, and whose files were to stay."""
        record = self.directory.get(process.server.id.name)
        try:
            self._change(msgspec.structs.replace(record, stopped=True))
        except StorageError as error:
            self._note_failure(str(error))  # the next start asks the cluster again, and hears the same
        self.performer.server_failed(process)
        self._halt(process, reason)

    def delete(self, process: ServerProcess, reason: str, *, whole_cluster: bool) -> None:
        """End a server and delete its data for good; it can never start again. Its neighbours do not notice.

        Inside the server's own effects, call `ServerTable.finish` instead. If the disk refuses, the server
        stays down, and each tick tries again.
        """
        name = process.server.id.name
        if self.processes.get(name) is not process:
            return
        process.end(reason)
        self.performer.forget(process)
        self.servers.remove(process)
        self._active.pop(process, None)
        self.supervisor.forget(process.uid)
        self._deleting[name] = Ending(reason, whole_cluster=whole_cluster)
        self._delete_on_disk()
        self._environment.server_deleted(process, whole_cluster=whole_cluster)

    def _delete_on_disk(self) -> None:
        """First the tombstone, then the data: a crash in between is completed at the next start."""
        try:
            for name, ending in list(self._deleting.items()):
                self._bury(name, ending)
                del self._deleting[name]
            for uid in sorted(self.directory.unfinished):
                self.storage.delete(uid)
                self.directory.erase(uid)
        except (OSError, StorageError) as error:
            self._note_failure(f"a deletion cannot be completed, and is tried again: {error}")

    def _bury(self, name: str, ending: "Ending") -> None:
        record = self.directory.get(name)
        now_ms = self._clock.wall_ms()
        self.directory.remove(name, ending.reason, at_ms=now_ms, whole_cluster=ending.whole_cluster)
        what = f"cluster {record.cluster!r}" if ending.whole_cluster else f"this member of {record.cluster!r}"
        logger.warning("%s@%s (%s) is deleted, %s: %s", name, self.node, record.uid, what, ending.reason)

    # --- the turn ----------------------------------------------------------------------

    def sync_meta(self) -> bool:
        """Make terms and votes durable, then release the servers that wait for it; whether any did.

        A failed sync releases nothing; the tick tries again, into a new file.
        """
        if not self.awaiting_sync:
            return False
        try:
            self.storage.sync_meta()
        except StorageError as error:
            self._note_failure(_META_FAILED + str(error))
            return False
        if self.failure is not None and self.failure.startswith(_META_FAILED):
            self.failure = None
            logger.info("the meta store accepts writes again")
        waiting = list(self.awaiting_sync)
        self.awaiting_sync.clear()
        for process in waiting:
            process.release()
        return True

    def tick(self) -> None:
        """Tick the servers that did something since the last tick, and the disk."""
        now_ms, now_s = self._clock.wall_ms(), self._clock.monotonic()
        for process in list(self._active):
            if process.commit_rate is None:
                process.commit_rate = CommitRate(process.server, self._times.tick_ms / 1000, now_s)
            process.commit_rate.note(process.server, now_s)
            applied = persist_last_applied(process.server)
            if applied is not None:
                self.storage.meta.store_last_applied(process.server.cfg.uid, applied)
            if not process.tick(now_ms) and (process.applied_is_remembered or process.failure):
                del self._active[process]
                if process.failure is not None:
                    self._end_readers(process)
                    self._supervise(process, now_s)
        if self._deleting or self.directory.unfinished:
            self._delete_on_disk()
        try:
            self.storage.tick(now_s)
        except StorageError as error:
            self._note_failure(str(error))

    def _supervise(self, process: ServerProcess, now_s: float) -> None:
        """Start a server again whose disk has failed, unless an operator has stopped it meanwhile."""
        name = process.server.id.name
        if self.processes.get(name) is not process or process.ended or self.directory.get(name).stopped:
            return
        if self.supervisor.failed(process, now_s) and self.processes.get(name) is process:
            self._active[process] = None  # the next tick tries again

    def _end_readers(self, process: ServerProcess) -> None:
        """Nothing is added to this log any more: its readers must hear why."""
        holds = self.storage.log(process.uid).segments.holds
        holds.end_all(f"server {process.server.id} has stopped: {process.failure}")

    def _note_failure(self, text: str) -> None:
        if text != self.failure:
            logger.error("%s", text)
        self.failure = text

    def _on_log_event(self, event: LogEvent) -> None:
        if type(event) is Written:  # nearly always
            process = self.servers.by_uid.get(event.uid)
            if process is not None and process.failure is None:
                process.handle(event)
                self._changed()
                return
        match event:
            case (
                Written()
                | ResendWrite()
                | SnapshotWritten()
                | SnapshotFailed()
                | SnapshotAccepted()
                | AcceptFailed()
            ):
                process = self.servers.by_uid.get(event.uid)
                if process is not None and process.failure is None:
                    process.handle(event)
                    if isinstance(event, SnapshotWritten):
                        self.snapshot_made(process, event)
                elif process is not None and process.failure_type not in _BUGS:
                    _tell_log(process, event)
            case WalFailed():
                self._note_failure(f"the write-ahead log cannot be written: {event.reason}")
                for process in list(self.processes.values()):
                    process.handle(event)
            case WalUp():
                self.failure = None
                logger.info("the write-ahead log accepts writes again")
                for process in list(self.processes.values()):
                    process.handle(event)
        self._changed()

    def close(self) -> None:
        """Keep the machines' states for the next start, store how far each is, and close the files."""
        for process in self.processes.values():
            self._keep(process)
            process.end("the node stops")  # what comes now finds closed files
        self.storage.close()

    def _keep(self, process: ServerProcess) -> None:
        """Keep what saves the next start some replaying."""
        if process.failure is None:
            _keep_state(process.server)
        applied = persist_last_applied(process.server)
        if applied is not None:
            self.storage.meta.store_last_applied(process.server.cfg.uid, applied)


def _tell_log(process: ServerProcess, event: LogEvent) -> None:
    """Tell the log of a stopped server what its disk says: what it has appended still gets there."""
    try:
        process.server.log.handle_event(event)
    except InvariantViolation as error:
        process.fail(error)


def _keep_state(server: Server) -> None:
    """Keep a machine's state for the next start. A state that cannot be kept costs only the replay."""
    try:
        make_recovery_checkpoint(server)
    except (MachineFault, StorageError) as error:
        logger.warning("%s: the next start replays the log: %s", server.id, error)


def _try_machine(machine: Machine[Any], name: str, arguments: dict[str, Any]) -> None:
    """Refuse a machine that cannot begin, before anything is written for servers that could never start."""
    try:
        machine.which_module(0).init(canonical_arguments(arguments))  # a copy: it may change what it gets
    except Exception as error:
        raise ConfigurationError(
            f"machine {name!r} cannot start with arguments {arguments!r}: {error!r}"
        ) from error
