"""Facts about this machine and about processes on it, from /proc and the like."""

import asyncio
import os
import platform
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from barque.log.disk import OsDisk
from barque.log.wal_writer import measure_sync

T = TypeVar("T")

_TICKS = os.sysconf("SC_CLK_TCK")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or until SIGTERM or SIGHUP: then it is cancelled, cleans up, and the program exits."""
    terminated = 0

    async def cancellable() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def on_signal(number: int, _frame: object) -> None:
            nonlocal terminated
            terminated = number  # whatever the loop makes of it: it may be about to end anyway
            loop.call_soon_threadsafe(task.cancel)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            return await work
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            result = runner.run(cancellable())
        except asyncio.CancelledError:
            terminated = terminated or signal.SIGTERM
    if terminated:
        raise SystemExit(128 + terminated)
    return result


def machine_facts(directory: str) -> dict[str, Any]:
    """What a reader of figures must know about the machine. The sync latency is measured in `directory`."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": "asyncio" if loop_factory() is None else "uvloop",
        "filesystem": _filesystem(directory),
        "sync_ms": round(measure_sync(OsDisk(), directory, time.perf_counter) * 1000, 3),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _filesystem(directory: str) -> str:
    """The type of the file system that holds the directory."""
    best = ("", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return best[1]
    for line in mounts:
        _, mount, kind, *_ = line.split()
        inside = os.path.join(directory, "").startswith(os.path.join(mount, ""))
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that these processes have used so far, in user and in kernel mode.

    Its resolution is a tick (10 ms, usually). A process that has ended counts as nothing.
    """
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_bytes(pid: int) -> int:
    """The memory that a process occupies; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
