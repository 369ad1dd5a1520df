"""One connection to one node, and what waits for answers on it.

Requests of one loop turn leave as one frame. Answers find their waiter by correlation; no
task, timer or frame is spent on a single command.
"""

import asyncio
import struct
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from barque.client.outcomes import Batch
from barque.errors import BarqueError, InvalidCommand, OutcomeUnknown, QueryTimeout
from barque.runtime import node_rpc
from barque.runtime.node_rpc import error_named
from barque.transport.wire import (
    ClientAnswer,
    ClientCall,
    ClientCallReply,
    ClientCommands,
    ClientEvent,
    ClientFailed,
    ClientQueries,
    ClientReplies,
    ClientRequest,
)
from barque.types import ServerId

_decode = msgspec.msgpack.Decoder(list[Any]).decode
_SILENCE_S = 1.0
_GRACE_S = 1.0
"""How much longer than the node a client waits, so that the node's better-founded answer comes first."""


class Link(Protocol):
    """The way to a node: a `ClientLink`, or one inside the process."""

    def send(self, requests: list[ClientRequest]) -> bool:
        """Queue requests; False if the link is gone."""

    def flush(self) -> None:
        """Send what is queued."""

    def close(self) -> None:
        """End it; the owner hears of the end."""


class Connection:
    """What is outstanding on one link, in the order of the correlations."""

    def __init__(self, node: str, on_leader: Callable[[str, ServerId], None]) -> None:
        self.node = node
        self.link: Link | None = None
        self.on_event: Callable[[str, Any], None] = lambda _cluster, _message: None
        self._on_leader = on_leader
        self._next = 1
        self._waiting: dict[int, Batch] = {}  # by first correlation, ascending
        self._firsts: list[int] = []  # likewise; may hold some that are answered
        self._quiet_since = 0.0  # nothing was heard since then although something waits
        self.is_suspect = False  # it may hang: ask others, until it is heard from

    def send(self, batches: list[Batch], now: float) -> None:
        """Put these batches on the wire, as one frame."""
        assert self.link is not None
        if not self._waiting:
            self._quiet_since = now
        self.link.send([self._request(batch, now) for batch in batches])
        self.link.flush()

    def _request(self, batch: Batch, now: float) -> ClientRequest:
        first = batch.first = self._next
        count = len(batch.waiters)
        self._next += count
        self._waiting[first] = batch
        self._firsts.append(first)
        timeout_ms = max(1, int((batch.deadline - now) * 1000))
        if batch.kind == "call":
            return ClientCall(first, batch.cluster, batch.arguments or {}, timeout_ms)
        payloads = batch.payloads
        if batch.kind != "command":
            return ClientQueries(batch.cluster, first, tuple(payloads), batch.kind, timeout_ms)
        columns = b"".join((struct.pack(f"<{count}I", *map(len, payloads)), *payloads))
        payloads.clear()  # a command is never sent twice
        request = ClientCommands(
            batch.cluster, first, count, columns, batch.mode, timeout_ms, batch.low_priority
        )
        if batch.mute:
            self._done(batch)
        return request

    def _find(self, correlation: int) -> Batch | None:
        batch = self._waiting.get(correlation)
        if batch is not None:
            return batch
        at = bisect_right(self._firsts, correlation) - 1
        batch = self._waiting.get(self._firsts[at]) if at >= 0 else None
        return batch if batch is not None and correlation < batch.first + len(batch.waiters) else None

    def _done(self, batch: Batch) -> None:
        self._waiting.pop(batch.first, None)
        if len(self._firsts) > 64 + 2 * len(self._waiting):
            self._firsts = list(self._waiting)

    # --- answers -----------------------------------------------------------------------

    def on_answers(self, answers: list[ClientAnswer]) -> None:
        """Find who waits for each answer; those that nobody waits for are dropped."""
        self._quiet_since = asyncio.get_running_loop().time()
        self.is_suspect = False
        for answer in answers:
            match answer:
                case ClientReplies():
                    self._on_replies(answer)
                case ClientFailed():
                    self._on_failed(answer)
                case ClientCallReply():
                    self._on_call_reply(answer)
                case ClientEvent():
                    self.on_event(answer.cluster, msgspec.msgpack.decode(answer.message))

    def _on_replies(self, answer: ClientReplies) -> None:
        first, replies = answer.first_correlation, _decode(answer.replies)
        batch = self._find(first)
        if batch is None:
            return  # given up already
        errors: dict[int, BarqueError] | None = None
        if answer.errors:
            errors = {offset: InvalidCommand(text) for offset, text in answer.errors.items()}
        batch.replied(first - batch.first, replies, errors)
        if batch.is_answered:
            self._done(batch)
        if answer.leader is not None:
            self._on_leader(batch.cluster, answer.leader)

    def _on_failed(self, answer: ClientFailed) -> None:
        batch = self._find(answer.first_correlation)
        if batch is None:
            return
        error = error_named(answer.error, answer.text)
        batch.failed(answer.first_correlation - batch.first, answer.count, error)
        if batch.is_answered:
            self._done(batch)

    def _on_call_reply(self, answer: ClientCallReply) -> None:
        batch = self._find(answer.correlation)
        if batch is None:
            return
        if answer.error is None:
            batch.replied(0, [answer.value], None)
        else:
            batch.failed_rest(error_named(answer.error, answer.text))
        self._done(batch)

    # --- ends --------------------------------------------------------------------------

    def suspect(self, now: float) -> list[Batch]:
        """Has the node been silent for too long? Then its reads are returned, to be asked elsewhere."""
        if self.is_suspect or not self._waiting or now - self._quiet_since < _SILENCE_S:
            return []
        self.is_suspect = True
        reads = [batch for batch in self._waiting.values() if batch.is_read and not batch.is_begun]
        for batch in reads:
            self._done(batch)
        return reads

    def give_up(self, cluster: str) -> None:
        """Another node leads now, and this one is silent: no answer will come from here in time."""
        for batch in [b for b in self._waiting.values() if b.kind == "command" and b.cluster == cluster]:
            text = f"node {self.node} is silent, and the leadership of {cluster!r} has passed to another"
            batch.failed_rest(unanswered(batch, text))
            self._done(batch)

    def expire(self, now: float) -> None:
        """Give up what the node should have answered long ago: it hangs, or the network does."""
        for batch in [b for b in self._waiting.values() if b.deadline + _GRACE_S <= now]:
            batch.failed_rest(unanswered(batch, f"node {self.node} did not answer in time"))
            self._done(batch)

    def closed(self, reason: str) -> list[Batch]:
        """The link is gone. Commands may have happened; reads are returned, to be asked elsewhere."""
        waiting, self._waiting = self._waiting, {}
        again: list[Batch] = []
        for batch in waiting.values():
            if batch.is_read and not batch.is_begun:
                again.append(batch)
            else:
                text = f"the connection to node {self.node} was lost: {reason}"
                batch.failed_rest(unanswered(batch, text))
        return again


def unanswered(batch: Batch, text: str) -> BarqueError:
    """What may be said of requests that were sent and not answered."""
    if batch.kind == "call":
        return node_rpc.unanswered(batch.cluster, text)
    return OutcomeUnknown(text) if batch.kind == "command" else QueryTimeout(text)
