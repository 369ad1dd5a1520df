"""Clusters that the configuration names: a node forms its members of them when it starts."""

import logging
import random

from barque.config import ClusterConfig, NodeConfig
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_record import configured_cluster_id
from barque.runtime.system import System
from barque.types import ServerId

logger = logging.getLogger("barque.node")


def form_configured_clusters(config: NodeConfig, system: System, rng: random.Random) -> None:
    """Start the servers that the configuration asks for and that are not here yet."""
    for cluster in config.clusters:
        members = tuple(ServerId(cluster.name, n) for n in cluster.members or sorted(config.nodes))
        if ServerId(cluster.name, config.name) not in members:
            continue
        process = system.processes.get(cluster.name) or _create(config, system, cluster, members)
        if process is not None and process.failure is None and process.server.log.next_index() == 1:
            # A new server waits to be asked (ELEC-20); here the configuration asks it. The random delay keeps
            # nodes that start together from campaigning together.
            after_s = rng.uniform(0.0, config.time.broadcast_time_ms * 3 / 1000)
            system.server_timers.campaign_after(process, after_s)


def _create(
    config: NodeConfig, system: System, cluster: ClusterConfig, members: tuple[ServerId, ...]
) -> ServerProcess | None:
    cluster_id = configured_cluster_id(config.installation, cluster.name)
    if _was_deleted(config.name, system, cluster.name, cluster_id):
        return None
    name, machine, arguments = cluster.name, cluster.machine, cluster.arguments
    record = system.plan(
        name,
        name,
        machine,
        arguments,
        members,
        cluster_id=cluster_id,
        initial_machine_version=cluster.initial_machine_version,
    )
    return system.create(record)


def _was_deleted(node: str, system: System, cluster: str, cluster_id: str) -> bool:
    """Whether a configured cluster, or our member of it, was deleted on purpose; log what to do then."""
    tombstone = system.directory.last_tombstone(cluster_id)
    if tombstone is None:
        return False
    if tombstone.whole_cluster:
        what = f"was deleted and is not formed again ({tombstone.reason})"
        cure = f"create it again with: barque cluster create {cluster}"
    else:
        what = f"no longer has a member here: it was removed ({tombstone.reason})"
        cure = f"add one again with: barque member add {cluster} {node}"
    logger.warning(
        "node %s: cluster %r of the configuration %s. Remove it from the configuration; or %s",
        node,
        cluster,
        what,
        cure,
    )
    return True
