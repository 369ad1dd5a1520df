"""Presets of faults, workloads and sizes: Ra's eleven Jepsen configurations, and our own.

Ra's are in rabbitmq/ra-kv-store, `ci/jepsen-test.sh`: workload, nemesis, workers, operations for each key,
seconds before and during a disruption, size of the write-ahead log. Each runs on five nodes. Differences:

- Ra kills an Erlang process (one server, which its supervisor restarts) or a whole Erlang VM. A Barque server
  has no process of its own. So `kill-process` is a SIGKILL of the node with a restart at once, and `kill-vm`
  one with a restart after the time of the disruption.
- `--random-nodes 2` is a minority of five, `1` is one node; `combined` is random halves and a kill together.
- The net tick time has no counterpart: the nodes' failure detector is set to 300 ms.
- Ra's `--release-cursor-every 10` waits for snapshots.
- Half of our workers only read.
- The rate is Ra's, 10 operations a second for each worker. Times shrink with `--seconds`.
"""

import msgspec

from barque.testing.chaos.clients import KINDS
from barque.testing.chaos.faults import FAULTS

_LANE_FAULTS = tuple(name for name in FAULTS if name not in ("kill-and-restart", "kill-minority"))


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration. Times in seconds, for a run of `seconds`; a shorter run shrinks them."""

    about: str
    faults: tuple[str, ...]
    workloads: tuple[str, ...] = ("register", "cas", "set", "counter", "list-append")
    nodes: int = 3
    processes: int = 6
    """Processes of each workload, each with one operation at a time."""
    rate: float = 60.0
    """Operations a second of each workload, when all is well."""
    operations_per_key: int | None = None
    seconds: float = 120.0
    before_s: float = 3.0
    fault_s: float = 4.0
    wal_max_size_bytes: int = 4 * 1024 * 1024


def _ra(
    workload: str,
    *faults: str,
    seconds: float,
    before_s: float = 5.0,
    fault_s: float,
    operations_per_key: int | None = None,
    processes: int = 10,
    small_log: bool = False,
) -> Preset:
    name = " + ".join(faults)
    return Preset(
        about=f"Ra's Jepsen: {workload}, {name}",
        faults=faults,
        workloads=(workload,),
        nodes=5,
        processes=processes,
        rate=10.0 * processes,
        operations_per_key=operations_per_key,
        seconds=seconds,
        before_s=before_s,
        fault_s=fault_s,
        wal_max_size_bytes=524_288 if small_log else 4 * 1024 * 1024,
    )


RA: dict[str, Preset] = {
    "set-partition-random-halves": _ra("set", "partition-random-halves", seconds=180, fault_s=25),
    "set-partition-halves": _ra("set", "partition-halves", seconds=180, fault_s=25),
    "set-partition-majorities-ring": _ra("set", "partition-majorities-ring", seconds=180, fault_s=25),
    "set-partition-random-node": _ra("set", "partition-random-node", seconds=180, fault_s=25),
    "set-kill-process": _ra("set", "kill-and-restart", seconds=120, before_s=3, fault_s=3),
    "set-kill-vm": _ra("set", "kill-minority", seconds=120, before_s=10, fault_s=3),
    "register-partition-random-halves": _ra(
        "cas", "partition-random-halves", seconds=180, before_s=15, fault_s=25, operations_per_key=25
    ),
    "register-kill-vm": _ra(
        "cas", "kill-minority", seconds=120, fault_s=20, operations_per_key=10, small_log=True
    ),
    "register-kill-process": _ra(
        "cas",
        "kill-and-restart",
        seconds=180,
        before_s=3,
        fault_s=3,
        operations_per_key=25,
        small_log=True,
    ),
    "register-combined": _ra(
        "cas",
        "partition-random-halves",
        "kill-minority",
        seconds=120,
        before_s=15,
        fault_s=20,
        operations_per_key=10,
        small_log=True,
    ),
    "set-combined": _ra(
        "set",
        "partition-random-halves",
        "kill-one",
        seconds=240,
        before_s=25,
        fault_s=30,
        processes=20,
        small_log=True,
    ),
}
"""Ra's eleven presets."""

OURS: dict[str, Preset] = {
    "crashes": Preset(
        about="SIGKILL: one, the leader, a majority, all",
        faults=("kill-one", "kill-leader", "kill-majority", "kill-all"),
    ),
    "pauses": Preset(
        about="SIGSTOP: one, the leader, a majority", faults=("pause-one", "pause-leader", "pause-majority")
    ),
    "links": Preset(
        about="one-way, half-open, flapping, slow and broken connections, clients' too",
        faults=("one-way", "half-open", "flapping", "slow-links", "reset", "client-reset"),
    ),
    "leaders": Preset(
        about="the leader is cut off, killed, frozen, or asked to hand over",
        faults=("isolate-leader", "kill-leader", "pause-leader", "transfer"),
    ),
    "disks": Preset(
        about="writes and syncs that fail, or take long", faults=("slow-disk", "disk-error", "disk-full")
    ),
    "members": Preset(
        about="members leave and join again, meanwhile faults",
        faults=("member", "transfer", "partition-random-node", "kill-one"),
    ),
    "chaos": Preset(
        about="all faults, in lanes side by side", faults=_LANE_FAULTS, fault_s=3.0, before_s=1.0
    ),
}
"""Our own presets."""

PRESETS: dict[str, Preset] = {**RA, **OURS}
"""All presets by name."""

assert all(name in FAULTS for preset in PRESETS.values() for name in preset.faults)
assert all(name in KINDS for preset in PRESETS.values() for name in preset.workloads)
