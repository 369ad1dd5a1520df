"""What servers answer, as it travels: encoded once, in parts that fit into frames."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from barque.core.entries import BODY_BYTES_MAX

logger = logging.getLogger("barque.replies")

_PART_BYTES = 4 * 1024 * 1024
_encode = msgspec.msgpack.encode


class Part(NamedTuple):
    """Consecutive replies from `offset` on, as one encoded array, and the errors among them.

    `raw` is None for a single reply that cannot be sent: it has no encoding, or fits into no frame.
    """

    offset: int
    size: int
    raw: msgspec.Raw | None
    errors: dict[int, str] | None


def encode_in_parts(replies: list[Any], errors: dict[int, str] | None, first: int = 0) -> Iterator[Part]:
    """Parts of a few MiB each: a thousand large values must not have to fit one frame, nor memory twice."""
    if len(replies) <= 1 or _about_size(replies) <= _PART_BYTES:
        encoded = encode_or_why(replies)
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


def _about_size(replies: list[Any]) -> int:
    """Of values that can be large; the others are small enough."""
    return sum(len(reply) for reply in replies if isinstance(reply, (bytes, str)))


def encode_or_why(value: Any) -> bytes | str:
    """A value as it travels, or what keeps it from travelling: a machine may answer anything."""
    try:
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return repr(error)
    if len(encoded) > BODY_BYTES_MAX:
        return f"{len(encoded)} bytes are more than {BODY_BYTES_MAX}"
    return encoded
