"""Golden bytes of entry-batch bodies (docs/formats/entry-batch.md)."""

import pytest

from barque.core import entries
from barque.core.entries import EntryKind
from barque.errors import ProtocolError
from barque.types import ClientRef, ReplyMode

BODY = bytes.fromhex("00020200090000000000000064000000000000006e3101000000000000000300000061636363")
NOOP = bytes.fromhex("010000000000000000000000000000000000000000000000")


def test_a_body_is_as_it_always_was() -> None:
    """Golden bytes of three user commands that somebody waits for, both ways."""
    origin = ClientRef("n1", 9)
    body = entries.encode_body([b"a", b"", b"ccc"], EntryKind.USER, ReplyMode.AWAIT_CONSENSUS, origin, 100)
    assert body == BODY
    head = entries.check_body(BODY, 3)
    assert (head.kind, head.reply_mode, head.origin, head.first_correlation) == (
        EntryKind.USER,
        ReplyMode.AWAIT_CONSENSUS,
        origin,
        100,
    )
    assert [bytes(payload) for payload in entries.payloads_of(BODY, 3, head)] == [b"a", b"", b"ccc"]


def test_a_noop_is_as_it_always_was() -> None:
    """Golden bytes of an entry without origin."""
    assert entries.encode_body([b""], EntryKind.NOOP) == NOOP


def test_a_cut_body_is_a_body() -> None:
    """Cutting keeps the format and moves the correlation."""
    cut = entries.cut_body(BODY, 3, 1, 2)
    head = entries.check_body(cut, 2)
    assert head.first_correlation == 101
    assert [bytes(payload) for payload in entries.payloads_of(cut, 2, head)] == [b"", b"ccc"]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_body_with_another_count_is_refused(count: int) -> None:
    """Lengths and bytes must agree."""
    with pytest.raises(ProtocolError):
        entries.check_body(BODY, count)
