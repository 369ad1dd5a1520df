"""The two ends of a transfer: what is sent, what is received, and everything that may go wrong between."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.kit.snapshots import (
    CHECKPOINT,
    DIR,
    SNAPSHOT,
    UID,
    Node,
    file_at,
    live_segment,
    meta_at,
    state_at,
)
from tests.kit.storage import batch

from barque.core.entries import EntryBatch
from barque.core.log_contract import Outgoing
from barque.core.messages import AcceptFailed, SnapshotAccepted
from barque.errors import StorageError
from barque.log.snapshot_format import indexes_of
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term

FILE = f"{DIR}/snapshots/{1:016X}_{{index:016X}}/snapshot"


def sim(node: Node) -> SimDisk:
    """The node's disk."""
    assert isinstance(node.disk, SimDisk)
    return node.disk


def chunks_of(outgoing: Outgoing) -> Iterator[tuple[bytes, bool]]:
    """All chunks, up to the last."""
    number = 1
    while True:
        found = outgoing.chunk(number)
        assert found is not None
        yield found
        if found[1]:
            assert outgoing.chunk(number + 1) is None
            return
        number += 1


# --- sending ---------------------------------------------------------------------------------


def test_the_chunks_are_the_file() -> None:
    """In order, each of the configured size but the last; the same again when asked for again."""
    node = Node()
    node.write(SNAPSHOT, 10, live=[3, 7])
    outgoing = node.store.open_outgoing()
    assert outgoing.meta == meta_at(10)
    chunks = list(chunks_of(outgoing))
    assert b"".join(data for data, _ in chunks) == file_at(10, [3, 7])
    assert {len(data) for data, _ in chunks[:-1]} == {64}
    assert [last for _, last in chunks] == [False] * (len(chunks) - 1) + [True]
    assert outgoing.chunk(2) == chunks[1]


def test_a_file_of_whole_chunks_ends_with_its_last_chunk() -> None:
    """No empty chunk follows."""
    node = Node()
    size = next(n for n in range(500) if len(file_at(10, state=bytes(n))) % 64 == 0)
    assert node.begin(SNAPSHOT, 10, state=[bytes(size)])
    node.run()
    assert len(list(chunks_of(node.store.open_outgoing()))[-1][0]) == 64


def test_a_snapshot_can_be_sent_to_its_end_whatever_replaces_it() -> None:
    """SEND-06: its file is gone by name. What follows its position is needed until the transfer ends."""
    node = Node()
    node.write(SNAPSHOT, 10)
    assert node.store.lowest_sent() is None
    outgoing, other = node.store.open_outgoing(), node.store.open_outgoing()
    first = outgoing.chunk(1)
    node.write(SNAPSHOT, 20)
    assert node.indexes(SNAPSHOT) == [20]
    assert node.store.lowest_sent() == 10
    assert b"".join(data for data, _ in chunks_of(outgoing)) == file_at(10)
    assert outgoing.chunk(1) == first
    outgoing.close()
    outgoing.close()
    assert node.store.lowest_sent() == 10
    other.close()
    assert node.store.lowest_sent() is None
    newer = node.store.open_outgoing()
    assert node.store.lowest_sent() == 20
    newer.close()
    assert not sim(node).handles


def test_b36_survivors_that_are_gone_are_an_error() -> None:
    """Absent is never empty: the transfer ends, and the next one sends a newer snapshot."""
    node = Node()
    node.write(SNAPSHOT, 20, live=[2, 3, 4, 9])
    outgoing = node.store.open_outgoing()
    assert outgoing.live(Index(0), 3) == [batch(2), batch(3), batch(4)]
    assert outgoing.live(Index(3), 3) == [batch(4), batch(9)]
    assert outgoing.live(Index(9), 3) == []
    node.log.removed = {9}
    assert outgoing.live(Index(0), 3) == [batch(2), batch(3), batch(4)]
    with pytest.raises(StorageError, match="no longer there"):
        outgoing.live(Index(4), 3)


def test_a_disk_that_cannot_be_read_ends_the_transfer() -> None:
    """The sender hears of it as of every failure of the disk."""
    node = Node()
    node.write(SNAPSHOT, 10)
    outgoing = node.store.open_outgoing()
    sim(node).fault = lambda operation, path: OSError(5, "EIO")
    with pytest.raises(StorageError, match="cannot be sent"):
        outgoing.chunk(1)
    with pytest.raises(StorageError, match="cannot be sent"):
        node.store.open_outgoing()
    sim(node).fault = None
    sim(node).set_content(FILE.format(index=10), b"short")
    with pytest.raises(StorageError, match="shorter"):
        outgoing.chunk(1)


# --- receiving -------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [[], [3], [2, 3, 4, 9]])
def test_b33_a_received_file_equals_the_sent_one(live: list[int]) -> None:
    """Byte for byte; the survivors are beside it, and the state is restored, before it counts."""
    sender, receiver = Node(), Node()
    sender.write(SNAPSHOT, 10, live=live)
    receiver.write(SNAPSHOT, 5)
    receiver.write(CHECKPOINT, 7)
    outgoing = sender.store.open_outgoing()
    receiver.store.begin_accept(outgoing.meta)
    after = Index(0)
    while entries := outgoing.live(after, 2):
        receiver.store.accept_live(entries)
        after = entries[-1].last_index
    for number, (data, _) in enumerate(chunks_of(outgoing), 1):
        assert receiver.store.accept_chunk(number, data)
    receiver.store.complete_accept(b"".join)
    assert receiver.run() == [SnapshotAccepted(UID, meta_at(10).position)]
    assert receiver.current() == 5
    assert receiver.store.install_accepted() == state_at(10)
    assert receiver.current() == 10
    receiver.run()
    expected = {FILE.format(index=10): file_at(10, live)}
    if live:
        live_file = FILE.format(index=10).removesuffix("snapshot") + "live.segment"
        expected[live_file] = live_segment(live)
        assert receiver.store.live_file() == live_file
    else:
        assert receiver.store.live_file() is None
    assert sim(receiver).content(DIR) == expected
    assert not sim(receiver).has_unsynced
    assert not sim(receiver).handles
    receiver.crash()
    assert (receiver.current(), receiver.state()) == (10, state_at(10))
    assert list(indexes_of(receiver.store.live_ranges())) == live


def test_chunks_may_come_twice_and_never_with_a_gap() -> None:
    """RECV-06, S-4: a repeated chunk is ignored, whatever it holds; a gap is refused and changes nothing."""
    node = Node()
    data = file_at(10, [3, 4])
    parts = [data[at : at + 64] for at in range(0, len(data), 64)]
    node.store.begin_accept(meta_at(10))
    node.store.accept_live([batch(3)])
    node.store.accept_live([batch(3)])
    node.store.accept_live([batch(3), batch(4)])
    node.store.accept_live([])
    assert node.store.accept_chunk(1, parts[0])
    assert not node.store.accept_chunk(3, parts[2])
    assert node.store.accept_chunk(1, b"other")
    for number, part in enumerate(parts[1:], 2):
        assert node.store.accept_chunk(number, part)
    node.store.complete_accept(b"".join)
    assert node.run() == [SnapshotAccepted(UID, meta_at(10).position)]
    assert node.store.install_accepted() == state_at(10)


@pytest.mark.parametrize(
    "entries",
    [
        [batch(3), batch(2)],
        [batch(11)],
        [batch(9, count=3)],
        [batch(3, term=2), batch(4, term=1)],
    ],
)
def test_survivors_that_cannot_be_are_refused(entries: list[EntryBatch]) -> None:
    """Out of order, above the snapshot, or of falling terms; the transfer is to be given up."""
    node = Node()
    node.store.begin_accept(meta_at(10))
    with pytest.raises(StorageError, match="cannot survive"):
        node.store.accept_live(entries)


@pytest.mark.parametrize(
    ("live", "data", "reason"),
    [
        ([], file_at(10)[:-1], "ends"),
        ([], file_at(10)[:150] + b"x" + file_at(10)[151:], "checksum"),
        ([], file_at(11), "another snapshot"),
        ([], file_at(10, [3]), "survive"),
        ([3], file_at(10), "survive"),
        ([3], file_at(10, [3, 4]), "survive"),
        ([], b"", "ends"),
    ],
)
def test_a_snapshot_that_is_not_what_was_announced_is_refused(
    live: list[int], data: bytes, reason: str
) -> None:
    """Damage on the way, another snapshot, missing or unasked survivors: nothing of it is left."""
    node = Node()
    node.write(SNAPSHOT, 5)
    node.receive(10, live, data)
    node.store.complete_accept(b"".join)
    [event] = node.run()
    assert isinstance(event, AcceptFailed)
    assert event.position == meta_at(10).position
    assert reason in event.reason
    assert (node.current(), node.state()) == (5, state_at(5))
    assert sim(node).listdir(DIR) == ["snapshots"]
    assert not sim(node).handles
    assert node.install(10) == state_at(10)


def test_a_state_that_the_machine_cannot_restore_is_refused() -> None:
    """Its own error is the reason. A machine that stops reading early does not hide damage."""

    def broken(pieces: Iterator[bytes]) -> Any:
        raise LookupError("an unknown key")

    node = Node()
    node.receive(10)
    node.store.complete_accept(broken)
    [event] = node.run()
    assert isinstance(event, AcceptFailed)
    assert "an unknown key" in event.reason
    data = file_at(10)
    node.receive(10, data=data[:-1] + bytes([data[-1] ^ 1]))
    node.store.complete_accept(lambda pieces: next(pieces))
    [event] = node.run()
    assert isinstance(event, AcceptFailed)


@pytest.mark.parametrize("aborted", [False, True])
def test_a_store_that_is_closed_leaves_no_file_open(aborted: bool) -> None:
    """Whatever its worker was doing for a transfer: nothing, any step of it, or it has just ended."""
    for steps in range(10):
        node = Node()
        node.receive(10, live=[3])
        node.store.complete_accept(b"".join)
        for _ in range(steps):
            node.worker.run_step()
        if aborted:
            node.store.abort_accept()
        node.store.close()
        node.worker.close()
        assert not sim(node).handles, steps


def test_b38_a_transfer_may_end_at_any_step_and_begin_again() -> None:
    """Aborted, or replaced by another, at each step of the worker: the last one counts, and says so once."""
    for again in (False, True):
        for steps in range(10):
            node = Node()
            node.write(SNAPSHOT, 5)
            node.receive(10, live=[3])
            node.store.complete_accept(b"".join)
            for _ in range(steps):
                node.worker.run_step()
            early = node.take_events()
            if again:
                node.receive(12, live=[4])
                node.store.complete_accept(b"".join)
                assert node.run() == [SnapshotAccepted(UID, meta_at(12).position)]
                assert node.store.install_accepted() == state_at(12)
                node.run()
                assert node.indexes(SNAPSHOT) == [12]
            else:
                node.store.abort_accept()
                assert node.run() == []
                assert node.indexes(SNAPSHOT) == [5]
            assert early in ([], [SnapshotAccepted(UID, meta_at(10).position)])
            assert sim(node).listdir(DIR) == ["snapshots"]
            assert not sim(node).handles
    node = Node()
    node.store.abort_accept()  # nothing is being received
    assert node.run() == []


def test_every_disk_error_of_receiving_leaves_what_was() -> None:
    """Whichever operation fails: the old snapshot counts, and after a restart too, and a new try succeeds."""

    def attempt(node: Node) -> bool:
        try:
            node.receive(10, live=[3])
            node.store.complete_accept(b"".join)
            [event] = node.run()
            if isinstance(event, AcceptFailed):
                return False
            assert node.store.install_accepted() == state_at(10)
        except StorageError:
            node.store.abort_accept()
            return False
        return True

    total = Node()
    total.write(SNAPSHOT, 5)
    start = sim(total).operations
    assert attempt(total)
    failed = 0
    for number in range(1, sim(total).operations - start + 1):
        node = Node()
        node.write(SNAPSHOT, 5)
        disk = sim(node)
        target = disk.operations + number
        disk.fault = lambda op, path, disk=disk, target=target: (  # type: ignore[misc]
            OSError(5, "EIO") if disk.operations == target else None
        )
        if attempt(node):
            continue  # only the removal of the old one, or of nothing, failed
        failed += 1
        disk.fault = None
        node.run()
        assert (node.current(), node.state()) == (5, state_at(5))
        assert attempt(node)
        node.run()
        node.crash()
        node.run()
        assert (node.current(), node.state()) == (10, state_at(10))
        assert node.indexes(SNAPSHOT) == [10]
        assert sim(node).listdir(DIR) == ["snapshots"]
    assert failed > 8


def test_no_snapshot_is_made_while_survivors_are_not_with_the_log() -> None:
    """A newer snapshot would take the file with it."""
    node = Node()
    node.install(10, live=[3])
    node.run()
    assert not node.begin(SNAPSHOT, 20)
    node.write(CHECKPOINT, 15)
    assert not node.store.promote_checkpoint(Index(15))
    path = node.store.live_file()
    assert path is not None
    sim(node).mkdir(f"{DIR}/segments")
    sim(node).rename(path, f"{DIR}/segments/1.segment")
    assert node.store.live_file() is None
    node.write(SNAPSHOT, 20)


def test_k11_an_older_snapshot_is_not_installed() -> None:
    """A snapshot at or below the current one replaces nothing."""
    for index in (4, 5):
        node = Node()
        node.receive(index)
        node.store.complete_accept(b"".join)
        node.run()
        node.write(SNAPSHOT, 5)
        with pytest.raises(StorageError, match="is there already"):
            node.store.install_accepted()
        node.store.abort_accept()
        node.run()
        assert node.indexes(SNAPSHOT) == [5]


def test_the_names_and_terms_of_what_is_received() -> None:
    """A snapshot of another term has a name of its own."""
    node = Node()
    data = file_at(10, term=3)
    node.store.begin_accept(meta_at(10, 3))
    assert node.store.accept_chunk(1, data)
    node.store.complete_accept(b"".join)
    node.run()
    node.store.install_accepted()
    assert node.directories(SNAPSHOT) == [f"{3:016X}_{10:016X}"]
    assert node.store.current() == meta_at(10, 3)
    assert meta_at(10, 3).position == IndexTerm(Index(10), Term(3))
