"""Which checkpoint goes when there are too many (CKPT-03)."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from barque.log.checkpoint_thinning import checkpoint_to_drop
from barque.types import Index


@pytest.mark.parametrize(
    ("indexes", "most", "dropped"),
    [
        ([], 2, None),
        ([5, 6], 2, None),
        ([5, 6, 7], 2, 6),
        ([5, 100_000, 100_001, 100_002], 3, 100_001),  # the first neighbours lie too far apart
        ([1, 70_000, 140_000], 2, 70_000),  # none lie close together: a wider span counts as close
        ([1, 1_000_000, 2_000_000], 2, 1_000_000),  # not even then: the second one
        ([5, 6], 1, 5),
        ([5, 6], 0, 5),  # one at least
        ([1, 100_000, 200_000, 200_001, 300_000], 2, 200_000),
        ([1, 100_000, 131_000, 300_000], 2, 100_000),
    ],
)
def test_the_table(indexes: list[int], most: int, dropped: int | None) -> None:
    """The middle one of the oldest three neighbours that lie close together."""
    assert checkpoint_to_drop([Index(i) for i in indexes], most) == dropped


@given(st.lists(st.integers(1, 400_000), min_size=1, unique=True), st.integers(1, 12))
def test_dropping_until_there_are_few_enough(indexes: list[int], most: int) -> None:
    """Each call drops one of them, never the newest, and it ends at the limit."""
    left = sorted(map(Index, indexes))
    newest = left[-1]
    while (dropped := checkpoint_to_drop(left, most)) is not None:
        left.remove(dropped)
    assert len(left) == min(len(indexes), most)
    assert left[-1] == newest


def test_gaps_grow_with_age() -> None:
    """A checkpoint every 16,384 entries: after three million entries the old ones are far apart."""
    left: list[Index] = []
    for number in range(1, 201):
        left.append(Index(16_384 * number))
        dropped = checkpoint_to_drop(left, 10)
        if dropped is not None:
            left.remove(dropped)
    gaps = [(later - earlier) // 16_384 for earlier, later in pairwise(left)]
    assert gaps == [24, 24, 28, 28, 30, 30, 15, 15, 5]
