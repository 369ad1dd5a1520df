"""Whose a data directory is: the file `identity`, and the check before anything else is read.

A member's log and votes are true only under the name that gave them: in another node's hands they would
vote and acknowledge for a member that never said so. Format: docs/formats/identity.md.
"""

import enum

import msgspec

from barque.errors import ConfigurationError, Damaged
from barque.log.checked_text import MalformedText, decode_text, encode_text
from barque.log.disk import Disk, join, replace_file

IDENTITY = "identity"
_KIND = "data directory"
_FORMAT = 2
_FORMAT_1 = b"barque data directory, format 1\n"
_CURE = (
    "Nothing was changed. Give this node its own directory (`data_dir`, --data-dir), or start there the node "
    "that it belongs to. Neither a node nor an installation can be renamed; `barque member replace` moves a "
    "member to another node (docs/operations/files.md)"
)


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node that a data directory belongs to."""

    installation: str
    node: str

    def __str__(self) -> str:
        return f"node {self.node!r} of installation {self.installation!r}"


class Claim(enum.Enum):
    """What a directory says of its owner."""

    NEW = "there is no identity yet"
    OURS = "it belongs to this node"
    NOBODYS = "it was made by a release that recorded no owner (format 1)"


def encode_identity(owner: Owner) -> bytes:
    """The whole file."""
    return encode_text(_KIND, _FORMAT, msgspec.json.encode(owner) + b"\n")


def decode_identity(data: bytes) -> Owner | None:
    """Read a whole file; None if it is of format 1. Raises `MalformedText`."""
    if data == _FORMAT_1:
        return None
    try:
        return msgspec.json.decode(decode_text(data, _KIND, _FORMAT), type=Owner)
    except msgspec.DecodeError as error:
        raise MalformedText(str(error)) from error


def read_claim(disk: Disk, data_dir: str, owner: Owner) -> Claim:
    """Compare the directory's owner with this node. Changes nothing.

    Raises `ConfigurationError` for the directory of another node or installation, `Damaged` for a file that
    is no identity, and `OSError` when the disk fails.
    """
    path = join(data_dir, IDENTITY)
    if not disk.exists(path):
        return Claim.NEW
    try:
        found = decode_identity(disk.read_file(path))
    except MalformedText as error:
        raise Damaged(
            f"{path}: damaged: {error}. What to do: put back a good copy of the whole data directory; or, if "
            "this is no data directory of Barque, give the node another one"
        ) from error
    if found is None:
        return Claim.NOBODYS
    if found != owner:
        raise wrong_owner(path, str(found), owner)
    return Claim.OURS


def wrong_owner(path: str, found: str, owner: Owner) -> ConfigurationError:
    """The error of a start with a directory that belongs to somebody else."""
    return ConfigurationError(f"{path}: this data directory belongs to {found}, and this is {owner}. {_CURE}")


def write_identity(disk: Disk, data_dir: str, owner: Owner) -> None:
    """Make the directory this node's, durably. Everything else in it must exist already."""
    replace_file(disk, data_dir, IDENTITY, encode_identity(owner))
