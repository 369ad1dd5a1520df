"""Bugs on purpose: each is one that some Raft has had, planted for as long as a `with` lasts.

A test shows which of them the simulator finds, and after how much work: that is what its clean
runs are worth. Rows are those of the list of historical bugs in the reliability notes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import msgspec

from barque.core import commitment, elections, queries, replication
from barque.core.effects import Cast
from barque.core.entries import EntryBatch
from barque.core.messages import AppendEntriesReply, HeartbeatReply, Written
from barque.core.quorum import agreed
from barque.core.server import CandidateRole, LeaderRole, Server, Transition
from barque.log import meta_format, wal_recovery
from barque.log.log import WalLog
from barque.log.meta import MetaStore
from barque.log.wal import Wal
from barque.log.wal_files import OpenFile
from barque.log.wal_format import Record
from barque.runtime.front import Front
from barque.runtime.ranges import Range
from barque.runtime.server_process import ServerProcess
from barque.types import Index, IndexTerm, Term

Plant = Callable[[], Any]
MUTANTS: dict[str, tuple[str, Plant]] = {}
"""Name → what is wrong, and what plants it: a function that returns a context manager."""


def _mutant(text: str) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = (text, plant)
        return plant

    return add


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Let the code have this bug while the block runs."""
    with MUTANTS[name][1]():
        yield


class _Votes(list[Any]):
    """Votes that are counted, not voters."""

    add = list.append


# --- elections -----------------------------------------------------------------------------


@_mutant("the vote is not written to the disk (rows 1, 3)")
def vote_not_persisted() -> Any:
    """See `MUTANTS`."""
    store = MetaStore.store
    return patch.object(MetaStore, "store", lambda self, uid, term, _vote: store(self, uid, term, None))


@_mutant("neither term nor vote is written to the disk (row 1)")
def term_not_persisted() -> Any:
    """See `MUTANTS`."""
    return patch.object(MetaStore, "store", lambda *_: None)


@_mutant("votes leave before they are synced (row 3)")
def vote_reply_before_sync() -> Any:
    """See `MUTANTS`."""
    return patch.object(ServerProcess, "hold", lambda _self: None)


@_mutant("a restart forgets for whom it voted (row 1)")
def vote_forgotten_at_restart() -> Any:
    """See `MUTANTS`."""
    init = Server.__init__

    def forget(self: Server, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "voted_for": None})

    return patch.object(Server, "__init__", forget)


@_mutant("a second candidate gets the same vote (I2)")
def votes_twice_a_term() -> Any:
    """See `MUTANTS`."""
    real = elections.on_request_vote

    def twice(server: Server, rpc: Any) -> Transition:
        if rpc.term == server.current_term:
            server.voted_for = None
        return real(server, rpc)

    return patch("barque.core.follower.on_request_vote", twice)


@_mutant("a copy of a vote is counted as another vote")
def duplicate_vote_counts() -> Any:
    """See `MUTANTS`."""

    def init(self: CandidateRole) -> None:
        self.votes = _Votes()  # type: ignore[assignment]

    return patch.object(CandidateRole, "__init__", init)


@_mutant("votes are given to candidates with shorter logs (§3.6.1)")
def log_not_compared() -> Any:
    """See `MUTANTS`."""
    return patch.object(Server, "is_up_to_date", lambda *_: True)


@_mutant("a new term keeps the old vote (row 4)")
def new_term_keeps_vote() -> Any:
    """See `MUTANTS`."""

    def adopt(self: Server, term: Term) -> Any:
        return self.adopt_term_and_vote(term, self.voted_for) if term > self.current_term else []

    return patch.object(Server, "adopt_term", adopt)


@_mutant("answers to an earlier round of pre-votes count (row 5)")
def pre_vote_token_unchecked() -> Any:
    """See `MUTANTS`."""
    real = elections.on_pre_vote_result

    def accept(server: Server, result: Any) -> Transition:
        role: Any = server.role
        return real(server, msgspec.structs.replace(result, token=role.token))

    return patch("barque.core.pre_vote.on_pre_vote_result", accept)


# --- replication ---------------------------------------------------------------------------


@_mutant("entries of earlier terms are committed by counting (row 19)")
def commits_earlier_terms() -> Any:
    """See `MUTANTS`."""

    def advance(server: Server) -> bool:
        candidate = agreed(commitment.match_indexes(server))
        moved = candidate > server.commit_index
        server.commit_index = max(server.commit_index, Index(candidate))
        return moved

    return patch.object(commitment, "advance_commit_index", advance)


@_mutant("a leader counts itself before its own sync (row 43)")
def leader_counts_unwritten() -> Any:
    """See `MUTANTS`."""

    def match(server: Server) -> list[Index]:
        own = server.log.last_index_term().index
        return [own] + [peer.match_index for _, peer in server.peers() if peer.voter]

    return patch.object(commitment, "match_indexes", match)


@_mutant("a follower acknowledges before its sync (rows 23, 87)")
def follower_acks_before_sync() -> Any:
    """See `MUTANTS`."""
    real = replication._write_new

    def write(server: Server, rpc: Any, new: Any, effects: Any) -> Transition:
        done = real(server, rpc, new, effects)
        last = server.log.last_index_term()
        reply = AppendEntriesReply(
            server.id, server.current_term, True, server.log.next_index(), last.index, last.term
        )
        return Transition(done.state, [*done.effects, Cast(rpc.leader_id, reply)])

    return patch.object(replication, "_write_new", write)


@_mutant("what lies behind an RPC is always cut off (row 26)")
def truncates_always() -> Any:
    """See `MUTANTS`."""
    real = replication._nothing_new

    def cut(server: Server, rpc: Any, matched: Index, effects: Any) -> Transition:
        if server.last_applied <= matched < server.log.last_index_term().index:
            server.log.set_last_index(matched)
        return real(server, rpc, matched, effects)

    return patch.object(replication, "_nothing_new", cut)


@_mutant("replies of earlier terms are accepted (row 16)")
def old_reply_accepted() -> Any:
    """See `MUTANTS`."""
    real = replication.on_append_entries_reply

    def accept(server: Server, reply: AppendEntriesReply) -> Transition:
        term = max(reply.term, server.current_term)
        return real(server, msgspec.structs.replace(reply, term=term))

    return patch("barque.core.leader.on_append_entries_reply", accept)


@_mutant("a follower commits what its leader has, validated or not (row 20)")
def commits_unvalidated() -> Any:
    """See `MUTANTS`."""
    real = replication._nothing_new

    def commit(server: Server, rpc: Any, matched: Index, effects: Any) -> Transition:
        done = real(server, rpc, matched, effects)
        last = server.log.last_index_term().index
        return Transition(done.state, [*done.effects, *replication._advance(server, rpc.leader_commit, last)])

    return patch.object(replication, "_nothing_new", commit)


@_mutant("a reply's next index is taken for what is durable (row 24)")
def match_from_next_index() -> Any:
    """See `MUTANTS`."""
    real = replication._on_success

    def count(server: Server, peer: Any, reply: AppendEntriesReply) -> Transition:
        last = Index(min(reply.next_index, server.log.next_index()) - 1)
        term = server.log.fetch_term(last) or Term(0)
        return real(server, peer, msgspec.structs.replace(reply, last_index=last, last_term=term))

    return patch.object(replication, "_on_success", count)


# --- reads and clients ---------------------------------------------------------------------


@_mutant("consistent reads are answered without asking anybody (row 33)")
def read_without_round() -> Any:
    """See `MUTANTS`."""

    def answer(server: Server, pending: Any) -> Any:
        return [queries._answer(server, w.origin, w.first_correlation, w.payloads) for w in pending]

    return patch.object(queries, "_start_round", answer)


@_mutant("a new leader reads before its noop is committed (row 34)")
def read_before_noop() -> Any:
    """See `MUTANTS`."""
    real = queries.on_queries

    def read(server: Server, message: Any) -> Transition:
        permitted, server.cluster_change_permitted = server.cluster_change_permitted, True
        try:
            return real(server, message)
        finally:
            server.cluster_change_permitted = permitted

    return patch("barque.core.leader.on_queries", read)


@_mutant("any heartbeat reply confirms the newest round (row 35)")
def old_round_confirms() -> Any:
    """See `MUTANTS`."""
    real = queries.on_heartbeat_reply

    def confirm(server: Server, reply: HeartbeatReply) -> Transition:
        return real(server, msgspec.structs.replace(reply, query_index=server.query_index))

    return patch("barque.core.leader.on_heartbeat_reply", confirm)


@_mutant("answers to heartbeats of another term count (row 36)")
def query_index_not_reset() -> Any:
    """See `MUTANTS`."""
    real = queries.on_heartbeat_reply
    become = elections.become_leader

    def confirm(server: Server, reply: HeartbeatReply) -> Transition:
        term = max(reply.term, server.current_term)
        return real(server, msgspec.structs.replace(reply, term=term))

    def keep(server: Server) -> Transition:
        known = {member: peer.query_index for member, peer in server.peers()}
        done = become(server)
        for member, peer in server.peers():
            peer.query_index = known[member]
        return done

    stack = contextlib.ExitStack()
    stack.enter_context(patch("barque.core.leader.on_heartbeat_reply", confirm))
    stack.enter_context(patch.object(elections, "become_leader", keep))
    return stack


@_mutant("a command whose answer is missing is sent once more (row 41)")
def front_resends_unknown() -> Any:
    """See `MUTANTS`."""

    def again(self: Front, entry: Range, text: str) -> None:
        if text.startswith("leadership passed"):
            self._withdraw(entry)
        else:
            self._fail(entry, "OutcomeUnknown", text)

    return patch.object(Front, "_give_up", again)


@_mutant("a command whose answer is missing is called refused (I15)")
def unknown_called_refused() -> Any:
    """See `MUTANTS`."""
    return patch.object(Front, "_give_up", lambda self, entry, text: self._fail(entry, "NoLeader", text))


@_mutant("a leader that steps down does not tell those who wait to read")
def waiting_reads_dropped() -> Any:
    """See `MUTANTS`."""

    def forget(leader: LeaderRole, now: Any) -> list[Any]:
        return []

    return patch("barque.core.server._refuse_what_waits", forget)


# --- disk ----------------------------------------------------------------------------------


@_mutant("the log is written but not synced (row 87)")
def wal_not_synced() -> Any:
    """See `MUTANTS`."""

    def write(self: OpenFile, buffers: list[bytes], end: int) -> None:
        self.file.pwritev([*buffers, bytes(8)], self.end, sync=False)
        self.end = end

    return patch.object(OpenFile, "write", write)


@_mutant("a failed sync is tried again, and believed (fsyncgate)")
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

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(Wal, "_on_done", believe))
    stack.enter_context(patch.object(OpenFile, "write", write))
    return stack


@_mutant("a completion is matched by index, not by term (row 22)")
def written_event_by_index() -> Any:
    """See `MUTANTS`."""

    def confirm(self: WalLog, event: Written) -> None:
        last = min(event.last, self._memtable.next_index() - 1)
        if last > self._last_written.index:
            self._last_written = self._position(last)

    return patch.object(WalLog, "_on_written", confirm)


@_mutant("what is known to be written stays high after a truncation (row 21)")
def written_not_lowered() -> Any:
    """See `MUTANTS`."""

    def truncate(self: WalLog, last: int) -> None:
        self._memtable.truncate(last)

    def written(self: WalLog) -> IndexTerm:
        last = self._memtable.last()
        return min(self._last_written, last, key=lambda position: position.index)

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(WalLog, "_truncate", truncate))
    stack.enter_context(patch.object(WalLog, "last_written", written))
    return stack


@_mutant("recovery takes the last record for a torn tail (row 70, the other way)")
def last_record_dropped() -> Any:
    """See `MUTANTS`."""
    real = wal_recovery.WalReader.records

    def drop(self: Any, end: int | None = None) -> Iterator[Any]:
        kept: Sequence[Any] = list(real(self, end))
        full = [found for found in kept if isinstance(found, Record) and found.batches]
        return iter([found for found in kept if not full or found is not full[-1]])

    return patch.object(wal_recovery.WalReader, "records", drop)


@_mutant("recovery keeps what was overwritten (row 29)")
def overwrites_forgotten() -> Any:
    """See `MUTANTS`."""
    real = WalLog._truncate

    def truncate(self: WalLog, last: int) -> None:
        real(self, last)

    def submit(self: Wal, uid: Any, previous: int, batch: EntryBatch) -> None:
        stream = self._streams.get(uid)
        if stream is None or previous >= stream.last:
            _submit(self, uid, previous, batch)
        else:
            self._report(Written(uid, batch.term, batch.first_index, batch.last_index))

    return patch.object(Wal, "submit", submit)


_submit = Wal.submit


@_mutant("the meta file is replaced before its content is synced (ALICE)")
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
