"""A copy by links is a whole directory as of one moment, whatever the node does afterwards."""

import random
from unittest.mock import patch

import pytest
from tests.kit.storage import DATA, OWNER, SMALL, UID, Node, batch, content

from barque.log.linked_copy import LINKED, remove_linked_copy
from barque.log.storage import Storage
from barque.log.wal_files import WalFiles
from barque.offline.findings import Severity
from barque.offline.inspection import inspect
from barque.testing.sim.disk import SimDisk
from barque.types import Uid

COPY = f"{DATA}/{LINKED}"


def files_below(disk: SimDisk, path: str) -> dict[str, bytes]:
    """Every file below a directory."""
    found: dict[str, bytes] = {}
    for name in disk.listdir(path):
        inner = f"{path}/{name}"
        if disk.is_dir(inner):
            found |= files_below(disk, inner)
        else:
            found[inner] = disk.read_file(inner)
    return found


def fill(node: Node, count: int) -> None:
    """Append so many entries, and let time pass."""
    log = node.storage.log(UID)
    for _ in range(count):
        log.append(batch(log.next_index(), payload=b"x" * 100))
        node.sync()
        node.tick()


def live_and_copy() -> tuple[Node, str, dict[str, bytes]]:
    """A node with segments and log files, its copy, and what the copy holds."""
    node = Node(SimDisk(random.Random(1)), SMALL)
    fill(node, 60)
    # The layer above keeps these: they are as old as the directory.
    node.disk.mkdir(f"{DATA}/servers")
    path = node.storage.make_linked_copy()
    assert path == COPY
    return node, path, files_below(node.disk, COPY)


def keeps_its_bytes() -> None:
    """The test below, without a fixture, so that a planted bug can be shown to it."""
    node, _, before = live_and_copy()
    assert len([name for name in before if name.endswith(".wal")]) >= 1
    fill(node, 200)
    assert files_below(node.disk, COPY) == before


def test_what_the_node_does_afterwards_changes_nothing() -> None:
    """Log files are recycled, segments merged and removed: the copy keeps its bytes."""
    keeps_its_bytes()


def test_a_linked_file_that_is_recycled_is_noticed() -> None:
    """The planted bug: a closed file with a second name is used again."""
    real = WalFiles.recycle

    def recycle(files: WalFiles, name: str) -> None:
        files.linked.clear()
        real(files, name)

    with patch.object(WalFiles, "recycle", recycle), pytest.raises(AssertionError):
        keeps_its_bytes()


def test_the_copy_opens_with_all_entries() -> None:
    """It is a directory of its own: moved away, it starts with what was there at that moment."""
    node, _, _ = live_and_copy()
    expected = content(node.storage)
    fill(node, 30)
    node.disk.rename(COPY, "/elsewhere")
    other = Storage.open(
        node.disk, "/elsewhere", OWNER, SMALL, lambda _event: None, lambda _function: None, lambda: 0.0
    )
    assert content(other) == expected
    other.close()


def test_no_copy_while_something_waits_to_be_written() -> None:
    """An entry that is not on disk yet would be missing."""
    node = Node(SimDisk(random.Random(1)), SMALL)
    fill(node, 3)
    log = node.storage.log(UID)
    log.append(batch(log.next_index()))
    assert node.storage.make_linked_copy() is None
    node.sync()
    node.disk.mkdir(f"{DATA}/servers")
    assert node.storage.make_linked_copy() == COPY


def test_a_new_server_is_in_the_copys_meta_file() -> None:
    """Its record may not be durable yet: the copy has it all the same."""
    node = Node(SimDisk(random.Random(1)), SMALL)
    node.disk.mkdir(f"{DATA}/servers")
    node.storage.log(Uid("newborn"))
    assert node.storage.make_linked_copy() == COPY
    assert node.disk.read_file(f"{COPY}/meta").count(b"newborn") == 1


@pytest.mark.parametrize("power", [True, False])
def test_a_start_removes_a_copy_that_was_left(power: bool) -> None:
    """The tool or the node died: the copy would keep its space until somebody notices."""
    node, _, _ = live_and_copy()
    expected = content(node.storage)
    (node.disk.crash if power else node.disk.kill)()
    node.open()
    assert not node.disk.exists(COPY)
    assert content(node.storage) == expected


def test_an_inspection_notes_a_copy_that_was_left() -> None:
    """It is no damage, and the next start removes it."""
    node, _, _ = live_and_copy()
    notes = [finding for finding in inspect(node.disk, DATA).findings if finding.path == COPY]
    assert [finding.severity for finding in notes] == [Severity.NOTE]


def test_there_is_one_copy_at_a_time() -> None:
    """A second one replaces the first; removing none is no error."""
    node, _, before = live_and_copy()
    fill(node, 40)
    assert node.storage.make_linked_copy() == COPY
    assert files_below(node.disk, COPY) != before
    node.storage.remove_linked_copy()
    assert not node.disk.exists(COPY)
    node.storage.remove_linked_copy()
    remove_linked_copy(node.disk, DATA)
