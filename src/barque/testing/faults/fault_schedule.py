"""Which fault is next, and when all of them rest: what simulations of nodes and of core servers share.

A run counts only if each of its faults happened and the cluster did some work. Chance alone wastes many.
"""

import random
from collections.abc import Mapping, Sequence

COMMITS_MIN = 10
"""A run with fewer commits, or without one of its faults, proves nothing."""


def order_faults(names: Sequence[str], fired: Mapping[str, int], rng: random.Random) -> list[str]:
    """The order in which to try them: first those that have not happened yet, then any other."""
    order = rng.sample(names, len(names))
    order.sort(key=lambda name: fired.get(name, 0) > 0)
    return order


def is_behind(committed: int, share: float) -> bool:
    """Whether a cluster is held down so much that it will hardly have committed enough in the end.

    `share` is how much of the time for faults is over; in the first quarter nobody demands anything.
    """
    return committed < COMMITS_MIN * (1.6 * share - 0.4)


def pause_s(pace_s: float, left_s: float, names: Sequence[str], fired: Mapping[str, int]) -> float:
    """The mean time until the next fault: `pace_s`, or less if some might not have their turn any more.

    Not much less, or one that cannot happen would hurry all the others in the end.
    """
    waiting = sum(not fired.get(name, 0) for name in names)
    return min(pace_s, max(left_s / (1.5 * waiting + 4), pace_s / 5)) if waiting else pace_s
