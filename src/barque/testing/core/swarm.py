"""What a seed of a core world draws: its settings, its faults and its length.

Two in three seeds are long. The third is *harsh*: a few virtual seconds with the shortest times, the smallest
settings and a fault every few milliseconds, because rare defects hide in narrow windows. Three in ten seeds
also change members, and two in three take snapshots.
"""

import random

import msgspec

from barque.config import TimeConfig
from barque.testing.core.lists import SnapshotWishes
from barque.testing.core.world import WorldConfig

CORE_FAULTS = (
    *("loss", "duplicates", "reordering", "partition", "one_way", "flapping", "disconnect", "crash"),
    *("crash_all", "crash_leader", "pause", "transfer", "election", "coup", "wal_failed", "suspicion"),
)
"""The faults of a world. The first three hold for the whole run."""
STEADY = CORE_FAULTS[:3]
MEMBER_FAULTS = ("leave", "enter", "change")
"""Members are removed, new servers take their places, and memberships change."""
HARSH_SHARE = 1 / 3
MEMBERS_SHARE = 0.3
SNAPSHOTS_SHARE = 2 / 3
SLICES_SHARE = 1 / 4
"""The share of worlds whose members apply an entry or two at a time."""
_SPANS = ((0.0001, 0.0005), (0.0005, 0.005), (0.002, 0.05))
"""The latencies to draw from, of networks and disks."""


class CoreScenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a world. Times in virtual seconds."""

    world: WorldConfig = WorldConfig()
    duration_s: float = 20.0
    faults: tuple[str, ...] = ()
    pace_s: float = 0.5
    fault_s: float = 0.5
    operations_a_s: float = 20.0
    read_share: float = 0.4
    anyone: float = 0.1  # the share of operations sent to any member, not to a leader


def draw_core_scenario(seed: int) -> CoreScenario:
    """Draw the scenario of this seed."""
    rng = random.Random(f"{seed}/core")  # noqa: S311  # repeatable on purpose
    scenario = _draw_harsh(rng) if rng.random() < HARSH_SHARE else _draw_long(rng)
    if rng.random() < MEMBERS_SHARE:
        scenario = msgspec.structs.replace(scenario, faults=scenario.faults + MEMBER_FAULTS)
    world = _draw_snapshots(random.Random(f"{seed}/core snapshots"), scenario.world)  # noqa: S311
    slices = random.Random(f"{seed}/core slices")  # noqa: S311
    if slices.random() < SLICES_SHARE:
        settings = world.settings | {"apply_entries_max": slices.choice((1, 2))}
        world = msgspec.structs.replace(world, settings=settings)
    return msgspec.structs.replace(scenario, world=world)


def _draw_snapshots(rng: random.Random, world: WorldConfig) -> WorldConfig:
    """Two in three worlds take snapshots, at tiny intervals, and have clocks that differ."""
    if rng.random() > SNAPSHOTS_SHARE:
        return world
    settings = world.settings | {
        # The patience of both ends must be longer than a chunk and its answer can take.
        "snapshot_silent_ticks_max": 2 + rng.choice((300, 1_000)) // world.time.tick_ms,
        "snapshot_backoff_ms": rng.choice((20, 200)),
        "receive_snapshot_timeout_ms": rng.choice((300, 1_500)),
    }
    wishes = SnapshotWishes(
        every=rng.choice((0, 1, 3, 10, 40)),
        checkpoint_every=rng.choice((0, 0, 2, 7)),
        promote_every=rng.choice((0, 5, 20)),
        back=rng.choice((0, 1, 6)),
        late=rng.random() < 0.3,
        live_every=rng.choice((0, 0, 4, 9)),
        chunk_bytes=rng.choice((50, 200, 1 << 20)),
    )
    return msgspec.structs.replace(
        world, settings=settings, snapshots=wishes, skew_ms=rng.choice((0, 50, 3_000))
    )


def _draw_long(rng: random.Random) -> CoreScenario:
    heartbeat_ms = rng.choice((20, 50, 100))
    times = TimeConfig(
        broadcast_time_ms=rng.choice((5, 20, 50, 100)),
        election_multiplier=rng.choice((2, 5)),
        heartbeat_interval_ms=heartbeat_ms,
        detector_poll_ms=heartbeat_ms * rng.choice((3, 5, 10)),
        tick_ms=rng.choice((10, 100, 500)),
    )
    share = rng.choice((0.15, 0.3, 0.6))
    batch = rng.choice((1, 2, 4096))
    settings = {
        "max_append_entries_rpc_batch_size": batch,
        # Each refusal resends a whole pipeline: with RPCs of one entry, more messages than a run can bear.
        "max_pipeline_count": rng.choice((1, 2, 4, 16 if batch < 4096 else 16384)),
        "low_priority_commands_flush_size": rng.choice((1, 3)),
        "await_condition_timeout_ms": rng.choice((50, 500, 3000)),
        "catch_up_timeout_ms": rng.choice((20, 200)),
        "wal_down_timeout_ms": rng.choice((50, 1000)),
    }
    faults = _draw_faults(rng, share)
    return CoreScenario(
        world=_draw_world(rng, times, settings, faults),
        duration_s=rng.uniform(5.0, 20.0),
        faults=faults,
        pace_s=rng.choice((0.1, 0.3, 1.0)),
        fault_s=rng.choice((0.02, 0.2, 1.0)),
        # With a pipeline of one, a slow link carries only a dozen entries a second.
        operations_a_s=min(rng.choice((5.0, 20.0, 60.0)), 5.0 * settings["max_pipeline_count"]),
        read_share=rng.choice((0.2, 0.5)),
    )


def _draw_harsh(rng: random.Random) -> CoreScenario:
    times = TimeConfig(
        broadcast_time_ms=5,
        election_multiplier=2,
        heartbeat_interval_ms=20,
        detector_poll_ms=rng.choice((60, 100)),
        tick_ms=rng.choice((10, 50)),
    )
    settings = {
        "max_append_entries_rpc_batch_size": rng.choice((1, 1, 2)),
        "max_pipeline_count": rng.choice((1, 2, 4)),
        "low_priority_commands_flush_size": 1,
        "await_condition_timeout_ms": rng.choice((20, 50)),
        "catch_up_timeout_ms": 20,
        "wal_down_timeout_ms": 50,
    }
    faults = _draw_faults(rng, 0.6)
    return CoreScenario(
        world=_draw_world(rng, times, settings, faults),
        duration_s=rng.uniform(3.0, 6.0),
        faults=faults,
        pace_s=rng.choice((0.02, 0.05)),
        fault_s=rng.choice((0.01, 0.05)),
        operations_a_s=rng.choice((20.0, 60.0)),
        read_share=rng.choice((0.2, 0.5)),
    )


def _draw_faults(rng: random.Random, share: float) -> tuple[str, ...]:
    return tuple(name for name in CORE_FAULTS if rng.random() < share) or (rng.choice(CORE_FAULTS),)


def _draw_world(
    rng: random.Random, times: TimeConfig, settings: dict[str, int], faults: tuple[str, ...]
) -> WorldConfig:
    loss, duplicates, reordering = (
        rng.choice((0.02, 0.1, 0.3)) if fault in faults else 0.0 for fault in STEADY
    )
    return WorldConfig(
        nodes=rng.choice((3, 3, 3, 5)),
        time=times,
        latency_s=rng.choice(_SPANS),
        sync_s=rng.choice(_SPANS),
        meta_sync_s=rng.choice(_SPANS),
        silence_s=rng.choice((0.0, 0.3, 2.0)),
        loss_rate=loss,
        duplicate_rate=duplicates,
        reorder_rate=reordering,
        settings=settings,
    )
