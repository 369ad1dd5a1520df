"""What the key-value machine understands: its commands, its queries and its error reply.

Every class is one msgpack array on the wire, `[tag, field, …]`. Tags are part of the log's
format: a tag is never given to another class, and fields are only added at the end, with a default.
Times are milliseconds.
"""

from typing import Any, Final, TypeAlias

import msgspec

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

SET_NX: Final = 1
"""Set only a key that is absent."""
SET_XX: Final = 2
"""Set only a key that is present."""
SET_GET: Final = 4
"""Reply with the old value instead of whether it was set."""
SET_KEEPTTL: Final = 8
"""Leave the key's expiry as it is."""

EXPIRE_NX: Final = 1
"""Only if the key has no expiry."""
EXPIRE_XX: Final = 2
"""Only if the key has an expiry."""
EXPIRE_GT: Final = 4
"""Only if the new expiry is later; no expiry counts as the latest."""
EXPIRE_LT: Final = 8
"""Only if the new expiry is earlier; no expiry counts as the latest."""


class Set(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Set one value and drop the key's expiry. Reply: True."""

    key: bytes
    value: bytes


class SetWith(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """`Set` with conditions. Reply: True or None (not set); with SET_GET the old value or None.

    `ttl_ms` is counted from the command's own time in the log, `expire_at_ms` is Unix time;
    at most one is given.
    """

    key: bytes
    value: bytes
    flags: int = 0
    ttl_ms: int | None = None
    expire_at_ms: int | None = None


class SetNx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Set an absent key. Reply: 1 if set, else 0."""

    key: bytes
    value: bytes


class GetSet(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Set one value. Reply: the old value or None."""

    key: bytes
    value: bytes


class GetDel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Delete one key. Reply: the old value or None."""

    key: bytes


class Mset(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Set several values at once: key, value, key, value, … Reply: True, or `not_pairs`."""

    pairs: list[bytes]


class Del(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Delete keys. Reply: how many were there."""

    keys: list[bytes]


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Append to a value; an absent one counts as empty. Reply: the new length or `too_big`."""

    key: bytes
    value: bytes


class IncrBy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Add to a decimal value; an absent one counts as 0. Reply: the sum, `not_integer` or `overflow`."""

    key: bytes
    delta: int = 1


class Expire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Set a key's expiry. Reply: 1 if it was set, else 0; or `invalid_expire`.

    An expiry that is due already deletes the key, and counts as set.
    `time_ms` is Unix time if `absolute`, otherwise counted from the command's own time in the log.
    """

    key: bytes
    time_ms: int
    absolute: bool = False
    flags: int = 0


class Persist(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Drop a key's expiry. Reply: 1 if there was one, else 0."""

    key: bytes


class FlushAll(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Delete everything. Reply: True."""


class Cas(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Set the value if it is `expected` (None: if the key is absent). Reply: 1 if set, else 0."""

    key: bytes
    expected: bytes | None
    value: bytes


KvCommand: TypeAlias = (
    Set | SetWith | SetNx | GetSet | GetDel | Mset | Del | Append | IncrBy | Expire | Persist | FlushAll | Cas
)


class Get(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Answer: the value or None."""

    key: bytes


class Mget(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Answer: a list of values or None."""

    keys: list[bytes]


class Exists(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Answer: how many of the keys exist; a key named twice counts twice."""

    keys: list[bytes]


class Type(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Answer: `string`, or `none` for an absent key."""

    key: bytes


class Strlen(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Answer: the length of the value, 0 for an absent key."""

    key: bytes


class Pttl(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Answer: milliseconds to live as of the last command; -1 without expiry, -2 if absent."""

    key: bytes


class ExpireTime(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Answer: the expiry in Unix milliseconds; -1 without expiry, -2 for an absent key."""

    key: bytes


class Keys(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Answer: all keys that match the glob pattern."""

    pattern: bytes


class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Answer: [next cursor, keys]. Start at cursor 0; the next cursor 0 means done.

    Looks at about `count` keys and returns those that match.
    """

    cursor: int
    count: int = 10
    pattern: bytes | None = None
    type_name: bytes | None = None


class DbSize(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Answer: the number of keys."""


class Stats(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Answer: the machine's `overview`."""


KvQuery: TypeAlias = Get | Mget | Exists | Type | Strlen | Pttl | ExpireTime | Keys | Scan | DbSize | Stats


class KvError(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="error"):
    """A reply that says why the command changed nothing; an ordinary reply, the same on every member.

    `code` is one of `not_integer`, `overflow`, `invalid_expire`, `too_big`, `not_pairs`.
    """

    code: str


def error_code(reply: Any) -> str | None:
    """The code if `reply` is a `KvError`, as it is or as decoded without a type; else None."""
    if type(reply) is KvError:
        return reply.code
    if type(reply) is list and len(reply) == 2 and reply[0] == "error":
        return str(reply[1])
    return None
