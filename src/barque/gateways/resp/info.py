"""INFO: what the gateway itself knows. The node adds its own sections."""

from typing import Any

from barque.gateways.resp.limits import RespCounters, RespLimits
from barque.gateways.resp.session import REDIS_VERSION


def gateway_sections(
    counters: RespCounters, limits: RespLimits, port: int, now_ms: int
) -> dict[str, dict[str, Any]]:
    """Sections by title, with the names that Redis uses for these facts; nothing is made up."""
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "standalone",
            "tcp_port": port,
            "server_time_usec": now_ms * 1000,
        },
        "Clients": {
            "connected_clients": counters.current,
            "maxclients": limits.connections_max,
            "blocked_clients": 0,
        },
        "Memory": {
            "maxmemory": 0,
            "maxmemory_policy": "noeviction",
        },
        "Persistence": {
            "loading": 0,
            "aof_enabled": 1,
            "aof_rewrite_in_progress": 0,
            "rdb_bgsave_in_progress": 0,
        },
        "Stats": {
            "total_connections_received": counters.accepted,
            "total_commands_processed": counters.commands,
            "rejected_connections": counters.refused,
            "protocol_errors": counters.protocol_errors,
            "slow_readers": counters.slow_readers,
            "evicted_clients": counters.evicted,
            "wrong_passwords": counters.wrong_passwords,
            "evicted_keys": 0,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": 0},
    }
