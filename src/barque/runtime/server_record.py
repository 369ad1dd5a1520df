"""What a restart needs to know of a server, as bytes. Format: docs/formats/server-config.md.

Pure: `barque.runtime.directory` writes the file.
"""

import base64
import hashlib
from typing import Any

import msgspec

from barque.log.checked_text import MalformedText, decode_text, encode_text
from barque.types import NOWHERE, IndexTerm, ServerId, Uid

_KIND = "server"
_FORMAT = 3


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server that a restart needs.

    `initial_uids` are the incarnations of the initial members (`name@node`) that were known when the
    cluster was formed; `joined_at` is what was committed when this server was made to join.
    """

    name: str
    uid: Uid
    cluster: str
    machine: str
    arguments: dict[str, Any]
    initial_members: tuple[ServerId, ...]
    cluster_id: str = ""
    membership: str = "voter"
    initial_uids: dict[str, Uid] = {}
    joined_at: IndexTerm = NOWHERE


class _Format(msgspec.Struct):
    format: int


def configured_cluster_id(installation: str, cluster: str) -> str:
    """The id of a cluster that configurations name: nodes agree on it without talking."""
    digest = hashlib.sha256(f"barque cluster\0{installation}\0{cluster}".encode()).digest()
    return "C" + base64.b32encode(digest)[:19].decode()


def encode_record(record: ServerRecord) -> bytes:
    """The whole file."""
    return encode_text(_KIND, _FORMAT, msgspec.json.encode(record) + b"\n")


def is_old(data: bytes) -> bool:
    """Whether this is a file of format 1 or 2: a JSON object without a checksum."""
    return data.startswith(b"{")


def decode_record(data: bytes, installation: str) -> ServerRecord:
    """Read a whole file of any format. Raises `MalformedText`.

    A record of format 1 is of the configured cluster of its name in this installation.
    """
    try:
        body = data if is_old(data) else decode_text(data, _KIND, _FORMAT)
        record = msgspec.json.decode(body, type=ServerRecord)
        version = msgspec.json.decode(body, type=_Format).format if is_old(data) else _FORMAT
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedText(str(error)) from error
    if version == 1:
        cluster_id = configured_cluster_id(installation, record.cluster)
        record = msgspec.structs.replace(record, cluster_id=cluster_id)
    elif version not in (2, _FORMAT):
        raise MalformedText(f"format {version} is not known here; use the release that wrote it")
    return record
