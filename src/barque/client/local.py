"""A client, and a submitter for gateways, inside a node's own process: no socket, nothing encoded twice.

Both hand their requests to the node's request router, which numbers them, and get outcomes as values. The
value of a reply never refers to the machine's state (`runtime.reply_encoding.values_of`).
"""

import asyncio
from collections.abc import Callable, Hashable

from barque.client.client import Client, OnEvent
from barque.client.outcomes import Batch
from barque.errors import NoLeader, Stopped
from barque.runtime.client_session import InProcessSession
from barque.runtime.command_submitter import Done
from barque.runtime.node import Node
from barque.runtime.node_rpc import unanswered

_RETRY_S = 0.1


def local_client(node: Node, *, timeout_s: float = 5.0) -> Client:
    """Make a client of this node. When the node stops it is closed, as by `Client.close`."""

    def make_requests(on_event: OnEvent) -> LocalRequests:
        return LocalRequests(node, on_event, lambda reason: client.end(reason))

    client = Client.carried_by(make_requests, timeout_s=timeout_s)
    return client


class LocalRequests:
    """Carries the requests of one client to its node (`client.Requests`).

    Batches fill until the node's turn begins. Then the router calls `_submit`, and takes them as they are.
    """

    def __init__(self, node: Node, on_event: OnEvent, on_stopped: Callable[[str], None]) -> None:
        self._node = node
        self._on_event = on_event
        self._on_stopped = on_stopped
        self._session: InProcessSession | None = None
        self._open: dict[Hashable, Batch] = {}
        self._calls: dict[Batch, None] = {}  # administrative requests under way

    def now(self) -> float:
        """Seconds, on the loop's clock."""
        return asyncio.get_running_loop().time()

    async def connect(self, timeout_s: float) -> None:
        """Open a session; wait for a node that is about to start. Raises `NoLeader` if it does not run."""
        deadline = self.now() + timeout_s
        while True:
            try:
                self._session = self._node.open_session(self._on_event, self._on_stopped)
            except Stopped as error:
                if self.now() + _RETRY_S >= deadline:
                    raise NoLeader(f"no node could be reached: {error}") from None
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def close(self) -> None:
        """End the session; requests that wait are told."""
        self.end("the client was closed")

    def end(self, reason: str) -> None:
        """Likewise, at once."""
        unsent, self._open = self._open, {}
        calls, self._calls = self._calls, {}
        if self._session is not None:
            self._session.close(reason)
        for batch in calls:
            batch.failed_rest(unanswered(batch.cluster, reason))
        for batch in unsent.values():
            batch.failed_rest(Stopped(reason))

    def batch(self, key: Hashable) -> Batch | None:
        """The batch of this kind that is being filled in this turn."""
        return self._open.get(key)

    def open(self, key: Hashable, batch: Batch) -> Batch:
        """Begin a batch. Raises `Stopped` if the session has ended."""
        if self._session is None:
            raise Stopped("this client is not connected; use `async with`")
        if not self._open:
            self._session.fill_before_flush(self._submit)
        self._open[key] = batch
        return batch

    def _submit(self) -> None:
        """Hand over what has gathered, in parts that the router takes."""
        session, batches = self._session, self._open
        self._open = {}
        if session is None or session.closed:
            return  # `end` has failed them already
        for batch in batches.values():
            timeout_ms = max(1, int((batch.deadline - self.now()) * 1000))
            if batch.kind == "call":
                self._call(session, batch, timeout_ms)
                continue
            level = "" if batch.kind == "command" else batch.kind
            for part in batch.parts():
                if level:
                    session.request(part.cluster, part.payloads, part, timeout_ms, level=level)
                else:
                    session.request(
                        part.cluster,
                        part.payloads,
                        part,
                        timeout_ms,
                        mode=part.mode,
                        low_priority=part.low_priority,
                    )

    def _call(self, session: InProcessSession, batch: Batch, timeout_ms: int) -> None:
        self._calls = {call: None for call in self._calls if not call.is_answered}
        self._calls[batch] = None
        session.call(batch.cluster, {**(batch.arguments or {}), "timeout_ms": timeout_ms}, batch)


class NodeSubmitter:
    """`runtime.command_submitter.CommandSubmitter` of a node: one session for all of a gateway's clients."""

    def __init__(self, node: Node) -> None:
        self._submit = node.open_session().submit

    def command(self, cluster: str, payload: bytes, done: Done, timeout_ms: int) -> None:
        """See `CommandSubmitter.command`. Raises `Stopped` if the node has stopped."""
        self._submit(cluster, payload, "", done, timeout_ms)

    def query(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """See `CommandSubmitter.query`. Raises `Stopped` if the node has stopped."""
        self._submit(cluster, payload, level, done, timeout_ms)
