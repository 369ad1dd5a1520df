"""Authentication: a mutual challenge and response, sans-IO (docs/protocol/wire.md, "Handshake").

::

    dialer                                       listener
      HELLO      version, role, names, nonce  →
                                              ←  CHALLENGE  version, name, nonce
      PROOF      MAC(secret, "dialer", both)  →
                                              ←  WELCOME    role, MAC(secret, "listener", both, role)

Both MACs cover every byte of HELLO and CHALLENGE, so version, role, cluster, names, incarnations and
both fresh nonces are bound; the labels differ, so that neither proof can be reflected. The dialer
proves first, so that a dialer without the secret gets no MAC to guess it from. Either side may answer REFUSED
with a text instead. Every failure says what differs and what to do, in words that fit both sides.

A node claims its name, and must prove a secret of nodes, and over TLS a certificate of that name. Anybody
else claims the highest role that it wants, and is welcomed in the highest that its secret and its certificate
grant.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable

import msgspec

from barque.errors import ProtocolError, Unauthenticated
from barque.transport.authorization import Role
from barque.transport.framing import FrameKind, encode_frame
from barque.transport.secret import Secrets
from barque.transport.tls import Certificate
from barque.types import is_valid_name

WIRE_VERSION = 8
"""The protocol version: it changes with the handshake, a message or a tag."""

NONCE_BYTES = 32
_REFUSAL_BYTES_MAX = 1024
_MAGIC = b"BARQ"
_PREFIX = struct.Struct("<4sH")  # magic, version: the same in every version of this protocol
_HELLO = struct.Struct("<4sHBQ32sBBB")  # magic, version, role, incarnation, nonce, three name lengths
_CHALLENGE = struct.Struct("<4sHQ32sB")  # magic, version, incarnation, nonce, name length
_DIALER_LABEL = b"barque dialer proof\0"
_LISTENER_LABEL = b"barque listener proof\0"


class Hello(msgspec.Struct, frozen=True, gc=False):
    """The dialer's first message. `name` is empty for clients; `expected` is empty if any node will do."""

    version: int
    role: Role
    incarnation: int
    nonce: bytes
    cluster: str
    name: str
    expected: str


class Challenge(msgspec.Struct, frozen=True, gc=False):
    """The listener's reply."""

    version: int
    incarnation: int
    nonce: bytes
    name: str


class Established(msgspec.Struct, frozen=True, gc=False):
    """What a handshake has proved: the dialer's role, and the other side's name, which no client has."""

    role: Role
    node: str
    incarnation: int


class Step(msgspec.Struct, frozen=True, gc=False):
    """The frame to send now, and whether the handshake has succeeded with it."""

    send: bytes = b""
    established: Established | None = None


def encode_hello(hello: Hello) -> bytes:
    """The payload of a HELLO."""
    names = [text.encode() for text in (hello.cluster, hello.name, hello.expected)]
    lengths = [len(name) for name in names]
    head = _HELLO.pack(_MAGIC, hello.version, hello.role, hello.incarnation, hello.nonce, *lengths)
    return head + b"".join(names)


def decode_hello(payload: bytes) -> Hello:
    """Read a HELLO. Raises `ProtocolError` for malformed bytes."""
    try:
        magic, version, role, incarnation, nonce, *lengths = _HELLO.unpack_from(payload)
        names = _split_names(payload, _HELLO.size, lengths)
        if magic != _MAGIC:
            raise ProtocolError("this is no Barque hello")
        return Hello(version, Role(role), incarnation, nonce, *names)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"malformed hello: {error}") from error


def encode_challenge(challenge: Challenge) -> bytes:
    """The payload of a CHALLENGE."""
    name = challenge.name.encode()
    return (
        _CHALLENGE.pack(_MAGIC, challenge.version, challenge.incarnation, challenge.nonce, len(name)) + name
    )


def decode_challenge(payload: bytes) -> Challenge:
    """Read a CHALLENGE. Raises `ProtocolError` for malformed bytes."""
    try:
        magic, version, incarnation, nonce, length = _CHALLENGE.unpack_from(payload)
        (name,) = _split_names(payload, _CHALLENGE.size, [length])
        if magic != _MAGIC:
            raise ProtocolError("this is no Barque challenge")
        return Challenge(version, incarnation, nonce, name)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"malformed challenge: {error}") from error


def _version_of(payload: bytes) -> int:
    """The version, which stands first so that any other version of this protocol can be told from it."""
    if len(payload) < _PREFIX.size or not payload.startswith(_MAGIC):
        raise ProtocolError("this is no Barque handshake")
    version: int = _PREFIX.unpack_from(payload)[1]
    return version


def _split_names(payload: bytes, offset: int, lengths: list[int]) -> list[str]:
    """The names at the end of a payload; it must end where they do."""
    if len(payload) != offset + sum(lengths):
        raise ProtocolError("handshake: lengths and bytes disagree")
    names = []
    for length in lengths:
        name = payload[offset : offset + length].decode("ascii")
        if name and not is_valid_name(name):
            raise ProtocolError("handshake: a name has characters that no name has")
        names.append(name)
        offset += length
    return names


def refusal(text: str) -> bytes:
    """A REFUSED frame, which tells the other side why this side closes the connection."""
    return encode_frame(FrameKind.REFUSED, text.encode(errors="replace")[:_REFUSAL_BYTES_MAX])


def _refused_by_other(payload: bytes) -> Unauthenticated:
    """Make the other side's text safe for a log: it is not authenticated."""
    text = payload[:_REFUSAL_BYTES_MAX].decode("utf-8", "replace")
    return Unauthenticated(
        "refused by the other side: " + "".join(c if c.isprintable() else "?" for c in text)
    )


def _mac(secret: bytes, label: bytes, hello: bytes, challenge: bytes, role: bytes = b"") -> bytes:
    """A keyed digest over all handshake messages. The hello's length separates the two."""
    text = b"".join((label, struct.pack("<I", len(hello)), hello, challenge, role))
    return hmac.new(secret, text, hashlib.sha256).digest()


def _check_version(dialer: str, dialer_version: int, listener: str, listener_version: int) -> None:
    if dialer_version != listener_version:
        raise Unauthenticated(
            f"protocol versions differ: {dialer} speaks {dialer_version}, "
            f"{listener} speaks {listener_version}; upgrade the older one"
        )


def _secrets_differ(dialer: str, listener: str) -> Unauthenticated:
    return Unauthenticated(
        f"the cluster secrets of {dialer} and {listener} differ; give both the same secret file and restart"
    )


class DialerHandshake:
    """The side that connects. `nonce` must be 32 fresh random bytes.

    Feed each received frame to `receive`; it raises `Unauthenticated` (say why with `refusal`, unless
    the frame was a REFUSED) or `ProtocolError`, after which the connection must end.
    """

    def __init__(
        self,
        *,
        role: Role,
        name: str,
        expected: str,
        cluster: str,
        incarnation: int,
        secret: bytes,
        nonce: bytes,
    ) -> None:
        assert len(nonce) == NONCE_BYTES, "a nonce has 32 bytes"
        assert (role is Role.NODE) == bool(name), "nodes have a name, clients have none"
        self.certificate: Certificate | None = None  # the listener's; None without TLS
        self._secret = secret
        self._me = f"node {name!r}" if name else "the client"
        self._hello = Hello(WIRE_VERSION, role, incarnation, nonce, cluster, name, expected)
        self._hello_bytes = encode_hello(self._hello)
        self._challenge_bytes = b""
        self._challenge: Challenge | None = None

    def start(self) -> bytes:
        """The first frame of the handshake."""
        return encode_frame(FrameKind.HELLO, self._hello_bytes)

    def receive(self, kind: FrameKind, payload: bytes) -> Step:
        """Take one frame of the listener."""
        if kind is FrameKind.REFUSED:
            raise _refused_by_other(payload)
        if kind is FrameKind.CHALLENGE and self._challenge is None:
            return self._on_challenge(payload)
        if kind is FrameKind.WELCOME and self._challenge is not None:
            return self._on_welcome(payload, self._challenge)
        raise ProtocolError(f"handshake: {kind.name} out of turn")

    def _on_challenge(self, payload: bytes) -> Step:
        _check_version(self._me, self._hello.version, "the listener", _version_of(payload))
        challenge = decode_challenge(payload)
        if not challenge.name or self._hello.expected not in ("", challenge.name):
            raise _wrong_node(self._me, self._hello.expected, challenge.name)
        _check_certificate(self.certificate, challenge.name)
        self._challenge, self._challenge_bytes = challenge, payload
        proof = _mac(self._secret, _DIALER_LABEL, self._hello_bytes, payload)
        return Step(send=encode_frame(FrameKind.PROOF, proof))

    def _on_welcome(self, payload: bytes, challenge: Challenge) -> Step:
        said, proof = payload[:1], payload[1:]
        expected = _mac(self._secret, _LISTENER_LABEL, self._hello_bytes, self._challenge_bytes, said)
        if not hmac.compare_digest(expected, proof) or said[0] not in range(1, self._hello.role + 1):
            raise _secrets_differ(self._me, f"node {challenge.name!r}")
        return Step(established=Established(Role(said[0]), challenge.name, challenge.incarnation))


class ListenerHandshake:
    """The side that accepted the connection. Like `DialerHandshake`, but it waits for the first frame.

    `knows` says whether a node of that name belongs to the installation.
    """

    def __init__(
        self,
        *,
        name: str,
        cluster: str,
        incarnation: int,
        secrets: Secrets,
        nonce: bytes,
        knows: Callable[[str], bool],
    ) -> None:
        assert len(nonce) == NONCE_BYTES, "a nonce has 32 bytes"
        self.certificate: Certificate | None = None  # the dialer's; None without TLS
        self._secrets = secrets
        self._knows = knows
        self._cluster = cluster
        self._challenge = Challenge(WIRE_VERSION, incarnation, nonce, name)
        self._challenge_bytes = encode_challenge(self._challenge)
        self._hello_bytes = b""
        self._hello: Hello | None = None
        self._done = False

    def receive(self, kind: FrameKind, payload: bytes) -> Step:
        """Take one frame of the dialer."""
        if kind is FrameKind.REFUSED:
            raise _refused_by_other(payload)
        if kind is FrameKind.HELLO and self._hello is None:
            return self._on_hello(payload)
        if kind is FrameKind.PROOF and self._hello is not None and not self._done:
            return self._on_proof(payload, self._hello)
        raise ProtocolError(f"handshake: {kind.name} out of turn")

    def _on_hello(self, payload: bytes) -> Step:
        name = self._challenge.name
        me = f"node {name!r}"
        _check_version("the dialer", _version_of(payload), me, self._challenge.version)
        hello = decode_hello(payload)
        them = _called(hello)
        if (hello.role is Role.NODE) != bool(hello.name) or not hello.cluster:
            raise ProtocolError("hello: a node has a name, a client has none, and both name a cluster")
        if hello.cluster != self._cluster:
            raise Unauthenticated(
                f"cluster names differ: {them} belongs to {hello.cluster!r}, {me} to {self._cluster!r}; "
                "set the same cluster name on both, or correct the address"
            )
        if hello.expected not in ("", name):
            raise _wrong_node(them, hello.expected, name)
        if hello.name == name:
            raise Unauthenticated(
                f"two nodes are called {name!r}, or {me} has its own address as a peer's; "
                "give each node its own name"
            )
        self._hello, self._hello_bytes = hello, payload
        return Step(send=encode_frame(FrameKind.CHALLENGE, self._challenge_bytes))

    def _on_proof(self, payload: bytes, hello: Hello) -> Step:
        found = self._secrets.find(
            lambda secret: hmac.compare_digest(
                _mac(secret, _DIALER_LABEL, self._hello_bytes, self._challenge_bytes), payload
            )
        )
        if found is None:
            raise _secrets_differ(_called(hello), f"node {self._challenge.name!r}")
        granted, secret = found
        role = self._role(hello, granted)
        self._done = True
        said = bytes((role,))
        welcome = _mac(secret, _LISTENER_LABEL, self._hello_bytes, self._challenge_bytes, said)
        return Step(
            send=encode_frame(FrameKind.WELCOME, said + welcome),
            established=Established(role, hello.name, hello.incarnation),
        )

    def _role(self, hello: Hello, granted: Role) -> Role:
        """The role of a dialer whose secret grants this one. Raises `Unauthenticated` for a false node."""
        if hello.role is not Role.NODE:
            role = min(hello.role, granted)
            certificate = self.certificate
            return min(role, certificate.role) if certificate is not None and certificate.is_shown else role
        them, me = _called(hello), f"node {self._challenge.name!r}"
        if granted is not Role.NODE:
            raise Unauthenticated(
                f"{them} has proved a secret of {granted.name.lower()}s; give it the nodes' secret file"
            )
        _check_certificate(self.certificate, hello.name)
        if not self._knows(hello.name):
            raise Unauthenticated(
                f"{them} is not among the nodes of {me}; add it to [nodes] on every node, and restart {me}"
            )
        return Role.NODE


def _check_certificate(certificate: Certificate | None, node: str) -> None:
    """Over TLS a node shows a certificate of its own name. Raises `Unauthenticated`."""
    if certificate is not None and not certificate.is_of_node(node):
        raise Unauthenticated(
            f"node {node!r} shows {certificate}; its certificate must name DNS:{node} or "
            f"URI:barque:node:{node}"
        )


def _called(hello: Hello) -> str:
    return f"node {hello.name!r}" if hello.name else "the client"


def _wrong_node(dialer: str, expected: str, found: str) -> Unauthenticated:
    return Unauthenticated(
        f"{dialer} expected node {expected!r} at this address, but node {found!r} answers there; "
        f"correct the address of {expected!r}"
    )
