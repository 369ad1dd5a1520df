"""The arithmetic of majorities; nothing here knows what a server is."""

from collections.abc import Iterable


def majority(voters: int) -> int:
    """How many of `voters` make a quorum. Any two quorums share a voter."""
    return voters // 2 + 1


def agreed(positions: Iterable[int]) -> int:
    """The highest position that a majority has reached (§3.5), given one position per voter.

    With [4, 2, 3] a majority has reached 3.
    """
    ordered = sorted(positions, reverse=True)
    return ordered[len(ordered) // 2]
