"""Messages: which node each claims to come from (the transport checks it)."""

from typing import get_args

import pytest

from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    SENDER_OF,
    AppendEntriesReply,
    AppendEntriesRpc,
    AuxCommand,
    ChunkOutcome,
    Commands,
    DeleteCluster,
    FromServer,
    HeartbeatReply,
    HeartbeatRpc,
    InfoReply,
    InfoRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
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
from barque.types import ClientRef, Index, IndexTerm, ReplyMode, ServerId, Term

ONE, ZERO, SENDER, CLIENT = Term(1), Index(0), ServerId("s", "n1"), ClientRef("n1", 9)
CHUNK = ChunkState(1, ChunkFlag.NEXT)
MESSAGES: list[RemoteMessage] = [
    AppendEntriesRpc(ONE, SENDER, ZERO, ZERO, ONE),
    AppendEntriesReply(SENDER, ONE, True, ZERO, ZERO, ONE),
    RequestVoteRpc(ONE, SENDER, ZERO, ONE),
    RequestVoteResult(SENDER, ONE, True),
    PreVoteRpc(1, 0, ONE, 5, SENDER, ZERO, ONE),
    PreVoteResult(SENDER, ONE, 5, True),
    HeartbeatRpc(1, ONE, SENDER),
    HeartbeatReply(SENDER, 1, ONE),
    InstallSnapshotRpc(ONE, SENDER, SnapshotMeta(IndexTerm(ZERO, ONE), (), 0), CHUNK),
    InstallSnapshotResult(SENDER, ONE, ONE, IndexTerm(ZERO, ONE), CHUNK, ChunkOutcome.TAKEN),
    Queries(CLIENT, 0, (), True),
    TransferLeadership(CLIENT, 0, ServerId("t", "n2")),
    TimeoutNow(SENDER),
    ServerDown(SENDER, True),
    JoinMember(CLIENT, 0, ReplyMode.AWAIT_CONSENSUS, ServerId("t", "n2")),
    LeaveMember(CLIENT, 0, ReplyMode.AWAIT_CONSENSUS, ServerId("t", "n2")),
    DeleteCluster(CLIENT, 0, ReplyMode.AWAIT_CONSENSUS),
    InfoRpc(SENDER, ONE, ("uid",)),
    InfoReply(SENDER, ONE, ("uid",), {}),
    AuxCommand(CLIENT, 0, b"\xc0"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_names_its_senders_node(message: RemoteMessage) -> None:
    """A message in another node's name is found out by its connection."""
    assert claimed_node(message) == "n1"


def test_commands_name_it_in_their_body() -> None:
    """The only ones that claim nothing outside."""
    assert claimed_node(Commands(1, b"")) is None


def test_every_message_that_travels_is_among_these() -> None:
    """Each message type lists here which node it claims to come from."""
    assert {*map(type, MESSAGES), Commands} == {*get_args(RemoteMessage)}


def test_a_message_of_a_server_names_that_server() -> None:
    """By it a receiver knows which incarnation has to be proved."""
    spoken = [message for message in MESSAGES if isinstance(message, FromServer)]
    assert {*map(type, spoken)} == {*get_args(FromServer)}
    assert {SENDER_OF[type(message)](message) for message in spoken} == {SENDER}
