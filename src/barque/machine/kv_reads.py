"""What each query of the key-value machine answers, and how much work it may be.

A query runs in one piece at the leader, which serves nobody else meanwhile. So a query that would look
at too much is refused before it begins, and an answer is measured before it is encoded: until then it
refers to the values and copies none.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from barque.errors import InvalidCommand
from barque.machine.kv_commands import (
    INT64_MAX,
    INT64_MIN,
    DbSize,
    Encoding,
    Exists,
    ExpireTime,
    Get,
    GetRange,
    Keys,
    MemoryUsage,
    Mget,
    Position,
    Pttl,
    RandomKey,
    Scan,
    Stats,
    Strlen,
    TooLarge,
    Type,
)
from barque.machine.kv_glob import Glob, compile_glob
from barque.machine.kv_scan import ScanIndex
from barque.machine.kv_state import KvState

ANSWER_BYTES_MAX: Final = 60 * 1024 * 1024
"""The most that an answer of many keys or values may have: it travels in one piece."""

WORK_MAX: Final = 16 * 1024 * 1024
"""The most work of one query, in steps of about 10 ns: a key costs some, and each byte matched costs one."""

_WORK_PER_KEY: Final = 16
_ITEM_BYTES: Final = 16  # what an item of an answer takes beside its bytes
_SCAN_COUNT_MAX: Final = 10_000
_ENTRY_BYTES: Final = 200  # two places in dictionaries and two objects, about
_EMBSTR_BYTES_MAX: Final = 44
_OLDEST_KEYS: Final = 1_000


def answer_bytes(reply: Any) -> int:
    """About how many bytes a reply has when it is encoded; what cannot be large counts as nothing."""
    if type(reply) is bytes:
        return len(reply)
    if type(reply) in (list, tuple):
        return _ITEM_BYTES * len(reply) + sum(map(answer_bytes, reply))
    return 0


def _within(reply: Any, bytes_max: int | None, what: str) -> Any:
    """The reply, or `TooLarge`. Raises `InvalidCommand` if it can never be sent."""
    size = answer_bytes(reply)
    if bytes_max is not None and size > bytes_max:
        return TooLarge(size)
    if size > ANSWER_BYTES_MAX:
        raise InvalidCommand(
            f"the answer to {what} has {size} bytes, more than the limit of {ANSWER_BYTES_MAX}; "
            "nothing was done; ask for less at a time"
        )
    return reply


def _get(query: Get, state: KvState) -> bytes | TooLarge | None:
    value = state.values.get(query.key)
    limit = query.bytes_max
    if limit is not None and value is not None and len(value) > limit:
        return TooLarge(len(value))
    return value


def _mget(query: Mget, state: KvState) -> Any:
    return _within(list(map(state.values.get, query.keys)), query.bytes_max, "MGET")


def _get_range(query: GetRange, state: KvState) -> Any:
    value = state.values.get(query.key, b"")
    size = len(value)
    if query.start < 0 and query.end < 0 and query.start > query.end:
        return b""
    start = max(query.start + size, 0) if query.start < 0 else query.start
    end = max(query.end + size, 0) if query.end < 0 else query.end
    return _within(value[start : end + 1], query.bytes_max, "GETRANGE")


def _exists(query: Exists, state: KvState) -> int:
    return sum(map(state.values.__contains__, query.keys))


def _type(query: Type, state: KvState) -> bytes:
    return b"string" if query.key in state.values else b"none"


def _strlen(query: Strlen, state: KvState) -> int:
    return len(state.values.get(query.key, b""))


def _encoding(query: Encoding, state: KvState) -> bytes | None:
    value = state.values.get(query.key)
    if value is None:
        return None
    if len(value) <= 20 and value.removeprefix(b"-").isdigit():
        number = int(value)
        if b"%d" % number == value and INT64_MIN <= number <= INT64_MAX:
            return b"int"
    return b"embstr" if len(value) <= _EMBSTR_BYTES_MAX else b"raw"


def _memory_usage(query: MemoryUsage, state: KvState) -> int | None:
    value = state.values.get(query.key)
    return None if value is None else len(query.key) + len(value) + _ENTRY_BYTES


def _expire_time(query: ExpireTime | Pttl, state: KvState) -> int:
    if query.key not in state.values:
        return -2
    return state.expiries.get(query.key, -1)


def _pttl(query: Pttl, state: KvState) -> int:
    at_ms = _expire_time(query, state)
    return at_ms if at_ms < 0 else at_ms - state.now_ms


def _keys(query: Keys, state: KvState) -> Any:
    glob = compile_pattern(query.pattern)
    values = state.values
    work = _WORK_PER_KEY * len(values)
    if work <= WORK_MAX:
        work += glob.work(sum(map(len, values)))
    if work > WORK_MAX:
        raise InvalidCommand(
            f"KEYS would look at {len(values)} keys in one piece, which is too much work; use SCAN"
        )
    return _within(list(filter(glob.matches, values)), query.bytes_max, "KEYS")


def compile_pattern(pattern: bytes) -> Glob:
    """The pattern, compiled. Raises `InvalidCommand` if it is too long."""
    try:
        return compile_glob(pattern)
    except ValueError as error:
        raise InvalidCommand(str(error)) from None


def _scan(query: Scan, state: KvState) -> Any:
    if query.type_name is not None and query.type_name.lower() != b"string":
        return 0, []
    glob = compile_pattern(b"*" if query.pattern is None else query.pattern)
    index = _scan_index(state)
    if not index.advance():
        return index.again(query.cursor), []
    count = min(max(query.count, 1), _SCAN_COUNT_MAX)
    return _within(index.page(query.cursor, count, _matcher(glob), _page_cost(glob)), query.bytes_max, "SCAN")


def _matcher(glob: Glob) -> Callable[[bytes], object]:
    def matches(key: bytes) -> object:
        if glob.work(len(key)) > WORK_MAX:
            raise InvalidCommand(
                f"this pattern is too much work for a key of {len(key)} bytes; use a simpler one"
            )
        return glob.matches(key)

    return matches


def _page_cost(glob: Glob) -> Callable[[bytes], int]:
    """What part of a page's work a key is: matching it, and sending it."""

    def cost(key: bytes) -> int:
        return _WORK_PER_KEY + glob.work(len(key)) + len(key)

    return cost


def _scan_index(state: KvState) -> ScanIndex:
    if state.scan_index is None:
        state.scan_index = ScanIndex(state.values)
    return state.scan_index


def _random_key(query: RandomKey, state: KvState) -> bytes | None:
    """While the keys are not in order yet, one of the oldest will do."""
    values = state.values
    if not values:
        return None
    index = _scan_index(state)
    if not index.advance():
        return next(islice(values, query.place % min(len(values), _OLDEST_KEYS), None))
    return index.first_from(query.place)


def _db_size(query: DbSize, state: KvState) -> int:
    return len(state.values)


def _position(query: Position, state: KvState) -> int:
    return state.index


def _stats(query: Stats, state: KvState) -> dict[str, Any]:
    return overview(state)


def overview(state: KvState) -> dict[str, Any]:
    """Counts of keys and expiries, and the log's time."""
    return {
        "keys": len(state.values),
        "expiries": len(state.expiries),
        "expired_total": state.expired_total,
        "now_ms": state.now_ms,
    }


QUERIES: Final[dict[type, Callable[[Any, KvState], Any]]] = {
    Get: _get,
    Mget: _mget,
    GetRange: _get_range,
    Exists: _exists,
    Type: _type,
    Strlen: _strlen,
    Encoding: _encoding,
    MemoryUsage: _memory_usage,
    ExpireTime: _expire_time,
    Pttl: _pttl,
    Keys: _keys,
    Scan: _scan,
    RandomKey: _random_key,
    DbSize: _db_size,
    Position: _position,
    Stats: _stats,
}
