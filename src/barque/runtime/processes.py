"""Processes: what machines send single messages to, and watch, finer than nodes (EFF-01, EFF-06, MON-01).

Theory of operation. A *process* has a `Pid`. It is a client's session, or a callback or a mailbox that a
program in the node's process has made (`Node.spawn`, `Node.register`). Each node keeps a table of its own
processes, and hears by these messages of those of others:

- `ProcessMessage`, to a number or a name: handed over, or dropped if nobody has it. It is sent once.
- `WatchProcess`: the receiver answers at once with `ProcessIs`, and again when the process ends.
- `ProcessIs`: whether the process lives, or why it has ended. An end is answered with `EndHeard`.

Messages may be lost, repeated or overtaken, so the asker repeats `WatchProcess` until it has an answer, and
the answerer repeats an end until it is heard. Both are safe to repeat, since no number is used twice. Nobody
is told that a watch is over: the end is then news for nobody. A node that is lost, or has started anew, is no
affair of this module: `monitors.Monitors` ends the monitors of its processes.

Messages and ends are handed to programs in the phase of a turn that delivers replies, never inside a step of
a server.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from barque.errors import ConfigurationError, Stopped
from barque.runtime.clock import Clock
from barque.runtime.monitors import Monitors
from barque.runtime.pending_requests import Speaker
from barque.transport.wire import EndHeard, NodeMessage, ProcessIs, ProcessMessage, WatchProcess
from barque.types import NAME_RULE, Pid, is_valid_name

logger = logging.getLogger("barque.processes")

OnMessage = Callable[[str, Any], None]
"""Called with the name of the cluster whose machine has sent a message, and the message."""

MAILBOX_MAX = 10_000
"""So many messages wait for one process; further ones are dropped, and counted."""
_OWED_S = 600.0
"""An end is repeated for so long. A node that hears nothing for longer holds this one for lost."""
_decode = msgspec.msgpack.decode


class Receiver(Protocol):
    """Takes the messages for one process: a client's session, or a `Process`."""

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """A machine of this cluster has sent a message."""


class Process:
    """A process of a program in a node's process. `Node.spawn` and `Node.register` make them.

    With a callback, it is called for each message as (cluster, message). An exception ends the process, and
    is logged; machines that watch it hear `Down(pid, "crashed")`. Without one, the messages wait for
    `receive`, or for an `async for`, at most 10,000 of them. All methods belong to the node's loop.
    """

    def __init__(self, processes: "Processes", pid: Pid, name: str, callback: OnMessage | None) -> None:
        self.pid = pid
        self.name = name
        self._processes = processes
        self._callback = callback
        self._gathered: list[tuple[str, msgspec.Raw]] = []
        self._mailbox: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._closed = False

    @property
    def is_alive(self) -> bool:
        """Whether it takes messages."""
        return not self._closed

    def close(self, reason: str = "normal") -> None:
        """End it: machines that watch it hear `Down(pid, reason)`. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._mailbox.put_nowait(None)
            self._processes.ended(self, reason)

    async def receive(self) -> tuple[str, Any]:
        """Wait for the next message, as (cluster, message). Raises `Stopped` once it has ended."""
        item = await self._mailbox.get()
        if item is None:
            self._mailbox.put_nowait(None)  # for the next one who asks
            raise Stopped(f"the process {self.name or self.pid.number} has ended")
        return item

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        try:
            while True:
                yield await self.receive()
        except Stopped:
            return

    def notify(self, cluster: str, message: msgspec.Raw) -> None:
        """See `Receiver`."""
        if self._mailbox.qsize() + len(self._gathered) >= MAILBOX_MAX:
            self._processes.dropped_messages += 1
            return
        self._gathered.append((cluster, message))
        self._processes.will_deliver(self)

    def deliver(self) -> None:
        """See `Speaker`."""
        gathered, self._gathered = self._gathered, []
        for cluster, raw in gathered:
            if self._closed:
                return
            message = _decode(raw)
            if self._callback is None:
                self._mailbox.put_nowait((cluster, message))
                continue
            try:
                self._callback(cluster, message)
            except Exception:
                logger.exception("the callback of the process %s has failed", self.name or self.pid)
                self.close("crashed")


class _Owed(NamedTuple):
    """The end of a process, which a node that watches it has not heard of yet."""

    reason: str
    until: float


class Processes:
    """The processes of one node, and what it knows of those of others that machines here watch.

    `send` takes a node and a message, `will_deliver` asks for a `deliver` in this turn.
    """

    def __init__(
        self,
        me: Pid,
        send: Callable[[str, NodeMessage], bool],
        will_deliver: Callable[[Speaker], None],
        monitors: Monitors,
        clock: Clock,
    ) -> None:
        self.will_deliver = will_deliver
        self.dropped_messages = 0  # for processes that are gone, or too slow
        self._me = me
        self._send = send
        self._monitors = monitors
        self._clock = clock
        self._last = 0
        self._receivers: dict[int, Receiver] = {}
        self._numbers: dict[Receiver, int] = {}
        self._names: dict[str, Process] = {}
        self._watching: dict[
            int, dict[str, None]
        ] = {}  # the nodes that watch a process of ours, by its number
        self._owed: dict[tuple[str, int], _Owed] = {}
        self._unanswered: dict[Pid, None] = {}  # the processes elsewhere whose node has not answered yet
        self._stopped = ""

    def overview(self) -> dict[str, int]:
        """How many processes there are, and the messages dropped: their receivers were gone, or too slow."""
        return {"alive": len(self._receivers), "dropped_messages": self.dropped_messages}

    # --- the processes here ----------------------------------------------------------------

    def spawn(self, callback: OnMessage | None, name: str = "") -> Process:
        """Make a process. Raises `Stopped`, and `ConfigurationError` for a name that is none, or taken."""
        if self._stopped:
            raise Stopped(self._stopped)
        if name and not is_valid_name(name):
            raise ConfigurationError(f"{name[:80]!r} is no name of a process: a name has {NAME_RULE}")
        if name in self._names:
            raise ConfigurationError(f"a process named {name!r} runs on node {self._me.node} already")
        self._last += 1
        process = Process(self, Pid(self._me.node, self._me.incarnation, self._last), name, callback)
        self._receivers[self._last] = process
        self._numbers[process] = self._last
        if name:
            self._names[name] = process
        return process

    def pid_of(self, session: Receiver) -> Pid:
        """The address of a client's session; it gets one when it asks for the first time."""
        number = self._numbers.get(session)
        if number is None:
            self._last += 1
            number = self._numbers[session] = self._last
            self._receivers[number] = session
        return Pid(self._me.node, self._me.incarnation, number)

    def ended(self, receiver: Receiver, reason: str) -> None:
        """This process has ended, or this session; one that never had an address is nobody's affair."""
        number = self._numbers.pop(receiver, None)
        if number is None:
            return
        del self._receivers[number]
        if isinstance(receiver, Process) and receiver.name:
            del self._names[receiver.name]
        if self._stopped:
            return
        until = self._clock.monotonic() + _OWED_S
        for node in self._watching.pop(number, ()):
            self._owed[node, number] = _Owed(reason, until)
            self._send(node, ProcessIs(self._me.incarnation, number, reason))
        self._monitors.process_gone(Pid(self._me.node, self._me.incarnation, number), reason)

    def stop(self, reason: str) -> None:
        """The node has stopped: end its processes. Other nodes hear of their ends by the loss of this one."""
        self._stopped = reason
        for receiver in list(self._numbers):
            if isinstance(receiver, Process):
                receiver.close()

    def deliver(self, to: int | str, cluster: str, message: msgspec.Raw) -> None:
        """Hand a message to the process here with this number or name; drop it if there is none."""
        receiver = self._names.get(to) if isinstance(to, str) else self._receivers.get(to)
        if receiver is None:
            self.dropped_messages += 1
        else:
            receiver.notify(cluster, message)

    # --- the processes elsewhere -----------------------------------------------------------

    def watch(self, pid: Pid) -> bool:
        """See `monitors.ProcessTable`."""
        if pid.node == self._me.node:
            return pid.number in self._receivers
        self._unanswered[pid] = None
        self._send(pid.node, WatchProcess(pid.incarnation, pid.number))
        return True

    def tick(self) -> None:
        """Repeat questions and ends that may be lost."""
        for pid in list(self._unanswered):
            if self._monitors.is_watched(pid):
                self._send(pid.node, WatchProcess(pid.incarnation, pid.number))
            else:
                del self._unanswered[pid]
        now = self._clock.monotonic()
        for (node, number), owed in list(self._owed.items()):
            if owed.until <= now:
                del self._owed[node, number]
            else:
                self._send(node, ProcessIs(self._me.incarnation, number, owed.reason))

    # --- messages of other nodes -------------------------------------------------------------

    def on_message(self, _node: str, message: ProcessMessage) -> None:
        """A machine on another node has sent a message to a process here."""
        if isinstance(message.to, str) or message.incarnation == self._me.incarnation:
            self.deliver(message.to, message.cluster, message.message)
        else:
            self.dropped_messages += 1

    def on_watch(self, node: str, message: WatchProcess) -> None:
        """Another node watches a process here; of an earlier life of this node none is left."""
        number, reason = message.number, "noproc"
        if message.incarnation == self._me.incarnation:
            if not number or number in self._receivers:  # 0 is this node
                self._watching.setdefault(number, {})[node] = None
                reason = ""
            elif (node, number) in self._owed:
                reason = self._owed[node, number].reason
        self._send(node, ProcessIs(message.incarnation, number, reason))

    def on_process_is(self, node: str, message: ProcessIs) -> None:
        """The node of a process that is watched here tells whether it lives."""
        pid = Pid(node, message.incarnation, message.number)
        self._unanswered.pop(pid, None)
        if message.reason:
            self._monitors.process_gone(pid, message.reason)
            self._send(node, EndHeard(message.incarnation, message.number))

    def on_end_heard(self, node: str, message: EndHeard) -> None:
        """The node that watched a process here knows that it has ended."""
        if message.incarnation == self._me.incarnation:
            self._owed.pop((node, message.number), None)
