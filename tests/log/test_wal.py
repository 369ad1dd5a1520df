"""The write-ahead log: group commit, exact reports, gaps, failure and reopening."""

import errno
import random
import threading
from collections.abc import Callable

import pytest
from tests.kit.storage import OTHER, SMALL, UID, WAL, Node, batch, content

from barque.core.messages import ResendWrite, WalFailed, WalUp, Written
from barque.errors import WalDown
from barque.log.storage import StorageConfig
from barque.log.wal_files import file_name
from barque.log.wal_writer import LARGE_WRITE_BYTES, InlineWriter, ThreadWriter, WriterBySize, choose_writer
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, Term

EIO = OSError(errno.EIO, "I/O error")


def test_one_flush_is_one_write_and_one_report_for_each_server_and_term() -> None:
    """Two servers' batches share a sync; runs of one term are reported as one range."""
    node = Node()
    alpha, beta = node.storage.log(UID), node.storage.log(OTHER)
    node.sync()
    alpha.append(batch(1, term=1))
    beta.append(batch(1, term=7, count=3))
    alpha.append(batch(2, term=1))
    alpha.append(batch(3, term=2, count=2))
    before = node.storage.overview()["syncs"]
    assert node.sync() == [Written(UID, 1, 1, 2), Written(UID, 2, 3, 4), Written(OTHER, 7, 1, 3)]
    assert node.storage.overview()["syncs"] == before + 1


def test_nothing_is_reported_before_the_sync() -> None:
    """Submitting writes nothing."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    assert node.events == []
    assert node.storage.pending
    node.crash()
    assert content(node.storage) == []


def test_the_last_writer_wins_within_one_flush() -> None:
    """An index submitted twice before a flush is written and reported once, with its last term."""
    node = Node()
    log = node.storage.log(UID)
    log.write([batch(1, term=1, count=4)])
    log.write([batch(3, term=2)])
    assert node.sync() == [Written(UID, 1, 1, 2), Written(UID, 2, 3, 3)]
    node.crash()
    assert [entry[:2] for entry in content(node.storage)] == [(1, 1), (2, 1), (3, 2)]


def test_a_gap_is_dropped_and_asked_for_once() -> None:
    """What does not follow the last submitted entry is not written; one resend is asked for."""
    node = Node()
    node.storage.log(UID).append(batch(1))
    node.sync()
    wal = node.storage.wal
    wal.submit(UID, IndexTerm(Index(4), Term(1)), batch(5))
    wal.submit(UID, IndexTerm(Index(5), Term(1)), batch(6))
    node.storage.flush()
    assert node.events == [ResendWrite(UID, 2)]
    node.events.clear()
    wal.submit(UID, IndexTerm(Index(1), Term(1)), batch(2))
    node.storage.flush()
    assert node.events == [Written(UID, 1, 2, 2)]


def test_a_server_unknown_to_the_log_starts_from_nothing() -> None:
    """The base of gap detection is what recovery found, not what happens to come first."""
    node = Node()
    for index in (1, 2, 3):
        node.storage.log(UID).append(batch(index))
        node.sync()
    node.crash()
    node.storage.wal.submit(UID, IndexTerm(Index(7), Term(1)), batch(8))
    node.storage.wal.submit(OTHER, IndexTerm(Index(1), Term(1)), batch(2))
    node.storage.flush()
    assert node.events == [ResendWrite(UID, 4), ResendWrite(OTHER, 1)]


def test_a_resend_is_served_from_the_memtable() -> None:
    """The log hands over again what it holds from the asked index on."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1, count=3))
    node.sync()
    log.handle_event(ResendWrite(UID, 2))
    assert node.sync() == [Written(UID, 1, 2, 3)]
    assert log.last_written() == log.last_index_term()


def test_files_roll_over_in_the_middle_of_a_flush() -> None:
    """A flush that does not fit goes on in the next file; everything is found again."""
    node = Node(config=SMALL, at_once=False)
    for index in range(1, 60):
        for uid in (UID, OTHER):
            node.storage.log(uid).append(batch(index, payload=b"x" * 40))
        if index % 10 == 0:
            node.sync()
    node.sync()
    assert node.storage.overview()["files"] > 5
    node.crash()
    for uid in (UID, OTHER):
        assert [entry[0] for entry in content(node.storage, uid)] == list(range(1, 60))


def test_an_oversize_record_gets_a_file_of_its_own() -> None:
    """A batch larger than a file is written whole."""
    node = Node(config=SMALL)
    log = node.storage.log(UID)
    log.append(batch(1))
    log.append(batch(2, payload=b"x" * 10_000))
    node.sync()
    log.append(batch(3))
    node.sync()
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == [1, 2, 3]


def test_a_flush_takes_no_more_than_its_bound() -> None:
    """What exceeds the bound stays pending, in order, for the next flush."""
    node = Node(config=StorageConfig(wal_writer="inline", wal_prefill=False, wal_flush_bytes_max=600))
    log = node.storage.log(UID)
    for index in range(1, 31):
        log.append(batch(index))
    node.storage.flush()
    first = node.deliver()
    assert node.storage.pending
    assert log.last_written().index < 30
    node.sync()
    assert first
    assert log.last_written().index == 30
    node.crash()
    assert len(content(node.storage)) == 30


def test_who_has_more_than_a_flush_takes_lets_others_go_first() -> None:
    """One server's backlog delays another by no more than a flush; each stays in its own order."""
    node = Node(config=StorageConfig(wal_writer="inline", wal_prefill=False, wal_flush_bytes_max=600))
    busy, other = node.storage.log(UID), node.storage.log(OTHER)
    for index in range(1, 31):
        busy.append(batch(index, payload=b"x" * 100))
    node.storage.flush()
    node.deliver()
    other.append(batch(1))
    node.storage.flush()
    node.deliver()
    assert busy.last_written().index < 30
    node.storage.flush()
    node.deliver()
    assert (other.last_written().index, busy.last_written().index < 30) == (1, True)
    node.sync()
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == list(range(1, 31))
    assert [entry[0] for entry in content(node.storage, OTHER)] == [1]


@pytest.mark.parametrize("operation", ["pwritev", "datasync"])
def test_a_failed_write_or_sync_stops_everything_until_a_new_file(operation: str) -> None:
    """No acknowledgement after a failure, a new file, all pending entries again, then `WalUp`."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1))
    node.sync()
    log.append(batch(2))
    node.disk.fault = lambda op, path: EIO if op == operation else None
    assert node.sync() == [WalFailed("OSError: [Errno 5] I/O error")]
    assert not log.can_write()
    with pytest.raises(WalDown, match="I/O error"):
        log.append(batch(3))
    with pytest.raises(WalDown, match="I/O error"):
        log.write([batch(3)])
    assert node.tick() == []
    assert log.last_written().index == 1
    node.disk.fault = None
    abandoned = node.disk.read_file(f"{WAL}/{file_name(1)}")
    assert node.tick() == [Written(UID, 1, 2, 2), WalUp()]
    assert log.last_written().index == 2
    assert node.disk.read_file(f"{WAL}/{file_name(1)}") == abandoned, "never written again"
    assert node.storage.overview()["files"] == 2
    log.append(batch(3))
    node.sync()
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == [1, 2, 3]


def test_failure_at_every_disk_operation_loses_nothing_acknowledged() -> None:
    """One error at the n-th operation, without endy n: the log resumes and keeps what it acknowledged."""
    for nth in range(1, 70):
        node = Node(config=SMALL)
        target = node.disk.operations + nth
        node.disk.fault = lambda op, path, node=node, target=target: (  # type: ignore[misc]
            EIO if node.disk.operations == target else None
        )
        log = node.storage.log(UID)
        for _ in range(1, 40):
            while not log.can_write():
                node.tick()
            log.append(batch(log.next_index(), payload=b"x" * 100))
            node.sync()
        while log.last_written() != log.last_index_term():
            node.tick()
            node.sync()
        assert log.last_written().index == 39
        node.crash()
        assert [entry[0] for entry in content(node.storage)] == list(range(1, 40))


def test_a_full_disk_stops_the_log_and_space_starts_it_again() -> None:
    """ENOSPC loses nothing, leaves no pile of files, and ends by itself."""
    node = Node()
    log = node.storage.log(UID)
    log.append(batch(1))
    node.sync()
    node.disk.space = 10
    log.append(batch(2, payload=b"x" * 5000))
    assert [type(event) for event in node.sync()] == [WalFailed]
    names = node.disk.listdir(WAL)
    for _ in range(5):
        assert node.tick() == []
    assert node.disk.listdir(WAL) == names
    node.disk.space = None
    assert node.tick()[-1] == WalUp()
    assert log.last_written().index == 2
    node.crash()
    assert [entry[0] for entry in content(node.storage)] == [1, 2]


def test_the_threaded_writer_reports_on_the_loop_only() -> None:
    """The thread does the sync; events come when the loop runs what it was handed."""
    node = Node(config=StorageConfig(wal_writer="thread", wal_prefill=False))
    log = node.storage.log(UID)
    node.storage.sync_meta()
    log.append(batch(1))
    node.storage.flush()
    log.append(batch(2))  # while the first is under way
    assert node.events == []
    while log.last_written().index < 2:
        for worker in node.storage.beside:
            worker.yield_if_busy()
        while node.woken:
            node.woken.pop(0)()
        node.deliver()
    node.storage.close()
    node.disk.kill()
    node.open()
    assert [entry[0] for entry in content(node.storage)] == [1, 2]


def test_an_overwrite_during_a_sync_is_not_confirmed_by_it() -> None:
    """Written, overwritten and written again: only the last write confirms (the ABA mistake)."""
    node = Node()
    log = node.storage.log(UID)
    log.write([batch(1, term=1, count=4)])
    wal = node.storage.wal
    held: list[object] = []

    class Held(InlineWriter):
        """A writer whose completion the test lets out."""

        kind = "thread"

        def run(self, work, done, size=0):  # type: ignore[no-untyped-def]
            self.busy = True
            work()
            held.append(done)

    wal.writer = Held()
    node.storage._births = False
    node.storage.flush()
    log.write([batch(3, term=1, count=2)])  # the same entries once more, behind the sync
    wal.writer.busy = False
    held.pop()(None)  # type: ignore[operator]
    assert node.events == [Written(UID, 1, 1, 2)]


def test_the_writer_follows_the_measured_disk() -> None:
    """Fast disks are written inline but for large writes, slow ones from a thread; a wish overrules both."""
    assert choose_writer("auto", 0.0002, lambda fn: None).kind == "by size"
    slow = choose_writer("auto", 0.004, lambda fn: None)
    assert slow.kind == "thread"
    slow.close()
    assert choose_writer("inline", 9.0, lambda fn: None).kind == "inline"
    forced = choose_writer("thread", 0.0, lambda fn: None)
    assert isinstance(forced, ThreadWriter)
    forced.close()


def test_large_writes_go_on_beside_the_loop() -> None:
    """A small write is over when `run` returns; a large one ends later, and the next one waits for it."""
    ends: list[Callable[[], None]] = []
    handed = threading.Event()

    def wake(finish: Callable[[], None]) -> None:
        ends.append(finish)
        handed.set()

    writer = choose_writer("auto", 0.0, wake)
    done: list[Exception | None] = []
    before = threading.active_count()
    writer.run(lambda: None, done.append, LARGE_WRITE_BYTES - 1)
    assert (done, writer.busy, threading.active_count()) == ([None], False, before)
    writer.run(lambda: None, done.append, LARGE_WRITE_BYTES)
    assert handed.wait(10)
    assert (done, writer.busy) == ([None], True)
    ends.pop()()
    assert (done, writer.busy) == ([None, None], False)
    writer.close()
    assert threading.active_count() == before


def test_a_log_with_both_writers_writes_everything_in_order() -> None:
    """Small and large flushes alternate: what waits behind a large one is written when it ends."""
    node = Node()

    class SlowThread(InlineWriter):
        """A thread whose work the test lets end."""

        kind = "thread"

        def run(self, work, done, size=0):  # type: ignore[no-untyped-def]
            self.busy = True
            self.end = lambda: self._finish(work, done)

        def _finish(self, work, done):  # type: ignore[no-untyped-def]
            work()
            self.busy = False
            done(None)

    thread = SlowThread()
    wal, log = node.storage.wal, node.storage.log(UID)
    wal.writer = WriterBySize(lambda: thread, 400)
    node.storage._births = False
    log.write([batch(1)])
    node.storage.flush()
    assert node.events == [Written(UID, 1, 1, 1)]
    log.write([batch(2, count=40)])
    node.storage.flush()
    log.write([batch(42)])
    node.storage.flush()
    assert node.events == [Written(UID, 1, 1, 1)]
    thread.end()
    assert node.events == [Written(UID, 1, 1, 1), Written(UID, 1, 2, 41), Written(UID, 1, 42, 42)]


def test_deleted_servers_free_their_files() -> None:
    """A closed file is recycled or removed when no living server has entries in it."""
    node = Node(config=SMALL, at_once=False)
    for index in range(1, 60):
        node.storage.log(UID).append(batch(index))
        node.sync()
    many = node.storage.overview()["files"]
    node.storage.delete(UID)
    node.tick()
    node.tick()
    assert node.storage.overview()["files"] == 1 < many
    node.crash()
    node.tick()
    assert node.storage.overview()["files"] == 1


def test_ten_thousand_servers_in_one_flush() -> None:
    """Many servers with one entry each share one sync."""
    node = Node(SimDisk(random.Random(2)))
    for number in range(10_000):
        node.storage.log(f"server{number}").append(batch(1))  # type: ignore[arg-type]
    node.storage.sync_meta()
    assert len(node.sync()) == 10_000
    assert node.storage.overview()["syncs"] == 1
    node.crash()
    assert len(node.storage.recovered_uids()) == 10_000
