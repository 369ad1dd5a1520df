"""The commands that reach the cluster: how each is read, and how the machine's reply is written."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from barque.gateways.resp import encoder
from barque.gateways.resp.command import (
    SYNTAX_ERROR,
    Command,
    CommandError,
    Kind,
    ReplyContext,
    c_string,
    integer_argument,
    unknown_subcommand,
    wrong_arity,
)
from barque.machine import kv_commands as kv
from barque.machine.kv_scan import HASH_BITS
from barque.machine.kv_writes import VALUE_BYTES_MAX, parse_float

_TOO_LONG: Final = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

# --- reading arguments

_TIMES: Final = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}
_SET_FLAGS: Final = {
    b"NX": (kv.SET_NX, kv.SET_XX),
    b"XX": (kv.SET_XX, kv.SET_NX),
    b"GET": (kv.SET_GET, 0),
}


class _SetOptions:
    """The options of SET, read in any order, and refused where Redis refuses them."""

    __slots__ = ("comparand", "equal", "expire_at_ms", "flags", "ttl_ms")

    def __init__(self, name: str, options: list[bytes]) -> None:
        self.flags = 0
        self.comparand: bytes | None = None
        self.equal = True
        self.ttl_ms: int | None = None
        self.expire_at_ms: int | None = None
        unit: bytes | None = None
        time = b""
        words = iter(options)
        for option in words:
            word = option.upper()
            if word in _SET_FLAGS and not (word != b"GET" and self.comparand is not None):
                flag, excluded = _SET_FLAGS[word]
                if self.flags & excluded:
                    raise CommandError(SYNTAX_ERROR)
                self.flags |= flag
            elif word == b"KEEPTTL" and unit is None:
                self.flags |= kv.SET_KEEPTTL
            elif word in _TIMES and not self.flags & kv.SET_KEEPTTL and unit in (None, word):
                unit, time = word, _next(words)
            elif word in _COMPARISONS and self.comparand is None and not self.flags & (kv.SET_NX | kv.SET_XX):
                self.equal, self.comparand = _COMPARISONS[word], _next(words)
            else:
                raise CommandError(SYNTAX_ERROR)
        if unit is not None:
            self.ttl_ms, self.expire_at_ms = _time(name, unit, time)


_COMPARISONS: Final = {b"IFEQ": True, b"IFNE": False}


def _next(words: Iterator[bytes]) -> bytes:
    word = next(words, None)
    if word is None:
        raise CommandError(SYNTAX_ERROR)
    return word


def _time(name: str, unit: bytes, argument: bytes) -> tuple[int | None, int | None]:
    """The relative time or the absolute one, in milliseconds."""
    factor, absolute = _TIMES[unit]
    time_ms = _expiry(name, argument, factor)
    return (None, time_ms) if absolute else (time_ms, None)


def _set(request: list[bytes]) -> kv.Set | kv.SetWith | kv.SetIf:
    if len(request) == 3:
        return kv.Set(request[1], request[2])
    given = _SetOptions("set", request[3:])
    key, value, flags = request[1], request[2], given.flags
    if given.comparand is None:
        return kv.SetWith(key, value, flags, given.ttl_ms, given.expire_at_ms)
    return kv.SetIf(key, value, given.comparand, given.equal, flags, given.ttl_ms, given.expire_at_ms)


def _get_ex(request: list[bytes]) -> kv.GetEx:
    if len(request) == 2:
        return kv.GetEx(request[1])
    unit = request[2].upper()
    if unit == b"PERSIST" and len(request) == 3:
        return kv.GetEx(request[1], persist=True)
    if unit not in _TIMES or len(request) != 4:
        raise CommandError(SYNTAX_ERROR)
    return kv.GetEx(request[1], *_time("getex", unit, request[3]))


def _del_if(request: list[bytes]) -> kv.DelIf | kv.Del:
    if len(request) == 2:
        return kv.Del([request[1]])
    if len(request) != 4 or request[2].upper() not in _COMPARISONS:
        raise CommandError(SYNTAX_ERROR)
    return kv.DelIf(request[1], request[3], _COMPARISONS[request[2].upper()])


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
                raise CommandError(f"ERR Unsupported option {c_string(option, len(option))}")
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


def _pairs(request: list[bytes]) -> list[bytes]:
    if len(request) % 2 == 0:
        raise CommandError(wrong_arity(request[0].lower().decode("latin-1")))
    return request[1:]


def _set_range(request: list[bytes]) -> kv.SetRange:
    offset = integer_argument(request[2])
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    if request[3] and offset + len(request[3]) > VALUE_BYTES_MAX:
        raise CommandError(_TOO_LONG)
    return kv.SetRange(request[1], min(offset, VALUE_BYTES_MAX), request[3])


_INFINITE: Final = re.compile(rb"[+-]?(inf|infinity)", re.IGNORECASE)


def _incr_by_float(request: list[bytes]) -> kv.IncrByFloat:
    if _INFINITE.fullmatch(request[2]):
        raise CommandError("ERR increment would produce NaN or Infinity")
    if parse_float(request[2]) is None:
        raise CommandError("ERR value is not a valid float")
    return kv.IncrByFloat(request[1], request[2])


def _copy(request: list[bytes]) -> kv.Copy:
    replace = False
    options = iter(request[3:])
    for option in options:
        word = option.upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB":
            if integer_argument(_next(options)) != 0:
                raise CommandError("ERR DB index is out of range")
        else:
            raise CommandError(SYNTAX_ERROR)
    if request[1] == request[2]:
        raise CommandError("ERR source and destination objects are the same")
    return kv.Copy(request[1], request[2], replace)


def _decr_by(request: list[bytes]) -> kv.IncrBy:
    delta = integer_argument(request[2])
    if delta == kv.INT64_MIN:
        raise CommandError("ERR decrement would overflow")
    return kv.IncrBy(request[1], -delta)


def _flush_all(request: list[bytes]) -> kv.FlushAll:
    if len(request) > 2 or (len(request) == 2 and request[1].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(SYNTAX_ERROR)
    return kv.FlushAll()


def _cas(request: list[bytes]) -> kv.SetNx | kv.SetIf:
    """`key new`, or `key expected new` and a time; without a time the key keeps the one it has."""
    if len(request) == 3:
        return kv.SetNx(request[1], request[2])
    options = request[4:]
    if [option.upper() for option in options] == [b"PERSIST"]:
        return kv.SetIf(request[1], request[3], request[2])
    given = _SetOptions("barque.cas", options)
    if given.comparand is not None or given.flags & ~kv.SET_KEEPTTL:
        raise CommandError(SYNTAX_ERROR)
    keep = given.ttl_ms is None and given.expire_at_ms is None
    flags = kv.SET_KEEPTTL if keep else 0
    return kv.SetIf(request[1], request[3], request[2], True, flags, given.ttl_ms, given.expire_at_ms)


def _scan(request: list[bytes], bytes_max: int | None) -> kv.Scan:
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
    return kv.Scan(cursor, count, pattern, type_name, bytes_max)


def _get_range(request: list[bytes], bytes_max: int | None) -> kv.GetRange:
    return kv.GetRange(request[1], integer_argument(request[2]), integer_argument(request[3]), bytes_max)


def _object(request: list[bytes]) -> kv.Encoding:
    if request[1].upper() != b"ENCODING":
        raise CommandError(unknown_subcommand("OBJECT", request[1]))
    if len(request) != 3:
        raise CommandError(wrong_arity("object|encoding"))
    return kv.Encoding(request[2])


def _memory(request: list[bytes]) -> kv.MemoryUsage:
    if request[1].upper() != b"USAGE":
        raise CommandError(unknown_subcommand("MEMORY", request[1]))
    if len(request) < 3:
        raise CommandError(wrong_arity("memory|usage"))
    if len(request) > 3:
        if len(request) != 5 or request[3].upper() != b"SAMPLES":
            raise CommandError(SYNTAX_ERROR)
        if integer_argument(request[4]) < 0:
            raise CommandError(SYNTAX_ERROR)
    return kv.MemoryUsage(request[2])


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


def _cas_reply(reply: Any, context: ReplyContext) -> bytes:
    return encoder.integer(1 if reply else 0)


def _random_key(session: Any, request: list[bytes]) -> kv.RandomKey:
    return kv.RandomKey(session.shared.random.getrandbits(HASH_BITS))


def _integer(reply: Any, context: ReplyContext) -> bytes:
    return encoder.integer(reply)


def _value(reply: Any, context: ReplyContext) -> bytes:
    return encoder.bulk_or_null(reply, context.resp3)


def _values(reply: Any, context: ReplyContext) -> bytes:
    return encoder.bulk_array(reply, context.resp3)


def _type_reply(reply: Any, context: ReplyContext) -> bytes:
    return b"+%b\r\n" % reply


def _count_or_null(reply: Any, context: ReplyContext) -> bytes:
    return encoder.null(context.resp3) if reply is None else encoder.integer(reply)


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
_NO_KEYS, _ONE, _TWO, _ALL, _PAIRS = (0, 0, 0), (1, 1, 1), (1, 2, 1), (1, -1, 1), (1, -1, 2)


def _write(
    name: str,
    arity: int,
    run: Callable[..., Any],
    reply: Callable[..., bytes],
    summary: str,
    keys: tuple[int, int, int] = _ONE,
    group: str = "string",
) -> Command:
    return Command(name, arity, _W, run, reply, summary, keys, group=group)


def _read(
    name: str,
    arity: int,
    run: Callable[..., Any],
    reply: Callable[..., bytes],
    summary: str,
    keys: tuple[int, int, int] = _ONE,
    group: str = "string",
) -> Command:
    return Command(name, arity, _R, run, reply, summary, keys, group=group)


def _large_read(
    name: str,
    arity: int,
    run: Callable[..., Any],
    reply: Callable[..., bytes],
    summary: str,
    keys: tuple[int, int, int] = _ONE,
    group: str = "string",
    *,
    in_transaction: bool = True,
) -> Command:
    return Command(
        name, arity, _R, run, reply, summary, keys, sized=True, in_transaction=in_transaction, group=group
    )


_KEY, _CONN = "generic", "server"

DATA_COMMANDS: Final = (
    _write("set", -3, _set, _set_reply, "Set a value, with conditions and expiry."),
    _write("setnx", 3, lambda r: kv.SetNx(r[1], r[2]), _integer, "Set the value of an absent key."),
    _write("setex", 4, _setex("setex", 1000), _ok, "Set a value that expires in seconds."),
    _write("psetex", 4, _setex("psetex", 1), _ok, "Set a value that expires in milliseconds."),
    _write("getset", 3, lambda r: kv.GetSet(r[1], r[2]), _value, "Set a value, reply the old one."),
    _write("getdel", 2, lambda r: kv.GetDel(r[1]), _value, "Delete a key, reply its value."),
    _write("getex", -2, _get_ex, _value, "Reply a value, and set or drop the key's expiry."),
    _write("mset", -3, lambda r: kv.Mset(_pairs(r)), _ok, "Set several values at once.", _PAIRS),
    _write("msetnx", -3, lambda r: kv.MsetNx(_pairs(r)), _integer, "Set several absent keys.", _PAIRS),
    _write("setrange", 4, _set_range, _integer, "Overwrite a part of a value."),
    _write("append", 3, lambda r: kv.Append(r[1], r[2]), _integer, "Append to a value."),
    _write("incr", 2, lambda r: kv.IncrBy(r[1]), _integer, "Add 1 to a number."),
    _write("decr", 2, lambda r: kv.IncrBy(r[1], -1), _integer, "Subtract 1 from a number."),
    _write("incrby", 3, lambda r: kv.IncrBy(r[1], integer_argument(r[2])), _integer, "Add to a number."),
    _write("decrby", 3, _decr_by, _integer, "Subtract from a number."),
    _write("incrbyfloat", 3, _incr_by_float, _value, "Add to a decimal fraction."),
    _write("del", -2, lambda r: kv.Del(r[1:]), _integer, "Delete keys.", _ALL, _KEY),
    _write("unlink", -2, lambda r: kv.Del(r[1:]), _integer, "Delete keys; the same as DEL.", _ALL, _KEY),
    _write("delex", -2, _del_if, _integer, "Delete a key if its value is the expected one."),
    _write("rename", 3, lambda r: kv.Rename(r[1], r[2]), _ok, "Rename a key.", _TWO, _KEY),
    _write(
        "renamenx", 3, lambda r: kv.Rename(r[1], r[2], True), _integer, "Rename to an absent key.", _TWO, _KEY
    ),
    _write("copy", -3, _copy, _integer, "Copy a key.", _TWO, _KEY),
    _write("expire", -3, _expire("expire", 1000, False), _integer, "Expire in seconds.", _ONE, _KEY),
    _write("pexpire", -3, _expire("pexpire", 1, False), _integer, "Expire in milliseconds.", _ONE, _KEY),
    _write("expireat", -3, _expire("expireat", 1000, True), _integer, "Expire at a second.", _ONE, _KEY),
    _write("pexpireat", -3, _expire("pexpireat", 1, True), _integer, "Expire at a millisecond.", _ONE, _KEY),
    _write("persist", 2, lambda r: kv.Persist(r[1]), _integer, "Drop a key's expiry.", _ONE, _KEY),
    _write("flushall", -1, _flush_all, _ok, "Delete all keys.", _NO_KEYS, _CONN),
    _write("flushdb", -1, _flush_all, _ok, "Delete all keys; the same as FLUSHALL.", _NO_KEYS, _CONN),
    _write("barque.cas", -3, _cas, _cas_reply, "Set a value if it is the expected one."),
    _large_read("get", 2, lambda r, size: kv.Get(r[1], size), _value, "Reply a value."),
    _large_read("mget", -2, lambda r, size: kv.Mget(r[1:], size), _values, "Reply several values.", _ALL),
    _large_read("getrange", 4, _get_range, _value, "Reply a part of a value."),
    _large_read("substr", 4, _get_range, _value, "Reply a part of a value; the same as GETRANGE."),
    _read("exists", -2, lambda r: kv.Exists(r[1:]), _integer, "Count the keys that exist.", _ALL, _KEY),
    _read("touch", -2, lambda r: kv.Exists(r[1:]), _integer, "Count the keys that exist.", _ALL, _KEY),
    _read("type", 2, lambda r: kv.Type(r[1]), _type_reply, "Reply the type of a value.", _ONE, _KEY),
    _read("strlen", 2, lambda r: kv.Strlen(r[1]), _integer, "Reply the length of a value."),
    _read("ttl", 2, lambda r: kv.ExpireTime(r[1]), _ttl_reply, "Seconds to live.", _ONE, _KEY),
    _read("pttl", 2, lambda r: kv.ExpireTime(r[1]), _pttl_reply, "Milliseconds to live.", _ONE, _KEY),
    _read(
        "expiretime",
        2,
        lambda r: kv.ExpireTime(r[1]),
        _expire_time_reply,
        "Expiry, Unix seconds.",
        _ONE,
        _KEY,
    ),
    _read(
        "pexpiretime", 2, lambda r: kv.ExpireTime(r[1]), _integer, "Expiry, Unix milliseconds.", _ONE, _KEY
    ),
    _read("object", -2, _object, _value, "How Redis would keep a value.", (2, 2, 1), _KEY),
    _read("memory", -2, _memory, _count_or_null, "About how much memory a key takes.", (2, 2, 1), _CONN),
    _read("dbsize", 1, lambda r: kv.DbSize(), _integer, "The number of keys.", _NO_KEYS, _CONN),
    Command(
        "randomkey",
        1,
        _R,
        _random_key,
        _value,
        "Any key.",
        with_session=True,
        in_transaction=False,
        group=_KEY,
    ),
    _large_read(
        "keys",
        2,
        lambda r, size: kv.Keys(r[1], size),
        _values,
        "All keys that match a pattern.",
        _NO_KEYS,
        _KEY,
        in_transaction=False,
    ),
    _large_read(
        "scan", -2, _scan, _scan_reply, "Walk through the keys.", _NO_KEYS, _KEY, in_transaction=False
    ),
)
