"""Snapshots whose files a user's module writes: made, opened, sent, received, on a real disk (SNAP-04)."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kit.snapshots import CHECKPOINT, RECOVERY, SNAPSHOT, Node, meta_at, state_at
from tests.log import modules
from tests.log.modules import FileModule, Notes

from barque.core.log_contract import Accepts, NotReadyError
from barque.core.messages import AcceptFailed, SnapshotAccepted, SnapshotFailed, SnapshotWritten
from barque.errors import StorageError
from barque.log.disk import OsDisk
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshot_format import snapshot_name
from barque.log.snapshot_transfer import Incoming
from barque.machine.snapshot_module import BoundModule
from barque.types import Index, IndexTerm, Term

EAGER = SnapshotConfig(
    min_snapshot_interval=1,
    min_checkpoint_interval=1,
    min_recovery_checkpoint_interval=1,
    chunk_bytes=64,
)


def bound(module: FileModule | None = None) -> BoundModule:
    """A module as a server has it."""
    return BoundModule("Notes", module or FileModule(), {})


def notes(count: int) -> Notes:
    """A state."""
    return {f"note {number}": "text" * 10 for number in range(count)}


def node_in(path: Path) -> Node:
    """A store on the real disk."""
    return Node(OsDisk(), EAGER, str(path / "servers" / "alpha"))


def write(
    node: Node, index: int = 10, module: FileModule | None = None, state: Notes | None = None
) -> list[Any]:
    """Write a snapshot to its end, or to its failure; the events."""
    position = IndexTerm(Index(index), Term(1))
    kept = bound(module).prepare(position, notes(20) if state is None else state)
    assert node.begin(SNAPSHOT, index, state=kept)
    return node.run()


def load(node: Node, module: FileModule | None = None) -> Any:
    """The state of the current snapshot."""
    meta = node.store.current()
    assert meta is not None
    return node.store.load(meta, b"".join, bound(module))


def not_this(pieces: Any) -> Any:
    """What nobody should restore."""
    raise AssertionError("a module's snapshot is not restored from pieces")


def directory(node: Node, index: int = 10) -> Path:
    """Where the module's files lie."""
    return Path(node.path) / "snapshots" / snapshot_name(IndexTerm(Index(index), Term(1))) / "state"


def stream_of(node: Node, module: FileModule | None = None, accepts: Accepts | None = None) -> list[bytes]:
    """All chunks that a sender makes."""
    outgoing = node.store.open_outgoing(bound(module))
    outgoing.agree(accepts or Accepts((), "files", 2))
    chunks: list[bytes] = []
    while True:
        try:
            found = outgoing.chunk(len(chunks) + 1)
        except NotReadyError:
            node.worker.run_until_idle()
            continue
        assert found is not None
        chunks.append(found[0])
        if found[1]:
            assert outgoing.chunk(len(chunks) + 1) is None
            outgoing.close()
            node.worker.run_until_idle()
            return chunks


def receive(node: Node, chunks: list[bytes], module: FileModule | None = None, index: int = 10) -> list[Any]:
    """Take all chunks, and complete them."""
    node.store.begin_accept(meta_at(index))
    for number, data in enumerate(chunks, 1):
        assert node.store.accept_chunk(number, data)
    node.store.complete_accept(not_this, bound(module) if module is not None else None)
    return node.run()


# --- making and opening ----------------------------------------------------------------------


def test_a_state_comes_back_after_a_restart(tmp_path: Path) -> None:
    """Of a snapshot, of a promoted checkpoint and of a recovery checkpoint."""
    node = node_in(tmp_path)
    assert [type(e) for e in write(node)] == [SnapshotWritten]
    assert node.store.overview()["snapshot_size"] > 20 * 40
    node.open()
    assert load(node) == notes(20)
    for kind, index in ((CHECKPOINT, 20), (RECOVERY, 30)):
        assert node.begin(kind, index, state=bound().prepare(IndexTerm(Index(index), Term(1)), notes(index)))
        node.run()
        node.open()
        point = node.store.recovery_point(node.log)  # type: ignore[arg-type]  # what it needs of a log
        assert point == meta_at(index)
        assert node.store.load(point, not_this, bound()) == notes(index)
    assert node.store.promote_checkpoint(Index(20))
    node.run()
    node.open()
    assert load(node) == notes(20)


def test_a_machine_that_gets_a_module_reads_its_older_snapshots(tmp_path: Path) -> None:
    """Snapshots of before are Barque's own: `restore` reads them."""
    node = node_in(tmp_path)
    node.write(SNAPSHOT, 5)
    assert load(node) == state_at(5)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (None, "no longer has a snapshot module"),
        (type("Renamed", (FileModule,), {"name": "other"}), "module 'other' version 2 cannot read it"),
        (type("Older", (FileModule,), {"version": 1}), "module 'files' version 1 cannot read it"),
    ],
)
def test_another_module_never_reads_it(tmp_path: Path, other: Any, text: str) -> None:
    """Another name, an older version or none: refused, with both names."""
    node = node_in(tmp_path)
    write(node)
    meta = node.store.current()
    assert meta is not None
    with pytest.raises(StorageError, match=text) as caught:
        node.store.load(meta, not_this, None if other is None else bound(other()))
    assert "snapshot module 'files' version 2 wrote this" in str(caught.value)


def test_a_newer_module_reads_it(tmp_path: Path) -> None:
    """A higher version reads what a lower one has written."""
    node = node_in(tmp_path)
    write(node)
    assert load(node, type("Newer", (FileModule,), {"version": 3})()) == notes(20)


FAILURES = [
    (lambda: modules.Raises("write"), "write: RuntimeError('no write today')"),
    (lambda: modules.Raises("read_meta"), "read_meta: RuntimeError('no read_meta today')"),
    (modules.WritesNothing, "it has written nothing"),
    (modules.WritesOutside, "it has written outside its directory: mine"),
    (modules.WritesLink, "'elsewhere' is no plain file"),
    (modules.WritesDirectory, "it has written 'more', which is no file that a snapshot may have"),
]


@pytest.mark.parametrize(("make", "text"), FAILURES, ids=[text[:24] for _, text in FAILURES])
def test_what_a_module_does_wrong_is_a_failed_snapshot(
    tmp_path: Path, make: Callable[[], FileModule], text: str
) -> None:
    """It names machine and module, leaves nothing, and the snapshot before it stays."""
    node = node_in(tmp_path)
    write(node, 5)
    [event] = write(node, 10, make())
    assert isinstance(event, SnapshotFailed)
    assert event.reason.startswith("machine Notes, snapshot module 'files' version 2: ")
    assert text in event.reason
    assert text in node.store.overview()["last_failure"]
    assert node.indexes(SNAPSHOT) == [5]
    assert not list(Path(node.path).rglob("*.writing"))
    assert node.current() == 5
    assert [type(e) for e in write(node, 5_000)] == [SnapshotWritten]


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone", "more"])
def test_damage_of_a_module_s_files_is_found_without_it(tmp_path: Path, damage: str) -> None:
    """SNAP-10: the start skips the snapshot, and no code of the module runs."""
    node = node_in(tmp_path)
    write(node)
    file = directory(node) / "notes"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[random.Random(1).randrange(len(data))] ^= 4
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "longer":
        file.write_bytes(data + b"\0")
    elif damage == "gone":
        file.unlink()
    else:
        (directory(node) / "strange").write_bytes(b"")
    node.open()
    assert node.store.current() is None
    [note] = node.store.notes
    assert "damaged, and skipped" in note


# --- sending and receiving -------------------------------------------------------------------


def test_a_state_travels(tmp_path: Path) -> None:
    """Chunk by chunk; the receiver's module makes files of it, and a restart finds them."""
    sender, receiver = node_in(tmp_path / "a"), node_in(tmp_path / "b")
    write(sender)
    chunks = stream_of(sender)
    assert {len(chunk) for chunk in chunks[:-1]} == {64}
    [event] = receive(receiver, chunks, FileModule())
    assert isinstance(event, SnapshotAccepted)
    assert receiver.store.install_accepted() == notes(20)
    receiver.run()
    receiver.open()
    assert load(receiver) == notes(20)
    assert stream_of(receiver) == chunks


def test_a_directory_stays_while_it_is_sent(tmp_path: Path) -> None:
    """A newer snapshot replaces it; its files go when the transfer has ended."""
    node = node_in(tmp_path)
    write(node)
    outgoing = node.store.open_outgoing(bound())
    outgoing.agree(Accepts((), "files", 2))
    write(node, 5_000)
    assert sorted(node.indexes(SNAPSHOT)) == [10, 5_000]
    node.worker.run_until_idle()
    assert outgoing.chunk(1) is not None
    outgoing.close()
    node.run()
    assert node.indexes(SNAPSHOT) == [5_000]


@pytest.mark.parametrize(
    ("accepts", "theirs"),
    [
        (Accepts(), "the receiver has none"),
        (Accepts((), "other", 9), "the receiver has 'other' version 9"),
        (Accepts((), "files", 1), "the receiver has 'files' version 1"),
    ],
)
def test_nothing_is_sent_to_a_receiver_that_cannot_read_it(
    tmp_path: Path, accepts: Accepts, theirs: str
) -> None:
    """SEND-02: the sender knows before the first byte."""
    node = node_in(tmp_path)
    write(node)
    outgoing = node.store.open_outgoing(bound())
    with pytest.raises(StorageError, match=theirs):
        outgoing.agree(accepts)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: modules.Raises("read_chunks"), "no read_chunks today"),
        (modules.YieldsEmpty, "a chunk has 0 bytes, not 1 to 1048576"),
        (modules.YieldsHuge, "a chunk has 2097152 bytes, not 1 to 1048576"),
    ],
)
def test_a_module_that_reads_out_wrongly_ends_the_transfer(
    tmp_path: Path, make: Callable[[], FileModule], text: str
) -> None:
    """The error names machine and module."""
    node = node_in(tmp_path)
    write(node)
    with pytest.raises(StorageError, match=text) as caught:
        stream_of(node, make())
    assert "machine Notes, snapshot module 'files' version 2: read_chunks" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: modules.Raises("accept_chunks"), "no accept_chunks today"),
        (lambda: modules.Raises("validate"), "no validate today"),
        (lambda: modules.Raises("recover"), "no recover today"),
        (modules.AcceptsNothing, "accept_chunks: it returned before the last chunk"),
        (modules.FactsOfThePlace, "read_meta: the state that has arrived is not as the sender described it"),
        (None, "the machine no longer has a snapshot module"),
    ],
)
def test_a_module_that_takes_it_wrongly_installs_nothing(
    tmp_path: Path, make: Callable[[], FileModule] | None, text: str
) -> None:
    """The receiver keeps what it has, and leaves nothing of the transfer."""
    sender, receiver = node_in(tmp_path / "a"), node_in(tmp_path / "b")
    write(receiver, 5)
    write(sender)
    [event] = receive(receiver, stream_of(sender), None if make is None else make())
    assert isinstance(event, AcceptFailed)
    assert text in event.reason
    receiver.run()
    assert load(receiver) == notes(20)
    assert receiver.indexes(SNAPSHOT) == [5]
    assert not list(Path(receiver.path).glob("[ad][ci]*"))


def test_a_stream_that_is_damaged_never_reaches_an_installed_state(tmp_path: Path) -> None:
    """Barque's checksums fail, whatever the module would make of it; a module cannot swallow that."""
    sender, receiver = node_in(tmp_path / "a"), node_in(tmp_path / "b")
    write(sender)
    data = bytearray(b"".join(stream_of(sender)))
    for at in range(0, len(data), 97):
        wrong = bytearray(data)
        wrong[at] ^= 1
        for module in (FileModule(), modules.SwallowsErrors()):
            [event] = receive(receiver, [bytes(wrong)], module)
            assert isinstance(event, AcceptFailed), at
    assert not receiver.store.notes


def test_an_abort_ends_the_module_s_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next piece raises; nothing of the transfer stays, and the next one succeeds."""
    sender, receiver = node_in(tmp_path / "a"), node_in(tmp_path / "b")
    write(sender)
    chunks = stream_of(sender)

    class Aborts(FileModule):
        def accept_chunks(self, directory: Path, chunks: Any) -> None:
            receiver.store.abort_accept()
            super().accept_chunks(directory, chunks)

    stopped: list[Incoming] = []
    real = Incoming.job_ended
    monkeypatch.setattr(Incoming, "job_ended", lambda self: (stopped.append(self), real(self)))
    assert receive(receiver, chunks, Aborts()) == []
    assert [one.result for one in stopped] == [None]
    receiver.run()
    assert not list(Path(receiver.path).glob("[ad][ci]*"))
    [event] = receive(receiver, chunks, FileModule())
    assert isinstance(event, SnapshotAccepted)
