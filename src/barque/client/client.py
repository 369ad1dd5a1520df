"""The asyncio client (API-13 to API-24). Every request has a deadline, and every outcome a type.

The way of a request:

1. A method of `Client` encodes it and adds it to the batch of its kind (`requests`): commands of one cluster
   and reply mode, or reads of one cluster and level. An administrative request is a batch of its own.
2. At the end of the loop's turn the `Router` chooses a connection for each batch and sends one frame to each
   node. If no node is connected the batch waits, and the router dials.
3. The node answers by correlation. The `Connection` finds the batch, and the batch tells its listener
   (`outcomes`): the futures of callers, or the notifications of a pipeline.

Each request ends exactly once, in one of these ways:

- The node answers with a reply or an error.
- The link is lost. Commands and calls end as `OutcomeUnknown`; reads are sent to another node.
- The node says nothing for a second. It becomes suspect: its reads are sent elsewhere, and its commands end
  as `OutcomeUnknown` when another node turns out to lead.
- The deadline passes: a second later than at the node, whose answer would be better founded.
- The client is closed: `Stopped`, or `OutcomeUnknown` for commands that were sent.

A command is sent at most once. No task, timer or frame is spent on a single command.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from barque.client.cluster import ClusterClient
from barque.client.connection import Connection, Link
from barque.client.outcomes import Notification, Notifications
from barque.client.requests import (
    Batch,
    Call,
    CommandBatch,
    EncodedBatch,
    ReadBatch,
    check_name,
    encode,
)
from barque.client.results import (
    AddedMember,
    DeletedCluster,
    MemberOverview,
    MembersInfo,
    Pong,
    PromotedMember,
    RemovedMember,
    ReplacedMember,
    Result,
    ShrunkCluster,
    StartedCluster,
    Status,
    Transfer,
    typed_result,
)
from barque.client.routing import Connect, Router
from barque.errors import ConfigurationError, InvalidCommand, Stopped
from barque.machine.arguments import canonical_arguments
from barque.transport.client_link import ClientLink
from barque.transport.tls import client_tls
from barque.transport.wire import TIMEOUT_MS_MAX
from barque.types import Index, IndexTerm, Membership, ReplyMode, ServerId, Term

TIMEOUT_S_MAX = TIMEOUT_MS_MAX // 1000


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

    @property
    def first_node(self) -> str:
        """The node that `connect` has reached."""
        ...

    def batch(self, key: Hashable) -> EncodedBatch | None:
        """The batch of this kind that is being filled in this turn of the loop."""

    def open(self, key: Hashable, batch: EncodedBatch) -> EncodedBatch:
        """Begin a batch. It leaves with this turn's requests."""

    def submit(self, batch: Batch) -> None:
        """Send a batch that is complete, likewise."""


OnEvent: TypeAlias = Callable[[str, Any], None]


class Client:
    """Talks to the clusters of one installation through any of its nodes.

    Args:
        nodes: addresses (`host:port`) of one or more nodes. The client learns the others from them.
        secret: the secret of clients, of administrators, or the one secret of the installation.
            Not needed with a `tls_cert_file`, where nodes are content with certificates.
        installation: the name of the installation, as in the nodes' configuration.
        timeout_s: how long a request may take that is given no timeout of its own, in seconds.
        cluster: the cluster that `cluster()` stands for without a name.
        tls_ca_file: speak TLS, and trust nodes with a certificate of these authorities (PEM).
        tls_cert_file: this client's certificate; its key is in `tls_key_file`.

    `async with Client([...], secret=...) as client:` connects on entry. All methods belong to
    the loop that entered. Cancelling a call ends the waiting, not a command that was sent.

    Commands of one client to one cluster are applied in the order of the calls, except across a
    change of leader. Errors say whether a command happened: `Refused` and its kinds: no; `OutcomeUnknown`:
    perhaps (the client never sends it again); `QueryTimeout`: a read, which changes nothing. When the time
    runs out the error is a `TimeoutError`, too: `LeaderTimeout`, `CommandTimeout` or `QueryTimeout`.

    Administrative requests and local reads go to the *connected node*: the first node that answered, or
    another one when it is lost.

    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        secret: str | bytes = b"",
        installation: str = "barque",
        timeout_s: float = 5.0,
        cluster: str | None = None,
        tls_ca_file: str | None = None,
        tls_cert_file: str | None = None,
        tls_key_file: str | None = None,
    ) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        tls = client_tls(tls_ca_file, tls_cert_file, tls_key_file)

        async def connect(
            address: str, connection: Connection, on_closed: Callable[[str], None]
        ) -> tuple[Link, str]:
            link = await ClientLink.connect(
                address,
                installation,
                key,
                on_answers=connection.on_answers,
                on_closed=on_closed,
                tls=None if tls is None else tls.context(),
            )
            return link, link.node

        self._init(lambda on_event: Router(connect, nodes, on_event), timeout_s, cluster)

    def _init(
        self, make_requests: Callable[[OnEvent], Requests], timeout_s: float, cluster: str | None = None
    ) -> None:
        try:
            self._timeout_s = check_timeout(timeout_s)
        except InvalidCommand as error:
            raise ConfigurationError(str(error)) from error
        self._cluster = cluster
        self._notifications = Notifications()
        self._router = make_requests(self._on_event)
        self._events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._open = False

    @classmethod
    def over(cls, connect: Connect, *, timeout_s: float = 5.0) -> "Client":
        """Make a client over another kind of link."""
        return cls._carried_by(lambda on_event: Router(connect, ["inside"], on_event), timeout_s=timeout_s)

    @classmethod
    def _carried_by(cls, make_requests: Callable[[OnEvent], Requests], *, timeout_s: float = 5.0) -> "Client":
        """Make a client whose requests something else than connections carries, such as a node's session."""
        client = cls.__new__(cls)
        client._init(make_requests, timeout_s)
        return client

    def cluster(self, name: str | None = None) -> ClusterClient:
        """The verbs of one cluster, without its name as an argument. This asks no node.

        Without a name it is the cluster that the client was made for. Raises `ConfigurationError` if there is
        none.
        """
        chosen = name or self._cluster
        if not chosen:
            raise ConfigurationError(
                "which cluster? Give client.cluster(NAME), or a URL that ends with /NAME, to barque.connect"
            )
        return ClusterClient(self, chosen)

    # --- life --------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect to the first node that answers.

        Raises `LeaderTimeout` if no node answers within `timeout_s`, `Unauthenticated` for a wrong secret.
        """
        self._open = True
        self._notifications.begin()
        await self._router.connect(self._timeout_s)

    async def close(self) -> None:
        """End all connections. Open requests end with `Stopped`, or `OutcomeUnknown` if they were sent."""
        self._open = False
        await self._router.close()
        self._end_news("the client was closed")

    def end(self, reason: str) -> None:
        """Close at once, for the owner of the links; `reason` is the text of the errors."""
        self._open = False
        self._router.end(reason)
        self._end_news(reason)

    def _end_news(self, reason: str) -> None:
        """Wake the waiters for notifications and events: none will come."""
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
        """Commit one command and return the machine's reply, as `reply_type` if given (API-13).

        Raises `Refused` or `LeaderTimeout` (it did not happen), `InvalidCommand` (the machine does not know
        it), `OutcomeUnknown` or `CommandTimeout` (it may have happened), `msgspec.ValidationError` (it
        happened, and the reply is no `reply_type`).
        """
        reply = await self._ask_command(cluster, command, ReplyMode.AWAIT_CONSENSUS, timeout_s)
        return reply if reply_type is Any else msgspec.convert(reply, reply_type)

    async def append_command(
        self, cluster: str, command: Any, *, timeout_s: float | None = None
    ) -> IndexTerm:
        """Return the position of a command as soon as the leader has it in its log (CMD-09).

        It is neither durable nor committed then, and may be lost with this leader. Raises as
        `process_command`.
        """
        index, term = await self._ask_command(cluster, command, ReplyMode.AFTER_LOG_APPEND, timeout_s)
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

        Without a `correlation` the outcome is dropped. `priority` is `low` or `normal` (CMD-06). Raises
        `InvalidCommand` for a command that cannot be encoded, and `Stopped`; then it was not sent.
        """
        if priority not in ("low", "normal"):
            raise InvalidCommand(f"priority is low or normal, not {priority!r}")
        mode = ReplyMode.NOREPLY if correlation is None else ReplyMode.NOTIFY
        payload, key = encode(command), (cluster, priority, mode, timeout_s)
        batch = self._router.batch(key)
        if batch is None:
            batch = self._router.open(
                key,
                CommandBatch(
                    check_name(cluster),
                    self._deadline(timeout_s),
                    mode,
                    self._notifications,
                    low_priority=priority == "low",
                ),
            )
        batch.add(payload, correlation)

    async def notifications(self) -> AsyncIterator[Notification]:
        """Yield the outcomes of pipelined commands, one by one, until the client is closed."""
        with contextlib.suppress(Stopped):
            while True:
                for notification in await self._notifications.take():
                    yield notification

    async def take_notifications(self) -> list[Notification]:
        """Return all outcomes known by now; wait for the first. Raises `Stopped` if the client is closed."""
        return await self._notifications.take()

    # --- reads -------------------------------------------------------------------------

    async def consistent_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """Read linearizably: see every command that was answered before the read began (§6.4).

        Returns the machine's answer, as `reply_type` if given. Raises `InvalidCommand` with the text of the
        machine's error, `LeaderTimeout`, `QueryTimeout`, or another `Refused`.
        """
        return await self._query("consistent", cluster, query, timeout_s, reply_type)

    async def leader_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """Ask the member that believes it leads: may be stale just after a change of leader.

        Returns and raises as `consistent_query`.
        """
        return await self._query("leader", cluster, query, timeout_s, reply_type)

    async def local_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """Ask the member on the connected node: may be arbitrarily stale, and works without a leader.

        Returns and raises as `consistent_query`. If the connected node is lost or silent another one answers.
        """
        return await self._query("local", cluster, query, timeout_s, reply_type)

    async def _query(
        self, level: str, cluster: str, query: Any, timeout_s: float | None, reply_type: Any
    ) -> Any:
        key = (level, cluster, timeout_s)
        payload, batch = encode(query), self._router.batch(key)
        if batch is None:
            batch = self._router.open(key, ReadBatch(check_name(cluster), self._deadline(timeout_s), level))
        reply = await batch.ask(payload)
        return reply if reply_type is Any else msgspec.convert(reply, reply_type)

    # --- clusters ----------------------------------------------------------------------

    async def members(self, cluster: str, *, timeout_s: float | None = None) -> list[ServerId]:
        """The members of a cluster, as the connected node knows them (API-18).

        Raises `UnknownCluster` if the node knows no such cluster, `QueryTimeout`.
        """
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["members"], list[ServerId])

    async def leader(self, cluster: str, *, timeout_s: float | None = None) -> ServerId | None:
        """The member that leads, as far as the connected node knows. Raises as `members`."""
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["leader"], ServerId | None)

    async def ping(self, cluster: str | None = None, *, timeout_s: float | None = None) -> Pong:
        """The connected node's name and uptime, or the state of its member of a cluster (API-22).

        Raises `UnknownCluster` if it has no member of that cluster, `QueryTimeout`.
        """
        return await self._call("ping", {"cluster": cluster}, timeout_s, Pong)

    async def overview(self, cluster: str, *, timeout_s: float | None = None) -> MemberOverview:
        """Everything about the member on the connected node (API-24). Raises as `ping`."""
        return await self._call("overview", {"cluster": cluster}, timeout_s, MemberOverview)

    async def status(
        self, clusters: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> Status:
        """All nodes, and the members of all (or these) clusters on them. Raises `QueryTimeout`.

        Works without a leader. A node that does not answer is shown with the reason.
        """
        return await self._call("status", {"clusters": clusters}, timeout_s, Status)

    async def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> Transfer:
        """Ask the leader to hand over to `target`, a server or a node (§3.10; API-21).

        Raises `UnknownMember`, `NonVoter`, `NotUpToDate` or `NoLeader` (nothing happened), or
        `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "target": str(target)}
        return await self._call("transfer_leadership", arguments, timeout_s, Transfer)

    async def start_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """Form a cluster on these nodes (default: all), and wait for its leader (API-02).

        `machine` is a name from the nodes' configuration; `arguments` go to its `init`. Raises
        `ConfigurationError` if the nodes refuse, `NoLeader` if too few members could be started or no leader
        was elected in time, or `OutcomeUnknown`.
        """
        kept = canonical_arguments(arguments or {})
        request = {"cluster": cluster, "machine": machine, "nodes": nodes, "arguments": kept}
        return await self._call("start_cluster", request, timeout_s, StartedCluster)

    async def delete_cluster(self, cluster: str, *, timeout_s: float | None = None) -> DeletedCluster:
        """Delete a cluster and its data on all members, by consensus (LIFE-06).

        Members on nodes that are out of reach delete themselves when they return. Raises `NoLeader`, or
        `OutcomeUnknown`.
        """
        return await self._call("cluster_delete", {"cluster": cluster}, timeout_s, DeletedCluster)

    async def trigger_compaction(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> bool:
        """Let the member on `node` (default: the connected one) compact its segments now (API-27).

        True if a compaction has begun; false if none is worth it, or one is under way. Raises
        `UnknownCluster`, `ConfigurationError` for an unknown node, or `OutcomeUnknown`.
        """
        answer = await self.call(
            "trigger_compaction", {"cluster": cluster, "node": node}, timeout_s=timeout_s
        )
        return bool(answer["begun"])

    # --- members (§4) ------------------------------------------------------------------

    async def members_info(self, cluster: str, *, timeout_s: float | None = None) -> MembersInfo:
        """The members of a cluster, as their leader sees them.

        Raises `NoLeader` if no member leads (see `status` for what each node knows then), `QueryTimeout`.
        """
        return await self._call("member_list", {"cluster": cluster}, timeout_s, MembersInfo)

    async def add_member(
        self,
        cluster: str,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        timeout_s: float | None = None,
    ) -> AddedMember:
        """Start a new server on `node` and add it to the cluster (MEMB-05, MEMB-07, MEMB-14).

        It receives the log first and votes when it has caught up; this waits for that until the time runs
        out, which is no failure. A `Membership.NON_VOTER` never votes. Raises `AlreadyMember`,
        `ConfigurationError` for an unknown node, `ChangeNotPermitted` while another change is under way,
        `NoLeader` (nothing changed), or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "node": node, "membership": str(membership)}
        return await self._call("member_add", arguments, timeout_s, AddedMember)

    async def remove_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> RemovedMember:
        """Remove a member, named by server or node, and its data (MEMB-12, MEMB-13).

        Raises `UnknownMember`, `ChangeNotPermitted` (also for the last voter, and if fewer voters than a
        majority would be up; `force` makes that change), `NoLeader` (nothing changed), or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "member": str(member), "force": force}
        return await self._call("member_remove", arguments, timeout_s, RemovedMember)

    async def promote_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> PromotedMember:
        """Let a non-voter, or a member that still catches up, vote now. Raises as `remove_member`."""
        arguments = {"cluster": cluster, "member": str(member), "force": force}
        return await self._call("member_promote", arguments, timeout_s, PromotedMember)

    async def replace_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        node: str | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> ReplacedMember:
        """Remove a member that is lost, and add a new one on `node` (default: the same node).

        These are two changes, one after the other. If the second fails the first stands: go on with
        `add_member`. Raises as `remove_member` and `add_member`.
        """
        arguments = {"cluster": cluster, "member": str(member), "node": node, "force": force}
        return await self._call("member_replace", arguments, timeout_s, ReplacedMember)

    async def force_shrink(self, cluster: str, *, timeout_s: float | None = None) -> ShrunkCluster:
        """Make the member on the connected node the whole cluster (MEMB-15): the quorum is lost for good.

        Entries that only the lost members have are lost, and these members must never run again with their
        old data. Give the client that node's address alone: the request goes to the node that `connect` has
        reached, and to no other. Raises `UnknownCluster`, `WalDown`, `NoLeader` (it is alone now, and does
        not lead yet), or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster}
        answer = await self._ask_node("force_shrink", arguments, timeout_s, self._router.first_node)
        return typed_result("force_shrink", answer, ShrunkCluster)

    async def aux_command(
        self, cluster: str, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """Send a command to the aux machine of the member on the connected node (AUX-02); return its reply.

        With `consistent` the leader's aux machine gets it, after the leader has proved that it leads
        (QRY-05). Raises `InvalidCommand` if the machine has no aux machine, or with the text of its error,
        `UnknownCluster` if the node has no member, `NoLeader`, or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "command": command, "consistent": consistent}
        return await self.call("aux_command", arguments, timeout_s=timeout_s)

    # --- anything else -----------------------------------------------------------------

    async def call(
        self, verb: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Ask the connected node for an administrative verb by name; return its plain answer.

        Raises `InvalidCommand` for an unknown verb or for arguments that cannot be encoded, else as the verb.
        """
        if not all(isinstance(name, str) for name in (verb, *(arguments or {}))):
            raise InvalidCommand(f"a verb and its arguments have names of text: {verb!r}, {arguments!r}")
        return await self._ask_node(verb, dict(arguments or {}), timeout_s)

    async def machine_events(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield what machines send to this client's node (`SendMsg`), as (cluster, message).

        Ends when the client is closed.
        """
        while (event := await self._next_event()) is not None:
            yield event

    async def _next_event(self) -> tuple[str, Any] | None:
        """The next of `machine_events`; None once the client is closed."""
        while (event := await self._events.get()) is None:
            if not self._open:
                self._events.put_nowait(None)  # wake the next listener
                return None
        return event

    def _on_event(self, cluster: str, message: Any) -> None:
        self._events.put_nowait((cluster, message))

    # --- inside ------------------------------------------------------------------------

    def _ask_command(
        self, cluster: str, command: Any, mode: ReplyMode, timeout_s: float | None
    ) -> Awaitable[Any]:
        """One command that a caller waits for; it travels with others of its kind."""
        key = (mode, cluster, timeout_s)
        payload, batch = encode(command), self._router.batch(key)
        if batch is None:
            batch = self._router.open(key, CommandBatch(check_name(cluster), self._deadline(timeout_s), mode))
        return batch.ask(payload)

    async def _ask_node(
        self, verb: str, arguments: dict[str, Any], timeout_s: float | None, node: str = ""
    ) -> Any:
        encode(arguments)
        if arguments.get("cluster") is not None:
            check_name(arguments["cluster"])
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        call = Call(verb, arguments, self._deadline(timeout_s), limit_s)
        call.node = node
        answer = call.wait()
        self._router.submit(call)
        return await answer

    async def _call(
        self, verb: str, arguments: dict[str, Any], timeout_s: float | None, kind: type[Result]
    ) -> Result:
        return typed_result(verb, await self._ask_node(verb, arguments, timeout_s), kind)

    def _deadline(self, timeout_s: float | None) -> float:
        if not self._open:
            raise Stopped("this client is not connected; use `async with`")
        return self._router.now() + (self._timeout_s if timeout_s is None else check_timeout(timeout_s))


def check_timeout(timeout_s: float) -> float:
    """Return the timeout. Raises `InvalidCommand` unless it is seconds, from 0 to `TIMEOUT_S_MAX`."""
    if not isinstance(timeout_s, int | float) or not 0 <= timeout_s <= TIMEOUT_S_MAX:
        raise InvalidCommand(f"timeout_s is {timeout_s!r}; give seconds, from 0 to {TIMEOUT_S_MAX}")
    return timeout_s
