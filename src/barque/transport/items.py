"""How many values an encoded msgpack value holds, before it is decoded.

A byte on the wire may become an empty list of 64 bytes in memory. So values of any kind that clients send are
counted first. Strings and binaries count once, however long they are.
"""

from barque.errors import ProtocolError

_SIZES = {  # by first byte: the bytes that follow it, for values of one size
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
_COUNTED = {  # by first byte: how wide the length is, and what else follows it
    0xC4: (1, 0),
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xC7: (1, 1),
    0xC8: (2, 1),
    0xC9: (4, 1),
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # width of the length, values an item


def check_items(encoded: memoryview, items_max: int) -> None:
    """Count the values in one encoded value. Raises `ProtocolError` if there are more than `items_max`."""
    at, left, seen = 0, 1, 0
    end = len(encoded)
    while left and at < end:
        first = encoded[at]
        at += 1
        left -= 1
        seen += 1
        if 0x80 <= first <= 0x9F:
            left += (first & 0x0F) * (2 if first < 0x90 else 1)
        elif 0xA0 <= first <= 0xBF:
            at += first & 0x1F
        elif first in _CONTAINERS:
            width, values = _CONTAINERS[first]
            left += int.from_bytes(encoded[at : at + width], "big") * values
            at += width
        elif first in _COUNTED:
            width, more = _COUNTED[first]
            at += int.from_bytes(encoded[at : at + width], "big") + width + more
        else:
            at += _SIZES.get(first, 0)
        if seen + left > items_max:
            raise ProtocolError(f"more than {items_max} values in the arguments of one request")
