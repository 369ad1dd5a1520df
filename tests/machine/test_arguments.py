"""Arguments of machines: they come back as they went, or are refused when they are given (D4, sec 1)."""

import datetime
import decimal
import enum
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from barque.errors import ConfigurationError
from barque.machine.arguments import ARGUMENTS_BYTES_MAX, DEPTH_MAX, canonical_arguments


class Colour(enum.Enum):
    """A value with a name."""

    RED = "red"


class Level(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


def nested(levels: int) -> Any:
    """A list in a list in a list …"""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


LOST: dict[str, Any] = {
    "date": datetime.date(2026, 1, 1),
    "time": datetime.time(1, 2),
    "moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "span": datetime.timedelta(1),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "no number": float("nan"),
    "bytes": b"\xff",
    "byte array": bytearray(b"a"),
    "integer key": {1: "a"},
    "float key": {1.5: "a"},
    "bool key": {True: "a"},
    "bytes key": {b"a": 1},
    "none key": {None: 1},
    "set": {1, 2},
    "frozen set": frozenset((1,)),
    "tuple": (1, 2),
    "huge integer": 2**63,
    "huge negative integer": -(2**63) - 1,
    "far too huge integer": 10**400,
    "surrogate": "\ud800",
    "surrogate key": {"\udfff": 1},
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=1),
    "enum": Colour.RED,
    "int enum": Level.HIGH,
    "complex": 1j,
    "object": object(),
    "struct": msgspec.msgpack.Ext(1, b"a"),
    "raw": msgspec.Raw(b"1"),
    "deep": nested(DEPTH_MAX + 1),
    "far too deep": nested(100_000),
    "large": "x" * (ARGUMENTS_BYTES_MAX + 1),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("place", ["top", "in a list", "in a table"])
def test_d4_what_would_not_come_back_is_refused(name: str, place: str) -> None:
    """A date, infinity, bytes, an integer key: each is refused, and the text names where it stands."""
    value = LOST[name]
    arguments = {"top": value, "in a list": [1, value], "in a table": {"inner": value}}[place]
    with pytest.raises(ConfigurationError, match=r"^arguments"):
        canonical_arguments({"outer": arguments})


def test_d4_keys_of_the_arguments_themselves_are_text() -> None:
    """The outermost table is no exception."""
    with pytest.raises(ConfigurationError, match="the key 1 is a int"):
        canonical_arguments({1: "a"})  # type: ignore[dict-item]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_d4_what_is_accepted_comes_back_exactly(arguments: dict[str, Any]) -> None:
    """From the disk's JSON and from the wire's msgpack; the copy shares nothing with what was given."""
    kept = canonical_arguments(arguments)
    for copy in (
        kept,
        msgspec.json.decode(msgspec.json.encode(kept)),
        msgspec.msgpack.decode(msgspec.msgpack.encode(kept)),
    ):
        assert repr(copy) == repr(arguments)  # unlike `==`, this tells 1 from True and from 1.0
