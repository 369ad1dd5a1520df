"""Presets, and the schedules that seeds draw from them."""

import pytest

from barque.testing.chaos.faults import FAULTS
from barque.testing.chaos.presets import PRESETS, RA
from barque.testing.chaos.schedule import draw_schedule


def test_there_are_eleven_of_ra() -> None:
    """Ra's Jepsen job has eleven configurations, seven of sets and four of registers, on five nodes."""
    assert len(RA) == 11
    assert sum(name.startswith("set-") for name in RA) == 7
    assert all(preset.nodes == 5 for preset in RA.values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_seed_makes_the_schedule(name: str) -> None:
    """A seed always draws the same faults, another seed others; each fault comes before any comes again."""
    preset = PRESETS[name]
    one = draw_schedule(preset, preset.faults, 60, "7")
    assert one == draw_schedule(preset, preset.faults, 60, "7")
    assert one != draw_schedule(preset, preset.faults, 60, "8")
    for lane, events in one.items():
        faults = [fault for fault in preset.faults if FAULTS[fault].lane == lane]
        assert {event.fault for event in events[: len(faults)]} == set(faults)
        assert sum(event.wait_s for event in events) >= 60


def test_a_lane_does_not_depend_on_others() -> None:
    """Without faults of disks, processes die at the same moments."""
    preset = PRESETS["chaos"]
    some = tuple(name for name in preset.faults if FAULTS[name].lane != "disks")
    everything, fewer = (draw_schedule(preset, faults, 30, "7") for faults in (preset.faults, some))
    assert everything["processes"] == fewer["processes"]
    assert "disks" not in fewer
