"""TLS: contexts made of files, the names in a certificate, and the change of a connection to TLS.

A certificate counts only if an authority of `ca_file` has signed it. What it grants stands in its subject
alternative names:

- `DNS:n1` or `URI:barque:node:n1`: the node n1, and so every role
- `URI:barque:admin`: an administrator
- any other name: a client

TLS begins on a connection that is open already (`secure`). So the node counts connections, and may drop
them, before the first one has cost a TLS handshake, and each connection uses the newest certificate.
"""

import asyncio
import ssl
from collections.abc import Callable

import msgspec

from barque.errors import ConfigurationError
from barque.transport.authorization import Role

_NODE_URI = "barque:node:"
_ADMIN_URI = "barque:admin"


class Certificate(msgspec.Struct, frozen=True):
    """The names of the other side's certificate; no names if it has shown none."""

    dns: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()
    is_shown: bool = False

    def is_of_node(self, name: str) -> bool:
        """Whether it was issued to the node of this name."""
        return name.lower() in self.dns or f"{_NODE_URI}{name}" in self.uris

    @property
    def role(self) -> Role:
        """The role of a dialer that claims no node's name."""
        if _ADMIN_URI in self.uris or any(uri.startswith(_NODE_URI) for uri in self.uris):
            return Role.ADMIN
        return Role.CLIENT

    def __str__(self) -> str:
        names = sorted([*(f"DNS:{name}" for name in self.dns), *(f"URI:{uri}" for uri in self.uris)])
        return ", ".join(names)[:200] or (
            "a certificate without names" if self.is_shown else "no certificate"
        )


class ClientTls(msgspec.Struct, frozen=True):
    """The PEM files of a client: whom it trusts, and its own certificate, if it has one."""

    ca_file: str
    cert_file: str = ""
    key_file: str = ""

    def context(self) -> ssl.SSLContext:
        """A context with the files as they are now. Raises `ConfigurationError`."""
        return client_context(self.ca_file, self.cert_file, self.key_file)


def client_tls(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ClientTls | None:
    """The files of a client, or None without TLS. Raises `ConfigurationError` if they cannot be used."""
    if not ca_file:
        if cert_file or key_file:
            raise ConfigurationError(
                "tls_cert_file needs tls_ca_file: a client that speaks TLS checks the node"
            )
        return None
    tls = ClientTls(ca_file, cert_file or "", key_file or "")
    tls.context()
    return tls


def certificate_of(transport: asyncio.BaseTransport) -> Certificate:
    """The names of the certificate that the other side has shown on this connection."""
    found = transport.get_extra_info("ssl_object").getpeercert()
    names = found.get("subjectAltName", ()) if found else ()
    return Certificate(
        frozenset(value.lower() for kind, value in names if kind == "DNS"),
        frozenset(value for kind, value in names if kind == "URI"),
        bool(found),
    )


def server_context(
    cert_file: str, key_file: str, ca_file: str, *, demand_certificate: bool
) -> ssl.SSLContext:
    """A context for listeners. Dialers may show a certificate, or must. Raises `ConfigurationError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if demand_certificate else ssl.CERT_OPTIONAL
    return _filled(context, cert_file, key_file, ca_file)


def client_context(ca_file: str, cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """A context for dialers, who demand a certificate. Raises `ConfigurationError`.

    The node's name in it is compared later, when the node has said its name: the address is not the name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _filled(context, cert_file, key_file, ca_file)


def _filled(context: ssl.SSLContext, cert_file: str, key_file: str, ca_file: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if bool(cert_file) != bool(key_file):
        raise ConfigurationError("tls: cert_file and key_file belong together; give both, or neither")
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigurationError(f"tls: ca_file {ca_file}: {_said(error)}") from error
    if cert_file:
        try:
            context.load_cert_chain(cert_file, key_file, _no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"tls: cert_file {cert_file}, key_file {key_file}: {_said(error)}"
            ) from error
    return context


def _no_password() -> str:
    """Refuse an encrypted key instead of asking on the terminal."""
    raise ValueError("the key is encrypted; give one without a password, mode 0600")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not usable PEM files: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# --- the change of a connection to TLS -----------------------------------------------------


class _Gate(asyncio.Protocol):
    """Holds what arrives between the end of the TLS handshake and its taker's turn."""

    def __init__(self) -> None:
        self.early = b""

    def data_received(self, data: bytes) -> None:
        """Keep bytes: no more than the loop reads in one turn."""
        self.early += data


async def secure(
    raw: asyncio.Transport,
    protocol: asyncio.BufferedProtocol,
    context: ssl.SSLContext,
    timeout_s: float,
    *,
    server_side: bool,
    take: Callable[[asyncio.Transport], None],
) -> None:
    """Speak TLS on a connection from now on: `take` gets the new transport, `protocol` the bytes.

    `raw` must have read nothing yet (`pause_reading`). Raises `OSError` if the two sides do not agree.
    """
    gate = _Gate()
    transport = await asyncio.get_running_loop().start_tls(
        raw,
        gate,
        context,
        server_side=server_side,
        ssl_handshake_timeout=timeout_s,
        server_hostname=None if server_side else "",
    )
    if transport is None:
        raise ConnectionResetError("the connection was lost during the TLS handshake")
    transport.set_protocol(protocol)
    take(transport)
    early, gate.early = memoryview(gate.early), b""
    while early:
        room = memoryview(protocol.get_buffer(len(early)))
        count = min(len(room), len(early))
        room[:count] = early[:count]
        protocol.buffer_updated(count)
        early = early[count:]


def explain(error: OSError) -> str:
    """Why a TLS handshake has failed, and what helps, for both ends' log."""
    reason = (error.reason if isinstance(error, ssl.SSLError) else "") or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return f"TLS: the certificate of the other side is refused: {why}; check its dates, and ca_file"
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return "TLS: the other side does not speak TLS here; set it on both sides, or on neither"
    if "ALERT" in reason:
        why = reason.lower().replace("_", " ")
        return f"TLS: the other side refuses us ({why}); check our certificate, and its ca_file"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "TLS: the other side shows no certificate; give it tls_cert_file and tls_key_file"
    return f"TLS: {reason.lower().replace('_', ' ') or error or type(error).__name__}"
