"""Tasks that begin after the code that makes them, whatever task factory the program has set.

With `asyncio.eager_task_factory` (Python 3.12) a task runs inside the call that makes it, and may end there:
before its maker has the task in hand.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def begin_task(work: Coroutine[Any, Any, Result], *, name: str | None = None) -> "asyncio.Task[Result]":
    """Make a task that begins in a later turn of the running loop."""
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        return loop.create_task(work, name=name)
    task = loop.create_task(_later(work), name=name)
    task.add_done_callback(lambda _task: work.close())  # it may have been cancelled before it began
    return task


async def _later(work: Coroutine[Any, Any, Result]) -> Result:
    await asyncio.sleep(0)
    return await work
