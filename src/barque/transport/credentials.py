"""The secrets and certificates of one node: read from files, and read again when these change.

A new certificate or secret counts for connections that begin afterwards; what is connected stays so. If the
new files cannot be used the node keeps what it has, and says so.
"""

import os
import ssl

from barque.config import NodeConfig, TlsConfig
from barque.errors import ConfigurationError
from barque.transport.contract import logger
from barque.transport.secret import STDIN, Secrets, load_secrets, parse_secrets
from barque.transport.tls import client_context, server_context

_Signature = tuple[tuple[int, int, int], ...]


class Credentials:
    """What a node proves, and what it demands. `secrets` and the contexts are the newest that work."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._watched = [path for path in _files(config) if path not in ("", STDIN)]
        self._seen = self._signature()
        self._failed = ""
        self._once: dict[str, tuple[bytes, ...]] = {}  # of pipes, which can be read only once
        self._load()

    @classmethod
    def of_secret(cls, secret: bytes) -> "Credentials":
        """One secret for all roles, and no TLS. Raises `ConfigurationError` if it is too short."""
        text = secret.decode()
        return cls(NodeConfig(name="", data_dir="", nodes={}, secret=text))

    def _load(self) -> None:
        config, tls = self._config, self._config.tls
        secrets = Secrets(
            self._secrets(config.secret, config.secret_file, "secret"),
            self._secrets(config.admin_secret, config.admin_secret_file, "admin_secret"),
            self._secrets(config.client_secret, config.client_secret_file, "client_secret"),
        )
        secrets.check()
        server = client = None
        if tls is not None:
            server = server_context(
                tls.cert_file, tls.key_file, tls.ca_file, demand_certificate=tls.client_cert_required
            )
            client = client_context(tls.ca_file, tls.cert_file, tls.key_file)
        self.secrets = secrets
        self.server_tls: ssl.SSLContext | None = server
        self.client_tls: ssl.SSLContext | None = client

    def _secrets(self, text: str, path: str, setting: str) -> tuple[bytes, ...]:
        if text:
            return parse_secrets(text.encode(), setting)
        if not path:
            return ()
        if path in self._once:
            return self._once[path]
        secrets = load_secrets(path)
        if path == STDIN or not os.path.isfile(path):
            self._once[path] = secrets
        return secrets

    def reload_if_changed(self) -> None:
        """Read the files again if one of them is another than before; cheap enough for each second."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            self.reload()

    def reload(self) -> bool:
        """Read the files again. If one cannot be used, keep everything, log why, and return False."""
        try:
            self._load()
        except ConfigurationError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                logger.error("secrets and certificates stay as they were: %s", error)
            return False
        self._failed = ""
        logger.info("secrets and certificates were read again; connections that begin now use them")
        return True

    @property
    def is_watched(self) -> bool:
        """Whether there are files that may change."""
        return bool(self._watched)

    def _signature(self) -> _Signature:
        """What tells a file from another or a later one. A file that is gone for a moment is no news."""
        found = []
        for path in self._watched:
            try:
                status = os.stat(path)
            except (OSError, ValueError):
                found.append((0, 0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)


def _files(config: NodeConfig) -> list[str]:
    tls = config.tls or TlsConfig("", "", "")
    secrets = (config.secret_file, config.admin_secret_file, config.client_secret_file)
    return [*secrets, tls.cert_file, tls.key_file, tls.ca_file]
