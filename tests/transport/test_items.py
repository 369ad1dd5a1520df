"""`barque.transport.items`: values are counted before they take memory."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from barque.errors import ProtocolError
from barque.transport import wire
from barque.transport.items import check_items

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=60,
)


def count(value: Any) -> int:
    """How many values this is."""
    if isinstance(value, dict):
        return 1 + sum(count(k) + count(v) for k, v in value.items())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(values)
def test_every_value_counts(value: Any) -> None:
    """The count of an encoded value is that of the value: the bound is met exactly."""
    encoded = memoryview(msgspec.msgpack.encode(value))
    number = count(value)
    check_items(encoded, number)
    with pytest.raises(ProtocolError):
        check_items(encoded, number - 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    """The count ends, and raises nothing but its own error."""
    with contextlib.suppress(ProtocolError):
        check_items(memoryview(data), 50)


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\xc0", b"\x91", b"\xa0", b"\x01"])
def test_sec11_a_call_of_millions_of_values_is_refused(item: bytes) -> None:
    """Eight million empty lists would be half a gigabyte: the frame ends its connection first."""
    number = 8_000_000
    arguments = b"\x81\xa1x\xdd" + number.to_bytes(4, "big") + item * number
    payload = b"\x91\x95\x42\x01\xa4ping" + arguments + b"\x01"
    with pytest.raises(ProtocolError, match=r"more than 100000 values|recursion"):
        wire.decode_requests(payload)


def test_ordinary_calls_pass() -> None:
    """Long texts and binaries are one value each."""
    call = wire.ClientCall(1, "aux_command", {"command": b"x" * 10_000_000, "nodes": ["n1"] * 100}, 1)
    assert wire.decode_requests(wire.encode_requests([call])) == [call]
