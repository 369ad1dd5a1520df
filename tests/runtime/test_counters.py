"""`barque.runtime.counters`: plain integers by Ra's names."""

import re
from pathlib import Path

import pytest

import barque
from barque.runtime.counters import ServerCounters

RUNTIME = Path(barque.__file__).parent / "runtime"


def test_counters_begin_at_zero_and_count() -> None:
    """All names are there at once, so that a dashboard needs no special case."""
    counters = ServerCounters()
    assert set(counters.overview().values()) == {0}
    counters.commands += 2
    assert counters.overview()["commands"] == 2


def test_a_misspelled_counter_is_an_error() -> None:
    """Slots refuse names that do not exist, so a typing error cannot count into the void."""
    with pytest.raises(AttributeError):
        ServerCounters().elction = 1  # type: ignore[attr-defined]


def test_gauges_are_counters() -> None:
    """Every gauge is among the names."""
    assert set(ServerCounters.__slots__) > ServerCounters.GAUGES


def test_every_counter_is_set_somewhere() -> None:
    """A counter that nothing sets would be shown as zero forever; it must be absent instead."""
    source = "\n".join(path.read_text() for path in RUNTIME.glob("*.py"))
    set_somewhere = set(re.findall(r"counters\.(\w+) \+?= ", source))
    assert set_somewhere == set(ServerCounters.__slots__)
