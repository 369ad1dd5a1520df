"""One server as its node runs it: a queue of messages, a list of effects, and an end.

Not a task: a plain object that its node calls (design §5.3). Whatever goes wrong inside stops
this server alone; the cause is logged, counted and shown by `status`.
"""

import logging
from collections import deque
from typing import TYPE_CHECKING

from barque.core import invariants
from barque.core.effects import Effect, NextEvent
from barque.core.messages import (
    LIVENESS_EVENTS,
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    FlushCommands,
    Message,
    Queries,
    Tick,
)
from barque.core.state import RaftState, Server
from barque.core.step import has_unfinished_business, recover, step
from barque.runtime.counters import ServerCounters
from barque.types import ServerId, Uid

if TYPE_CHECKING:
    from barque.runtime.executor import Executor

logger = logging.getLogger("barque.server")


class ServerProcess:
    """Runs one core server. `held` are effects that wait for the meta store's sync."""

    __slots__ = (
        "_active",
        "_busy",
        "_executor",
        "_queue",
        "checked",
        "counters",
        "ended",
        "failure",
        "held",
        "identity",
        "server",
        "strangers",
    )

    def __init__(
        self,
        server: Server,
        executor: "Executor",
        active: "dict[ServerProcess, None]",
        *,
        checked: bool = False,
    ) -> None:
        self.server = server
        self.identity = (server.cfg.cluster_id, server.cfg.uid)  # what every Raft message of it carries
        self._active = active  # those that the next tick looks at
        self.counters = ServerCounters()
        self.failure: str | None = None  # why it handles nothing any more
        self.ended = False  # on purpose: that is no failure
        self.strangers: dict[ServerId, Uid] = {}  # who speaks as a member and is another incarnation
        self.held: deque[Effect] | None = None
        self.checked = checked  # run the invariants after every step
        self._executor = executor
        self._queue: deque[Message] | None = None
        self._busy = False

    @property
    def state(self) -> str:
        """The Raft state; `failed` after an exception, `stopped` after its end."""
        if self.failure is None:
            return str(self.server.raft_state)
        return "stopped" if self.ended else "failed"

    def start(self) -> None:
        """Replay the log, then become a follower."""
        try:
            effects = recover(self.server)
        except Exception as error:
            self.fail(error)
            return
        self._perform(effects)
        self._run()

    def handle(self, message: Message) -> None:
        """Take one message and everything that it leads to inside this server."""
        if self.failure is not None:
            return
        if self._busy:
            self.enqueue(message)
            return
        if self.held is not None and isinstance(message, LIVENESS_EVENTS):
            self.held.append(NextEvent(message))
            return
        self._step(message)
        if self._queue:
            self._run()

    def enqueue(self, message: Message) -> None:
        """Handle this after the present message (CORE-20)."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)

    def _run(self) -> None:
        while self._queue and self.failure is None:
            self._step(self._queue.popleft())

    def _step(self, message: Message) -> None:
        server = self.server
        state, leader = server.raft_state, server.leader_id
        self._busy = True
        self._active[self] = None
        self._count(message)
        try:
            if self.checked:
                before = invariants.observe(server)
                effects = step(server, message)
                invariants.check(before, server)
            else:
                effects = step(server, message)
            if server.raft_state is not state or server.leader_id != leader:
                self._executor.state_changed(self, state, leader)
            self._perform(effects)
        except Exception as error:
            self.fail(error)
        finally:
            self._busy = False

    def _perform(self, effects: list[Effect]) -> None:
        if self.held is not None:
            self.held.extend(effects)
            return
        for position, effect in enumerate(effects):
            self._executor.perform(self, effect)
            if self._is_holding():
                self.held = deque(effects[position + 1 :])
                return

    def hold(self) -> None:
        """Everything from here on waits until the meta store has synced."""
        if self.held is None:
            self.held = deque()

    def _is_holding(self) -> bool:
        return self.held is not None

    def release(self) -> None:
        """The meta store has synced: perform what was held, up to the next record to sync."""
        held, self.held = self.held, None
        while held and self.failure is None:
            try:
                self._executor.perform(self, held.popleft())
            except Exception as error:
                self.fail(error)
                return
            if self._is_holding():
                self.held = held
                return
        if not self._busy:
            self._run()

    def _count(self, message: Message) -> None:
        """CNT-03, of what exists now."""
        counters = self.counters.raft
        match message:
            case AppendEntriesRpc():
                if message.entries:
                    counters.aer_received_follower += 1
                else:
                    counters.aer_received_follower_empty += 1
            case AppendEntriesReply():
                if message.success:
                    counters.aer_replies_success += 1
                else:
                    counters.aer_replies_fail += 1
            case Commands():
                counters.commands += message.count
            case Queries() if message.consistent:
                counters.consistent_queries += len(message.payloads)
            case FlushCommands():
                counters.command_flushes += 1
            case _:
                pass

    def count_overview(self) -> dict[str, int]:
        """All counters; where the server stands (CNT-05) is read off now."""
        server, counters = self.server, self.counters.raft
        counters.term = server.current_term
        counters.commit_index = server.commit_index
        counters.last_applied = server.last_applied
        counters.last_index = server.log.last_index_term().index
        counters.last_written_index = server.log.last_written().index
        counters.snapshot_index = server.log.snapshot_index_term().index
        counters.commit_latency = server.commit_latency_ms
        counters.effective_machine_version = server.effective_machine_version
        return self.counters.overview()

    def tick(self, now_ms: int) -> bool:
        """Look after unfinished business; False when there is none left (idle costs nothing)."""
        if self.failure is not None:
            return False
        if self.server.raft_state is RaftState.LEADER and has_unfinished_business(self.server):
            self.handle(Tick(now_ms))
        return self.failure is None and has_unfinished_business(self.server)

    @property
    def applied_is_remembered(self) -> bool:
        """Whether a restart would begin where we are now."""
        return self.server.persisted_last_applied >= self.server.last_applied

    def end(self, reason: str) -> None:
        """Stop on purpose: what still waits inside is dropped. What failed before stays failed."""
        if self.failure is None:
            self.failure = reason
            self.ended = True
        self.held = None
        self._queue = None

    def fail(self, error: Exception) -> None:
        """Stop for good: keep the files, spare the neighbours, tell everybody why."""
        self.failure = f"{type(error).__name__}: {error}"
        self.held = None
        self._queue = None
        logger.error(
            "server %s stopped in state %s, term %d: %s",
            self.server.id,
            self.server.raft_state,
            self.server.current_term,
            self.failure,
            exc_info=error,
        )
        self._executor.server_failed(self)
