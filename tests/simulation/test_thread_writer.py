"""The log's thread on virtual time: the loop runs meanwhile, and its process may die while it writes."""

import random
from collections.abc import Callable, Iterator

import pytest

from barque.testing.sim.disk import SimDisk
from barque.testing.sim.loop import VirtualLoop, VirtualProcess
from barque.testing.sim.process_disk import ProcessDisk
from barque.testing.sim.thread_writer import SimThreadWriter

FILES = ("/a", "/b", "/c")
SYNC_S = 0.5


class _Machine:
    """A process with a disk and a writer. Its work creates three files, and syncs at the end."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop()
        self.process = VirtualProcess(self.loop, "n1")
        self.sim_disk = SimDisk(random.Random(seed))
        self.disk = ProcessDisk(self.sim_disk, self.process, random.Random(seed))
        self.disk.sync_seconds = (SYNC_S, SYNC_S)
        self.writer = SimThreadWriter(self.process, self.disk, lambda call: call(), random.Random(seed))
        self.done: list[tuple[float, Exception | None]] = []

    def begin(self) -> None:
        """Hand the work to the writer."""
        self.writer.run(self._work, lambda error: self.done.append((self.loop.now, error)))

    def _work(self) -> None:
        for path in FILES:
            self.disk.create(path)
        self.disk.fsync_dir("/")

    def until(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.later(seconds - self.loop.now, self.loop.stop)
        self.loop.run_forever()

    def files(self) -> list[str]:
        """The files on the disk."""
        return [path for path in FILES if self.sim_disk.exists(path)]


Make = Callable[[int], _Machine]


@pytest.fixture
def make() -> Iterator[Make]:
    """A function that makes machines by their seeds; their loops are closed afterwards."""
    machines: list[_Machine] = []

    def one(seed: int) -> _Machine:
        machines.append(_Machine(seed))
        return machines[-1]

    yield one
    for machine in machines:
        machine.loop.close()


def test_the_loop_goes_on_while_the_thread_syncs(make: Make) -> None:
    """The process is not held, the disk shows nothing before the end of the sync, then the work completes."""
    machine = make(1)
    machine.begin()
    machine.until(0.4)
    assert machine.process.busy_until == machine.loop.now
    assert (machine.writer.busy, machine.files(), machine.done) == (True, [], [])
    machine.until(0.6)
    assert (machine.writer.busy, machine.files()) == (False, list(FILES))
    assert 0.5 < machine.done[0][0] < 0.51
    assert machine.done[0][1] is None


def test_a_death_leaves_any_part_of_the_work(make: Make) -> None:
    """None, some or all operations have happened, in order, and the work never completes."""
    left = set()
    for seed in range(40):
        machine = make(seed)
        machine.begin()
        machine.until(0.2)
        machine.process.kill()
        machine.until(2.0)
        assert machine.files() == list(FILES[: len(machine.files())])
        assert not machine.done
        left.add(len(machine.files()))
    assert left == {0, 1, 2, 3}


def test_a_frozen_process_freezes_its_thread(make: Make) -> None:
    """The work under way completes when the process goes on."""
    machine = make(1)
    machine.begin()
    machine.process.freeze(3.0)
    machine.until(2.9)
    assert machine.files() == []
    machine.until(3.1)
    assert machine.done[0][0] >= 3.0


def test_an_error_of_the_disk_is_told(make: Make) -> None:
    """The work completes with the error, as in the real thread."""
    machine = make(1)
    machine.sim_disk.fault = lambda operation, path: OSError(5, operation, path)
    machine.begin()
    machine.until(1.0)
    assert isinstance(machine.done[0][1], OSError)


def test_to_close_the_writer_is_to_wait_for_its_work(make: Make) -> None:
    """The loop stands still for the sync, everything is on the disk, and the work completes later."""
    machine = make(1)
    machine.begin()
    machine.writer.close()
    assert machine.process.busy_until == SYNC_S
    assert machine.files() == list(FILES)
    assert not machine.done
    machine.until(1.0)
    assert len(machine.done) == 1
