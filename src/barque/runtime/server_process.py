"""One server as its node runs it: a queue of messages, a list of effects, and an end.

It is no task but a plain object that its node calls. An error inside stops this server
alone; the cause is logged, counted and shown by `status`.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from barque.core import invariants
from barque.core.effects import Effect, NextEvent
from barque.core.messages import (
    LIVENESS_EVENTS,
    AppendEntriesReply,
    AppendEntriesRpc,
    AuxCommand,
    Commands,
    FlushCommands,
    Message,
    Queries,
    Tick,
)
from barque.core.state import RaftState, Server
from barque.core.step import has_unfinished_business, recover, say_nothing, step
from barque.errors import StorageError
from barque.runtime.commit_rate import CommitRate
from barque.runtime.counters import ServerCounters
from barque.types import Index, ServerId, Uid

logger = logging.getLogger("barque.server")


class EffectPerformer(Protocol):
    """Performs the effects of a server (`performer.Performer`)."""

    def perform(self, process: "ServerProcess", effects: list[Effect]) -> None:
        """Perform these effects in their order, up to one after which the rest has to wait."""

    def state_changed(self, process: "ServerProcess", old: RaftState, old_leader: ServerId | None) -> None:
        """The server's state, or the leader that it follows, has changed; its effects come next."""

    def server_failed(self, process: "ServerProcess") -> None:
        """This server has failed: cancel its timers and monitors."""


class Digests:
    """What `state_digests` knows of one member: its own digests by entry, those of other nodes, and the first
    entry at which they were different.
    """

    __slots__ = ("differing", "own", "told")

    def __init__(self) -> None:
        self.own: dict[Index, int] = {}
        self.told: dict[str, dict[Index, int]] = {}
        self.differing: dict[str, Index] = {}


class ServerProcess:
    """Runs one core server.

    `held` are effects that wait until the meta store has synced a term or a vote; while it is not None,
    nothing that the server asks for is performed. `active` holds the servers that the next tick looks at.
    """

    __slots__ = (
        "_active",
        "_busy",
        "_performer",
        "_queue",
        "checked",
        "cluster_id",
        "commit_rate",
        "counters",
        "digests",
        "ended",
        "failure",
        "failure_type",
        "held",
        "server",
        "uid",
        "unknown_incarnations",
    )

    def __init__(
        self,
        server: Server,
        performer: EffectPerformer,
        active: "dict[ServerProcess, None]",
        *,
        checked: bool = False,
    ) -> None:
        self.server = server
        self.cluster_id, self.uid = server.cfg.cluster_id, server.cfg.uid  # every message of it carries both
        self.counters = ServerCounters()
        self.commit_rate: CommitRate | None = None  # from its first tick on
        self.digests = Digests()
        self.failure: str | None = None  # why it handles nothing any more
        self.failure_type: type[Exception] | None = None  # of the exception that has ended it, if one has
        self.ended = False  # it ended on purpose, which is no failure
        self.unknown_incarnations: dict[
            ServerId, Uid
        ] = {}  # heard under a member's name instead of the member
        self.held: deque[Effect] | None = None
        self.checked = checked  # run the invariants after every step
        self._active = active
        self._performer = performer
        self._queue: deque[Message] | None = None
        self._busy = False

    @property
    def state(self) -> str:
        """The Raft state; `failed` after an exception, `stopped` after its end."""
        if self.failure is None:
            return str(self.server.raft_state)
        return "stopped" if self.ended else "failed"

    def start(self, applied: Callable[[int], None] = say_nothing) -> None:
        """Replay the log, then become a follower. `applied` hears of entries by the number, meanwhile.

        Raises `StorageError` when the disk cannot be read: another start may succeed. Anything else, such as
        a damaged file, stops this server only.
        """
        try:
            effects = recover(self.server, applied)
            self._busy = True
            self._performer.perform(self, effects)
        except Exception as error:
            if type(error) is StorageError:
                raise
            self.fail(error)
        finally:
            self._busy = False
        self._run()

    def handle(self, message: Message) -> None:
        """Take one message, and everything that it leads to inside this server."""
        if self.failure is not None:
            return
        if self._busy:
            self.enqueue(message)
            return
        if self.held is not None and isinstance(message, LIVENESS_EVENTS):
            self.held.append(NextEvent(message))
            return
        self._step(message)

    def enqueue(self, message: Message) -> None:
        """Handle this after the present message (CORE-20)."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)

    def _step(self, message: Message | None) -> None:
        """Handle this message, and then everything that was queued meanwhile."""
        server, performer = self.server, self._performer
        while message is not None:
            state, leader = server.raft_state, server.leader_id
            self._busy = True
            self._active[self] = None
            count = COUNT.get(type(message))
            if count is not None:
                count(self.counters, message)
            try:
                if self.checked:
                    before = invariants.observe(server)
                    effects = step(server, message)
                    invariants.check(before, server)
                else:
                    effects = step(server, message)
                if server.raft_state is not state or server.leader_id != leader:
                    performer.state_changed(self, state, leader)
                if effects:
                    performer.perform(self, effects)
            except Exception as error:
                self.fail(error)
            finally:
                self._busy = False
            message = self._queue.popleft() if self._queue and self.failure is None else None

    def _run(self) -> None:
        """Handle the queued messages."""
        if self._queue and self.failure is None:
            self._step(self._queue.popleft())

    def defer_until_synced(self) -> None:
        """Hold back everything from here on until the meta store has synced."""
        if self.held is None:
            self.held = deque()

    def release(self) -> None:
        """The meta store has synced: perform the held effects, up to the next record to sync."""
        held, self.held = self.held, None
        if held and self.failure is None:
            self._busy = True  # a neighbour may answer at once, and must not overtake what was held
            try:
                self._performer.perform(self, list(held))
            except Exception as error:
                self.fail(error)
            finally:
                self._busy = False
        self._run()

    def count_overview(self) -> dict[str, int]:
        """All counters; where the server stands (CNT-05) is read off now."""
        server, counters = self.server, self.counters
        counters.term = server.current_term
        counters.commit_index = server.commit_index
        counters.last_applied = server.last_applied
        counters.last_index = server.log.last_index_term().index
        counters.last_written_index = server.log.last_written().index
        counters.snapshot_index = server.log.snapshot_index_term().index
        counters.commit_latency = server.commit_latency_ms
        counters.effective_machine_version = server.effective_machine_version
        return counters.overview()

    def tick(self, now_ms: int) -> bool:
        """Tick the server if it has unfinished business; False if it has none left (idle costs nothing)."""
        if self.failure is None and has_unfinished_business(self.server):
            self.handle(Tick(now_ms))
        if self.failure is None and has_unfinished_business(self.server):
            return True
        if not self._queue:
            self._queue = None  # an idle server needs none
        return False

    @property
    def applied_is_remembered(self) -> bool:
        """Whether a restart would begin where the machine is now."""
        return self.server.persisted_last_applied >= self.server.last_applied

    def cure_for(self, member: ServerId) -> str:
        """The command to run when this member answers as another incarnation."""
        return f"barque member replace {self.server.cfg.cluster_name} {member}"

    def end(self, reason: str) -> None:
        """Stop on request, and discard the inbox. A server that failed before stays failed."""
        if self.failure is None:
            self.failure = reason
            self.ended = True
        self.held = None
        self._queue = None

    def fail(self, error: Exception) -> None:
        """Stop for good: keep the files, spare the neighbours, say why."""
        self.failure, self.failure_type = f"{type(error).__name__}: {error}", type(error)
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
        self._performer.server_failed(self)


def _count_append_entries(counters: ServerCounters, message: AppendEntriesRpc) -> None:
    if message.entries:
        counters.aer_received_follower += 1
    else:
        counters.aer_received_follower_empty += 1


def _count_append_entries_reply(counters: ServerCounters, message: AppendEntriesReply) -> None:
    if message.success:
        counters.aer_replies_success += 1
    else:
        counters.aer_replies_fail += 1


def _count_commands(counters: ServerCounters, message: Commands) -> None:
    counters.commands += message.count


def _count_queries(counters: ServerCounters, message: Queries) -> None:
    if message.consistent:
        counters.consistent_queries += len(message.payloads)


def _count_flush(counters: ServerCounters, _message: FlushCommands) -> None:
    counters.command_flushes += 1


def _count_aux(counters: ServerCounters, _message: AuxCommand) -> None:
    counters.aux_commands += 1


COUNT: dict[type, Callable[[ServerCounters, Any], None]] = {
    AppendEntriesRpc: _count_append_entries,
    AppendEntriesReply: _count_append_entries_reply,
    Commands: _count_commands,
    Queries: _count_queries,
    FlushCommands: _count_flush,
    AuxCommand: _count_aux,
}
"""How each kind of message is counted (CNT-03)."""
