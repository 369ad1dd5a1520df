"""The commands that reach the cluster: how each is read, and how the machine's reply is written.

A row of the table turns the arguments into a command or query of `KvMachine`, and its reply into
bytes. Errors that the arguments alone decide are raised here as `CommandError`, in Redis' words; those
that depend on the stored value come back from the machine as a code.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from barque.errors import (
    BarqueError,
    InvalidCommand,
    NoLeader,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    QueryTimeout,
    Refused,
)
from barque.gateways.resp import encoder
from barque.gateways.resp.parser import strict_integer
from barque.machine import kv_commands as kv

NOT_INTEGER: Final = "ERR value is not an integer or out of range"
SYNTAX_ERROR: Final = "ERR syntax error"


class Kind(enum.IntEnum):
    """What a command needs before it may run."""

    WRITE = 1  # goes to the log
    READ = 2  # goes to a query
    LOCAL = 3  # answered at once
    SESSION = 4  # changes the connection: waits until all before it is answered


class CommandError(Exception):
    """The arguments are wrong; the text is the error reply."""


class ReplyContext(Protocol):
    """What a conversion may depend on."""

    resp3: bool

    def now_ms(self) -> int:
        """Unix time, for the replies of TTL."""
        ...


class Command(msgspec.Struct, frozen=True, gc=False):
    """One row. `arity` counts the name; a negative one is a minimum, as in Redis.

    `run` makes the machine's command or query out of the arguments (LOCAL and SESSION: the reply, out
    of the session and the arguments); `reply` converts the machine's reply.
    """

    name: str
    arity: int
    kind: Kind
    run: Callable[..., Any]
    reply: Callable[[Any, ReplyContext], bytes] | None
    summary: str
    keys: tuple[int, int, int] = (0, 0, 0)
    without_auth: bool = False

    def accepts(self, count: int) -> bool:
        """Whether a request of `count` arguments (with the name) has the right length."""
        return count == self.arity if self.arity > 0 else count >= -self.arity


def wrong_arity(name: str) -> str:
    """Redis' text for a wrong number of arguments."""
    return f"ERR wrong number of arguments for '{name}' command"


def unknown_command(request: list[bytes]) -> str:
    """Redis' text for a command it does not know; quotes at most about 128 bytes of the arguments."""
    quoted = ""
    for argument in request[1:]:
        if len(quoted) >= 128:
            break
        quoted += f"'{_c_string(argument, 128 - len(quoted))}' "
    return f"ERR unknown command '{_c_string(request[0], 128)}', with args beginning with: {quoted}"


def unknown_subcommand(container: str, name: bytes) -> str:
    """Redis' text for `CONTAINER name` that it does not know."""
    return f"ERR unknown subcommand '{_c_string(name, 128)}'. Try {container} HELP."


def _c_string(value: bytes, limit: int) -> str:
    return value.partition(b"\0")[0][:limit].decode("latin-1")


_OUTCOMES: Final[tuple[tuple[type[BarqueError], str], ...]] = (
    (OutcomeUnknown, "UNKNOWN"),
    (NotLeader, "NOLEADER"),
    (NoLeader, "NOLEADER"),
    (NoQuorum, "NOQUORUM"),
    (Overloaded, "BUSY"),
    (QueryTimeout, "TIMEOUT"),
    (InvalidCommand, "ERR"),
    (Refused, "REFUSED"),
)


def outcome_reply(outcome: BarqueError) -> bytes:
    """The RESP error for an error of the cluster. Its first word says whether the command happened."""
    for kind, prefix in _OUTCOMES:
        if isinstance(outcome, kind):
            return encoder.error(f"{prefix} {str(outcome) or type(outcome).__name__}")
    return encoder.error(f"ERR {type(outcome).__name__}: {outcome}")


def machine_error(code: str, name: str) -> bytes:
    """The error reply for a `KvError` that the command `name` got."""
    match code:
        case "not_integer":
            return encoder.error(NOT_INTEGER)
        case "overflow":
            return encoder.error("ERR increment or decrement would overflow")
        case "invalid_expire":
            return encoder.error(f"ERR invalid expire time in '{name}' command")
        case "too_big":
            return encoder.error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
        case _:
            return encoder.error(f"ERR {code}")


# --- reading arguments


def integer_argument(argument: bytes) -> int:
    """A signed 64-bit integer, as strictly as Redis reads it."""
    number = strict_integer(argument)
    if number is None or not kv.INT64_MIN <= number <= kv.INT64_MAX:
        raise CommandError(NOT_INTEGER)
    return number


_SET_TIMES: Final = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}
_SET_CONDITIONS: Final = {
    b"NX": (kv.SET_NX, kv.SET_XX),
    b"XX": (kv.SET_XX, kv.SET_NX),
    b"GET": (kv.SET_GET, 0),
}


def _set(request: list[bytes]) -> kv.Set | kv.SetWith:
    if len(request) == 3:
        return kv.Set(request[1], request[2])
    flags = 0
    unit: bytes | None = None
    time = b""
    options = iter(request[3:])
    for option in options:
        word = option.upper()
        if word in _SET_CONDITIONS:
            flag, excluded = _SET_CONDITIONS[word]
            if flags & excluded:
                raise CommandError(SYNTAX_ERROR)
            flags |= flag
        elif word == b"KEEPTTL" and unit is None:
            flags |= kv.SET_KEEPTTL
        elif word in _SET_TIMES and not flags & kv.SET_KEEPTTL and unit in (None, word):
            unit = word
            given = next(options, None)
            if given is None:
                raise CommandError(SYNTAX_ERROR)
            time = given
        else:
            raise CommandError(SYNTAX_ERROR)
    if unit is None:
        return kv.SetWith(request[1], request[2], flags)
    factor, absolute = _SET_TIMES[unit]
    return _set_with_time(request[1], request[2], flags, _expiry("set", time, factor), absolute)


def _set_with_time(key: bytes, value: bytes, flags: int, time_ms: int, absolute: bool) -> kv.SetWith:
    if absolute:
        return kv.SetWith(key, value, flags, expire_at_ms=time_ms)
    return kv.SetWith(key, value, flags, ttl_ms=time_ms)


def _expiry(name: str, argument: bytes, factor: int) -> int:
    """The milliseconds of a positive time; what overflows is refused."""
    time_ms = integer_argument(argument) * factor
    if not 0 < time_ms <= kv.INT64_MAX:
        raise CommandError(f"ERR invalid expire time in '{name}' command")
    return time_ms


def _setex(name: str, factor: int) -> Callable[[list[bytes]], kv.SetWith]:
    def parse(request: list[bytes]) -> kv.SetWith:
        return kv.SetWith(request[1], request[3], ttl_ms=_expiry(name, request[2], factor))

    return parse


_EXPIRE_FLAGS: Final = {b"NX": kv.EXPIRE_NX, b"XX": kv.EXPIRE_XX, b"GT": kv.EXPIRE_GT, b"LT": kv.EXPIRE_LT}


def _expire(name: str, factor: int, absolute: bool) -> Callable[[list[bytes]], kv.Expire]:
    def parse(request: list[bytes]) -> kv.Expire:
        flags = 0
        for option in request[3:]:
            flag = _EXPIRE_FLAGS.get(option.upper())
            if flag is None:
                raise CommandError(f"ERR Unsupported option {_c_string(option, len(option))}")
            flags |= flag
        if flags & kv.EXPIRE_NX and flags != kv.EXPIRE_NX:
            raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
        if flags & kv.EXPIRE_GT and flags & kv.EXPIRE_LT:
            raise CommandError("ERR GT and LT options at the same time are not compatible")
        time_ms = integer_argument(request[2]) * factor
        if not kv.INT64_MIN <= time_ms <= kv.INT64_MAX:
            raise CommandError(f"ERR invalid expire time in '{name}' command")
        return kv.Expire(request[1], time_ms, absolute, flags)

    return parse


def _mset(request: list[bytes]) -> kv.Mset:
    if len(request) % 2 == 0:
        raise CommandError(wrong_arity("mset"))
    return kv.Mset(request[1:])


def _decr_by(request: list[bytes]) -> kv.IncrBy:
    delta = integer_argument(request[2])
    if delta == kv.INT64_MIN:
        raise CommandError("ERR decrement would overflow")
    return kv.IncrBy(request[1], -delta)


def _flush_all(request: list[bytes]) -> kv.FlushAll:
    if len(request) > 2 or (len(request) == 2 and request[1].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(SYNTAX_ERROR)
    return kv.FlushAll()


def _cas(request: list[bytes]) -> kv.Cas:
    if len(request) > 4:
        raise CommandError(wrong_arity("barque.cas"))
    return kv.Cas(request[1], request[2] if len(request) == 4 else None, request[-1])


def _scan(request: list[bytes]) -> kv.Scan:
    cursor = _cursor(request[1])
    count, pattern, type_name = 10, None, None
    options = iter(request[2:])
    for option in options:
        word, argument = option.upper(), next(options, None)
        if argument is None:
            raise CommandError(SYNTAX_ERROR)
        if word == b"COUNT":
            count = integer_argument(argument)
            if count < 1:
                raise CommandError(SYNTAX_ERROR)
        elif word == b"MATCH":
            pattern = argument
        elif word == b"TYPE":
            type_name = argument
        else:
            raise CommandError(SYNTAX_ERROR)
    return kv.Scan(cursor, count, pattern, type_name)


def _cursor(argument: bytes) -> int:
    """An unsigned 64-bit number. Nothing counts as 0, as for Redis' strtoul; signs are refused."""
    if len(argument) > 20 or not (argument.isdigit() or not argument):
        raise CommandError("ERR invalid cursor")
    cursor = int(argument or b"0")
    if cursor >= 2**64:
        raise CommandError("ERR invalid cursor")
    return cursor


# --- writing replies


def _ok(reply: Any, context: ReplyContext) -> bytes:
    return encoder.OK


def _set_reply(reply: Any, context: ReplyContext) -> bytes:
    return encoder.OK if reply is True else encoder.bulk_or_null(reply, context.resp3)


def _integer(reply: Any, context: ReplyContext) -> bytes:
    return encoder.integer(reply)


def _value(reply: Any, context: ReplyContext) -> bytes:
    return encoder.bulk_or_null(reply, context.resp3)


def _values(reply: Any, context: ReplyContext) -> bytes:
    return encoder.bulk_array(reply, context.resp3)


def _type_reply(reply: Any, context: ReplyContext) -> bytes:
    return b"+%b\r\n" % reply


def _scan_reply(reply: Any, context: ReplyContext) -> bytes:
    cursor, keys = reply
    return encoder.array([encoder.bulk(b"%d" % cursor), encoder.bulk_array(keys, context.resp3)])


def _pttl_reply(reply: Any, context: ReplyContext) -> bytes:
    # The machine's time stands still between commands; a person watching TTL expects a clock.
    return encoder.integer(reply if reply < 0 else max(0, reply - context.now_ms()))


def _ttl_reply(reply: Any, context: ReplyContext) -> bytes:
    return encoder.integer(reply if reply < 0 else (max(0, reply - context.now_ms()) + 500) // 1000)


def _expire_time_reply(reply: Any, context: ReplyContext) -> bytes:
    return encoder.integer(reply if reply < 0 else (reply + 500) // 1000)


_W, _R = Kind.WRITE, Kind.READ
_ONE, _ALL, _PAIRS = (1, 1, 1), (1, -1, 1), (1, -1, 2)

DATA_COMMANDS: Final = (
    Command("set", -3, _W, _set, _set_reply, "Set a value, with conditions and expiry.", _ONE),
    Command(
        "setnx", 3, _W, lambda r: kv.SetNx(r[1], r[2]), _integer, "Set the value of an absent key.", _ONE
    ),
    Command("setex", 4, _W, _setex("setex", 1000), _ok, "Set a value that expires in seconds.", _ONE),
    Command("psetex", 4, _W, _setex("psetex", 1), _ok, "Set a value that expires in milliseconds.", _ONE),
    Command(
        "getset", 3, _W, lambda r: kv.GetSet(r[1], r[2]), _value, "Set a value, reply the old one.", _ONE
    ),
    Command("getdel", 2, _W, lambda r: kv.GetDel(r[1]), _value, "Delete a key, reply its value.", _ONE),
    Command("mset", -3, _W, _mset, _ok, "Set several values at once.", _PAIRS),
    Command("del", -2, _W, lambda r: kv.Del(r[1:]), _integer, "Delete keys.", _ALL),
    Command("unlink", -2, _W, lambda r: kv.Del(r[1:]), _integer, "Delete keys; the same as DEL.", _ALL),
    Command("append", 3, _W, lambda r: kv.Append(r[1], r[2]), _integer, "Append to a value.", _ONE),
    Command("incr", 2, _W, lambda r: kv.IncrBy(r[1]), _integer, "Add 1 to a number.", _ONE),
    Command("decr", 2, _W, lambda r: kv.IncrBy(r[1], -1), _integer, "Subtract 1 from a number.", _ONE),
    Command(
        "incrby",
        3,
        _W,
        lambda r: kv.IncrBy(r[1], integer_argument(r[2])),
        _integer,
        "Add to a number.",
        _ONE,
    ),
    Command("decrby", 3, _W, _decr_by, _integer, "Subtract from a number.", _ONE),
    Command("expire", -3, _W, _expire("expire", 1000, False), _integer, "Expire in seconds.", _ONE),
    Command("pexpire", -3, _W, _expire("pexpire", 1, False), _integer, "Expire in milliseconds.", _ONE),
    Command("expireat", -3, _W, _expire("expireat", 1000, True), _integer, "Expire at a second.", _ONE),
    Command("pexpireat", -3, _W, _expire("pexpireat", 1, True), _integer, "Expire at a millisecond.", _ONE),
    Command("persist", 2, _W, lambda r: kv.Persist(r[1]), _integer, "Drop a key's expiry.", _ONE),
    Command("flushall", -1, _W, _flush_all, _ok, "Delete all keys."),
    Command("flushdb", -1, _W, _flush_all, _ok, "Delete all keys; the same as FLUSHALL."),
    Command("barque.cas", -3, _W, _cas, _integer, "Set a value if it is the expected one.", _ONE),
    Command("get", 2, _R, lambda r: kv.Get(r[1]), _value, "Reply a value.", _ONE),
    Command("mget", -2, _R, lambda r: kv.Mget(r[1:]), _values, "Reply several values.", _ALL),
    Command("exists", -2, _R, lambda r: kv.Exists(r[1:]), _integer, "Count the keys that exist.", _ALL),
    Command("type", 2, _R, lambda r: kv.Type(r[1]), _type_reply, "Reply the type of a value.", _ONE),
    Command("strlen", 2, _R, lambda r: kv.Strlen(r[1]), _integer, "Reply the length of a value.", _ONE),
    Command("ttl", 2, _R, lambda r: kv.ExpireTime(r[1]), _ttl_reply, "Seconds to live.", _ONE),
    Command("pttl", 2, _R, lambda r: kv.ExpireTime(r[1]), _pttl_reply, "Milliseconds to live.", _ONE),
    Command(
        "expiretime", 2, _R, lambda r: kv.ExpireTime(r[1]), _expire_time_reply, "Expiry, Unix seconds.", _ONE
    ),
    Command(
        "pexpiretime", 2, _R, lambda r: kv.ExpireTime(r[1]), _integer, "Expiry, Unix milliseconds.", _ONE
    ),
    Command("keys", 2, _R, lambda r: kv.Keys(r[1]), _values, "All keys that match a pattern."),
    Command("scan", -2, _R, _scan, _scan_reply, "Walk through the keys, a page at a time."),
    Command("dbsize", 1, _R, lambda r: kv.DbSize(), _integer, "The number of keys."),
)
