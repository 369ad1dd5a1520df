"""What the key-value machine understands: its commands, its queries and its error reply.

Every class is one msgpack array on the wire, `[tag, field, …]`. Tags are part of the log's
format: a tag is never given to another class. An older version would ignore a new field and do something else
than the newer one, so a released command gets no new fields: what is new is a new class, and comes with a
new version of the machine. Queries are not replicated, so theirs may grow. Times are milliseconds.
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


# --- since version 1


class MsetNx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """`Mset`, if none of the keys exists. Reply: 1 if set, else 0; or `not_pairs`."""

    pairs: list[bytes]


class SetRange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """Overwrite a value from `offset` on, filled up with zero bytes. Reply: the new length or `too_big`.

    An empty `value` changes nothing.
    """

    key: bytes
    offset: int
    value: bytes


class IncrByFloat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Add a decimal fraction, exactly. Reply: the sum as text, `not_float` or `float_overflow`.

    An absent value counts as 0. The sum has at most 17 places after the point, as in Redis.
    """

    key: bytes
    delta: bytes


class Rename(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Give a value and its expiry to another key. Reply: 1 or `no_such_key`.

    With `only_absent` nothing is done if that key exists. Reply: 0.
    """

    key: bytes
    new_key: bytes
    only_absent: bool = False


class Copy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """Give a value and its expiry to another key as well. Reply: 1; 0 if absent, or if that key exists."""

    key: bytes
    new_key: bytes
    replace: bool = False


class GetEx(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """Get a value, and set or drop the key's expiry. Reply: the value, None, or `invalid_expire`."""

    key: bytes
    ttl_ms: int | None = None
    expire_at_ms: int | None = None
    persist: bool = False


class SetIf(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """`SetWith`, if the present value is `expected`; or, without `equal`, if it is anything else.

    An absent key differs from every value. Of the flags only SET_GET and SET_KEEPTTL count.
    """

    key: bytes
    value: bytes
    expected: bytes
    equal: bool = True
    flags: int = 0
    ttl_ms: int | None = None
    expire_at_ms: int | None = None


class DelIf(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """Delete a key if its value is `expected`; or, without `equal`, anything else. Reply: 1 or 0."""

    key: bytes
    expected: bytes
    equal: bool = True


# Queries whose answers can be large have `bytes_max`: if the answer would be larger, it is a `TooLarge`.


class Get(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Answer: the value or None."""

    key: bytes
    bytes_max: int | None = None


class Mget(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Answer: a list of values or None."""

    keys: list[bytes]
    bytes_max: int | None = None


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
    bytes_max: int | None = None


class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Answer: [next cursor, keys]. Start at cursor 0; the next cursor 0 means done.

    Looks at about `count` keys and returns those that match.
    """

    cursor: int
    count: int = 10
    pattern: bytes | None = None
    type_name: bytes | None = None
    bytes_max: int | None = None


class DbSize(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """Answer: the number of keys."""


class Stats(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Answer: the machine's `overview`."""


class Position(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Answer: the index of the latest command. A `Transaction` may watch keys from there on."""


class GetRange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Answer: the bytes from `start` to `end`, both included; negative ones count from the end."""

    key: bytes
    start: int
    end: int
    bytes_max: int | None = None


class RandomKey(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """Answer: the first key at or after this place in the order of scans, or None if there are no keys.

    The caller draws the place, below 2**52: a machine draws no random numbers.
    """

    place: int


class Encoding(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """Answer: how Redis would keep the value: `int`, `embstr`, `raw`; None for an absent key."""

    key: bytes


class MemoryUsage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Answer: about how many bytes the key and its value take on one member; None for an absent key."""

    key: bytes


Lookup: TypeAlias = (
    Get
    | Mget
    | Exists
    | Type
    | Strlen
    | Pttl
    | ExpireTime
    | DbSize
    | Position
    | GetRange
    | Encoding
    | MemoryUsage
)
"""Queries whose work is bounded by their own size and that of their answer."""

KvQuery: TypeAlias = Lookup | Keys | Scan | Stats | RandomKey


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """A query as a command: it sees what the commands before it in its transaction did. Reply: the answer."""

    query: Lookup


KvCommandV0: TypeAlias = (
    Set | SetWith | SetNx | GetSet | GetDel | Mset | Del | Append | IncrBy | Expire | Persist | FlushAll | Cas
)

Operation: TypeAlias = (
    KvCommandV0 | MsetNx | SetRange | IncrByFloat | Rename | Copy | GetEx | SetIf | DelIf | Read
)


class Transaction(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """Do all operations, one after the other, with nothing in between. Reply: a list of their replies.

    Reply None, and nothing is done, if a key of `watched` has changed since the position given with it. An
    operation that replies a `KvError` changes nothing; the others are done all the same, as in Redis.
    """

    watched: list[tuple[bytes, int]]
    operations: list[Operation]


class Guarded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """Do the command, unless its reply could have more than `bytes_max` bytes: then reply a `TooLarge`.

    So a caller has memory for the old values and the answers that come with a change before it is made.
    """

    bytes_max: int
    command: GetSet | GetDel | GetEx | SetWith | SetIf | Transaction


KvCommand: TypeAlias = Operation | Transaction | Guarded


class KvError(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="error"):
    """A reply that says why the command changed nothing; an ordinary reply, the same on every member.

    `code` is one of `not_integer`, `overflow`, `invalid_expire`, `too_big`, `not_pairs`, `not_float`,
    `float_overflow`, `no_such_key`, `reply_too_big` (in a transaction) and `not_yet` (the command needs a
    newer version of the machine than the one in force).
    """

    code: str


class TooLarge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="too_large"):
    """The reply could have `size` bytes, which is more than was asked for. Nothing was done."""

    size: int


def error_code(reply: Any) -> str | None:
    """The code if `reply` is a `KvError`, as it is or as decoded without a type; else None."""
    if type(reply) is KvError:
        return reply.code
    if type(reply) is list and len(reply) == 2 and reply[0] == "error":
        return str(reply[1])
    return None


def too_large(reply: Any) -> int | None:
    """The size if `reply` is a `TooLarge`, as it is or as decoded without a type; else None."""
    if type(reply) is TooLarge:
        return reply.size
    if type(reply) is list and len(reply) == 2 and reply[0] == "too_large":
        return int(reply[1])
    return None
