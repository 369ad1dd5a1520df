"""A network on virtual time: every link has a latency, and faults of its own.

`MemoryTransport` encodes and decodes every frame. Between nodes, a link keeps the order of its frames unless
a fault reorders them. It loses frames as its faults say. It tells both ends when the link *breaks*, but not
when it is cut. Only Raft's own RPCs are ever duplicated: commands between nodes travel over a connection,
which repeats nothing.
"""

import random
from collections import deque
from collections.abc import Callable

from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    HeartbeatReply,
    HeartbeatRpc,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
    TimeoutNow,
)
from barque.errors import NoLeader
from barque.testing.faults.bad_links import Impostor, SlowLink
from barque.testing.sim.loop import VirtualLoop, VirtualProcess
from barque.testing.sim.memory_transport import Faults, MemoryNetwork, MemoryTransport
from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.contract import ClientSink
from barque.transport.wire import ClientAnswer, ClientRequest, PeerMessage

_REPEATABLE = (
    AppendEntriesRpc,
    AppendEntriesReply,
    RequestVoteRpc,
    RequestVoteResult,
    PreVoteRpc,
    PreVoteResult,
    HeartbeatRpc,
    HeartbeatReply,
    TimeoutNow,
)
_DIAL_S = (0.02, 0.3)
_RESEND_S = 0.1
Frame = Callable[[str, str, bytes], None]


class SimTransport(MemoryTransport):
    """One node's end of the network. `process` is the node's process; `on_send` sees every message."""

    def __init__(self, network: "SimNetwork", process: VirtualProcess, **settings: object) -> None:
        super().__init__(network, **settings)  # type: ignore[arg-type]
        self.process = process
        self.sim = network
        self.on_send: Callable[[str, str, PeerMessage], None] = lambda _node, _to, _message: None
        self.handles: dict[_ClientHandle, None] = {}
        self.unsent: dict[_ClientHandle, None] = {}  # clients with answers that this turn sends

    def send(
        self, node: str, to: str, message: PeerMessage, cluster_id: str = "", sender_uid: str = ""
    ) -> bool:
        """See `Transport`."""
        self.on_send(node, to, message)
        if self.sim.slow and self.sim.is_full(self.name, node):
            self.counters.dropped_sends += 1
            return False
        return super().send(node, to, message, cluster_id, sender_uid)

    def flush(self) -> None:
        """See `Transport`."""
        if self._outboxes or self._queued:
            super().flush()
        if self.unsent:
            unsent, self.unsent = self.unsent, {}
            for handle in unsent:
                handle.flush()

    def incarnation_of(self, peer: str) -> int | None:
        """The incarnation of a peer that this node is connected to."""
        return self._up.get(peer)

    def has_peer(self, peer: str) -> bool:
        """Whether this node wants a link to the peer."""
        return peer in self._peers


class SimNetwork(MemoryNetwork):
    """Joins `SimTransport`s and clients. `latency` is the usual latency in seconds, least and most.

    A share `tail_rate` of frames takes up to `tail_s` instead.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        super().__init__(automatic=False, rng=rng)
        self.loop = loop
        self.latency = (0.0001, 0.001)
        self.tail_rate = 0.0
        self.tail_s = 0.0
        self._healed = False
        self.slow: dict[tuple[str, str], SlowLink] = {}
        self.impostors: dict[str, Impostor] = {}  # by node, the impostor that answers at its address
        self._half_open: dict[tuple[str, str], int] = {}  # and which of their connections
        self.frames = 0
        self.counts = {"lost": 0, "duplicated": 0, "reordered": 0, "late": 0}
        self.on_frame: Frame = lambda _source, _target, _payload: None
        self._last_due: dict[tuple[str, str], float] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        self._dark: dict[str, None] = {}  # machines without power: nothing there refuses a connection
        self._dialing: dict[tuple[str, int, str], None] = {}
        self._links: dict[SimClientLink, None] = {}

    def transport(self, name: str) -> SimTransport | None:
        """The transport of a running node."""
        found = self._nodes.get(name)
        return found if isinstance(found, SimTransport) else None

    def is_cut(self, one: str, other: str) -> bool:
        """Whether frames vanish in at least one direction."""
        return any(
            faults is not None and (faults.cut or faults.held)
            for faults in (self._faults.get((one, other)), self._faults.get((other, one)))
        )

    def delay(self) -> float:
        """Draw the latency of a frame."""
        if self.tail_rate and self._rng.random() < self.tail_rate:
            self.counts["late"] += 1
            return self._rng.uniform(self.latency[1], self.tail_s)
        return self._rng.uniform(*self.latency)

    def heal(self) -> None:
        """End all faults."""
        self._healed = True
        self.reunite()

    def reunite(self) -> None:
        """Connect all nodes again, and let frames be in time."""
        self._faults.clear()
        self.tail_rate = 0.0
        self.impostors.clear()
        for one, other in list(self.slow):
            self.speed_up(one, other)
        for one, other in list(self._half_open):
            self.notice(one, other)

    # --- frames between nodes ------------------------------------------------------------

    def carry(self, source: str, target: str, incarnation: int, payload: bytes) -> None:
        """Take a frame from a node, and let it travel."""
        self.frames += 1
        self.on_frame(source, target, payload)
        faults = self._faults.get((source, target))
        if faults is not None and self._is_lost(faults):
            return
        if self._half_open and self._is_half_open(source, target):
            return
        slow = self.slow.get((source, target)) if self.slow else None
        if slow is None:
            self._depart(source, target, incarnation, payload, faults)
        else:
            slow.put(len(payload), lambda: self._depart(source, target, incarnation, payload, faults))

    def _depart(
        self, source: str, target: str, incarnation: int, payload: bytes, faults: Faults | None
    ) -> None:
        sender = self._nodes.get(source)
        departure = sender.process.busy_until if isinstance(sender, SimTransport) else self.loop.now
        link = (source, target)
        due = departure + self.delay()
        if faults is not None and faults.reorder_rate and self._rng.random() < faults.reorder_rate:
            self.counts["reordered"] += 1
        else:
            due = self._last_due[link] = max(due, self._last_due.get(link, 0.0))
        epoch = self._epochs.get(link, 0)
        self.loop.at(due, self._arrive, source, target, incarnation, epoch, payload)
        if faults is not None and faults.duplicate_rate and self._rng.random() < faults.duplicate_rate:
            self._repeat(source, target, incarnation, payload, departure)

    def _is_lost(self, faults: Faults) -> bool:
        if faults.cut or (faults.drop_rate and self._rng.random() < faults.drop_rate):
            self.lost_frames += 1
            self.counts["lost"] += 1
            return True
        return False

    def _repeat(self, source: str, target: str, incarnation: int, payload: bytes, departure: float) -> None:
        """Deliver the Raft messages of a frame once more: soon, or much later."""
        again = [e for e in wire.decode_envelopes(payload) if isinstance(e.message, _REPEATABLE)]
        if again:
            self.counts["duplicated"] += 1
            due = departure + self.delay() + self._rng.choice((0.0, 0.05, 0.5, 5.0)) * self._rng.random()
            copy = wire.encode_envelopes(again)
            self.loop.at(due, self._arrive, source, target, incarnation, None, copy)

    def _arrive(self, source: str, target: str, incarnation: int, epoch: int | None, payload: bytes) -> None:
        receiver = self.transport(target)
        faults = self._faults.get((source, target))
        if receiver is None or receiver.incarnation != incarnation or (faults is not None and faults.cut):
            self.lost_frames += 1
            return
        if epoch is None and self._healed:
            return  # a repeated request of seconds ago would still make a follower campaign
        if epoch is not None and epoch != self._epochs.get((source, target), 0):
            self.lost_frames += 1  # the connection of this frame is gone
            return
        if self._half_open and self._is_half_open(source, target):
            return
        receiver.process.call(receiver.deliver, source, payload)

    # --- bad links -----------------------------------------------------------------------

    def slow_down(self, source: str, target: str, bytes_a_second: float) -> None:
        """Make frames queue on a link, by their sizes."""
        if (source, target) not in self.slow:
            self.slow[source, target] = SlowLink(self.loop, bytes_a_second)

    def speed_up(self, source: str, target: str) -> None:
        """Make a link as fast as the others; what waits leaves at once."""
        slow = self.slow.pop((source, target), None)
        if slow is not None:
            slow.end()

    def is_full(self, source: str, target: str) -> bool:
        """Whether so many bytes wait on a slow link that the sender refuses further ones."""
        slow = self.slow.get((source, target))
        return slow is not None and slow.is_full

    def open_half(self, one: str, other: str) -> None:
        """Make the connections of two nodes dead without notice: what they carry vanishes."""
        for link in ((one, other), (other, one)):
            self._half_open[link] = self._epochs.get(link, 0)

    def notice(self, one: str, other: str) -> None:
        """Tell two nodes that their connections are dead, unless those have ended anyway."""
        alive = not self._is_half_open(one, other)
        for link in ((one, other), (other, one)):
            self._half_open.pop(link, None)
        if not alive:
            self.disconnect(one, other, "timed out")

    def _is_half_open(self, source: str, target: str) -> bool:
        link = (source, target)
        return link in self._half_open and self._half_open[link] == self._epochs.get(link, 0)

    # --- links between nodes -------------------------------------------------------------

    def add(self, transport: MemoryTransport) -> None:
        """Add a node that has started: its links come up, in both directions."""
        assert isinstance(transport, SimTransport)
        assert transport.name not in self._nodes
        self._nodes[transport.name] = transport
        self._dark.pop(transport.name, None)
        for link in list(self._links):
            if link.node == transport.name:
                link.lose("connection reset by peer")  # it spoke to the former process
        for other in list(self._nodes.values()):
            if other is not transport:
                self._end_connections(other.name, transport.name)  # what was written to the dead peer is lost
                self.join(other, transport.name)
                self.join(transport, other.name)

    def remove(self, transport: MemoryTransport) -> None:
        """Remove a node that has stopped: the links to it go down."""
        self.gone(transport.name, silent=False)

    def gone(self, name: str, *, silent: bool) -> None:
        """Remove a node. `silent`: its peers are not told, as when a machine loses power."""
        self._nodes.pop(name, None)
        if silent:
            self._dark[name] = None
        for link in list(self._links):
            if link.node == name and not silent:
                link.lose("the node is gone")
        for other in list(self._nodes.values()):
            self._end_connections(name, other.name)
            if not silent:
                self._tell_down(other, name, "the node is gone")

    def reset_clients(self, name: str) -> None:
        """Tell the clients of a machine that died silently: TCP gives up at last."""
        for link in list(self._links):
            if link.node == name:
                link.lose("timed out")

    def disconnect(self, source: str, target: str, reason: str = "disconnected") -> None:
        """Break a link: frames under way are lost, both ends learn of it, and the link comes back."""
        self._end_connections(source, target)
        for one, other in ((source, target), (target, source)):
            transport = self._nodes.get(one)
            if transport is not None:
                self._tell_down(transport, other, reason)

    def _end_connections(self, one: str, other: str) -> None:
        """Lose all frames under way between two nodes; later frames do not wait for them."""
        for link in ((one, other), (other, one)):
            self._epochs[link] = self._epochs.get(link, 0) + 1
            self._last_due.pop(link, None)
            if link in self.slow:
                self.slow[link] = self.slow[link].renew()

    def _tell_down(self, transport: MemoryTransport, peer: str, reason: str) -> None:
        assert isinstance(transport, SimTransport)
        incarnation = transport.incarnation_of(peer)

        def tell() -> None:
            if transport.incarnation_of(peer) == incarnation:
                transport.went_down(peer, reason)
            self.join(transport, peer)

        self.loop.later(self.delay(), transport.process.call, tell)

    def join(self, transport: MemoryTransport, peer: str) -> None:
        """Connect a node to a peer, if the peer is there."""
        key = (transport.name, transport.incarnation, peer)
        if key not in self._dialing:
            self._dialing[key] = None
            self.loop.later(self._rng.uniform(0.0, _DIAL_S[0]), self._dial, transport, peer)

    def _dial(self, transport: SimTransport, peer: str) -> None:
        key = (transport.name, transport.incarnation, peer)
        other = self._nodes.get(peer)
        if self._nodes.get(transport.name) is not transport or not transport.has_peer(peer):
            del self._dialing[key]
        elif other is None or self.is_cut(transport.name, peer):
            if not self.is_cut(transport.name, peer) and peer not in self._dark:
                transport.process.call(transport.was_refused, peer)
            self.loop.later(self._rng.uniform(*_DIAL_S), self._dial, transport, peer)
        elif peer in self.impostors:
            self.impostors[peer].answer(transport.name, transport.incarnation)
            self.loop.later(self._rng.uniform(*_DIAL_S), self._dial, transport, peer)
        else:
            del self._dialing[key]
            transport.process.call(self._connected, transport, peer, other.incarnation)

    def _connected(self, transport: SimTransport, peer: str, incarnation: int) -> None:
        if transport.incarnation_of(peer) not in (None, incarnation):
            transport.went_down(peer, "connection reset")
        transport.went_up(peer, incarnation)

    # --- clients -------------------------------------------------------------------------

    def reach(
        self,
        client: str,
        node: str,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
    ) -> "SimClientLink":
        """Connect a client. Raises `NoLeader` if the node is absent or cannot be reached."""
        transport = self.transport(node)
        if transport is None or self.is_cut(client, node):
            raise NoLeader(f"node {node} cannot be reached")
        link = SimClientLink(self, client, transport, on_answers, on_closed)
        self._links[link] = None
        return link

    def forget(self, link: "SimClientLink") -> None:
        """Forget the connection of a client."""
        self._links.pop(link, None)

    def clients_of(self, node: str) -> int:
        """How many connections of clients this node has accepted that are still open."""
        transport = self.transport(node)
        return sum(link.transport is transport and link.is_accepted for link in self._links)

    def silence_client(self, chance: random.Random) -> "SimClientLink | None":
        """Make the connection of some client dead without notice. Returns it, if there was one."""
        links = list(self._links)
        if not links:
            return None
        link = chance.choice(links)
        link.is_silent = True
        return link

    def break_client(self, chance: random.Random) -> bool:
        """Break the connection of some client. Returns whether there was one."""
        links = list(self._links)
        if links:
            chance.choice(links).lose("connection reset")
        return bool(links)


class SimClientLink:
    """A client's connection to one node, with latency, in order. It has the methods of `ClientLink`."""

    def __init__(
        self,
        network: SimNetwork,
        client: str,
        transport: SimTransport,
        on_answers: Callable[[list[ClientAnswer]], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self.network = network
        self.client = client
        self.node = transport.name
        self.transport = transport
        self.is_closed = False
        self.is_silent = False
        self._on_answers = on_answers
        self._on_closed = on_closed
        self._outbox: list[ClientRequest] = []
        self._due = {True: 0.0, False: 0.0}
        self._queues: dict[bool, deque[Callable[[], None]]] = {True: deque(), False: deque()}
        self._handle: _ClientHandle | None = None
        self._travel(to_node=True, call=self._accept)

    @property
    def is_accepted(self) -> bool:
        """Whether the node knows of the connection."""
        return self._handle is not None

    def _travel(self, to_node: bool, call: Callable[[], None]) -> None:
        """Run a call at the other end. A stream loses nothing: what a cut holds back arrives later."""
        network = self.network
        start = network.loop.time() if to_node else self.transport.process.busy_until
        due = self._due[to_node] = max(self._due[to_node], start + network.delay())
        self._queues[to_node].append(call)
        network.loop.at(due, self._arrive, to_node)

    def _arrive(self, to_node: bool) -> None:
        network, queue = self.network, self._queues[to_node]
        if self.is_closed or self.is_silent or not queue:
            return
        if network.is_cut(self.client, self.node):
            network.loop.later(_RESEND_S, self._arrive, to_node)
            return
        call = queue.popleft()
        if not to_node:
            call()
        elif network.transport(self.node) is self.transport:
            self.transport.process.call(call)

    def _accept(self) -> None:
        handle = self._handle = _ClientHandle(self)
        self.transport.handles[handle] = None
        handle.sink = self.transport.handler.on_client(handle)

    def send(self, requests: list[ClientRequest]) -> bool:
        """See `Link`."""
        if self.is_closed:
            return False
        self._outbox += requests
        return True

    def flush(self) -> None:
        """See `Link`."""
        outbox, self._outbox = self._outbox, []
        if outbox:
            payload = wire.encode_requests(outbox)
            self._travel(to_node=True, call=lambda: self._requests(payload))

    def _requests(self, payload: bytes) -> None:
        if self._handle is not None and self._handle.sink is not None:
            self._handle.sink.on_requests(wire.decode_requests(payload))
            self.transport.handler.on_turn()

    def answers(self, payload: bytes) -> None:
        """Carry a frame of answers from the node."""
        self._travel(to_node=False, call=lambda: self._on_answers(wire.decode_answers(payload)))

    def lose(self, reason: str) -> None:
        """Break the connection; both ends learn of it."""
        self.network.forget(self)
        if self.network.transport(self.node) is self.transport:
            self.transport.process.call(self._closed_there)
        if not self.is_closed:
            self.is_closed = True
            self.network.loop.later(self.network.delay(), self._on_closed, reason)

    def _closed_there(self) -> None:
        handle = self._handle
        if handle is not None and self.transport.handles.pop(handle, 0) is None and handle.sink is not None:
            handle.sink.on_closed()
            self.transport.handler.on_turn()

    def close(self) -> None:
        """See `Link`."""
        self.flush()
        self.lose("closed by this side")


class _ClientHandle:
    """The node's end of a client's connection."""

    def __init__(self, link: SimClientLink) -> None:
        self._link = link
        self._outbox: list[ClientAnswer] = []
        self.sink: ClientSink | None = None
        self.peer = link.client
        self.role = Role.ADMIN  # the simulator's own administration asks as its clients do
        self.unread = 0  # a client here reads everything at once
        self.room = 1 << 30

    def take_room(self, size: int) -> bool:
        """See `ClientConnectionHandle`."""
        return size <= self.room

    def note_forbidden(self, text: str) -> None:
        """See `ClientConnectionHandle`; nothing is forbidden here."""
        raise AssertionError(text)

    def send(self, answers: list[ClientAnswer]) -> bool:
        """See `ClientConnectionHandle`."""
        if self._link.is_closed:
            return False
        self._outbox += answers
        self._link.transport.unsent[self] = None
        return True

    def flush(self) -> None:
        """Write the answers that this turn has queued."""
        outbox, self._outbox = self._outbox, []
        if outbox and not self._link.is_closed:
            self._link.answers(wire.encode_answers(outbox))

    def close(self, reason: str) -> None:
        """See `ClientConnectionHandle`."""
        self.flush()
        self._link.lose(reason)
