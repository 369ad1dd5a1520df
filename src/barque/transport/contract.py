"""The contract between the transport and the node above it.

`TcpTransport` and `MemoryTransport` are the two implementations. Both work on one event loop, and
every method below is called on that loop.
"""

import logging
from typing import Protocol

import msgspec

from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.framing import FRAME_BYTES_MAX
from barque.transport.wire import ClientAnswer, ClientRequest, Envelope, PeerMessage

logger = logging.getLogger("barque.transport")


class Limits(msgspec.Struct, frozen=True, gc=False):
    """Limits of one transport. Sizes in bytes, times in seconds.

    `peer_output_max` bounds the bytes that wait for one peer: beyond it large messages are dropped and
    counted, a frame's size beyond it small ones as well, but for `alive_reserve` bytes that only heartbeats
    may use.
    `client_output_max` bounds the answers that wait
    for one client, and `clients_output_max` those of all: what does not fit is refused, and a client that
    takes nothing for `client_stall_s` is disconnected. `clients_input_max` bounds the large frames of clients
    that have arrived in part.
    """

    frame_bytes_max: int = FRAME_BYTES_MAX
    client_frame_bytes_max: int = FRAME_BYTES_MAX
    peer_output_max: int = 8 * 1024 * 1024
    alive_reserve: int = 64 * 1024
    client_output_max: int = 64 * 1024 * 1024
    clients_output_max: int = 128 * 1024 * 1024
    clients_input_max: int = 256 * 1024 * 1024
    client_stall_s: float = 30.0
    unauthenticated_max: int = 1000
    clients_max: int = 20_000
    handshake_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    silence_max_s: float = 30.0
    linger_s: float = 1.0


class TransportCounters:
    """Counts since the transport was made. Plain integers; read them at any time."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "connects",
        "dropped_sends",
        "forbidden_messages",
        "forged_messages",
        "frames_received",
        "frames_sent",
        "handshakes_refused",
        "malformed_frames",
        "messages_received",
        "messages_sent",
        "oversize_messages",
        "refused_frames",
        "slow_clients",
        "unauthenticated_refused",
        "unencodable_messages",
    )
    bytes_received: int
    bytes_sent: int
    connects: int
    dropped_sends: int
    forbidden_messages: int
    forged_messages: int
    frames_received: int
    frames_sent: int
    handshakes_refused: int
    malformed_frames: int
    messages_received: int
    messages_sent: int
    oversize_messages: int
    refused_frames: int
    slow_clients: int
    unauthenticated_refused: int
    unencodable_messages: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def overview(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class PeerStatus(msgspec.Struct, frozen=True, gc=False):
    """One line of `status()`: our outbound link to a peer. `incarnation` is 0 until it was connected."""

    address: str
    connected: bool
    incarnation: int
    last_error: str
    dropped: int
    bytes_queued: int


class ClientSink(Protocol):
    """The node's end of one client connection."""

    def on_requests(self, requests: list[ClientRequest]) -> None:
        """Requests of one frame have arrived, in the client's order."""

    def on_closed(self) -> None:
        """The connection is gone; called exactly once."""


class ClientConnectionHandle(Protocol):
    """The connection of one client, as the node uses it."""

    @property
    def peer(self) -> str:
        """The client's address, for log lines."""
        ...

    @property
    def role(self) -> Role:
        """What the client may do."""
        ...

    @property
    def unread(self) -> int:
        """How many bytes of answers wait for the client; 0 while they are few."""
        ...

    @property
    def room(self) -> int:
        """How many more bytes of answers it may have waiting."""
        ...

    def take_room(self, size: int) -> bool:
        """Set memory aside for an answer of about this size; False if there is none left for it."""
        ...

    def send(self, answers: list[ClientAnswer]) -> bool:
        """Queue answers for this turn's `flush`; False if the connection is gone."""
        ...

    def note_forbidden(self, text: str) -> None:
        """Count a request that the client may not make, and log it now and then."""

    def close(self, reason: str) -> None:
        """Close the connection once queued answers are sent."""


class TransportHandler(Protocol):
    """The node, as a transport calls it. All calls come on the event loop."""

    def on_envelopes(self, node: str, envelopes: list[Envelope]) -> None:
        """Messages of one frame from `node`; none of them claims to come from elsewhere.

        The node asks for the flush that they need; `on_turn` does not follow.
        """

    def on_peer_connected(self, node: str, incarnation: int) -> None:
        """Our outbound link to this incarnation of the node is up."""

    def on_peer_disconnected(self, node: str, reason: str) -> None:
        """Our outbound link to the node, once up, is gone."""

    def on_peer_gone(self, node: str) -> None:
        """The node's process is gone: the link broke, nobody listens at its address, nor has it a link to us.

        Comes after `on_peer_disconnected`. An address may refuse connections for another reason (a proxy
        restarts), so this is strong evidence and no proof.
        """

    def on_client(self, connection: ClientConnectionHandle) -> ClientSink:
        """A client has proved its role."""
        ...

    def on_turn(self) -> None:
        """A client's input, or news of a link, was handed over: schedule one flush for this turn."""


class Transport(Protocol):
    """The way to a node's peers and clients. No call blocks."""

    name: str
    advertise: str
    counters: TransportCounters

    async def start(self) -> None:
        """Start to listen and to connect. Raises `ConfigurationError` if the address cannot be bound."""

    async def stop(self) -> None:
        """Flush, then close every connection."""

    def send(
        self, node: str, to: str, message: PeerMessage, cluster_id: str = "", sender_uid: str = ""
    ) -> bool:
        """Queue a message for the server `to` on `node`; False if it was dropped (REPL-21).

        The last two are the identity of the server that speaks; empty if the node itself does.
        """
        ...

    def flush(self) -> None:
        """Write the messages queued in this turn: one write for each connection."""

    def nudge(self, node: str) -> None:
        """Try to connect at once instead of waiting for the back-off."""

    def set_peer(self, name: str, address: str) -> None:
        """Add a peer, or change its address."""

    def remove_peer(self, name: str) -> None:
        """Disconnect a peer and forget it."""

    def connected(self) -> list[str]:
        """The peers whose links are up."""
        ...

    def status(self) -> dict[str, PeerStatus]:
        """Our links, by peer."""
        ...


def receive_envelopes(payload: bytes | memoryview, node: str, counters: TransportCounters) -> list[Envelope]:
    """Decode a frame from `node`, and drop messages that claim to come from another node (S6).

    Raises `ProtocolError` for a frame that no correct node sends.
    """
    heartbeat = payload == wire.ALIVE_PAYLOAD  # which claims nothing
    envelopes = wire.ALIVE if heartbeat else wire.decode_envelopes(payload)
    count = len(envelopes)
    counters.frames_received += 1
    counters.bytes_received += len(payload)
    counters.messages_received += count
    if heartbeat:
        return envelopes
    if count == 1 and wire.may_come_from(envelopes[0].message, node):
        return envelopes
    genuine = [envelope for envelope in envelopes if wire.may_come_from(envelope.message, node)]
    counters.forged_messages += count - len(genuine)
    return genuine
