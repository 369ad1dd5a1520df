"""`barque.machine.kv_glob`: the patterns of Redis, compared with its own algorithm."""

from hypothesis import given, settings, strategies as st

from barque.machine.kv_glob import compile_glob


def redis_match(pattern, key):
    """The rules of Redis' `stringmatchlen`, one byte after the other, by recursion."""
    if pattern == b"*":
        return True  # KEYS and SCAN do not ask
    p = s = 0
    while p < len(pattern) and s < len(key):
        byte = pattern[p : p + 1]
        if byte == b"*":
            while pattern[p + 1 : p + 2] == b"*":
                p += 1
            if p + 1 == len(pattern):
                return True
            return any(redis_tail(pattern[p + 1 :], key[at:]) for at in range(s, len(key)))
        if byte == b"[":
            matched, p = _class(pattern, p + 1, key[s])
            if not matched:
                return False
        elif byte != b"?":
            if byte == b"\\" and p + 1 < len(pattern):
                p += 1
            if pattern[p] != key[s]:
                return False
        s += 1
        p += 1
        if s == len(key):
            while pattern[p : p + 1] == b"*":
                p += 1
            break
    return p >= len(pattern) and s == len(key)


def redis_tail(pattern, key):
    """The recursion: here a lone star is no special case, but matches all the same."""
    return redis_match(pattern, key)


def _class(pattern, p, byte):
    negated = pattern[p : p + 1] == b"^"
    p += negated
    matched = False
    while True:
        if len(pattern) - p >= 2 and pattern[p : p + 1] == b"\\":
            p += 1
            matched |= pattern[p] == byte
        elif pattern[p : p + 1] == b"]":
            break
        elif p >= len(pattern):
            p -= 1
            break
        elif len(pattern) - p >= 3 and pattern[p + 1 : p + 2] == b"-":
            low, high = sorted((pattern[p], pattern[p + 2]))
            p += 2
            matched |= low <= byte <= high
        else:
            matched |= pattern[p] == byte
        p += 1
    return matched != negated, p


alphabet = st.text(alphabet="ab*?[]^-\\c\n", max_size=10).map(str.encode)


@settings(max_examples=2000)
@given(alphabet, st.text(alphabet="ab]-\\^*c\n", max_size=8).map(str.encode))
def test_patterns_agree_with_redis_rules(pattern, key):
    """Random patterns over the special characters."""
    assert compile_glob(pattern).matches(key) == redis_match(pattern, key)


@given(st.binary(max_size=10), st.binary(max_size=10))
def test_any_bytes_are_a_pattern(pattern, key):
    """No pattern raises."""
    assert compile_glob(pattern).matches(key) == redis_match(pattern, key)


def test_hostile_patterns_are_no_trap():
    """The pattern that makes recursion explode ends at once: a second would mean years with more stars."""
    assert not compile_glob(b"a*" * 200 + b"b").matches(b"a" * 5000)
    assert compile_glob(b"a*" * 200 + b"b").matches(b"a" * 5000 + b"b")
