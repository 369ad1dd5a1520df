"""Slow links, and impostors at a node's address."""

import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from barque.errors import ProtocolError, Unauthenticated
from barque.testing.sim.loop import VirtualLoop
from barque.transport.authorization import Role
from barque.transport.framing import HELLO_BYTES_MAX, FrameReader
from barque.transport.handshake import DialerHandshake, ListenerHandshake
from barque.transport.secret import Secrets

INSTALLATION = "barque"
_NOBODY = "nobody"  # no node of the installation
SECRET = b"simulated"
BUFFER_BYTES = 4_096
"""While this many bytes wait on a slow link, the sender is full, and `Transport.send` returns False."""


class SlowLink:
    """One direction of a link with little bandwidth: frames leave one by one, by their sizes."""

    def __init__(self, loop: VirtualLoop, bytes_a_second: float) -> None:
        self._loop = loop
        self._rate = bytes_a_second
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether the sender should wait."""
        return self._waiting > BUFFER_BYTES

    def put(self, size: int, depart: Callable[[], None]) -> None:
        """Queue a frame of this size."""
        self._queue.append((size, depart))
        self._waiting += size
        if len(self._queue) == 1:
            self._loop.later(size / self._rate, self._pass)

    def _pass(self) -> None:
        if self._queue:
            size, depart = self._queue.popleft()
            self._waiting -= size
            depart()
            if self._queue:
                self._loop.later(self._queue[0][0] / self._rate, self._pass)

    def renew(self) -> "SlowLink":
        """Return a link as slow, for the next connection; what waits on this one is lost."""
        self._queue.clear()
        return SlowLink(self._loop, self._rate)

    def end(self) -> None:
        """Let all waiting frames leave now, in order."""
        self._waiting = 0
        while self._queue:
            self._queue.popleft()[1]()


class Who(NamedTuple):
    """An identity in a handshake."""

    name: str
    incarnation: int
    installation: str = INSTALLATION
    secret: bytes = SECRET

    def dials(self, expected: str, nonce: bytes) -> DialerHandshake:
        """This side of a handshake, when it connects to an address at which it expects that node."""
        return DialerHandshake(
            role=Role.NODE,
            name=self.name,
            expected=expected,
            cluster=self.installation,
            incarnation=self.incarnation,
            secret=self.secret,
            nonce=nonce,
        )

    def listens(self, nonce: bytes) -> ListenerHandshake:
        """This side of a handshake, when another connects to it."""
        return ListenerHandshake(
            name=self.name,
            cluster=self.installation,
            incarnation=self.incarnation,
            secrets=Secrets(node=(self.secret,)),
            nonce=nonce,
            knows=lambda name: name != _NOBODY,
        )


class Impostor:
    """Another node at a node's address, which production's handshakes must refuse.

    `kind` says what is wrong with it: its `installation`, its `secret`, or its `name`. `on_welcome` is called
    with the name of a node that accepts it.
    """

    KINDS = ("installation", "secret", "name")

    def __init__(
        self, kind: str, instead_of: str, rng: random.Random, on_welcome: Callable[[str], None]
    ) -> None:
        self.refusals = 0
        self._instead_of = instead_of
        self._rng = rng
        self._on_welcome = on_welcome
        self._who = Who(
            _NOBODY if kind == "name" else instead_of,
            self._rng.getrandbits(60),
            "elsewhere" if kind == "installation" else INSTALLATION,
            b"another" if kind == "secret" else SECRET,
        )

    def answer(self, dialer: str, incarnation: int) -> None:
        """Handle a node that dials the address; the impostor dials that node as well."""
        victim, nonce = Who(dialer, incarnation), self._rng.randbytes
        self._meet(victim.dials(self._instead_of, nonce(32)), self._who.listens(nonce(32)), dialer)
        self._meet(self._who.dials(dialer, nonce(32)), victim.listens(nonce(32)), dialer)

    def _meet(self, dialer: DialerHandshake, listener: ListenerHandshake, victim: str) -> None:
        """Run a handshake until one side refuses: HELLO, CHALLENGE, PROOF, WELCOME."""
        frame = dialer.start()
        try:
            for side in (listener, dialer, listener, dialer):
                reader = FrameReader(HELLO_BYTES_MAX)
                reader.feed(frame)
                whole = reader.next_frame()
                assert whole is not None, "each side speaks in whole frames"
                frame = side.receive(whole.kind, bytes(whole.payload)).send
        except (Unauthenticated, ProtocolError):
            self.refusals += 1
        else:
            self._on_welcome(victim)
