"""Show a write-ahead log file to an operator: record by record, and how it ends."""

from collections.abc import Iterator
from itertools import groupby
from typing import TypeAlias

import msgspec

from barque.errors import Damaged
from barque.log.disk import Disk
from barque.log.wal_format import CleanEnd, Damage, MalformedHead, Record, TornTail
from barque.log.wal_recovery import WalReader


class DumpedHead(msgspec.Struct, frozen=True):
    """The head of the file."""

    number: int
    salt: int
    file_size: int


class DumpedRecord(msgspec.Struct, frozen=True):
    """One record; `terms` are those of its entries, in order. A base has no entries, a mark no uid either.

    A file of version 1 does not tell the previous entry's term (None).
    """

    offset: int
    size: int
    synced_to: int
    uid: str
    previous_index: int
    previous_term: int | None
    first_index: int
    last_index: int
    terms: tuple[int, ...]
    batches: int
    entries: int


class DumpedEnd(msgspec.Struct, frozen=True):
    """How the file ends: `clean`, `stale` (an older record follows), `torn` or `damaged`."""

    offset: int
    how: str
    reason: str


Dumped: TypeAlias = DumpedHead | DumpedRecord | DumpedEnd


def dump_wal(disk: Disk, path: str) -> Iterator[Dumped]:
    """The head, each record and the end of one file. Reads only; raises `Damaged` for a bad head.

    The manifest is not looked at: of a file that was closed early, more than counts is shown.
    """
    file = disk.open(path)
    try:
        try:
            reader = WalReader(file)
        except MalformedHead as error:
            raise Damaged(f"{path}: damaged at offset 0: {error}") from error
        yield DumpedHead(reader.head.epoch, reader.head.salt, reader.size)
        for found in reader.records():
            yield _dumped(found)
    finally:
        file.close()


def _dumped(found: Record | CleanEnd | TornTail | Damage) -> Dumped:
    match found:
        case Record():
            batches = found.batches
            return DumpedRecord(
                offset=found.offset,
                size=found.end - found.offset,
                synced_to=found.synced_to,
                uid=found.uid,
                previous_index=found.previous_index,
                previous_term=found.previous_term,
                first_index=batches[0].first_index if batches else 0,
                last_index=batches[-1].last_index if batches else 0,
                terms=tuple(term for term, _ in groupby(batch.term for batch in batches)),
                batches=len(batches),
                entries=sum(batch.count for batch in batches),
            )
        case CleanEnd():
            return DumpedEnd(found.offset, "stale" if found.stale else "clean", "")
        case TornTail():
            return DumpedEnd(found.offset, "torn", found.reason)
        case Damage():
            return DumpedEnd(found.offset, "damaged", found.reason)
