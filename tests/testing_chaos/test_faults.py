"""The stage of faults: which fault takes which node, and which nodes start again. Nodes are small scripts."""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from barque.testing.chaos.faults import Stage, end_tracer
from barque.testing.chaos.nodes import End, NodeProcesses, processes_naming
from barque.testing.chaos.proxy import Network

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

RUNS_ITS_CONFIGURATION = "import sys; exec(open(sys.argv[3]).read())"
SLEEPS = "import time; time.sleep(60)"


def ends_once(code: int, directory: Path) -> str:
    """A node that ends by itself after its first start, once told to; later it stays."""
    go, gone = directory / "go", directory / "gone"
    return f"""
import os, time
from pathlib import Path
while not Path({str(go)!r}).exists():
    time.sleep(0.01)
if not Path({str(gone)!r}).exists():
    Path({str(gone)!r}).touch()
    os._exit({code})
{SLEEPS}
"""


@contextlib.contextmanager
def staged(directory: Path, **scripts: str) -> Iterator[Stage]:
    """A stage whose nodes run these scripts. There is no cluster behind them."""
    nodes = NodeProcesses(directory, scripts, ("-c", RUNS_ITS_CONFIGURATION))
    nobody: Any = None
    nodes.start(scripts)
    try:
        yield Stage(nodes, Network({}), nobody, {}, directory)
    finally:
        nodes.kill(nodes.names)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "bad_disk", "excused"), [(74, True, True), (74, False, False), (70, True, False)]
)
async def test_who_ends_by_itself_is_started_again(
    tmp_path: Path, code: int, bad_disk: bool, excused: bool
) -> None:
    """A node that ends by itself is started again; only an I/O error after an injected one is excused."""
    said: list[str] = []
    with staged(tmp_path, n1=ends_once(code, tmp_path)) as stage:
        if bad_disk:
            stage.nodes.disk_fails("n1")
        async with stage.kept(said.append):
            (tmp_path / "go").touch()
            await until(lambda: stage.nodes.starts == 2)
        assert stage.nodes.is_alive("n1")
        assert stage.restarts == len(said) == 1
        assert stage.nodes.ends == [End("n1", code, excused)]


async def test_who_is_held_down_by_a_fault_is_not_started(tmp_path: Path) -> None:
    """The keeper leaves a node alone that a fault has killed; the fault starts it."""
    with staged(tmp_path, n1=SLEEPS, n2=ends_once(74, tmp_path)) as stage:
        stage.busy.add("n1")
        stage.nodes.kill(["n1"])
        async with stage.kept(print):
            (tmp_path / "go").touch()
            await until(lambda: stage.nodes.starts == 3)
            assert not stage.nodes.is_alive("n1")
            stage.busy.remove("n1")
            await until(lambda: stage.nodes.is_alive("n1"))
        assert [end.name for end in stage.nodes.ends] == ["n2"]  # a kill by a fault is not recorded


async def test_who_needs_all_nodes_gets_them_in_turn(tmp_path: Path) -> None:
    """Faults that need one node each do not delay it without end: later requests wait behind it."""
    order: list[str] = []
    with staged(tmp_path, n1=SLEEPS, n2=SLEEPS) as stage:

        async def fault(wanted: str, seed: int) -> None:
            async with stage.taking(random.Random(seed), wanted) as taken:
                assert stage.busy >= set(taken)
                order.append(wanted)

        async with stage.taking(random.Random(1), "one"):
            waiting = [asyncio.create_task(fault(wanted, 2)) for wanted in ("all", "one")]
            await asyncio.sleep(0)
            assert order == []
        await asyncio.gather(*waiting)
        assert order == ["all", "one"]
        assert not stage.busy


async def test_a_tracer_ends_with_its_children(tmp_path: Path) -> None:
    """A tracer that is told to end while a child of its own waits leaves no process behind."""
    script = f"import os, time; os.fork(); open({str(tmp_path / 'forked')!r}, 'w'); time.sleep(60)"
    tracer = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)  # noqa: ASYNC220  # it returns at once
    await until(lambda: len(processes_naming(f"{tmp_path}/")) == 2)
    end_tracer(tracer)
    await until(lambda: not processes_naming(f"{tmp_path}/"))
