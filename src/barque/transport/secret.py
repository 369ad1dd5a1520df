"""Shared secrets: files, pipes or texts with one secret a line, and the roles that each secret grants.

The first line of a source is the secret to dial with; all of them are accepted. So a secret is changed
without a pause: add the new one, put it first, remove the old one (docs/operations/security.md).
"""

import errno
import os
import select
import stat
from collections.abc import Callable

import msgspec

from barque.errors import ConfigurationError
from barque.transport.authorization import Role

SECRET_BYTES_MIN = 16
STDIN = "-"
_SOURCE_BYTES_MAX = 4096
_PIPE_S = 10.0


class Secrets(msgspec.Struct, frozen=True):
    """The secrets of an installation. A secret of `node` grants every role, one of `admin` also `CLIENT`.

    All three are empty where certificates alone decide: then a proof proves nothing.
    """

    node: tuple[bytes, ...] = ()
    admin: tuple[bytes, ...] = ()
    client: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Secrets({len(self.node)} node, {len(self.admin)} admin, {len(self.client)} client)"

    def find(self, proves: Callable[[bytes], bool]) -> tuple[Role, bytes] | None:
        """The secret that fits, and the role that it grants; None if none fits."""
        if not self.node:
            return (Role.NODE, b"") if proves(b"") else None
        for role, secrets in ((Role.NODE, self.node), (Role.ADMIN, self.admin), (Role.CLIENT, self.client)):
            for secret in secrets:
                if proves(secret):
                    return role, secret
        return None

    def check(self) -> None:
        """Refuse one secret for two roles. Raises `ConfigurationError`."""
        every = (*self.node, *self.admin, *self.client)
        if len(set(every)) != len(every):
            raise ConfigurationError(
                "a secret is given twice, perhaps for two roles; make one for each with: openssl rand -hex 32"
            )
        if (self.admin or self.client) and not self.node:
            raise ConfigurationError(
                "there are secrets of administrators or clients, but none of nodes: secret_file"
            )

    @property
    def to_dial(self) -> bytes:
        """The nodes' secret to dial with; empty if there is none."""
        return self.node[0] if self.node else b""


def load_secret(path: str) -> bytes:
    """The secret of a file to dial with. Raises as `load_secrets`."""
    return load_secrets(path)[0]


def secret_of_environment() -> bytes | None:
    """The secret to dial with that BARQUE_SECRET_FILE or else BARQUE_SECRET gives; None if neither is set."""
    path, text = os.environ.get("BARQUE_SECRET_FILE"), os.environ.get("BARQUE_SECRET")
    if path:
        return load_secret(path)
    return parse_secrets(text.encode(), "BARQUE_SECRET")[0] if text else None


def load_secrets(path: str) -> tuple[bytes, ...]:
    """Read the secrets of a file or a pipe; `-` is the standard input.

    A file must belong to root or to us, and nobody else may write it. Its group may read it. Others may
    read it only if it belongs to root and lies on a file system that is mounted read-only, as the secrets of
    containers do. Raises `ConfigurationError`, which never holds a secret; its cause is a `PermissionError`
    if the file's owner or mode is wrong.
    """
    source = "/dev/stdin" if path == STDIN else path
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"secret file {path}: {said}") from error
    try:
        status = os.fstat(descriptor)  # of the file that is open, so that nobody can swap it
        if stat.S_ISREG(status.st_mode):
            _check_trust(path, status, descriptor)
        elif not stat.S_ISFIFO(status.st_mode):
            raise ConfigurationError(f"secret file {path} is neither a regular file nor a pipe")
        content = _read(path, descriptor)
    finally:
        os.close(descriptor)
    return parse_secrets(content, path)


def _read(path: str, descriptor: int) -> bytes:
    """Read to the end, which a pipe may reach late, or never."""
    content = b""
    while len(content) <= _SOURCE_BYTES_MAX:
        if not select.select([descriptor], [], [], _PIPE_S)[0]:
            raise ConfigurationError(f"secret file {path}: the pipe's writer does not end")
        piece = os.read(descriptor, _SOURCE_BYTES_MAX + 1)
        if not piece:
            return content
        content += piece
    raise ConfigurationError(f"secret file {path} is longer than {_SOURCE_BYTES_MAX} bytes")


def _check_trust(path: str, status: os.stat_result, descriptor: int) -> None:
    """Refuse a file that others can change or read."""
    mode = stat.S_IMODE(status.st_mode)
    is_mounted_for_us = status.st_uid == 0 and bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
    if status.st_uid not in (0, os.geteuid()):
        complaint = f"belongs to user {status.st_uid}; it must belong to root or to user {os.geteuid()}"
    elif mode & 0o022 and not is_mounted_for_us:
        complaint = f"has mode {mode:04o}: others can change it; run: chmod 600 {path}"
    elif mode & 0o007 and not is_mounted_for_us:
        complaint = f"has mode {mode:04o}: others can use it; run: chmod 600 {path}"
    else:
        return
    raise ConfigurationError(f"secret file {path} {complaint}") from PermissionError(errno.EPERM, complaint)


def parse_secrets(content: bytes, where: str) -> tuple[bytes, ...]:
    """The secrets of a text, one a line. Raises `ConfigurationError` if one is too short."""
    lines = [line.strip() for line in content.splitlines()]
    secrets = [line for line in lines if line] or [b""]
    return tuple(check_secret(secret, f"the secret in {where}") for secret in secrets)


def check_secret(secret: bytes, what: str = "the cluster secret") -> bytes:
    """The secret, if it is long enough. Raises `ConfigurationError` that tells how to make a good one."""
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigurationError(
            f"{what} has {len(secret)} bytes, at least {SECRET_BYTES_MIN} are needed; "
            "make one with: openssl rand -hex 32"
        )
    return secret
