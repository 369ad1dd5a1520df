"""A storage on a simulated disk that hands its events to its logs, for tests of the log layer."""

import random
from collections.abc import Callable

from barque.core.entries import EntryBatch, decode_head, encode_body, payloads_of
from barque.core.messages import LogEvent, ResendWrite, Written
from barque.log.background import InlineWorker
from barque.log.identity import Owner
from barque.log.storage import Storage, StorageConfig
from barque.testing.sim.disk import SimDisk
from barque.types import Index, Term, Uid

DATA = "/data"
WAL = "/data/wal"
OWNER = Owner("barque", "n1")
UID = Uid("alpha")
OTHER = Uid("beta")
INLINE = StorageConfig(wal_writer="inline", wal_prefill=False)
SMALL = StorageConfig(wal_writer="inline", wal_prefill=False, wal_max_size_bytes=2048)
"""Files that hold only a few records, so that tests roll over often."""


def batch(first: int, term: int = 1, count: int = 1, payload: bytes = b"payload") -> EntryBatch:
    """Entries from index `first` on, whose payloads name their index and term."""
    payloads = [payload + f":{first + i}:{term}".encode() for i in range(count)]
    return EntryBatch(Index(first), Term(term), count, 1_700_000_000_000, encode_body(payloads))


class Node:
    """One process on a disk: a storage, the events that it has reported, and a loop to call back on.

    Its worker runs jobs where they are submitted (`at_once`), or when a test says so.
    """

    def __init__(
        self, disk: SimDisk | None = None, config: StorageConfig = INLINE, *, at_once: bool = True
    ) -> None:
        self.disk = disk or SimDisk(random.Random(1))
        self.config = config
        self.events: list[LogEvent] = []
        self.woken: list[Callable[[], None]] = []
        self.now = 0.0
        self.at_once = at_once
        self.open()

    def open(self) -> Storage:
        """Start, or start again."""
        self.events.clear()
        self.worker = InlineWorker(at_once=self.at_once)
        self.storage = Storage.open(
            self.disk,
            DATA,
            OWNER,
            self.config,
            self.events.append,
            self.woken.append,
            lambda: 0.0,
            make_worker=lambda _wake: self.worker,
        )
        return self.storage

    def deliver(self) -> list[LogEvent]:
        """Hand the reported events to their logs; return them."""
        events, self.events = list(self.events), self.events
        self.events.clear()
        for event in events:
            if isinstance(event, Written | ResendWrite):
                self.storage.log(event.uid).handle_event(event)
        return events

    def sync(self) -> list[LogEvent]:
        """Flush and deliver until nothing is left to do."""
        self.storage.flush()
        events = self.deliver()
        while self.storage.pending:
            self.storage.flush()
            events += self.deliver()
        return events

    def tick(self) -> list[LogEvent]:
        """Let a second pass."""
        self.now += 1
        self.storage.tick(self.now)
        return self.deliver()

    def crash(self) -> Storage:
        """Lose power and start again."""
        self.disk.crash()
        return self.open()

    def kill(self) -> Storage:
        """Die without losing the cache, and start again."""
        self.disk.kill()
        return self.open()


def content(storage: Storage, uid: Uid = UID) -> list[tuple[int, int, bytes]]:
    """Every entry of a log as (index, term, payload)."""
    log = storage.log(uid)
    found: list[tuple[int, int, bytes]] = []
    for part in log.read(Index(1), log.last_index_term().index, 1 << 30, 1 << 40):
        payloads = payloads_of(part.body, part.count, decode_head(part.body))
        found += [(part.first_index + i, part.term, bytes(p)) for i, p in enumerate(payloads)]
    return found
