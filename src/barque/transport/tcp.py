"""All connections of one node over TCP (docs/protocol/wire.md, "Connections").

Theory of operation. For each peer there are two connections: one that we open and only send on, and one that
the peer opens and we only receive on. So each side owns its own reconnects, and a half-open connection
breaks one direction only.

A frame is queued for a connection and written at the end of the loop's turn (`flush`), one write for each
connection. No call waits for the network. Each connection has a bound in bytes; messages beyond it are
dropped and counted, which Raft tolerates, and a client that does not read is cut off. A connection that
sends a malformed, oversized or unexpected frame is closed. Before the first message both sides prove who they
are (`handshake`), by secrets and over TLS also by certificates; the transport drops messages that claim to
come from another node than the connection belongs to.

Once a second the transport looks whether the files of its secrets and certificates have changed.
"""

import asyncio
import random
import secrets
import ssl
from collections.abc import Callable, Mapping

from barque.errors import ConfigurationError, Unauthenticated
from barque.transport.accepted import AcceptedConnection, ClientHandle
from barque.transport.authorization import Role
from barque.transport.budget import Budget
from barque.transport.connection import FramedConnection, join_address, open_server, split_address
from barque.transport.contract import Limits, PeerStatus, TransportCounters, TransportHandler, logger
from barque.transport.credentials import Credentials
from barque.transport.guesses import Guesses
from barque.transport.handshake import NONCE_BYTES, DialerHandshake, ListenerHandshake
from barque.transport.peer_link import PeerLink
from barque.transport.strangers import Strangers
from barque.transport.wire import PeerMessage
from barque.types import NAME_RULE, is_valid_name

_WATCH_S = 1.0
_ACCEPTING_TURNS = 4
_STALLED_S = 0.1
_COMPLAINTS_MAX = 256
_COMPLAIN_AGAIN_S = 60.0
_ADMIN_PLACES = 64
"""Places for administrators when clients have taken all of theirs."""


class TcpTransport:
    """Listens on `bind`, tells others `advertise`, and keeps a link to each of `peers` (name → address).

    `name` and `incarnation` are this node's; `cluster` must be the same on all nodes and clients, and their
    `credentials` must fit. `knows_node` says whether a node that is no peer may connect. `rng` spreads
    reconnects; `nonces` makes the random bytes of handshakes. An `advertise` with port 0, or an empty one,
    follows the port that was bound.
    """

    def __init__(
        self,
        *,
        name: str,
        incarnation: int,
        cluster: str,
        credentials: Credentials,
        bind: str,
        advertise: str,
        peers: Mapping[str, str],
        handler: TransportHandler,
        rng: random.Random,
        counters: TransportCounters | None = None,
        limits: Limits | None = None,
        nonces: Callable[[int], bytes] = secrets.token_bytes,
        knows_node: Callable[[str], bool] = lambda _node: False,
    ) -> None:
        for setting, value in (("node name", name), ("cluster name", cluster)):
            if not is_valid_name(value):
                raise ConfigurationError(f"the {setting} {value!r} is no name: a name has {NAME_RULE}")
        self.name = name
        self.advertise = advertise
        self.handler = handler
        self.counters = TransportCounters() if counters is None else counters
        self.limits = Limits() if limits is None else limits
        self._incarnation = incarnation
        self._cluster = cluster
        self.credentials = credentials
        self._bind = split_address(bind, "the bind address")
        self._rng = rng
        self._nonces = nonces
        self._knows_node = knows_node
        self._server: asyncio.Server | None = None
        self._links: dict[str, PeerLink] = {}
        self._dirty: list[PeerLink | ClientHandle] = []
        self._inbound: dict[str, AcceptedConnection] = {}
        self._accepted: set[AcceptedConnection] = set()
        self._clients = 0
        self.strangers: Strangers[AcceptedConnection] = Strangers(self.limits.unauthenticated_max)
        self.guesses = Guesses(lambda: asyncio.get_running_loop().time())
        self.input_budget = Budget(self.limits.clients_input_max, self.limits.client_frame_bytes_max * 2)
        self.output_budget = Budget(self.limits.clients_output_max, self.limits.client_output_max)
        self.stalled: dict[ClientHandle, None] = {}  # clients with many answers unread
        self._complaints: dict[tuple[str, str], float] = {}  # when a refusal was last logged
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopping = False
        for peer, address in peers.items():
            self.set_peer(peer, address)

    # --- life ---

    async def start(self) -> None:
        """Listen, and start to connect. Raises `ConfigurationError` if the address cannot be bound."""
        host, port = self._bind
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                self._server = await open_server(self._accept, host, port)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"cannot listen on {join_address(host, port)}: {error}; "
                "choose another bind address, or end the program that uses this one"
            ) from error
        bound = self._server.sockets[0].getsockname()
        advertised = split_address(self.advertise, "the advertised address") if self.advertise else (host, 0)
        if not advertised[1]:
            self.advertise = join_address(advertised[0], bound[1])
        self._bind = (host, bound[1])
        logger.info("node %s listens on %s", self.name, self.address)
        for link in self._links.values():
            link.start()
        if self.credentials.is_watched:
            self._each(_WATCH_S, "files", self.credentials.reload_if_changed)
        self._each(_STALLED_S, "stalled clients", self._look_at_stalled)

    def _each(self, interval_s: float, name: str, work: Callable[[], None]) -> None:
        """Do this again and again until the transport stops."""

        def again() -> None:
            self._timers[name] = asyncio.get_running_loop().call_later(interval_s, again)
            work()

        self._timers[name] = asyncio.get_running_loop().call_later(interval_s, again)

    def _look_at_stalled(self) -> None:
        for client in list(self.stalled):
            client.look_again()

    async def stop(self) -> None:
        """Flush and close every connection; abort connections that are still open after `linger_s`."""
        self.flush()
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        open_now: list[FramedConnection] = list(self._accepted)
        ending: list[asyncio.Task[None]] = []
        for link in self._links.values():
            open_now += link.connections
            ending += link.stop()
        if self._server is not None:
            self._server.close()
        for connection in open_now:
            connection.close("this node is stopping")
        await asyncio.gather(*ending, return_exceptions=True)
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)  # the loop hands over what it has accepted, and we cut it off
        open_now += self._accepted.difference(open_now)
        if open_now:
            waiting = [connection.closed for connection in open_now]
            await asyncio.wait(waiting, timeout=self.limits.linger_s)
            for connection in open_now:
                if not connection.closed.done():
                    connection.cut_off("this node is stopping")
            await asyncio.wait(waiting, timeout=self.limits.linger_s)

    @property
    def address(self) -> str:
        """The address that this node listens on; with its real port once it was started."""
        return join_address(*self._bind)

    # --- sending ---

    def send(
        self, node: str, to: str, message: PeerMessage, cluster_id: str = "", sender_uid: str = ""
    ) -> bool:
        """Queue a message for the server `to` on `node` until `flush`; False if it was dropped (REPL-21).

        It is dropped, and counted, if there is no link to that node or too much waits for it already.
        """
        link = self._links.get(node)
        if link is None:
            self.counters.dropped_sends += 1
            return False
        waiting = link.send(to, message, cluster_id, sender_uid)
        if waiting == 1:
            self._dirty.append(link)
        return waiting > 0

    def flush(self) -> None:
        """Write the messages queued in this turn: one write for each connection that has any."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for output in dirty:
                output.flush()

    def has_output(self, client: ClientHandle) -> None:
        """Include this client in the next flush."""
        self._dirty.append(client)

    # --- peers ---

    def set_peer(self, name: str, address: str) -> None:
        """Add a peer, or change its address. Raises `ConfigurationError` for a bad name or address."""
        if not is_valid_name(name) or name == self.name:
            raise ConfigurationError(f"a peer of node {self.name!r} cannot be called {name!r}")
        link = self._links.get(name)
        if link is not None:
            link.move(address)
            return
        link = PeerLink(
            name, address, self.handler, self.limits, self.counters, self._rng, self._dial, self._look_if_gone
        )
        self._links[name] = link
        if self._server is not None and not self._stopping:
            link.start()

    def remove_peer(self, name: str) -> None:
        """Disconnect a peer, both ways, and stop connecting to it."""
        link = self._links.pop(name, None)
        if link is not None:
            link.stop()
        inbound = self._inbound.get(name)
        if inbound is not None:
            inbound.close("no longer a peer")

    def nudge(self, node: str) -> None:
        """Try to connect at once instead of waiting for the back-off."""
        link = self._links.get(node)
        if link is not None:
            link.nudge()

    def connected(self) -> list[str]:
        """The peers whose links are up."""
        return [name for name, link in self._links.items() if link.is_up]

    def status(self) -> dict[str, PeerStatus]:
        """Our links, by peer."""
        return {name: link.status() for name, link in self._links.items()}

    # --- called by accepted connections ---

    def accepted(self, connection: AcceptedConnection) -> None:
        """A connection was accepted and is not authenticated yet; the oldest stranger may have to go."""
        self._accepted.add(connection)
        if self._stopping:
            connection.cut_off("this node is stopping")
            return
        oldest = self.strangers.add(connection)
        if oldest is not None:
            self.counters.unauthenticated_refused += 1
            oldest.cut_off("too many connections wait for their handshake")

    def refused(self, connection: AcceptedConnection, error: Unauthenticated, *, is_guess: bool) -> None:
        """A handshake has failed; `is_guess` if it was the secret that did not fit."""
        host = connection.remote_host
        if is_guess:
            self.guesses.wrong(host)
        self.complain(host, str(error))

    def complain(self, host: str, text: str) -> None:
        """Log why a connection was refused: once a minute for each host and reason."""
        now = asyncio.get_running_loop().time()
        if now - self._complaints.get((host, text), -_COMPLAIN_AGAIN_S) < _COMPLAIN_AGAIN_S:
            return
        self._complaints.pop((host, text), None)
        if len(self._complaints) >= _COMPLAINTS_MAX:
            del self._complaints[next(iter(self._complaints))]
        self._complaints[host, text] = now
        logger.warning("refused a connection from %s: %s", host, text)

    def knows(self, node: str) -> bool:
        """Whether a node of this name may connect."""
        return node in self._links or self._knows_node(node)

    def admit_peer(self, node: str, connection: AcceptedConnection) -> None:
        """A peer has proved its name. An older connection of it is from before a restart."""
        older = self._inbound.get(node)
        self._inbound[node] = connection
        self.nudge(node)  # who can reach us can be reached: do not sit out a back-off
        if older is not None:
            older.cut_off(f"replaced by a newer connection of {node}")

    def admit_client(self, client: ClientHandle) -> bool:
        """A client has proved its role; False if there are too many."""
        self._clients += 1
        return self._clients <= self.limits.clients_max + (_ADMIN_PLACES if client.role > Role.CLIENT else 0)

    def lost(self, connection: AcceptedConnection, node: str) -> None:
        """An accepted connection is gone."""
        self._accepted.discard(connection)
        if not connection.is_established:
            self.strangers.remove(connection)
        elif not node:
            self._clients -= 1
        elif self._inbound.get(node) is connection:
            del self._inbound[node]
            self._look_if_gone(node)

    # --- inside ---

    def _look_if_gone(self, node: str) -> None:
        """Tell the handler that a node's process is gone, if its address refuses us and its link to us ended.

        A process that lives keeps its own link, whatever has become of its address or of a proxy before it.
        """
        link = self._links.get(node)
        if link is not None and link.is_refused and node not in self._inbound and not self._stopping:
            self.handler.on_peer_gone(node)
            self.handler.on_turn()

    def _accept(self) -> AcceptedConnection:
        handshake = ListenerHandshake(
            name=self.name,
            cluster=self._cluster,
            incarnation=self._incarnation,
            secrets=self.credentials.secrets,
            nonce=self._nonces(NONCE_BYTES),
            knows=self.knows,
        )
        return AcceptedConnection(self, handshake, self.credentials.server_tls)

    def _dial(self, node: str) -> tuple[DialerHandshake, ssl.SSLContext | None]:
        handshake = DialerHandshake(
            role=Role.NODE,
            name=self.name,
            expected=node,
            cluster=self._cluster,
            incarnation=self._incarnation,
            secret=self.credentials.secrets.to_dial,
            nonce=self._nonces(NONCE_BYTES),
        )
        return handshake, self.credentials.client_tls
