"""The table of roles and messages is total: nobody forgets a message, whatever its term and sender.

`test_every_role_answers_every_message` goes through all of it; `RULES` says, with the ids of the
rules, what some of its cells have to hold.
"""

import itertools
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from barque.core import invariants
from barque.core.dispatch import FROM_LEADER, each, ignore, on, total
from barque.core.effects import Effect, PersistTermAndVote, SendRpc, SendVoteRequests, StopReason
from barque.core.entries import EntryBatch, EntryKind, decode_head, encode_body
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AcceptFailed,
    AppendEntriesReply,
    AppendEntriesRpc,
    AppendNoop,
    ApplyRest,
    AuxCommand,
    AwaitConditionTimeout,
    ChunkOutcome,
    Commands,
    Component,
    DeleteCluster,
    ElectionTimeout,
    FlushCommands,
    ForceMemberChange,
    FromClient,
    HeartbeatReply,
    HeartbeatRpc,
    InfoReply,
    InfoRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
    LocalMessage,
    MachineAppend,
    MachineTimeout,
    Message,
    NodeEvent,
    NodeStatus,
    PipelineRpcs,
    PreVoteResult,
    PreVoteRpc,
    ProcessDown,
    Queries,
    QuorumTimeout,
    ReceiveSnapshotTimeout,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    ResendWrite,
    SenderOutcome,
    ServerDown,
    SnapshotAccepted,
    SnapshotFailed,
    SnapshotKind,
    SnapshotRetryTimeout,
    SnapshotSenderDown,
    SnapshotWritten,
    Tick,
    TimeoutNow,
    TransferLeadership,
    WalFailed,
    WalUp,
    Written,
)
from barque.core.roles import CatchUp, TransferDone, WaitingRole, WalWritable
from barque.core.state import RaftState, Server
from barque.core.step import step
from barque.errors import InvariantViolation
from barque.testing.core.cluster import CLIENT, CoreCluster, sent
from barque.types import (
    NOBODY,
    Index,
    IndexTerm,
    MemberRecord,
    Membership,
    ReplyMode,
    ServerId,
    Term,
    Uid,
)

A, B, STRANGER = ServerId("a", "node_a"), ServerId("b", "node_b"), ServerId("z", "node_z")
F, P, C, L, W, S = (
    RaftState.FOLLOWER,
    RaftState.PRE_VOTE,
    RaftState.CANDIDATE,
    RaftState.LEADER,
    RaftState.AWAIT_CONDITION,
    RaftState.RECEIVE_SNAPSHOT,
)
TL, TF, END = (
    RaftState.TERMINATING_LEADER,
    RaftState.TERMINATING_FOLLOWER,
    RaftState.DELETE_AND_TERMINATE,
)


def entry(index: int, term: int, kind: EntryKind = EntryKind.USER) -> EntryBatch:
    """One entry that nobody waits for."""
    payload = msgspec.msgpack.encode(0 if kind is EntryKind.NOOP else "x")
    return EntryBatch(Index(index), Term(term), 1, 0, encode_body([payload], kind))


def rpc(term: int, prev: tuple[int, int], *entries: EntryBatch, sender: ServerId = B) -> AppendEntriesRpc:
    """An AppendEntries without news about commits."""
    return AppendEntriesRpc(Term(term), sender, Index(0), Index(prev[0]), Term(prev[1]), entries)


def chunk(
    term: int,
    number: int = 1,
    flag: ChunkFlag = ChunkFlag.NEXT,
    at: tuple[int, int] | None = None,
    sender: ServerId = B,
    version: int = 0,
) -> InstallSnapshotRpc:
    """A chunk of a snapshot, of entry 9 in this term unless it is said where; piece 1 holds all of it."""
    index, position_term = at or (9, term)
    records = tuple(MemberRecord(ServerId(name, f"node_{name}"), Uid(f"uid_{name}")) for name in "abc")
    meta = SnapshotMeta(IndexTerm(Index(index), Term(position_term)), records, version)
    data = msgspec.msgpack.encode(["s"]) if number == 1 else b""
    live = (entry(5, 3),) if flag is ChunkFlag.PRE else ()
    return InstallSnapshotRpc(Term(term), sender, meta, ChunkState(number, flag), data, live)


# --- the roles -----------------------------------------------------------------------------


def fresh() -> CoreCluster:
    """Three members; a has entries 1.1 and 2.3, in term 3, and has heard of no leader."""
    cluster = CoreCluster("a", "b", "c")
    cluster.load("a", [1, 3])
    return cluster


def follower() -> CoreCluster:
    """Member a follows b."""
    cluster = fresh()
    cluster["a"].handle(rpc(3, (2, 3)))
    return cluster


def pre_vote() -> CoreCluster:
    """Member a asks for pre-votes; its own counts."""
    cluster = follower()
    cluster["a"].handle(ElectionTimeout())
    return cluster


def candidate() -> CoreCluster:
    """Member a asks for votes, in term 4."""
    cluster = pre_vote()
    cluster["a"].handle(PreVoteResult(B, Term(3), 1, True))
    return cluster


def new_leader() -> CoreCluster:
    """Member a leads term 4; its noop is not committed, and a read waits for that."""
    cluster = candidate()
    cluster["a"].handle(RequestVoteResult(B, Term(4), True))
    cluster.query("a")
    return cluster


def leader() -> CoreCluster:
    """Member a leads term 4 and has committed its noop; a command and a read are under way."""
    cluster = new_leader()
    cluster["a"].sync()
    cluster["b"].log.load([*cluster["a"].log.entries])
    cluster["a"].handle(AppendEntriesReply(B, Term(4), True, Index(4), Index(3), Term(4)))
    cluster.command("a", "x")
    cluster.query("a")
    return cluster


def with_a_gap() -> CoreCluster:
    """Member a, a follower, misses entries."""
    cluster = follower()
    cluster["a"].handle(rpc(3, (7, 3)))
    return cluster


def with_a_conflict() -> CoreCluster:
    """Member a, a follower, has another entry 2 than its leader."""
    cluster = fresh()
    cluster["a"].handle(rpc(4, (2, 2)))
    return cluster


def without_log() -> CoreCluster:
    """Member a, a follower, had to write and could not."""
    cluster = follower()
    cluster["a"].handle(WalFailed("EIO"))
    cluster["a"].handle(rpc(3, (2, 3), entry(3, 3)))
    return cluster


def leader_without_log() -> CoreCluster:
    """Member a leads, and its log has failed."""
    cluster = leader()
    cluster["a"].handle(WalFailed("EIO"))
    return cluster


def leader_that_hands_over() -> CoreCluster:
    """Member a leads, and has asked b to take over."""
    cluster = leader()
    cluster.transfer("a", "b")
    return cluster


def receiving() -> CoreCluster:
    """Member a, a follower, has the first piece of a snapshot, and waits for more."""
    cluster = follower()
    cluster["a"].handle(chunk(3))
    return cluster


def receiving_live() -> CoreCluster:
    """Member a was told that live entries will follow, and has the first of them."""
    cluster = follower()
    cluster["a"].handle(chunk(3, 0, ChunkFlag.INIT))
    cluster["a"].handle(chunk(3, 1, ChunkFlag.PRE))
    return cluster


def receiving_last() -> CoreCluster:
    """Member a has all of a snapshot, and waits until it is checked and on disk."""
    cluster = receiving_live()
    cluster["a"].handle(chunk(3, 1, ChunkFlag.LAST))
    return cluster


def leader_that_ends() -> CoreCluster:
    """Member a leads; the deletion of the cluster is committed with b, and c does not have it."""
    cluster = leader()
    cluster.delete("a")
    cluster["a"].sync()
    cluster["b"].log.load([*cluster["a"].log.entries])
    cluster["a"].handle(AppendEntriesReply(B, Term(4), True, Index(6), Index(5), Term(4)))
    return cluster


def follower_that_ends() -> CoreCluster:
    """Member a follows b, and has applied the deletion of the cluster, which is not on its disk."""
    cluster = follower()
    end = EntryBatch(Index(3), Term(3), 1, 0, encode_body([b""], EntryKind.CLUSTER_DELETE))
    cluster.observer.committed += [(batch, Term(3)) for batch in (*cluster["a"].log.entries, end)]
    cluster["a"].handle(AppendEntriesRpc(Term(3), B, Index(3), Index(2), Term(3), (end,)))
    return cluster


ROLES: dict[str, tuple[Callable[[], CoreCluster], RaftState, type | None]] = {
    "fresh follower": (fresh, F, None),
    "follower": (follower, F, None),
    "pre_vote": (pre_vote, P, None),
    "candidate": (candidate, C, None),
    "new leader": (new_leader, L, None),
    "leader": (leader, L, None),
    "gap": (with_a_gap, W, CatchUp),
    "conflict": (with_a_conflict, W, CatchUp),
    "without log": (without_log, W, WalWritable),
    "leader without log": (leader_without_log, W, WalWritable),
    "handing over": (leader_that_hands_over, W, TransferDone),
    "receiving": (receiving, S, None),
    "receiving live entries": (receiving_live, S, None),
    "receiving, all but durable": (receiving_last, S, None),
    "leader at the end": (leader_that_ends, TL, None),
    "follower at the end": (follower_that_ends, TF, None),
}


def in_role(name: str) -> CoreCluster:
    """A cluster whose member a is in this role."""
    make, state, condition = ROLES[name]
    cluster = make()
    server = cluster.server("a")
    assert server.raft_state is state
    if condition is not None:
        assert isinstance(server.role, WaitingRole)
        assert isinstance(server.role.condition, condition)
        assert str(server.role.condition)
    return cluster


# --- the messages --------------------------------------------------------------------------


def with_term(term: int, sender: ServerId) -> list[Message]:
    """Every message that carries a term, in all its kinds."""
    at, none = Term(term), Index(0)
    body = encode_body([b"\x01"])
    batch = EntryBatch(Index(3), at, 1, 0, body)
    return [
        rpc(term, (2, 3), sender=sender),
        rpc(term, (1, 1), sender=sender),
        rpc(term, (9, 9), sender=sender),
        rpc(term, (2, 2), sender=sender),
        rpc(term, (2, 3), batch, sender=sender),
        *(
            AppendEntriesReply(sender, at, success, Index(next_index), Index(last), Term(last_term))
            for success in (True, False)
            for next_index, last, last_term in ((3, 2, 3), (1, 0, 0), (3, 2, 2), (99, 98, 3), (4, 3, 4))
        ),
        RequestVoteRpc(at, sender, Index(9), at),
        RequestVoteRpc(at, sender, none, Term(0)),
        RequestVoteResult(sender, at, True),
        RequestVoteResult(sender, at, False),
        *(
            PreVoteRpc(version, machine_version, at, 7, sender, last, last_term)
            for version, machine_version in ((1, 0), (2, 0), (1, 9))
            for last, last_term in ((Index(9), at), (none, Term(0)))
        ),
        PreVoteResult(sender, at, 1, True),
        PreVoteResult(sender, at, 99, True),
        PreVoteResult(sender, at, 1, False),
        HeartbeatRpc(1, at, sender),
        HeartbeatReply(sender, 1, at),
        HeartbeatReply(sender, 99, at),
        *(
            chunk(term, number, flag, at=position, sender=sender)
            for number, flag in (
                *((0, ChunkFlag.INIT), (0, ChunkFlag.PRE), (1, ChunkFlag.NEXT), (2, ChunkFlag.NEXT)),
                *((9, ChunkFlag.NEXT), (1, ChunkFlag.LAST), (2, ChunkFlag.LAST), (9, ChunkFlag.LAST)),
            )
            for position in ((9, min(term, 3)), (1, 1), (7, 1))
        ),
        chunk(term, sender=sender, version=9),
        *(
            InstallSnapshotResult(
                sender, at, Term(asked), IndexTerm(Index(last), Term(last_term)), ChunkState(1, flag), outcome
            )
            for flag in ChunkFlag
            for outcome in ChunkOutcome
            for asked in (term, max(0, term - 1))
            for last, last_term in ((9, term), (2, 3), (2, 1))
        ),
        InfoRpc(sender, at, ("machine_version", "uid", "shoe_size")),
        InfoReply(sender, at, ("machine_version", "uid"), {"machine_version": 0, "uid": "uid_b"}),
        InfoReply(sender, at, ("machine_version", "uid"), {}),
    ]


def changes(mode: ReplyMode, sender: ServerId) -> list[Message]:
    """Every wish for another cluster, in all its kinds."""
    return [
        *(
            JoinMember(CLIENT, 50, mode, member, uid, membership, target)
            for member in (A, B, sender, ServerId("y", "node_y"))
            for uid in (None, Uid(f"uid_{member.name}"), Uid("other"))
            for membership in Membership
            for target in (None, Index(99))
        ),
        LeaveMember(CLIENT, 50, mode, A),
        LeaveMember(CLIENT, 50, mode, sender),
        DeleteCluster(CLIENT, 50, mode),
    ]


def without_term(sender: ServerId) -> list[Message]:
    """Every other message."""
    uid = Uid("uid_a")
    body = encode_body([b"\x01"], mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT, first_correlation=50)
    quiet = encode_body([b"\x01"])
    payload = msgspec.msgpack.encode(None)
    return [
        Commands(1, body),
        Commands(1, quiet),
        Commands(1, body, True),
        Queries(CLIENT, 50, (payload,), True),
        Queries(CLIENT, 50, (payload, b"\xc1"), False),
        TransferLeadership(CLIENT, 50, A),
        TransferLeadership(CLIENT, 50, sender),
        *changes(ReplyMode.AWAIT_CONSENSUS, sender),
        *changes(ReplyMode.NOREPLY, sender),
        AuxCommand(CLIENT, 50, payload),
        AuxCommand(NOBODY, 0, payload),
        AuxCommand(CLIENT, 50, payload, True),
        ForceMemberChange(CLIENT, 50),
        TimeoutNow(sender),
        ServerDown(sender, True),
        ServerDown(sender, False),
        Written(uid, Term(3), Index(1), Index(2)),
        Written(uid, Term(4), Index(3), Index(9)),
        Written(Uid("other"), Term(3), Index(1), Index(2)),
        ResendWrite(uid, Index(1)),
        WalUp(),
        WalFailed("EIO"),
        *(SnapshotWritten(uid, kind, IndexTerm(Index(1), Term(1))) for kind in SnapshotKind),
        SnapshotFailed(uid, SnapshotKind.SNAPSHOT, IndexTerm(Index(1), Term(1)), "the disk is full"),
        AcceptFailed(uid, IndexTerm(Index(9), Term(3)), "damaged"),
        accepted(),
        ElectionTimeout(),
        AwaitConditionTimeout(),
        QuorumTimeout(),
        ReceiveSnapshotTimeout(),
        *(SnapshotSenderDown(sender, outcome) for outcome in SenderOutcome),
        SnapshotRetryTimeout(sender),
        AppendNoop(0),
        ApplyRest(),
        FlushCommands(),
        PipelineRpcs(),
        Tick(5),
        MachineTimeout("t"),
        MachineAppend(b"\x01"),
        NodeStatus(sender.node, True),
        NodeStatus(sender.node, False),
        *(ProcessDown(component, CLIENT, "gone") for component in Component),
        *(NodeEvent(component, sender.node, up) for component in Component for up in (True, False)),
    ]


def all_messages(term: int) -> list[Message]:
    """Of a lower, an equal and a higher term than this, and of a member and an outsider."""
    messages = [
        message
        for sender, relation in itertools.product((B, STRANGER), (-1, 0, 1))
        for message in with_term(term + relation, sender)
    ]
    return messages + without_term(B) + without_term(STRANGER)


def test_the_table_has_a_row_for_every_message() -> None:
    """A new message class has to be added to this table."""
    rows = {type(message) for message in all_messages(3)}
    assert rows == {*get_args(RemoteMessage), *get_args(LocalMessage)}


def check_order(effects: list[Effect]) -> None:
    """What a step stores stands before all that it sends (I12)."""
    kinds = [type(effect) for effect in effects]
    if PersistTermAndVote in kinds:
        sending = [kinds.index(kind) for kind in (SendRpc, SendVoteRequests) if kind in kinds]
        assert all(kinds.index(PersistTermAndVote) < position for position in sending)
        assert kinds.count(PersistTermAndVote) == 1


@pytest.mark.parametrize("role", ROLES)
def test_every_role_answers_every_message(role: str) -> None:
    """No exception, all invariants, storing before sending; what cannot be, in a cluster of which no member
    is wrong, is an error.
    """
    term = in_role(role).server("a").current_term
    for number, message in enumerate(all_messages(term)):
        server = in_role(role).server("a")
        before = invariants.observe(server)
        if isinstance(message, SnapshotWritten) and message.position.index > before.last_applied:
            continue  # nobody makes a snapshot of what is not applied
        if isinstance(message, SnapshotAccepted) and role == "receiving, all but durable":
            continue  # the store has not said so, and has no state to install
        error = impossible(before, server, message)
        if error is not None:
            with pytest.raises(InvariantViolation, match=error):
                step(server, message)
            continue
        effects = step(server, message)
        leaders = {before.leader_id, server.leader_id} - {None}
        if server.current_term == before.term and len(leaders) == 2:  # and one follower of both
            with pytest.raises(InvariantViolation, match="both lead"):
                invariants.check(before, server)
            continue
        invariants.check(before, server)
        check_order(effects)
        check_term_rule(before, server, message, number)


def impossible(before: invariants.Facts, server: Server, message: Message) -> str | None:
    """The error for two leaders in one term, and for a leader without what is committed."""
    leads = server.leadership() is not None
    if isinstance(message, FROM_LEADER) and message.term == before.term:
        return "both lead" if leads else None
    if isinstance(message, AppendEntriesRpc) and message.term > before.term and before.state is not TL:
        fits = (message.prev_log_index, message.prev_log_term) == (2, 3)
        return "overwrite committed" if fits and message.entries and before.commit_index > 2 else None
    return None


def check_term_rule(before: invariants.Facts, server: Server, message: Message, number: int) -> None:
    """§3.3, whatever the message: terms only come from messages or candidacies, and never from old ones."""
    if isinstance(message, ForceMemberChange):  # a term that nobody can have used
        assert server.current_term == before.term or server.current_term >= before.term + (1 << 20), number
    else:
        assert server.current_term in (before.term, getattr(message, "term", 0), before.term + 1), number
    if getattr(message, "term", before.term) < before.term and not isinstance(message, Written):
        assert server.current_term == before.term, number
        assert before.state is server.raft_state, number
        assert before.leader_id == server.leader_id, number


def is_call(message: Message) -> bool:
    """Whether somebody waits for an answer to it."""
    match message:
        case Commands():
            return decode_head(message.body).reply_mode is not ReplyMode.NOREPLY
        case JoinMember() | LeaveMember() | DeleteCluster():
            return message.reply_mode is not ReplyMode.NOREPLY
        case AuxCommand():
            return message.origin != NOBODY
        case _:
            return isinstance(message, FromClient | ForceMemberChange)


@pytest.mark.parametrize("role", [role for role in ROLES if "leader" not in role or "end" in role])
def test_who_asks_where_nobody_leads_is_told_at_once(role: str) -> None:
    """CMD-14: in every state but a leader's, a caller that waits for an answer gets one in the same step."""
    for message in filter(is_call, without_term(B)):
        cluster = in_role(role)
        cluster.answers.clear()
        cluster["a"].handle(message)
        told = [answer for answer in cluster.answers if answer.first_correlation == 50]
        assert len(told) == 1, message


def test_a_table_that_forgets_a_message_or_has_it_twice_is_our_bug() -> None:
    """Totality is checked when a table is made, not when a message comes."""
    everything = each(ignore, *get_args(RemoteMessage), *get_args(LocalMessage))
    assert len(total("good", everything)) == len(everything)
    with pytest.raises(InvariantViolation, match=r"bad: missing \['AppendEntriesRpc'\], twice \[\]"):
        total("bad", everything[1:])
    with pytest.raises(InvariantViolation, match=r"bad: missing \[\], twice \['Tick'\]"):
        total("bad", everything, on(Tick, ignore))


@pytest.mark.parametrize("role", ["leader", "new leader", "leader without log", "handing over"])
def test_a_leader_that_steps_down_says_so_to_all_who_wait(role: str) -> None:
    """What waited for this leadership and never began is refused, whatever ends it."""
    cluster = in_role(role)
    cluster.answers.clear()
    cluster["a"].handle(RequestVoteRpc(Term(9), B, Index(9), Term(9)))
    assert cluster.server("a").raft_state is F
    assert set(cluster.refusals()) == {"not_leader"}
    assert cluster.server("a").leader_id is None


# --- what the rules say --------------------------------------------------------------------

Row = tuple[str, str, Any, int, RaftState, list[str]]


def last_of(kind: type) -> Callable[[int], Message]:
    """The first message of this kind, from b, in a given term."""
    return lambda term: next(m for m in with_term(term, B) if type(m) is kind)


def reply(
    success: bool, last: tuple[int, int], next_index: int, sender: ServerId = B
) -> Callable[[int], Message]:
    """An AppendEntriesReply in a given term."""
    return lambda term: AppendEntriesReply(
        sender, Term(term), success, Index(next_index), Index(last[0]), Term(last[1])
    )


def installed(index: int, at_term: int, sender: ServerId = B) -> Callable[[int], Message]:
    """The answer to the last chunk of a snapshot of such an entry, in a given term."""
    last = ChunkState(2, ChunkFlag.LAST)
    position = IndexTerm(Index(index), Term(at_term))
    return lambda term: InstallSnapshotResult(
        sender, Term(term), Term(term), position, last, ChunkOutcome.INSTALLED
    )


def accepted() -> SnapshotAccepted:
    """The store of a has the snapshot that `receiving` receives."""
    return SnapshotAccepted(Uid("uid_a"), IndexTerm(Index(9), Term(3)))


def ask(last: tuple[int, int], sender: ServerId = B) -> Callable[[int], Message]:
    """A RequestVoteRpc in a given term."""
    return lambda term: RequestVoteRpc(Term(term), sender, Index(last[0]), Term(last[1]))


def trial(last: tuple[int, int], sender: ServerId = B) -> Callable[[int], Message]:
    """A PreVoteRpc in a given term."""
    return lambda term: PreVoteRpc(1, 0, Term(term), 7, sender, Index(last[0]), Term(last[1]))


def always(message: Message) -> Callable[[int], Message]:
    """A message without a term."""
    return lambda _term: message


MISSED_THE_BEGINNING = ["AppendEntriesReply", "InstallSnapshotResult"]

GOOD, BAD = (9, 9), (0, 0)
RULES: list[Row] = [
    # rule, role, message, its term less ours, the state after it, what is sent
    ("L-1", "leader", reply(True, (3, 4), 4, STRANGER), 0, L, []),
    ("L-3", "leader", reply(True, (3, 4), 4, STRANGER), 1, L, []),
    ("L-4", "leader", reply(False, (2, 3), 3), 1, F, []),
    ("L-4", "leader", reply(True, (2, 3), 3), 1, F, []),
    ("L-5", "leader", reply(False, (2, 3), 3, STRANGER), 0, L, []),
    ("L-6", "leader", reply(False, (2, 3), 3), 0, L, ["AppendEntriesRpc"]),
    ("L-7", "leader", always(without_term(B)[0]), 0, L, ["AppendEntriesRpc"] * 2),
    ("L-9", "leader", always(WalFailed("EIO")), 0, W, ["TimeoutNow"]),
    ("L-19", "leader", last_of(AppendEntriesRpc), 1, F, ["AppendEntriesReply"]),
    ("L-21", "leader", last_of(AppendEntriesRpc), -1, L, ["AppendEntriesReply"]),
    ("L-22", "leader", always(Queries(CLIENT, 70, (b"\xc0",), True)), 0, L, ["HeartbeatRpc"] * 2),
    ("L-23", "new leader", always(Queries(CLIENT, 70, (b"\xc0",), True)), 0, L, []),
    ("L-25", "leader", last_of(HeartbeatRpc), 1, F, ["HeartbeatReply"]),
    ("L-25", "leader", last_of(HeartbeatRpc), -1, L, ["HeartbeatReply"]),
    ("L-27", "leader", last_of(HeartbeatReply), -1, L, []),
    ("L-27", "leader", last_of(HeartbeatReply), 1, F, []),
    ("L-28", "leader", ask(GOOD, STRANGER), 1, L, []),
    ("L-28", "leader", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("L-29", "leader", ask(GOOD), 0, L, ["RequestVoteResult"]),
    ("L-29", "leader", ask(GOOD), -1, L, ["RequestVoteResult"]),
    ("L-30", "leader", trial(GOOD, STRANGER), 1, L, []),
    ("L-30", "leader", trial(GOOD), 1, F, ["PreVoteResult"]),
    ("L-31", "leader", trial(GOOD), 0, L, ["AppendEntriesRpc"] * 2 + ["HeartbeatRpc"] * 2),
    ("L-32", "leader", last_of(RequestVoteResult), 0, L, []),
    ("L-32", "leader", last_of(PreVoteResult), -1, L, []),
    ("§3.3", "leader", last_of(RequestVoteResult), 1, F, []),
    ("§3.3", "leader", last_of(PreVoteResult), 1, F, []),
    ("L-35", "leader", always(TransferLeadership(CLIENT, 70, A)), 0, L, []),
    ("L-35", "leader", always(TransferLeadership(CLIENT, 70, STRANGER)), 0, L, []),
    ("L-35", "leader", always(TransferLeadership(CLIENT, 70, B)), 0, W, ["TimeoutNow"]),
    ("L-13", "leader", always(AuxCommand(CLIENT, 70, b"\xc0")), 0, L, []),
    ("L-14", "leader", last_of(InstallSnapshotResult), 1, F, []),
    ("L-15", "leader", installed(2, 3), 0, L, ["AppendEntriesRpc"]),
    ("L-15", "leader", installed(2, 2), 0, L, []),
    ("L-15", "leader", installed(2, 3, STRANGER), 0, L, []),
    ("L-14", "leader", installed(2, 3, STRANGER), 1, L, []),
    ("L-18", "leader", lambda t: chunk(t), 1, S, ["InstallSnapshotResult"]),
    ("L-18", "leader", lambda t: chunk(t, sender=STRANGER), 1, L, []),
    ("C-13", "leader", lambda t: chunk(t), -1, L, ["InstallSnapshotResult"]),
    ("L-24", "leader", always(AuxCommand(CLIENT, 70, b"\xc0", True)), 0, L, ["HeartbeatRpc"] * 2),
    ("L-33", "leader", last_of(InfoRpc), -1, L, ["InfoReply"]),
    ("L-33", "leader", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("L-34", "leader", last_of(InfoReply), 0, L, []),
    ("L-34", "leader", last_of(InfoReply), 1, F, []),
    ("L-36", "leader", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("§10.6", "leader at the end", reply(True, (5, 4), 6, ServerId("c", "node_c")), 0, END, []),
    ("§10.6", "leader at the end", always(AwaitConditionTimeout()), 0, END, []),
    ("§10.6", "leader at the end", reply(True, (2, 3), 3), 0, TL, []),
    ("§10.6", "leader at the end", reply(False, (2, 3), 3), 1, END, []),
    ("§10.6", "follower at the end", lambda t: rpc(t, (3, 3)), 0, TF, ["AppendEntriesReply"]),
    ("§10.6", "follower at the end", always(AwaitConditionTimeout()), 0, END, []),
    ("C-1", "candidate", lambda t: RequestVoteResult(B, Term(t), True), 0, L, ["AppendEntriesRpc"] * 2),
    ("C-2", "candidate", lambda t: RequestVoteResult(B, Term(t), False), 1, F, []),
    ("C-3", "candidate", lambda t: RequestVoteResult(B, Term(t), False), 0, C, []),
    ("C-3", "candidate", lambda t: RequestVoteResult(B, Term(t), True), -1, C, []),
    ("C-4", "candidate", last_of(AppendEntriesRpc), 0, F, ["AppendEntriesReply"]),
    ("C-4", "candidate", last_of(AppendEntriesRpc), 1, F, ["AppendEntriesReply"]),
    ("C-5", "candidate", last_of(AppendEntriesRpc), -1, C, ["AppendEntriesReply"]),
    ("C-6", "candidate", last_of(HeartbeatRpc), 0, F, ["HeartbeatReply"]),
    ("C-6", "candidate", last_of(HeartbeatRpc), -1, C, ["HeartbeatReply"]),
    ("C-7", "candidate", last_of(AppendEntriesReply), 1, F, []),
    ("C-7", "candidate", last_of(HeartbeatReply), 1, F, []),
    ("C-8", "candidate", last_of(AppendEntriesReply), 0, C, []),
    ("C-9", "candidate", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("C-9", "candidate", trial(GOOD), 1, F, ["PreVoteResult"]),
    ("C-10", "candidate", ask(GOOD), 0, C, ["RequestVoteResult"]),
    ("C-11", "candidate", trial(GOOD), 0, C, ["PreVoteResult"]),
    ("C-15", "candidate", always(ElectionTimeout()), 0, C, ["RequestVoteRpc"] * 2),
    ("C-18", "candidate", last_of(PreVoteResult), 0, C, []),
    ("C-12", "candidate", lambda t: chunk(t), 0, S, ["InstallSnapshotResult"]),
    ("C-12", "candidate", lambda t: chunk(t), 1, S, ["InstallSnapshotResult"]),
    ("C-13", "candidate", lambda t: chunk(t), -1, C, ["InstallSnapshotResult"]),
    ("C-16", "candidate", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("C-17", "candidate", last_of(InfoRpc), 0, F, ["InfoReply"]),  # its sender leads our term
    ("C-17", "candidate", last_of(InfoRpc), -1, C, ["InfoReply"]),
    ("C-17", "candidate", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("C-17", "candidate", last_of(InfoReply), 0, C, []),
    ("C-17", "candidate", last_of(InfoReply), 1, F, []),
    ("P-5", "pre_vote", lambda t: chunk(t), 0, S, ["InstallSnapshotResult"]),
    ("P-10", "pre_vote", last_of(InfoRpc), 0, F, ["InfoReply"]),
    ("P-10", "pre_vote", last_of(InfoRpc), -1, P, ["InfoReply"]),
    ("P-10", "pre_vote", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("P-10", "pre_vote", last_of(InfoReply), 1, F, []),
    ("P-11", "pre_vote", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("P-1", "pre_vote", last_of(AppendEntriesRpc), 0, F, ["AppendEntriesReply"]),
    ("P-1", "pre_vote", last_of(HeartbeatRpc), 0, F, ["HeartbeatReply"]),
    ("P-2", "pre_vote", last_of(HeartbeatRpc), -1, P, ["HeartbeatReply"]),
    ("P-3", "pre_vote", last_of(HeartbeatReply), 1, F, []),
    ("P-3", "pre_vote", last_of(PreVoteResult), 1, F, []),
    ("P-4", "pre_vote", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("P-6", "pre_vote", lambda t: PreVoteResult(B, Term(t), 1, True), 0, C, ["RequestVoteRpc"] * 2),
    ("P-7", "pre_vote", lambda t: PreVoteResult(B, Term(t), 9, True), 0, P, []),
    ("P-7", "pre_vote", lambda t: PreVoteResult(B, Term(t), 1, False), 0, P, []),
    ("P-8", "pre_vote", trial(GOOD), 0, P, ["PreVoteResult"]),
    ("P-9", "pre_vote", always(ElectionTimeout()), 0, P, ["PreVoteRpc"] * 2),
    ("P-12", "pre_vote", last_of(AppendEntriesRpc), -1, P, ["AppendEntriesReply"]),  # Ra is silent
    ("F-1a", "follower", lambda t: rpc(t, (2, 3)), 0, F, ["AppendEntriesReply"]),
    ("F-1a", "follower", lambda t: rpc(t, (2, 3), entry(3, 3)), 0, F, []),
    ("F-1b", "follower", lambda t: rpc(t, (9, 3)), 0, W, ["AppendEntriesReply"]),
    ("F-1c", "follower", lambda t: rpc(t, (2, 2)), 0, W, ["AppendEntriesReply"]),
    ("F-2", "follower", last_of(AppendEntriesRpc), -1, F, ["AppendEntriesReply"]),
    ("F-3", "follower", last_of(HeartbeatRpc), 1, F, ["HeartbeatReply"]),
    ("F-4", "follower", last_of(HeartbeatRpc), -1, F, ["HeartbeatReply"]),
    ("F-6", "follower", trial(GOOD), 0, F, ["PreVoteResult"]),
    ("F-6", "follower", trial(BAD), 0, F, []),
    ("F-9", "follower", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("F-9", "follower", ask(BAD), 1, F, ["RequestVoteResult"]),
    ("F-10", "follower", ask(GOOD), -1, F, ["RequestVoteResult"]),
    ("F-11", "follower", last_of(AppendEntriesReply), 1, F, []),
    ("F-16", "follower", last_of(RequestVoteResult), 0, F, []),
    ("F-17", "follower", always(ElectionTimeout()), 0, P, ["PreVoteRpc"] * 2),
    ("F-12", "follower", lambda t: chunk(t), -1, F, ["InstallSnapshotResult"]),
    ("F-13", "follower", lambda t: chunk(t), 0, S, ["InstallSnapshotResult"]),
    ("F-13", "follower", lambda t: chunk(t, 0, ChunkFlag.INIT), 1, S, ["InstallSnapshotResult"]),
    ("F-14", "follower", lambda t: chunk(t, 2), 0, F, MISSED_THE_BEGINNING),
    (
        "F-14",
        "follower",
        lambda t: chunk(t, 0, ChunkFlag.PRE),
        0,
        F,
        ["AppendEntriesReply", "InstallSnapshotResult"],
    ),
    ("F-15", "follower", lambda t: chunk(t, version=9), 0, F, []),  # Ra answers with an error
    ("F-15", "follower", lambda t: chunk(t, version=9), 1, F, []),
    ("F-16", "follower", last_of(InstallSnapshotResult), 0, F, []),
    ("F-18", "follower", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("F-19", "follower", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("F-19", "follower", last_of(InfoRpc), -1, F, ["InfoReply"]),
    ("F-20", "follower", last_of(InfoReply), 1, F, []),
    ("W-1", "gap", ask(GOOD), 0, W, ["RequestVoteResult"]),
    ("W-1", "handing over", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("W-2", "gap", trial(GOOD), 0, W, ["PreVoteResult"]),
    ("W-2", "gap", trial(BAD), 0, W, ["PreVoteResult"]),
    ("W-2", "handing over", trial(GOOD), 0, W, ["PreVoteResult"]),
    ("W-2", "handing over", trial(GOOD), 1, F, ["PreVoteResult"]),
    ("W-3", "gap", always(ElectionTimeout()), 0, P, ["PreVoteRpc"] * 2),
    ("W-4", "gap", always(AwaitConditionTimeout()), 0, F, ["AppendEntriesReply"]),
    ("W-4", "without log", always(AwaitConditionTimeout()), 0, F, []),
    ("W-4", "handing over", always(AwaitConditionTimeout()), 0, L, []),
    ("W-5", "without log", always(WalUp()), 0, F, []),
    ("W-5", "leader without log", always(WalUp()), 0, L, []),
    ("W-6", "gap", lambda t: rpc(t, (2, 3)), 0, F, ["AppendEntriesReply"]),
    ("W-6", "gap", lambda t: rpc(t, (9, 3)), 0, W, []),
    ("W-6", "gap", lambda t: rpc(t, (2, 2)), 0, W, ["AppendEntriesReply"]),  # answered in the other way
    ("W-6", "conflict", lambda t: rpc(t, (2, 2)), 0, W, []),
    ("W-6", "conflict", lambda t: rpc(t, (1, 1)), 0, F, ["AppendEntriesReply"]),
    ("W-6", "gap", lambda t: rpc(t, (2, 3)), -1, W, ["AppendEntriesReply"]),
    ("W-6", "handing over", lambda t: rpc(t, (2, 3)), 1, F, ["AppendEntriesReply"]),
    ("W-6", "gap", last_of(HeartbeatRpc), 0, W, []),
    ("W-6", "gap", last_of(HeartbeatRpc), 1, F, ["HeartbeatReply"]),
    ("W-6", "gap", lambda t: chunk(t), 0, S, ["InstallSnapshotResult"]),
    ("W-6", "gap", lambda t: chunk(t, at=(2, 3)), 0, W, []),
    ("W-6", "gap", lambda t: chunk(t), -1, W, ["InstallSnapshotResult"]),
    ("W-6", "handing over", lambda t: chunk(t), 1, S, ["InstallSnapshotResult"]),
    ("W-6", "gap", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("MEMB-15", "gap", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("MEMB-15", "handing over", always(ForceMemberChange(CLIENT, 70)), 0, L, []),
    ("S-1", "receiving live entries", lambda t: chunk(t, 0, ChunkFlag.INIT), 0, S, ["InstallSnapshotResult"]),
    ("S-2", "receiving", lambda t: chunk(t, 0, ChunkFlag.INIT), 0, S, ["InstallSnapshotResult"]),
    ("S-2", "receiving", lambda t: chunk(t, at=(7, 3)), 0, S, ["InstallSnapshotResult"]),
    ("S-3", "receiving live entries", lambda t: chunk(t, 2, ChunkFlag.PRE), 0, S, ["InstallSnapshotResult"]),
    ("S-4", "receiving", lambda t: chunk(t, 2), 0, S, ["InstallSnapshotResult"]),
    ("S-4", "receiving", lambda t: chunk(t, 9), 0, F, []),
    ("S-3", "receiving live entries", lambda t: chunk(t, 1, ChunkFlag.PRE), 0, S, ["InstallSnapshotResult"]),
    ("S-3", "receiving live entries", lambda t: chunk(t, 3, ChunkFlag.PRE), 0, F, []),
    ("S-5", "receiving", lambda t: chunk(t, 2, ChunkFlag.LAST), 0, S, ["InstallSnapshotResult"]),
    ("S-5", "receiving, all but durable", lambda t: chunk(t), 0, S, ["InstallSnapshotResult"]),
    ("S-6", "receiving", always(accepted()), 0, S, []),
    ("S-7", "receiving", lambda t: rpc(t, (2, 3)), 0, S, []),
    ("S-7", "receiving", lambda t: rpc(t, (2, 3)), 1, F, ["AppendEntriesReply"]),
    ("S-9", "receiving", always(ReceiveSnapshotTimeout()), 0, F, []),
    ("S-10", "receiving", last_of(InfoRpc), 0, S, ["InfoReply"]),
    ("S-10", "receiving", last_of(InfoRpc), 1, F, ["InfoReply"]),
    ("S-11", "receiving", ask(GOOD), 0, S, ["RequestVoteResult"]),
    ("S-11", "receiving", ask(GOOD), 1, F, ["RequestVoteResult"]),
    ("S-12", "receiving", trial(GOOD), 0, S, ["PreVoteResult"]),
    ("S-13", "receiving", last_of(HeartbeatRpc), 0, S, []),
    ("§3.3", "receiving", last_of(HeartbeatRpc), 1, F, ["HeartbeatReply"]),
    ("S-13", "receiving", always(ElectionTimeout()), 0, S, []),
    ("S-13", "receiving", always(TimeoutNow(B)), 0, S, []),
    ("§10.10", "receiving", always(ServerDown(B, True)), 0, F, []),
    ("§10.10", "receiving", always(ServerDown(STRANGER, True)), 0, S, []),
    ("§10.10", "receiving", always(NodeStatus("node_b", False)), 0, F, []),
    ("§10.10", "receiving", always(NodeStatus("node_b", True)), 0, S, []),
    ("§10.9", "gap", always(ServerDown(B, True)), 0, F, []),
    ("§10.9", "gap", always(ServerDown(STRANGER, True)), 0, W, []),
    ("§10.9", "gap", always(NodeStatus("node_b", False)), 0, F, []),
    ("§10.9", "gap", always(NodeStatus("node_b", True)), 0, W, ["AppendEntriesReply"]),
]


@pytest.mark.parametrize(
    ("rule", "role", "message", "more", "state", "sends"),
    RULES,
    ids=[f"{number}-{row[0]}" for number, row in enumerate(RULES)],
)
def test_the_rules_hold(
    rule: str, role: str, message: Callable[[int], Message], more: int, state: RaftState, sends: list[str]
) -> None:
    """Each row: in this role, this message leads to this state, and sends these messages and no others."""
    cluster = in_role(role)
    effects = cluster["a"].handle(message(cluster.server("a").current_term + more))
    assert cluster.server("a").raft_state is state
    assert sorted(type(each).__name__ for _, each in sent(effects, object)) == sorted(sends), rule


def test_a_follower_ends_when_the_end_is_on_its_disk() -> None:
    """§10.6: its last answer says that it has everything, so that the leader need not wait for it."""
    cluster = in_role("follower at the end")
    before = len(cluster["a"].effects)
    cluster["a"].sync()
    assert cluster.server("a").raft_state is END
    *_, (to, last) = sent(cluster["a"].effects[before:], AppendEntriesReply)
    assert (to, last.success, last.last_index, last.next_index) == ("b", True, 3, 4)
    assert cluster["a"].stopped is StopReason.DELETED
