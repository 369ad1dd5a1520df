"""Every test of this directory runs on asyncio's loop and on uvloop."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The kind of loop to run on."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy
