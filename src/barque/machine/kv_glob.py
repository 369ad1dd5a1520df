"""Redis' glob patterns, in time linear in the key.

Redis matches by recursion, which hostile patterns (`a*a*a*…`) can make slow. Here a pattern is cut at
its stars into pieces of a fixed length each. The first piece must stand at the beginning of the key and the
last one at its end; between them the leftmost place of every piece is as good as any, so nothing is ever
tried twice. A piece without `?` and `[…]` is found by `bytes.find`, in linear time; another one is a regular
expression that may look at its whole length at each place, and `Glob.work` counts that.

The rules are those of Redis 7, with its corners: `[` without an end takes the rest of the
pattern, `[a-]` begins a range that ends in `]`, a range may be backwards, `[]` matches nothing
and `[^]` anything, and the empty key is matched by `*` and by the empty pattern only.
"""

import re
from collections.abc import Callable
from typing import Final

PATTERN_BYTES_MAX: Final = 1024

_STAR, _QUESTION, _OPEN, _CLOSE, _CARET, _BACKSLASH, _DASH = b"*?[]^\\-"
_NOTHING = b"(?!)."

Finder = Callable[[bytes, int, int], int]


class _Piece:
    """What stands between two stars: it matches `size` bytes."""

    __slots__ = ("expression", "literal", "size")

    def __init__(self) -> None:
        self.size = 0
        self.literal: bytes | None = b""
        """The bytes themselves, if nothing else matches."""
        self.expression = b""

    def add(self, expression: bytes, literal: int | None = None) -> None:
        """One more byte of the key."""
        self.size += 1
        self.expression += expression
        if literal is None:
            self.literal = None
        elif self.literal is not None:
            self.literal += bytes((literal,))

    def finder(self) -> Finder:
        """A function of a key, a beginning and an end: where the piece first stands there, or -1."""
        literal = self.literal
        if literal is not None:
            return lambda key, start, end: key.find(literal, start, end)
        search = re.compile(self.expression, re.DOTALL).search

        def find(key: bytes, start: int, end: int) -> int:
            match = search(key, start, end)
            return -1 if match is None else match.start()

        return find


class Glob:
    """A compiled pattern."""

    __slots__ = ("_ends", "_middle", "_size", "_steps", "_whole")

    def __init__(self, pieces: list[_Piece]) -> None:
        first, last = pieces[0], pieces[-1]
        self._size = sum(piece.size for piece in pieces)
        self._whole = len(pieces) == 1
        self._ends = first.finder(), first.size, last.finder(), last.size
        self._middle = [(piece.finder(), piece.size) for piece in pieces[1:-1]]
        self._steps = 1 + sum(piece.size for piece in pieces[1:-1] if piece.literal is None)

    def work(self, key_bytes: int) -> int:
        """The most steps that matching keys of so many bytes in all can take."""
        return key_bytes * self._steps

    def matches(self, key: bytes) -> bool:
        """Whether the pattern matches the whole key."""
        end = len(key)
        if end < self._size or (self._whole and end != self._size):
            return False
        find_first, first_size, find_last, last_size = self._ends
        if find_first(key, 0, first_size):
            return False
        if self._whole:
            return True
        if not end:
            return False  # the empty key matches no pattern but `*` and the empty one
        end -= last_size
        if find_last(key, end, end + last_size) != end:
            return False
        at = first_size
        for find, size in self._middle:
            at = find(key, at, end)
            if at < 0:
                return False
            at += size
        return True


class _Anything(Glob):
    """`*`: no key needs to be looked at."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([_Piece(), _Piece()])

    def matches(self, key: bytes) -> bool:
        """Every key, the empty one too."""
        return True


def compile_glob(pattern: bytes) -> Glob:
    """The pattern, compiled. Raises `ValueError` for one of more than `PATTERN_BYTES_MAX` bytes."""
    if len(pattern) > PATTERN_BYTES_MAX:
        raise ValueError(f"a pattern of {len(pattern)} bytes is longer than the limit of {PATTERN_BYTES_MAX}")
    return _Anything() if pattern == b"*" else Glob(_pieces(pattern))


def _pieces(pattern: bytes) -> list[_Piece]:
    """The pieces of a pattern between its stars."""
    pieces = [_Piece()]
    position = 0
    while position < len(pattern):
        byte = pattern[position]
        if byte == _STAR:
            if pieces[-1].size or len(pieces) == 1:  # `**` is `*`
                pieces.append(_Piece())
            position += 1
        elif byte == _QUESTION:
            pieces[-1].add(b".")
            position += 1
        elif byte == _OPEN:
            expression, position = _class(pattern, position + 1)
            pieces[-1].add(expression)
        else:
            if byte == _BACKSLASH and position + 1 < len(pattern):
                position += 1
            pieces[-1].add(_literal(pattern[position]), pattern[position])
            position += 1
    return pieces


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
