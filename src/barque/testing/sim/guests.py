"""Processes in the simulated nodes that machines watch, and send messages to (EFF-01, EFF-06, K9).

In each node one guest lives for a while and ends, and then the next one begins. It asks the machine of each
cluster to watch it, and the machine answers with a message to it alone. The rules (`judge`):

- A message reaches the process that it is for, and no other.
- A process that lives is not said to have ended, unless its node is out of reach for the leader.
- When all is well again, machines watch nobody who has ended: each end was told, by this leader or another.
"""

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import msgspec

from barque.errors import BarqueError
from barque.machine.effects import MachineEffect, MonitorProcess, SendMsg
from barque.runtime.node import Node
from barque.runtime.processes import Process
from barque.testing.checkers.safety import Violation
from barque.testing.sim.loop import VirtualProcess
from barque.types import Pid

if TYPE_CHECKING:
    from barque.testing.sim.host import Host

GUEST = "guest"
WATCHED = "watched"
_LIFE_S = 0.5
_TIMEOUT_MS = 1_000
_NAME = "processes of nodes (I21)"


class GuestBook:
    """Who lives, in all nodes of a run."""

    def __init__(self, report: Any) -> None:
        self._report = report
        self._living: dict[Pid, VirtualProcess] = {}

    def lives(self, pid: Pid) -> bool:
        """Whether this process has neither ended nor died with its node."""
        process = self._living.get(pid)
        return process is not None and process.alive

    def begins(self, pid: Pid, process: VirtualProcess) -> None:
        """A guest begins."""
        self._living[pid] = process

    def ends(self, pid: Pid) -> None:
        """It ends."""
        del self._living[pid]

    def hears(self, pid: Pid, message: Any) -> None:
        """It has got a message, which says whom it is for."""
        if message != as_array(pid):
            self._report(Violation(_NAME, f"{pid} has got a message for {message}"))

    def told(self, pid: Pid, reason: str) -> None:
        """A machine is told that a process has ended."""
        if reason != "noconnection" and self.lives(pid):
            self._report(Violation(_NAME, f"{pid} is said to have ended ({reason}), and it lives"))


def as_array(pid: Pid) -> list[Any]:
    """An address as it stands in commands and states."""
    return [pid.node, pid.incarnation, pid.number]


def watch(what: list[Any], state: dict[str, Any]) -> list[MachineEffect]:
    """The machine's part: a guest asks to be watched, and gets a message."""
    pid = Pid(*what)
    if what not in state.setdefault(WATCHED, []):
        state[WATCHED].append(what)
    return [MonitorProcess(pid), SendMsg(pid, what)]


def forget(pid: Pid, state: dict[str, Any]) -> None:
    """The machine's part: a guest has ended."""
    with contextlib.suppress(ValueError):
        state.setdefault(WATCHED, []).remove(as_array(pid))


def watch_again(state: dict[str, Any]) -> list[MachineEffect]:
    """The machine's part: a new leader watches all of them."""
    return [MonitorProcess(Pid(*what)) for what in state.get(WATCHED, ())]


class Guests:
    """The guests of one host, one after the other."""

    def __init__(self, host: "Host", clusters: list[str]) -> None:
        self._host = host
        self._clusters = clusters

    def begin(self, process: VirtualProcess, node: Node) -> None:
        """The node has started: let guests come until the faults are over. The last one stays."""
        process.spawn(self._come_and_go(process, node))

    async def _come_and_go(self, process: VirtualProcess, node: Node) -> None:
        sim, host = self._host.sim, self._host
        rng = random.Random(f"{sim.seed}/{host.name}/{host.boots}/guests")  # noqa: S311  # repeatable
        book = sim.guest_book
        with contextlib.suppress(BarqueError):  # the node stops
            session = node.open_session()
            while True:
                guest = node.spawn()
                book.begins(guest.pid, process)
                command = msgspec.msgpack.encode([GUEST, *as_array(guest.pid)])
                for cluster in self._clusters:
                    session.submit(cluster, command, "", lambda _outcome: None, _TIMEOUT_MS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.expovariate(1 / _LIFE_S)):
                        await self._listen(guest)
                if sim.nemesis.over:
                    await self._listen(guest)
                book.ends(guest.pid)
                guest.close()

    async def _listen(self, guest: Process) -> None:
        while True:
            _, message = await guest.receive()
            self._host.sim.guest_book.hears(guest.pid, message)
