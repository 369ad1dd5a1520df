"""Replies as they travel (runtime/reply_encoding.py)."""

from typing import Any

import msgspec
import pytest

from barque.runtime import reply_encoding
from barque.runtime.reply_encoding import encode_in_parts


def told(values: list[Any], errors: dict[int, str] | None = None) -> dict[int, Any]:
    """What each position is told: its reply, its error as text in a list, or None for what cannot be sent."""
    found: dict[int, Any] = {}
    for at, size, raw, its in encode_in_parts(values, errors):
        assert at == len(found), "in order, and without a gap"
        decoded = [None] * size if raw is None else msgspec.msgpack.decode(raw)
        assert len(decoded) == size
        for offset, value in enumerate(decoded):
            found[at + offset] = [its[offset]] if its and offset in its else value
    return found


def test_parts_hold_everything_once() -> None:
    """Large values are spread over parts; errors stay where they belong."""
    values = [bytes([number]) * (1 << 20) for number in range(16)]
    parts = list(encode_in_parts(values, {3: "no", 12: "never"}))
    assert len(parts) > 3
    assert told(values, {3: "no", 12: "never"}) == {**dict(enumerate(values)), 3: ["no"], 12: ["never"]}


def test_what_has_no_encoding_stands_alone() -> None:
    """The others are answered as if it were not there."""
    assert told(["a", object(), "b", "c"], {3: "no"}) == {0: "a", 1: None, 2: "b", 3: ["no"]}
    assert told([object()]) == {0: None}


def test_what_fits_into_no_frame_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that cannot be sent must not end the connection, and its caller must not wait without end."""
    monkeypatch.setattr(reply_encoding, "BODY_BYTES_MAX", 100)
    assert told(["a", list(range(200)), "b"]) == {0: "a", 1: None, 2: "b"}
    assert told([[7] * 40] * 5) == dict.fromkeys(range(5), [7] * 40)
