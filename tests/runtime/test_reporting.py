"""What a node tells about its servers."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.nodes import nodes

from barque.machine.machine import Machine, Result
from barque.runtime import reporting
from barque.runtime.reporting import cluster_overview
from barque.runtime.server_process import ServerProcess
from barque.testing.core.cluster import CoreCluster


class Old(Machine[int]):
    """Counts in a number."""

    def init(self, args: dict[str, Any]) -> int:
        """Nothing yet."""
        return 0

    def apply(self, meta: Any, command: Any, state: int) -> Result[int]:
        """Count."""
        return state + 1, None

    def overview(self, state: int) -> dict[str, Any]:
        """The number."""
        return {"counted": state + 0}


class New(Old):
    """Counts in a dictionary, once its version is in force."""

    version = 1

    def which_module(self, version: int) -> Machine[Any]:
        """The code of that version."""
        return self if version else Old()

    def overview(self, state: Any) -> dict[str, Any]:
        """The number that is in the dictionary."""
        return {"counted": state["count"]}


def test_the_version_in_force_describes_the_machine() -> None:
    """Newer code does not know the state that the older one has left."""
    cluster = CoreCluster("a", "b", "c", machine=Old())
    cluster["a"].machine = New()
    cluster["a"].start()
    performer: Any = Mock()
    shown = cluster_overview(ServerProcess(cluster["a"].server, performer, {}))["machine"]
    assert shown == {"type": "New", "version": 1, "effective_version": 0, "counted": 0}


async def test_what_tells_of_all_members_leaves_turns_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may have ten thousand members: `status` and `node_overview` look at some of them at a time."""
    monkeypatch.setattr(reporting, "SLICE", 1)

    async def turns_of(making: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
        turns, task = 0, asyncio.ensure_future(making)
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return turns, task.result()

    async with nodes(tmp_path, 1) as one, one.client() as client:
        for number in range(5):
            await client.start_cluster(f"c{number}", "adder")
        reporter = one.running["n1"].reporter
        turns, report = await turns_of(reporter.local_report())
        assert turns > 4
        assert sorted(member["cluster"] for member in report["members"]) == [f"c{i}" for i in range(5)]
        turns, found = await turns_of(reporter.node_overview())
        assert turns > 4
        assert sorted(found["servers"]) == [f"c{i}" for i in range(5)]
        turns, merged = await turns_of(reporting.merge_reports([report], {}))
        assert turns > 8
        assert [cluster["name"] for cluster in merged["clusters"]] == [f"c{i}" for i in range(5)]
        assert [c.name for c in (await client.status()).clusters] == [f"c{i}" for i in range(5)]
