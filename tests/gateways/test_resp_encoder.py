"""`barque.gateways.resp.encoder`: the bytes of each kind of reply."""

import pytest

from barque.gateways.resp import encoder


@pytest.mark.parametrize(
    ("item", "resp2", "resp3"),
    [
        (b"a\r\n", b"$3\r\na\r\n\r\n", b"$3\r\na\r\n\r\n"),
        ("ä", b"$2\r\n\xc3\xa4\r\n", b"$2\r\n\xc3\xa4\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (5000, b":5000\r\n", b":5000\r\n"),
        (-1, b":-1\r\n", b":-1\r\n"),
        ([1, None], b"*2\r\n:1\r\n$-1\r\n", b"*2\r\n:1\r\n_\r\n"),
        ({"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
    ],
)
def test_values(item, resp2, resp3):
    """Nulls and maps are what the versions differ in."""
    assert encoder.value(item, False) == resp2
    assert encoder.value(item, True) == resp3


def test_an_error_is_one_line():
    """Whatever a text contains, it cannot begin a second reply; odd characters do not raise."""
    assert encoder.error("ERR a\r\n+OK\r\n…\xff") == b"-ERR a  +OK  ?\xff\r\n"


def test_sets_and_verbatim_texts():
    """Version 2 knows neither."""
    assert encoder.set_of([b":1\r\n"], True) == b"~1\r\n:1\r\n"
    assert encoder.set_of([b":1\r\n"], False) == b"*1\r\n:1\r\n"
    assert encoder.verbatim(b"ab", True) == b"=6\r\ntxt:ab\r\n"
    assert encoder.verbatim(b"ab", False) == b"$2\r\nab\r\n"
