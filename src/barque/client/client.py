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
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from barque.client.administration import Administration
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
from barque.client.routing import Connect, Router
from barque.errors import ConfigurationError, InvalidCommand, Stopped
from barque.transport.client_link import ClientLink
from barque.transport.tls import client_tls
from barque.transport.wire import TIMEOUT_MS_MAX
from barque.types import Index, IndexTerm, Pid, ReplyMode, Term

TIMEOUT_S_MAX = TIMEOUT_MS_MAX // 1000


class Requests(Protocol):
    """What carries a client's requests: connections (`Router`), or a session inside a node's process."""

    def now(self) -> float:
        """Seconds, on the loop's clock."""

    filling: dict[Hashable, EncodedBatch]
    """The batches that are being filled in this turn of the loop, by kind."""

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

    def open(self, key: Hashable, batch: EncodedBatch) -> EncodedBatch:
        """Begin a batch. It leaves with this turn's requests."""

    def submit(self, batch: Batch) -> None:
        """Send a batch that is complete, likewise."""


OnEvent: TypeAlias = Callable[[str, Any], None]


class Client(Administration):
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
        payload, key = encode(command), (cluster, priority, correlation is None, timeout_s)
        batch = self._router.filling.get(key)
        if batch is None:
            mode = ReplyMode.NOREPLY if correlation is None else ReplyMode.NOTIFY
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
        batch.payloads.append(payload)
        batch.waiters.append(correlation)

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
        payload, batch = encode(query), self._router.filling.get(key)
        if batch is None:
            batch = self._router.open(key, ReadBatch(check_name(cluster), self._deadline(timeout_s), level))
        reply = await batch.ask(payload)
        return reply if reply_type is Any else msgspec.convert(reply, reply_type)

    # --- events ----------------------------------------------------------------------------

    async def pid(self, *, timeout_s: float | None = None) -> Pid:
        """This client's own address at the connected node: what a command may name as a receiver (EFF-01).

        It is the same in each call, and ends with the connection to that node: then machines that watch it
        hear `Down`, and the next call returns another one. Raises `LeaderTimeout` or `QueryTimeout`.
        """
        return Pid(*await self._ask_node("pid", {}, timeout_s))

    async def machine_events(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield what machines send to this client, or to all of its node (`SendMsg`), as (cluster, message).

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
        payload, batch = encode(command), self._router.filling.get(key)
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

    def _first_node(self) -> str:
        return self._router.first_node

    def _deadline(self, timeout_s: float | None) -> float:
        if not self._open:
            raise Stopped("this client is not connected; use `async with`")
        return self._router.now() + (self._timeout_s if timeout_s is None else check_timeout(timeout_s))


def check_timeout(timeout_s: float) -> float:
    """Return the timeout. Raises `InvalidCommand` unless it is seconds, from 0 to `TIMEOUT_S_MAX`."""
    if not isinstance(timeout_s, int | float) or not 0 <= timeout_s <= TIMEOUT_S_MAX:
        raise InvalidCommand(f"timeout_s is {timeout_s!r}; give seconds, from 0 to {TIMEOUT_S_MAX}")
    return timeout_s
