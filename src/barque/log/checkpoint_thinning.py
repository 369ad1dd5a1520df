"""Which checkpoint goes when there are too many (CKPT-03): the older they are, the larger the gaps."""

from collections.abc import Sequence

from barque.types import Index

_SPANS = [65_536 * multiplier for multiplier in (1, 2, 4, 8)]


def checkpoint_to_drop(indexes: Sequence[Index], checkpoints_max: int) -> Index | None:
    """The checkpoint to remove of these, which are ascending; None while there are not too many.

    It is the middle one of the oldest three neighbours that lie close together. If none do, a wider span
    counts as close, and in the end the second one of all goes. The oldest stays, and so does the newest, from
    which a start begins. Ra has the same rule, but keeps more than the limit where we widen the span.
    """
    if len(indexes) <= max(checkpoints_max, 1):
        return None
    if len(indexes) == 2:
        return indexes[0]
    for span in _SPANS:
        for first, middle, last in zip(indexes, indexes[1:], indexes[2:], strict=False):
            if last - first < span:
                return middle
    return indexes[1]
