"""Small files that people may read: a line with kind, format and checksum, then a text; replaced whole.

Pure: bytes in, bytes out. Formats: docs/formats/identity.md, tombstones.md and server-config.md.
"""

import re
import zlib

_HEAD = re.compile(rb"barque ([a-z ]+), format (\d{1,9}), crc32 ([0-9a-f]{8})\n")


class MalformedText(ValueError):
    """These bytes are no such file, or not all of it. The text says why."""


def encode_text(kind: str, version: int, body: bytes) -> bytes:
    """The whole file."""
    return b"barque %s, format %d, crc32 %08x\n" % (kind.encode(), version, zlib.crc32(body)) + body


def decode_text(data: bytes, kind: str, version: int, *older: int) -> bytes:
    """The body, of one of these versions. Raises `MalformedText`: a part of a file is never believed."""
    found = _HEAD.match(data)
    if found is None or found[1] != kind.encode():
        raise MalformedText(f"it does not begin with 'barque {kind}, format {version}'")
    written = int(found[2])
    if written not in (version, *older):
        raise MalformedText(f"format {written} is not known here; use the release that wrote it")
    body = data[found.end() :]
    if encode_text(kind, written, body) != data:
        raise MalformedText("its checksum is wrong")
    return body
