"""Transactions of the key-value machine: all or nothing, and never after a watched key has changed."""

import msgspec
import pytest
from hypothesis import given, strategies as st

from barque.machine import kv_commands as kv, kv_state, kv_writes
from barque.machine.kv import KvMachine
from barque.machine.machine import CommandMeta, MachineVersion
from barque.types import NOBODY, ReplyMode


class Store:
    """A machine at a position in its log."""

    def __init__(self, version=1):
        self.machine = KvMachine().which_module(version)
        self.state = self.machine.init({})
        self.index = 0
        self.now_ms = 1_000

    def do(self, command):
        """Apply one entry; return its reply."""
        self.index += 1
        meta = CommandMeta(self.index, 1, 0, self.now_ms, NOBODY, ReplyMode.AWAIT_CONSENSUS)
        return self.machine.apply(meta, command, self.state)[1]

    def exec(self, *operations, watched=()):
        """Apply one transaction."""
        return self.do(kv.Transaction(list(watched), list(operations)))

    def ask(self, query):
        """Run one query."""
        return self.machine.query(query, self.state)


@pytest.fixture
def store():
    """An empty store in which all versions are in force."""
    return Store()


def test_d6_operations_are_done_together_and_see_each_other(store):
    """A read inside a transaction sees the writes before it, and replies come in order."""
    replies = store.exec(
        kv.Set(b"a", b"1"),
        kv.Read(kv.Get(b"a")),
        kv.IncrBy(b"a"),
        kv.Read(kv.Mget([b"a", b"z"])),
        kv.Del([b"a"]),
    )
    assert replies == [True, b"1", 2, [b"2", None], 1]
    assert store.ask(kv.DbSize()) == 0


def test_d6_an_error_inside_stops_nothing(store):
    """As in Redis: the operation that fails changes nothing, the others are done."""
    assert store.exec(kv.Set(b"a", b"x"), kv.IncrBy(b"a"), kv.Set(b"b", b"y")) == [
        True,
        kv.KvError("not_integer"),
        True,
    ]
    assert store.ask(kv.Mget([b"a", b"b"])) == [b"x", b"y"]


CHANGES = {
    "set": [kv.Set(b"k", b"v")],
    "set to the same": [kv.Set(b"k", b"old")],
    "deleted and made again": [kv.Del([b"k"]), kv.Set(b"k", b"old")],
    "deleted": [kv.Del([b"k"])],
    "taken": [kv.GetDel(b"k")],
    "exchanged": [kv.GetSet(b"k", b"old")],
    "appended to": [kv.Append(b"k", b"")],
    "set range": [kv.SetRange(b"k", 0, b"o")],
    "counted": [kv.Set(b"k", b"1"), kv.IncrBy(b"k", 0)],
    "counted by a fraction": [kv.Set(b"k", b"1"), kv.IncrByFloat(b"k", b"0")],
    "given an end": [kv.Expire(b"k", 10_000)],
    "given an end by GETEX": [kv.GetEx(b"k", ttl_ms=10_000)],
    "swapped": [kv.Cas(b"k", b"old", b"old")],
    "set if": [kv.SetIf(b"k", b"old", b"old")],
    "deleted if": [kv.DelIf(b"k", b"old")],
    "renamed away": [kv.Rename(b"k", b"other")],
    "renamed to": [kv.Set(b"other", b"old"), kv.Rename(b"other", b"k")],
    "copied to": [kv.Set(b"other", b"old"), kv.Copy(b"other", b"k", True)],
    "in a set of many": [kv.Mset([b"z", b"", b"k", b"old"])],
    "flushed": [kv.FlushAll()],
    "flushed and made again": [kv.FlushAll(), kv.Set(b"k", b"old")],
    "in a transaction": [kv.Transaction([], [kv.Del([b"k"]), kv.Set(b"k", b"old")])],
    "guarded": [kv.Guarded(100, kv.GetSet(b"k", b"old"))],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_d6_a_watched_key_that_was_changed_stops_the_transaction(store, change):
    """Whatever has touched it, and even if it looks as before."""
    store.do(kv.Set(b"k", b"old"))
    position = store.ask(kv.Position())
    for command in change:
        store.do(command)
    assert store.exec(kv.Set(b"done", b""), watched=[(b"k", position)]) is None
    assert store.ask(kv.Exists([b"done"])) == 0


UNTOUCHED = {
    "nothing": [],
    "another key": [kv.Set(b"other", b"v"), kv.Del([b"other"])],
    "reads": [kv.Read(kv.Get(b"k"))],
    "refused": [kv.SetNx(b"k", b"v"), kv.SetWith(b"k", b"v", kv.SET_NX), kv.Cas(b"k", b"wrong", b"v")],
    "not a number": [kv.IncrBy(b"k"), kv.IncrByFloat(b"k", b"1")],
    "not persisted": [kv.Persist(b"k"), kv.GetEx(b"k"), kv.GetEx(b"k", persist=True)],
    "not expired": [kv.Expire(b"k", 5, False, kv.EXPIRE_XX)],
    "source of a copy": [kv.Copy(b"k", b"other")],
    "set if not": [kv.SetIf(b"k", b"v", b"wrong"), kv.DelIf(b"k", b"wrong")],
    "renamed to itself": [kv.Rename(b"k", b"k")],
    "empty range": [kv.SetRange(b"k", 3, b"")],
    "too large": [kv.Guarded(1, kv.GetSet(b"k", b"new")), kv.Guarded(1, kv.GetDel(b"k"))],
}


@pytest.mark.parametrize("change", UNTOUCHED.values(), ids=UNTOUCHED)
@pytest.mark.parametrize("key", [b"k", b"absent"])
def test_d6_what_changes_nothing_stops_no_transaction(store, change, key):
    """A watch looks at its own keys, and at changes only."""
    store.do(kv.Set(b"k", b"old"))
    position = store.ask(kv.Position())
    for command in change:
        store.do(command)
    assert store.exec(kv.Set(b"done", b""), watched=[(key, position)]) == [True]


def test_d6_an_absent_key_that_came_and_went_has_changed(store):
    """Absence then and now does not mean that nothing happened."""
    position = store.ask(kv.Position())
    store.do(kv.Set(b"k", b"v"))
    store.do(kv.Del([b"k"]))
    assert store.exec(watched=[(b"k", position)]) is None


def test_d6_a_key_that_expired_has_changed(store):
    """Also when the transaction itself is the first command after its end."""
    store.do(kv.SetWith(b"k", b"v", ttl_ms=100))
    position = store.ask(kv.Position())
    store.now_ms += 100
    assert store.exec(watched=[(b"k", position)]) is None


def test_d6_what_was_forgotten_counts_as_changed(monkeypatch):
    """Only the latest changes are remembered: an old watch fails, and a late change is never missed."""
    monkeypatch.setattr(kv_state, "RECENT_BYTES", 1_000)
    store = Store()
    store.do(kv.Set(b"k", b"v"))
    position = store.ask(kv.Position())
    remembered = []
    for number in range(40):
        fresh = store.ask(kv.Position())
        store.do(kv.Set(b"%d" % number, b""))
        assert store.exec(watched=[(b"%d" % number, fresh)]) is None
        assert store.exec(watched=[(b"k", fresh)]) == []
        remembered.append(store.exec(watched=[(b"k", position)]) is not None)
    assert remembered[0]
    assert not remembered[-1]
    assert remembered == sorted(remembered, reverse=True)
    assert len(store.state.recent) + len(store.state.older) < 25


def test_sec4_what_is_remembered_is_bounded_in_bytes(monkeypatch):
    """Large keys that come and go do not stay in memory."""
    monkeypatch.setattr(kv_state, "RECENT_BYTES", 100_000)
    store = Store()
    for number in range(100):
        key = b"%d" % number * 10_000
        store.do(kv.Set(key, b""))
        store.do(kv.Del([key]))
    assert sum(map(len, [*store.state.recent, *store.state.older])) <= 2 * 100_000 + 40_000


names = st.sampled_from([b"a", b"b", b"c"])
steps = st.one_of(
    st.builds(kv.Set, names, st.sampled_from([b"", b"1"])),
    st.builds(kv.SetNx, names, st.just(b"1")),
    st.builds(kv.Del, st.lists(names, max_size=2)),
    st.builds(kv.IncrBy, names),
    st.builds(kv.Expire, names, st.integers(-1, 20)),
    st.builds(kv.Persist, names),
    st.builds(kv.Rename, names, names),
    st.builds(kv.Copy, names, names, st.booleans()),
    st.builds(kv.FlushAll),
)


@given(
    st.lists(st.tuples(steps, st.integers(0, 9)), max_size=30), st.integers(0, 30), st.integers(300, 5_000)
)
def test_d6_no_change_of_value_or_expiry_is_missed(script, watched_at, memory):
    """Whatever happens after the watch: if value or expiry was ever different, the transaction is refused."""
    store = Store()
    store.state.room = memory
    position, seen = 0, None
    differed = set()

    def look():
        values, expiries = store.state.values, store.state.expiries
        return {key: (values.get(key), expiries.get(key)) for key in (b"a", b"b", b"c")}

    for number, (command, passed) in enumerate(script):
        if number == watched_at:
            position, seen = store.ask(kv.Position()), look()
        store.now_ms += passed
        store.do(command)
        if seen is not None:
            differed |= {key for key, now in look().items() if now != seen[key]}
    for key in differed:
        assert store.state.changed_since(key, position)


# --- versions


def test_d6_version_0_refuses_what_is_new_and_does_what_is_old():
    """While a member may run older code, a newer command changes nothing anywhere."""
    store = Store(version=0)
    new = [
        kv.Transaction([], [kv.Set(b"a", b"1")]),
        kv.MsetNx([b"a", b"1"]),
        kv.SetRange(b"a", 0, b"1"),
        kv.IncrByFloat(b"a", b"1"),
        kv.Rename(b"a", b"b"),
        kv.Copy(b"a", b"b"),
        kv.GetEx(b"a"),
        kv.SetIf(b"a", b"1", b"0", False),
        kv.DelIf(b"a", b"0"),
        kv.Read(kv.Get(b"a")),
        kv.Guarded(9, kv.GetSet(b"a", b"1")),
    ]
    assert {type(command) for command in new} == set(kv_writes.COMMANDS) - set(kv_writes._SINCE_0)
    for command in new:
        assert store.do(command) == kv.KvError("not_yet")
    assert store.do(kv.Set(b"a", b"1")) is True
    assert store.state.values == {b"a": b"1"}
    store.machine = KvMachine().which_module(1)
    assert store.do(MachineVersion(0, 1)) is None
    assert store.exec(kv.IncrBy(b"a")) == [2]


def test_golden_bytes_of_version_1():
    """Tags and field order are part of the log's format."""
    golden = [
        (kv.MsetNx([b"k", b"v"]), "920e92c4016bc40176"),
        (kv.SetRange(b"k", 3, b"v"), "940fc4016b03c40176"),
        (kv.IncrByFloat(b"k", b"1.5"), "9310c4016bc403312e35"),
        (kv.Rename(b"k", b"j", True), "9411c4016bc4016ac3"),
        (kv.Copy(b"k", b"j"), "9412c4016bc4016ac2"),
        (kv.GetEx(b"k", 10), "9513c4016b0ac0c2"),
        (kv.SetIf(b"k", b"v", b"w"), "9814c4016bc40176c40177c300c0c0"),
        (kv.DelIf(b"k", b"w", False), "9415c4016bc40177c2"),
        (kv.Transaction([(b"k", 7)], [kv.Read(kv.Get(b"k"))]), "93179192c4016b079192169301c4016bc0"),
        (kv.Guarded(5, kv.GetDel(b"k")), "9318059205c4016b"),
    ]
    for command, expected in golden:
        encoded = msgspec.msgpack.encode(command)
        assert encoded.hex() == expected
        assert msgspec.msgpack.decode(encoded, type=KvMachine.command_type) == command


# --- the size of replies


def test_sec4_a_guarded_command_is_not_done_if_its_reply_could_be_too_large(store):
    """The caller hears how much memory it needs, and nothing has changed."""
    store.do(kv.Set(b"k", b"x" * 1_000))
    for command in (
        kv.GetDel(b"k"),
        kv.GetSet(b"k", b""),
        kv.GetEx(b"k", ttl_ms=5),
        kv.SetWith(b"k", b"", kv.SET_GET),
        kv.SetIf(b"k", b"", b"", False, kv.SET_GET),
        kv.Transaction([], [kv.Del([b"k"]), kv.Read(kv.Get(b"k"))]),
    ):
        assert store.do(kv.Guarded(999, command)) == kv.TooLarge(1_000)
        assert (store.ask(kv.Strlen(b"k")), store.state.expiries) == (1_000, {})
    assert store.do(kv.Guarded(1_000, kv.GetDel(b"k"))) == b"x" * 1_000


def test_sec4_replies_of_a_transaction_are_bounded(store, monkeypatch):
    """What would exceed the limit is an error in its place, and that operation is not done."""
    monkeypatch.setattr(kv_writes, "TRANSACTION_REPLY_BYTES_MAX", 2_500)
    store.do(kv.Set(b"k", b"x" * 1_000))
    read, too_big = kv.Read(kv.Get(b"k")), kv.KvError("reply_too_big")
    replies = store.exec(read, read, read, kv.GetDel(b"k"), kv.Read(kv.Strlen(b"k")))
    assert replies == [b"x" * 1_000, b"x" * 1_000, too_big, too_big, 1_000]


operations = st.one_of(
    st.builds(kv.Set, names, st.binary(max_size=50)),
    st.builds(kv.Append, names, st.binary(max_size=50)),
    st.builds(kv.SetRange, names, st.integers(0, 300), st.binary(max_size=5)),
    st.builds(kv.IncrByFloat, names, st.sampled_from([b"1e200", b"1"])),
    st.builds(kv.Copy, names, names),
    st.builds(kv.Rename, names, names),
    st.builds(kv.Mset, st.tuples(names, st.binary(max_size=50)).map(list)),
    st.builds(kv.GetSet, names, st.binary(max_size=50)),
    st.builds(kv.GetDel, names),
    st.builds(lambda key: kv.Read(kv.Get(key)), names),
    st.builds(lambda keys: kv.Read(kv.Mget(keys)), st.lists(names, max_size=4)),
    st.builds(lambda key: kv.Read(kv.GetRange(key, 0, -1)), names),
)


@given(st.lists(operations, max_size=8), st.lists(operations, max_size=8))
def test_sec4_the_bound_of_a_transaction_s_reply_holds(before, inside):
    """A transaction never replies more than was reckoned before it began, but for a little of each reply."""
    store = Store()
    for command in before:
        store.do(command)
    bound = kv_writes._reply_bound(kv.Transaction([], inside), store.state)
    replies = store.exec(*inside)
    got = 0
    for operation, reply in zip(inside, replies, strict=True):
        if not isinstance(operation, kv.IncrByFloat):
            values = reply if isinstance(reply, list) else [reply]
            got += sum(len(value) for value in values if isinstance(value, bytes))
    assert got <= bound


# --- the newer commands


def test_r4_fractions_add_up_as_decimals(store):
    """Redis' results for ordinary numbers, and the same on every platform."""
    for old, delta, total in [
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"3", b"-3", b"0"),
        (b"0", b"-0.0", b"0"),
        (b"0.1", b"0.2", b"0.3"),
        (b"1", b"1e-17", b"1.00000000000000001"),
        (b"1", b"1e-18", b"1"),
        (b"100", b"0", b"100"),
        (b".5", b"5.", b"5.5"),
        (b"+1", b"1", b"2"),
        (b"0", b"1e-9999", b"0"),
    ]:
        store.do(kv.Set(b"n", old))
        assert store.do(kv.IncrByFloat(b"n", delta)) == total, (old, delta)
        assert store.ask(kv.Get(b"n")) == total
    for wrong in (
        b"",
        b"x",
        b"nan",
        b"inf",
        b"1_0",
        b" 1",
        b"0x1",
        b"1e99999",
        b"1e300",
        b"1" * 401,
        "٣".encode(),
    ):
        store.do(kv.Set(b"n", wrong))
        assert store.do(kv.IncrByFloat(b"n", b"1")) == kv.KvError("not_float"), wrong
        store.do(kv.Set(b"n", b"1"))
        assert store.do(kv.IncrByFloat(b"n", wrong)) == kv.KvError("not_float"), wrong
    store.do(kv.Set(b"n", b"9e299"))
    assert store.do(kv.IncrByFloat(b"n", b"9e299")) == kv.KvError("float_overflow")


def test_d9_compare_and_set_keeps_what_it_is_told_to_keep(store):
    """A lease is renewed or released only by the client that holds it."""
    store.do(kv.SetWith(b"lock", b"mine", ttl_ms=100))
    assert store.do(kv.SetIf(b"lock", b"mine", b"other", ttl_ms=500)) is None
    assert store.ask(kv.Pttl(b"lock")) == 100
    assert store.do(kv.SetIf(b"lock", b"new", b"mine", flags=kv.SET_KEEPTTL)) is True
    assert store.ask(kv.Pttl(b"lock")) == 100
    assert store.do(kv.SetIf(b"lock", b"new", b"new", ttl_ms=500)) is True
    assert store.ask(kv.Pttl(b"lock")) == 500
    assert store.do(kv.SetIf(b"lock", b"x", b"new", flags=kv.SET_GET)) == b"new"
    assert store.ask(kv.Pttl(b"lock")) == -1
    assert store.do(kv.DelIf(b"lock", b"new")) == 0
    assert store.do(kv.DelIf(b"lock", b"x")) == 1
    assert store.do(kv.DelIf(b"lock", b"x", False)) == 0
    assert store.do(kv.SetIf(b"lock", b"x", b"x")) is None
    assert store.do(kv.SetIf(b"lock", b"y", b"x", equal=False)) is True


# --- reads that cost too much


def test_sec5_patterns_are_bounded_and_linear(store):
    """The pattern and key that would take 10**10 steps are refused before the first one."""
    store.do(kv.Set(b"a" * 200_000, b""))
    for pattern in (b"*a" + b"[ab]" * 250 + b"?b*", b"*" + b"?" * 1_000 + b"b*"):
        with pytest.raises(Exception, match="too much work"):
            store.ask(kv.Keys(pattern))
        with pytest.raises(Exception, match="too much work"):
            store.ask(kv.Scan(0, 10, pattern))
    for pattern in (b"*" * 300_000, b"x" * 1_000_000, b"*a" * 50_000 + b"b*"):
        with pytest.raises(Exception, match="longer than the limit of 1024"):
            store.ask(kv.Keys(pattern))
        with pytest.raises(Exception, match="longer than the limit of 1024"):
            store.ask(kv.Scan(0, 10, pattern))
    assert store.ask(kv.Keys(b"*" + b"a" * 1_000 + b"b*")) == []
    assert store.ask(kv.Keys(b"*a*" * 300)) == [b"a" * 200_000]


def test_sec5_keys_of_a_large_store_are_refused(store, monkeypatch):
    """KEYS runs in one piece, so it is for small stores; the error says what to use instead."""
    monkeypatch.setattr("barque.machine.kv_reads.WORK_MAX", 10_000)
    store.do(kv.Mset([part for n in range(500) for part in (b"%d" % n, b"")]))
    assert len(store.ask(kv.Keys(b"*"))) == 500
    store.do(kv.Mset([part for n in range(500, 1_000) for part in (b"%d" % n, b"")]))
    with pytest.raises(Exception, match="use SCAN"):
        store.ask(kv.Keys(b"*"))


def test_sec5_a_scan_takes_many_small_steps(store, monkeypatch):
    """The index is built a slice at a time, COUNT is capped, and the walk is complete all the same."""
    monkeypatch.setattr("barque.machine.kv_scan._SLICE_KEYS", 100)
    monkeypatch.setattr("barque.machine.kv_reads._SCAN_COUNT_MAX", 70)
    store.do(kv.Mset([part for n in range(1_000) for part in (b"%d" % n, b"")]))
    cursor, found, empty = 0, [], 0
    while True:
        cursor, keys = store.ask(kv.Scan(cursor, 2**62))
        assert len(keys) <= 71
        empty += not keys
        found += keys
        if not cursor:
            break
    assert sorted(found) == sorted(store.state.values)
    assert empty == 9
    assert store.ask(kv.RandomKey(2**52 - 1)) in store.state.values


def test_sec4_reads_say_how_much_memory_they_need(store):
    """An answer above the caller's limit is its size; a value of that size or less is the answer."""
    store.do(kv.Mset([b"k", b"x" * 100, b"j", b"y" * 50]))
    for query in (
        lambda most: kv.Get(b"k", most),
        lambda most: kv.GetRange(b"k", 0, -1, most),
        lambda most: kv.Mget([b"k", b"j"], most),
        lambda most: kv.Keys(b"*", most),
        lambda most: kv.Scan(0, 10, None, None, most),
    ):
        refused = store.ask(query(10))
        assert isinstance(refused, kv.TooLarge)
        assert store.ask(query(refused.size)) == store.ask(query(None))
        assert isinstance(store.ask(query(refused.size - 1)), kv.TooLarge)
        assert kv.too_large(msgspec.msgpack.decode(msgspec.msgpack.encode(refused))) == refused.size


def test_r5_an_answer_that_cannot_be_sent_names_the_limit(store, monkeypatch):
    """A read whose answer fits into no message is refused in words."""
    monkeypatch.setattr("barque.machine.kv_reads.ANSWER_BYTES_MAX", 1_000)
    store.do(kv.Set(b"k", b"x" * 600))
    for query in (kv.Mget([b"k", b"k"]), kv.Mget([b""] * 100)):
        with pytest.raises(Exception, match="more than the limit of 1000; nothing was done"):
            store.ask(query)


def test_r4_ranges_and_encodings_are_those_of_redis(store):
    """GETRANGE with any signs, and OBJECT ENCODING for what a client asks to see."""
    store.do(kv.Set(b"k", b"This is a string"))
    for start, end, part in [
        (0, 3, b"This"),
        (-3, -1, b"ing"),
        (0, -1, b"This is a string"),
        (10, 100, b"string"),
        (5, 3, b""),
        (-100, 3, b"This"),
        (-1, -5, b""),
        (2**63, 2**64 - 1, b""),
        (-2, -100, b""),
    ]:
        assert store.ask(kv.GetRange(b"k", start, end)) == part
    for value, encoding in [
        (b"1", b"int"),
        (b"-1", b"int"),
        (b"01", b"embstr"),
        (b"9" * 19, b"embstr"),
        (b"x" * 44, b"embstr"),
        (b"x" * 45, b"raw"),
        (b"", b"embstr"),
        (b"--1", b"embstr"),
    ]:
        store.do(kv.Set(b"e", value))
        assert store.ask(kv.Encoding(b"e")) == encoding, value
    assert store.ask(kv.Encoding(b"absent")) is None
    assert store.ask(kv.MemoryUsage(b"absent")) is None
    assert store.ask(kv.MemoryUsage(b"k")) > len(b"This is a string")
