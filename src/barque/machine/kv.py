"""`KvMachine`: a key-value store with the semantics of Redis strings, as a deterministic machine.

Time is the log's time: `KvState.now_ms` is the greatest timestamp of any command so far, so a
leader whose clock runs behind cannot bring an expired key back. Keys that are due are removed
before each command, which keeps the rule simple: what is in the dictionary exists. An idle cluster
expires keys too: the machine asks for a `Timer`, and the `Timeout` that arrives is a command like
any other.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeAlias

from barque.errors import InvalidCommand
from barque.machine.effects import MachineEffect, Timer
from barque.machine.kv_commands import (
    EXPIRE_GT,
    EXPIRE_LT,
    EXPIRE_NX,
    EXPIRE_XX,
    INT64_MAX,
    INT64_MIN,
    SET_GET,
    SET_KEEPTTL,
    SET_NX,
    SET_XX,
    Append,
    Cas,
    DbSize,
    Del,
    Exists,
    Expire,
    ExpireTime,
    FlushAll,
    Get,
    GetDel,
    GetSet,
    IncrBy,
    Keys,
    KvCommand,
    KvError,
    KvQuery,
    Mget,
    Mset,
    Persist,
    Pttl,
    Scan,
    Set,
    SetNx,
    SetWith,
    Stats,
    Strlen,
    Type,
)
from barque.machine.kv_glob import compile_glob
from barque.machine.kv_scan import ScanIndex
from barque.machine.machine import CommandMeta, Machine, MachineVersion, Result, Timeout

VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest value that APPEND makes. A change of it needs a new machine version."""

EXPIRE_TIMER: Final = "expire"
"""The name of the machine's only timer."""

_NEVER: Final = 2**200
"""Later than any time that fits a command."""

_NOT_INTEGER: Final = KvError("not_integer")
_OVERFLOW: Final = KvError("overflow")
_INVALID_EXPIRE: Final = KvError("invalid_expire")
_TOO_BIG: Final = KvError("too_big")
_NOT_PAIRS: Final = KvError("not_pairs")


class KvState:
    """All keys, and when they end. Changed only by the functions of this module."""

    __slots__ = (
        "armed_ms",
        "expired_total",
        "expiries",
        "heap",
        "next_due_ms",
        "now_ms",
        "scan_index",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        """Every key that exists at `now_ms`."""
        self.expiries: dict[bytes, int] = {}
        """The expiry, in Unix ms, of each key that has one; all later than `now_ms`."""
        self.heap: list[tuple[int, bytes]] = []
        """`expiries` in order, and stale pairs: a pair counts only if `expiries` agrees with it."""
        self.next_due_ms = _NEVER
        """The time of the heap's head: nothing is due before it."""
        self.now_ms = 0
        """The greatest timestamp of any command so far."""
        self.armed_ms: int | None = None
        """When the pending timer fires; never later than the earliest expiry."""
        self.expired_total = 0
        """How many keys have expired."""
        self.scan_index: ScanIndex | None = None
        """Built by the first SCAN. No part of the state: members may differ."""

    def remove(self, key: bytes) -> bool:
        """Delete a key; False if it was not there."""
        if self.values.pop(key, None) is None:
            return False
        if self.expiries:
            self.expiries.pop(key, None)
        if self.scan_index is not None:
            self.scan_index.forget(key)
        return True

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value and drop the expiry."""
        self.values[key] = value
        if self.expiries:
            self.expiries.pop(key, None)

    def expire_at(self, key: bytes, at_ms: int) -> None:
        """Set the expiry of an existing key. An expiry in the past deletes the key."""
        if at_ms <= self.now_ms:
            self.remove(key)
            return
        if self.expiries.get(key) == at_ms:
            return
        self.expiries[key] = at_ms
        heappush(self.heap, (at_ms, key))
        if len(self.heap) > 2 * len(self.expiries) + 64:  # a key whose expiry is often renewed
            self.heap = [(at, key) for key, at in self.expiries.items()]
            heapify(self.heap)
        self.next_due_ms = self.heap[0][0]

    def drop_due(self) -> None:
        """Delete keys that are due at `now_ms`, and stale pairs at the head of the heap."""
        heap, expiries = self.heap, self.expiries
        while heap:
            at_ms, key = heap[0]
            if expiries.get(key) != at_ms:
                heappop(heap)
            elif at_ms <= self.now_ms:
                heappop(heap)
                self.remove(key)
                self.expired_total += 1
            else:
                break
        self.next_due_ms = heap[0][0] if heap else _NEVER

    def clear(self) -> None:
        """Delete everything."""
        self.values = {}
        self.expiries = {}
        self.heap = []
        self.next_due_ms = _NEVER
        self.scan_index = None


_Result: TypeAlias = Result[KvState]


class KvMachine(Machine[KvState]):
    """A replicated key-value store: keys and values are bytes.

    Commands and queries are the structs of `kv_commands`; each names its reply. A command
    that cannot be carried out (a value that is no number, for instance) replies a `KvError` and changes
    nothing. Relative times count from the command's timestamp, never from a member's clock.
    """

    command_type = KvCommand
    query_type = KvQuery
    version = 0

    def init(self, args: dict[str, Any]) -> KvState:
        """An empty store. There are no arguments."""
        return KvState()

    def apply(self, meta: CommandMeta, command: Any, state: KvState) -> _Result:
        """Apply one command, after deleting the keys that are due at its time."""
        now_ms = meta.system_time_ms
        if now_ms > state.now_ms:
            state.now_ms = now_ms
            if state.next_due_ms <= now_ms:
                state.drop_due()
        apply = _COMMANDS.get(type(command))
        if apply is None:
            raise InvalidCommand(f"KvMachine does not know the command {type(command).__name__}")
        return apply(command, state)

    def query(self, query: Any, state: KvState) -> Any:
        """Answer one of the queries of `kv_commands`."""
        answer = _QUERIES.get(type(query))
        if answer is None:
            raise InvalidCommand(f"KvMachine does not know the query {type(query).__name__}")
        return answer(query, state)

    def state_enter(self, raft_state: str, state: KvState) -> Sequence[MachineEffect]:
        """A new leader sets the timer again: timers die with leadership."""
        if raft_state == "leader" and state.armed_ms is not None:
            return (Timer(EXPIRE_TIMER, at_ms=state.armed_ms),)
        return ()

    def overview(self, state: KvState) -> dict[str, Any]:
        """Counts of keys and expiries, and the log's time."""
        return {
            "keys": len(state.values),
            "expiries": len(state.expiries),
            "expired_total": state.expired_total,
            "now_ms": state.now_ms,
        }


def _with_timer(state: KvState, reply: Any) -> _Result:
    """The reply, and a timer if the earliest expiry is now earlier than the pending timer.

    One that moved later is left to the pending timer, which then finds nothing due and goes on: a
    session that is renewed by each command costs no timer each time.
    """
    due_ms = state.next_due_ms
    if due_ms == _NEVER or (state.armed_ms is not None and state.armed_ms <= due_ms):
        return state, reply
    state.armed_ms = due_ms
    return state, reply, (Timer(EXPIRE_TIMER, at_ms=due_ms),)


def _on_timeout(command: Timeout, state: KvState) -> _Result:
    """The timer fired. Due keys are deleted already, so set it for the next expiry."""
    if command.name != EXPIRE_TIMER:
        return state, None
    state.armed_ms = None
    state.drop_due()
    return _with_timer(state, None)


def _on_machine_version(command: MachineVersion, state: KvState) -> _Result:
    return state, None  # there is only version 0


def _on_set(command: Set, state: KvState) -> _Result:
    key = command.key
    state.values[key] = command.value
    if state.expiries:
        state.expiries.pop(key, None)
    return state, True


def _on_set_with(command: SetWith, state: KvState) -> _Result:
    expire_at_ms = command.expire_at_ms
    if command.ttl_ms is not None:
        expire_at_ms = state.now_ms + command.ttl_ms
        if not 0 < command.ttl_ms <= INT64_MAX - state.now_ms:
            return state, _INVALID_EXPIRE
    key, flags = command.key, command.flags
    old = state.values.get(key)
    refused = (flags & SET_NX and old is not None) or (flags & SET_XX and old is None)
    reply = old if flags & SET_GET else (None if refused else True)
    if refused:
        return state, reply
    state.values[key] = command.value
    if expire_at_ms is not None:
        state.expire_at(key, expire_at_ms)
        return _with_timer(state, reply)
    if not flags & SET_KEEPTTL:
        state.expiries.pop(key, None)
    return state, reply


def _on_set_nx(command: SetNx, state: KvState) -> _Result:
    if command.key in state.values:
        return state, 0
    state.values[command.key] = command.value
    return state, 1


def _on_get_set(command: GetSet, state: KvState) -> _Result:
    old = state.values.get(command.key)
    state.put(command.key, command.value)
    return state, old


def _on_get_del(command: GetDel, state: KvState) -> _Result:
    old = state.values.get(command.key)
    state.remove(command.key)
    return state, old


def _on_mset(command: Mset, state: KvState) -> _Result:
    pairs = command.pairs
    if len(pairs) % 2:
        return state, _NOT_PAIRS  # to raise would stop every member
    for at in range(0, len(pairs), 2):
        state.put(pairs[at], pairs[at + 1])
    return state, True


def _on_del(command: Del, state: KvState) -> _Result:
    removed = 0
    for key in command.keys:
        removed += state.remove(key)
    return state, removed


def _on_append(command: Append, state: KvState) -> _Result:
    value = state.values.get(command.key, b"") + command.value
    if len(value) > VALUE_BYTES_MAX:
        return state, _TOO_BIG
    state.values[command.key] = value
    return state, len(value)


def _on_incr_by(command: IncrBy, state: KvState) -> _Result:
    key = command.key
    value = state.values.get(key)
    if value is None:
        total = command.delta
    else:
        try:
            number = int(value) if len(value) <= 20 else INT64_MAX + 1
        except ValueError:
            return state, _NOT_INTEGER
        # int() accepts more than Redis does (spaces, "+1", "007", "1_0"): only what we would write counts.
        if b"%d" % number != value or not INT64_MIN <= number <= INT64_MAX:
            return state, _NOT_INTEGER
        total = number + command.delta
    if not INT64_MIN <= total <= INT64_MAX:
        return state, _OVERFLOW
    state.values[key] = b"%d" % total
    return state, total


def _on_expire(command: Expire, state: KvState) -> _Result:
    at_ms = command.time_ms
    if not command.absolute:
        at_ms += state.now_ms
    if at_ms > INT64_MAX:
        return state, _INVALID_EXPIRE
    key, flags = command.key, command.flags
    if key not in state.values:
        return state, 0
    if flags:
        current = state.expiries.get(key)
        latest = _NEVER if current is None else current
        if (
            (flags & EXPIRE_NX and current is not None)
            or (flags & EXPIRE_XX and current is None)
            or (flags & EXPIRE_GT and at_ms <= latest)
            or (flags & EXPIRE_LT and at_ms >= latest)
        ):
            return state, 0
    state.expire_at(key, at_ms)
    return _with_timer(state, 1)


def _on_persist(command: Persist, state: KvState) -> _Result:
    return state, 0 if state.expiries.pop(command.key, None) is None else 1


def _on_flush_all(command: FlushAll, state: KvState) -> _Result:
    state.clear()
    return state, True


def _on_cas(command: Cas, state: KvState) -> _Result:
    if state.values.get(command.key) != command.expected:
        return state, 0
    state.put(command.key, command.value)
    return state, 1


def _get(query: Get, state: KvState) -> bytes | None:
    return state.values.get(query.key)


def _mget(query: Mget, state: KvState) -> list[bytes | None]:
    return list(map(state.values.get, query.keys))


def _exists(query: Exists, state: KvState) -> int:
    return sum(map(state.values.__contains__, query.keys))


def _type(query: Type, state: KvState) -> bytes:
    return b"string" if query.key in state.values else b"none"


def _strlen(query: Strlen, state: KvState) -> int:
    return len(state.values.get(query.key, b""))


def _expire_time(query: ExpireTime | Pttl, state: KvState) -> int:
    if query.key not in state.values:
        return -2
    return state.expiries.get(query.key, -1)


def _pttl(query: Pttl, state: KvState) -> int:
    at_ms = _expire_time(query, state)
    return at_ms if at_ms < 0 else at_ms - state.now_ms


def _keys(query: Keys, state: KvState) -> list[bytes]:
    return list(filter(compile_glob(query.pattern), state.values))


def _scan(query: Scan, state: KvState) -> tuple[int, list[bytes]]:
    if query.type_name is not None and query.type_name.lower() != b"string":
        return 0, []
    if state.scan_index is None:
        state.scan_index = ScanIndex(state.values)
    matches = compile_glob(b"*" if query.pattern is None else query.pattern)
    return state.scan_index.page(max(query.cursor, 0), max(query.count, 1), matches)


def _db_size(query: DbSize, state: KvState) -> int:
    return len(state.values)


def _stats(query: Stats, state: KvState) -> dict[str, Any]:
    return KvMachine().overview(state)


# A dictionary of types finds the function in 30 ns; `match` over twenty classes takes up to 500.
_COMMANDS: Final[dict[type, Callable[[Any, KvState], _Result]]] = {
    Timeout: _on_timeout,
    MachineVersion: _on_machine_version,
    Set: _on_set,
    SetWith: _on_set_with,
    SetNx: _on_set_nx,
    GetSet: _on_get_set,
    GetDel: _on_get_del,
    Mset: _on_mset,
    Del: _on_del,
    Append: _on_append,
    IncrBy: _on_incr_by,
    Expire: _on_expire,
    Persist: _on_persist,
    FlushAll: _on_flush_all,
    Cas: _on_cas,
}

_QUERIES: Final[dict[type, Callable[[Any, KvState], Any]]] = {
    Get: _get,
    Mget: _mget,
    Exists: _exists,
    Type: _type,
    Strlen: _strlen,
    ExpireTime: _expire_time,
    Pttl: _pttl,
    Keys: _keys,
    Scan: _scan,
    DbSize: _db_size,
    Stats: _stats,
}
