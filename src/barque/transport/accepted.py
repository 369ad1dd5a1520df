"""Connections that were opened to us: by peers, which only send, and by clients."""

import asyncio
import ssl
from typing import TYPE_CHECKING

from barque.errors import ProtocolError, Unauthenticated
from barque.transport import wire
from barque.transport.authorization import Role, forbidden
from barque.transport.connection import FramedConnection, encode_frames
from barque.transport.contract import ClientSink, receive_envelopes
from barque.transport.framing import BUFFER_KEPT, BUFFER_KEPT_PEER, Frame, FrameKind
from barque.transport.handshake import Established, ListenerHandshake, refusal
from barque.transport.wire import ClientAnswer

if TYPE_CHECKING:
    from barque.transport.tcp import TcpTransport

UNREAD_FREE = 64 * 1024
"""So many bytes may wait for any client: the loop's own high-water mark."""


class AcceptedConnection(FramedConnection):
    """The listener's end. The handshake shows whether the other end is a peer or a client."""

    def __init__(
        self, owner: "TcpTransport", handshake: ListenerHandshake, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(handshake, owner.limits, owner.counters, tls)
        self._owner = owner
        self._node = ""  # the peer's name; empty for a client
        self._client: ClientHandle | None = None
        self._is_proving = False  # the last frame was a proof

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake; another connection may have to go for it."""
        super().connection_made(transport)
        self._owner.accepted(self)

    # --- handshake ---

    def shake_hands(self, frame: Frame) -> None:
        """Take a frame of the handshake. A proof from where secrets are guessed waits first."""
        self._is_proving = frame.kind is FrameKind.PROOF
        pause_s = self._owner.guesses.pause_s(self.remote_host) if self._is_proving else 0.0
        if pause_s:
            self.hold(pause_s, lambda: super(AcceptedConnection, self).shake_hands(frame))
        else:
            super().shake_hands(frame)
            self._owner.strangers.spoke(self)

    def refused(self, error: Unauthenticated) -> None:
        """Note the failure, and who it was."""
        self._owner.refused(self, error, is_guess=self._is_proving)

    def established(self, other: Established) -> None:
        """Let a peer replace its older connection; give a client a sink."""
        self._owner.strangers.remove(self)
        self._node = other.node
        if other.role is Role.NODE:
            self.raise_limits(self.limits.frame_bytes_max, BUFFER_KEPT_PEER)
            self._owner.admit_peer(other.node, self)
            return
        self._client = ClientHandle(self._owner, self, other.role)
        if self._owner.admit_client(self._client):
            self.raise_limits(self.limits.client_frame_bytes_max, BUFFER_KEPT)
            self.share_memory(self._owner.input_budget)
            self._client.sink = self._owner.handler.on_client(self._client)
        else:
            text = f"this node serves {self.limits.clients_max} clients already; try another node"
            self.close(text, refusal(text))

    # --- frames ---

    def frame_received(self, frame: Frame) -> None:
        """Hand messages over. The sender is the node that owns the connection, whatever the frame says."""
        if self._client is not None and frame.kind is FrameKind.REQUESTS:
            self._client.received(frame.payload)
        elif self._node and frame.kind is FrameKind.ENVELOPES:
            envelopes = receive_envelopes(frame.payload, self._node, self.counters)
            if envelopes:
                self._owner.handler.on_envelopes(self._node, envelopes)
        elif self._client is not None and frame.kind is FrameKind.ENVELOPES:
            self._client.forbid()
        else:
            raise ProtocolError(
                f"{frame.kind.name} is not for a {'node' if self._node else 'client'} to send"
            )

    def turn_ended(self) -> None:
        """Schedule a flush: all frames of one read were handed over."""
        if self._client is not None:
            self._owner.handler.on_turn()

    def pause_writing(self) -> None:
        """The client reads more slowly than it asks: read no further requests of it."""
        if self._client is not None:
            self._client.stall()

    def resume_writing(self) -> None:
        """The client has read most of its answers."""
        if self._client is not None:
            self._client.look_again()

    def lost(self, reason: str) -> None:
        """Forget the connection."""
        self._owner.lost(self, self._node)
        if self._client is not None:
            self._client.lost()
            self._owner.handler.on_turn()


class ClientHandle:
    """One client: what the node holds while the connection lasts.

    A client that leaves answers unread is not read from until it has taken them. If it takes none for
    `client_stall_s` it is cut off.
    """

    __slots__ = ("_connection", "_outbox", "_owner", "_progress", "_progress_at", "role", "sink", "unread")

    def __init__(self, owner: "TcpTransport", connection: AcceptedConnection, role: Role) -> None:
        self.role = role
        self.sink: ClientSink | None = None
        self.unread = 0
        """The bytes of answers that wait, or that room was taken for; 0 while they are few."""
        self._owner = owner
        self._connection = connection
        self._outbox: list[ClientAnswer] = []
        self._progress = 0  # the least that was unread since the stall began
        self._progress_at = 0.0

    @property
    def peer(self) -> str:
        """The client's address, for log lines."""
        return self._connection.remote_address

    @property
    def room(self) -> int:
        """How many more bytes of answers this client may have waiting; a few it may always have."""
        return max(self._owner.output_budget.room(self.unread), 0 if self.unread else UNREAD_FREE)

    def send(self, answers: list[ClientAnswer]) -> bool:
        """Queue answers for this turn's flush; False if the connection is gone."""
        if self._connection.over:
            return False
        if not self._outbox:
            self._owner.has_output(self)
        self._outbox += answers
        return True

    def flush(self) -> None:
        """Write queued answers."""
        outbox, self._outbox = self._outbox, []
        connection = self._connection
        if connection.over or not outbox:
            return
        limits, counters = connection.limits, connection.counters
        frames = encode_frames(FrameKind.ANSWERS, outbox, limits.client_frame_bytes_max, counters, "a client")
        if connection.write(frames) > UNREAD_FREE or self.unread:
            self.stall()

    def close(self, reason: str) -> None:
        """Send queued answers and the reason, then close."""
        self.flush()
        self._connection.close(reason, refusal(reason))

    def received(self, payload: bytes | memoryview) -> None:
        """A frame of requests."""
        requests = wire.decode_requests(payload)
        counters = self._connection.counters
        counters.frames_received += 1
        counters.bytes_received += len(payload)
        counters.messages_received += len(requests)
        if requests and self.sink is not None:
            self.sink.on_requests(requests)

    def note_forbidden(self, text: str) -> None:
        """Count a request that the client may not make, and log it now and then."""
        self._connection.counters.forbidden_messages += 1
        self._owner.complain(self._connection.remote_host, text)

    def forbid(self) -> None:
        """Cut off a client that speaks as nodes do."""
        text = str(forbidden("a message between nodes", self.role, Role.NODE))
        self.note_forbidden(text)
        self._connection.close(text, refusal(text))

    # --- answers that nobody reads ---

    def take_room(self, size: int) -> bool:
        """Set memory aside for an answer of about this size; False if there is none left for it.

        What was set aside counts until the next flush, and then what really waits.
        """
        if size > self.room:
            return False
        self.unread = self._owner.output_budget.change(self.unread, self.unread + size)
        return True

    def stall(self) -> None:
        """Answers may be piling up: look how many, and wait with further requests if there are many."""
        now, waiting = asyncio.get_running_loop().time(), self._connection.bytes_queued()
        self.unread = self._owner.output_budget.change(self.unread, waiting if waiting > UNREAD_FREE else 0)
        was_stalled = self in self._owner.stalled
        if not self.unread:
            if was_stalled:
                del self._owner.stalled[self]
                self._connection.resume()
            return
        if not was_stalled:
            self._owner.stalled[self] = None
            self._connection.pause()
        if not was_stalled or waiting < self._progress:
            self._progress, self._progress_at = waiting, now
        limits = self._connection.limits
        if waiting > 2 * limits.client_output_max or now - self._progress_at > limits.client_stall_s:
            self._connection.counters.slow_clients += 1
            self._connection.cut_off(f"the client left {waiting} bytes of answers unread")

    def look_again(self) -> None:
        """The socket has taken something, or time has passed."""
        if self.unread and not self._connection.over:
            self.stall()

    def lost(self) -> None:
        """The connection is gone."""
        self._outbox.clear()
        self._owner.stalled.pop(self, None)
        self.unread = self._owner.output_budget.change(self.unread, 0)
        if self.sink is not None:
            self.sink.on_closed()
