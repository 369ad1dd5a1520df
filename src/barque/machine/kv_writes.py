"""What each command of the key-value machine does. Nothing here raises: that would stop every member."""

import decimal
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

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
    Copy,
    Del,
    DelIf,
    Expire,
    FlushAll,
    Get,
    GetDel,
    GetEx,
    GetRange,
    GetSet,
    Guarded,
    IncrBy,
    IncrByFloat,
    KvError,
    Mget,
    Mset,
    MsetNx,
    Persist,
    Read,
    Rename,
    Set,
    SetIf,
    SetNx,
    SetRange,
    SetWith,
    TooLarge,
    Transaction,
)
from barque.machine.kv_reads import QUERIES, answer_bytes
from barque.machine.kv_state import NEVER, KvState
from barque.machine.machine import MachineVersion, Result, Timeout

VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest value that APPEND and SETRANGE make. A change of it needs a new machine version."""

TRANSACTION_REPLY_BYTES_MAX: Final = 32 * 1024 * 1024
"""The most that the replies of one transaction have together. A change of it needs a new machine version."""

EXPIRE_TIMER: Final = "expire"
"""The name of the machine's only timer."""

Applied: TypeAlias = Result[KvState]
Handler: TypeAlias = Callable[[Any, KvState], Applied]

_NOT_INTEGER: Final = KvError("not_integer")
_OVERFLOW: Final = KvError("overflow")
_INVALID_EXPIRE: Final = KvError("invalid_expire")
_TOO_BIG: Final = KvError("too_big")
_NOT_PAIRS: Final = KvError("not_pairs")
_NOT_FLOAT: Final = KvError("not_float")
_FLOAT_OVERFLOW: Final = KvError("float_overflow")
_NO_SUCH_KEY: Final = KvError("no_such_key")
_REPLY_TOO_BIG: Final = KvError("reply_too_big")
_NOT_YET: Final = KvError("not_yet")


# --- time


def with_timer(state: KvState, reply: Any) -> Applied:
    """The reply, and a timer if the earliest expiry is now earlier than the pending timer.

    One that moved later is left to the pending timer, which then finds nothing due and goes on: a
    session that is renewed by each command costs no timer each time.
    """
    due_ms = state.next_due_ms
    if due_ms == NEVER or (state.armed_ms is not None and state.armed_ms <= due_ms):
        return state, reply
    state.armed_ms = due_ms
    return state, reply, (Timer(EXPIRE_TIMER, at_ms=due_ms),)


def _on_timeout(command: Timeout, state: KvState) -> Applied:
    """The timer fired. Due keys are deleted already, so set it for the next expiry."""
    if command.name != EXPIRE_TIMER:
        return state, None
    state.armed_ms = None
    state.drop_due()
    return with_timer(state, None)


def _on_machine_version(command: MachineVersion, state: KvState) -> Applied:
    return state, None  # all versions have the same state


def _expiry_of(command: SetWith | SetIf | GetEx, state: KvState) -> int | KvError | None:
    """The expiry that a command asks for, in Unix ms."""
    ttl_ms = command.ttl_ms
    if ttl_ms is None:
        return command.expire_at_ms
    return state.now_ms + ttl_ms if 0 < ttl_ms <= INT64_MAX - state.now_ms else _INVALID_EXPIRE


# --- set


def _on_set(command: Set, state: KvState) -> Applied:
    key = command.key
    if state.captures:
        state.keep(key)
    state.values[key] = command.value
    if state.expiries:
        state.expiries.pop(key, None)
    state.note_change(key)
    return state, True


def _on_set_with(command: SetWith, state: KvState) -> Applied:
    expire_at_ms = _expiry_of(command, state)
    if isinstance(expire_at_ms, KvError):
        return state, expire_at_ms
    flags = command.flags
    old = state.values.get(command.key)
    refused = bool((flags & SET_NX and old is not None) or (flags & SET_XX and old is None))
    return _set_unless(refused, command, old, expire_at_ms, state)


def _on_set_if(command: SetIf, state: KvState) -> Applied:
    expire_at_ms = _expiry_of(command, state)
    if isinstance(expire_at_ms, KvError):
        return state, expire_at_ms
    old = state.values.get(command.key)
    return _set_unless((old == command.expected) is not command.equal, command, old, expire_at_ms, state)


def _set_unless(
    refused: bool, command: SetWith | SetIf, old: bytes | None, expire_at_ms: int | None, state: KvState
) -> Applied:
    flags = command.flags
    reply = old if flags & SET_GET else (None if refused else True)
    if refused:
        return state, reply
    state.replace(command.key, command.value)
    if expire_at_ms is not None:
        state.expire_at(command.key, expire_at_ms)
        return with_timer(state, reply)
    if not flags & SET_KEEPTTL:
        state.expiries.pop(command.key, None)
    return state, reply


def _on_set_nx(command: SetNx, state: KvState) -> Applied:
    if command.key in state.values:
        return state, 0
    state.replace(command.key, command.value)
    return state, 1


def _on_get_set(command: GetSet, state: KvState) -> Applied:
    old = state.values.get(command.key)
    state.put(command.key, command.value)
    return state, old


def _on_mset(command: Mset, state: KvState) -> Applied:
    pairs = command.pairs
    if len(pairs) % 2:
        return state, _NOT_PAIRS
    for at in range(0, len(pairs), 2):
        state.put(pairs[at], pairs[at + 1])
    return state, True


def _on_mset_nx(command: MsetNx, state: KvState) -> Applied:
    pairs = command.pairs
    if len(pairs) % 2:
        return state, _NOT_PAIRS
    if any(map(state.values.__contains__, pairs[::2])):
        return state, 0
    for at in range(0, len(pairs), 2):
        state.put(pairs[at], pairs[at + 1])
    return state, 1


def _on_cas(command: Cas, state: KvState) -> Applied:
    if state.values.get(command.key) != command.expected:
        return state, 0
    state.put(command.key, command.value)
    return state, 1


# --- change a value


def _on_append(command: Append, state: KvState) -> Applied:
    value = state.values.get(command.key, b"") + command.value
    if len(value) > VALUE_BYTES_MAX:
        return state, _TOO_BIG
    state.replace(command.key, value)
    return state, len(value)


def _on_set_range(command: SetRange, state: KvState) -> Applied:
    old = state.values.get(command.key, b"")
    at, new = command.offset, command.value
    if not new:
        return state, len(old)
    if not 0 <= at <= VALUE_BYTES_MAX - len(new):
        return state, _TOO_BIG
    value = old[:at].ljust(at, b"\0") + new + old[at + len(new) :]
    state.replace(command.key, value)
    return state, len(value)


def _on_incr_by(command: IncrBy, state: KvState) -> Applied:
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
    state.replace(key, b"%d" % total)
    return state, total


_FLOAT: Final = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_FLOAT_CHARACTERS_MAX: Final = 400
_FLOAT_EXPONENT_MAX: Final = 300
_DECIMAL: Final = decimal.Context(prec=1000, rounding=decimal.ROUND_HALF_EVEN, Emin=-9999, Emax=9999)
_PLACES: Final = decimal.Decimal("1e-17")


def parse_float(text: bytes) -> decimal.Decimal | None:
    """A decimal fraction below 1e300; None for everything else."""
    if len(text) > _FLOAT_CHARACTERS_MAX or _FLOAT.fullmatch(text) is None:
        return None
    number = decimal.Decimal(text.decode())
    return number if number.adjusted() < _FLOAT_EXPONENT_MAX or not number else None


def _on_incr_by_float(command: IncrByFloat, state: KvState) -> Applied:
    """Decimal numbers add up to the same on every platform, which a C library's floats would not promise."""
    old, delta = parse_float(state.values.get(command.key, b"0")), parse_float(command.delta)
    if old is None or delta is None:
        return state, _NOT_FLOAT
    total = _DECIMAL.add(old, delta)
    if total.adjusted() >= _FLOAT_EXPONENT_MAX and total:
        return state, _FLOAT_OVERFLOW
    text = f"{_DECIMAL.quantize(total, _PLACES):f}".rstrip("0").rstrip(".")
    value = b"0" if text in ("-0", "") else text.encode()
    state.replace(command.key, value)
    return state, value


# --- keys


def _on_get_del(command: GetDel, state: KvState) -> Applied:
    old = state.values.get(command.key)
    state.remove(command.key)
    return state, old


def _on_del(command: Del, state: KvState) -> Applied:
    removed = 0
    for key in command.keys:
        removed += state.remove(key)
    return state, removed


def _on_del_if(command: DelIf, state: KvState) -> Applied:
    old = state.values.get(command.key)
    if old is None or (old == command.expected) is not command.equal:
        return state, 0
    state.remove(command.key)
    return state, 1


def _on_flush_all(command: FlushAll, state: KvState) -> Applied:
    state.clear()
    return state, True


def _on_rename(command: Rename, state: KvState) -> Applied:
    key, new_key = command.key, command.new_key
    value = state.values.get(key)
    if value is None:
        return state, _NO_SUCH_KEY
    if key == new_key:
        return state, 0 if command.only_absent else 1
    if command.only_absent and new_key in state.values:
        return state, 0
    expire_at_ms = state.expiries.get(key)
    state.remove(key)
    return _put_with_expiry(state, new_key, value, expire_at_ms)


def _on_copy(command: Copy, state: KvState) -> Applied:
    key, new_key = command.key, command.new_key
    value = state.values.get(key)
    if value is None or key == new_key or (new_key in state.values and not command.replace):
        return state, 0
    return _put_with_expiry(state, new_key, value, state.expiries.get(key))


def _put_with_expiry(state: KvState, key: bytes, value: bytes, expire_at_ms: int | None) -> Applied:
    state.put(key, value)
    if expire_at_ms is None:
        return state, 1
    state.expire_at(key, expire_at_ms)
    return with_timer(state, 1)


# --- expiry


def _on_expire(command: Expire, state: KvState) -> Applied:
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
        latest = NEVER if current is None else current
        if (
            (flags & EXPIRE_NX and current is not None)
            or (flags & EXPIRE_XX and current is None)
            or (flags & EXPIRE_GT and at_ms <= latest)
            or (flags & EXPIRE_LT and at_ms >= latest)
        ):
            return state, 0
    state.expire_at(key, at_ms)
    return with_timer(state, 1)


def _on_persist(command: Persist, state: KvState) -> Applied:
    return state, int(state.persist(command.key))


def _on_get_ex(command: GetEx, state: KvState) -> Applied:
    expire_at_ms = _expiry_of(command, state)
    if isinstance(expire_at_ms, KvError):
        return state, expire_at_ms
    value = state.values.get(command.key)
    if value is None:
        return state, None
    if command.persist:
        state.persist(command.key)
    elif expire_at_ms is not None:
        state.expire_at(command.key, expire_at_ms)
        return with_timer(state, value)
    return state, value


# --- transactions


def _on_read(command: Read, state: KvState) -> Applied:
    return state, QUERIES[type(command.query)](command.query, state)


def _on_transaction(command: Transaction, state: KvState) -> Applied:
    """Nothing happens if a watched key has changed; otherwise every operation is tried, in order."""
    for key, position in command.watched:
        if state.changed_since(key, position):
            return state, None
    replies: list[Any] = []
    effects: list[MachineEffect] = []
    room = TRANSACTION_REPLY_BYTES_MAX
    for operation in command.operations:
        if _old_value_bytes(operation, state) > room:
            replies.append(_REPLY_TOO_BIG)
            continue
        _, reply, *more = COMMANDS[type(operation)](operation, state)
        size = answer_bytes(reply)
        if size > room:  # an answer to a `Read`, which has changed nothing
            reply = _REPLY_TOO_BIG
        else:
            room -= size
        replies.append(reply)
        effects += more[0] if more else ()
    return (state, replies, effects) if effects else (state, replies)


def _old_value_bytes(operation: Any, state: KvState) -> int:
    """The size of the old value that a write replies with: it is checked before anything is changed."""
    return len(state.values.get(operation.key, b"")) if replies_old_value(operation) else 0


def _on_guarded(command: Guarded, state: KvState) -> Applied:
    guarded = command.command
    if isinstance(guarded, Transaction):
        bound = _reply_bound(guarded, state)
    else:
        bound = _old_value_bytes(guarded, state)
    if bound > command.bytes_max:
        return state, TooLarge(bound)
    return COMMANDS[type(guarded)](guarded, state)


def _reply_bound(transaction: Transaction, state: KvState) -> int:
    """At least as many bytes as the replies can have, before anything is done.

    A value that the transaction reads was there before, or it has grown by what the transaction writes. Some
    commands move or fill up values: then nothing less than the limit is certain.
    """
    limit = TRANSACTION_REPLY_BYTES_MAX
    operations = transaction.operations
    if not {Rename, Copy, SetRange}.isdisjoint(map(type, operations)):
        return limit
    written = sum(map(_written_bytes, operations))
    bound = 0
    for operation in operations:
        for key in _keys_replied(operation):
            bound += len(state.values.get(key, b"")) + written
    return min(bound, limit)


def _written_bytes(operation: Any) -> int:
    if isinstance(operation, Mset | MsetNx):
        return sum(map(len, operation.pairs))
    if isinstance(operation, IncrBy | IncrByFloat):
        return 20 if isinstance(operation, IncrBy) else _FLOAT_CHARACTERS_MAX
    return len(getattr(operation, "value", b""))


def replies_value(operation: Any) -> bool:
    """Whether a reply of this operation can be large; `Transaction`: whether one of its replies can."""
    if type(operation) is Transaction:
        return any(map(_keys_replied, operation.operations))
    return replies_old_value(operation)


def _keys_replied(operation: Any) -> list[bytes]:
    """The keys whose values are in the reply."""
    kind = type(operation)
    if kind is Read:
        query = operation.query
        return query.keys if type(query) is Mget else [query.key] if type(query) in (Get, GetRange) else []
    return [operation.key] if replies_old_value(operation) else []


def replies_old_value(operation: Any) -> bool:
    """Whether a write replies with the value that was there before, which can be large."""
    kind = type(operation)
    return kind in (GetSet, GetDel, GetEx) or (kind in (SetWith, SetIf) and bool(operation.flags & SET_GET))


def _not_yet(command: Any, state: KvState) -> Applied:
    return state, _NOT_YET


# A dictionary of types finds the function in 30 ns; `match` over twenty classes takes up to 500.
_SINCE_0: Final[dict[type, Handler]] = {
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

_SINCE_1: Final[dict[type, Handler]] = {
    MsetNx: _on_mset_nx,
    SetRange: _on_set_range,
    IncrByFloat: _on_incr_by_float,
    Rename: _on_rename,
    Copy: _on_copy,
    GetEx: _on_get_ex,
    SetIf: _on_set_if,
    DelIf: _on_del_if,
    Read: _on_read,
    Transaction: _on_transaction,
    Guarded: _on_guarded,
}

COMMANDS_V0: Final[dict[type, Handler]] = {**_SINCE_0, **dict.fromkeys(_SINCE_1, _not_yet)}
COMMANDS: Final[dict[type, Handler]] = {**_SINCE_0, **_SINCE_1}
