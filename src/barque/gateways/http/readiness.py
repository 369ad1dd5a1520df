"""May this node be given work? It may once its members have recovered and know their leaders."""

import asyncio

from barque.gateways.http.metrics import SLICE
from barque.runtime.node import Node

REASONS_MAX = 20


async def reasons_against(node: Node) -> tuple[int, list[str]]:
    """How many things speak against it, and the first of them; none on a node that is ready."""
    reasons: list[str] = []
    count = 0
    if node.system.failure is not None:
        reasons.append(node.system.failure)
        count += 1
    processes = node.servers.all()
    for first in range(0, len(processes), 10 * SLICE):
        for process in processes[first : first + 10 * SLICE]:
            server = process.server
            if process.ended or (process.failure is None and server.leader_id is not None):
                continue
            count += 1
            if len(reasons) < REASONS_MAX:
                why = process.failure or f"{process.state}, knows no leader"
                reasons.append(f"{server.id} of {server.cfg.cluster_name}: {why}")
        await asyncio.sleep(0)
    return count, reasons
