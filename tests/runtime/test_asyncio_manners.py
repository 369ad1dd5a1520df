"""Nodes and clients in other people's loops: task factories, eager tasks, cancellation wherever they wait."""

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import nodes, until

import barque
from barque.transport.tasks import begin_task


def plain(loop: asyncio.AbstractEventLoop, work: Any, **settings: Any) -> asyncio.Task[Any]:
    """A factory such as a tracer sets."""
    return asyncio.Task(work, loop=loop, **settings)


FACTORIES: list[Any] = [plain]
if sys.version_info >= (3, 12):
    FACTORIES.append(asyncio.eager_task_factory)


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
async def test_any_task_factory_will_do(tmp_path: Path, factory: Any) -> None:
    """Also one that runs a task inside the call that makes it: nodes start, serve, change members, stop."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        async with nodes(tmp_path) as three, three.client() as client:
            await client.start_cluster("sum", "adder")
            assert await client.process_command("sum", 2) == 2
            await client.remove_member("sum", "n3")
            await client.add_member("sum", "n3")
            assert await client.consistent_query("sum") == 2
            async with barque.local_client(three.running["n1"]) as local:
                assert await local.process_command("sum", 3) == 5
    finally:
        loop.set_task_factory(None)


async def test_a_task_that_is_cancelled_before_it_begins_leaves_no_warning() -> None:
    """Its coroutine is closed."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(plain)
    ran = []

    async def work() -> None:
        ran.append(True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            task = begin_task(work())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await begin_task(work())
    finally:
        loop.set_task_factory(None)
    assert ran == [True]


CALLS: list[Callable[[barque.Client], Awaitable[Any]]] = [
    lambda client: client.process_command("sum", 1),
    lambda client: client.append_command("sum", 1),
    lambda client: client.consistent_query("sum"),
    lambda client: client.leader_query("sum"),
    lambda client: client.local_query("sum"),
    lambda client: client.status(),
    lambda client: client.members_info("sum"),
    lambda client: client.take_notifications(),
    lambda client: client.pid(),
    lambda client: client.transfer_leadership("sum", "n2"),
]


@pytest.mark.parametrize("turns", [0, 1, 2, 4])
async def test_a_call_can_be_cancelled_wherever_it_waits(tmp_path: Path, turns: int) -> None:
    """After so many turns of the loop; the client goes on, and no task is left behind."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        before = len(asyncio.all_tasks())
        for call in CALLS:
            task = asyncio.ensure_future(call(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await client.process_command("sum", 0) in range(3)

        async def tidy() -> bool:  # a node may still work on what was asked
            return len(asyncio.all_tasks()) <= before + 1  # this one runs in a task of its own

        await until(tidy, "its tasks to end")
