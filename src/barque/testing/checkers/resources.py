"""I27, bounded resources: a stopped node leaves nothing behind, and a node at rest has empty queues."""

from barque.log.segment import OPEN_FILES_MAX
from barque.log.segment_writer import FLUSHES_MAX
from barque.runtime.node import Node
from barque.testing.checkers.safety import Violation
from barque.testing.sim.disk import SimDisk
from barque.testing.sim.loop import VirtualProcess

SNAPSHOT_FILES_MAX = 8
"""The most files of snapshots that are written, sent and received at a time."""
FILES_MAX = 3 + OPEN_FILES_MAX + 2 * FLUSHES_MAX + SNAPSHOT_FILES_MAX
"""The lock and the newest files of the log and of the meta store; segments that are read; each flush has the
file that it writes, and one that it copies."""


def judge_stop(name: str, disk: SimDisk, process: VirtualProcess) -> Violation | None:
    """Judge what is left some time after `Node.stop` has returned: open files, locks, tasks, timers."""
    tasks = [f"task {task.get_coro()}" for task in process.tasks if not task.done()]
    left = (*map(repr, disk.handles), *tasks, *map(repr, process.loop.timers_of(process)))
    return Violation("nothing is left behind (I27)", f"{name} has stopped", left) if left else None


def judge_refusal(name: str, disk: SimDisk) -> Violation | None:
    """Judge what is still open after `Node.start` has refused: a program may try again for days."""
    left = tuple(map(repr, disk.handles))
    return Violation("nothing is left behind (I27)", f"{name} did not start", left) if left else None


def judge_bounds(node: Node, disk: SimDisk) -> Violation | None:
    """Judge what no fault may exceed: the number of waiting commands and of open files.

    A request to change members waits for one more answer, and is not a client's command.
    """
    waiting, config = node.requests.overview(), node.config
    over = [
        f"{what}: {found}, at most {bound} are allowed"
        for what, found, bound in (
            ("commands that wait", waiting["waiting"] - node.rpc.working, config.pending_commands_max),
            ("bytes that wait", waiting["waiting_bytes"], config.pending_bytes_max),
            ("open files", len(disk.handles), FILES_MAX),
        )
        if found > bound
    ]
    return Violation("bounded resources (I27)", node.name, tuple(over)) if over else None


def judge_rest(node: Node, connected: int) -> Violation | None:
    """Judge what still waits on a node when every call has ended and every message has arrived.

    `connected` is the true number of its clients.
    """
    status = node.reporter.node_status()
    waiting = {name: count for name, count in status["requests"].items() if count}
    queued = {name: peer["bytes_queued"] for name, peer in status["peers"].items() if peer["connected"]}
    left = [f"{count} bytes for {name}" for name, count in queued.items() if count]
    if node.rpc.working:
        left.append(f"{node.rpc.working} requests that it works on")
    if node.sessions.listening != connected:
        left.append(f"{node.sessions.listening} clients that it would tell, and {connected} are connected")
    if waiting:
        left.append(f"at its request router: {waiting}")
    return Violation("queues drain (I27)", f"{node.name} is at rest", tuple(left)) if left else None
