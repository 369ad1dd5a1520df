"""The asyncio client (API-13 to API-24). Everything has a deadline, every outcome a type."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from barque.client.connection import Connection, Link
from barque.client.outcomes import Batch, Notification, Notifications
from barque.client.routing import Connect, Router
from barque.core.entries import COMMAND_BYTES_MAX
from barque.errors import InvalidCommand, Stopped
from barque.transport.client_link import ClientLink
from barque.types import Index, IndexTerm, Membership, ReplyMode, ServerId, Term

_encode = msgspec.msgpack.encode


class Requests(Protocol):
    """What carries a client's requests: connections (`Router`), or a session inside a node's process."""

    def now(self) -> float:
        """Seconds, on the loop's clock."""

    async def connect(self, timeout_s: float) -> None:
        """Reach a node. Raises `NoLeader` or `Unauthenticated`."""

    async def close(self) -> None:
        """End everything; requests that wait are told."""

    def end(self, reason: str) -> None:
        """Likewise, at once."""

    def batch(self, key: Hashable) -> Batch | None:
        """The batch of this kind that is being filled in this turn of the loop."""

    def open(self, key: Hashable, batch: Batch) -> Batch:
        """Begin a batch, which leaves when this turn's requests do."""


OnEvent: TypeAlias = Callable[[str, Any], None]


class Client:
    """Talks to the clusters of one installation through any of its nodes.

    Args:
        nodes: addresses (`host:port`) of one or more nodes; the others are found by asking.
        secret: the installation's shared secret.
        installation: its name, as in the nodes' configuration.
        timeout_s: for every request that is given no timeout of its own, in seconds.

    `async with Client([...], secret=...) as client:` connects on entry. All methods belong to
    the loop that entered; cancelling one stops the waiting, not a command that was sent.

    Commands of one client to one cluster are applied in the order of the calls, except across a
    change of leader. Errors say whether it happened: `Refused` and its kinds: no;
    `OutcomeUnknown`: perhaps (it is never sent again); `QueryTimeout`: a read, which changes nothing.

    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        secret: str | bytes,
        installation: str = "barque",
        timeout_s: float = 5.0,
    ) -> None:
        key = secret.encode() if isinstance(secret, str) else secret

        async def connect(
            address: str, connection: Connection, on_closed: Callable[[str], None]
        ) -> tuple[Link, str]:
            link = await ClientLink.connect(
                address, installation, key, on_answers=connection.on_answers, on_closed=on_closed
            )
            return link, link.node

        self._init(lambda on_event: Router(connect, nodes, on_event), timeout_s)

    def _init(self, make_requests: Callable[[OnEvent], Requests], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._notifications = Notifications()
        self._router = make_requests(self._on_event)
        self._events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._open = False

    @classmethod
    def over(cls, connect: Connect, *, timeout_s: float = 5.0) -> "Client":
        """Make a client over another kind of link."""
        return cls.carried_by(lambda on_event: Router(connect, ["inside"], on_event), timeout_s=timeout_s)

    @classmethod
    def carried_by(cls, make_requests: Callable[[OnEvent], Requests], *, timeout_s: float = 5.0) -> "Client":
        """Make a client whose requests something else than connections carries, such as a node's session."""
        client = cls.__new__(cls)
        client._init(make_requests, timeout_s)
        return client

    # --- life --------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the first node that answers.

        Raises `NoLeader` if none does in time, `Unauthenticated` for a wrong secret.
        """
        self._open = True
        self._notifications.begin()
        await self._router.connect(self._timeout_s)

    async def close(self) -> None:
        """End all connections. What waits ends with `Stopped` or `OutcomeUnknown`."""
        self._open = False
        await self._router.close()
        self._say_over("the client was closed")

    def end(self, reason: str) -> None:
        """Likewise, at once, for the owner of the links: `reason` is what those who wait are told."""
        self._open = False
        self._router.end(reason)
        self._say_over(reason)

    def _say_over(self, reason: str) -> None:
        """Nobody shall wait for news that cannot come."""
        self._notifications.end(reason)
        self._events.put_nowait(None)

    async def __aenter__(self) -> "Client":
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- commands ----------------------------------------------------------------------

    async def process_command(
        self,
        cluster: str,
        command: Any,
        *,
        timeout_s: float | None = None,
        reply_type: Any = Any,
    ) -> Any:
        """Commit one command and return the machine's reply, as `reply_type` if given.

        Raises `Refused` (it did not happen), `InvalidCommand` (the machine does not know it), or
        `OutcomeUnknown` (it may have happened).
        """
        reply = await self._ask(
            "command", cluster, encode(command), timeout_s, mode=ReplyMode.AWAIT_CONSENSUS
        )
        return reply if reply_type is Any else msgspec.convert(reply, reply_type)

    async def append_command(
        self, cluster: str, command: Any, *, timeout_s: float | None = None
    ) -> IndexTerm:
        """Return as soon as the leader has the command in its log (`after_log_append`, CMD-09).

        It is neither durable nor committed then, and may yet be lost with this leader.
        """
        index, term = await self._ask(
            "command", cluster, encode(command), timeout_s, mode=ReplyMode.AFTER_LOG_APPEND
        )
        return IndexTerm(Index(index), Term(term))

    def pipeline_command(
        self,
        cluster: str,
        command: Any,
        correlation: Any = None,
        *,
        priority: str = "low",
        timeout_s: float | None = None,
    ) -> None:
        """Send a command without waiting (API-14); its outcome comes from `notifications`.

        With `correlation=None` nobody is told of it. `priority` is `low` or `normal` (CMD-06).
        """
        if priority not in ("low", "normal"):
            raise InvalidCommand(f"priority is low or normal, not {priority!r}")
        mute = correlation is None
        payload, key = encode(command), (cluster, priority, mute, timeout_s)
        batch = self._router.batch(key)
        if batch is None:
            batch = Batch(
                "command",
                cluster,
                self._deadline(timeout_s),
                mode=ReplyMode.NOREPLY if mute else ReplyMode.NOTIFY,
                low_priority=priority == "low",
                sink=self._notifications,
                mute=mute,
            )
            self._router.open(key, batch)
        batch.payloads.append(payload)
        batch.waiters.append(correlation)

    async def notifications(self) -> AsyncIterator[Notification]:
        """The outcomes of pipelined commands, one by one, until the client is closed."""
        with contextlib.suppress(Stopped):
            while True:
                for notification in await self._notifications.take():
                    yield notification

    async def take_notifications(self) -> list[Notification]:
        """All outcomes known by now; waits for the first. Raises `Stopped` once the client is closed."""
        return await self._notifications.take()

    # --- reads -------------------------------------------------------------------------

    async def consistent_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """A linearizable read: it sees every command that was answered before it was asked (§6.4)."""
        return await self._query("consistent", cluster, query, timeout_s, reply_type)

    async def leader_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """Asks whoever believes to lead, without proof: may be stale just after a change of leader."""
        return await self._query("leader", cluster, query, timeout_s, reply_type)

    async def local_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """Asks the member on the node that we are connected to: may be arbitrarily stale."""
        return await self._query("local", cluster, query, timeout_s, reply_type)

    async def _query(
        self, level: str, cluster: str, query: Any, timeout_s: float | None, reply_type: Any
    ) -> Any:
        reply = await self._ask(level, cluster, encode(query), timeout_s)
        return reply if reply_type is Any else msgspec.convert(reply, reply_type)

    # --- administration ----------------------------------------------------------------

    async def members(self, cluster: str, *, timeout_s: float | None = None) -> list[ServerId]:
        """The members of a cluster, as the asked node knows them (API-18)."""
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["members"], list[ServerId])

    async def leader(self, cluster: str, *, timeout_s: float | None = None) -> ServerId | None:
        """Who leads, as far as the asked node knows."""
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["leader"], ServerId | None)

    async def ping(self, cluster: str | None = None, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The asked node's name and uptime, or the state of its member of a cluster (API-22)."""
        return await self._call("ping", {"cluster": cluster}, timeout_s)

    async def overview(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Everything about the member on the asked node (API-24)."""
        return await self._call("overview", {"cluster": cluster}, timeout_s)

    async def status(
        self, clusters: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """All nodes and their members, the unreachable ones with the reason."""
        return await self._call("status", {"clusters": clusters}, timeout_s)

    async def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> str:
        """Ask the leader to hand over to `target`, a server or a node (§3.10; API-21).

        Returns `ok` when the target was told to stand for election, or `already_leader`. Raises
        `UnknownMember`, `NonVoter`, `NotUpToDate`, `NoLeader`, or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "target": str(target)}
        return str(await self.call("transfer_leadership", arguments, timeout_s=timeout_s))

    async def start_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Form a cluster on these nodes (default: all), and wait for its leader (API-02).

        `machine` is a name from the nodes' configuration. Returns `{started, not_started}`.
        Raises `ConfigurationError` for what the nodes refuse, `NoLeader` if no leader came up.
        """
        request = {"cluster": cluster, "machine": machine, "nodes": nodes, "arguments": dict(arguments or {})}
        return await self._call("start_cluster", request, timeout_s)

    # --- members (§4) ------------------------------------------------------------------

    async def members_info(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The members as their leader sees them: `{cluster, leader, term, members: [{server, …}]}`.

        Raises `NoLeader` if nobody leads; see `status` for what each node knows then.
        """
        return await self._call("member_list", {"cluster": cluster}, timeout_s)

    async def add_member(
        self,
        cluster: str,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Start a new server on `node` and add it (MEMB-05, MEMB-07, MEMB-14).

        It receives the log first and votes when it has caught up. Returns `{member, uid, membership}`;
        `membership` is `promotable` if it has not caught up in time: it becomes a voter by itself.
        `Membership.NON_VOTER` never votes. Raises `AlreadyMember`, `ConfigurationError` for an unknown
        node, `ChangeNotPermitted` while another change is under way, `NoLeader`, or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "node": node, "membership": str(membership)}
        return await self._call("member_add", arguments, timeout_s)

    async def remove_member(
        self, cluster: str, member: ServerId | str, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Remove a server (or the one on that node) and its data (MEMB-12, MEMB-13).

        Returns `{member, told}`: one whose node is out of reach is told when it comes back. Raises
        `UnknownMember`, `ChangeNotPermitted` (also for the last voter), `NoLeader`, or `OutcomeUnknown`.
        """
        return await self._call("member_remove", {"cluster": cluster, "member": str(member)}, timeout_s)

    async def promote_member(
        self, cluster: str, member: ServerId | str, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Let a non-voter, or one that still catches up, vote now. Raises as `remove_member`."""
        return await self._call("member_promote", {"cluster": cluster, "member": str(member)}, timeout_s)

    async def replace_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        node: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Remove a member that is lost, and add a new one on `node` (default: the same).

        Two changes, one after the other; if the second fails the first stands, and `add_member`
        goes on from there. Raises what both raise.
        """
        arguments = {"cluster": cluster, "member": str(member), "node": node}
        return await self._call("member_replace", arguments, timeout_s)

    async def delete_cluster(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Delete a cluster and its data on all members, by consensus (LIFE-06).

        Returns `{cluster, members, away}`: members that were `away` delete themselves when they come
        back. Raises `NoLeader`, or `OutcomeUnknown`.
        """
        return await self._call("cluster_delete", {"cluster": cluster}, timeout_s)

    async def force_shrink(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Make the member on the *connected* node the whole cluster (MEMB-15): the quorum is lost for good.

        What only the lost members had is lost, and they must never run again with their old data. Connect
        to that node alone. Returns `{member, lost, term}`. Raises `UnknownCluster`, `WalDown`, `NoLeader`.
        """
        return await self._call("force_shrink", {"cluster": cluster}, timeout_s)

    async def aux_command(
        self, cluster: str, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """A command for the aux machine of the member on the asked node (AUX-02).

        `consistent` asks the leader's instead, once it has proved that it leads (QRY-05). Raises
        `InvalidCommand` if the machine has none, or with what it raised.
        """
        arguments = {"cluster": cluster, "command": command, "consistent": consistent}
        return await self.call("aux_command", arguments, timeout_s=timeout_s)

    async def call(
        self, verb: str, arguments: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Any administrative verb of a node, by name. Raises `InvalidCommand` for what cannot be encoded."""
        encode(arguments)
        return await self._ask("call", verb, b"", timeout_s, arguments=arguments or {})

    async def _call(self, verb: str, arguments: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
        answer = await self.call(verb, arguments, timeout_s=timeout_s)
        return msgspec.convert(answer, dict[str, Any])

    async def machine_events(self) -> AsyncIterator[tuple[str, Any]]:
        """Messages that machines send to this client's node (`SendMsg`), as (cluster, message).

        Ends when the client is closed.
        """
        while True:
            event = await self._events.get()
            if event is not None:
                yield event
            elif not self._open:
                self._events.put_nowait(None)  # for others who listen
                return

    def _on_event(self, cluster: str, message: Any) -> None:
        self._events.put_nowait((cluster, message))

    # --- inside ------------------------------------------------------------------------

    def _ask(
        self,
        kind: str,
        cluster: str,
        payload: bytes,
        timeout_s: float | None,
        *,
        mode: ReplyMode | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Awaitable[Any]:
        """One request that a caller waits for, sent with others of its kind."""
        key = (kind, cluster, mode, timeout_s) if arguments is None else object()
        batch = self._router.batch(key)
        if batch is None:
            batch = Batch(kind, cluster, self._deadline(timeout_s), mode=mode, arguments=arguments)
            self._router.open(key, batch)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        batch.payloads.append(payload)
        batch.waiters.append(future)
        return future

    def _deadline(self, timeout_s: float | None) -> float:
        if not self._open:
            raise Stopped("this client is not connected; use `async with`")
        return self._router.now() + (self._timeout_s if timeout_s is None else timeout_s)


def encode(value: Any) -> bytes:
    """A command or query as bytes. Raises `InvalidCommand` for what cannot be encoded, or is too large."""
    try:
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidCommand(f"cannot be encoded: {error}") from error
    if len(encoded) > COMMAND_BYTES_MAX:
        raise InvalidCommand(f"{len(encoded)} bytes are above the limit of {COMMAND_BYTES_MAX}")
    return encoded
