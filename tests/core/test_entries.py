"""Entry batches: cutting, and bodies from hostile hands."""

import struct

import pytest
from hypothesis import given, strategies as st

from barque.core import entries
from barque.core.entries import (
    BATCH_ENTRIES_MAX,
    EntryBatch,
    EntryKind,
    check_body,
    encode_body,
    encode_cluster,
)
from barque.errors import ProtocolError
from barque.types import ClientRef, Index, MemberRecord, ReplyMode, ServerId, Term, Uid


def test_correlations_that_would_overflow_are_refused() -> None:
    """Every entry's correlation fits the format, so that the batch can be cut anywhere."""
    origin = ClientRef("n", 1)
    for first, count, good in ((2**64 - 2, 2, True), (2**64 - 1, 1, True), (2**64 - 1, 2, False)):
        body = entries.encode_body([b"a"] * count, EntryKind.USER, ReplyMode.NOTIFY, origin, first)
        if good:
            entries.check_body(body, count)
            entries.cut_body(body, count, count - 1, 1)
        else:
            with pytest.raises(ProtocolError, match="correlation"):
                entries.check_body(body, count)


GOOD = entries.encode_body([b"a", b"bb"], EntryKind.USER, ReplyMode.NOTIFY, ClientRef("n", 1), 5)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"", 1),
        (GOOD[:19], 2),
        (GOOD[:22], 2),
        (GOOD[:-1], 2),
        (GOOD + b"x", 2),
        (GOOD, 1),
        (GOOD, 3),
        (GOOD, 0),
        (GOOD, -1),
        (GOOD, BATCH_ENTRIES_MAX + 1),
        (b"\x09" + GOOD[1:], 2),
        (GOOD[:1] + b"\x09" + GOOD[2:], 2),
        (GOOD[:2] + b"\xff\xff" + GOOD[4:], 2),
        (GOOD[:20] + b"\xff" + GOOD[21:], 2),
        (GOOD[:21] + b"\xff\xff\xff\xff" + GOOD[25:], 2),
        (b"\x01" + GOOD[1:], 2),
    ],
    ids=[
        *("empty", "cut-head", "cut-lengths", "cut-payload", "too-long", "too-few", "too-many", "none"),
        *("negative", "beyond", "bad-kind", "bad-mode", "long-name", "bad-name", "long-payload", "two-noops"),
    ],
)
def test_a_hostile_body_is_refused(body: bytes, count: int) -> None:
    """`check_body` stands between the world and everything that trusts a body."""
    with pytest.raises(ProtocolError):
        entries.check_body(body, count)


@given(st.binary(max_size=80), st.integers(0, 4))
def test_whatever_passes_the_check_can_be_used(tail: bytes, count: int) -> None:
    """After `check_body` nothing here can fail: not splitting, not cutting at any place."""
    body = bytes([0, len(tail) % 4, 0, 0]) + tail
    try:
        head = entries.check_body(body, count)
    except ProtocolError:
        return
    payloads = entries.payloads_of(body, count, head)
    for skip in range(count):
        for keep in range(1, count - skip + 1):
            cut = entries.cut_body(body, count, skip, keep)
            assert (
                entries.payloads_of(cut, keep, entries.check_body(cut, keep)) == payloads[skip : skip + keep]
            )


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=6), st.data())
def test_a_batch_can_be_cut_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    """Each entry keeps its index, its payload and the correlation that its sender waits for."""
    count = len(payloads)
    body = entries.encode_body(payloads, EntryKind.USER, ReplyMode.NOTIFY, ClientRef("node", 3), 100)
    batch = EntryBatch(Index(10), Term(2), count, 7, body)
    first = data.draw(st.integers(10, 9 + count))
    last = data.draw(st.integers(first, 9 + count))
    cut = batch.cut(first, last)
    head = entries.check_body(cut.body, cut.count)
    assert (cut.first_index, cut.last_index, cut.term, cut.timestamp_ms) == (first, last, 2, 7)
    assert head.first_correlation == 100 + first - 10
    assert entries.payloads_of(cut.body, cut.count, head) == payloads[first - 10 : last - 9]
    if (first, last) == (10, 9 + count):
        assert cut is batch


def test_a_batch_is_not_cut_outside_itself() -> None:
    """That would be our bug."""
    batch = EntryBatch(Index(3), Term(1), 2, 0, GOOD)
    for first, last in ((2, 3), (4, 3), (4, 5)):
        with pytest.raises(AssertionError):
            batch.cut(first, last)


def test_a_head_without_a_name_is_nobodys() -> None:
    """Entries for which nobody waits have an empty origin."""
    head = entries.decode_head(entries.encode_body([b""]))
    assert head.origin.node == ""
    assert struct.calcsize("<BBHQQ") == head.size


def test_a_configuration_is_read_before_it_is_believed() -> None:
    """MEMB-02: a cluster change holds members, or it is no entry."""
    good = encode_cluster([MemberRecord(ServerId("a", "n1"), Uid("A1"))])
    assert check_body(encode_body([good], EntryKind.CLUSTER_CHANGE), 1).kind is EntryKind.CLUSTER_CHANGE
    with pytest.raises(ProtocolError, match="configuration"):
        check_body(encode_body([b"nonsense"], EntryKind.CLUSTER_CHANGE), 1)
