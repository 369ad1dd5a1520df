"""The cluster's shared secret: a file that only its owner can read."""

import os
import stat

from barque.errors import ConfigurationError

SECRET_BYTES_MIN = 16
_SECRET_BYTES_MAX = 4096


def load_secret(path: str) -> bytes:
    """Read a secret file; white space around the secret does not count.

    Raises `ConfigurationError` if the file cannot be read, if its group or others may read or
    write it, or if the secret is shorter than 16 bytes. The error never holds the secret.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block us
    except OSError as error:
        raise ConfigurationError(f"secret file {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)  # of the file that is open, so that nobody can swap it
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"secret file {path} is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise ConfigurationError(
                f"secret file {path} has mode {mode:04o}: others can use it; run: chmod 600 {path}"
            )
        secret = os.read(descriptor, _SECRET_BYTES_MAX + 1).strip()
    finally:
        os.close(descriptor)
    if len(secret) > _SECRET_BYTES_MAX:
        raise ConfigurationError(f"secret file {path} is longer than {_SECRET_BYTES_MAX} bytes")
    return check_secret(secret, f"the secret in {path}")


def check_secret(secret: bytes, what: str = "the cluster secret") -> bytes:
    """The secret, if it is long enough. Raises `ConfigurationError` that tells how to make a good one."""
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigurationError(
            f"{what} has {len(secret)} bytes, at least {SECRET_BYTES_MIN} are needed; "
            "make one with: openssl rand -hex 32"
        )
    return secret
