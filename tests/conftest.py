"""For all tests: those of nodes and clients run on asyncio's loop or on uvloop; `make loops` takes both."""

import asyncio
import os
from collections.abc import Callable, Mapping
from zlib import crc32

import pytest
import uvloop

_ON_BOTH_LOOPS = ("tests/runtime/", "tests/client/")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that a test runs on, by name: half of the tests run on each, unless both are asked for."""
    both: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    if not any(part in item.nodeid for part in _ON_BOTH_LOOPS):
        return {"asyncio": both["asyncio"]}
    if os.environ.get("BARQUE_BOTH_LOOPS"):
        return both
    name = sorted(both)[crc32(item.nodeid.encode()) % 2]
    return {name: both[name]}
