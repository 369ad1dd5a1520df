"""Planted bugs of disks, recovery, nodes and clients. See `mutants`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch
from zlib import crc32

from barque.core.entries import EntryBatch, EntryKind, encode_head
from barque.core.messages import Commands, NodeStatus, ServerDown, Written
from barque.core.state import Server
from barque.log import meta_format, wal_format, wal_recovery
from barque.log.disk import join
from barque.log.log import WalLog
from barque.log.meta import MetaStore
from barque.log.wal import Wal
from barque.log.wal_files import OpenFile, WalFiles
from barque.log.wal_format import Record
from barque.runtime import identity, reporting, server_process, system
from barque.runtime.client_session import ClientSessions, RemoteSession
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.identity import Verdict
from barque.runtime.liveness import Liveness
from barque.runtime.node import Node
from barque.runtime.pending_requests import PendingRequest, PendingRequests, body_of
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.testing.core.memory_log import MemoryLog
from barque.testing.sim.process_disk import ProcessDisk
from barque.testing.sim.test_machine import NewSimMachine, SimMachine, Swaps
from barque.transport import handshake
from barque.types import Index, IndexTerm, Term
from tests.kit.mutant_registry import mutant, together

# --- terms and votes on the disk ------------------------------------------------------------


@mutant("the vote is not written to the disk (rows 1, 3)", layer="node")
def vote_not_persisted() -> Any:
    """See `MUTANTS`."""
    store = MetaStore.store
    return patch.object(MetaStore, "store", lambda self, uid, term, _vote: store(self, uid, term, None))


@mutant("neither term nor vote is written to the disk (row 1)", layer="node")
def term_not_persisted() -> Any:
    """See `MUTANTS`."""
    return patch.object(MetaStore, "store", lambda *_: None)


@mutant("a vote leaves before it is synced (row 3)", layer="node")
def vote_reply_before_sync() -> Any:
    """See `MUTANTS`."""
    return patch.object(ServerProcess, "defer_until_synced", lambda _self: None)


# --- clients -------------------------------------------------------------------------------


@mutant("a node sends a command without an answer once more (row 41)", layer="node")
def front_resends_unknown() -> Any:
    """See `MUTANTS`."""

    def again(self: RequestRouter, request: PendingRequest, text: str) -> None:
        if text.startswith("leadership passed"):
            self._withdraw(request)
        else:
            self._fail(request, "OutcomeUnknown", text)

    return patch.object(RequestRouter, "_give_up", again)


@mutant("a command without an answer is called refused (I15)", layer="node")
def unknown_called_refused() -> Any:
    """See `MUTANTS`."""
    return patch.object(
        RequestRouter, "_give_up", lambda self, request, text: self._fail(request, "NoLeader", text)
    )


@mutant("a node that stops does not tell the clients in its process (I25, I27)", layer="node")
def in_process_clients_forgotten() -> Any:
    """See `MUTANTS`."""
    return patch.object(ClientSessions, "stop", lambda *_: None)


@mutant(
    "commands under way of clients in the process are called refused when the node stops (I15)", layer="node"
)
def stopped_called_refused() -> Any:
    """See `MUTANTS`."""
    real = RequestRouter.end_session

    def end(self: RequestRouter, session: Any, reason: str) -> None:
        for route in self._routes.values():
            for request in [r for r in route.unanswered.values() if r.session is session]:
                self._fail(request, "Stopped", reason)
        real(self, session, reason)

    return patch.object(RequestRouter, "end_session", end)


@mutant("a node keeps a client's connection that has ended (I27)", layer="node")
def ended_clients_kept() -> Any:
    """See `MUTANTS`."""
    return patch.object(RemoteSession, "on_closed", lambda _self: None)


@mutant("a machine's message reaches one of a node's clients only (I21)", layer="node")
def one_listener_hears() -> Any:
    """See `MUTANTS`."""

    def notify(self: ClientSessions, cluster: str, message: Any) -> None:
        for session in list(self._listeners)[:1]:
            session.notify(cluster, message)

    return patch.object(ClientSessions, "notify", notify)


# --- disk ----------------------------------------------------------------------------------


@mutant("the log is written but not synced (row 87)", layer="node")
def wal_not_synced() -> Any:
    """See `MUTANTS`."""

    def write(self: OpenFile, buffers: list[bytes], end: int) -> None:
        self.file.pwritev([*buffers, bytes(8)], self.end, sync=False)
        self.end = end

    return patch.object(OpenFile, "write", write)


@mutant("a node retries a failed sync, and believes it (fsyncgate)", layer="node")
def failed_sync_believed() -> Any:
    """See `MUTANTS`."""
    real = Wal._on_done

    def believe(self: Wal, items: Any, error: Exception | None) -> None:
        real(self, items, None)

    def write(self: OpenFile, buffers: list[bytes], end: int) -> None:
        try:
            self.file.pwritev([*buffers, bytes(8)], self.end, sync=True)
        except OSError:
            self.file.datasync()
        self.end = end

    return together(patch.object(Wal, "_on_done", believe), patch.object(OpenFile, "write", write))


@mutant("a completion is matched by index, not by term (row 22)", layer="core")
def written_event_by_index() -> Any:
    """See `MUTANTS`."""

    def confirm(self: WalLog, event: Written) -> None:
        last = min(event.last, self._memtable.next_index() - 1)
        if last > self._last_written.index:
            self._last_written = self._position(Index(last))

    def confirm_in_memory(self: MemoryLog, event: Written) -> None:
        last = Index(min(event.last, self.last_index_term().index))
        if event.first <= self._written.index + 1 and last > self._written.index:
            self._written = IndexTerm(last, self.fetch_term(last) or event.term)

    return together(
        patch.object(WalLog, "_on_written", confirm),
        patch.object(MemoryLog, "_on_written", confirm_in_memory),
    )


@mutant("the written index stays high after a truncation (row 21)", layer="core")
def written_not_lowered() -> Any:
    """See `MUTANTS`."""

    def truncate(self: WalLog, last: int) -> None:
        self._memtable.truncate(last)

    def written(self: WalLog) -> IndexTerm:
        last = self._memtable.last()
        return min(self._last_written, last, key=lambda position: position.index)

    def truncate_in_memory(self: MemoryLog, index: Index) -> None:
        self.truncate(index)

    def written_in_memory(self: MemoryLog) -> IndexTerm:
        index = min(self._written.index, self.last_index_term().index)
        return IndexTerm(index, self.fetch_term(index) or Term(0))

    return together(
        patch.object(WalLog, "_truncate", truncate),
        patch.object(WalLog, "last_written", written),
        patch.object(MemoryLog, "set_last_index", truncate_in_memory),
        patch.object(MemoryLog, "last_written", written_in_memory),
    )


@mutant("recovery takes the last record for a torn tail (row 70, the other way)", layer="node")
def last_record_dropped() -> Any:
    """See `MUTANTS`."""
    real = wal_recovery.WalReader.records

    def drop(self: Any, end: int | None = None) -> Iterator[Any]:
        kept: Sequence[Any] = list(real(self, end))
        full = [found for found in kept if isinstance(found, Record) and found.batches]
        return iter([found for found in kept if not full or found is not full[-1]])

    return patch.object(wal_recovery.WalReader, "records", drop)


@mutant("recovery keeps overwritten entries (row 29)", layer="node")
def overwrites_forgotten() -> Any:
    """See `MUTANTS`."""

    def submit(self: Wal, uid: Any, previous: IndexTerm, batch: EntryBatch) -> None:
        stream = self._streams.get(uid)
        if stream is None or previous.index >= stream.last:
            _submit(self, uid, previous, batch)
        else:
            self._report(Written(uid, batch.term, batch.first_index, batch.last_index))

    return patch.object(Wal, "submit", submit)


_submit = Wal.submit


@mutant("the meta file is replaced before its content is synced (ALICE)", layer="node")
def meta_not_synced() -> Any:
    """See `MUTANTS`."""

    def append(self: MetaStore) -> None:
        real_pwritev = self._file
        assert real_pwritev is not None
        lines = []
        offset = self._end
        for uid in {**self._urgent, **self._lazy}:
            line = meta_format.encode_line(self._salt, offset, self._end, uid, self._records.get(uid))
            offset += len(line)
            lines.append(line)
        real_pwritev.pwritev(lines, self._end, sync=False)
        self._end = offset
        self._clean()

    return patch.object(MetaStore, "_append", append)


@mutant("a directory is not synced after a rename (row 68)", layer="node")
def directory_not_synced() -> Any:
    """See `MUTANTS`."""
    return patch.object(ProcessDisk, "fsync_dir", lambda *_: None)


@mutant("a file is renamed before its content is synced (ALICE; rows 68, 86)", layer="node")
def content_not_synced_before_rename() -> Any:
    """See `MUTANTS`."""

    def replace(disk: Any, directory: str, name: str, data: bytes) -> None:
        file = disk.create(join(directory, name + ".tmp"))
        file.pwritev([data], 0, sync=False)
        file.close()
        disk.rename(join(directory, name + ".tmp"), join(directory, name))
        disk.fsync_dir(directory)

    return together(
        patch("barque.log.meta.replace_file", replace), patch("barque.log.wal_files.replace_file", replace)
    )


@mutant("a torn tail keeps the node from starting (row 70)", layer="node")
def torn_tail_refused() -> Any:
    """See `MUTANTS`."""
    decision = (wal_recovery.Finding.BROKEN, wal_recovery.Place.NEWEST)
    return patch.dict(wal_recovery.DECISIONS, {decision: wal_recovery.Action.REFUSE})


@mutant("damage is taken for a torn tail (rows 73, 85)", layer="node")
def damage_is_cut_off() -> Any:
    """See `MUTANTS`."""
    damaged = {
        (finding, place): wal_recovery.Action.END
        for finding in (wal_recovery.Finding.CLAIMED, wal_recovery.Finding.GAP, wal_recovery.Finding.CLEAN)
        for place in (wal_recovery.Place.CLOSED, wal_recovery.Place.NEWEST)
    }
    return patch.dict(wal_recovery.DECISIONS, damaged)


@mutant("checksums of records are not compared (rows 70, 85)", layer="node")
def checksum_ignored() -> Any:
    """See `MUTANTS`."""
    real = wal_format.decode_record

    def decode(data: bytes, head: Any, offset: int) -> Any:
        crc = crc32(memoryview(data)[8:], head.salt)
        return real(data[:4] + crc.to_bytes(4, "little") + data[8:], head, offset)

    return patch.object(wal_format, "decode_record", decode)


@mutant(
    "the stored last_applied may be ahead of the disk (row 45)",
    layer="node",
    equivalent="a restart takes the smaller of it and the end of the log, so the crash of row 45 cannot "
    "happen; only conflicting entries beyond it could do harm",
)
def applied_ahead_of_disk() -> Any:
    """See `MUTANTS`."""

    def ahead(server: Server) -> Any:
        applied = server.last_applied
        if applied <= server.persisted_last_applied:
            return None
        server.persisted_last_applied = applied
        return applied

    return patch.object(system, "persist_last_applied", ahead)


@mutant("a node swallows an error of the disk (row 83)", layer="node")
def disk_error_swallowed() -> Any:
    """See `MUTANTS`."""

    def write(self: OpenFile, buffers: list[bytes], end: int) -> None:
        with contextlib.suppress(OSError):
            self.file.pwritev([*buffers, bytes(8)], self.end, sync=True)
        self.end = end

    return patch.object(OpenFile, "write", write)


@mutant(
    "after a failed sync the same file is used again (row 80, the other way)",
    layer="node",
    equivalent="pending entries are written again over the very bytes that failed; a real disk may never "
    "write these, but the simulated disk does",
)
def failed_file_goes_on() -> Any:
    """See `MUTANTS`."""
    real = WalFiles.start_next

    def go_on(self: WalFiles, abandon: bool = False) -> None:
        if not abandon:
            real(self)

    return patch.object(WalFiles, "start_next", go_on)


@mutant("each batch of commands is sent twice (row 41)", layer="node")
def commands_sent_twice() -> Any:
    """See `MUTANTS`."""
    real = RequestRouter._send

    def twice(self: RequestRouter, route: Any, leader: Any, batch: Any) -> None:
        real(self, route, leader, batch)
        if not batch[0].is_read and route.unanswered:
            head = encode_head(EntryKind.USER, batch[0].mode, self.me, next(reversed(route.unanswered)))
            count = sum(request.count for request in batch)
            again = Commands(count, body_of(head, batch), batch[0].kind[2])
            self._transport.send_to_server(leader, again)

    return patch.object(RequestRouter, "_send", twice)


@mutant("a term and its vote are two records (row 2)", layer="node")
def term_and_vote_apart() -> Any:
    """See `MUTANTS`."""
    store = MetaStore.store

    def apart(self: MetaStore, uid: Any, term: Term, vote: Any) -> None:
        store(self, uid, term, None)
        self.sync()
        store(self, uid, term, vote)
        self._urgent.clear()  # the vote goes with whatever is synced next

    return patch.object(MetaStore, "store", apart)


@mutant("a machine does not do the same on all members (I18)", layer="node")
def machine_is_not_deterministic() -> Any:
    """See `MUTANTS`."""
    real = SimMachine.apply

    def apply(self: SimMachine, meta: Any, command: Any, state: dict[str, list[str]]) -> Any:
        done = real(self, meta, command, state)
        if meta.index % 7 == 0:
            state[f"k{id(self) % 5}x"] = [str(id(self))]
        return done

    return patch.object(SimMachine, "apply", apply)


@mutant("an exception in a node's timer reaches the loop (I28)", layer="node")
def timer_raises() -> Any:
    """See `MUTANTS`."""
    real = Liveness._tell_all

    def tell(self: Liveness, message: Any) -> None:
        real(self, message)
        if not message.up:
            raise KeyError(message.node)

    return patch.object(Liveness, "_tell_all", tell)


@mutant("a node does not tell a follower that its leader's node is down (I25)", layer="node")
def suspicion_lost() -> Any:
    """See `MUTANTS`."""
    real = ServerProcess.handle

    def handle(self: ServerProcess, message: Any) -> None:
        down = isinstance(message, NodeStatus) and not message.up
        if not (down or isinstance(message, ServerDown)):
            real(self, message)

    return patch.object(ServerProcess, "handle", handle)


@mutant("entries count as written as soon as the log's thread has them (rows 23, 87)", layer="node")
def written_when_handed_over() -> Any:
    """See `MUTANTS`."""

    def launch(self: Wal, items: list[Any]) -> None:
        def done(error: Exception | None) -> None:
            if error is not None:
                self._fail(error)

        self.writer.run(lambda: self._perform(items), done)
        self._on_done(items, None)

    return patch.object(Wal, "_launch", launch)


@mutant("a node hears messages of any cluster and any incarnation", layer="node")
def strangers_are_heard() -> Any:
    """See `MUTANTS`."""
    return patch.object(
        identity, "judge", lambda process, *_: Verdict.ADMIT if process is not None else Verdict.ABSENT
    )


@mutant("a node does not compare a peer's secret", layer="node")
def any_secret_will_do() -> Any:
    """See `MUTANTS`."""
    real = handshake._mac
    return patch.object(handshake, "_mac", lambda _secret, *said: real(b"", *said))


@mutant("a failing server stops the other servers of its node (I31)", layer="node")
def failure_spreads() -> Any:
    """See `MUTANTS`."""
    real = ServerProcess.fail

    def fail(self: ServerProcess, error: Exception) -> None:
        real(self, error)
        for neighbour in list(self._active):
            if neighbour.failure is None:
                real(neighbour, error)

    return patch.object(ServerProcess, "fail", fail)


@mutant("a node with a failed server drops the messages of the other servers' leaders (I31)", layer="node")
def failed_server_deafens() -> Any:
    """See `MUTANTS`."""
    real = Dispatcher._deliver

    def deliver(self: Dispatcher, *message: Any) -> None:
        if all(process.failure is None for process in self._servers.all()):
            real(self, *message)

    return patch.object(Dispatcher, "_deliver", deliver)


@mutant("a node that stops leaves its meta file open (I27)", layer="node")
def meta_left_open() -> Any:
    """See `MUTANTS`."""
    return patch.object(MetaStore, "close", lambda _self: None)


@mutant("a member applies commands with the newest code that it has (I18)", layer="node")
def newest_code_applies() -> Any:
    """See `MUTANTS`."""
    return patch.object(NewSimMachine, "which_module", lambda self, _version: self)


@mutant("a compare-and-set compares nothing (I14)", layer="node")
def swaps_compare_nothing() -> Any:
    """See `MUTANTS`."""
    return patch.object(Swaps, "matches", lambda _self, _old, _expected: True)


@mutant("a status calls all entries in memory written (I32)", layer="node")
def unwritten_reported_written() -> Any:
    """See `MUTANTS`."""
    real, real_counts = reporting.member_status, ServerProcess.count_overview

    def status(process: ServerProcess) -> dict[str, Any]:
        last = process.server.log.last_index_term()
        return {**real(process), "last_written_index": last.index, "last_written_term": last.term}

    def counts(self: ServerProcess) -> dict[str, int]:
        found = real_counts(self)
        return {**found, "last_written_index": found["last_index"]}

    counting = patch.object(ServerProcess, "count_overview", counts)
    return together(patch.object(reporting, "member_status", status), counting)


@mutant("a status names the candidate that got the vote as the leader (I32)", layer="node")
def candidate_named() -> Any:
    """See `MUTANTS`."""
    real = reporting.member_status

    def status(process: ServerProcess) -> dict[str, Any]:
        voted_for = process.server.voted_for
        return {**real(process), "leader": str(voted_for)} if voted_for else real(process)

    return patch.object(reporting, "member_status", status)


@mutant("a batch of commands is counted as one (I32)", layer="node")
def batches_counted_once() -> Any:
    """See `MUTANTS`."""

    def count(counters: Any, _message: Commands) -> None:
        counters.commands += 1

    return patch.dict(server_process.COUNT, {Commands: count})


@mutant("answered commands still count as waiting bytes (I27)", layer="node")
def answered_bytes_wait() -> Any:
    """See `MUTANTS`."""
    real = PendingRequests.done

    def done(self: PendingRequests, request: PendingRequest) -> None:
        real(self, request)
        self.bytes += request.size

    return patch.object(PendingRequests, "done", done)


@mutant("commands wait on a node without bound (I27)", layer="node")
def waits_without_bound() -> Any:
    """See `MUTANTS`."""
    real = RequestRouter.take

    def take(self: RequestRouter, *arguments: Any) -> bool:
        self._pending.commands_max = self._pending.bytes_max = 1 << 62
        return real(self, *arguments)

    return patch.object(RequestRouter, "take", take)


@mutant("a full file of the log stays open (I27)", layer="node")
def full_file_stays_open() -> Any:
    """See `MUTANTS`."""
    return patch.object(WalFiles, "_leave", lambda *_: None)


@mutant("the answer to an expired call waits for the answer to an earlier call (I25)", layer="node")
def shorter_times_wait() -> Any:
    """See `MUTANTS`."""
    await_deadline = Node._await_deadline

    def waits_on(self: Node) -> None:
        if "request deadline" not in self.timers:
            self._armed_deadline = float("inf")
            await_deadline(self)

    return patch.object(Node, "_await_deadline", waits_on)
