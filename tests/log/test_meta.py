"""The meta store: one durable record for term and vote, and no way to lose it quietly."""

import pytest
from tests.kit.storage import DATA, OTHER, UID, Node, batch

from barque.errors import Damaged, StorageError
from barque.log import meta as meta_module
from barque.log.meta import MetaRecord
from barque.types import Index, ServerId, Term

META = f"{DATA}/meta"
N1 = ServerId("m", "n1")


def test_term_and_vote_survive_together_after_a_sync() -> None:
    """What was synced is read back after a crash; what was not may be lost, but never half."""
    node = Node()
    node.storage.meta.store(UID, Term(3), N1)
    assert node.storage.meta.pending
    node.storage.sync_meta()
    assert not node.storage.meta.pending
    node.crash()
    assert node.storage.meta.read(UID) == MetaRecord(Term(3), N1, Index(0))
    assert node.storage.meta.read(OTHER) is None


def test_storing_the_same_again_needs_no_sync() -> None:
    """Only a change is work."""
    node = Node()
    node.storage.meta.store(UID, Term(3), None)
    node.storage.sync_meta()
    node.storage.meta.store(UID, Term(3), None)
    assert not node.storage.meta.pending


def test_last_applied_waits_for_the_next_sync_or_five_seconds() -> None:
    """It is not worth a sync of its own, but gets one in the end."""
    node = Node()
    node.storage.meta.store(UID, Term(1), N1)
    node.storage.sync_meta()
    for _ in range(3):
        node.tick()
    node.storage.log(UID).append(batch(1, count=9))
    node.sync()
    node.storage.meta.store_last_applied(UID, Index(9))
    assert not node.storage.meta.pending
    for _ in range(7):
        node.tick()
    node.crash()
    assert node.storage.meta.read(UID) == MetaRecord(Term(1), N1, Index(9))


def test_a_failed_sync_claims_nothing_and_the_next_writes_a_new_file() -> None:
    """After an error the old file is never appended to again."""
    node = Node()
    node.storage.meta.store(UID, Term(1), N1)
    node.storage.sync_meta()
    node.storage.meta.store(UID, Term(2), N1)
    node.disk.fault = lambda op, path: OSError(5, "EIO") if op == "datasync" else None
    with pytest.raises(StorageError, match="cannot be written"):
        node.storage.sync_meta()
    assert node.storage.meta.pending
    node.disk.fault = None
    rewrites = node.storage.meta.overview()["rewrites"]
    node.storage.sync_meta()
    assert node.storage.meta.overview()["rewrites"] == rewrites + 1
    node.crash()
    assert node.storage.meta.read(UID).current_term == 2  # type: ignore[union-attr]


def test_a_file_of_mostly_history_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many votes of one server do not make the file grow without end."""
    monkeypatch.setattr(meta_module, "REWRITE_SIZE_MIN", 1000)
    node = Node()
    for term in range(1, 200):
        node.storage.meta.store(UID, Term(term), N1)
        node.storage.sync_meta()
    assert len(node.disk.read_file(META)) < 2000
    node.crash()
    assert node.storage.meta.read(UID).current_term == 199  # type: ignore[union-attr]


def test_a_deleted_server_stays_deleted() -> None:
    """A tombstone outlives restarts, and its uid cannot be used again."""
    node = Node()
    node.storage.log(UID)
    node.storage.sync_meta()
    node.storage.delete(UID)
    for _ in range(2):
        node.crash()
        assert UID not in node.storage.recovered_uids()
        with pytest.raises(StorageError, match="deleted"):
            node.storage.log(UID)


def test_a_torn_append_is_dropped_at_every_byte() -> None:
    """A record cut anywhere leaves the records before it."""
    node = Node()
    node.storage.meta.store(UID, Term(1), N1)
    node.storage.sync_meta()
    size = len(node.disk.read_file(META))
    node.storage.meta.store(UID, Term(2), N1)
    node.storage.sync_meta()
    whole = node.disk.read_file(META)
    for cut in range(size, len(whole) + 1):
        node.disk.kill()
        node.disk.set_content(META, whole[:cut])
        node.open()
        assert node.storage.meta.read(UID).current_term == (2 if cut == len(whole) else 1)  # type: ignore[union-attr]


def test_a_flipped_byte_in_what_was_synced_is_refused() -> None:
    """Every byte below the last sync; the message names file, offset and remedy."""
    node = Node()
    for term in (1, 2, 3):
        node.storage.meta.store(UID, Term(term), N1)
        node.storage.sync_meta()
    node.tick()
    whole = node.disk.read_file(META)
    marked = len(whole) - (len(whole) - 32) // 4
    for offset in range(marked):
        node.disk.kill()
        node.disk.set_content(META, whole)
        node.disk.flip(META, offset)
        with pytest.raises(Damaged, match=r"meta: damaged at offset \d+.*What to do"):
            node.open()


def test_after_a_clean_stop_a_shortened_file_is_refused() -> None:
    """The head says how much was synced before the file got its name."""
    node = Node()
    node.storage.meta.store(UID, Term(1), N1)
    node.storage.close()
    whole = node.disk.read_file(META)
    for cut in range(len(whole)):
        node.disk.kill()
        node.disk.set_content(META, whole[:cut])
        with pytest.raises(Damaged):
            node.open()


def test_sec3_a_vote_that_no_record_can_hold_fails_alone() -> None:
    """The votes of the neighbours are synced all the same."""
    node = Node()
    for uid in (UID, OTHER):
        node.storage.log(uid)
    node.storage.meta.store(OTHER, Term(2), ServerId("kv", "n1"))
    with pytest.raises(ValueError, match="a vote for a server"):
        node.storage.meta.store(UID, Term(2), ServerId("x" * 70_000, "n1"))
    node.storage.sync_meta()
    node.crash()
    found = node.storage.meta.read(OTHER)
    assert found is not None
    assert found.voted_for == ServerId("kv", "n1")
