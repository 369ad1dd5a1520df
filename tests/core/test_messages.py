"""Messages: which node each claims to come from (the transport checks it)."""

import pytest

from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    HeartbeatReply,
    HeartbeatRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    PreVoteResult,
    PreVoteRpc,
    Queries,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    ServerDown,
    TimeoutNow,
    TransferLeadership,
    claimed_node,
)
from barque.types import ClientRef, Index, IndexTerm, ServerId, Term

ONE, ZERO, SENDER, CLIENT = Term(1), Index(0), ServerId("s", "n1"), ClientRef("n1", 9)
MESSAGES: list[RemoteMessage] = [
    AppendEntriesRpc(ONE, SENDER, ZERO, ZERO, ONE),
    AppendEntriesReply(SENDER, ONE, True, ZERO, ZERO, ONE),
    RequestVoteRpc(ONE, SENDER, ZERO, ONE),
    RequestVoteResult(SENDER, ONE, True),
    PreVoteRpc(1, 0, ONE, 5, SENDER, ZERO, ONE),
    PreVoteResult(SENDER, ONE, 5, True),
    HeartbeatRpc(1, ONE, SENDER),
    HeartbeatReply(SENDER, 1, ONE),
    InstallSnapshotRpc(ONE, SENDER, IndexTerm(ZERO, ONE)),
    InstallSnapshotResult(SENDER, ONE, ZERO, ONE),
    Queries(CLIENT, 0, (), True),
    TransferLeadership(CLIENT, 0, ServerId("t", "n2")),
    TimeoutNow(SENDER),
    ServerDown(SENDER, True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_names_its_senders_node(message: RemoteMessage) -> None:
    """Whoever sends in another's name is found out by the connection."""
    assert claimed_node(message) == "n1"


def test_commands_name_it_in_their_body() -> None:
    """The only ones that claim nothing outside."""
    assert claimed_node(Commands(1, b"")) is None
