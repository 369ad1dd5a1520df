"""The error that a caller gets for a refusal: its class, and a text (`Rejection`)."""

from barque.core.effects import Rejection
from barque.core.entries import BODY_BYTES_MAX

CHANGE_UNDER_WAY = (
    "another membership change, or the new leader's first entry, is not committed yet; try again"
)
WOULD_LOSE_QUORUM = (
    "too few voters of the new configuration are up, so nobody could lead it; bring them back first, or use "
    "force"
)
_ERRORS = {
    Rejection.UNKNOWN_MEMBER: ("UnknownMember", "that server is not a member of this cluster"),
    Rejection.NON_VOTER: ("NonVoter", "the target does not vote, so it cannot lead"),
    Rejection.NOT_UP_TO_DATE: (
        "NotUpToDate",
        "the target's log is behind; try again when it has caught up",
    ),
    Rejection.NOT_LEADER: ("NotLeader", "the server that was asked no longer leads"),
    Rejection.WAL_DOWN: ("WalDown", "the leader's write-ahead log cannot be written"),
    Rejection.DISK_FULL: (
        "DiskFull",
        "the disk of the leader's node is nearly full, and the command did not happen; free space there, "
        "or hand leadership to a node with more: barque leader transfer",
    ),
    Rejection.UNKNOWN_CLUSTER: ("UnknownCluster", "that server does not exist there"),
    Rejection.STOPPED: ("Stopped", "that server has stopped"),
    Rejection.NO_QUORUM: ("NoQuorum", "the leader heard from no majority of the voters and stepped down"),
    Rejection.OUTCOME_UNKNOWN: (
        "OutcomeUnknown",
        "the command was in the leader's log when the leader lost its majority; it may still happen",
    ),
    Rejection.REPLY_NOT_SENT: (
        "OutcomeUnknown",
        "the machine applied the command, but its reply cannot be encoded, or is too large; the node's log "
        "has the reason",
    ),
    Rejection.CHANGE_NOT_PERMITTED: ("ChangeNotPermitted", CHANGE_UNDER_WAY),
    Rejection.ALREADY_MEMBER: (
        "AlreadyMember",
        "that server is a member already, with this membership",
    ),
    Rejection.MISSING_UID: ("InvalidCommand", "a promotable member must be named with its uid"),
    Rejection.WRONG_UID: (
        "ChangeNotPermitted",
        "another incarnation of that server votes; remove it first, or add the new one as promotable",
    ),
    Rejection.LAST_VOTER: (
        "ChangeNotPermitted",
        "that is the last voter; to end the cluster, delete it: barque cluster delete",
    ),
    Rejection.WOULD_LOSE_QUORUM: ("ChangeNotPermitted", WOULD_LOSE_QUORUM),
    Rejection.AUX_NOT_IMPLEMENTED: ("InvalidCommand", "this machine answers no aux commands"),
}


_ANSWER_NOT_SENT = (
    f"the answer to this read has more than {BODY_BYTES_MAX} bytes, or no encoding; nothing was done; "
    "ask for less at a time"
)


def describe_refusal(reason: str, *, read: bool = False) -> tuple[str, str]:
    """Return the name of the error's class, and its text.

    With `read` the request was a read. A read changes nothing, so its outcome is never unknown.
    """
    if read and reason == Rejection.REPLY_NOT_SENT:
        return "InvalidCommand", _ANSWER_NOT_SENT
    error, text = _ERRORS.get(reason, ("Refused", reason))
    return ("InvalidCommand" if read and error == "OutcomeUnknown" else error), text
