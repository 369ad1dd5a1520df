"""One data directory: its shared log, its meta store, and the servers that live in it."""

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from barque.config import LogConfig, TimeConfig
from barque.core.messages import LogEvent, ResendWrite, WalFailed, WalUp, Written
from barque.core.server import Server, ServerConfig
from barque.errors import ConfigurationError, Damaged, StorageError
from barque.log.disk import Disk
from barque.log.storage import Storage, StorageConfig
from barque.machine.machine import Machine
from barque.runtime.clock import Clock
from barque.runtime.directory import Directory, ServerRecord, new_uid
from barque.runtime.executor import Executor, Outlets
from barque.runtime.server_process import ServerProcess
from barque.runtime.timers import Timers
from barque.types import ServerId, Uid

logger = logging.getLogger("barque.system")


class Surroundings:
    """What the core may ask of the world: the time for its timestamps, and numbers (`Environment`)."""

    __slots__ = ("_clock", "_rng")

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._clock.wall_ms()

    def token(self) -> int:
        """64 random bits."""
        return self._rng.getrandbits(63)


class System:
    """The servers of one node that share a write-ahead log."""

    def __init__(
        self,
        *,
        node: str,
        data_dir: str,
        disk: Disk,
        log: LogConfig,
        times: TimeConfig,
        machines: Mapping[str, Machine[Any]],
        outlets: Outlets,
        timers: Timers,
        clock: Clock,
        rng: random.Random,
        wake: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
        checked: bool = False,
    ) -> None:
        self.node = node
        self.processes: dict[str, ServerProcess] = {}
        self.failure: str | None = None
        self._by_uid: dict[Uid, ServerProcess] = {}
        self._awaiting_sync: dict[ServerProcess, None] = {}
        self._active: dict[ServerProcess, None] = {}
        self._machines = machines
        self._times = times
        self._clock = clock
        self._checked = checked
        self._rng = rng
        self._surroundings = Surroundings(clock, rng)
        self.storage = Storage.open(
            disk,
            data_dir,
            StorageConfig(
                wal_max_size_bytes=log.wal_max_size_bytes, wal_writer=log.writer, wal_prefill=log.prefill
            ),
            self._on_log_event,
            wake,
        )
        self._changed = changed
        self._executor = Executor(outlets, self.storage.meta, timers, clock, rng, times)
        self.directory = Directory(disk, data_dir)

    def recover(self) -> None:
        """Start every server that this directory knows (LIFE-02, `registered`).

        Raises `Damaged` if the log holds entries of servers that have no record: absence is
        never deletion.
        """
        self.directory.load()
        orphans = self.storage.recovered_uids() - self.directory.uids()
        if orphans:
            raise Damaged(
                f"the write-ahead log holds entries of {', '.join(sorted(orphans))}, but "
                "servers/<uid>/config is missing for them; restore those files"
            )
        for record in list(self.directory.records.values()):
            self._start(record)

    def create(
        self, name: str, cluster: str, machine: str, arguments: dict[str, Any], members: tuple[ServerId, ...]
    ) -> ServerProcess:
        """Make and start a new server. Raises `ConfigurationError` for a taken name or unknown machine."""
        self._machine(machine)
        record = ServerRecord(
            name=name,
            uid=new_uid(name, self._rng),
            cluster=cluster,
            machine=machine,
            arguments=arguments,
            initial_members=members,
        )
        self.directory.add(record)
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
        config = ServerConfig(
            id=ServerId(record.name, self.node),
            uid=record.uid,
            cluster_name=record.cluster,
            initial_members=record.initial_members,
            machine=self._machine(record.machine),
            machine_args=record.arguments,
            await_condition_timeout_ms=self._times.await_condition_timeout_ms,
            catch_up_timeout_ms=self._times.tick_ms,
            wal_down_timeout_ms=self._times.wal_down_timeout_ms,
        )
        meta = self.storage.meta.read(record.uid)
        log = self.storage.log(record.uid)
        if meta is None:
            server = Server(config, log, self._surroundings)
        else:
            server = Server(
                config,
                log,
                self._surroundings,
                current_term=meta.current_term,
                voted_for=meta.voted_for,
                last_applied=meta.last_applied,
            )
        process = ServerProcess(server, self._executor, self._active, checked=self._checked)
        self.processes[record.name] = process
        self._by_uid[record.uid] = process
        process.start()
        return process

    # --- the turn ----------------------------------------------------------------------

    def hold_until_synced(self, process: ServerProcess) -> None:
        """This server's effects wait for the next sync of the meta store."""
        self._awaiting_sync[process] = None

    def sync_meta(self) -> bool:
        """Make terms and votes durable, then let go what waited; whether anything did.

        A failed sync lets nothing go; the tick tries again, into a new file.
        """
        if not self._awaiting_sync:
            return False
        try:
            self.storage.sync_meta()
        except StorageError as error:
            self._note_failure(f"the meta store cannot be written: {error}")
            return False
        waiting, self._awaiting_sync = self._awaiting_sync, {}
        for process in waiting:
            process.release()
        return True

    def flush(self) -> bool:
        """Write and sync what the servers have appended; whether there was anything."""
        if not self.storage.pending:
            return False
        self.storage.flush()
        return True

    def tick(self) -> None:
        """Look after the servers that did something since the last tick, and after the disk."""
        now_ms = self._clock.wall_ms()
        for process in list(self._active):
            applied = process.durable_applied()
            if applied is not None:
                self.storage.meta.store_last_applied(process.server.cfg.uid, applied)
            if not process.tick(now_ms) and (process.applied_is_remembered or process.failure):
                del self._active[process]
        try:
            self.storage.tick(self._clock.monotonic())
        except StorageError as error:
            self._note_failure(str(error))

    def _note_failure(self, text: str) -> None:
        if text != self.failure:
            logger.error("%s", text)
        self.failure = text

    def _on_log_event(self, event: LogEvent) -> None:
        match event:
            case Written() | ResendWrite():
                process = self._by_uid.get(event.uid)
                if process is not None:
                    process.handle(event)
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
        """Remember what was applied, and close the files."""
        for process in self.processes.values():
            applied = process.durable_applied()
            if applied is not None:
                self.storage.meta.store_last_applied(process.server.cfg.uid, applied)
        self.storage.close()
