"""`barque.runtime.failure_detector`: aten's accrual rule (FD-01 to FD-03)."""

import bisect
import itertools
import random

import pytest
from hypothesis import given, strategies as st

from barque.runtime.failure_detector import FailureDetector


def beating(detector: FailureDetector, node: str, start: float, count: int, interval: float = 0.1) -> float:
    """So many regular heartbeats; returns the time of the last."""
    for number in range(count):
        detector.heartbeat(node, start + number * interval)
    return start + (count - 1) * interval


def test_an_unknown_node_is_down() -> None:
    """A node that was never heard of is down (FD-02)."""
    detector = FailureDetector()
    detector.register("n2")
    assert not detector.is_up("n2")
    assert detector.estimate("n2", 5.0) == 1.0
    assert detector.poll(5.0) == []


def test_a_beating_node_is_up_and_a_silent_one_down() -> None:
    """Transitions are reported once, at a poll."""
    detector = FailureDetector()
    detector.register("n2")
    last = beating(detector, "n2", 0.0, 50)
    assert detector.poll(last) == [("n2", True)]
    assert detector.poll(last + 0.1) == []
    assert detector.is_up("n2")
    assert detector.poll(last + 1.0) == [("n2", False)]
    detector.register("n2")
    assert not detector.is_up("n2")
    detector.heartbeat("n2", last + 1.5)
    assert detector.poll(last + 1.5) == [("n2", True)]


def test_the_boundary_is_the_scaled_interval() -> None:
    """With intervals of 1 s, silence counts from 1.5 s on, not before."""
    detector = FailureDetector()
    last = beating(detector, "n2", 0.0, 101, interval=1.0)
    assert detector.estimate("n2", last + 1.4999) == 0.0
    assert detector.estimate("n2", last + 1.5) == 1.0


def test_rare_long_intervals_do_not_count_below_the_threshold() -> None:
    """With 2 of 100 long intervals a medium silence is not yet down (0.98), a longer one is."""
    detector = FailureDetector()
    detector.register("n2")
    now = 0.0
    detector.heartbeat("n2", now)
    for number in range(100):
        now += 2.0 if number in (10, 20) else 0.125
        detector.heartbeat("n2", now)
    assert detector.estimate("n2", now + 0.5) == 0.98
    assert detector.poll(now + 0.5) == [("n2", True)]
    assert detector.poll(now + 3.0) == [("n2", False)]


def test_few_samples_wait_for_a_fixed_silence() -> None:
    """Two heartbeats that came together say nothing about the rhythm: 1.5 polls of silence do."""
    detector = FailureDetector()
    detector.heartbeat("n2", 0.0)
    detector.heartbeat("n2", 0.0001)
    assert detector.estimate("n2", 1.4) == 0.0
    assert detector.estimate("n2", 1.6) == 1.0


def test_unregistered_nodes_are_judged_and_not_reported() -> None:
    """History is kept for all; only registered nodes make events, from then on."""
    detector = FailureDetector()
    last = beating(detector, "n2", 0.0, 50)
    assert detector.poll(last) == []
    assert detector.is_up("n2")
    detector.register("n2")
    assert detector.poll(last + 2.0) == [("n2", False)]


def test_a_detector_that_slept_judges_nobody() -> None:
    """After a pause of this process, the heartbeats still unread get one poll's time to arrive."""
    detector = FailureDetector()
    detector.register("n2")
    last = beating(detector, "n2", 0.0, 50)
    detector.poll(last)
    assert detector.poll(last + 60.0) == []
    assert detector.poll(last + 61.0) == [("n2", False)]


@given(st.lists(st.floats(0, 10), min_size=30, max_size=80), st.floats(0, 20))
def test_as_a_naive_model(intervals: list[float], silence: float) -> None:
    """The estimate is the share of the last `window` scaled intervals not above the silence."""
    detector = FailureDetector(window=25)
    now, arrivals = 0.0, [0.0]
    for interval in intervals:
        now += interval
        arrivals.append(now)
    for arrival in arrivals:
        detector.heartbeat("n2", arrival)
    scaled = sorted([(b - a) * 1.5 for a, b in itertools.pairwise(arrivals)][-25:])
    expected = bisect.bisect_right(scaled, (now + silence) - now) / 25
    assert detector.estimate("n2", now + silence) == pytest.approx(expected)
    assert len(detector._histories["n2"].arrivals) == 25


def test_jitter_below_half_an_interval_is_never_down() -> None:
    """A regular node with small jitter stays up through an hour of polls just after its beats."""
    detector, rng, now = FailureDetector(), random.Random(5), 0.0
    detector.register("n2")
    downs = 0
    for beat in range(36_000):
        now += 0.1 * rng.uniform(0.9, 1.1)
        detector.heartbeat("n2", now)
        if beat % 10 == 9:
            downs += ("n2", False) in detector.poll(now + 0.01)
    assert downs == 0


def test_a_node_is_suspected_from_the_poll_that_misses_it() -> None:
    """Who was never heard of may only just have come: it is given as long as others with few samples."""
    detector = FailureDetector()
    assert not detector.suspects("n2")
    detector.poll(0.5)
    assert not detector.suspects("n2")
    last = beating(detector, "n2", 1.0, 20)
    detector.poll(last + 0.05)
    assert not detector.suspects("n2")
    detector.poll(last + 1.0)
    assert detector.suspects("n2")
    beating(detector, "n2", last + 1.1, 3)
    detector.poll(last + 1.35)
    assert not detector.suspects("n2")


def test_who_was_never_heard_of_is_suspected_in_the_end() -> None:
    """A node may lead, and die before its first heartbeat: its followers would trust it without end."""
    detector = FailureDetector()
    for second in range(3):
        assert not detector.suspects("n2")
        detector.poll(float(second))
    assert detector.suspects("n2")
    detector.poll(60.0)  # we slept; it may have come meanwhile
    assert not detector.suspects("n2")
    for second in (61, 62):
        detector.poll(float(second))
    assert detector.suspects("n2")
    assert not detector.is_up("n2")
