"""Verbs on single servers: start, stop, start again, delete, and facts about them (API-05 to API-09, API-26).

Each verb works on the node that its argument `node` names, or here; a verb for another node is passed on. A
server that was stopped keeps its files, and its cluster goes on without it.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from barque.core.overview import metrics
from barque.errors import ConfigurationError, UnknownCluster
from barque.runtime.directory import Directory, new_uid
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_record import check_name
from barque.runtime.server_table import Ending
from barque.runtime.system import System

Verb = Callable[[dict[str, Any]], Awaitable[Any]]
Ask = Callable[[str, str, dict[str, Any]], Awaitable[Any]]

_HAND_OVER_S = 1.0
_UIDS_TRIED = 100


class ServerAdmin:
    """The verbs on servers of one node. `ask_at` calls a verb on another node.

    `create` is `Admin.start_server`, the verb of nodes; `hand_over` moves leaderships of servers away.
    """

    def __init__(
        self,
        name: str,
        nodes: tuple[str, ...],
        ask_at: Ask,
        system: System,
        create: Verb,
        hand_over: Callable[[list[ServerProcess], float], Awaitable[None]],
        rng: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._name = name
        self._nodes = nodes
        self._ask_at = ask_at
        self._system = system
        self._servers = system.servers
        self._create = create
        self._hand_over = hand_over
        self._rng = rng
        self._wake = wake
        self.verbs: dict[str, Verb] = {
            verb: self._on_node(verb, work)
            for verb, work in {
                "server_start": self._start,
                "server_restart": self._restart,
                "server_stop": self._stop,
                "server_keep_data": self._keep_data,
                "force_delete_server": self._force_delete,
                "trigger_compaction": self._compact,
                "initial_members": self._initial_members,
                "key_metrics": self._key_metrics,
                "new_uid": self._new_uid,
            }.items()
        }

    def _on_node(self, verb: str, work: Verb) -> Verb:
        async def serve(arguments: dict[str, Any]) -> Any:
            node = str(arguments.get("node") or self._name)
            if node not in self._nodes:
                known = ", ".join(sorted(self._nodes))
                raise ConfigurationError(
                    f"node {node!r} is not among the nodes of this installation ({known})"
                )
            if node != self._name:
                return await self._ask_at(node, verb, arguments)
            return await work(arguments)

        return serve

    def _here(self, arguments: dict[str, Any]) -> ServerProcess:
        """The member here, whether it runs or not. Raises `UnknownCluster`."""
        cluster = str(arguments["cluster"])
        process = self._servers.here(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} is on node {self._name}")
        return process

    # --- lives -------------------------------------------------------------------------

    async def _start(self, arguments: dict[str, Any]) -> Any:
        """Start a new server of the cluster of that name (API-05); its members are told to each alike."""
        cluster, uid = str(arguments["cluster"]), arguments.get("uid")
        members = [str(member) for member in arguments["members"]]
        own = [m for m in members if m.rpartition("@")[2] == self._name]
        if len(own) != 1:
            raise ConfigurationError(f"members {members}: node {self._name} must be among them, once")
        name = own[0].rpartition("@")[0] or cluster
        request = {
            "cluster": cluster,
            "members": members,
            "machine": arguments["machine"],
            "arguments": arguments.get("arguments"),
            "membership": arguments.get("membership"),
            "initial_machine_version": arguments.get("initial_machine_version"),
            "uids": {} if uid is None else {f"{name}@{self._name}": str(uid)},
        }
        await self._create(request)
        process = self._here(arguments)
        return {"server": str(process.server.id), "uid": process.uid}

    async def _restart(self, arguments: dict[str, Any]) -> Any:
        """Start the server here again (API-06)."""
        before = self._here(arguments)
        process = self._system.restart(before.server.id.name)
        self._wake()
        return _state(process, changed=process is not before)

    async def _stop(self, arguments: dict[str, Any]) -> Any:
        """Hand its leadership over, and stop the server here (API-07)."""
        process = self._here(arguments)
        was_running = process.failure is None
        if was_running:
            await self._hand_over([process], _HAND_OVER_S)
        if self._servers.here(str(arguments["cluster"])) is process:
            self._system.stop(process)
        self._wake()
        return _state(process, changed=was_running)

    async def _keep_data(self, arguments: dict[str, Any]) -> Any:
        """Whether the files of the server here stay when its cluster removes it (API-12)."""
        process, keep = self._here(arguments), bool(arguments.get("keep"))
        self._system.keep_data(process.server.id.name, keep=keep)
        return _state(process, changed=True)

    async def _force_delete(self, arguments: dict[str, Any]) -> Any:
        """Delete the member here and its data, whatever the cluster says (API-08).

        For a ghost whose removal too few nodes are left to confirm. The cluster is not told.
        """
        cluster = self._here(arguments).server.cfg.cluster_name
        found = [p for p in self._servers.all() if p.server.cfg.cluster_name == cluster]
        for process in found:
            self._system.keep_data(process.server.id.name, keep=False)
            self._servers.finish(process, Ending("an operator has deleted it", delete=True))
        return {"members": [str(process.server.id) for process in found]}

    async def _compact(self, arguments: dict[str, Any]) -> Any:
        """Let the member here compact its segments now (API-27); whether that has begun."""
        process = self._running(arguments)
        begun = self._system.storage.segment_writer.compact(process.uid)
        return {"server": str(process.server.id), "begun": begun}

    def _running(self, arguments: dict[str, Any]) -> ServerProcess:
        process = self._here(arguments)
        if process.failure is not None:
            raise UnknownCluster(f"{process.server.id} does not run: {process.failure}")
        return process

    # --- facts, from a server that need not run ------------------------------------------

    async def _initial_members(self, arguments: dict[str, Any]) -> Any:
        """The members that the server here was started with (MEMB-16, API-20)."""
        process = self._here(arguments)
        record = self._system.directory.get(process.server.id.name)
        return {"server": str(process.server.id), "members": [str(m) for m in record.initial_members]}

    async def _key_metrics(self, arguments: dict[str, Any]) -> Any:
        """A few figures; the server need not run, and is not asked (API-26, OVW-03)."""
        process = self._servers.here(str(arguments["cluster"]))
        if process is None:
            return {"node": self._name, "state": "unknown"}
        runs, server = process.failure is None, process.server
        figures = metrics(server)
        return {
            "node": self._name,
            "server": str(server.id),
            "state": process.state if runs else "noproc",
            "membership": str(server.membership) if runs else None,
            "term": figures.term,
            "snapshot_index": figures.snapshot_index,
            "last_applied": max(figures.last_applied, server.persisted_last_applied),
            "commit_index": figures.commit_index,
            "last_index": figures.last_index,
            "last_written_index": server.log.last_written().index,
            "commit_latency_ms": figures.commit_latency_ms,
        }

    async def _new_uid(self, arguments: dict[str, Any]) -> Any:
        """Draw a uid that no server here has or had (API-28)."""
        name = str(arguments["name"])
        check_name("server", name)
        return {"uid": fresh_uid(self._system.directory, name, self._rng)}


def fresh_uid(directory: Directory, name: str, rng: random.Random) -> str:
    """A uid that is not in the directory."""
    used = directory.uids()
    return next(uid for uid in (new_uid(name, rng) for _ in range(_UIDS_TRIED)) if uid not in used)


def _state(process: ServerProcess, *, changed: bool) -> dict[str, Any]:
    return {"server": str(process.server.id), "state": process.state, "changed": changed}
