"""`barque.machine.kv`: a key-value store that does the same everywhere."""

import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, strategies as st

from barque.machine import kv_commands as kv
from barque.machine.effects import Timer
from barque.machine.kv import KvMachine
from barque.machine.kv_writes import VALUE_BYTES_MAX
from barque.machine.machine import CommandMeta, MachineVersion, Timeout
from barque.types import NOBODY, ReplyMode

EXPIRE = Timeout("expire")


class Store:
    """A machine, its state and a clock that the test sets."""

    def __init__(self):
        self.machine = KvMachine()
        self.state = self.machine.init({})
        self.now_ms = 1_000
        self.effects = []

    def do(self, command, at_ms=None):
        """Apply one command; returns the reply and keeps the effects."""
        meta = CommandMeta(
            1, 1, 0, self.now_ms if at_ms is None else at_ms, NOBODY, ReplyMode.AWAIT_CONSENSUS
        )
        state, reply, *effects = self.machine.apply(meta, command, self.state)
        assert state is self.state
        self.effects = list(effects[0]) if effects else []
        return reply

    def ask(self, query):
        """Run one query."""
        return self.machine.query(query, self.state)


@pytest.fixture
def store():
    """An empty store."""
    return Store()


class Model:
    """What the store should do, in the plainest way: a dictionary of (value, expiry)."""

    def __init__(self):
        self.data = {}
        self.now_ms = 0

    def do(self, command, at_ms):
        self.now_ms = max(self.now_ms, at_ms)
        self.data = {k: (v, e) for k, (v, e) in self.data.items() if e is None or e > self.now_ms}
        reply = self._do(command)
        self.data = {k: (v, e) for k, (v, e) in self.data.items() if e is None or e > self.now_ms}
        return reply

    def _do(self, command):
        data = self.data
        old, expiry = data.get(getattr(command, "key", None), (None, None))
        match command:
            case kv.Set(key, value):
                data[key] = (value, None)
                return True
            case kv.SetWith(key, value, flags, ttl_ms, at_ms):
                if (flags & kv.SET_NX and old is not None) or (flags & kv.SET_XX and old is None):
                    return old if flags & kv.SET_GET else None
                if ttl_ms is not None:
                    at_ms = self.now_ms + ttl_ms
                data[key] = (value, expiry if at_ms is None and flags & kv.SET_KEEPTTL else at_ms)
                return old if flags & kv.SET_GET else True
            case kv.SetNx(key, value):
                data.setdefault(key, (value, None))
                return int(old is None)
            case kv.GetSet(key, value):
                data[key] = (value, None)
                return old
            case kv.GetDel(key):
                data.pop(key, None)
                return old
            case kv.Mset(pairs):
                data.update((k, (v, None)) for k, v in zip(pairs[::2], pairs[1::2], strict=True))
                return True
            case kv.Del(keys):
                return sum(data.pop(k, None) is not None for k in keys)
            case kv.Append(key, value):
                data[key] = ((old or b"") + value, expiry)
                return len(data[key][0])
            case kv.IncrBy(key, delta):
                try:
                    number = int(old or b"0")
                except ValueError:
                    return kv.KvError("not_integer")
                if old is not None and str(number).encode() != old:
                    return kv.KvError("not_integer")
                data[key] = (b"%d" % (number + delta), expiry)
                return number + delta
            case kv.Expire(key, time_ms, absolute, flags):
                if old is None:
                    return 0
                at_ms = time_ms if absolute else self.now_ms + time_ms
                infinite = float("inf") if expiry is None else expiry
                if (
                    (flags & kv.EXPIRE_NX and expiry is not None)
                    or (flags & kv.EXPIRE_XX and expiry is None)
                    or (flags & kv.EXPIRE_GT and not at_ms > infinite)
                    or (flags & kv.EXPIRE_LT and not at_ms < infinite)
                ):
                    return 0
                data[key] = (old, at_ms)
                return 1
            case kv.Persist(key):
                if old is None or expiry is None:
                    return 0
                data[key] = (old, None)
                return 1
            case kv.FlushAll():
                data.clear()
                return True
            case kv.Cas(key, expected, value):
                if old != expected:
                    return 0
                data[key] = (value, None)
                return 1
            case Timeout():
                return None


keys = st.sampled_from([b"a", b"b", b"c", b""])
values = st.sampled_from([b"", b"1", b"-5", b"07", b"x", b"\xff\x00"])
times = st.integers(-5, 60)
commands = st.one_of(
    st.builds(kv.Set, keys, values),
    st.builds(kv.SetWith, keys, values, st.integers(0, 15), st.none() | st.integers(1, 60)),
    st.builds(kv.SetWith, keys, values, st.integers(0, 15), st.none(), st.none() | st.integers(1, 200)),
    st.builds(kv.SetNx, keys, values),
    st.builds(kv.GetSet, keys, values),
    st.builds(kv.GetDel, keys),
    st.builds(
        kv.Mset,
        st.lists(st.tuples(keys, values), min_size=1, max_size=3).map(lambda p: [x for y in p for x in y]),
    ),
    st.builds(kv.Del, st.lists(keys, max_size=3)),
    st.builds(kv.Append, keys, values),
    st.builds(kv.IncrBy, keys, st.integers(-5, 5)),
    st.builds(kv.Expire, keys, times, st.just(False), st.sampled_from([0, 1, 2, 4, 8, 6, 10])),
    st.builds(kv.Expire, keys, st.integers(-1, 200), st.just(True), st.sampled_from([0, 1, 2, 4, 8])),
    st.builds(kv.Persist, keys),
    st.builds(kv.Cas, keys, st.none() | values, values),
    st.just(EXPIRE),
    st.builds(kv.FlushAll),
)


@given(st.lists(st.tuples(commands, st.integers(-10, 15)), max_size=60))
def test_the_store_does_what_the_model_does(steps):
    """Every reply and every query agrees with a plain model; the clock may go backwards."""
    store, model = Store(), Model()
    clock = 100
    timer = None
    for command, passed in steps:
        clock += passed
        assert store.do(command, clock) == model.do(command, clock)
        assert store.state.values == {key: value for key, (value, _) in model.data.items()}
        assert store.state.expiries == {key: at for key, (_, at) in model.data.items() if at is not None}
        for effect in store.effects:
            assert isinstance(effect, Timer)
            timer = effect.at_ms
        if command == EXPIRE and not store.effects:
            timer = None
        assert store.state.armed_ms == timer
        if store.state.expiries:  # the pending timer is early enough without endy key
            assert timer is not None
            assert timer <= min(store.state.expiries.values())
        for key in (b"a", b"b", b""):
            value, expiry = model.data.get(key, (None, None))
            assert store.ask(kv.Get(key)) == value
            assert store.ask(kv.Type(key)) == (b"none" if value is None else b"string")
            assert store.ask(kv.Strlen(key)) == len(value or b"")
            left = -2 if value is None else -1 if expiry is None else expiry - model.now_ms
            assert store.ask(kv.Pttl(key)) == left
        assert store.ask(kv.Mget([b"a", b"z"])) == [model.data.get(b"a", (None,))[0], None]
        assert store.ask(kv.Exists([b"a", b"a"])) == 2 * (b"a" in model.data)
        assert store.ask(kv.DbSize()) == len(model.data)
        assert sorted(store.ask(kv.Keys(b"*"))) == sorted(model.data)
        assert sorted(store.ask(kv.Scan(0))[1]) == sorted(model.data)


def test_a_clock_that_goes_backwards_brings_nothing_back(store):
    """Once a key has expired, a later command with an earlier timestamp does not see it."""
    store.do(kv.SetWith(b"k", b"v", ttl_ms=100), 1_000)
    store.do(kv.Set(b"other", b"v"), 1_100)
    assert store.ask(kv.Get(b"k")) is None
    store.do(kv.Set(b"other", b"v"), 500)
    assert store.ask(kv.Get(b"k")) is None
    assert store.do(kv.SetNx(b"k", b"new"), 500) == 1


def test_a_relative_time_counts_from_the_log_s_time(store):
    """A leader whose clock is behind gives no key a shorter life."""
    store.do(kv.Set(b"other", b"v"), 10_000)
    store.do(kv.SetWith(b"k", b"v", ttl_ms=100), 1_000)
    assert store.ask(kv.ExpireTime(b"k")) == 10_100


def test_keys_expire_in_an_idle_cluster(store):
    """The timer is set for the earliest expiry; its command removes what is due and sets the next."""
    store.do(kv.SetWith(b"late", b"v", ttl_ms=300))
    assert store.effects == [Timer("expire", at_ms=1_300)]
    store.do(kv.SetWith(b"early", b"v", ttl_ms=100))
    assert store.effects == [Timer("expire", at_ms=1_100)]
    store.do(kv.SetWith(b"between", b"v", ttl_ms=200))
    assert store.effects == []
    assert store.machine.state_enter("leader", store.state) == (Timer("expire", at_ms=1_100),)
    assert store.machine.state_enter("follower", store.state) == ()
    store.do(EXPIRE, 1_100)
    assert store.effects == [Timer("expire", at_ms=1_200)]
    assert sorted(store.state.values) == [b"between", b"late"]
    store.do(EXPIRE, 1_300)
    assert (store.effects, store.state.values) == ([], {})
    assert store.machine.state_enter("leader", store.state) == ()


def test_a_renewed_session_costs_no_timer_each_time(store):
    """A key whose expiry moves on leaves the timer alone, and old entries of the heap go away."""
    timers = 0
    for step in range(1_000):
        store.do(kv.SetWith(b"session", b"v", ttl_ms=5_000), 1_000 + step)
        timers += len(store.effects)
    assert timers == 1
    assert len(store.state.heap) < 100
    store.do(EXPIRE, 6_000)
    assert store.effects == [Timer("expire", at_ms=1_999 + 5_000)]


def test_a_foreign_timer_and_a_new_version_change_nothing(store):
    """Built-in commands that are not ours are accepted."""
    store.do(kv.SetWith(b"k", b"v", ttl_ms=100))
    armed = store.state.armed_ms
    assert store.do(Timeout("other")) is None
    assert store.do(MachineVersion(0, 1)) is None
    assert store.state.armed_ms == armed


def test_numbers_have_64_bits(store):
    """Beyond them is an error, and the value stays."""
    for value, delta in ((b"9223372036854775807", 1), (b"-9223372036854775808", -1)):
        store.do(kv.Set(b"n", value))
        assert store.do(kv.IncrBy(b"n", delta)) == kv.KvError("overflow")
        assert store.ask(kv.Get(b"n")) == value
    assert store.do(kv.IncrBy(b"new", 2**63)) == kv.KvError("overflow")
    for value in (b"9223372036854775808", b"1" * 100_000, b" 1", b"1_0", "٣".encode()):
        store.do(kv.Set(b"n", value))
        assert store.do(kv.IncrBy(b"n")) == kv.KvError("not_integer")


def test_what_cannot_be_done_is_a_reply(store):
    """No command that can be decoded stops the machine."""
    assert store.do(kv.SetWith(b"k", b"v", ttl_ms=2**63 - 1)) == kv.KvError("invalid_expire")
    assert store.do(kv.SetWith(b"k", b"v", ttl_ms=-1)) == kv.KvError("invalid_expire")
    assert store.do(kv.Expire(b"k", 2**63 - 1)) == kv.KvError("invalid_expire")
    assert store.do(kv.Mset([b"k"])) == kv.KvError("not_pairs")
    store.do(kv.Set(b"big", b"x" * VALUE_BYTES_MAX))
    assert store.do(kv.Append(b"big", b"y")) == kv.KvError("too_big")
    assert store.ask(kv.Get(b"k")) is None


def test_error_replies_are_recognised_after_the_wire():
    """A `KvError` is known as it is and as a list; other replies are none."""
    error = kv.KvError("overflow")
    assert kv.error_code(error) == "overflow"
    assert kv.error_code(msgspec.msgpack.decode(msgspec.msgpack.encode(error))) == "overflow"
    for reply in (None, True, 1, b"error", [b"error", b"x"], [0, []], [None, None]):
        assert kv.error_code(reply) is None


def test_golden_bytes_of_commands():
    """Tags and field order are part of the log's format."""
    golden = {
        kv.Set(b"k", b"v"): "9301c4016bc40176",
        kv.SetWith(b"k", b"v", 5, 10): "9602c4016bc40176050ac0",
        kv.IncrBy(b"k", -1): "9309c4016bff",
        kv.Expire(b"k", 10, True, 1): "950ac4016b0ac301",
        kv.Cas(b"k", None, b"v"): "940dc4016bc0c40176",
        kv.FlushAll(): "910c",
    }
    for command, expected in golden.items():
        encoded = msgspec.msgpack.encode(command)
        assert encoded.hex() == expected
        assert msgspec.msgpack.decode(encoded, type=KvMachine.command_type) == command


def test_stats_and_overview(store):
    """Counts for people."""
    store.do(kv.SetWith(b"k", b"v", ttl_ms=10))
    store.do(kv.Set(b"j", b"v"), 2_000)
    facts = {"keys": 1, "expiries": 0, "expired_total": 1, "now_ms": 2_000}
    assert store.ask(kv.Stats()) == store.machine.overview(store.state) == facts


_PROGRAM = """
import hashlib, random
from barque.machine import kv_commands as kv
from barque.machine.kv import KvMachine
from barque.machine.machine import CommandMeta, Timeout
from barque.types import NOBODY, ReplyMode
rng, machine = random.Random(7), KvMachine()
state, trace, clock = machine.init({}), hashlib.sha256(), 1000
for index in range(5000):
    clock += rng.randint(-20, 30)
    key = b"%d" % rng.randint(0, 200)
    command = rng.choice([
        kv.Set(key, b"1"), kv.SetWith(key, b"v", rng.randint(0, 15), rng.randint(1, 500)), kv.IncrBy(key),
        kv.Del([key, b"1"]), kv.Expire(key, rng.randint(-1, 900)), kv.Append(key, b"0"), Timeout("expire"),
    ])
    meta = CommandMeta(index, 1, 0, clock, NOBODY, ReplyMode.AWAIT_CONSENSUS)
    outcome = repr(machine.apply(meta, command, state)[1:]).replace(repr(state), "the state")
    trace.update(outcome.encode())
    if index % 100 == 0:
        page = machine.query(kv.Scan(rng.randrange(2**52), 20), state)
        trace.update(repr((page, state.values, state.expiries, state.heap)).encode())
print(trace.hexdigest())
"""


def test_members_agree_whatever_their_hash_seed():
    """Two processes with different PYTHONHASHSEED compute the same replies, effects and states."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
