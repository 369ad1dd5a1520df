"""The servers and clusters that were deleted for good, in one small file. Format: docs/formats/tombstones.md.

Pure: bytes in, values out. `barque.runtime.directory` writes the file.
"""

from collections.abc import Collection, Iterable

import msgspec

from barque.log.checked_text import MalformedText, decode_text, encode_text
from barque.types import Uid

TOMBSTONES = "tombstones"
"""The file's name, below `servers/`."""
KEPT_MAX = 4_096
"""Tombstones kept of clusters and members that no configuration can bring back."""

_KIND = "tombstones"
_FORMAT = 1


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """One server that was here. `whole_cluster`: so is its cluster gone, everywhere.

    `at_ms` is Unix milliseconds and for people only; `configured`: the cluster's id follows from its name,
    so that a configuration could form it again.
    """

    uid: Uid
    cluster_id: str
    cluster: str
    whole_cluster: bool
    configured: bool
    at_ms: int
    reason: str


_decode = msgspec.json.Decoder(list[Tombstone]).decode


def encode_tombstones(tombstones: Iterable[Tombstone]) -> bytes:
    """The whole file."""
    body = b"".join(
        (b"[\n", b",\n".join(msgspec.json.encode(tombstone) for tombstone in tombstones), b"\n]\n")
    )
    return encode_text(_KIND, _FORMAT, body)


def decode_tombstones(data: bytes) -> list[Tombstone]:
    """Read a whole file, oldest first. Raises `MalformedText`: a part of it is never believed."""
    try:
        return _decode(decode_text(data, _KIND, _FORMAT))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedText(str(error)) from error


def prune(tombstones: list[Tombstone], unfinished: Collection[Uid]) -> list[Tombstone]:
    """The tombstones to keep, oldest first.

    Keep tombstones of servers that still have data; of each configured cluster the last one of either kind,
    since the configuration may name the cluster indefinitely; and the newest `KEPT_MAX` of the others, which
    are needed only until every member that was out of reach has heard of the end.
    """
    last = {(t.cluster_id, t.whole_cluster): t.uid for t in tombstones if t.configured}
    others = [t.uid for t in tombstones if not t.configured][-KEPT_MAX:]
    keep = {*unfinished, *last.values(), *others}
    return [tombstone for tombstone in tombstones if tombstone.uid in keep]
