"""The vocabulary that every layer shares: indexes, terms and the names of things."""

import enum
import functools
import re
from typing import NewType

import msgspec

Term = NewType("Term", int)
"""A Raft term; 0 before the first election."""

Index = NewType("Index", int)
"""A log index; 0 is the empty log, the first real entry has index 1."""

Uid = NewType("Uid", str)
"""Names one server and its files, and is never used again. Base64url characters only."""

NAME_RULE = "1 to 64 of A-Z a-z 0-9 . _ - and does not begin with . or -"
"""What `is_valid_name` demands, for the end of a sentence that begins with "a name has"."""

_NAME_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")

TERM_MAX = 2**62
"""A term above this bound in a message is an attack or a bug, never an election."""


def is_valid_name(name: str) -> bool:
    """Whether this is a valid name of an installation, a node, a cluster or a server (`NAME_RULE`)."""
    return len(name) <= _NAME_MAX and _is_well_formed(name)


@functools.lru_cache(maxsize=1024)
def _is_well_formed(name: str) -> bool:  # short names only: what is kept is bounded
    return _NAME.match(name) is not None


class ReplyMode(enum.IntEnum):
    """When, and how, the sender of a command hears of it (CMD-04)."""

    NOREPLY = 0
    AFTER_LOG_APPEND = 1
    AWAIT_CONSENSUS = 2
    NOTIFY = 3


class Membership(enum.StrEnum):
    """What a member may do (MEMB-06 to MEMB-08)."""

    VOTER = "voter"
    """Counts in every quorum, may lead."""
    PROMOTABLE = "promotable"
    """Receives entries; becomes a voter when it has caught up with its target."""
    NON_VOTER = "non_voter"
    """Receives entries and never votes."""


class ServerId(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """The stable address of one member: its registered name on a node."""

    name: str
    node: str

    def __str__(self) -> str:
        return f"{self.name}@{self.node}"

    @classmethod
    def parse(cls, text: str) -> "ServerId":
        """Read `name@node`, as `str` writes it. Raises `ValueError` for any other text."""
        name, _, node = text.rpartition("@")
        if not name or not node:
            raise ValueError(f"{text!r} is not a server; write NAME@NODE, as in kv@n1")
        return cls(name, node)


class IndexTerm(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The position of one log entry. Index and term travel together."""

    index: Index
    term: Term


class MemberRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member of a configuration, as logs and snapshots keep it (docs/formats/entry-batch.md).

    `uid` tells the incarnations of one address apart; it is None until it is known. A promotable member
    becomes a voter when the entry `target` is on its disk.
    """

    id: ServerId
    uid: Uid | None = None
    membership: Membership = Membership.VOTER
    target: Index = Index(0)


class Pid(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The address of a process: of something on a node that machines may send messages to, and watch.

    The incarnation is drawn when the node's own process starts, so that what is for an earlier one can never
    reach the wrong receiver. Number 0 is the node itself, with all its clients; it is the origin of commands,
    to which their replies go. The other numbers are single clients, and processes of programs in the node's
    process (`Node.spawn`). They are never used again.
    """

    node: str
    incarnation: int
    number: int = 0


ClientRef = Pid
"""The origin of commands: a `Pid` with the number 0."""


class Named(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The address of whichever process has this name on a node now (`Node.register`)."""

    name: str
    node: str


def is_address(to: Pid | Named) -> bool:
    """Whether a node can have made this address. A machine may have taken it from a client as it came."""
    node: object = to.node
    if not isinstance(node, str):
        return False
    if isinstance(to, Named):
        name: object = to.name
        return isinstance(name, str) and is_valid_name(name)
    numbers: tuple[object, object] = (to.incarnation, to.number)
    return all(isinstance(number, int) and 0 <= number <= TERM_MAX for number in numbers)


class ReplyTo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names a caller that waits for a reply: `CommandMeta.reply_from`. A machine may keep it in its state."""

    origin: ClientRef
    correlation: int


NOWHERE = IndexTerm(Index(0), Term(0))
"""The position before the first entry."""

NOBODY = ClientRef("", 0)
"""The origin of entries for which nobody waits."""
