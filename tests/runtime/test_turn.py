"""When a node's turn runs, and what waits for its end (runtime/turn.py, deferred_rounds.py)."""

import asyncio
from typing import Any

from barque.core.messages import FlushCommands, PipelineRpcs
from barque.runtime.clock import SystemClock
from barque.runtime.deferred_rounds import DeferredRounds
from barque.runtime.timers import Timers
from barque.runtime.turn import Turn
from barque.testing.core.cluster import CoreCluster


async def test_any_number_of_wishes_makes_one_turn() -> None:
    """It runs after the callbacks that are ready now; a turn that has run may be asked for again."""
    turns: list[int] = []
    turn = Turn(lambda: turns.append(1), Timers(), SystemClock())
    for _ in range(3):
        turn.wake()
    assert turns == []
    await asyncio.sleep(0)
    assert (turns, turn.is_scheduled) == ([1], True)  # the node takes the mark away
    turn.is_scheduled = False
    turn.run_on_loop(lambda: turns.append(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns == [1, 2, 1]


async def test_no_turn_runs_after_the_stop() -> None:
    """Neither a scheduled one nor a later one: the files may be closed."""
    turns: list[int] = []
    turn = Turn(lambda: turns.append(1), Timers(), SystemClock())
    turn.wake()
    turn.stop()
    turn.wake_later(0.0)
    await asyncio.sleep(0)
    assert turns == []


class Process:
    """A server that notes what it is to handle."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.handled: list[Any] = []

    def handle(self, message: Any) -> None:
        """Note it."""
        self.handled.append(type(message))


def test_entries_leave_at_once_and_a_commit_index_alone_waits() -> None:
    """Each server gets one round, however often it asked; and one flush of low-priority commands."""
    cluster = CoreCluster("a", "b")
    leader: Any = Process(cluster.elect("a"))
    timers, wishes = Timers(), list[int]()
    rounds = DeferredRounds(timers, SystemClock(), lambda: wishes.append(1))
    for _ in range(3):
        rounds.replicate_soon(leader)
        rounds.flush_commands_soon(leader)
    assert wishes == [1, 1]
    rounds.flush_commands()
    rounds.replicate()
    assert leader.handled == [FlushCommands]
    assert "commits" in timers
    timers.run_due(float("inf"))
    assert leader.handled == [FlushCommands, PipelineRpcs]
    cluster.server("a").peers[0][1].next_index = 1  # type: ignore[assignment]
    rounds.replicate_soon(leader)
    rounds.replicate()
    assert leader.handled[2:] == [PipelineRpcs]
    rounds.replicate_soon(leader)
    rounds.forget(leader)
    assert not rounds.replicating
