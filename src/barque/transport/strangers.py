"""Connections that have not proved anything yet: how many there may be, and which one goes first.

A newcomer always gets in; if there are too many the oldest stranger goes. One that has said nothing goes
before one that has begun the handshake. So a node that restarts finds its peers while thousands of
connections hang half-open: its own handshake takes a moment, theirs never ends.
"""

from typing import Generic, TypeVar

Stranger = TypeVar("Stranger")


class Strangers(Generic[Stranger]):
    """The strangers of one listener, the oldest first."""

    __slots__ = ("_silent", "_speaking", "_total_max")

    def __init__(self, total_max: int) -> None:
        self._total_max = total_max
        self._silent: dict[Stranger, None] = {}
        self._speaking: dict[Stranger, None] = {}

    def __len__(self) -> int:
        return len(self._silent) + len(self._speaking)

    def add(self, stranger: Stranger) -> Stranger | None:
        """A connection was accepted; returns the one that has to go for it."""
        self._silent[stranger] = None
        if len(self) <= self._total_max:
            return None
        oldest = self.oldest(but=stranger)
        if oldest is not None:
            self.remove(oldest)
        return oldest

    def oldest(self, but: Stranger | None = None) -> Stranger | None:
        """The one that goes next."""
        return next(
            (one for group in (self._silent, self._speaking) for one in group if one is not but), None
        )

    def spoke(self, stranger: Stranger) -> None:
        """It has begun the handshake."""
        if stranger in self._silent:
            del self._silent[stranger]
            self._speaking[stranger] = None

    def remove(self, stranger: Stranger) -> None:
        """It has proved who it is, or is gone."""
        self._silent.pop(stranger, None)
        self._speaking.pop(stranger, None)
