"""One line that says where an installation is: `barque://host:port[,host:port…][/cluster][?option=value&…]`.

The secret may stand before the addresses, as `barque://:SECRET@host:port`. It never appears in an error: a
text that may hold a part of it, because a character was not percent-encoded, is not shown either.
"""

import math
import os
from typing import Any
from urllib.parse import unquote

import msgspec

from barque.client.client import Client
from barque.errors import ConfigurationError
from barque.transport.secret import load_secret, secret_of_environment
from barque.transport.tls import ClientTls, client_tls

SCHEME = "barque://"
FORM = "barque://HOST:PORT[,HOST:PORT…][/CLUSTER][?installation=…&timeout_s=…&secret_file=…]"
_TLS_OPTIONS = ("tls_ca_file", "tls_cert_file", "tls_key_file")
_OPTIONS = ("installation", "timeout_s", "secret_file", *_TLS_OPTIONS)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to know; `timeout_s` in seconds."""

    nodes: tuple[str, ...]
    secret: bytes
    installation: str
    timeout_s: float
    cluster: str | None
    tls: ClientTls | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments of a client for this place."""
        tls = self.tls or ClientTls("")
        return {
            "secret": self.secret,
            "installation": self.installation,
            "timeout_s": self.timeout_s,
            "cluster": self.cluster,
            **{f"tls_{name}": getattr(tls, name) or None for name in tls.__struct_fields__},
        }

    def __repr__(self) -> str:
        return f"Place({','.join(self.nodes)}/{self.cluster or ''})"


def connect(
    url: str,
    *,
    secret: str | bytes | None = None,
    secret_file: str | None = None,
    installation: str | None = None,
    timeout_s: float | None = None,
    tls_ca_file: str | None = None,
    tls_cert_file: str | None = None,
    tls_key_file: str | None = None,
) -> Client:
    """A client for `barque://host:port[,host:port…][/cluster][?installation=…&timeout_s=…&secret_file=…]`.

    `async with barque.connect(url) as client:` connects on entry. `client.cluster()` is the cluster in the
    path. An argument counts more than the URL, and the URL more than the environment:

    - the secret: `secret`, or the file `secret_file` (mode 0600); else `barque://:SECRET@…`, with
      percent-encoding, or `?secret_file=…`; else the file that BARQUE_SECRET_FILE names, or BARQUE_SECRET
    - TLS: `tls_ca_file`, `tls_cert_file` and `tls_key_file`, as options of the URL too, and as
      BARQUE_TLS_CA_FILE and so on; with a certificate of its own a client may have no secret
    - the installation: `installation`, `?installation=…`, BARQUE_INSTALLATION, or `barque`
    - `timeout_s` or `?timeout_s=…`: for requests without a timeout of their own, in seconds; 5 by default

    Raises `ConfigurationError`, before anything is connected: the text names the part that is wrong.
    """
    place = read_url(
        url,
        secret=secret,
        secret_file=secret_file,
        installation=installation,
        timeout_s=timeout_s,
        tls_ca_file=tls_ca_file,
        tls_cert_file=tls_cert_file,
        tls_key_file=tls_key_file,
    )
    return Client(place.nodes, **place.options())


def read_url(
    url: str,
    *,
    secret: str | bytes | None,
    secret_file: str | None,
    installation: str | None,
    timeout_s: float | None,
    tls_ca_file: str | None = None,
    tls_cert_file: str | None = None,
    tls_key_file: str | None = None,
) -> Place:
    """The place that a URL, arguments and the environment name. Raises `ConfigurationError`."""
    if not isinstance(url, str) or not url.startswith(SCHEME):
        raise ConfigurationError(f"the URL does not begin with {SCHEME}; write {FORM}")
    rest, _, query = url[len(SCHEME) :].partition("?")
    authority, _, path = rest.partition("/")
    if "@" in path or "@" in query or "#" in url:
        raise ConfigurationError(
            "the URL has an @ or a # in a place where none belongs; in a secret write / as %2F, ? as %3F, "
            "# as %23 and @ as %40"
        )
    credentials, at, addresses = authority.rpartition("@")
    options, nodes, own_secret = _options(query), _addresses(addresses), _own_secret(at, credentials)
    given = zip(_TLS_OPTIONS, (tls_ca_file, tls_cert_file, tls_key_file), strict=True)
    tls = client_tls(
        *(path or options.get(name) or os.environ.get(f"BARQUE_{name.upper()}") for name, path in given)
    )
    has_certificate = tls is not None and bool(tls.cert_file)
    return Place(
        nodes=nodes,
        secret=_secret(secret, secret_file, own_secret, options.get("secret_file"), optional=has_certificate),
        tls=tls,
        installation=installation
        or options.get("installation")
        or os.environ.get("BARQUE_INSTALLATION")
        or "barque",
        timeout_s=_timeout_s(options.get("timeout_s")) if timeout_s is None else timeout_s,
        cluster=_cluster(path),
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or not equals:
            raise ConfigurationError(f"the URL has an unknown option; known are: {', '.join(_OPTIONS)}")
        if name in options or not value:
            raise ConfigurationError(f"the URL gives {name} {'twice' if name in options else 'no value'}")
        options[name] = unquote(value)
    return options


def _own_secret(at: str, credentials: str) -> bytes | None:
    """The secret in the URL, if it has one."""
    if not at:
        return None
    user, colon, secret = credentials.partition(":")
    if user or not colon or not secret:
        raise ConfigurationError(
            "before the @ of the URL stands :SECRET, with a colon and without a user name"
        )
    return unquote(secret).encode()


def _secret(
    secret: str | bytes | None,
    secret_file: str | None,
    in_url: bytes | None,
    file_in_url: str | None,
    *,
    optional: bool,
) -> bytes:
    """The nearest secret: arguments, then the URL, then the environment."""
    for value, path, where in ((secret, secret_file, "arguments"), (in_url, file_in_url, "the URL")):
        if value is not None and path is not None:
            raise ConfigurationError(f"{where}: give either the secret or secret_file, not both")
        if value is not None:
            return value.encode() if isinstance(value, str) else value
        if path is not None:
            return load_secret(path)
    found = secret_of_environment()
    if found is None and not optional:
        raise ConfigurationError(
            "which secret? Give secret= or secret_file=, ?secret_file=… in the URL, or set "
            "BARQUE_SECRET_FILE or BARQUE_SECRET"
        )
    return found or b""


def _addresses(text: str) -> tuple[str, ...]:
    """`host:port,…`. Errors count the addresses and do not show them: they may be a secret without its @."""
    parts = text.split(",")
    for number, part in enumerate(parts, start=1):
        host, colon, port = part.rpartition(":")
        which = f"address {number} of {len(parts)} in the URL"
        if not colon or not host:
            raise ConfigurationError(f"{which} is not HOST:PORT; write {FORM}")
        if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ConfigurationError(f"{which} has no port from 1 to 65535 behind its last colon")
    return tuple(parts)


def _timeout_s(text: str | None) -> float:
    if text is None:
        return 5.0
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s < math.inf:
        raise ConfigurationError(f"timeout_s in the URL is {text!r}; give seconds, as in timeout_s=2.5")
    return timeout_s


def _cluster(path: str) -> str | None:
    if "/" in path.rstrip("/"):
        raise ConfigurationError("the path of the URL has more than one part; it is the name of one cluster")
    return unquote(path.rstrip("/")) or None
