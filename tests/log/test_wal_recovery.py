"""Recovery: every finding in every place, every torn byte, every flipped byte."""

import random

import pytest
from tests.kit.storage import DATA, OTHER, SMALL, UID, WAL, Node, batch, content

from barque.errors import Damaged
from barque.log import wal_format
from barque.log.dump import DumpedEnd, DumpedHead, DumpedRecord, dump_wal
from barque.log.wal_files import file_name
from barque.log.wal_format import FileEntry, Record
from barque.log.wal_recovery import DECISIONS, Action, Finding, Place, WalReader, recover_wal
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term

FIRST = f"{WAL}/{file_name(1)}"


def written_node(flushes: int = 4) -> Node:
    """A node that flushed entry after entry of two servers and was then killed."""
    node = Node()
    for index in range(1, flushes + 1):
        for uid in (UID, OTHER):
            node.storage.log(uid).append(batch(index))
        node.sync()
    return node


def records_of(node: Node, path: str = FIRST) -> list[Record]:
    """The records in a file."""
    return [found for found in WalReader(node.disk.open(path)).records() if isinstance(found, Record)]


def test_the_table_decides_every_finding_in_every_place() -> None:
    """No combination is left to chance."""
    assert set(DECISIONS) == {(finding, place) for finding in Finding for place in Place}


def image(finding: Finding, place: Place) -> SimDisk:
    """A WAL directory in which `finding` is at `place`."""
    disk = SimDisk(random.Random(3))
    disk.mkdir(WAL)
    number = {Place.CLOSED: 1, Place.NEWEST: 2, Place.RETIRED: 1, Place.UNBORN: 3}[place]
    head = wal_format.FileHead(number, 77, 1 if finding is Finding.OLD_GAP else wal_format.VERSION)
    data = wal_format.encode_file_head(head)

    def record(first: int, synced_to: int) -> bytes:
        buffers: list[bytes] = []
        before = IndexTerm(Index(first - 1), Term(1 if first > 1 else 0))
        wal_format.encode_record(buffers, head, len(data), synced_to, b"alpha", before, [batch(first)])
        return b"".join(buffers)

    start = len(data)
    match finding:
        case Finding.RECORD:
            data += record(1, start)
        case Finding.GAP | Finding.OLD_GAP:
            data += record(5, start)
        case Finding.CLEAN:
            data += bytes(512)
        case Finding.BROKEN:
            data += b"x" * 512
        case Finding.CLAIMED:
            data += b"x" * 64
            data += record(1, start + 64)
        case Finding.BAD_HEAD:
            data = b"y" * 512
    end = len(data)
    other = wal_format.encode_file_head(wal_format.FileHead(2, 1)) + bytes(512)
    if finding is not Finding.MISSING:
        disk.set_content(f"{WAL}/{file_name(number)}", data)
    listed = [FileEntry(2, 0)]
    if place is Place.CLOSED:
        listed.insert(0, FileEntry(1, end))
    if place is not Place.NEWEST:
        disk.set_content(f"{WAL}/{file_name(2)}", other)
    disk.set_content(f"{WAL}/manifest", wal_format.encode_manifest(listed))
    return disk


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("finding", Finding)
def test_recovery_does_what_the_table_says(finding: Finding, place: Place) -> None:
    """Each row and column of the table, built as bytes: kept, ended, dropped or refused."""
    disk = image(finding, place)
    action = DECISIONS[finding, place]
    if action is Action.REFUSE:
        with pytest.raises(Damaged, match=WAL):
            recover_wal(disk, WAL, ())
        return
    recovered = recover_wal(disk, WAL, ())
    if action is Action.KEEP:
        view = recovered.views[UID]
        first = 5 if finding is Finding.GAP else 1
        assert (view.base().index, view.last().index) == (first - 1, first)
    else:
        assert not recovered.views


def test_an_empty_directory_with_a_manifest_is_an_empty_log() -> None:
    """A node that never wrote starts with nothing."""
    node = Node()
    node.crash()
    assert content(node.storage) == []


def test_a_log_cut_at_every_byte_of_its_last_two_records_recovers() -> None:
    """Whatever prefix of an unacknowledged flush reached the disk, what came before it is intact."""
    node = written_node(3)
    whole = node.disk.read_file(FIRST)
    last_two = records_of(node)[-2:]
    for cut in range(last_two[0].offset, len(whole)):
        for rest in (b"", bytes(len(whole) - cut)):  # a growing file, and a zero-filled one
            disk = _copy(node.disk)
            disk.set_content(FIRST, whole[:cut] + rest)
            again = Node(disk)
            kept = [entry[0] for entry in content(again.storage)]
            assert kept in ([1, 2], [1, 2, 3])
            assert (kept == [1, 2, 3]) is (cut >= last_two[0].end or not any(whole[cut : last_two[0].end]))


def _copy(source: SimDisk) -> SimDisk:
    disk = SimDisk(random.Random(5))
    for directory in (DATA, WAL):
        disk.mkdir(directory)
        for path in (f"{directory}/{name}" for name in source.listdir(directory)):
            if path != WAL:
                disk.set_content(path, source.read_file(path))
    return disk


def test_one_flipped_byte_anywhere_is_refused_or_is_in_the_last_flush() -> None:
    """Damage to acknowledged bytes names file, offset, servers and a remedy, and is never cut off."""
    node = written_node(3)
    whole = node.disk.read_file(FIRST)
    records = records_of(node)
    last_flush = records[-1].synced_to
    for offset in range(records[-1].end):
        disk = _copy(node.disk)
        disk.flip(FIRST, offset, 0x10)
        if offset >= last_flush:  # nothing later says that these bytes were synced
            assert [entry[0] for entry in content(Node(disk).storage)][:2] == [1, 2]
            continue
        with pytest.raises(Damaged) as refused:
            Node(disk)
        text = str(refused.value)
        assert FIRST in text
        assert "offset" in text
        assert "What to do" in text
        if offset >= 64:
            assert UID in text
    assert len(whole) >= records[-1].end


def test_after_a_mark_even_the_last_record_cannot_be_damaged_unnoticed() -> None:
    """A tick without traffic writes down how far the file is synced."""
    node = written_node(2)
    node.tick()
    last = [record for record in records_of(node) if record.batches][-1]
    node.disk.flip(FIRST, last.end - 9)
    node.disk.kill()
    with pytest.raises(Damaged, match=f"offset {last.offset}"):
        node.open()


def test_after_a_clean_stop_any_damage_is_refused() -> None:
    """The manifest of a stopped node says where its last file ends."""
    node = written_node(2)
    last = records_of(node)[-1]
    node.storage.close()
    node.disk.flip(FIRST, last.end - 9)
    with pytest.raises(Damaged, match=f"offset {last.offset}.*alpha"):
        node.open()


def test_a_missing_file_is_never_an_empty_one() -> None:
    """A file that the manifest lists, or the manifest itself, must exist."""
    for victim in (FIRST, f"{WAL}/manifest", f"{DATA}/meta", f"{DATA}/identity"):
        node = written_node(2)
        node.disk.kill()
        node.disk.remove(victim)
        with pytest.raises(Damaged, match=victim):
            node.open()


def test_a_renamed_or_copied_file_is_refused() -> None:
    """A file says its own number, so two files cannot trade places."""
    node = written_node(2)
    node.kill()
    second = f"{WAL}/{file_name(2)}"
    node.disk.set_content(second, node.disk.read_file(FIRST))
    node.disk.kill()
    with pytest.raises(Damaged, match="says that it is number 1"):
        node.open()


def test_a_stale_meta_file_that_forgot_a_server_is_refused() -> None:
    """A server with entries had a durable term and vote before its first entry."""
    node = Node()
    empty = node.disk.read_file(f"{DATA}/meta")
    node.storage.log(UID).append(batch(1))
    node.sync()
    node.disk.kill()
    node.disk.set_content(f"{DATA}/meta", empty)
    with pytest.raises(Damaged, match="alpha"):
        node.open()


def test_stale_records_of_a_recycled_file_are_a_clean_end() -> None:
    """A used file is written over from its start; what is left of its former life is not read."""
    node = Node(config=SMALL)
    for index in range(1, 40):
        node.storage.log(UID).append(batch(index))
        node.sync()
    assert not node.storage.wal._files.current.growing, "a file is used again"
    node.storage.delete(UID)
    log = node.storage.log(OTHER)
    for index in range(1, 30):
        log.append(batch(index, term=2))
        node.sync()
    node.crash()
    assert [entry[0] for entry in content(node.storage, OTHER)] == list(range(1, 30))
    assert UID not in node.storage.recovered_uids()


def test_recovered_entries_are_on_disk_even_after_a_failed_sync() -> None:
    """What a killed process left only in a poisoned page cache is written again before it counts."""
    node = written_node(1)
    node.storage.log(UID).append(batch(2))
    node.disk.fault = lambda operation, path: OSError(5, "EIO") if operation == "datasync" else None
    node.sync()
    node.disk.fault = None
    node.kill()
    assert [entry[0] for entry in content(node.storage)] == [1, 2]
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == [1, 2]


def test_a_record_of_version_1_that_leaves_a_gap_is_refused() -> None:
    """When it was written there were no segments: entries cannot follow what their server does not have."""
    disk = image(Finding.OLD_GAP, Place.NEWEST)
    with pytest.raises(Damaged, match="entries 5 and on follow 4"):
        recover_wal(disk, WAL, ())


def test_dump_shows_head_records_marks_and_end() -> None:
    """People can look at a file record by record."""
    node = written_node(2)
    node.tick()
    lines = list(dump_wal(node.disk, FIRST))
    assert isinstance(lines[0], DumpedHead)
    records = [line for line in lines if isinstance(line, DumpedRecord)]
    assert [(line.uid, line.first_index, line.entries) for line in records] == [
        ("alpha", 1, 1),
        ("beta", 1, 1),
        ("alpha", 2, 1),
        ("beta", 2, 1),
        ("", 0, 0),
    ]
    assert lines[-1] == DumpedEnd(records[-1].offset + records[-1].size, "clean", "")
    node.disk.flip(FIRST, records[0].offset + 20)
    assert list(dump_wal(node.disk, FIRST))[-1].how == "damaged"  # type: ignore[union-attr]
