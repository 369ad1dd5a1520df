"""Every error answers one question first: did it happen?

::

    BarqueError
    ├── Refused                 no: the command was not applied and will not be
    │   ├── NotLeader           … the addressed member does not lead; `leader` may be known
    │   ├── NoLeader            … no leader is known or reachable
    │   │   └── LeaderTimeout   … and the caller's time ran out (also a `TimeoutError`)
    │   ├── NoQuorum            … the leader cannot reach a majority
    │   ├── WalDown             … the leader cannot write its log
    │   ├── DiskFull            … the disk of the leader's node is nearly full
    │   ├── Overloaded          … too many requests wait already
    │   ├── UnknownCluster      … the asked node has no such cluster or server
    │   ├── UnknownMember       … the named server is not a member of the cluster
    │   ├── NotUpToDate         … the log of the named member is behind
    │   ├── NonVoter            … the named member does not vote
    │   ├── AlreadyMember       … the named server is a member already
    │   ├── ChangeNotPermitted  … the leader cannot change members now
    │   ├── InvalidCommand      … the machine or the node does not understand the request
    │   ├── Unauthenticated     … wrong secret, name or protocol version
    │   ├── Forbidden           … the role of this connection may not ask for that
    │   ├── NotAvailableYet     … this release has no such feature
    │   └── Stopped             … the server, node or client is stopped
    ├── OutcomeUnknown          perhaps: it was sent, and no answer came
    │   └── CommandTimeout      … and the caller's time ran out (also a `TimeoutError`)
    ├── CommandFailed           yes: it was applied, and the machine answered that it failed
    ├── QueryTimeout            a read ran out of time (also a `TimeoutError`); reads change nothing
    ├── ConfigurationError      no: a setting is wrong; the text names it and the cure
    ├── ProtocolError           a peer sent what no correct peer sends
    ├── MachineFault            the user's state machine raised
    ├── StorageError            the disk refused an operation
    │   └── Damaged             a file holds bytes that Barque never wrote there
    └── InvariantViolation      a bug in Barque: the server that noticed stops itself

The last five are about one machine; they never say whether a command happened.

`except TimeoutError` catches every request whose time ran out. To learn whether it may have happened, catch
`LeaderTimeout` (no), `QueryTimeout` (no: a read) or `CommandTimeout` (perhaps). Clients raise the two
subclasses; nodes send the names of their bases, which every release understands.
"""

from barque.types import ServerId


class BarqueError(Exception):
    """The root of all errors that Barque raises on purpose."""


# --- no ------------------------------------------------------------------------------------


class Refused(BarqueError):
    """The command did not happen and will not. It is safe to send it again."""


class NotLeader(Refused):
    """The addressed member does not lead.

    `leader` is the member to ask instead, or None if the refusing member knew none.
    """

    def __init__(self, message: str = "not the leader", leader: ServerId | None = None) -> None:
        super().__init__(message)
        self.leader = leader


class NoLeader(Refused):
    """No leader is known, or no node could be reached; nothing was sent to a leader."""


class LeaderTimeout(NoLeader, TimeoutError):
    """No leader could be reached before the deadline. The request did not happen."""


class NoQuorum(Refused):
    """The leader cannot reach a majority of the voters."""


class WalDown(Refused):
    """The addressed member cannot write its log."""


class DiskFull(Refused):
    """The disk of the leader's node is nearly full. Free some space there and try again."""


class Overloaded(Refused):
    """Too many commands wait already. Slow down and try again."""


class UnknownCluster(Refused):
    """The asked node knows no such cluster or server."""


class UnknownMember(Refused):
    """The named server is not a member of this cluster."""


class NotUpToDate(Refused):
    """The log of the named member is behind. Try again when the member has caught up."""


class NonVoter(Refused):
    """The named member does not vote, so it cannot lead."""


class AlreadyMember(Refused):
    """The named server is a member already, with the membership that was asked for."""


class ChangeNotPermitted(Refused):
    """The leader cannot make this change of members now; the text says why."""


class InvalidCommand(Refused):
    """The command or query cannot be encoded, decoded or understood."""


class Unauthenticated(Refused):
    """One side refused the other: wrong secret, node name or protocol version."""


class Forbidden(Refused):
    """The role that this connection has proved may not ask for that; the text names the role that may."""


class NotAvailableYet(Refused):
    """This release does not have the feature."""


class Stopped(Refused):
    """The server, node or client is stopped."""


# --- perhaps -------------------------------------------------------------------------------


class OutcomeUnknown(BarqueError):
    """The command was sent and may have happened, or may yet happen.

    Barque never sends it again: only the caller knows whether doing it twice is harmless.
    """


class CommandTimeout(OutcomeUnknown, TimeoutError):
    """The command was sent, and no answer came before the deadline. It may have happened, or may yet."""


# --- yes -----------------------------------------------------------------------------------


class CommandFailed(BarqueError):
    """The command was committed and applied, and the machine says that it failed; the text says why.

    Methods of a `barque.Replicated` class raise it. What the method changed before stays changed.
    """


# --- reads, settings, and faults of one machine ----------------------------------------------


class QueryTimeout(BarqueError, TimeoutError):
    """A read got no answer before its deadline. Reads change nothing; ask again."""


class ConfigurationError(BarqueError):
    """A setting is wrong. The message names the setting and the cure."""


class ProtocolError(BarqueError):
    """A peer or a client sent what no correct peer sends. Its connection ends."""


class MachineFault(BarqueError):
    """The user's state machine raised; the server that ran it has stopped.

    `index` is the entry that it raised at, if it was applying one.
    """

    def __init__(self, message: str = "", index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class StorageError(BarqueError):
    """The disk refused an operation. The message names the file and the cause."""


class Damaged(StorageError):
    """A file holds bytes that Barque never wrote there.

    The message names the file, the offset, the servers concerned and what to do.
    """


class InvariantViolation(BarqueError):
    """A property that Raft promises does not hold: a bug in Barque.

    The server that noticed stops and keeps its files; its neighbours go on.
    """
