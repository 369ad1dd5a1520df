"""`barque.runtime.counters`: Ra's names, plain integers."""

import pytest

from barque.runtime.counters import (
    CounterGroup,
    CounterRegistry,
    LogCounters,
    RaftCounters,
    SegmentWriterCounters,
    ServerCounters,
    WalCounters,
)

GROUPS = [LogCounters, RaftCounters, SegmentWriterCounters, WalCounters]


@pytest.mark.parametrize("group", GROUPS)
def test_counters_begin_at_zero_and_count(group: type[CounterGroup]) -> None:
    """Every declared name exists, begins at zero, and is what `overview` shows."""
    counters = group()
    assert set(counters.overview().values()) == {0}
    assert {*group.__slots__} == {name for name in group.__annotations__ if name != "GAUGES"}
    assert {*group.__slots__} >= group.GAUGES
    setattr(counters, group.__slots__[0], 3)
    assert counters.overview()[group.__slots__[0]] == 3


def test_a_misspelt_counter_is_an_error() -> None:
    """Slots refuse names that do not exist, so a typing error cannot count into the void."""
    with pytest.raises(AttributeError):
        RaftCounters().elction = 1  # type: ignore[attr-defined]


def test_a_server_shows_log_and_raft_together() -> None:
    """One map for each server, as in Ra (CNT-01, CNT-03)."""
    server = ServerCounters()
    server.raft.commands += 2
    server.log.write_ops += 1
    shown = server.overview()
    assert (shown["commands"], shown["write_ops"]) == (2, 1)
    assert len(shown) == len(LogCounters.__slots__) + len(RaftCounters.__slots__)


def test_the_registry_shows_all_one_or_some() -> None:
    """Overview of everything, of one name, and of selected fields (CNT-08)."""
    registry = CounterRegistry()
    registry.add("wal", WalCounters())
    assert set(registry.overview()) == {"wal"}
    assert registry.counters("wal", ("batches", "nothing")) == {"batches": 0}
    assert registry.counters("other") is None
    registry.remove("wal")
    registry.remove("wal")
    assert registry.overview() == {}
