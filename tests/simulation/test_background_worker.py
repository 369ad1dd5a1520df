"""The log's background thread on virtual time: jobs take turns, and its process may die in any step."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from barque.log.background import Job
from barque.testing.sim.background_worker import SimWorker
from barque.testing.sim.disk import SimDisk
from barque.testing.sim.loop import VirtualLoop, VirtualProcess
from barque.testing.sim.process_disk import ProcessDisk

SYNC_S = 0.5


class _Machine:
    """A process with a disk and a worker."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.process = VirtualProcess(self.loop, "n1")
        self.process.on_crash = self.process.kill
        self.sim_disk = SimDisk(random.Random(seed))
        self.disk = ProcessDisk(self.sim_disk, self.process, random.Random(seed))
        self.disk.sync_seconds = (SYNC_S, SYNC_S)
        self.worker = SimWorker(self.process, self.disk, lambda call: call())
        self.ends: list[tuple[str, float, Any, Exception | None]] = []

    def begin(self, name: str, steps: int = 3) -> None:
        """Submit a job that creates one file in each step, and syncs at its end."""
        self.worker.submit(
            self._job(name, steps),
            lambda result, error: self.ends.append((name, self.loop.now, result, error)),
        )

    def _job(self, name: str, steps: int) -> Job:
        for number in range(steps):
            self.disk.create(f"/{name}{number}").close()
            yield
        self.disk.fsync_dir("/")
        return steps

    def until(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.later(seconds - self.loop.now, self.loop.stop)
        self.loop.run_forever()

    def files(self) -> list[str]:
        """The files on the disk."""
        return self.sim_disk.listdir("/")


Make = Callable[[int], _Machine]


@pytest.fixture
def make() -> Iterator[Make]:
    """A function that makes machines by their seeds; what they leave is ended afterwards."""
    machines: list[_Machine] = []

    def one(seed: int) -> _Machine:
        machines.append(_Machine(seed))
        return machines[-1]

    yield one
    for machine in machines:
        for job in machine.loop.left_behind:
            with contextlib.suppress(BaseException):
                job.close()
        machine.loop.close()


def test_jobs_take_turns_while_the_loop_goes_on(make: Make) -> None:
    """The process is not held; a short job does not wait for a long one; syncs take their time."""
    machine = make(1)
    machine.begin("a", 40)
    machine.begin("b", 1)
    assert machine.files() == []
    machine.until(0.3)
    assert machine.process.busy_until == machine.loop.now
    assert not machine.ends
    machine.until(5.0)
    assert [(name, result, error) for name, _, result, error in machine.ends] == [
        ("b", 1, None),
        ("a", 40, None),
    ]
    assert machine.ends[0][1] > SYNC_S
    assert machine.ends[1][1] > 2 * SYNC_S


def test_a_death_leaves_any_part_of_the_work(make: Make) -> None:
    """Some first files are there, no end is reported, and nothing happens later."""
    left = set()
    for seed in range(60):
        machine = make(seed)
        machine.begin("a", 8)
        machine.until(0.004)
        machine.process.kill()
        files = machine.files()
        machine.until(3.0)
        assert machine.files() == files == [f"a{n}" for n in range(len(files))]
        assert not machine.ends
        left.add(len(files))
    assert len(left) > 3


def test_an_operation_may_be_the_last_one_of_its_process(make: Make) -> None:
    """The process dies within a step; its other jobs stop too."""
    machine = make(1)
    machine.begin("a")
    machine.begin("b")
    machine.disk.crash_in = 3  # the second file's creation
    machine.until(3.0)
    assert not machine.process.alive
    assert len(machine.files()) in (1, 2)  # perhaps the other job had begun its step
    assert not machine.ends


def test_a_frozen_process_freezes_its_jobs(make: Make) -> None:
    """They go on, and report, when the process does."""
    machine = make(1)
    machine.begin("a")
    machine.process.freeze(3.0)
    machine.until(2.9)
    assert machine.files() == []
    machine.until(5.0)
    assert machine.ends[0][1] > 3.0

    machine = make(2)
    machine.begin("a", 0)
    machine.until(SYNC_S / 2)  # in its only sync
    machine.process.freeze(3.0)
    machine.until(2.9)
    assert not machine.ends
    machine.until(3.1)
    assert machine.ends[0][1] >= 3.0


def test_an_error_of_the_disk_is_told(make: Make) -> None:
    """The job ends with the error, as in the real thread, and the next one runs."""
    machine = make(1)
    machine.sim_disk.fault = lambda operation, path: OSError(5, operation, path) if "/a" in path else None
    machine.begin("a")
    machine.begin("b")
    machine.until(2.0)
    assert [(name, type(error)) for name, _, _, error in machine.ends] == [("a", OSError), ("b", type(None))]


def test_a_closed_worker_stops_between_two_steps(make: Make) -> None:
    """What was done stays, no end is reported, and no job begins any more."""
    machine = make(1)
    machine.begin("a", 100)
    machine.until(0.05)
    files = machine.files()
    assert files
    machine.worker.close()
    machine.begin("b")
    machine.until(3.0)
    assert machine.files() == files
    assert not machine.ends


def test_the_same_seed_gives_the_same_run(make: Make) -> None:
    """Everything is drawn from the seed."""

    def run() -> list[tuple[str, float]]:
        machine = make(7)
        machine.begin("a", 5)
        machine.begin("b", 3)
        machine.until(3.0)
        return [(name, at) for name, at, *_ in machine.ends]

    assert run() == run()


def test_a_process_that_dies_in_a_step_begins_no_other(make: Make) -> None:
    """A thread does one step at a time: no second job may be where the first one holds a lock."""
    for seed in range(20):
        machine = make(seed)
        inside: list[str] = []
        both: list[str] = []

        def job(
            name: str, machine: _Machine = machine, inside: list[str] = inside, both: list[str] = both
        ) -> Job:
            both += inside
            inside.append(name)
            machine.disk.create(f"/{name}").close()
            inside.remove(name)
            yield

        for name in "abc":
            machine.worker.submit(job(name), lambda *_: None)
        machine.disk.crash_in = 1 + seed % 5
        machine.until(1.0)
        assert not machine.process.alive
        assert both == []
