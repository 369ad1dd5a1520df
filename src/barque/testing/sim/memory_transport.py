"""A transport without sockets: several nodes in one process, with faults on request.

Every frame is encoded and decoded, so whatever works here can travel. The calls of the test and one seeded
generator decide everything: the same calls give the same deliveries. The network runs on an event loop
(`automatic`), or the test delivers frame by frame with `deliver`.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import msgspec

from barque.errors import ConfigurationError, ProtocolError
from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.connection import encode_frames
from barque.transport.contract import (
    ClientSink,
    Limits,
    PeerStatus,
    TransportCounters,
    TransportHandler,
    receive_envelopes,
)
from barque.transport.framing import HEADER, FrameKind
from barque.transport.wire import Alive, ClientAnswer, ClientRequest, Envelope, PeerMessage


class Faults(msgspec.Struct, gc=False):
    """What happens to frames on one link, one way. Rates are shares of 1."""

    cut: bool = False  # frames vanish without notice: a half-open connection
    held: bool = False  # frames wait until the link is released
    drop_rate: float = 0.0
    duplicate_rate: float = 0.0
    reorder_rate: float = 0.0  # a frame overtakes the frames that wait on the same link


class MemoryNetwork:
    """Joins memory transports. `rng` draws what happens at each rate; frames travel in the order of sends."""

    def __init__(self, *, automatic: bool = True, rng: random.Random | None = None) -> None:
        self._automatic = automatic
        self._rng = random.Random(0) if rng is None else rng  # noqa: S311  # faults, not secrets
        self._nodes: dict[str, MemoryTransport] = {}
        self._faults: dict[tuple[str, str], Faults] = {}
        self._queue: deque[tuple[str, str, int, bytes]] = deque()  # source, target, its incarnation, payload
        self._calls: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self.lost_frames = 0

    # --- faults ---

    def faults(self, source: str, target: str) -> Faults:
        """The faults of frames from `source` to `target`; change them in place."""
        return self._faults.setdefault((source, target), Faults())

    def partition(self, one: Iterable[str], other: Iterable[str], *, one_way: bool = False) -> None:
        """Lose all frames from `one` to `other`, and back unless `one_way`."""
        others = list(other)
        for source in one:
            for target in others:
                self.faults(source, target).cut = True
                if not one_way:
                    self.faults(target, source).cut = True

    def heal(self) -> None:
        """End all faults, and deliver the frames that were held."""
        self._faults.clear()
        self._schedule()

    def release(self, source: str, target: str, *, backwards: bool = False) -> None:
        """Deliver the frames held on a link, in reverse order on request."""
        self.faults(source, target).held = False
        if backwards:
            here = [item for item in self._queue if item[:2] == (source, target)]
            rest = [item for item in self._queue if item[:2] != (source, target)]
            self._queue = deque([*here[::-1], *rest])
        self._schedule()

    def disconnect(self, source: str, target: str, reason: str = "disconnected") -> None:
        """Break a link: frames under way are lost, both ends learn of it, and the link comes back at once."""
        for one, other in ((source, target), (target, source)):
            before = len(self._queue)
            self._queue = deque(item for item in self._queue if item[:2] != (one, other))
            self.lost_frames += before - len(self._queue)
            transport = self._nodes.get(one)
            if transport is not None:
                self.later(lambda t=transport, o=other: t.went_down(o, reason))  # type: ignore[misc]
                self.later(lambda t=transport, o=other: self._join(t, o))  # type: ignore[misc]

    # --- delivery ---

    def deliver(self, frames_max: int = 1_000_000) -> int:
        """Deliver the waiting frames and those that they cause, up to a number; return how many."""
        delivered = 0
        while delivered < frames_max:
            while self._calls:
                self._calls.popleft()()
            item = self._next()
            if item is None:
                break
            source, target, incarnation, payload = item
            receiver = self._nodes.get(target)
            if receiver is None or receiver.incarnation != incarnation:
                self.lost_frames += 1  # the process that it was meant for is gone
                continue
            receiver.deliver(source, payload)
            delivered += 1
        return delivered

    @property
    def waiting(self) -> int:
        """How many frames are under way, including held frames."""
        return len(self._queue)

    def later(self, call: Callable[[], None]) -> None:
        """Run a call as if it were the next delivery."""
        self._calls.append(call)
        self._schedule()

    def carry(self, source: str, target: str, incarnation: int, payload: bytes) -> None:
        """Take a frame from a node."""
        faults = self._faults.get((source, target))
        copies = 1
        if faults is not None:
            if faults.cut or (faults.drop_rate and self._rng.random() < faults.drop_rate):
                self.lost_frames += 1
                return
            if faults.duplicate_rate and self._rng.random() < faults.duplicate_rate:
                copies = 2
        item = (source, target, incarnation, payload)
        for _ in range(copies):
            if faults is not None and faults.reorder_rate and self._rng.random() < faults.reorder_rate:
                self._overtake(item)
            else:
                self._queue.append(item)
        self._schedule()

    # --- nodes ---

    def add(self, transport: "MemoryTransport") -> None:
        """Add a node that has started: its links come up, in both directions."""
        if transport.name in self._nodes:
            raise ConfigurationError(f"two nodes are called {transport.name!r}")
        self._nodes[transport.name] = transport
        for other in self._nodes.values():
            if other is not transport:
                self.later(lambda o=other: self._join(o, transport.name))  # type: ignore[misc]
                self.later(lambda o=other: self._join(transport, o.name))  # type: ignore[misc]

    def remove(self, transport: "MemoryTransport") -> None:
        """Remove a node that has stopped: the links to it go down."""
        if self._nodes.get(transport.name) is transport:
            del self._nodes[transport.name]
            for other in self._nodes.values():
                self.later(lambda o=other: o.went_down(transport.name, "the node has stopped"))  # type: ignore[misc]
                self.later(lambda o=other: o.was_refused(transport.name))  # type: ignore[misc]

    def join(self, transport: "MemoryTransport", peer: str) -> None:
        """Connect a node to a peer, if the peer is there."""
        self.later(lambda: self._join(transport, peer))

    def connect_client(
        self,
        node: str,
        *,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
    ) -> "MemoryClientLink":
        """Connect a client, like `ClientLink.connect`. Raises `ConfigurationError` if the node is absent."""
        transport = self._nodes.get(node)
        if transport is None:
            raise ConfigurationError(f"no node is called {node!r}")
        return MemoryClientLink(self, transport, on_answers, on_closed)

    # --- inside ---

    def _join(self, transport: "MemoryTransport", peer: str) -> None:
        other = self._nodes.get(peer)
        if other is not None and self._nodes.get(transport.name) is transport:
            transport.went_up(peer, other.incarnation)

    def _next(self) -> tuple[str, str, int, bytes] | None:
        """Take the first frame that is not held."""
        for position, item in enumerate(self._queue):
            faults = self._faults.get(item[:2])
            if faults is None or not faults.held:
                del self._queue[position]
                return item
        return None

    def _overtake(self, item: tuple[str, str, int, bytes]) -> None:
        """Put a frame before the first frame that waits on the same link."""
        for position, waiting in enumerate(self._queue):
            if waiting[:2] == item[:2]:
                self._queue.insert(position, item)
                return
        self._queue.append(item)

    def _schedule(self) -> None:
        if self._automatic and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._on_scheduled)

    def _on_scheduled(self) -> None:
        self._scheduled = False
        self.deliver()


class MemoryTransport:
    """The contract of `TcpTransport`, over a `MemoryNetwork`. Addresses are ignored."""

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        name: str,
        incarnation: int,
        peers: Mapping[str, str],
        handler: TransportHandler,
        counters: TransportCounters | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.advertise = name
        self.incarnation = incarnation
        self.handler = handler
        self.counters = TransportCounters() if counters is None else counters
        self.limits = Limits() if limits is None else limits
        self.network = network
        self._peers = dict(peers)
        self._up: dict[str, int] = {}
        self._broken: dict[str, None] = {}  # the peers whose links were up, and are down
        self._outboxes: dict[str, list[Envelope]] = {}
        self._queued: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._clients: dict[MemoryClientHandle, None] = {}  # a set that keeps its order

    async def start(self) -> None:
        """Join the network."""
        self.network.add(self)

    async def stop(self) -> None:
        """Flush, and leave the network; clients learn of it."""
        self.flush()
        self.network.remove(self)
        self._up.clear()
        for client in list(self._clients):
            client.close("this node is stopping")

    def send(
        self, node: str, to: str, message: PeerMessage, cluster_id: str = "", sender_uid: str = ""
    ) -> bool:
        """Queue a message until `flush`. Returns False without a link, or if too much waits (REPL-21)."""
        bound = self.limits.peer_output_max + (self.limits.alive_reserve if type(message) is Alive else 0)
        if node not in self._up or self._queued.get(node, 0) > bound:
            self.counters.dropped_sends += 1
            self._dropped[node] = self._dropped.get(node, 0) + 1
            return False
        self._queued[node] = self._queued.get(node, 0) + wire.weight(message)
        self._outboxes.setdefault(node, []).append(Envelope(to, message, cluster_id, sender_uid))
        return True

    def flush(self) -> None:
        """Hand the frames of this turn to the network."""
        outboxes, self._outboxes = self._outboxes, {}
        self._queued.clear()
        for node, outbox in outboxes.items():
            incarnation = self._up.get(node)
            if incarnation is None:
                self.counters.dropped_sends += len(outbox)
                continue
            for payload in self._encode(outbox, node):
                self.counters.frames_sent += 1
                self.counters.bytes_sent += HEADER.size + len(payload)
                self.network.carry(self.name, node, incarnation, payload)
        for client in list(self._clients):
            client.flush()

    def _encode(self, outbox: list[Envelope], node: str) -> list[bytes]:
        """Encode the messages into as few frames as the limit allows."""
        if outbox == wire.ALIVE:
            self.counters.messages_sent += 1
            return [wire.ALIVE_PAYLOAD]
        limit = self.limits.frame_bytes_max
        frames = encode_frames(FrameKind.ENVELOPES, outbox, limit, self.counters, node)
        return [bytes(frame[HEADER.size :]) for frame in frames]

    def nudge(self, node: str) -> None:
        """Do nothing: links come back at once here."""

    def set_peer(self, name: str, address: str) -> None:
        """Add a peer."""
        self._peers[name] = address
        self.network.join(self, name)

    def remove_peer(self, name: str) -> None:
        """Forget a peer; its link ends."""
        self._peers.pop(name, None)
        self.went_down(name, "no longer a peer")

    def connected(self) -> list[str]:
        """The peers with a link that is up."""
        return [name for name in self._peers if name in self._up]

    def status(self) -> dict[str, PeerStatus]:
        """The status of each link, by peer."""
        return {
            name: PeerStatus(
                address=address,
                connected=name in self._up,
                incarnation=self._up.get(name, 0),
                last_error="" if name in self._up else "not connected",
                dropped=self._dropped.get(name, 0),
                bytes_queued=self._queued.get(name, 0),
            )
            for name, address in self._peers.items()
        }

    # --- called by the network ---

    def went_up(self, peer: str, incarnation: int) -> None:
        """Tell the handler that a link has come up."""
        if peer in self._peers and self._up.get(peer) != incarnation:
            self._up[peer] = incarnation
            self._broken.pop(peer, None)
            self.counters.connects += 1
            self.handler.on_peer_connected(peer, incarnation)
            self.handler.on_turn()

    def went_down(self, peer: str, reason: str) -> None:
        """Tell the handler that a link has gone down."""
        if self._up.pop(peer, None) is not None:
            self._broken[peer] = None
            dropped = len(self._outboxes.pop(peer, []))
            self.counters.dropped_sends += dropped
            self.handler.on_peer_disconnected(peer, reason)
            self.handler.on_turn()

    def was_refused(self, peer: str) -> None:
        """Tell the handler that nobody listens any longer at the address of a peer that was up."""
        if peer in self._broken:
            del self._broken[peer]
            self.handler.on_peer_gone(peer)
            self.handler.on_turn()

    def deliver(self, source: str, payload: bytes) -> None:
        """Decode a frame and hand it to the handler."""
        try:
            envelopes = receive_envelopes(payload, source, self.counters)
        except ProtocolError:
            self.counters.malformed_frames += 1
            raise  # both ends are ours, so this is a bug and must not look like a lost frame
        if envelopes:
            self.handler.on_envelopes(source, envelopes)

    def accept_client(self, link: "MemoryClientLink") -> "MemoryClientHandle":
        """Accept a client."""
        handle = MemoryClientHandle(self, link)
        self._clients[handle] = None
        handle.sink = self.handler.on_client(handle)
        return handle

    def forget_client(self, handle: "MemoryClientHandle") -> None:
        """Forget a client that has gone."""
        if self._clients.pop(handle, 0) is None and handle.sink is not None:
            handle.sink.on_closed()
            self.handler.on_turn()


class MemoryClientHandle:
    """The node's end of a client in the same process."""

    def __init__(self, transport: MemoryTransport, link: "MemoryClientLink") -> None:
        self._transport = transport
        self._link = link
        self._outbox: list[ClientAnswer] = []
        self.sink: ClientSink | None = None
        self.peer = "memory"
        self.role = Role.ADMIN
        self.unread = 0
        self.room = transport.limits.client_output_max

    def take_room(self, size: int) -> bool:
        """Answers leave in the same turn: there is room."""
        return size <= self.room

    def note_forbidden(self, text: str) -> None:
        """Count a request that the client may not make."""
        self._transport.counters.forbidden_messages += 1

    def send(self, answers: list[ClientAnswer]) -> bool:
        """Queue answers for this turn's flush."""
        if self._link.is_closed:
            return False
        self._outbox += answers
        return True

    def flush(self) -> None:
        """Encode the queued answers, and hand them to the network."""
        outbox, self._outbox = self._outbox, []
        if outbox:
            payload = wire.encode_answers(outbox)
            self._transport.network.later(lambda: self._link.received(payload))

    def close(self, reason: str) -> None:
        """Send the queued answers, then end."""
        self.flush()
        self._transport.network.later(lambda: self._link.ended(reason))

    def requests(self, payload: bytes) -> None:
        """Handle a frame of requests."""
        if not self._link.is_closed and self.sink is not None:
            self.sink.on_requests(wire.decode_requests(payload))
            self._transport.handler.on_turn()


class MemoryClientLink:
    """A client's end, with the methods of `ClientLink`."""

    def __init__(
        self,
        network: MemoryNetwork,
        transport: MemoryTransport,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._network = network
        self._transport = transport
        self._on_answers = on_answers
        self._on_closed = on_closed
        self._outbox: list[ClientRequest] = []
        self.node = transport.name
        self.incarnation = transport.incarnation
        self.is_closed = False
        self.bytes_queued = 0
        self._handle = transport.accept_client(self)

    def send(self, requests: list[ClientRequest]) -> bool:
        """Queue requests for the next `flush`. Returns False if the connection is gone."""
        if self.is_closed:
            return False
        self._outbox += requests
        return True

    def flush(self) -> None:
        """Encode the queued requests, and hand them to the network."""
        outbox, self._outbox = self._outbox, []
        if outbox and not self.is_closed:
            payload = wire.encode_requests(outbox)
            self._network.later(lambda: self._handle.requests(payload))

    def close(self) -> None:
        """Flush, then end."""
        self.flush()
        self._network.later(lambda: self.ended("closed by this side"))

    def received(self, payload: bytes) -> None:
        """Handle a frame of answers."""
        if not self.is_closed:
            self._on_answers(wire.decode_answers(payload))

    def ended(self, reason: str) -> None:
        """End the connection; both ends learn of it once."""
        if not self.is_closed:
            self.is_closed = True
            self._transport.forget_client(self._handle)
            self._on_closed(reason)
