"""A client's end of a connection to a node (docs/protocol/wire.md, "Connections")."""

import asyncio
import secrets
import ssl
from collections.abc import Callable

from barque.errors import NoLeader, ProtocolError, Unauthenticated
from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.connection import FramedConnection, encode_frames, split_address
from barque.transport.contract import Limits, TransportCounters
from barque.transport.framing import BUFFER_KEPT_PEER, Frame, FrameKind
from barque.transport.handshake import NONCE_BYTES, DialerHandshake, Established
from barque.transport.resolve import connect
from barque.transport.secret import check_secret
from barque.transport.wire import ClientAnswer, ClientRequest


class ClientLink:
    """One connection to one node; made by `connect`. Requests are queued, and leave with `flush`."""

    def __init__(self, connection: "_ClientConnection") -> None:
        self._connection = connection
        self._outbox: list[ClientRequest] = []

    @classmethod
    async def connect(
        cls,
        address: str,
        cluster: str,
        secret: bytes,
        *,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
        expected: str = "",
        incarnation: int = 0,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        counters: TransportCounters | None = None,
        nonces: Callable[[int], bytes] = secrets.token_bytes,
    ) -> "ClientLink":
        """Connect to `address` and prove that we know the secret; `expected` is the node's name, if known.

        Over `tls` the secret may be empty: then our certificate alone says who we are. We get the highest
        role below a node's that the secret and the certificate grant.

        `on_answers` gets each frame of answers, `on_closed` the reason, exactly once. Nothing was sent
        when this raises: `Unauthenticated` if either side refuses the other, `NoLeader` if the address
        cannot be reached in time, `ConfigurationError` for an address or a secret that cannot be right.
        """
        limits = Limits() if limits is None else limits
        counters = TransportCounters() if counters is None else counters
        host, port = split_address(address, "the node's address")
        handshake = DialerHandshake(
            role=Role.ADMIN,
            name="",
            expected=expected,
            cluster=cluster,
            incarnation=incarnation,
            secret=secret if tls is not None and not secret else check_secret(secret),
            nonce=nonces(NONCE_BYTES),
        )

        def make() -> _ClientConnection:
            return _ClientConnection(handshake, limits, counters, on_answers, on_closed, tls)

        try:
            connection = await connect(make, host, port, limits.connect_timeout_s)
        except TimeoutError as error:
            raise NoLeader(f"no answer from {address} within {limits.connect_timeout_s:g} s") from error
        except OSError as error:
            raise NoLeader(f"cannot connect to {address}: {error}") from error
        try:
            await asyncio.wait((connection.ready, connection.closed), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            connection.cut_off("cancelled")
            raise
        if connection.refusal is not None:
            raise Unauthenticated(f"{address}: {connection.refusal}")
        if not connection.ready.done():
            hint = "" if tls is not None else "; if the node demands TLS, give tls_ca_file"
            raise NoLeader(f"{address} hung up during the handshake: {connection.reason}{hint}")
        return cls(connection)

    @property
    def node(self) -> str:
        """The name that the node has proved."""
        return self._connection.other.node

    @property
    def role(self) -> Role:
        """The role that the node has granted us."""
        return self._connection.other.role

    @property
    def incarnation(self) -> int:
        """The node's incarnation: another one means that it was restarted."""
        return self._connection.other.incarnation

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.over

    @property
    def bytes_queued(self) -> int:
        """How many bytes the socket has not taken yet."""
        return self._connection.bytes_queued()

    def send(self, requests: list[ClientRequest]) -> bool:
        """Queue requests for the next `flush`; False if the connection is gone and drops them."""
        if self._connection.over:
            return False
        self._outbox += requests
        return True

    def flush(self) -> None:
        """Write queued requests, as one frame if they fit."""
        outbox, self._outbox = self._outbox, []
        if outbox and not self._connection.over:
            limit = self._connection.limits.client_frame_bytes_max
            counters = self._connection.counters
            self._connection.write(encode_frames(FrameKind.REQUESTS, outbox, limit, counters, "the node"))

    def close(self) -> None:
        """Flush, then close the connection; `on_closed` is still called."""
        self.flush()
        self._connection.close("closed by this side")


class _ClientConnection(FramedConnection):
    """The dialer's end of a client's connection."""

    def __init__(
        self,
        handshake: DialerHandshake,
        limits: Limits,
        counters: TransportCounters,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(handshake, limits, counters, tls)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.other = Established(Role.CLIENT, "", 0)
        self.refusal: str | None = None
        self._on_answers = on_answers
        self._on_closed = on_closed

    def established(self, other: Established) -> None:
        """The node has proved its name."""
        self.other = other
        self.raise_limits(self.limits.client_frame_bytes_max, BUFFER_KEPT_PEER)
        if not self.ready.done():
            self.ready.set_result(None)

    def frame_received(self, frame: Frame) -> None:
        """Take answers, or the reason why the node closes the connection next."""
        if frame.kind is FrameKind.REFUSED:
            self.close(str(frame.payload, "utf-8", "replace"))
        elif frame.kind is FrameKind.ANSWERS:
            answers = wire.decode_answers(bytes(frame.payload))
            self.counters.frames_received += 1
            self.counters.bytes_received += len(frame.payload)
            self.counters.messages_received += len(answers)
            if answers:
                self._on_answers(answers)
        else:
            raise ProtocolError(f"{frame.kind.name} is not for a node to send to a client")

    def refused(self, error: Unauthenticated) -> None:
        """One side has refused the other."""
        self.refusal = str(error)

    def lost(self, reason: str) -> None:
        """The connection is gone; tell the owner of the link."""
        if self.ready.done():
            self._on_closed(reason)
