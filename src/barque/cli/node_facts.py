"""What INFO of the Redis protocol shows of the node and of its member of the cluster."""

import os
import platform
import resource
from pathlib import Path
from typing import Any

from barque.cli.version import installed
from barque.runtime.node import Node


def info_sections(node: Node, cluster: str) -> dict[str, dict[str, Any]]:
    """Sections by title. What this node cannot know is left out: without a member here, the keyspace."""
    leader = node.requests.leader_of(cluster)
    uptime_s = int(node.reporter.uptime_s)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    sections: dict[str, dict[str, Any]] = {
        "Server": {
            "barque_version": installed("barque") or "unknown",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "arch_bits": 64 if platform.architecture()[0] == "64bit" else 32,
            "process_id": os.getpid(),
            "uptime_in_seconds": uptime_s,
            "uptime_in_days": uptime_s // 86400,
        },
        "Memory": _memory(usage.ru_maxrss * 1024),
        "CPU": {"used_cpu_sys": f"{usage.ru_stime:.6f}", "used_cpu_user": f"{usage.ru_utime:.6f}"},
        "Barque": {"node": node.name, "cluster": cluster, "leader": str(leader) if leader else ""},
    }
    process = node.system.servers.member_of(cluster)
    if process is not None:
        server = process.server
        facts = server.machine.overview(server.machine_state)
        if "keys" in facts:
            sections["Keyspace"] = {}
            if facts["keys"]:
                sections["Keyspace"]["db0"] = f"keys={facts['keys']},expires={facts['expiries']}"
            sections["Stats"] = {"expired_keys": facts["expired_total"]}
        sections["Barque"] |= {
            "role": process.state,
            "term": server.current_term,
            "commit_index": server.commit_index,
            "last_applied": server.last_applied,
            "machine_version": server.effective_machine_version,
        }
    return sections


def _memory(peak: int) -> dict[str, Any]:
    """The process as the system sees it; an allocator's own count is not to be had in Python."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return {"used_memory_peak": peak, "used_memory_peak_human": _human(peak)}
    rss = pages * resource.getpagesize()
    return {
        "used_memory": rss,
        "used_memory_human": _human(rss),
        "used_memory_rss": rss,
        "used_memory_rss_human": _human(rss),
        "used_memory_peak": max(peak, rss),
        "used_memory_peak_human": _human(max(peak, rss)),
        "total_system_memory": os.sysconf("SC_PHYS_PAGES") * resource.getpagesize(),
    }


def _human(size: float) -> str:
    """A size as Redis writes it."""
    for unit in ("B", "K", "M"):
        if size < 1024:
            return f"{size:.2f}{unit}" if unit != "B" else f"{int(size)}B"
        size /= 1024
    return f"{size:.2f}G"
