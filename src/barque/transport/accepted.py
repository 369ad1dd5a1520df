"""Connections that were opened to us: by peers, which only send, and by clients."""

import asyncio
from typing import TYPE_CHECKING

from barque.errors import ProtocolError
from barque.transport import wire
from barque.transport.connection import FramedConnection, encode_frames
from barque.transport.contract import ClientSink, receive_envelopes
from barque.transport.framing import BUFFER_KEPT, BUFFER_KEPT_PEER, Frame, FrameKind
from barque.transport.handshake import Established, ListenerHandshake, Role, refusal
from barque.transport.wire import ClientAnswer

if TYPE_CHECKING:
    from barque.transport.tcp import TcpTransport


class AcceptedConnection(FramedConnection):
    """The listener's end. The handshake shows whether the other end is a peer or a client."""

    def __init__(self, owner: "TcpTransport", handshake: ListenerHandshake) -> None:
        super().__init__(handshake, owner.limits, owner.counters)
        self._owner = owner
        self._node = ""  # the peer's name; empty for a client
        self._client: ClientHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, unless too many connections wait for theirs already."""
        super().connection_made(transport)
        self._owner.accepted(self)
        if self._owner.is_crowded:
            self.counters.unauthenticated_refused += 1
            self.cut_off("too many connections wait for their handshake")

    def established(self, other: Established) -> None:
        """Let a peer replace its older connection; give a client a sink."""
        self._node = other.node
        if other.role is Role.PEER:
            self.raise_limits(self.limits.frame_bytes_max, BUFFER_KEPT_PEER)
            self._owner.admit_peer(other.node, self)
        elif self._owner.admit_client(self):
            self.raise_limits(self.limits.client_frame_bytes_max, BUFFER_KEPT)
            self._client = ClientHandle(self._owner, self)
            self._client.sink = self._owner.handler.on_client(self._client)
        else:
            text = f"this node serves {self.limits.clients_max} clients already; try another node"
            self.close(text, refusal(text))

    def frame_received(self, frame: Frame) -> None:
        """Hand messages over. The sender is the node that owns the connection, whatever the frame says."""
        if self._client is not None and frame.kind is FrameKind.REQUESTS:
            self._client.received(frame.payload)
        elif self._node and frame.kind is FrameKind.ENVELOPES:
            envelopes = receive_envelopes(frame.payload, self._node, self.counters)
            if envelopes:
                self._owner.handler.on_envelopes(self._node, envelopes)
        else:
            raise ProtocolError(
                f"{frame.kind.name} is not for a {'peer' if self._node else 'client'} to send"
            )

    def turn_ended(self) -> None:
        """Schedule a flush: all frames of one read were handed over."""
        if self._client is not None:
            self._owner.handler.on_turn()

    def lost(self, reason: str) -> None:
        """Forget the connection."""
        self._owner.lost(self, self._node)
        if self._client is not None:
            self._client.lost()
            self._owner.handler.on_turn()


class ClientHandle:
    """One client: what the node holds while the connection lasts."""

    __slots__ = ("_connection", "_outbox", "_owner", "sink")

    def __init__(self, owner: "TcpTransport", connection: AcceptedConnection) -> None:
        self._owner = owner
        self._connection = connection
        self._outbox: list[ClientAnswer] = []
        self.sink: ClientSink | None = None

    @property
    def peer(self) -> str:
        """The client's address, for log lines."""
        return self._connection.remote_address

    def send(self, answers: list[ClientAnswer]) -> bool:
        """Queue answers for this turn's flush; False if the connection is gone."""
        if self._connection.over:
            return False
        if not self._outbox:
            self._owner.has_output(self)
        self._outbox += answers
        return True

    def flush(self) -> None:
        """Write queued answers. Disconnect a client that does not read before it costs too much memory."""
        outbox, self._outbox = self._outbox, []
        connection = self._connection
        if connection.over or not outbox:
            return
        limits, counters = connection.limits, connection.counters
        connection.write(
            encode_frames(FrameKind.ANSWERS, outbox, limits.client_frame_bytes_max, counters, "a client")
        )
        if connection.bytes_queued() > limits.client_output_max:
            counters.slow_clients += 1
            connection.cut_off(f"the client left {connection.bytes_queued()} bytes of answers unread")

    def close(self, reason: str) -> None:
        """Send queued answers and the reason, then close."""
        self.flush()
        self._connection.close(reason, refusal(reason))

    def received(self, payload: bytes) -> None:
        """A frame of requests."""
        requests = wire.decode_requests(payload)
        counters = self._connection.counters
        counters.frames_received += 1
        counters.bytes_received += len(payload)
        counters.messages_received += len(requests)
        if requests and self.sink is not None:
            self.sink.on_requests(requests)

    def lost(self) -> None:
        """The connection is gone."""
        self._outbox.clear()
        if self.sink is not None:
            self.sink.on_closed()
