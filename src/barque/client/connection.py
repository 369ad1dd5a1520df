"""One connection to one node, and the batches that wait for answers on it.

The requests of one loop turn leave as one frame. An answer finds its batch by correlation; no task, timer
or frame is spent on a single command.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from barque.client.requests import Batch, CommandBatch
from barque.errors import BarqueError, InvalidCommand
from barque.transport.answers import error_named
from barque.transport.wire import (
    ClientAnswer,
    ClientCallReply,
    ClientEvent,
    ClientFailed,
    ClientReplies,
    ClientRequest,
)
from barque.types import ServerId

_decode = msgspec.msgpack.Decoder(list[Any]).decode
_SILENCE_S = 1.0
_GRACE_S = 1.0
"""A client waits this much longer than the node: the node's own answer gives a better reason."""


class Link(Protocol):
    """The way to a node: a `ClientLink`, or a link inside the process."""

    def send(self, requests: list[ClientRequest]) -> bool:
        """Queue requests; False if the link is gone."""

    def flush(self) -> None:
        """Send the queued requests."""

    def close(self) -> None:
        """Close it; the owner is told."""


class Connection:
    """The batches that were sent over one link and are not answered yet."""

    def __init__(self, node: str, on_leader: Callable[[str, ServerId], None]) -> None:
        self.node = node
        self.link: Link | None = None
        self.on_event: Callable[[str, Any], None] = lambda _cluster, _message: None
        self._on_leader = on_leader
        self._next = 1
        self._waiting: dict[int, Batch] = {}  # by first correlation, ascending
        self._firsts: list[int] = []  # the same correlations, ascending; some may be answered already
        self._quiet_since = 0.0  # the node owes us an answer, and has said nothing since then
        self.is_suspect = False  # the node may hang: ask others until it is heard from

    def send(self, batches: list[Batch], now: float) -> None:
        """Send these batches as one frame."""
        assert self.link is not None
        if not self._waiting:
            self._quiet_since = now
        self.link.send([self._number(batch, now) for batch in batches])
        self.link.flush()

    def _number(self, batch: Batch, now: float) -> ClientRequest:
        """Give a batch its correlations and remember it; return its message."""
        first = batch.first = self._next
        self._next += len(batch.waiters)
        if batch.is_awaited:
            self._waiting[first] = batch
            self._firsts.append(first)
        return batch.message(max(1, int((batch.deadline - now) * 1000)))

    def _find(self, correlation: int) -> Batch | None:
        batch = self._waiting.get(correlation)
        if batch is not None:
            return batch
        at = bisect_right(self._firsts, correlation) - 1
        batch = self._waiting.get(self._firsts[at]) if at >= 0 else None
        return batch if batch is not None and correlation < batch.first + len(batch.waiters) else None

    def _forget(self, batch: Batch) -> None:
        self._waiting.pop(batch.first, None)
        if len(self._firsts) > 64 + 2 * len(self._waiting):
            self._firsts = list(self._waiting)

    # --- answers -----------------------------------------------------------------------

    def on_answers(self, answers: list[ClientAnswer]) -> None:
        """Hand each answer to its batch. Drop answers to requests that were given up."""
        now = self._quiet_since = asyncio.get_running_loop().time()
        self.is_suspect = False
        for answer in answers:
            match answer:
                case ClientReplies():
                    self._on_replies(answer)
                case ClientFailed():
                    self._on_failed(answer, now)
                case ClientCallReply():
                    self._on_call_reply(answer, now)
                case ClientEvent():
                    self.on_event(answer.cluster, msgspec.msgpack.decode(answer.message))

    def _on_replies(self, answer: ClientReplies) -> None:
        first, replies = answer.first_correlation, _decode(answer.replies)
        batch = self._find(first)
        if batch is None:
            return
        errors: dict[int, BarqueError] | None = None
        if answer.errors:
            errors = {offset: InvalidCommand(text) for offset, text in answer.errors.items()}
        batch.replied(first - batch.first, replies, errors)
        self._after(batch, answer.leader)

    def _on_failed(self, answer: ClientFailed, now: float) -> None:
        batch = self._find(answer.first_correlation)
        if batch is None:
            return
        error = batch.dated(error_named(answer.error, answer.text, answer.leader), now)
        batch.failed(answer.first_correlation - batch.first, answer.count, error)
        self._after(batch, answer.leader)

    def _after(self, batch: Batch, leader: ServerId | None) -> None:
        """An answer came: is the batch done, and did the node name a leader?"""
        if batch.is_answered:
            self._forget(batch)
        if leader is not None and batch.cluster:
            self._on_leader(batch.cluster, leader)

    def _on_call_reply(self, answer: ClientCallReply, now: float) -> None:
        batch = self._find(answer.correlation)
        if batch is None:
            return
        if answer.error is None:
            batch.replied(0, [answer.value], None)
        else:
            batch.failed_rest(batch.dated(error_named(answer.error, answer.text), now))
        self._forget(batch)

    # --- ends --------------------------------------------------------------------------

    def suspect(self, now: float) -> list[Batch]:
        """If the node was silent for too long, suspect it and return its reads, to be asked elsewhere."""
        if self.is_suspect or not self._waiting or now - self._quiet_since < _SILENCE_S:
            return []
        self.is_suspect = True
        reads = [batch for batch in self._waiting.values() if batch.is_read and not batch.is_begun]
        for batch in reads:
            self._forget(batch)
        return reads

    def give_up(self, cluster: str, now: float) -> None:
        """The node is silent and another one leads: no answer to these commands will come from here."""
        text = f"node {self.node} is silent, and the leadership of {cluster!r} has passed to another"
        for batch in list(self._waiting.values()):
            if isinstance(batch, CommandBatch) and batch.cluster == cluster:
                self._lose(batch, text, now)

    def expire(self, now: float) -> None:
        """End the requests that the node should have answered long ago: it hangs, or the network does."""
        for batch in [b for b in self._waiting.values() if b.deadline + _GRACE_S <= now]:
            self._lose(batch, f"node {self.node} did not answer in time", now)

    def _lose(self, batch: Batch, text: str, now: float) -> None:
        batch.failed_rest(batch.dated(batch.lost(text), now))
        self._forget(batch)

    def closed(self, reason: str, now: float) -> list[Batch]:
        """The link is gone. Commands may have happened; return the reads, to be asked elsewhere."""
        waiting, self._waiting = self._waiting, {}
        again: list[Batch] = []
        for batch in waiting.values():
            if batch.is_read and not batch.is_begun:
                again.append(batch)
            else:
                text = f"the connection to node {self.node} was lost: {reason}"
                batch.failed_rest(batch.dated(batch.lost(text), now))
        return again
