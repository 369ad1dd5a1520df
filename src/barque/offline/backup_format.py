"""The list of files in a backup. Format: docs/formats/backup.md. Pure: bytes in, values out."""

import msgspec

from barque.log.checked_text import MalformedText, decode_text, encode_text
from barque.log.identity import Owner

MANIFEST = "backup"
"""The file's name, in the directory of the backup."""
DATA = "data"
"""The directory beside it that holds the files."""
_KIND = "backup"
_FORMAT = 1


class BackedUpFile(msgspec.Struct, frozen=True):
    """One file: its path below the data directory with slashes, its size in bytes, SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole backup. `at_ms` (Unix milliseconds) and `release` are for people."""

    owner: Owner
    at_ms: int
    release: str
    files: tuple[BackedUpFile, ...]


def encode_manifest(manifest: BackupManifest) -> bytes:
    """The whole file."""
    return encode_text(_KIND, _FORMAT, msgspec.json.encode(manifest) + b"\n")


def decode_manifest(data: bytes) -> BackupManifest:
    """Read a whole file. Raises `MalformedText`, also for a path that leads out of the backup."""
    try:
        manifest = msgspec.json.decode(decode_text(data, _KIND, _FORMAT), type=BackupManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedText(str(error)) from error
    for file in manifest.files:
        parts = file.path.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in file.path:
            raise MalformedText(f"{file.path!r} is no path below a data directory")
    return manifest
