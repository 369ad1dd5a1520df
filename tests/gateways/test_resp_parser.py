"""`barque.gateways.resp.parser`: the same requests however the bytes are cut."""

import pytest
from hypothesis import given, settings, strategies as st

from barque.gateways.resp.parser import RequestError, RequestParser, split_inline, strict_integer


def encode(arguments):
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def parse_all(chunks, limit=10**6, authenticated=True, **sizes):
    """Requests and the error, if any, of input that arrives in these chunks."""
    parser = RequestParser(
        sizes.get("bulk", 10_000), sizes.get("request", 100_000), authenticated=authenticated
    )
    found, error = [], None
    try:
        for chunk in chunks:
            parser.feed(chunk)
            while True:
                requests = []
                try:
                    parser.parse(requests, limit)
                finally:
                    found += requests
                if not requests:
                    break
    except RequestError as complaint:
        error = str(complaint)
    return found, error


arguments = st.lists(
    st.one_of(
        st.binary(max_size=20), st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"*1\r\n", b"$1", b"x" * 3000])
    ),
    min_size=1,
    max_size=5,
)


@given(st.lists(arguments, max_size=6), st.integers(1, 3), st.booleans())
def test_requests_survive_every_cut(requests, limit, inline):
    """What was encoded is parsed, in one piece, byte by byte, and cut in two at every place."""
    data = (
        b"PING a\nPING\r\n".join([b"", *map(encode, requests)]) if inline else b"".join(map(encode, requests))
    )
    expected = [
        one for request in requests for one in (([[b"PING", b"a"], [b"PING"]]) if inline else []) + [request]
    ]
    assert parse_all([data]) == (expected, None)
    assert parse_all([data], limit=limit) == (expected, None)
    assert parse_all([data[at : at + 1] for at in range(len(data))]) == (expected, None)
    for at in range(0, len(data), max(1, len(data) // 50)):
        assert parse_all([data[:at], data[at:]]) == (expected, None)


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [b"*1\r\n", b"*2\r\n", b"$4\r\n", b"PING\r\n", b"\r\n", b"*-1\r\n", b"'", b'"', b"*0\r\n"]
            ),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_garbage_means_the_same_however_it_is_cut(parts, authenticated):
    """Random bytes never raise anything but `RequestError`, and cuts change neither requests nor error."""
    data = b"".join(parts)
    whole = parse_all([data], authenticated=authenticated)
    assert parse_all([data[at : at + 1] for at in range(len(data))], authenticated=authenticated) == whole
    for at in range(len(data)):
        assert parse_all([data[:at], data[at:]], authenticated=authenticated) == whole


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*1\r\n$10001\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999999\r\n", "invalid bulk length"),
        (b"*20\r\n" + b"$10000\r\n" + b"x" * 10000 + b"\r\n" + b"$10000\r\n" * 1, None),
        (b"*20\r\n" + (b"$10000\r\n" + b"x" * 10000 + b"\r\n") * 11, "command exceeds 100000 bytes"),
        (b"*1\r\n$4\r\nPINGxx", "expected CRLF after bulk"),
        (b"x" * 65537, "too big inline request"),
        (b"x" * 65537 + b"\n", "too big inline request"),
        (b"*" + b"1" * 65537, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 65537, "too big bulk count string"),
    ],
)
def test_limits(data, complaint):
    """Every limit has its error, given as soon as the header is there."""
    _, error = parse_all([data])
    assert error == (complaint and f"Protocol error: {complaint}")


def test_strangers_have_lower_limits():
    """Before authentication: ten arguments of 16 KiB."""
    assert (
        parse_all([b"*11\r\n"], authenticated=False)[1] == "Protocol error: unauthenticated multibulk length"
    )
    error = parse_all([b"*1\r\n$16385\r\n"], authenticated=False, bulk=10**6)[1]
    assert error == "Protocol error: unauthenticated bulk length"


def test_a_large_value_is_not_looked_at_again_for_each_piece():
    """While a value arrives the parser only collects: `consumed` moves once, at the end."""
    parser = RequestParser(2**24, 2**26)
    parser.feed(b"*2\r\n$3\r\nGET\r\n$1000000\r\n")
    requests = []
    parser.parse(requests, 10)
    head = parser.consumed
    for _ in range(10):
        parser.parse(requests, 10)
        assert (requests, parser.consumed) == ([], head)
        parser.feed(b"x" * 100_000)
    parser.feed(b"\r\n")
    parser.parse(requests, 10)
    assert requests == [[b"GET", b"x" * 1_000_000]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"a b", [b"a", b"b"]),
        (b"a \"b c\" 'd e'", [b"a", b"b c", b"d e"]),
        (b'"\\x00\\xfF\\xg1\\\\"', [b"\x00\xffxg1\\"]),
        (b"'a\\'b\\n'", [b"a'b\\n"]),
        (b"''", [b""]),
        (b"'", None),
        (b'"a"b', None),
        (b'"a\\', None),
        (b"", []),
    ],
)
def test_inline_quotes(line, expected):
    """Double quotes know escapes, single quotes only their own."""
    assert split_inline(line) == expected


def test_integers_are_read_strictly():
    """Only what Redis itself would write is a number."""
    good = {b"0": 0, b"-1": -1, b"9223372036854775808": 2**63}
    assert {text: strict_integer(text) for text in good} == good
    for bad in (b"", b"+1", b"01", b"-0", b" 1", b"1 ", b"1_0", b"x", b"1" * 21, b"\xd9\xa1"):
        assert strict_integer(bad) is None, bad
