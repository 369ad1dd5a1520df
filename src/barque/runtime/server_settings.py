"""What a server is told at its start: by its record, the node, and for its cluster (CFG-01, CFG-04).

All of them are read at each start of a server, so a change of the configuration counts when the node, or the
server, starts again.
"""

from typing import Any

import msgspec

from barque.config import LogConfig, ServerSettings, SnapshotsConfig, TimeConfig
from barque.core.packing import packing_named
from barque.core.state import ServerConfig
from barque.log.snapshot_config import SnapshotConfig
from barque.log.storage import StorageConfig
from barque.machine.machine import Machine
from barque.runtime.server_record import ServerRecord
from barque.types import ServerId


def server_config(
    record: ServerRecord,
    node: str,
    machine: Machine[Any],
    times: TimeConfig,
    log: LogConfig,
    snapshots: SnapshotsConfig,
    machine_upgrade_strategy: str,
    own: ServerSettings | None,
) -> ServerConfig:
    """The core's configuration of a server. `own` are the settings for its cluster, if there are any.

    Raises `ConfigurationError` if they do not fit together.
    """
    config = ServerConfig(
        id=ServerId(record.name, node),
        uid=record.uid,
        cluster_name=record.cluster,
        cluster_id=record.cluster_id,
        membership=record.membership,
        initial_members=record.initial_members,
        min_vote_position=record.joined_at,
        initial_uids={m: u for m in record.initial_members if (u := record.initial_uids.get(str(m)))},
        machine=machine,
        machine_args=record.arguments,
        machine_upgrade_strategy=machine_upgrade_strategy,
        initial_machine_version=record.initial_machine_version,
        skipped=frozenset(record.skipped),
        await_condition_timeout_ms=times.await_condition_timeout_ms,
        transfer_timeout_ms=2 * times.election_multiplier * times.broadcast_time_ms,
        catch_up_timeout_ms=times.tick_ms,
        wal_down_timeout_ms=times.wal_down_timeout_ms,
        receive_snapshot_timeout_ms=snapshots.receive_timeout_ms,
        max_pipeline_count=log.max_pipeline_count,
        max_pipeline_bytes=log.max_pipeline_bytes,
        max_append_entries_rpc_batch_size=log.max_append_entries_rpc_batch_size,
        max_append_entries_rpc_bytes=log.max_append_entries_rpc_bytes,
        low_priority_commands_flush_size=log.low_priority_commands_flush_size,
        snapshot_silent_ticks_max=snapshots.silence_ticks_max,
        snapshot_backoff_ms=snapshots.backoff_ms,
        snapshot_packing=packing_named(snapshots.compression),
    )
    if own is None:
        return config
    given = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not msgspec.UNSET}
    return msgspec.structs.replace(config, **given)


def storage_config(log: LogConfig, snapshots: SnapshotsConfig) -> StorageConfig:
    """The settings of a node as its storage takes them."""
    recovery = snapshots.recovery_min_interval
    return StorageConfig(
        wal_max_size_bytes=log.wal_max_size_bytes,
        wal_max_entries=None if log.wal_max_entries == "unlimited" else log.wal_max_entries,
        wal_writer=log.writer,
        wal_prefill=log.prefill,
        wal_flush_bytes_max=log.wal_flush_bytes_max,
        disk_free_min_bytes=log.disk_free_min_bytes,
        segment_max_entries=log.segment_max_entries,
        segment_max_size_bytes=log.segment_max_size_bytes,
        retained_bytes_max=log.retained_bytes_max,
        readers_bytes_max=log.readers_bytes_max,
        snapshots=SnapshotConfig(
            min_snapshot_interval=snapshots.min_interval,
            snapshot_bytes=snapshots.interval_bytes,
            min_checkpoint_interval=snapshots.checkpoint_min_interval,
            max_checkpoints=snapshots.checkpoints_max,
            min_recovery_checkpoint_interval=0 if recovery == "never" else recovery,
            chunk_bytes=snapshots.chunk_size_bytes,
        ),
    )
