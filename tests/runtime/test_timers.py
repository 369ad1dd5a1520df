"""`barque.runtime.timers`: one lazy heap, in a fixed order, behind one wake-up."""

import asyncio

from hypothesis import given, strategies as st

from barque.runtime.clock import SystemClock
from barque.runtime.timers import TimerDriver, Timers


def test_due_timers_run_once_in_order() -> None:
    """What is due runs in the order of deadlines, and only once."""
    timers, ran = Timers(), []
    for key, deadline in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        timers.arm(key, deadline, lambda key=key: ran.append(key))
    assert timers.next_deadline() == 1.0
    assert timers.run_due(2.0) == 2
    assert ran == ["a", "b"]
    assert timers.run_due(2.0) == 0
    assert timers.next_deadline() == 3.0
    assert len(timers) == 1
    assert "c" in timers


def test_equal_deadlines_run_in_the_order_of_arming() -> None:
    """Arming again moves a timer behind others of the same deadline."""
    timers, ran = Timers(), []
    for key in ("a", "b", "c", "a"):
        timers.arm(key, 1.0, lambda key=key: ran.append(key))
    timers.run_due(1.0)
    assert ran == ["b", "c", "a"]


def test_arming_again_for_later_queues_nothing() -> None:
    """The hot path only moves the deadline: the heap keeps one item."""
    timers, ran = Timers(), []
    for step in range(10_000):
        timers.arm("election", float(step), lambda step=step: ran.append(step))
    assert len(timers._heap) == 1
    assert timers.run_due(9998.5) == 0
    assert timers.run_due(9999.0) == 1
    assert ran == [9999]


def test_arming_again_for_earlier_takes_effect() -> None:
    """An earlier deadline replaces a later one, and stale items do not pile up."""
    timers, ran = Timers(), []
    for step in range(10_000, 0, -1):
        timers.arm("x", float(step), lambda step=step: ran.append(step))
    assert len(timers._heap) < 100
    assert timers.next_deadline() == 1.0
    timers.run_due(20_000.0)
    assert ran == [1]


def test_cancelled_timers_do_not_run() -> None:
    """A cancelled timer is forgotten, and its key may be armed anew."""
    timers, ran = Timers(), []
    timers.arm("x", 1.0, lambda: ran.append("old"))
    assert timers.cancel("x")
    assert not timers.cancel("x")
    assert timers.next_deadline() is None
    timers.arm("x", 2.0, lambda: ran.append("new"))
    assert timers.deadline_of("x") == 2.0
    timers.run_due(5.0)
    assert ran == ["new"]


def test_a_callback_cannot_keep_the_loop_busy() -> None:
    """What a callback arms runs in the next call, even if it is due already."""
    timers, ran = Timers(), []

    def again() -> None:
        ran.append(1)
        timers.arm("x", 0.0, again)

    timers.arm("x", 0.0, again)
    assert timers.run_due(1.0) == 1
    assert timers.next_deadline() == 0.0
    assert timers.run_due(1.0) == 1


def test_a_callback_may_cancel_what_is_due_too() -> None:
    """Cancelling works up to the moment of the call."""
    timers, ran = Timers(), []
    timers.arm("a", 1.0, lambda: timers.cancel("b"))
    timers.arm("b", 1.0, lambda: ran.append("b"))
    assert timers.run_due(1.0) == 1
    assert ran == []


actions = st.lists(
    st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 30)), st.integers(0, 4)),
    max_size=60,
)


@given(actions)
def test_as_a_naive_model(script: list[tuple[str, int | None, int]]) -> None:
    """Arming, cancelling and running agree with a sorted list of (deadline, order)."""
    timers, ran = Timers(), []
    model: dict[str, tuple[float, int]] = {}
    expected: list[str] = []
    now = 0.0
    for order, (key, deadline, step) in enumerate(script):
        if deadline is None:
            assert timers.cancel(key) == (model.pop(key, None) is not None)
        else:
            timers.arm(key, float(deadline), lambda key=key: ran.append(key))
            model[key] = (float(deadline), order)
        now += step
        timers.run_due(now)
        due = sorted((at, key) for key, at in model.items() if at[0] <= now)
        expected += [key for _, key in due]
        for _, key_due in due:
            del model[key_due]
        assert ran == expected
        assert timers.next_deadline() == min((at[0] for at in model.values()), default=None)


async def test_the_driver_uses_the_loop() -> None:
    """Timers run on the loop, the earlier first, and an error in one does not stop the others."""
    loop, errors = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    clock = SystemClock()
    driver, ran, done = TimerDriver(clock), [], asyncio.Event()
    now = clock.monotonic()
    driver.timers.arm("last", now + 0.03, done.set)
    driver.timers.arm("first", now + 0.01, lambda: ran.append("first"))
    driver.timers.arm("bad", now + 0.02, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    await asyncio.wait_for(done.wait(), 20)
    assert ran == ["first"]
    assert [type(error) for error in errors] == [ZeroDivisionError]
    driver.timers.arm("never", clock.monotonic(), lambda: ran.append("never"))
    driver.stop()
    await asyncio.sleep(0)
    assert ran == ["first"]


def test_the_system_clock_advances() -> None:
    """The monotonic clock never goes back, and the wall clock shows this century."""
    clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert clock.wall_ms() > 1_600_000_000_000
