"""What a seed draws: its cluster, its settings, and its own mix of faults (swarm testing).

Narrow windows find more than volume. So settings are often tiny: files roll over, batches are cut and
elections overlap all the time.
"""

import random
from collections.abc import Iterable
from typing import Literal

import msgspec

from barque.config import LogConfig, SnapshotsConfig, TimeConfig
from barque.testing.sim.redis_machine import REDIS
from barque.testing.sim.test_machine import KINDS, LISTS

FAULTS = (
    "loss",
    "duplicates",
    "reordering",
    "late_frames",
    "partition",
    "one_way",
    "flapping",
    "disconnect",
    "client_disconnect",
    "crash",
    "power_loss",
    "crash_in_disk",
    "crash_all",
    "crash_on_send",
    "pause",
    "sync_error",
    "disk_full",
    "slow_disk",
    "hung_sync",
    "bit_rot",
    "blocked_loop",
    "clock_jump",
    "transfer",
    "swizzle",
    "bridge",
    "ring",
    "slow_link",
    "half_open",
    "wrong_peer",
    "write_error",
    "open_error",
    "read_error",
    "stop",
    "cancel",
    "upgrade",
)
"""All faults by name; docs/explanation/faults.md has a row for each."""

STEADY = ("loss", "duplicates", "reordering", "late_frames", "crash_on_send")
"""Faults that hold for the whole first phase; all others happen from time to time."""


DIRECTORY_FAULTS = ("swapped_disks", "copied_disk")
"""Nodes find another node's data directory. Drawn apart: so they do not shift the draws of the others."""
DIRECTORIES_RATE = 0.15
"""The share of seeds with each of them."""

OPERATOR_FAULTS = ("losing_removal",)
"""Operators ask for what must be refused."""
OPERATORS_RATE = 0.3
"""The share of seeds with each of them, of those without `UNLIKE_DEATH`."""
UNLIKE_DEATH = frozenset(
    (
        *("late_frames", "duplicates", "reordering", "slow_link", "half_open", "pause", "blocked_loop"),
        *("members", "recreate", "swapped_disks", "copied_disk"),
    )
)
"""Under these a dead node may still seem to speak, or members change for other reasons."""

CLUSTER_FAULTS = ("machine_fails",)
"""Faults of one cluster that the other clusters must not notice."""
MEMBER_FAULTS = ("members", "recreate")
"""Clients change the members of a cluster; clients delete a created cluster and create it again."""

SEVERAL_RATE = 0.3
"""The share of seeds with several clusters on each node."""
MEMBERS_RATE = 0.25
"""The share of seeds in which members come and go."""
OTHERS_RATE = 0.2
"""The share of seeds in which some clusters have other objects than lists."""
TELLS_RATE = 0.1
"""The share of seeds whose machines send a message for each command."""
GUESTS_RATE = 0.15
"""The share of seeds in whose nodes processes come and go that machines watch."""
TIGHT_RATE = 0.1
"""The share of seeds whose nodes let only few commands wait, and few bytes for each peer."""
TIMERS_RATE = 0.1
"""The share of seeds whose machines set timers."""
SNAPSHOTS_RATE = 2 / 3
"""The share of seeds whose machines ask for snapshots."""
IN_PROCESS_RATE = 1 / 6
"""The share of seeds in which some clients live in the processes of nodes."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times in virtual seconds, rates as shares of 1."""

    nodes: int = 3
    clusters: int = 1
    created: int = 0  # how many of the clusters, the last ones, are created at run time
    objects: tuple[str, ...] = ()  # the kind of each cluster's objects; further clusters have lists
    tells: bool = False  # machines send a message for each command
    timers: bool = False  # machines set timers
    guests: bool = False  # processes in the nodes come and go, and machines watch them
    pending_commands: int = 1_000_000  # how many commands may wait on a node
    pending_bytes: int = 512 * 1024 * 1024
    peer_bytes: int = 8 * 1024 * 1024  # how many bytes may wait for one peer
    duration_s: float = 8.0
    faults: tuple[str, ...] = ()
    pace_s: float = 0.5  # the mean time between two faults, at most
    fault_s: float = 0.5  # the mean length of a fault
    loss_rate: float = 0.05
    duplicate_rate: float = 0.1
    reorder_rate: float = 0.1
    latency_s: tuple[float, float] = (0.0002, 0.002)
    late_rate: float = 0.02
    late_s: float = 0.2
    sync_s: tuple[float, float] = (0.0, 0.0005)
    clients: int = 3
    in_process_clients: int = 0  # how many more clients live in the processes of nodes
    workers: int = 2
    keys: int = 3
    think_s: float = 0.05
    timeout_s: float = 1.0
    read_share: float = 0.4
    burst_share: float = 0.2
    look_rate: float = 0.03  # the share of acknowledgements that are compared with the disk
    time: TimeConfig = TimeConfig()
    log: LogConfig = LogConfig(writer="inline", prefill=False)
    pipeline_entries: int = 16_384
    rpc_entries: int = 4_096
    rpc_bytes: int = 1_048_576
    flush_size: int = 16
    apply_entries: int = 4_096
    snapshots: SnapshotsConfig = SnapshotsConfig()
    snapshot_every: int = 0  # how often machines ask for snapshots, in entries; 0: never
    checkpoint_every: int = 0
    live_every: int = 0  # every so many entries one survives below snapshots
    upgrade_strategy: Literal["all", "quorum"] = "all"

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """All clusters; the last `created` of them are in no node's configuration."""
        return tuple("lists" if i == 1 else f"lists{i}" for i in range(1, self.clusters + 1))

    @property
    def configured_names(self) -> tuple[str, ...]:
        """The clusters in the nodes' configurations."""
        return self.cluster_names[: self.clusters - self.created]

    @property
    def kinds(self) -> Iterable[tuple[str, str]]:
        """All clusters with the kind of their objects."""
        return zip(self.cluster_names, (*self.objects, *(LISTS for _ in range(self.clusters))), strict=False)


def _rng(seed: int, topic: str) -> random.Random:
    """A generator for one topic, so that draws for one topic do not shift those for another."""
    return random.Random(f"{seed}/{topic}")  # noqa: S311  # repeatable on purpose


def draw_scenario(seed: int) -> Scenario:
    """Draw the scenario of this seed."""
    rng = _rng(seed, "scenario")
    heartbeat_ms = rng.choice((10, 30, 50, 100, 100))
    times = TimeConfig(
        broadcast_time_ms=rng.choice((2, 5, 10, 20, 50, 100)),
        election_multiplier=rng.choice((2, 5, 5)),
        heartbeat_interval_ms=heartbeat_ms,
        detector_poll_ms=heartbeat_ms * rng.choice((3, 5, 10)),
        tick_ms=rng.choice((10, 50, 200, 500, 1000)),
        await_condition_timeout_ms=rng.choice((50, 500, 3_000)),
        wal_down_timeout_ms=rng.choice((50, 500, 2_000)),
    )
    share = rng.choice((0.15, 0.3, 0.5))
    faults = tuple(name for name in FAULTS if rng.random() < share) or (rng.choice(FAULTS),)
    pace_s = rng.choice((0.15, 0.4, 1.0))
    duration_s = max(rng.uniform(4.0, 16.0), 1.5 * pace_s * len(faults))
    clients, workers = rng.choice((2, 3, 4)), rng.choice((1, 2, 4))
    # One rate for all clients together: many clients should compete, not fill lists by thousands.
    operations_a_s = rng.choice((10, 30, 100))
    some, created, aimed = _draw_clusters(seed)
    clients = max(clients, some)
    wrong = _rng(seed, "directories")
    faults += (*aimed, *(name for name in DIRECTORY_FAULTS if wrong.random() < DIRECTORIES_RATE))
    operators = _rng(seed, "operators")
    if not UNLIKE_DEATH.intersection(faults):
        faults += tuple(name for name in OPERATOR_FAULTS if operators.random() < OPERATORS_RATE)
    scenario = Scenario(
        nodes=rng.choice((3, 3, 3, 5)),
        clusters=some,
        created=created,
        objects=_draw_objects(seed, some),
        tells=_rng(seed, "tells").random() < TELLS_RATE,
        guests=_rng(seed, "visitors").random() < GUESTS_RATE,
        duration_s=duration_s,
        faults=faults,
        pace_s=pace_s,
        fault_s=rng.choice((0.02, 0.1, 0.5, 1.5)),
        loss_rate=rng.choice((0.01, 0.05, 0.2)),
        duplicate_rate=rng.choice((0.02, 0.1, 0.3)),
        reorder_rate=rng.choice((0.02, 0.1, 0.3)),
        latency_s=rng.choice(((0.0001, 0.0005), (0.0002, 0.002), (0.001, 0.02))),
        late_rate=rng.choice((0.005, 0.05)),
        late_s=rng.choice((0.05, 0.3, 1.0)),
        sync_s=rng.choice(((0.0, 0.0), (0.0001, 0.0005), (0.001, 0.005))),
        clients=clients,
        in_process_clients=_draw_in_process_clients(seed),
        workers=workers,
        keys=rng.choice((1, 1, 2, 5)),
        think_s=clients * workers / operations_a_s,
        timeout_s=rng.choice((0.2, 1.0, 3.0)),
        read_share=rng.choice((0.2, 0.4, 0.7)),
        burst_share=rng.choice((0.0, 0.2, 0.5)),
        time=times,
        log=LogConfig(
            writer=rng.choice(("inline", "thread")),
            prefill=False,
            wal_max_size_bytes=rng.choice((1_024, 4_096, 16_384, 1 << 20)),
        ),
        pipeline_entries=rng.choice((1, 4, 64, 16_384)),
        rpc_entries=rng.choice((1, 3, 4_096)),
        rpc_bytes=rng.choice((64, 1_024, 1_048_576)),
        flush_size=rng.choice((1, 2, 16)),
        upgrade_strategy=rng.choice(("all", "quorum")),
    )
    timers = _rng(seed, "timers").random() < TIMERS_RATE
    scenario = with_timers(scenario) if timers else scenario
    scenario = _with_slices(with_snapshots(scenario, _rng(seed, "snapshots")), _rng(seed, "slices"))
    limits = _rng(seed, "limits")
    return with_limits(scenario, limits) if limits.random() < TIGHT_RATE else scenario


def _with_slices(scenario: Scenario, rng: random.Random) -> Scenario:
    """The same scenario, one time in two with members that apply a few entries at a time."""
    return msgspec.structs.replace(scenario, apply_entries=rng.choice((1, 3, 4_096, 4_096)))


def with_timers(scenario: Scenario) -> Scenario:
    """The same scenario with machines that set timers, and with frequent changes of leadership."""
    faults = scenario.faults if "transfer" in scenario.faults else (*scenario.faults, "transfer")
    return msgspec.structs.replace(scenario, timers=True, faults=faults, pace_s=0.15)


def with_snapshots(scenario: Scenario, rng: random.Random) -> Scenario:
    """The same scenario, two times in three with snapshots at tiny intervals."""
    if rng.random() > SNAPSHOTS_RATE:
        return scenario
    tick_ms = scenario.time.tick_ms
    return msgspec.structs.replace(
        scenario,
        snapshot_every=rng.choice((0, 1, 4, 16, 50)),
        checkpoint_every=rng.choice((0, 0, 3, 10)),
        live_every=rng.choice((0, 0, 5, 20)),
        snapshots=SnapshotsConfig(
            min_interval=rng.choice((1, 1, 10)),
            interval_bytes=rng.choice((100, 1 << 20)),
            checkpoint_min_interval=1,
            checkpoints_max=rng.choice((1, 2, 5)),
            recovery_min_interval=rng.choice((1, 20, "never")),
            chunk_size_bytes=rng.choice((64, 500, 1 << 20)),
            silence_ticks_max=min(1_000, 2 + rng.choice((300, 1_000)) // tick_ms),
            backoff_ms=rng.choice((20, 200)),
            receive_timeout_ms=rng.choice((300, 1_500)),
        ),
    )


def with_redis(scenario: Scenario) -> Scenario:
    """The same scenario with Redis clients at the first cluster, which is always configured."""
    return msgspec.structs.replace(scenario, objects=(REDIS, *scenario.objects[1:]), in_process_clients=0)


def with_limits(scenario: Scenario, rng: random.Random) -> Scenario:
    """The same scenario with nodes on which only little may wait."""
    return msgspec.structs.replace(
        scenario,
        pending_commands=rng.choice((2, 8, 1_000)),
        pending_bytes=rng.choice((1_000, 3_000, 1_000_000)),
        peer_bytes=rng.choice((1_000, 5_000, 20_000)),
    )


def _draw_clusters(seed: int) -> tuple[int, int, tuple[str, ...]]:
    """Draw the number of clusters, how many are created at run time, and the faults aimed at one cluster."""
    rng = _rng(seed, "clusters")
    some = rng.choice((2, 2, 3, 4)) if rng.random() < SEVERAL_RATE else 1
    created = rng.randrange(some)
    faults = tuple(name for name in CLUSTER_FAULTS if some > 1 and rng.random() < 0.5)
    if rng.random() < MEMBERS_RATE:
        faults += ("members",)
    if created and rng.random() < 0.5:
        faults += ("recreate",)
    return some, created, faults


def _draw_objects(seed: int, clusters: int) -> tuple[str, ...]:
    """Draw the kind of each cluster's objects; empty if all have lists."""
    rng = _rng(seed, "objects")
    others = [kind for kind in KINDS if kind != LISTS]
    return tuple(rng.choice(others) for _ in range(clusters)) if rng.random() < OTHERS_RATE else ()


def _draw_in_process_clients(seed: int) -> int:
    """Draw how many clients live in the processes of nodes."""
    rng = _rng(seed, "inside")
    return rng.choice((1, 1, 2, 3)) if rng.random() < IN_PROCESS_RATE else 0
