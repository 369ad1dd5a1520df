"""Do memory and disk level off? Overwrite the same keys at full speed on three nodes, and print both.

    python bench/bounded.py                    # ten minutes, 1,000 keys, a line each minute
    python bench/bounded.py --seconds 20       # a trial

The figure of merit is growth: the peak of the last quarter over the peak of the second quarter, of each
node's memory and data directory. It exits with 1 if one of them is 5 % or more.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack

from storage_nodes import MIB, NAMES, StorageNodes, Writers, storage_nodes

from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts, run

_SAMPLES = 400
"""Between two lines the sizes are looked at often, since files come and go."""


async def measure(nodes: StorageNodes, options: argparse.Namespace) -> bool:
    """Load the nodes, print sizes, and return whether they have levelled off."""
    peaks: dict[tuple[str, str], list[int]] = {(n, w): [0] * 4 for n in NAMES for w in ("memory", "disk")}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(nodes.client()) for _ in range(options.clients)]
        writers = Writers(clients, options.keys, options.value_bytes)
        began = printed = time.perf_counter()
        step = options.seconds / _SAMPLES
        while (spent := time.perf_counter() - began) < options.seconds:
            await asyncio.sleep(step)
            nodes.check()
            quarter = min(3, int(spent / options.seconds * 4))
            for (name, what), found in peaks.items():
                size = nodes.memory(name) if what == "memory" else nodes.disk(name)
                found[quarter] = max(found[quarter], size)
            if time.perf_counter() - printed >= min(60.0, options.seconds / 10):
                printed = time.perf_counter()
                print(line(nodes, spent, writers.acknowledged), flush=True)
        await writers.stop()
    print(f"{writers.acknowledged:,} commands, {writers.failed} failed")
    bounded = True
    for (name, what), found in peaks.items():
        growth = found[3] / found[1] - 1
        bounded &= growth < options.growth_max
        quarters = ", ".join(f"{size / MIB:.1f}" for size in found)
        print(f"{name} {what}: peaks of the quarters {quarters} MiB; growth {growth:+.1%}")
    return bounded


def line(nodes: StorageNodes, spent: float, commands: int) -> str:
    """What each node holds now."""
    sizes = [f"{n} {nodes.memory(n) / MIB:.0f} + {nodes.disk(n) / MIB:.0f} MiB" for n in NAMES]
    return f"{spent:6.0f} s {commands:>10,} commands; memory + disk: {'; '.join(sizes)}"


def main() -> None:
    """Parse, run, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--growth-max", type=float, default=0.05, help="0.05 is 5 %% (default)")
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    print(machine_facts(directory))
    with storage_nodes(directory, {}) as nodes:
        bounded = run(measure(nodes, options))
    print("levelled off" if bounded else "GROWS")
    sys.exit(0 if bounded else 1)


if __name__ == "__main__":
    main()
