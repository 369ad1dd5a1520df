"""A day in half an hour: load, small limits, random kills. Is disk use bounded, and are the files good?

    python bench/day.py                        # half an hour
    python bench/day.py --seconds 20           # a trial

Three nodes with log files of 4 MiB, small segments and a snapshot every second or so. Every few seconds a
random node is killed by its process id and started again. Each minute the disk use is printed. At the end
all nodes are stopped and `barque doctor` looks at their directories. It exits with 1 if it finds anything, if
disk use exceeded the limit, or if a node ended by itself.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from contextlib import AsyncExitStack

from storage_nodes import MIB, NAMES, StorageNodes, Writers, storage_nodes

import barque
from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts, run

SETTINGS = {
    "log": {"wal_max_size_bytes": 4 * MIB, "segment_max_entries": 256},
    "snapshots": {"min_interval": 2_000, "interval_bytes": 1 * MIB},
}


async def live(nodes: StorageNodes, options: argparse.Namespace, rng: random.Random) -> dict[str, int]:
    """Load and kill; returns the peak of each node's disk use."""
    peaks = dict.fromkeys(NAMES, 0)
    kills = 0
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(nodes.client(timeout_s=10)) for _ in range(options.clients)
        ]
        writers = Writers(clients, options.keys, options.value_bytes, options.window)
        began = printed = time.perf_counter()
        next_kill = began + options.kill_every_s
        while (now := time.perf_counter()) - began < options.seconds:
            await asyncio.sleep(0.2)
            nodes.check()
            for name in NAMES:
                peaks[name] = max(peaks[name], nodes.disk(name))
            if now >= next_kill:
                victim = rng.choice(NAMES)
                nodes.processes.kill([victim])
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                nodes.start(victim)
                kills += 1
                next_kill = now + options.kill_every_s * rng.uniform(0.5, 1.5)
            if now - printed >= min(60.0, options.seconds / 10):
                printed = now
                sizes = "; ".join(
                    f"{n} {nodes.memory(n) / MIB:.0f} + {nodes.disk(n) / MIB:.1f} MiB" for n in NAMES
                )
                print(
                    f"{now - began:6.0f} s {writers.acknowledged:>10,} commands, {kills} kills; "
                    f"memory + disk: {sizes}",
                    flush=True,
                )
        await writers.stop()
        await settled(clients[0])
    print(f"{writers.acknowledged:,} commands, {writers.failed:,} failed or unknown, {kills} kills")
    if writers.acknowledged == 0 or kills == 0:
        raise RuntimeError("nothing was written, or nothing was killed: this run proves nothing")
    return peaks


async def settled(client: barque.Client) -> None:
    """Wait until all nodes run: one may have been started just now."""
    async with asyncio.timeout(60):
        while any(  # noqa: ASYNC110  # other processes: nobody tells us
            node.state != "running" for node in (await client.status()).nodes
        ):
            await asyncio.sleep(0.1)


def examine(nodes: StorageNodes) -> bool:
    """Stop the nodes, and let `barque doctor` look at their directories."""
    codes = nodes.processes.stop()
    good = all(code == 0 for code in codes.values())
    if not good:
        print(f"exit codes: {codes}\n{nodes.processes.last_words()}")
    for name in NAMES:
        command = [sys.executable, "-m", "barque", "doctor", "--data-dir", str(nodes.data_dir(name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{name}: doctor exits with {done.returncode}\n{done.stdout}{done.stderr}", end="")
        good &= done.returncode == 0
    return good


def main() -> None:
    """Parse, run, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1_800.0)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--window", type=int, default=50, help="commands in flight of each client")
    parser.add_argument("--kill-every-s", type=float, default=5.0)
    parser.add_argument("--disk-max-mib", type=float, default=64.0, help="of each node")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    print(machine_facts(directory))
    print(f"seed {options.seed}")
    with storage_nodes(directory, SETTINGS) as nodes:
        peaks = run(live(nodes, options, random.Random(options.seed)))  # noqa: S311  # victims, no secrets
        good = examine(nodes)
    for name, peak in peaks.items():
        print(f"{name}: at most {peak / MIB:.1f} MiB of files")
        good &= peak <= options.disk_max_mib * MIB
    print("good" if good else "NOT GOOD")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
