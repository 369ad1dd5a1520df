"""The states of a Raft server."""

import enum


class RaftState(enum.StrEnum):
    """Ra's states (CORE-02). In the last two nothing is handled any more."""

    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    PRE_VOTE = "pre_vote"
    AWAIT_CONDITION = "await_condition"
    RECEIVE_SNAPSHOT = "receive_snapshot"
    RECOVER = "recover"
    RECOVERED = "recovered"
    TERMINATING_LEADER = "terminating_leader"
    TERMINATING_FOLLOWER = "terminating_follower"
    DELETE_AND_TERMINATE = "delete_and_terminate"
    STOP = "stop"
