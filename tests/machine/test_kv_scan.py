"""`barque.machine.kv_scan`: a scan returns what was there throughout, at any member."""

import random

from hypothesis import given, strategies as st

from barque.machine import kv_scan
from barque.machine.kv_scan import HASH_BITS, ScanIndex, scan_hash
from barque.machine.kv_state import KvState


def page(index, cursor, count):
    """The next page, once the index has taken in all keys."""
    while not index.advance():
        pass
    return index.page(cursor, count, lambda key: True, lambda key: 1)


def test_hashes_are_part_of_the_protocol():
    """A cursor means the same in every process and version, and survives a double."""
    assert scan_hash(b"key") == scan_hash(b"key") < 2**HASH_BITS <= 2**53
    assert [scan_hash(key) for key in (b"", b"a")] == [4022468892641179, 1142984810018404]


@given(
    st.lists(st.tuples(st.sampled_from("sdn"), st.integers(0, 300)), max_size=300),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_scans_are_complete_under_writes(writes, count, seed):
    """Each page asks another member, keys come and go between pages: what stays is returned."""
    rng = random.Random(seed)
    state = KvState()
    for number in range(150):
        state.put(b"%d" % number, b"")
    staying = set(state.values)
    members = [ScanIndex(state.values) for _ in range(2)]
    found, cursor = [], 0
    script = iter(writes)
    while True:
        cursor, keys = page(rng.choice(members), cursor, count)
        found += keys
        if cursor == 0:
            break
        for kind, number in [step for _, step in zip(range(8), script, strict=False)]:
            key = b"%d" % number
            if kind == "s":
                state.put(key, b"")
            elif state.remove(key):
                for member in members:
                    member.forget(key)
                staying.discard(key)
    assert staying <= set(found)
    assert len(found) == len(set(found))


def test_keys_of_one_hash_stay_together(monkeypatch):
    """A cursor cannot point between equal hashes, so they come on one page."""
    monkeypatch.setattr(kv_scan, "scan_hash", lambda key: int(key[:1]) << 40)
    values = {b"%d%d" % (group, n): b"" for group in range(5) for n in range(10)}
    index = ScanIndex(values)
    cursor, found = 0, []
    while True:
        cursor, keys = page(index, cursor, 3)
        assert len(keys) == 10
        found += keys
        if not cursor:
            break
    assert sorted(found) == sorted(values)


def test_the_index_grows_with_the_dictionary():
    """An index built over few keys is rebuilt when there are many."""
    values = {b"first": b""}
    index = ScanIndex(values)
    values.update((b"%d" % number, b"") for number in range(3_000))
    cursor, found = 0, []
    while True:
        cursor, keys = page(index, cursor, 100)
        found += keys
        if not cursor:
            break
    assert sorted(found) == sorted(values)


def test_cursors_from_nowhere():
    """Any number is a cursor; past the last key the scan is done."""
    index = ScanIndex({b"a": b""})
    assert page(index, 2**64 - 1, 10) == (0, [])
    assert page(index, scan_hash(b"a") + 1, 10) == (0, [])
    assert page(index, scan_hash(b"a"), 10) == (0, [b"a"])
