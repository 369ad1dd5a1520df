"""The arithmetic of majorities."""

import pytest
from hypothesis import given, strategies as st

from barque.core.quorum import agreed, majority


@pytest.mark.parametrize(("positions", "expected"), [([4], 4), ([4, 3], 3), ([4, 4, 3], 4), ([4, 2, 3], 3)])
def test_agreed_by_example(positions: list[int], expected: int) -> None:
    """The examples of the semantics (§2)."""
    assert agreed(positions) == expected


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_agreed_is_the_highest_position_of_a_majority(positions: list[int]) -> None:
    """Against the definition: the greatest value that at least a majority has reached."""
    candidates = [p for p in positions if sum(q >= p for q in positions) >= majority(len(positions))]
    assert agreed(positions) == max(candidates)


@given(st.integers(1, 50))
def test_two_majorities_meet(voters: int) -> None:
    """Any two quorums share a voter, and a quorum survives every minority that fails."""
    assert 2 * majority(voters) > voters
    assert majority(voters) <= voters - (voters - 1) // 2
