"""The worker beside the loop: jobs in steps, their ends on the loop, and what closing leaves."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from barque.log.background import InlineWorker, Job, ThreadWorker

WAIT_S = 10.0


class Loop:
    """The calls that a worker asks its loop for, run by the test's own thread."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def wake(self, function: Callable[[], None]) -> None:
        """Keep a call for the loop."""
        self.calls.put(function)

    def run_one(self) -> None:
        """Run the next call, when it comes."""
        self.calls.get(timeout=WAIT_S)()


class Ends:
    """The ends of jobs, as they were reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, str]] = []

    def of(self, name: str) -> Callable[[Any, Exception | None], None]:
        """A `Finished` that remembers."""
        return lambda result, error: self.seen.append((name, result, str(error or "")))


def counting(trace: list[str], name: str, steps: int) -> Job:
    """A job of so many steps."""
    for number in range(steps):
        trace.append(f"{name}{number}")
        yield
    return name.upper()


def failing(trace: list[str]) -> Job:
    """A job that fails in its second step."""
    trace.append("begun")
    yield
    raise ValueError("no")


@pytest.fixture
def loop() -> Loop:
    """A loop for one test."""
    return Loop()


@pytest.fixture
def thread(loop: Loop) -> Iterator[ThreadWorker]:
    """A worker with a thread, closed in the end."""
    worker = ThreadWorker(loop.wake)
    yield worker
    worker.close()


def test_inline_runs_a_job_to_its_end_in_submit() -> None:
    """With `at_once`, the end is reported before `submit` returns."""
    ends, trace = Ends(), list[str]()
    InlineWorker().submit(counting(trace, "a", 3), ends.of("a"))
    assert trace == ["a0", "a1", "a2"]
    assert ends.seen == [("a", "A", "")]


def test_jobs_take_turns() -> None:
    """A long job does not hold up a short one."""
    ends, trace = Ends(), list[str]()
    worker = InlineWorker(at_once=False)
    worker.submit(counting(trace, "a", 4), ends.of("a"))
    worker.submit(counting(trace, "b", 2), ends.of("b"))
    assert worker.busy
    worker.run_until_idle()
    assert trace == ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert [name for name, *_ in ends.seen] == ["b", "a"]
    assert not worker.run_step()


def test_a_failure_is_reported_and_harms_no_other_job() -> None:
    """The owner of a failed job hears why; the others go on."""
    ends, trace = Ends(), list[str]()
    worker = InlineWorker(at_once=False)
    worker.submit(failing(trace), ends.of("bad"))
    worker.submit(counting(trace, "a", 2), ends.of("a"))
    worker.run_until_idle()
    assert ends.seen == [("bad", None, "no"), ("a", "A", "")]


def test_an_end_may_begin_the_next_job() -> None:
    """`finished` may submit."""
    ends, trace = Ends(), list[str]()
    worker = InlineWorker()
    worker.submit(counting(trace, "a", 1), lambda *_: worker.submit(counting(trace, "b", 1), ends.of("b")))
    assert ends.seen == [("b", "B", "")]


@pytest.mark.parametrize("threaded", [False, True])
def test_closing_closes_what_is_left(threaded: bool, loop: Loop) -> None:
    """A job that is stopped lets go of what it holds, and no end is reported."""
    ends, closed = Ends(), list[str]()
    begun = threading.Event()

    def endless(name: str) -> Job:
        try:
            while True:
                begun.set()
                yield
        finally:
            closed.append(name)

    worker = ThreadWorker(loop.wake) if threaded else InlineWorker(at_once=False)
    worker.submit(endless("a"), ends.of("a"))
    if isinstance(worker, InlineWorker):
        worker.run_step()
    assert begun.wait(WAIT_S)
    worker.close()
    worker.close()
    assert closed == ["a"]
    assert ends.seen == []


@pytest.mark.parametrize("threaded", [False, True])
def test_a_closed_worker_takes_no_job(threaded: bool, loop: Loop) -> None:
    """A job that comes too late never begins."""
    ends, trace = Ends(), list[str]()
    worker = ThreadWorker(loop.wake) if threaded else InlineWorker()
    worker.close()
    job = counting(trace, "a", 1)
    worker.submit(job, ends.of("a"))
    assert (trace, ends.seen) == ([], [])
    with pytest.raises(StopIteration):
        next(job)


def test_the_thread_reports_on_the_loop(loop: Loop, thread: ThreadWorker) -> None:
    """Steps run in the thread, `finished` where `wake` runs it."""
    where: list[int] = []

    def job() -> Job:
        where.append(threading.get_ident())
        yield
        where.append(threading.get_ident())

    thread.submit(job(), lambda *_: where.append(threading.get_ident()))
    thread.yield_if_busy()
    loop.run_one()
    assert where[0] == where[1] != threading.get_ident()
    assert where[2] == threading.get_ident()


def test_the_thread_survives_a_failure_and_idles(loop: Loop, thread: ThreadWorker) -> None:
    """After a failure, and after a time without jobs, the next job runs."""
    ends, trace = Ends(), list[str]()
    thread.submit(failing(trace), ends.of("bad"))
    loop.run_one()
    thread.submit(counting(trace, "a", 2), ends.of("a"))
    loop.run_one()
    assert ends.seen == [("bad", None, "no"), ("a", "A", "")]


def test_jobs_of_the_thread_take_turns(loop: Loop, thread: ThreadWorker) -> None:
    """A job that comes later ends before a job without end."""
    ends, stop = Ends(), threading.Event()

    def long() -> Job:
        while not stop.is_set():
            yield

    thread.submit(long(), ends.of("long"))
    thread.submit(counting([], "a", 3), ends.of("a"))
    loop.run_one()
    stop.set()
    loop.run_one()
    assert [name for name, *_ in ends.seen] == ["a", "long"]


def test_an_end_that_waits_for_the_loop_is_not_reported_after_closing(loop: Loop) -> None:
    """The owner may be gone by then."""
    ends = Ends()
    worker = ThreadWorker(loop.wake)
    worker.submit(counting([], "a", 1), ends.of("a"))
    finish = loop.calls.get(timeout=WAIT_S)
    worker.close()
    finish()
    assert ends.seen == []


def test_a_closed_loop_is_no_failure() -> None:
    """A loop that is gone takes no reports, and the thread ends as usual."""

    def wake(_function: Callable[[], None]) -> None:
        asked.set()
        raise RuntimeError("Event loop is closed")

    asked = threading.Event()
    worker = ThreadWorker(wake)
    worker.submit(counting([], "a", 1), Ends().of("a"))
    assert asked.wait(WAIT_S)
    worker.close()
