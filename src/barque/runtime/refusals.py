"""What a refusal means to a person: the error's class, and a text (`Rejection`)."""

from barque.core.effects import Rejection

CHANGE_UNDER_WAY = (
    "another membership change, or the new leader's first entry, is not committed yet; try again"
)
_TEXTS = {
    Rejection.UNKNOWN_MEMBER: ("UnknownMember", "that server is not a member of this cluster"),
    Rejection.NON_VOTER: ("NonVoter", "the target does not vote, so it cannot lead"),
    Rejection.NOT_UP_TO_DATE: ("NotUpToDate", "the target's log is behind; try again when it has caught up"),
    Rejection.NOT_LEADER: ("NotLeader", "leadership was lost on the way"),
    Rejection.WAL_DOWN: ("WalDown", "the leader's write-ahead log cannot be written"),
    Rejection.UNKNOWN_CLUSTER: ("UnknownCluster", "that server does not exist there"),
    Rejection.STOPPED: ("Stopped", "that server has stopped"),
    Rejection.NO_QUORUM: ("NoQuorum", "the leader heard from no majority of the voters and stepped down"),
    Rejection.OUTCOME_UNKNOWN: (
        "OutcomeUnknown",
        "the leader had it in its log when it lost its majority; it may happen yet",
    ),
    Rejection.REPLY_NOT_SENT: (
        "OutcomeUnknown",
        "the machine did it, but its reply cannot be encoded, or is too large: see the log of the node",
    ),
    Rejection.CHANGE_NOT_PERMITTED: ("ChangeNotPermitted", CHANGE_UNDER_WAY),
    Rejection.ALREADY_MEMBER: ("AlreadyMember", "that server is a member already, and may do just that"),
    Rejection.MISSING_UID: ("InvalidCommand", "a promotable member must be named with its uid"),
    Rejection.WRONG_UID: (
        "ChangeNotPermitted",
        "another incarnation of that server votes; remove it first, or add the new one as promotable",
    ),
    Rejection.LAST_VOTER: (
        "ChangeNotPermitted",
        "that is the last voter; to end the cluster, delete it: barque cluster delete",
    ),
    Rejection.AUX_NOT_IMPLEMENTED: ("InvalidCommand", "this machine answers no aux commands"),
}


def describe_refusal(reason: str, *, read: bool = False) -> tuple[str, str]:
    """The error's class name, and a text for people. What a read asked for did not happen in any case."""
    error, text = _TEXTS.get(reason, ("Refused", reason))
    return ("InvalidCommand" if read and error == "OutcomeUnknown" else error), text
