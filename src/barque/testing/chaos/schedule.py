"""When each fault happens: drawn from the seed before a run begins.

Faults of one lane follow one another; lanes run side by side. A fault draws its choices (a node, a way to
cut links) from a seed of its own, so that one fault changes nothing for the next.
"""

import random

import msgspec

from barque.testing.chaos.faults import FAULTS
from barque.testing.chaos.presets import Preset

_BEFORE_MIN_S, _FAULT_MIN_S = 0.4, 0.8
_CYCLES_MIN = 4
_LONGER = 2


class Event(msgspec.Struct, frozen=True):
    """One fault. It begins `wait_s` after the last fault of its lane ended, and lasts `length_s`."""

    fault: str
    wait_s: float
    length_s: float
    seed: int


def draw_schedule(
    preset: Preset, faults: tuple[str, ...], seconds: float, seed: str
) -> dict[str, list[Event]]:
    """Draw the events of each lane. Every fault comes once before any comes again.

    A lane has more events than fit into `seconds`: some faults find no victim, and a run goes on until each
    fault has happened.
    """
    lanes: dict[str, list[str]] = {}
    for name in faults:
        lanes.setdefault(FAULTS[name].lane, []).append(name)
    schedule = {}
    for lane, names in lanes.items():
        rng = random.Random(f"{seed}/{lane}")  # noqa: S311  # repeatable on purpose
        cycle_s = preset.before_s + preset.fault_s
        shrink = min(1.0, seconds / (max(_CYCLES_MIN, 1.5 * len(names)) * cycle_s))
        before_s = max(_BEFORE_MIN_S, preset.before_s * shrink)
        fault_s = max(_FAULT_MIN_S, preset.fault_s * shrink)
        events: list[Event] = []
        while sum(event.wait_s for event in events) < _LONGER * seconds:
            for name in rng.sample(names, len(names)):
                wait_s, length_s = before_s * rng.uniform(0.5, 1.5), fault_s * rng.uniform(0.5, 1.5)
                if FAULTS[name].brief:
                    wait_s, length_s = wait_s + length_s, 0.0
                events.append(Event(name, round(wait_s, 3), round(length_s, 3), rng.getrandbits(32)))
        schedule[lane] = events
    return schedule
