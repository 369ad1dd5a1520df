"""Barque and its peers at the same work, in turn, in one go.

A round runs every row, and for each row every program, one after the other; every second round
goes through the programs backwards. So a disk that drifts drifts for all, and a ratio
compares runs that were minutes apart at most.

    bench/setup-peers && python bench/peers.py --json bench/results/peers.json
"""

import argparse
import signal
import sys
from pathlib import Path

import msgspec
from drivers.barque import Barque
from drivers.common import ROWS, NotInstalled, Peer
from drivers.comparison import COLUMNS, PROMISE_COLUMNS, Comparison, Entry, promises, table, troubles
from drivers.etcd import Etcd
from drivers.pysyncobj import PySyncObj
from drivers.ra import Ra
from drivers.redis import Redis

from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts
from barque.bench.measure import Settings
from barque.bench.report import Report, aligned, header

PEERS: tuple[Peer, ...] = (Barque(), Ra(inside=True), Ra(inside=False), Etcd(), PySyncObj(), Redis())


def main() -> None:
    """Parse, run, print, write."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are ended
    settings = Settings(check_directory(options.dir), options.seconds, options.payload, options.kills)
    plain = {**msgspec.to_builtins(settings), "runs": options.runs}
    comparison = Comparison(machine_facts(settings.directory), plain, {}, [])
    print("\n".join(header(Report(comparison.machine, comparison.settings, []))), flush=True)
    chosen = [peer for peer in PEERS if peer.name in options.peer]
    present = [peer for peer in chosen if is_present(peer, comparison)]
    for number in range(options.runs):
        for row in options.row:
            for peer in present if number % 2 == 0 else present[::-1]:
                if row in peer.rows:
                    comparison.entries.append(run(number, peer, row, settings))
                    if options.json:
                        write(comparison, options.json)  # an interrupted run keeps what it has
    comparison.entries.sort(key=lambda entry: [peer.name for peer in PEERS].index(entry.peer))
    print("\n".join(["", *aligned(COLUMNS, table(comparison), 2), ""]))
    print("\n".join(aligned(PROMISE_COLUMNS, promises(comparison), 4)))
    print("\n".join(troubles(comparison)))
    if options.json:
        write(comparison, options.json)


def parse() -> argparse.Namespace:
    """The command line."""
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each run (default: 5)")
    parser.add_argument("--payload", type=int, default=256, help="bytes a command (default: 256)")
    parser.add_argument("--kills", type=int, default=3, help="of each failover run (default: 3)")
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    parser.add_argument("--json", help="write everything to this file, too")
    parser.add_argument("--peer", action="append", choices=names, help="repeatable (default: all)")
    parser.add_argument("--row", action="append", choices=ROWS, help="repeatable (default: all)")
    options = parser.parse_args()
    options.peer = options.peer or names
    options.row = options.row or list(ROWS)
    return options


def is_present(peer: Peer, comparison: Comparison) -> bool:
    """Whether it can be run; what is missing is noted."""
    facts = {"syncs": peer.syncs, "clients": peer.clients, "not_promised": peer.not_promised}
    comparison.peers[peer.name] = facts
    try:
        peer.check()
    except NotInstalled as error:
        facts["missing"] = f"not installed: {error}"
        print(f"{peer.name}: {facts['missing']}", flush=True)
        return False
    return True


def run(number: int, peer: Peer, row: str, settings: Settings) -> Entry:
    """One run. Whatever goes wrong with a program is a line of the report, not the end of it."""
    entry = Entry(number, peer.name, row)
    try:
        entry.sample = peer.run(row, settings)
    except Exception as error:
        entry.error = "\n  ".join([repr(error), *getattr(error, "__notes__", [])])
        figure = entry.error
    else:
        sample = entry.sample
        figure = f"{sample.per_second:,.0f}/s, " if sample.per_second is not None else ""
        figure += f"p50 {sample.p50_ms:.3f} ms"
    print(f"round {number + 1}: {row}: {peer.name}: {figure}", flush=True)
    return entry


def write(comparison: Comparison, path: str) -> None:
    """The comparison as JSON."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(comparison)))


if __name__ == "__main__":
    main()
