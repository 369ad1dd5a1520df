"""Replies of the Redis protocol, to bytes: versions 2 and 3.

Each function returns one complete reply. Where the versions differ, `resp3` says which is wanted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

OK: Final = b"+OK\r\n"
NULL_2: Final = b"$-1\r\n"
NULL_3: Final = b"_\r\n"

_INTEGERS: Final = [b":%d\r\n" % n for n in range(1024)]
_LINE_ENDS: Final = str.maketrans("\r\n", "  ")


def simple(text: str) -> bytes:
    """A simple string: our own words, never a user's bytes."""
    return b"+" + text.encode() + b"\r\n"


def error(text: str) -> bytes:
    """An error. Line ends in it become spaces; bytes that were decoded as Latin-1 come back as they were."""
    return b"-" + text.translate(_LINE_ENDS).encode("latin-1", "replace") + b"\r\n"


def integer(number: int) -> bytes:
    """An integer."""
    if 0 <= number < 1024:
        return _INTEGERS[number]
    return b":%d\r\n" % number


def bulk(value: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def null(resp3: bool) -> bytes:
    """Nothing: the null bulk string of version 2, the null of version 3."""
    return NULL_3 if resp3 else NULL_2


def null_array(resp3: bool) -> bytes:
    """No array: the null array of version 2, the null of version 3."""
    return NULL_3 if resp3 else b"*-1\r\n"


def bulk_or_null(value: bytes | None, resp3: bool) -> bytes:
    """A value that may be absent."""
    if value is None:
        return NULL_3 if resp3 else NULL_2
    return b"$%d\r\n%b\r\n" % (len(value), value)


def bulk_array(values: Sequence[bytes | None], resp3: bool) -> bytes:
    """An array of bulk strings and nulls."""
    nothing = null(resp3)
    parts = [b"*%d\r\n" % len(values)]
    parts += [nothing if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    return b"".join(parts)


def array(replies: Sequence[bytes]) -> bytes:
    """An array of complete replies."""
    return b"*%d\r\n" % len(replies) + b"".join(replies)


def set_of(replies: Sequence[bytes], resp3: bool) -> bytes:
    """A set of complete replies; an array in version 2."""
    return (b"~%d\r\n" if resp3 else b"*%d\r\n") % len(replies) + b"".join(replies)


def mapping(pairs: Iterable[tuple[bytes, bytes]], resp3: bool) -> bytes:
    """A map of complete replies; in version 2 an array of keys and values in turn."""
    parts = [part for pair in pairs for part in pair]
    head = b"%%%d\r\n" % (len(parts) // 2) if resp3 else b"*%d\r\n" % len(parts)
    return head + b"".join(parts)


def verbatim(text: bytes, resp3: bool) -> bytes:
    """Text for people; a bulk string in version 2."""
    if not resp3:
        return bulk(text)
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)


def value(item: Any, resp3: bool) -> bytes:
    """A plain Python value: bytes, str (as a bulk string), int, None, list or dict."""
    if isinstance(item, bytes):
        return bulk(item)
    if isinstance(item, str):
        return bulk(item.encode())
    if isinstance(item, bool | int):
        return integer(int(item))
    if item is None:
        return null(resp3)
    if isinstance(item, Mapping):
        return mapping(((value(k, resp3), value(v, resp3)) for k, v in item.items()), resp3)
    return array([value(part, resp3) for part in item])
