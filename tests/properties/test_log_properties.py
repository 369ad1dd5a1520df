"""The log against a naive list, with crashes, failures and restarts on a simulated disk."""

import contextlib
import errno
import random

from hypothesis import HealthCheck, example, given, settings, strategies as st
from tests.kit.storage import OTHER, UID, Node, batch, content

from barque.core.messages import Written
from barque.errors import StorageError
from barque.log.log import WalLog
from barque.log.storage import StorageConfig
from barque.testing.sim.disk import SimDisk
from barque.types import Index, ServerId, Term, Uid

UIDS = (UID, OTHER)
CONFIG = StorageConfig(
    wal_writer="inline", wal_prefill=False, wal_max_size_bytes=3000, wal_flush_bytes_max=900
)
Entry = tuple[int, int]


class Model:
    """What one server's log must be: entries in memory, and what may be found after a crash.

    `written` is the length of the prefix that was reported as written. `history` holds every
    entry that was ever handed over: nothing else may ever be read.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.term = 1
        self.history: set[Entry] = set()

    def put(self, first: int, count: int) -> None:
        """Replace what is there from `first` on by entries of the present term."""
        del self.entries[first - 1 :]
        self.entries += [(first + i, self.term) for i in range(count)]
        self.history |= set(self.entries)


class Checker:
    """Runs the same operations on a node and on models, and compares."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.node = Node(SimDisk(random.Random(seed)), CONFIG)
        self.models: dict[Uid, Model] = {uid: Model() for uid in UIDS}

    def log(self, uid: Uid) -> WalLog:
        """The real log."""
        return self.node.storage.log(uid)

    def step(self, operation: str) -> None:
        """Do one thing, then compare."""
        uid = self.random.choice(UIDS)
        model, log = self.models[uid], self.log(uid)
        if operation in ("append", "overwrite", "term") and not log.can_write():
            operation = "tick"
        match operation:
            case "append":
                count = self.random.randint(1, 4)
                log.append(batch(log.next_index(), model.term, count))
                model.put(len(model.entries) + 1, count)
            case "overwrite":
                model.term += 1
                first = self.random.randint(1, len(model.entries) + 1)
                counts = [self.random.randint(1, 3) for _ in range(self.random.randint(1, 3))]
                parts, start = [], first
                for count in counts:
                    parts.append(batch(start, model.term, count))
                    start += count
                log.write(parts)
                model.put(first, start - first)
            case "truncate":
                last = self.random.randint(0, len(model.entries))
                log.set_last_index(Index(last))
                del model.entries[last:]
                model.term += 1  # only a message of a newer term truncates
            case "flush":
                self.node.storage.flush()
            case "deliver":
                self.node.deliver()
            case "tick":
                self.node.tick()
            case "fail":
                target = self.node.disk.operations + self.random.randint(1, 6)
                self.node.disk.fault = lambda op, path: (
                    OSError(errno.EIO, "EIO") if self.node.disk.operations == target else None
                )
            case "full":
                self.node.disk.space = 0 if self.node.disk.space is None else None
            case "crash" | "kill":
                self.restart(operation)
        disk, (fault, done) = self.node.disk, (self.node.disk.fault, self.node.disk.operations)
        disk.fault = None  # the test reads here, not the node
        for each in UIDS:
            self.compare(each)
        disk.fault, disk.operations = fault, done

    def compare(self, uid: Uid) -> None:
        """Memory is exactly the list; what counts as written is a prefix of it."""
        model, log = self.models[uid], self.log(uid)
        assert [entry[:2] for entry in content(self.node.storage, uid)] == model.entries
        written = log.last_written()
        assert written.index <= len(model.entries)
        assert written.index == 0 or model.entries[written.index - 1] == tuple_of(written)

    def restart(self, how: str) -> None:
        """Every written entry is there again; whatever else is there was once handed over."""
        confirmed = {uid: self.models[uid].entries[: self.log(uid).last_written().index] for uid in UIDS}
        truncated = {uid: self.models[uid] for uid in UIDS}
        self.node.disk.fault = None
        self.node.disk.space = None
        _ = self.node.crash() if how == "crash" else self.node.kill()
        for uid in UIDS:
            found = [entry[:2] for entry in content(self.node.storage, uid)]
            assert found[: len(confirmed[uid])] == confirmed[uid]
            assert set(found) <= truncated[uid].history
            assert [index for index, _ in found] == list(range(1, len(found) + 1))
            assert [term for _, term in found] == sorted(term for _, term in found)
            self.models[uid].entries = found
            self.models[uid].term += 1
            assert self.log(uid).last_written() == self.log(uid).last_index_term()


def tuple_of(position: object) -> Entry:
    """An (index, term) pair of a log position."""
    return (position.index, position.term)  # type: ignore[attr-defined]


OPERATIONS = [
    "append",
    "append",
    "overwrite",
    "truncate",
    "flush",
    "flush",
    "deliver",
    "tick",
    "fail",
    "full",
    "crash",
    "kill",
]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.lists(st.sampled_from(OPERATIONS), max_size=60))
@example(145, ["append", "append", "overwrite", "overwrite", "flush", "overwrite", "deliver", "flush"])
def test_the_log_is_a_list_that_survives(seed: int, operations: list[str]) -> None:
    """After any operations, faults and crashes: written entries are there, and nothing is invented."""
    checker = Checker(seed)
    for operation in operations:
        checker.step(operation)
    checker.step("crash")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_report_means_on_disk_whatever_a_crash_keeps(seed: int, count: int) -> None:
    """Crash right after a report: every sector that was promised is there."""
    node = Node(SimDisk(random.Random(seed)), CONFIG)
    log = node.storage.log(UID)
    reported = 0
    for _ in range(count):
        log.append(batch(log.next_index(), count=3, payload=b"x" * 150))
        node.storage.flush()
        for event in node.deliver():
            assert isinstance(event, Written)
            reported = event.last
    log.append(batch(log.next_index()))
    node.crash()
    assert [entry[0] for entry in content(node.storage)][:reported] == list(range(1, reported + 1))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["vote", "applied", "sync", "crash", "kill", "fail", "tick", "delete"]), max_size=40
    ),
)
def test_terms_and_votes_never_go_back(seed: int, operations: list[str]) -> None:
    """What a sync confirmed is never older after a restart, and term and vote are never mixed."""
    chance = random.Random(seed)
    node = Node(SimDisk(random.Random(seed)), CONFIG)
    term = 0
    stored: dict[int, ServerId | None] = {0: None}
    synced = 0
    deleted = False
    for operation in [*operations, "crash"]:
        meta = node.storage.meta
        match operation:
            case "vote" if not deleted:
                term += 1
                stored[term] = ServerId("x", f"n{chance.randint(1, 5)}")
                meta.store(UID, Term(term), stored[term])
            case "applied":
                meta.store_last_applied(UID, Index(0))  # its log is empty
            case "tick":
                node.tick()
            case "fail":
                at = node.disk.operations + chance.randint(1, 4)
                node.disk.fault = lambda op, path, at=at: (  # type: ignore[misc]
                    OSError(5, "EIO") if node.disk.operations == at else None
                )
            case "sync":
                with contextlib.suppress(StorageError):
                    node.storage.sync_meta()
                    synced = term
            case "delete" if chance.random() < 0.2:
                deleted = True
                with contextlib.suppress(StorageError):
                    node.storage.delete(UID)
                node.disk.fault = None
                node.storage.sync_meta()
            case "crash" | "kill":
                node.disk.fault = None
                _ = node.crash() if operation == "crash" else node.kill()
                record = node.storage.meta.read(UID)
                if deleted:
                    assert record is None
                    assert node.storage.meta.is_deleted(UID)
                elif record is None:
                    assert synced == 0
                    term = 0
                else:
                    assert record.current_term >= synced
                    assert record.voted_for == stored[record.current_term]
                    term = synced = record.current_term
