"""A data directory of the earlier format: one write-ahead log of version 1, and no segments."""

import pytest
from tests.formats.test_wal_format import BATCHES, OLD_HEAD, OLD_RECORD_BYTES
from tests.kit.crashes import FATES, Film, crashed
from tests.kit.storage import OTHER, SMALL, UID, WAL, Node, batch, content

from barque.log import wal_format
from barque.log.wal_files import file_number
from barque.log.wal_format import FILE_HEAD_SIZE, TERMINATOR, FileHead, Record
from barque.log.wal_recovery import WalReader
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term, Uid

Entries = list[tuple[int, int, bytes]]


def old_record(head: FileHead, found: Record) -> bytes:
    """A record as version 1 wrote it: in the place of the previous entry's term, it has that of the first."""
    buffers: list[bytes] = []
    term = found.batches[0].term if found.batches else Term(0)
    wal_format.encode_record(
        *(buffers, head, found.offset, found.synced_to, found.uid.encode()),
        *(IndexTerm(found.previous_index, term), found.batches, found.kind),
    )
    return b"".join(buffers)


def make_old(disk: SimDisk) -> None:
    """Turn the write-ahead log into one of version 1."""
    for name in disk.listdir(WAL):
        if file_number(name) is None:
            continue
        path = f"{WAL}/{name}"
        file = disk.open(path)
        reader = WalReader(file)
        head = FileHead(reader.head.epoch, reader.head.salt, 1)
        data = wal_format.encode_file_head(head)
        for found in reader.records():
            if isinstance(found, Record):
                data += old_record(head, found)
        file.close()
        disk.set_content(path, data + TERMINATOR)


def old_directory() -> tuple[SimDisk, dict[Uid, Entries]]:
    """A directory with two servers, several files, overwritten entries and a torn life."""
    node = Node(config=SMALL, at_once=False)
    for index in range(1, 40):
        for uid in (UID, OTHER):
            node.storage.log(uid).append(batch(node.storage.log(uid).next_index(), payload=b"x" * 30))
        node.sync()
        if index % 9 == 0:
            node.storage.log(UID).write([batch(index - 3, index, 2)])
            node.sync()
    node.kill()
    node.storage.log(OTHER).append(batch(node.storage.log(OTHER).next_index()))
    node.sync()
    wanted = {uid: content(node.storage, uid) for uid in (UID, OTHER)}
    assert node.storage.overview()["files"] > 4
    node.disk.kill()
    make_old(node.disk)
    assert not node.disk.exists("/data/servers")
    return node.disk, wanted


def found(node: Node) -> dict[Uid, Entries]:
    """The logs of both servers."""
    return {uid: content(node.storage, uid) for uid in (UID, OTHER)}


def rest(node: Node) -> None:
    """Let the old files go."""
    for _ in range(4):
        node.worker.run_until_idle()
        node.sync()
        node.tick()


def test_the_old_files_are_as_the_earlier_release_wrote_them() -> None:
    """Byte for byte."""
    record = Record(64, 64 + len(OLD_RECORD_BYTES), 64, Uid("alpha"), Index(4), None, BATCHES)
    assert old_record(OLD_HEAD, record) == OLD_RECORD_BYTES


def test_an_old_directory_opens_and_is_used_on() -> None:
    """Everything is there; its entries move to segments, and its files go."""
    disk, wanted = old_directory()
    node = Node(disk, SMALL, at_once=False)
    assert found(node) == wanted
    rest(node)
    assert found(node) == wanted
    assert node.storage.overview()["files"] == 1
    log = node.storage.log(UID)
    log.write([batch(5, 99, 2)])
    node.sync()
    rest(node)
    node.crash()
    assert [entry[:2] for entry in content(node.storage)][3:] == [(4, 1), (5, 99), (6, 99)]
    file = node.disk.open(f"{WAL}/{node.disk.listdir(WAL)[0]}")
    assert file.pread(FILE_HEAD_SIZE, 0)[8] == wal_format.VERSION


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation_of_the_first_start(fate: str) -> None:
    """Until the last old file has gone, and whatever the disk keeps of what was not synced."""
    disk, wanted = old_directory()
    film = Film(disk, lambda: None)
    rest(Node(disk, SMALL, at_once=False))
    disk.fault = None
    assert film.operations > 100
    for number, point in enumerate(film.points[::2]):
        node = Node(crashed(point.disk, fate), SMALL, at_once=False)
        assert found(node) == wanted, f"power lost at {number}, {fate}"
