"""Redis' glob patterns, in time linear in the key for each segment.

Redis matches by recursion, which hostile patterns (`a*a*a*…`) can make slow. Here a pattern
becomes a regular expression whose stars are atomic groups: every piece between two stars has a
fixed length, so its leftmost match is as good as any, and nothing is ever tried twice.

The rules are those of Redis 7, with its corners: `[` without an end takes the rest of the
pattern, `[a-]` begins a range that ends in `]`, a range may be backwards, `[]` matches nothing
and `[^]` anything, and the empty key is matched by `*` and by the empty pattern only.
"""

import re
from collections.abc import Callable

Matcher = Callable[[bytes], object]

_STAR, _QUESTION, _OPEN, _CLOSE, _CARET, _BACKSLASH, _DASH = b"*?[]^\\-"
_NOTHING = b"(?!)"


def compile_glob(pattern: bytes) -> Matcher:
    """A function that says (as a truth value) whether a key matches `pattern`."""
    if pattern == b"*":
        return _anything
    segments = _segments(pattern)
    if len(segments) == 1:
        body = segments[0]
    else:
        middle = b"".join(b"(?>.*?" + segment + b")" for segment in segments[1:-1])
        body = segments[0] + middle + b".*" + segments[-1]
    if body.startswith(b".*") and pattern:
        body = b"(?!\\Z)" + body  # the empty key matches no pattern but the two above
    return re.compile(body, re.DOTALL).fullmatch


def _anything(key: bytes) -> bool:
    return True


def _segments(pattern: bytes) -> list[bytes]:
    """The regular expressions of the pieces between stars; each matches a fixed number of bytes."""
    segments: list[list[bytes]] = [[]]
    position = 0
    while position < len(pattern):
        byte = pattern[position]
        if byte == _STAR:
            if segments[-1] or len(segments) == 1:  # `**` is `*`
                segments.append([])
            position += 1
        elif byte == _QUESTION:
            segments[-1].append(b".")
            position += 1
        elif byte == _OPEN:
            expression, position = _class(pattern, position + 1)
            segments[-1].append(expression)
        else:
            if byte == _BACKSLASH and position + 1 < len(pattern):
                position += 1
            segments[-1].append(_literal(pattern[position]))
            position += 1
    return [b"".join(parts) for parts in segments]


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The expression for a `[…]` whose inside begins at `position`, and where the pattern goes on."""
    negated = pattern[position : position + 1] == b"^"
    if negated:
        position += 1
    members: list[bytes] = []
    end = len(pattern)
    while position < end and pattern[position] != _CLOSE:
        if pattern[position] == _BACKSLASH and position + 1 < end:
            position += 1
            members.append(_literal(pattern[position]))
        elif position + 2 < end and pattern[position + 1] == _DASH:
            low, high = sorted((pattern[position], pattern[position + 2]))
            members.append(_literal(low) + b"-" + _literal(high))
            position += 2
        else:
            members.append(_literal(pattern[position]))
        position += 1
    position += 1  # past the `]`, or past the end if there was none
    if not members:
        return (b"." if negated else _NOTHING), position
    return b"[" + (b"^" if negated else b"") + b"".join(members) + b"]", position


def _literal(byte: int) -> bytes:
    return b"\\x%02x" % byte
