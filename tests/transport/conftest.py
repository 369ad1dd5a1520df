"""Fixtures of the transport's tests."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Runs a coroutine function to its end on a fresh loop of each kind."""

    def runner(main: Callable[[], object]) -> object:
        loop = request.param().new_event_loop()
        with asyncio.Runner(loop_factory=lambda: loop) as context:
            return context.run(asyncio.wait_for(main(), 60))

    return runner
