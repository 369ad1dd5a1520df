"""What a node logs while it recovers a big log."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import nodes, until

import barque
from barque.runtime.clock import SystemClock
from barque.runtime.recovery_progress import RecoveryProgress
from barque.types import Index, ServerId

_COMMANDS = 25_000


class Bytes(barque.Machine[int]):
    """Counts bytes."""

    def init(self, args: dict[str, Any]) -> int:
        """None yet."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The new count."""
        return state + len(command), None


class HurriedClock(SystemClock):
    """A clock that runs ahead two seconds at each look, until it is told to stop doing so."""

    __slots__ = ("ahead_s", "hurries")

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.hurries = True

    def monotonic(self) -> float:  # type: ignore[override]  # a method here, a function there
        """Two seconds more at each look."""
        self.ahead_s += 2.0 if self.hurries else 0.0
        return SystemClock.monotonic() + self.ahead_s


async def test_c9_a_node_logs_how_far_its_recovery_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """C9: bytes of bytes while it reads the log, entries while it applies them, and their speed; a node whose
    recovery takes less than a second logs nothing of the kind.
    """
    machines = {"bytes": Bytes()}
    big = barque.LogConfig(prefill=False)  # nothing goes to segments
    async with nodes(tmp_path, count=1, log=big) as one, one.client() as client:
        await one.stop()
        await one.start(machines=machines)
        await client.start_cluster("bytes", "bytes")
        cluster = client.cluster("bytes")
        for _ in range(10):
            await asyncio.gather(*(cluster.process_command("x" * 200) for _ in range(_COMMANDS // 10)))

        async def is_noted() -> bool:
            return one.running["n1"].system.storage.meta.read(uid).last_applied >= _COMMANDS

        uid = one.running["n1"].system.processes["bytes"].uid
        await until(is_noted, "the node to note what it has applied")
        await one.stop()
        caplog.set_level(logging.INFO, "barque.node")
        caplog.clear()
        clock = HurriedClock()
        node = barque.Node(one.config("n1"), machines, clock=clock)
        await node.start()
        clock.hurries = False
        said = [record.getMessage() for record in caplog.records]
        await node.stop()
        reading = [
            line
            for line in said
            if re.fullmatch(r"reading the log: \d of \d+ MiB, [\d,]+ entries in all, [\d,]+ a second", line)
        ]
        applying = [
            line
            for line in said
            if re.fullmatch(
                r"applying the log of bytes@n1 up to entry \d+: [\d,]+ done, [\d,]+ entries in all, "
                r"[\d,]+ a second",
                line,
            )
        ]
        assert len(reading) >= 2, said
        assert len(applying) >= 2, said
        caplog.clear()
        node = barque.Node(one.config("n1"), machines)
        await node.start()
        await node.stop()
        assert not [r for r in caplog.records if "the log" in r.getMessage() and r.levelno == logging.INFO]


def test_c9_a_line_each_second_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """C9: however often progress is reported, people read one line a second."""
    caplog.set_level(logging.INFO, "barque.node")
    now = [0.0]

    class Hand(SystemClock):
        """Moved by hand."""

        def monotonic(self) -> float:  # type: ignore[override]  # a method here, a function there
            """As it was set."""
            return now[0]

    progress = RecoveryProgress(Hand())
    applied = progress.of(ServerId("kv", "n1"), Index(10_000))
    for step in range(100):
        now[0] = step / 10
        progress.read(step << 20, 100 << 20, step)
        applied(10)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 9
    assert lines[0] == "reading the log: 10 of 100 MiB, 10 entries in all, 10 a second"
