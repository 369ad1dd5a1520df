"""Replies of machines: encoded for clients in other processes, as safe values for callers in this one."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from barque.core.entries import BODY_BYTES_MAX

logger = logging.getLogger("barque.replies")

LIGHT_BYTES = 64 * 1024
"""Replies of so many bytes are sent without counting what else waits for the client."""
_PART_BYTES = 4 * 1024 * 1024
_SCALARS = frozenset((type(None), bool, int, float))
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode
_decode_all = msgspec.msgpack.Decoder(list[Any]).decode

_IMMUTABLE = frozenset((type(None), bool, float, bytes))
"""Values of these types can be handed over as they are; msgpack would make the same of them."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class Part(NamedTuple):
    """Consecutive replies from `offset` on, as one encoded array, and the errors among them.

    `raw` is None for a single reply that cannot be sent: it has no encoding, or fits into no frame.
    """

    offset: int
    size: int
    raw: msgspec.Raw | None
    errors: dict[int, str] | None


def encode_in_parts(replies: list[Any], errors: dict[int, str] | None, first: int = 0) -> Iterator[Part]:
    """Encode replies in parts of a few MiB.

    A thousand large values need not fit into one frame, nor into memory twice.
    """
    weight = weight_of(replies)
    if len(replies) <= 1 or weight <= _PART_BYTES:
        too_large = f"about {weight} bytes are more than {BODY_BYTES_MAX}"
        encoded = encode_or_why(replies) if weight <= BODY_BYTES_MAX else too_large
        if isinstance(encoded, bytes):
            yield Part(first, len(replies), msgspec.Raw(encoded), errors or None)
            return
        if len(replies) == 1:
            logger.error("the reply of a machine cannot be sent: %s", encoded)
            yield Part(first, 1, None, None)
            return
    middle = len(replies) // 2
    before = {k: v for k, v in (errors or {}).items() if k < middle}
    after = {k - middle: v for k, v in (errors or {}).items() if k >= middle}
    yield from encode_in_parts(replies[:middle], before, first)
    yield from encode_in_parts(replies[middle:], after, first + middle)


def encode_if_light(replies: list[Any]) -> msgspec.Raw | None:
    """Encode replies that take little memory, as nearly all do; None if they do not, or have no encoding."""
    if weight_of(replies) > LIGHT_BYTES:
        return None
    try:
        return msgspec.Raw(_encode(replies))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def in_slices(
    replies: list[Any], errors: dict[int, str] | None
) -> Iterator[tuple[int, list[Any], dict[int, str] | None, int]]:
    """Divide replies into slices of a few MiB: weight, replies, their errors, the offset of the first."""
    start = weight = 0
    for end, reply in enumerate(replies):
        own = weight_of([reply])
        if end > start and weight + own > _PART_BYTES:
            yield weight, replies[start:end], _errors_of(errors, start, end), start
            start, weight = end, 0
        weight += own
    yield weight, replies[start:], _errors_of(errors, start, len(replies)), start


def _errors_of(errors: dict[int, str] | None, start: int, end: int) -> dict[int, str] | None:
    return {k - start: v for k, v in errors.items() if start <= k < end} if errors else None


def weight_of(values: Any) -> int:
    """About how many bytes these values are when they are encoded. Nothing is copied."""
    weight = 0
    for value in values:
        kind = value.__class__
        if kind is bytes or kind is str:
            weight += len(value)
        elif kind not in _SCALARS:
            weight += _weight_of_container(value)
            if weight > BODY_BYTES_MAX:
                break  # it fits nowhere
        weight += 2
    return weight


def _weight_of_container(value: Any) -> int:
    try:
        if isinstance(value, dict):
            return weight_of(value) + weight_of(value.values())
        if isinstance(value, (bytearray, memoryview)):
            return len(value)
        if isinstance(value, (list, tuple, set, frozenset)):
            return weight_of(value)
        if isinstance(value, msgspec.Struct):
            return weight_of([getattr(value, name, None) for name in value.__struct_fields__])
    except RecursionError:
        return 0  # it has no encoding, which the encoder will say
    return 64


def encode_or_why(value: Any) -> bytes | str:
    """Encode a value, or say why it cannot be sent: a machine may reply anything."""
    try:
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return repr(error)
    if len(encoded) > BODY_BYTES_MAX:
        return f"{len(encoded)} bytes are more than {BODY_BYTES_MAX}"
    return encoded


def values_of(replies: list[Any] | msgspec.Raw) -> tuple[list[Any], list[int]]:
    """Return replies as values for callers in this process, and the offsets of those that have none.

    A reply may be a reference to the machine's state, which the next command changes; and a caller must get
    the same value whether the leader is on this node or on another. So a caller gets what msgpack makes of
    the reply. `None`, booleans, numbers, `bytes` and ASCII strings are passed on as they are, since msgpack
    makes the same of them. Everything else is encoded and decoded once, which copies it: a tuple becomes a
    list, a `Struct` a dict. A reply that msgpack cannot encode has no value. Size is no obstacle here, as
    nothing has to fit into a frame.

    Commands that commit together are applied together before their replies get here, or to an encoder. So
    a machine that replies with a reference to its state may reply with a later state, wherever its caller is.
    """
    if isinstance(replies, msgspec.Raw):
        return _decode_all(replies), []
    values: list[Any] = []
    without: list[int] = []
    for reply in replies:
        kind = type(reply)
        if (
            kind in _IMMUTABLE
            or (kind is int and _INT_MIN <= reply <= _INT_MAX)
            or (kind is str and reply.isascii())
        ):
            values.append(reply)
            continue
        try:
            values.append(_decode(_encode(reply)))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            logger.error("the reply of a machine has no value outside it: %r", error)
            without.append(len(values))
            values.append(None)
    return values, without
