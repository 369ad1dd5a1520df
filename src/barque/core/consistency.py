"""The consistency check of AppendEntries, and what it proves (§3.5)."""

import enum

from barque.core.entries import EntryBatch
from barque.core.messages import AppendEntriesRpc
from barque.core.server import Server
from barque.types import Index, Term


class Found(enum.Enum):
    """What a log holds at a position."""

    OK = "ok"
    MISSING = "missing"
    MISMATCH = "mismatch"


def has_entry(server: Server, index: Index, term: Term) -> Found:
    """§3.5, the consistency check: is this very entry in our log, or our snapshot's last?"""
    ours = server.log.fetch_term(index)
    if ours is None:
        snapshot = server.log.snapshot_index_term()
        if snapshot.index != index:
            return Found.MISSING
        ours = snapshot.term
    return Found.OK if ours == term else Found.MISMATCH


def drop_present(server: Server, rpc: AppendEntriesRpc) -> tuple[list[EntryBatch], Index]:
    """The entries that we lack, and the last position where both logs are known to agree.

    Entries that agree in index and term are the same (Log Matching, §3.5), so a batch whose
    last entry is ours is ours as a whole.
    """
    matched = rpc.prev_log_index
    for position, batch in enumerate(rpc.entries):
        if server.log.fetch_term(batch.last_index) == batch.term:
            matched = batch.last_index
            continue
        first = batch.first_index
        while server.log.fetch_term(first) == batch.term:
            matched, first = first, Index(first + 1)
        return [batch.cut(first, batch.last_index), *rpc.entries[position + 1 :]], matched
    return [], matched
