"""One connection to one node, and what waits for answers on it.

Requests of one loop turn leave as one frame. Answers find their waiter by correlation; no
task, timer or frame is spent on a single command.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from barque.client.outcomes import Waiter
from barque.errors import BarqueError, InvalidCommand, OutcomeUnknown, QueryTimeout
from barque.runtime.calls import error_named
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
from barque.types import ReplyMode, ServerId

_decode = msgspec.msgpack.Decoder(list[Any]).decode
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


class Job:
    """One request until it is answered: a command, a read, or a call.

    `sent` is set when it was handed to a link: from then on a command may have happened.
    """

    __slots__ = (
        "arguments",
        "cluster",
        "deadline",
        "kind",
        "low_priority",
        "mode",
        "payload",
        "sent",
        "waiter",
    )

    def __init__(
        self,
        kind: str,
        cluster: str,
        payload: bytes,
        waiter: Waiter,
        deadline: float,
        *,
        mode: ReplyMode = ReplyMode.NOTIFY,
        low_priority: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.kind = kind  # "command", "call", or the level of a read
        self.cluster = cluster  # the verb, for a call
        self.payload = payload
        self.waiter = waiter
        self.deadline = deadline
        self.mode = mode
        self.low_priority = low_priority
        self.arguments = arguments
        self.sent = False

    @property
    def group(self) -> tuple[Any, ...]:
        """Jobs of one group travel in one request."""
        return (self.kind, self.cluster, self.mode, self.low_priority)


class Connection:
    """What is outstanding on one link."""

    def __init__(self, node: str, on_leader: Callable[[str, ServerId], None]) -> None:
        self.node = node
        self.link: Link | None = None
        self.closed_because: str | None = None
        self._on_leader = on_leader
        self._next = 1
        self._waiting: dict[int, Job] = {}
        self._by_age: deque[tuple[float, int]] = deque()
        self.on_event: Callable[[str, Any], None] = lambda _cluster, _message: None

    def send(self, jobs: list[Job], now: float) -> None:
        """Put these jobs on the wire, neighbours of one group as one request."""
        assert self.link is not None
        requests: list[ClientRequest] = []
        start = 0
        for end in range(1, len(jobs) + 1):
            if end == len(jobs) or jobs[end].group != jobs[start].group or jobs[start].kind == "call":
                requests.append(self._request(jobs[start:end], now))
                start = end
        self.link.send(requests)
        self.link.flush()

    def _request(self, jobs: list[Job], now: float) -> ClientRequest:
        first = self._next
        self._next += len(jobs)
        waiting = self._waiting
        for correlation, job in enumerate(jobs, start=first):
            job.sent = True
            waiting[correlation] = job
        head = jobs[0]
        deadline = max(job.deadline for job in jobs)
        self._by_age.append((deadline + _GRACE_S, first + len(jobs)))
        timeout_ms = max(1, int((min(job.deadline for job in jobs) - now) * 1000))
        if head.kind == "call":
            return ClientCall(first, head.cluster, head.arguments or {}, timeout_ms)
        payloads = [job.payload for job in jobs]
        if head.kind != "command":
            return ClientQueries(head.cluster, first, tuple(payloads), head.kind, timeout_ms)
        lengths = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
        columns = b"".join((lengths, *payloads))
        return ClientCommands(
            head.cluster, first, len(jobs), columns, head.mode, timeout_ms, head.low_priority
        )

    # --- answers -----------------------------------------------------------------------

    def on_answers(self, answers: list[ClientAnswer]) -> None:
        """Find who waits for each answer; those that nobody waits for are dropped."""
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
        pop = self._waiting.pop
        errors = answer.errors
        for offset, reply in enumerate(_decode(answer.replies)):
            job = pop(answer.first_correlation + offset, None)
            if job is None:
                continue
            if errors and offset in errors:
                job.waiter.failed(InvalidCommand(errors[offset]))
            else:
                job.waiter.done(reply)
        if answer.leader is not None and job is not None:
            self._on_leader(job.cluster, answer.leader)

    def _on_failed(self, answer: ClientFailed) -> None:
        error = error_named(answer.error, answer.text)
        for correlation in range(answer.first_correlation, answer.first_correlation + answer.count):
            job = self._waiting.pop(correlation, None)
            if job is not None:
                job.waiter.failed(error)

    def _on_call_reply(self, answer: ClientCallReply) -> None:
        job = self._waiting.pop(answer.correlation, None)
        if job is None:
            return
        if answer.error is None:
            job.waiter.done(answer.value)
        else:
            job.waiter.failed(error_named(answer.error, answer.text))

    # --- ends --------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing waits here."""
        return not self._waiting

    def expire(self, now: float) -> None:
        """Give up what the node should have answered long ago: it hangs, or the network does."""
        while self._by_age and self._by_age[0][0] <= now:
            _, beyond = self._by_age.popleft()
            for correlation in [c for c in self._waiting if c < beyond and self._waiting[c].deadline <= now]:
                job = self._waiting.pop(correlation)
                job.waiter.failed(unanswered(job, f"node {self.node} did not answer in time"))

    def closed(self, reason: str) -> list[Job]:
        """The link is gone. Commands may have happened; reads are returned, to be asked elsewhere."""
        self.closed_because = reason
        waiting, self._waiting = self._waiting, {}
        again: list[Job] = []
        for job in waiting.values():
            if job.kind in ("local", "leader", "consistent"):
                again.append(job)
            else:
                job.waiter.failed(unanswered(job, f"the connection to node {self.node} was lost: {reason}"))
        return again


def unanswered(job: Job, text: str) -> BarqueError:
    """What may be said of a job that was sent and not answered."""
    if job.kind == "command" or job.cluster in ("transfer_leadership", "start_cluster"):
        return OutcomeUnknown(text)
    return QueryTimeout(text)
