"""Loads: what clients do for some seconds. Each returns what its clients saw."""

import asyncio
import functools
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from barque.client.client import Client
from barque.errors import BarqueError, NoLeader

Ask = Callable[[], Awaitable[Any]]

PIPELINE_CLIENTS, PIPELINE_WINDOW = 5, 500
"""As in Ra's `ra_bench`, whose commands have low priority in 2.2 and normal priority today."""
CONCURRENT = 64
_MARK_EVERY = 32
"""Of pipelined commands, every so many-th is timed: timing all would be a tenth of the client's work."""


class Outcome(msgspec.Struct, gc=False):
    """What clients saw: commands that were answered, how long it all took, and single latencies."""

    commands: int
    seconds: float
    latencies_s: list[float]


async def pipeline(
    clients: Sequence[Client], cluster: str, payload: bytes, seconds: float, priority: str
) -> Outcome:
    """Each client keeps `PIPELINE_WINDOW` commands in flight and tops up as they are answered.

    Raises the error of the first command that failed: a benchmark loses none.
    """
    start = time.perf_counter()
    parts = await asyncio.gather(
        *(_pipeline_client(client, cluster, payload, start + seconds, priority) for client in clients)
    )
    elapsed = time.perf_counter() - start
    return Outcome(sum(count for count, _ in parts), elapsed, [t for _, times in parts for t in times])


async def _pipeline_client(
    client: Client, cluster: str, payload: bytes, until: float, priority: str
) -> tuple[int, list[float]]:
    sent = answered = 0
    marks: deque[tuple[int, float]] = deque()
    latencies: list[float] = []
    now = time.perf_counter()
    while now < until or answered < sent:
        if now < until:
            for number in range(sent, answered + PIPELINE_WINDOW):
                client.pipeline_command(cluster, payload, number, priority=priority)
                if number % _MARK_EVERY == 0:
                    marks.append((number, now))
            sent = max(sent, answered + PIPELINE_WINDOW)
        for notification in await client.take_notifications():
            if notification.error is not None:
                raise notification.error
            answered += 1
        now = time.perf_counter()
        while marks and marks[0][0] < answered:
            latencies.append(now - marks.popleft()[1])
    return answered, latencies


async def synchronous(asks: Sequence[Ask], seconds: float) -> Outcome:
    """Callers that ask, wait for the answer, and ask again; one task for each."""
    start = time.perf_counter()
    parts = await asyncio.gather(*(_caller(ask, start + seconds) for ask in asks))
    elapsed = time.perf_counter() - start
    return Outcome(sum(map(len, parts)), elapsed, [t for times in parts for t in times])


async def _caller(ask: Ask, until: float) -> list[float]:
    latencies = []
    now = time.perf_counter()
    while now < until:
        await ask()
        then, now = now, time.perf_counter()
        latencies.append(now - then)
    return latencies


def commands(clients: Sequence[Client], cluster: str, payload: bytes, callers: int) -> list[Ask]:
    """Synchronous commands of so many callers, dealt out to the clients."""
    turn = itertools.cycle(clients)
    return [
        functools.partial(client.process_command, cluster, payload)
        for client in itertools.islice(turn, callers)
    ]


def reads(clients: Sequence[Client], cluster: str, callers: int) -> list[Ask]:
    """Consistent queries, likewise."""
    turn = itertools.cycle(clients)
    return [functools.partial(client.consistent_query, cluster) for client in itertools.islice(turn, callers)]


class Background:
    """Synchronous callers that go on through errors, until they are stopped."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._tasks = [asyncio.create_task(self._run(ask)) for ask in asks]

    async def _run(self, ask: Ask) -> None:
        while True:
            try:
                await ask()
            except BarqueError:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def first_success(ask: Ask, every_s: float, deadline_s: float) -> float:
    """Ask anew every so often, without waiting for the answers; returns when the first came.

    Measured from the call, in seconds. Raises `NoLeader` if none came in time.
    """
    start = time.perf_counter()
    success: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def attempt() -> None:
        try:
            await ask()
        except BarqueError:
            return
        if not success.done():
            success.set_result(time.perf_counter() - start)

    attempts: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.timeout(deadline_s):
            while not success.done():
                task = asyncio.create_task(attempt())
                attempts.add(task)
                task.add_done_callback(attempts.discard)
                await asyncio.wait([success], timeout=every_s)
        return success.result()
    except TimeoutError:
        raise NoLeader(f"no write was acknowledged within {deadline_s:.0f} s of the kill") from None
    finally:
        for task in list(attempts):
            task.cancel()
