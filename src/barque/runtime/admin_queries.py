"""Reads that are asked one by one: with and at a position, of a chosen member; facts (QRY-16, QRY-18).

They are administrative verbs, not the road of a client's many reads (`requests`): each costs a task, and may
wait until its member has applied what the reader has seen elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from barque.core.overview import members_info, overview
from barque.core.queries import describe, machine_query
from barque.core.roles import RaftState
from barque.core.state import Server
from barque.errors import (
    BarqueError,
    ConfigurationError,
    InvalidCommand,
    NotLeader,
    QueryTimeout,
    Refused,
    UnknownCluster,
)
from barque.runtime.clock import Clock
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.system import System
from barque.transport.answers import fail
from barque.types import IndexTerm, Membership, ServerId

Verb = Callable[[dict[str, Any]], Awaitable[Any]]
Ask = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
LeaderOf = Callable[[str, dict[str, Any]], Awaitable[ServerId]]

_SHARE = 0.8
"""A node answers within this share of the caller's time, so that the answer arrives."""


class PositionWaits:
    """The reads that wait until their member has applied an entry. The node calls `look` after its turns."""

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[None], tuple[ServerProcess, IndexTerm]] = {}

    async def applied(self, process: ServerProcess, position: IndexTerm, timeout_s: float) -> None:
        """Wait for it. Raises `QueryTimeout`, or `Refused` as `has_applied` does."""
        if has_applied(process, position):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[future] = (process, position)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except BarqueError:
            raise
        except TimeoutError:
            applied = process.server.last_applied
            text = f"{process.server.id} has applied entry {applied}, and not yet entry {position.index}"
            raise QueryTimeout(text) from None
        finally:
            self.waiting.pop(future, None)

    def look(self) -> None:
        """Wake the reads that can go on, or never will."""
        for future, (process, position) in list(self.waiting.items()):
            if future.done():
                continue
            try:
                if has_applied(process, position):
                    future.set_result(None)
            except BarqueError as error:
                fail(future, error)


def has_applied(process: ServerProcess, position: IndexTerm) -> bool:
    """Whether the member has applied the entry at this position (QRY-16).

    Raises `Refused` if it never will: another entry is committed there, or only a snapshot stands for it, so
    that its term is not known; `UnknownCluster` if the member does not run.
    """
    server = process.server
    if process.failure is not None:
        raise UnknownCluster(f"{server.id} does not run: {process.failure}")
    if server.last_applied < position.index:
        return False
    term = server.log.fetch_term(position.index)
    if term == position.term:
        return True
    if term is None:
        text = (
            f"a snapshot stands for entry {position.index}, so its term is not known; name a later position"
        )
    else:
        text = f"entry {position.index} is of term {term}: the entry of term {position.term} was replaced"
    raise Refused(f"{server.id}: {text}")


class QueryAdmin:
    """The reading verbs of one node. `ask_at` calls another node; `leader_of` waits for a leader."""

    def __init__(
        self,
        name: str,
        nodes: tuple[str, ...],
        ask_at: Ask,
        leader_of: LeaderOf,
        system: System,
        router: RequestRouter,
        clock: Clock,
    ) -> None:
        self.waits = PositionWaits()
        self._name = name
        self._nodes = nodes
        self._ask_at = ask_at
        self._leader_of = leader_of
        self._system = system
        self._router = router
        self._clock = clock
        self.verbs: dict[str, Verb] = {"query": self.query, "state_query": self.state_query}

    async def query(self, arguments: dict[str, Any]) -> Any:
        """Ask one member's machine; answer its value, the position of the state, and the leader."""
        level, cluster = str(arguments.get("level") or "local"), str(arguments["cluster"])
        deadline = self._clock.monotonic() + int(arguments.get("timeout_ms", 5_000)) / 1000 * _SHARE
        node = await self._node_of(level, cluster, arguments)
        if node != self._name:
            return await self._ask_at(node, "query", {**arguments, "node": node})
        process = self._member_here(cluster)
        applied = arguments.get("applied")
        if applied is not None:
            position = msgspec.convert(applied, IndexTerm)
            await self.waits.applied(process, position, max(0.0, deadline - self._clock.monotonic()))
        server = process.server
        if level == "leader" and server.raft_state is not RaftState.LEADER:
            raise NotLeader(f"{server.id} leads {cluster!r} no longer; ask again", server.leader_id)
        process.counters.local_queries += 1
        try:
            position, value = machine_query(server, msgspec.msgpack.encode(arguments.get("query")))
        except Exception as error:  # the query's own; it harms nothing else (QRY-17)
            raise InvalidCommand(describe(error)) from error
        leader = server.leader_id or self._router.leader_of(cluster)
        return {
            "value": value,
            "position": [position.index, position.term],
            "server": str(server.id),
            "leader": None if leader is None else str(leader),
        }

    async def _node_of(self, level: str, cluster: str, arguments: dict[str, Any]) -> str:
        node = arguments.get("node")
        if level not in ("local", "leader"):
            raise InvalidCommand(f"unknown level {level[:64]!r} of a read with a position: local or leader")
        if node is None:
            return self._name if level == "local" else (await self._leader_of(cluster, arguments)).node
        if node not in self._nodes:
            raise ConfigurationError(f"node {str(node)[:64]!r} is not among the nodes of this installation")
        return str(node)

    def _member_here(self, cluster: str) -> ServerProcess:
        process = self._system.servers.member_of(cluster)
        if process is None:
            why = self._system.servers.why_not_here(cluster)
            raise UnknownCluster(why or f"no member of {cluster!r} runs on node {self._name}")
        return process

    async def state_query(self, arguments: dict[str, Any]) -> Any:
        """One fact about the member on `node`, or here (QRY-18)."""
        kind, node = str(arguments.get("kind")), str(arguments.get("node") or self._name)
        fact = FACTS.get(kind)
        if fact is None:
            raise InvalidCommand(f"unknown fact {kind[:64]!r}; there are {', '.join(FACTS)}")
        if node not in self._nodes:
            raise ConfigurationError(f"node {node[:64]!r} is not among the nodes of this installation")
        if node != self._name:
            return await self._ask_at(node, "state_query", arguments)
        return {"value": fact(self._member_here(str(arguments["cluster"])).server)}


def _text(server: ServerId | None) -> str | None:
    return None if server is None else str(server)


def _info(server: Server) -> dict[str, Any]:
    return {str(member): facts for member, facts in members_info(server).items()}


FACTS: dict[str, Callable[[Server], Any]] = {
    "all": lambda server: {**overview(server), "machine_state": server.machine_state},
    "overview": overview,
    "machine": lambda server: server.machine_state,
    "voters": lambda server: [
        str(member) for member, peer in server.cluster.items() if peer.membership is Membership.VOTER
    ],
    "leader": lambda server: _text(server.leader_id),
    "members": lambda server: [str(member) for member in server.cluster],
    "members_info": _info,
    "initial_members": lambda server: [str(member) for member in server.cfg.initial_members],
    "last_applied": lambda server: server.last_applied,
}
"""Ra's kinds of facts about a server."""
