"""Every error answers one question first: did it happen?

::

    BarqueError
    ├── Refused                 no: the command was not and will not be applied
    │   ├── NotLeader           … the addressed member does not lead; `leader` may be known
    │   ├── NoLeader            … nobody led until the deadline, and nothing was sent
    │   ├── NoQuorum            … the leader cannot reach a majority
    │   ├── WalDown             … the leader's log cannot be written
    │   ├── Overloaded          … too much is waiting already
    │   ├── UnknownCluster      … no such cluster, server or machine on that node
    │   ├── UnknownMember       … the named server is no member of the cluster
    │   ├── NotUpToDate         … the named member's log is behind
    │   ├── NonVoter            … the named member does not vote
    │   ├── AlreadyMember       … the named server is a member already
    │   ├── ChangeNotPermitted  … a membership change is not permitted now
    │   ├── InvalidCommand      … the command or query cannot be understood
    │   ├── Unauthenticated     … wrong secret, name or protocol version
    │   ├── NotAvailableYet     … the feature is designed but not built
    │   └── Stopped             … the server, node or client is stopped
    ├── OutcomeUnknown          perhaps: it was sent, and no answer came
    ├── QueryTimeout            a read ran out of time; reads change nothing
    ├── ConfigurationError      before anything ran: which setting, and the cure
    ├── ProtocolError           a peer sent what no correct peer sends
    ├── MachineFault            the user's state machine raised
    ├── StorageError            the disk said no
    │   └── Damaged             a file holds what was never written there
    └── InvariantViolation      our bug: the server that noticed stops itself

`OutcomeUnknown` and `Refused` never mix with the last three: those are about this machine.
"""

from barque.types import ServerId


class BarqueError(Exception):
    """The root of all errors that Barque raises on purpose."""


class Refused(BarqueError):
    """The command did not happen and will not. Sending it again is safe."""


class NotLeader(Refused):
    """The addressed member does not lead.

    `leader` is the member to ask instead, if the refusing one knew it.
    """

    def __init__(self, message: str = "not the leader", leader: ServerId | None = None) -> None:
        super().__init__(message)
        self.leader = leader


class NoLeader(Refused):
    """No leader was known until the deadline; nothing was sent."""


class NoQuorum(Refused):
    """The leader cannot reach a majority of the voters."""


class WalDown(Refused):
    """The log of the addressed member cannot be written."""


class Overloaded(Refused):
    """Too many commands wait already. Slow down and try again."""


class UnknownCluster(Refused):
    """There is no such cluster, server or machine on that node."""


class UnknownMember(Refused):
    """The named server is not a member of this cluster."""


class NotUpToDate(Refused):
    """The named member's log is behind; let it catch up first."""


class NonVoter(Refused):
    """The named member does not vote, so it cannot lead."""


class AlreadyMember(Refused):
    """The named server is a member already, and may do just what was asked for."""


class ChangeNotPermitted(Refused):
    """A membership change is not permitted before the term's noop is applied."""


class InvalidCommand(Refused):
    """The command or query cannot be encoded, decoded or understood."""


class Unauthenticated(Refused):
    """Wrong secret, node name or protocol version."""


class NotAvailableYet(Refused):
    """The feature has its place in the design, but is not built yet."""


class Stopped(Refused):
    """The server, node or client is stopped."""


class OutcomeUnknown(BarqueError):
    """The command was sent and may have happened, or may yet happen.

    Barque never sends such a command again by itself: only the caller can know whether
    doing it twice is harmless.
    """


class QueryTimeout(BarqueError):
    """A read got no answer before its deadline. Reads change nothing; ask again."""


class ConfigurationError(BarqueError):
    """A setting is wrong. The message names the setting and the cure."""


class ProtocolError(BarqueError):
    """A peer or a client sent what no correct one sends. Its connection ends."""


class MachineFault(BarqueError):
    """The user's state machine raised; the server that ran it has stopped."""


class StorageError(BarqueError):
    """The disk refused an operation. The message names the file and the cause."""


class Damaged(StorageError):
    """A file holds bytes that were never written there.

    The message names the file, the offset, the servers concerned and what to do.
    """


class InvariantViolation(BarqueError):
    """A property that Raft promises does not hold: a bug in Barque.

    The server that noticed stops; its files are kept and its neighbours go on.
    """
