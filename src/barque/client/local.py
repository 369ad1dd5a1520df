"""A client, and a submitter for gateways, inside a node's own process: no socket, no encoding twice."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from barque.client.client import Client
from barque.client.connection import Connection, Link
from barque.client.requests import PART_BYTES_MAX, PART_REQUESTS_MAX
from barque.errors import InvalidCommand
from barque.runtime.client_sink import take_request
from barque.runtime.node import Node
from barque.runtime.submitter import Done
from barque.transport.answers import error_named
from barque.transport.wire import (
    ClientAnswer,
    ClientCommands,
    ClientFailed,
    ClientQueries,
    ClientReplies,
    ClientRequest,
)
from barque.types import ReplyMode

_decode = msgspec.msgpack.Decoder(list[Any]).decode


def local_client(node: Node, *, timeout_s: float = 5.0) -> Client:
    """A client of this node. When the node stops it is closed, as by `Client.close`."""

    async def connect(
        address: str, connection: Connection, on_closed: Callable[[str], None]
    ) -> tuple[Link, str]:
        return LocalLink(node, connection, on_closed, client.end), node.name

    client = Client.over(connect, timeout_s=timeout_s)
    return client


class LocalLink:
    """Hands requests to the node as they are. Answers come in a later turn, as from a socket.

    Raises `Stopped` if the node does not run. `on_stopped` hears when it stops.
    """

    def __init__(
        self,
        node: Node,
        connection: Connection,
        on_closed: Callable[[str], None],
        on_stopped: Callable[[str], None],
    ) -> None:
        self._node = node
        self._on_closed = on_closed
        self._session = node.session(connection.on_answers, events=True, on_stopped=on_stopped)
        self._closed = False

    def send(self, requests: list[ClientRequest]) -> bool:
        """See `Link`."""
        for request in requests:
            take_request(self._node, self._session, request)
        return True

    def flush(self) -> None:
        """Nothing to do: the node's turn does it."""

    def close(self) -> None:
        """See `Link`."""
        if not self._closed:
            self._closed = True
            self._node.end_session(self._session)
            asyncio.get_running_loop().call_soon(self._on_closed, "closed by this side")


class NodeSubmitter:
    """`runtime.submitter.Submitter` over a node's front: one session for all of a gateway's clients.

    What is submitted in one turn of the loop travels as one request a cluster and kind, or as many as the
    node takes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._session = node.session(self._on_answers)
        self._next = 1
        self._waiting: dict[int, Done] = {}
        self._commands: dict[tuple[str, int], tuple[list[bytes], list[Done]]] = {}
        self._queries: dict[tuple[str, str, int], tuple[list[bytes], list[Done]]] = {}
        self._scheduled = False
        self._bytes = 0  # of what waits to be sent

    def command(self, cluster: str, payload: bytes, done: Done, timeout_ms: int) -> None:
        """See `Submitter.command`."""
        self._make_room(payload)
        self._add(self._commands.setdefault((cluster, timeout_ms), ([], [])), payload, done)

    def query(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """See `Submitter.query`."""
        self._make_room(payload)
        self._add(self._queries.setdefault((cluster, level, timeout_ms), ([], [])), payload, done)

    def _make_room(self, payload: bytes) -> None:
        """One that is large travels alone: if it is too large, the others must not be refused with it."""
        if self._bytes and self._bytes + len(payload) > PART_BYTES_MAX:
            self._flush()

    def _add(self, request: tuple[list[bytes], list[Done]], payload: bytes, done: Done) -> None:
        payloads, dones = request
        payloads.append(payload)
        dones.append(done)
        self._bytes += len(payload)
        if len(dones) == PART_REQUESTS_MAX:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self._bytes = 0
        commands, self._commands = self._commands, {}
        queries, self._queries = self._queries, {}
        for (cluster, timeout_ms), (payloads, dones) in commands.items():
            lengths = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
            columns = b"".join((lengths, *payloads))
            first = self._number(dones)
            mode = ReplyMode.AWAIT_CONSENSUS
            self._session.commands(ClientCommands(cluster, first, len(dones), columns, mode, timeout_ms))
        for (cluster, level, timeout_ms), (payloads, dones) in queries.items():
            first = self._number(dones)
            self._session.queries(ClientQueries(cluster, first, tuple(payloads), level, timeout_ms))

    def _number(self, dones: list[Done]) -> int:
        first = self._next
        self._next += len(dones)
        self._waiting.update(zip(range(first, self._next), dones, strict=True))
        return first

    def _on_answers(self, answers: list[ClientAnswer]) -> None:
        pop = self._waiting.pop
        for answer in answers:
            if isinstance(answer, ClientReplies):
                errors = answer.errors or {}
                for offset, reply in enumerate(_decode(answer.replies)):
                    text = errors.get(offset)
                    pop(answer.first_correlation + offset)(reply if text is None else InvalidCommand(text))
            elif isinstance(answer, ClientFailed):
                error = error_named(answer.error, answer.text)
                for correlation in range(answer.first_correlation, answer.first_correlation + answer.count):
                    pop(correlation)(error)
