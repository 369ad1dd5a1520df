"""Which fault comes next, and when all faults rest: shared by simulations of nodes and of core servers.

A run counts only if each of its faults happened and the cluster did some work. Chance alone would waste many
runs, so the faults that have not happened yet come first, sooner when time is short, and all faults rest
while the cluster is too far behind.
"""

import random
from collections.abc import Mapping, Sequence

COMMITS_MIN = 10
"""A run with fewer commits, or without one of its faults, proves nothing."""


def order_faults(names: Sequence[str], fired: Mapping[str, int], rng: random.Random) -> list[str]:
    """Return the order in which to try the faults: first those that have not happened yet."""
    order = rng.sample(names, len(names))
    order.sort(key=lambda name: fired.get(name, 0) > 0)
    return order


def is_behind(committed: int, share: float) -> bool:
    """Whether a cluster will hardly have committed enough commands in the end.

    `share` is how much of the time for faults has passed. Nothing is demanded in the first quarter.
    """
    return committed < COMMITS_MIN * (1.6 * share - 0.4)


def pause_s(pace_s: float, left_s: float, names: Sequence[str], fired: Mapping[str, int]) -> float:
    """The mean time until the next fault: `pace_s`, or less if some faults might not happen in time.

    It is never much less, or a fault that cannot happen would hurry all others in the end.
    """
    waiting = sum(not fired.get(name, 0) for name in names)
    return min(pace_s, max(left_s / (1.5 * waiting + 4), pace_s / 5)) if waiting else pace_s
