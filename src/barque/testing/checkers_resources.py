"""Bounded resources (I27): a node that was stopped in order leaves nothing behind in its process."""

from barque.testing.checkers import Violation
from barque.testing.disk import SimDisk
from barque.testing.loop import VirtualProcess


def judge_stop(name: str, disk: SimDisk, process: VirtualProcess) -> Violation | None:
    """What is still there some time after `Node.stop` has returned: open files, locks, tasks, timers."""
    tasks = [f"task {task.get_coro()}" for task in process.tasks if not task.done()]
    left = (*map(repr, disk.handles), *tasks, *map(repr, process.loop.timers_of(process)))
    return Violation("nothing is left behind (I27)", f"{name} has stopped", left) if left else None


def judge_refusal(name: str, disk: SimDisk) -> Violation | None:
    """What is still open when `Node.start` has refused: a program may try again, for days."""
    left = tuple(map(repr, disk.handles))
    return Violation("nothing is left behind (I27)", f"{name} did not start", left) if left else None
