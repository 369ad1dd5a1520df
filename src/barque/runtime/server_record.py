"""What a restart needs to know of a server: checked when it is made, and as bytes.

Format: docs/formats/server-config.md. Pure: `barque.runtime.directory` writes the file.
"""

import base64
import hashlib
import re
from typing import Any

import msgspec

from barque.errors import ConfigurationError
from barque.log.checked_text import MalformedText, decode_text, encode_text
from barque.types import (
    NAME_RULE,
    NOWHERE,
    TERM_MAX,
    IndexTerm,
    Membership,
    ServerId,
    Uid,
    is_valid_name,
)

MEMBERS_MAX = 1_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_KIND = "server"
_FORMAT = 4
_BEFORE = 3
_HEAD_BEFORE = b"barque server, format %d," % _BEFORE


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server that a restart needs.

    `initial_uids` are the incarnations of the initial members (`name@node`) that were known when the
    cluster was formed; `joined_at` is what was committed when this server was made to join. `stopped`: an
    operator has stopped it, so the node does not start it. `keep_data`: its files stay, and it is only
    stopped, when its cluster removes it. `initial_machine_version`: the version that its cluster began with.
    `skipped`: entries that its cluster's machines leave out, ascending.
    """

    name: str
    uid: Uid
    cluster: str
    machine: str
    arguments: dict[str, Any]
    initial_members: tuple[ServerId, ...]
    cluster_id: str = ""
    membership: Membership = Membership.VOTER
    initial_uids: dict[str, Uid] = {}
    joined_at: IndexTerm = NOWHERE
    stopped: bool = False
    keep_data: bool = False
    initial_machine_version: int = 0
    skipped: tuple[int, ...] = ()


class _Format(msgspec.Struct):
    format: int


def configured_cluster_id(installation: str, cluster: str) -> str:
    """The id of a cluster that configurations name: nodes agree on it without talking."""
    digest = hashlib.sha256(f"barque cluster\0{installation}\0{cluster}".encode()).digest()
    return "C" + base64.b32encode(digest)[:19].decode()


def check_record(record: ServerRecord, node: str) -> None:
    """Refuse what could not be started again on this node. Raises `ConfigurationError`.

    The parts of a record come from clients and other nodes, and nothing is kept that was not looked at.
    """
    for what, name in (("server", record.name), ("cluster", record.cluster)):
        check_name(what, name)
    ids = [
        *(("uid", uid) for uid in (record.uid, *record.initial_uids.values())),
        ("cluster id", record.cluster_id),
    ]
    for what, text in ids:
        if not _ID.match(text) or text == "tombstones":
            raise ConfigurationError(f"{what} {text[:80]!r} must be 1 to 64 of A-Z a-z 0-9 _ -")
    members, uids = record.initial_members, record.initial_uids
    for member in members[:MEMBERS_MAX]:
        check_name("server", member.name)
        check_name("node", member.node)
    if len(set(members)) != len(members) or len(members) > MEMBERS_MAX:
        raise ConfigurationError(
            f"members: {len(members)}, some of them twice; at most {MEMBERS_MAX}, each once"
        )
    if ServerId(record.name, node) not in members:
        raise ConfigurationError(f"members: server {record.name!r} of node {node!r} is not among them")
    if len(set(uids.values())) != len(uids) or not set(uids) <= set(map(str, members)):
        raise ConfigurationError("uids: each belongs to one of the members, and to no other")
    skipped = record.skipped
    if list(skipped) != sorted(set(skipped)) or not all(0 < index <= TERM_MAX for index in skipped):
        raise ConfigurationError(f"skipped: {skipped} are no entries of a log, in their order")
    if not 0 <= record.initial_machine_version <= TERM_MAX:
        raise ConfigurationError(f"initial_machine_version: {record.initial_machine_version} is no version")
    index, term = record.joined_at.index, record.joined_at.term
    if min(index, term) < 0 or max(index, term) > TERM_MAX:
        raise ConfigurationError(f"joined_at: ({index}, {term}) is no position in a log")


def check_name(what: str, name: str) -> None:
    """Refuse what is no name of a node, cluster or server. Raises `ConfigurationError`."""
    if not is_valid_name(name):
        raise ConfigurationError(f"the {what} name {name[:80]!r} is not valid: a name has {NAME_RULE}")


def encode_record(record: ServerRecord) -> bytes:
    """The whole file."""
    return encode_text(_KIND, _FORMAT, msgspec.json.encode(record) + b"\n")


def _is_bare(data: bytes) -> bool:
    """Whether this is a file of format 1 or 2: a JSON object without a checksum."""
    return data.startswith(b"{")


def is_old(data: bytes, record: ServerRecord) -> bool:
    """Whether a file must be written again: without a checksum, or as one that an older release believes.

    Such a release would ignore what format 3 does not always say, and start a stopped server.
    """
    settled = record.stopped or record.keep_data or record.initial_machine_version or record.skipped
    return _is_bare(data) or (data.startswith(_HEAD_BEFORE) and bool(settled))


def decode_record(data: bytes, installation: str) -> ServerRecord:
    """Read a whole file of any format. Raises `MalformedText`.

    A record of format 1 is of the configured cluster of its name in this installation.
    """
    try:
        body = data if _is_bare(data) else decode_text(data, _KIND, _FORMAT, _BEFORE)
        record = msgspec.json.decode(body, type=ServerRecord)
        version = msgspec.json.decode(body, type=_Format).format if _is_bare(data) else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedText(str(error)) from error
    if version == 1:
        cluster_id = configured_cluster_id(installation, record.cluster)
        record = msgspec.structs.replace(record, cluster_id=cluster_id)
    elif version not in (2, None):
        raise MalformedText(f"format {version} is not known here; use the release that wrote it")
    return record
