"""One message of each tag, small and of fixed content: golden bytes and fuzzing start from these."""

import struct

import msgspec

from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.log_contract import Accepts, ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    AuxCommand,
    ChunkOutcome,
    Commands,
    DeleteCluster,
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
    RequestVoteResult,
    RequestVoteRpc,
    ServerDown,
    TimeoutNow,
    TransferLeadership,
)
from barque.transport import wire
from barque.types import (
    ClientRef,
    Index,
    IndexTerm,
    MemberRecord,
    Membership,
    ReplyMode,
    ServerId,
    Term,
    Uid,
)

N1 = ServerId("s", "n1")
BODY = encode_body([b"a", b"bc"], mode=ReplyMode.NOTIFY, origin=ClientRef("n1", 5), first_correlation=9)
NOOP = encode_body([b""], kind=EntryKind.NOOP)
RAW = msgspec.Raw(msgspec.msgpack.encode("ok"))
ENTRIES = (EntryBatch(Index(4), Term(2), 2, 1000, BODY), EntryBatch(Index(6), Term(3), 1, 1001, NOOP))

ASKER = ClientRef("n1", 5)
META = SnapshotMeta(IndexTerm(Index(6), Term(2)), (MemberRecord(N1, Uid("S1")),), 1)

PEER_MESSAGES = [
    AppendEntriesRpc(Term(3), N1, Index(3), Index(3), Term(2), ENTRIES),
    AppendEntriesReply(N1, Term(3), True, Index(7), Index(6), Term(3), Index(5)),
    RequestVoteRpc(Term(3), N1, Index(6), Term(2), True),
    RequestVoteResult(N1, Term(3), True),
    PreVoteRpc(1, 0, Term(3), 77, N1, Index(6), Term(2), False),
    PreVoteResult(N1, Term(3), 77, False),
    HeartbeatRpc(8, Term(3), N1),
    HeartbeatReply(N1, 8, Term(3)),
    InstallSnapshotRpc(Term(3), N1, META, ChunkState(0, ChunkFlag.PRE), b"", ENTRIES, 2),
    InstallSnapshotResult(
        N1,
        Term(3),
        Term(3),
        IndexTerm(Index(6), Term(2)),
        ChunkState(3, ChunkFlag.LAST),
        ChunkOutcome.INSTALLED,
        Accepts((1, 2), "files", 3),
    ),
    Commands(2, BODY),
    Queries(ClientRef("n1", 5), 9, (b"q",), True),
    TransferLeadership(ClientRef("n1", 5), 9, N1),
    TimeoutNow(N1),
    ServerDown(N1, True),
    JoinMember(ASKER, 9, ReplyMode.AWAIT_CONSENSUS, N1, Uid("S1"), Membership.PROMOTABLE, Index(7)),
    LeaveMember(ASKER, 9, ReplyMode.AWAIT_CONSENSUS, N1),
    DeleteCluster(ASKER, 9, ReplyMode.AWAIT_CONSENSUS),
    InfoRpc(N1, Term(3), ("machine_version", "uid")),
    InfoReply(N1, Term(3), ("machine_version", "uid"), {"machine_version": 2, "uid": "S1"}),
    AuxCommand(ASKER, 9, b"\xa1a", True),
    wire.Alive(),
    wire.FrontReplies(5, 9, 2, msgspec.Raw(b"\x92\x01\x02"), {1: "no"}),
    wire.FrontRejected(5, 9, 2, "not_leader", N1),
    wire.LeaderIs("kv", N1, Term(3), "c1", (Uid("KV1"),)),
    wire.NodeCall(1, "start_server", {"a": 1}),
    wire.NodeCallReply(1, error="NotLeader", text="no"),
    wire.FrontEvent(5, "kv", RAW),
    wire.MemberRemoved("c1", "KV1"),
    wire.ClockIs(1_700_000_000_000),
    wire.MachinesAre({"kv": wire.MachineCode(1, "300050479c81dc4c")}),
    wire.RemovalAsked("c1", "KV1", Index(7)),
    wire.RemovalAnswer("c1", "KV1", True, Index(9), ("n1", "n2")),
    wire.StateDigest("kv", "c1", Index(4096), 0xDEADBEEF),
    wire.ProcessMessage(3, 5, "kv", RAW),
    wire.WatchProcess(5, 3),
    wire.ProcessIs(5, 3, "normal"),
    wire.EndHeard(5, 3),
]
REQUESTS = [
    wire.ClientCommands("kv", 9, 2, struct.pack("<2I", 1, 2) + b"abc", ReplyMode.NOTIFY, 5000),
    wire.ClientQueries("kv", 9, (b"q",), "consistent", 5000),
    wire.ClientCall(1, "overview", {}, 5000),
]
ANSWERS = [
    wire.ClientReplies(9, 1, msgspec.Raw(b"\x91\x01"), {0: "no"}, N1),
    wire.ClientFailed(9, 2, "OutcomeUnknown", "no answer"),
    wire.ClientCallReply(1, {"x": [1]}),
    wire.ClientEvent("kv", RAW),
]
