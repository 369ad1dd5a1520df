"""Guessing a secret or a password gets slower with each wrong guess: a growing pause for each address."""

from collections.abc import Callable

_FREE = 3
"""So many mistakes cost nothing: somebody has mistyped."""
_PAUSE_MIN_S = 0.05
_PAUSE_MAX_S = 2.0
_FORGET_S = 60.0
_ADDRESSES_MAX = 4096


class Guesses:
    """The wrong guesses of each address. `now` tells the time in seconds.

    A pause holds for right guesses as well, or a guesser would not wait for it. It is never longer than two
    seconds, so that a user behind the same address still gets in.
    """

    __slots__ = ("_now", "_wrong", "count")

    def __init__(self, now: Callable[[], float]) -> None:
        self.count = 0
        """All wrong guesses."""
        self._now = now
        self._wrong: dict[
            str, tuple[int, float]
        ] = {}  # how many, and when the last one came; the latest last

    def pause_s(self, address: str) -> float:
        """How long the next guess from there has to wait before it is looked at."""
        wrong, at = self._wrong.get(address, (0, 0.0))
        if wrong <= _FREE or self._now() - at > _FORGET_S:
            return 0.0
        return float(min(_PAUSE_MAX_S, _PAUSE_MIN_S * 2.0 ** min(wrong - _FREE - 1, 16)))

    def wrong(self, address: str) -> None:
        """A guess from there was wrong."""
        self.count += 1
        wrong, at = self._wrong.pop(address, (0, 0.0))
        now = self._now()
        self._wrong[address] = (wrong + 1 if now - at <= _FORGET_S else 1, now)
        if len(self._wrong) > _ADDRESSES_MAX:
            del self._wrong[next(iter(self._wrong))]
