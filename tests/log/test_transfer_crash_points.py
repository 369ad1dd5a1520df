"""The power fails at every disk operation of a transfer, on the sender's or the receiver's disk.

The node starts again, and a new transfer begins. The receiver then has the sender's snapshot, byte for byte,
with the entries that survive below it; before that it has its old snapshot or the new one.
"""

import random
from collections.abc import Iterator

import pytest
from tests.kit.crashes import FATES, PowerLost, crashed, die_at
from tests.kit.snapshots import DIR, SNAPSHOT, Node, file_at, live_segment
from tests.kit.storage import batch

from barque.core.log_contract import Outgoing
from barque.testing.sim.disk import SimDisk
from barque.types import Index

OLD, SENT, NEWER = 10, 20, 30
LIVE = {SENT: [3, 4, 9], NEWER: [4, 9, 22]}
SIDES = ("sender", "receiver")


def disk_of(node: Node) -> SimDisk:
    """The node's disk."""
    assert isinstance(node.disk, SimDisk)
    return node.disk


def pair() -> tuple[Node, Node]:
    """A sender with a snapshot, and a receiver with an older one."""
    sender, receiver = (Node(SimDisk(random.Random(seed))) for seed in (1, 2))
    sender.write(SNAPSHOT, SENT, live=LIVE[SENT])
    receiver.write(SNAPSHOT, OLD)
    return sender, receiver


def pieces_of(outgoing: Outgoing) -> Iterator[bytes]:
    """All chunks in order."""
    number, last = 0, False
    while not last:
        number += 1
        chunk = outgoing.chunk(number)
        assert chunk is not None
        data, last = chunk
        yield data


def transfer(sender: Node, receiver: Node, *, replace: bool = False) -> None:
    """Send the snapshot and install it; with `replace`, the sender writes a newer one meanwhile."""
    outgoing = sender.store.open_outgoing()
    receiver.store.begin_accept(outgoing.meta)
    after = Index(0)
    while entries := outgoing.live(after, 2):
        receiver.store.accept_live(entries)
        after = entries[-1].last_index
    for number, data in enumerate(pieces_of(outgoing), 1):
        assert receiver.store.accept_chunk(number, data)
        if replace and number == 2:
            sender.write(SNAPSHOT, NEWER, live=LIVE[NEWER])
    receiver.store.complete_accept(b"".join)
    receiver.run()
    receiver.store.install_accepted()
    receiver.run()
    outgoing.close()


def check(node: Node, index: int) -> None:
    """The node has this snapshot and no other, whole, and nothing is left over."""
    disk = disk_of(node)
    assert node.indexes(SNAPSHOT) == [index]
    folder = f"{DIR}/snapshots/{1:016X}_{index:016X}"
    assert disk.read_file(f"{folder}/snapshot") == file_at(index, LIVE[index])
    assert disk.read_file(f"{folder}/live.segment") == live_segment(LIVE[index])
    assert disk.listdir(DIR) == ["snapshots"]


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("side", SIDES)
def test_a_crash_at_any_operation_of_a_transfer(side: str, fate: str) -> None:
    """Of either node: the next transfer brings what the sender has then."""
    for operations in range(1, 1_000):
        sender, receiver = pair()
        victim = sender if side == "sender" else receiver
        die_at(disk_of(victim), operations)
        try:
            transfer(sender, receiver, replace=True)
        except PowerLost:
            pass
        else:
            assert operations > 12, "the transfer has operations of the disk"
            return
        again = Node(crashed(disk_of(victim), fate))
        again.run()
        assert not again.store.notes
        if side == "sender":
            sender = again
            assert receiver.current() == OLD, "the sender died before its last chunk was installed"
        else:
            receiver = again
            assert receiver.current() in (OLD, SENT)
        sent = sender.current()
        assert sent in (SENT, NEWER)
        assert sender.store.open_outgoing().live(Index(0), 9) == [batch(i) for i in LIVE[sent]]
        if receiver.current() < sent:
            transfer(sender, receiver)
        check(receiver, sent)
        assert receiver.state() == sender.state()
        check(Node(crashed(disk_of(receiver), fate)), sent)
    raise AssertionError("a transfer has more operations than this test tries")
