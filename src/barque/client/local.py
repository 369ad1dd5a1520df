"""A client, and a submitter for gateways, inside a node's own process: no socket, nothing encoded twice.

Both hand their requests to the node's request router, which numbers them, and get outcomes as values. The
value of a reply never refers to the machine's state (`runtime.reply_encoding.values_of`).
"""

import asyncio
from collections.abc import Callable, Hashable

from barque.client.client import Client, OnEvent
from barque.client.requests import Batch, Call, CommandBatch, EncodedBatch, ReadBatch
from barque.errors import BarqueError, LeaderTimeout, Stopped
from barque.runtime.client_session import InProcessSession
from barque.runtime.command_submitter import Done
from barque.runtime.node import Node

_RETRY_S = 0.1


def local_client(node: Node, *, timeout_s: float = 5.0) -> Client:
    """Make a client of this node. When the node stops it is closed, as by `Client.close`."""

    def make_requests(on_event: OnEvent) -> LocalRequests:
        return LocalRequests(node, on_event, lambda reason: client.end(reason))

    client = Client._carried_by(make_requests, timeout_s=timeout_s)
    return client


class LocalRequests:
    """Carries the requests of one client to its node (`client.Requests`).

    Batches fill until the node's turn begins. Then the router calls `_submit`, and takes them as they are.
    """

    def __init__(self, node: Node, on_event: OnEvent, on_stopped: Callable[[str], None]) -> None:
        self.first_node = node.name
        self._node = node
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._session: InProcessSession | None = None
        self.filling: dict[Hashable, EncodedBatch] = {}
        self._complete: list[Batch] = []
        self._calls: dict[Call, None] = {}  # administrative requests under way

    def now(self) -> float:
        """Seconds, on the loop's clock."""
        return asyncio.get_running_loop().time()

    async def connect(self, timeout_s: float) -> None:
        """Open a session. Wait for a node that is about to start; raises `LeaderTimeout` if none does."""
        deadline = self.now() + timeout_s
        while True:
            try:
                self._session = self._node.open_session(self._on_event, self._on_stopped)
            except Stopped as error:
                if self.now() + _RETRY_S >= deadline:
                    raise LeaderTimeout(f"no node could be reached: {error}") from None
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def close(self) -> None:
        """End the session, and every request with `Stopped` or `OutcomeUnknown`."""
        self.end("the client was closed")

    def end(self, reason: str) -> None:
        """Do the same at once; `reason` is the text of the errors."""
        unsent = [*self.filling.values(), *self._complete]
        self.filling, self._complete = {}, []
        calls, self._calls = self._calls, {}
        if self._session is not None:
            self._session.close(reason)
        for call in calls:
            call.failed_rest(call.dated(call.lost(reason), self.now()))
        for batch in unsent:
            batch.failed_rest(Stopped(reason))

    def open(self, key: Hashable, batch: EncodedBatch) -> EncodedBatch:
        """Begin a batch. The node's next turn takes it. Raises `Stopped` if the session has ended."""
        self._ask_for_turn()
        self.filling[key] = batch
        return batch

    def submit(self, batch: Batch) -> None:
        """Send a batch that is complete, likewise."""
        self._ask_for_turn()
        self._complete.append(batch)

    def _ask_for_turn(self) -> None:
        if self._session is None:
            raise Stopped("this client is not connected; use `async with`")
        if not self.filling and not self._complete:
            self._session.fill_before_flush(self._submit)

    def _submit(self) -> None:
        """Hand over what has gathered, in parts that the router takes."""
        session = self._session
        if session is None or session.closed:
            return  # `end` fails the batches
        batches = [*self._complete, *self.filling.values()]
        self.filling, self._complete = {}, []
        now = self.now()
        for batch in batches:
            timeout_ms = max(1, int((batch.deadline - now) * 1000))
            if isinstance(batch, Call):
                self._call(session, batch, timeout_ms)
                continue
            for part in batch.parts():
                if isinstance(part, ReadBatch):
                    receiver = _Dated(part, self.now)
                    session.request(part.cluster, part.payloads, receiver, timeout_ms, level=part.level)
                elif isinstance(part, CommandBatch):
                    session.request(
                        part.cluster,
                        part.payloads,
                        _Dated(part, self.now),
                        timeout_ms,
                        mode=part.reply_mode,
                        low_priority=part.low_priority,
                    )

    def _call(self, session: InProcessSession, call: Call, timeout_ms: int) -> None:
        self._calls = {other: None for other in self._calls if not other.is_answered}
        self._calls[call] = None
        arguments = {**call.arguments, "timeout_ms": timeout_ms}
        session.call(call.verb, arguments, _Dated(call, self.now))


class _Dated:
    """Hands outcomes to a batch; an error that came too late is a `TimeoutError` as well (`Receiver`)."""

    __slots__ = ("_batch", "_now", "replied")

    def __init__(self, batch: Batch, now: Callable[[], float]) -> None:
        self._batch = batch
        self._now = now
        self.replied = batch.replied

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """See `Receiver`."""
        self._batch.failed(offset, count, self._batch.dated(error, self._now()))


class NodeSubmitter:
    """`runtime.command_submitter.CommandSubmitter` of a node: one session for all of a gateway's clients."""

    def __init__(self, node: Node) -> None:
        self._submit = node.open_session().submit
        self._node = node

    def command(self, cluster: str, payload: bytes, done: Done, timeout_ms: int) -> None:
        """See `CommandSubmitter.command`. Raises `Stopped` if the node has stopped."""
        self._submit(cluster, payload, "", done, timeout_ms)

    def query(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """See `CommandSubmitter.query`. Raises `Stopped` if the node has stopped."""
        self._submit(cluster, payload, level, done, timeout_ms)

    def machine_version(self, cluster: str) -> int | None:
        """See `CommandSubmitter.machine_version`."""
        process = self._node.system.servers.member_of(cluster)
        return None if process is None else process.server.effective_machine_version
