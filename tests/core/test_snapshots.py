"""Making, sending and receiving snapshots (§5; F-12 to F-15, L-14 to L-18, S-1 to S-13, SNAP, SEND, RECV,
CKPT).
"""

from typing import Any

import msgspec
import pytest

from barque.core.captures import version_at
from barque.core.effects import SendSnapshot, SnapshotAcked, StartSnapshotRetry
from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    ChunkOutcome,
    ElectionTimeout,
    HeartbeatReply,
    HeartbeatRpc,
    InfoReply,
    InfoRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    NodeStatus,
    PreVoteResult,
    PreVoteRpc,
    RequestVoteResult,
    RequestVoteRpc,
    SenderOutcome,
    ServerDown,
    SnapshotRetryTimeout,
    SnapshotSenderDown,
    Tick,
    WalFailed,
)
from barque.core.state import PeerStatus, RaftState
from barque.errors import InvariantViolation
from barque.machine.effects import Aux, Checkpoint, ReleaseCursor
from barque.machine.machine import Builtin, CommandMeta, Machine
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, IndexTerm, MemberRecord, Membership, ServerId, Term, Uid

ONE = Term(1)


class Keeper(Machine[list[Any]]):
    """Keeps its commands; `snap`, `check`, `promote` ask for what their names say."""

    keep_live = False

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """Write it down, and wish."""
        if isinstance(command, Builtin):
            return state, None
        state.append(command)
        word, *rest = str(command).split()
        index = Index(meta.index)
        match word:
            case "snap":
                return state, "ok", [ReleaseCursor(index, list(state))]
            case "written":
                return state, "ok", [ReleaseCursor(index, list(state), written=index)]
            case "later":
                return state, "ok", [ReleaseCursor(index, list(state), no_snapshot_sends=True)]
            case "check":
                return state, "ok", [Checkpoint(index, list(state))]
            case "promote":
                return state, "ok", [ReleaseCursor(index, promote=True)]
            case "old":
                return state, "ok", [ReleaseCursor(Index(int(rest[0])), list(state))]
        return state, "ok"

    def live_indexes(self, state: list[Any]) -> list[Index]:
        """The first user command, if asked to."""
        return [Index(2)] if self.keep_live and state else []

    def snapshot_installed(
        self, position: IndexTerm, state: list[Any], old_position: IndexTerm, old_state: list[Any]
    ) -> Any:
        """Say so."""
        return [Aux(["installed", position.index, old_position.index, len(old_state)])]


class LiveKeeper(Keeper):
    """Needs entry 2 without end."""

    keep_live = True


def led(*names: str, machine: Machine[Any] | None = None) -> CoreCluster:
    """A cluster at rest whose first member leads."""
    cluster = CoreCluster(*names, machine=machine or Keeper())
    cluster.elect(names[0])
    return cluster


def behind(machine: Machine[Any] | None = None) -> CoreCluster:
    """A leads and has a snapshot at 4; c has entry 1 only, and has just come back. a has not noticed."""
    cluster = led("a", "b", "c", machine=machine)
    cluster["a"].handle(Tick(0))
    cluster.settle()
    cluster["c"].remember_applied()
    cluster["c"].crash()
    cluster.command("a", "x", "y", "snap")
    cluster.settle("a", "b")
    cluster["c"].start()
    cluster.network.clear()
    return cluster


def sending(machine: Machine[Any] | None = None) -> CoreCluster:
    """As `behind`, and the first chunk for c is on the network."""
    cluster = behind(machine)
    cluster["a"].handle(NodeStatus("node_c", up=True))
    cluster.deliver(link=("a", "c"))
    cluster.deliver(link=("c", "a"))
    assert peer_status(cluster) is PeerStatus.SENDING_SNAPSHOT
    cluster.network = type(cluster.network)(
        m for m in cluster.network if m[0].name == "a" and m[1].name == "c"
    )
    return cluster


def receiving(machine: Machine[Any] | None = None) -> CoreCluster:
    """As `sending`, and c has taken the first chunk; its answer is on the network."""
    cluster = sending(machine)
    cluster.deliver(only=InstallSnapshotRpc)
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT
    return cluster


def peer_status(cluster: CoreCluster, name: str = "c") -> PeerStatus:
    """What a thinks of this member."""
    return cluster.server("a").cluster[cluster[name].id].status


def meta_of(cluster: CoreCluster) -> SnapshotMeta:
    """The leader's snapshot."""
    meta = cluster["a"].log.snapshots.current()
    assert meta is not None
    return meta


def result_of(
    sender: ServerId,
    index: int,
    at_term: int,
    *,
    term: int = 1,
    request_term: int | None = None,
    outcome: ChunkOutcome = ChunkOutcome.INSTALLED,
) -> InstallSnapshotResult:
    """The answer to the last chunk of a snapshot of such an entry."""
    asked = term if request_term is None else request_term
    position = IndexTerm(Index(index), Term(at_term))
    return InstallSnapshotResult(
        sender, Term(term), Term(asked), position, ChunkState(9, ChunkFlag.LAST), outcome
    )


def chunk(
    cluster: CoreCluster, number: int, flag: ChunkFlag, *, term: int = 1, meta: SnapshotMeta | None = None
) -> InstallSnapshotRpc:
    """A chunk of a's."""
    return InstallSnapshotRpc(
        Term(term), cluster["a"].id, meta or meta_of(cluster), ChunkState(number, flag), b"piece"
    )


# --- making --------------------------------------------------------------------------------


def test_a_snapshot_stands_for_what_it_replaces() -> None:
    """SNAP-01 to SNAP-05, SNAP-09, EFF-14: position, members and version; the log begins behind it."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x", "snap", "y")
    cluster.settle()
    assert cluster["a"].log.snapshot_index_term() == IndexTerm(Index(3), ONE)
    meta = meta_of(cluster)
    assert [record.id.name for record in meta.cluster] == ["a", "b", "c"]
    assert meta.machine_version == 0
    assert cluster["b"].log.snapshots.current() == meta
    assert cluster.server("a").machine_state == ["x", "snap", "y"]


def test_a_server_starts_from_its_snapshot() -> None:
    """CORE-12, LIFE-05: state, members, version and position come from it; what follows is applied (§1)."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x", "snap", "y")
    cluster.settle()
    cluster["b"].restart()
    server = cluster.server("b")
    assert (server.last_applied, server.commit_index) == (3, 3)
    assert server.machine_state == ["x", "snap"]
    cluster["a"].handle(NodeStatus("node_b", up=True))
    cluster.settle()
    assert server.machine_state == ["x", "snap", "y"]


@pytest.mark.parametrize("command", ["old 0", "old 99", "old 1"])
def test_a_hint_for_an_entry_that_is_not_applied_or_gone_changes_nothing(command: str) -> None:
    """SNAP-01: hints may be repeated, and late."""
    cluster = led("a")
    cluster.command("a", "x", "snap")
    cluster.settle()
    cluster.command("a", command)
    cluster.settle()
    assert meta_of(cluster).position.index == 3


def test_a_hint_waits_until_its_entry_is_written() -> None:
    """EFF-15 `written`: a follower may apply what it has not synced."""
    cluster = led("a", "b", "c")
    cluster.command("a", "written")
    for _ in range(4):
        for name in "ac":
            cluster[name].sync()
        cluster.deliver()
    cluster["a"].handle(Tick(0))
    cluster.deliver()
    assert cluster.server("b").last_applied == 2
    assert cluster.server("b").pending_release_cursor is not None
    cluster.settle()
    assert cluster["b"].log.snapshots.current() == meta_of(cluster)
    assert cluster.server("b").pending_release_cursor is None


def test_a_hint_waits_until_no_snapshot_is_sent() -> None:
    """EFF-15 `no_snapshot_sends`, L-15, CORE-17: a normal end of the sending, or the result, lets it go
    on.
    """
    cluster = sending()
    cluster.command("a", "later")
    cluster.deliver(link=("a", "b"))
    cluster["b"].sync()
    cluster["a"].sync()
    cluster.deliver(link=("b", "a"))
    assert cluster.server("a").pending_release_cursor is not None
    cluster["a"].handle(SnapshotSenderDown(cluster["c"].id, SenderOutcome.NORMAL))
    assert cluster.server("a").pending_release_cursor is None


def test_only_the_latest_hint_waits() -> None:
    """EFF-15: a newer one takes the place of one that waits."""
    cluster = sending()
    cluster.partition("ab", "c")
    cluster.command("a", "p", "q")
    cluster.settle("a", "b")
    server = cluster.server("a")
    for index in (5, 6):
        cluster["a"].perform([ReleaseCursor(Index(index), [], no_snapshot_sends=True)])
    assert server.pending_release_cursor.index == 6


def test_a_snapshot_never_carries_a_change_that_is_not_committed() -> None:
    """SNAP-03, MEMB-17: the present members, but for a change under way."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x")
    cluster.settle()
    cluster.leave("a", "c")
    cluster["a"].perform([ReleaseCursor(Index(2), ["x"])])
    cluster["a"].sync()
    assert len(meta_of(cluster).cluster) == 3


def test_a_checkpoint_truncates_nothing_until_it_is_promoted() -> None:
    """CKPT-01, CKPT-02, EFF-16, EFF-17."""
    cluster = led("a", "b")
    cluster.command("a", "x", "check", "y")
    cluster.settle()
    assert cluster["a"].log.snapshot_index_term().index == 0
    cluster.command("a", "promote")
    cluster.settle()
    assert meta_of(cluster).position.index == 3


def test_a_promotion_without_a_checkpoint_is_nothing() -> None:
    """CKPT-02: there may be none that is old enough."""
    cluster = led("a")
    cluster.command("a", "promote")
    cluster.settle()
    assert cluster["a"].log.snapshots.current() is None


def test_the_version_of_an_entry_must_be_known() -> None:
    """VER-08: below the oldest known version there is no answer."""
    cluster = led("a")
    server = cluster.server("a")
    server.machine_versions = [(Index(5), 1), (Index(9), 2)]
    assert [version_at(server, Index(i)) for i in (5, 8, 9)] == [1, 1, 2]
    assert version_at(server, Index(4)) is None


# --- sending -------------------------------------------------------------------------------


def test_a_member_that_is_too_far_behind_gets_the_snapshot() -> None:
    """SEND-01, SEND-03, SEND-04, SEND-09, L-15, RECV-01, RECV-08, S-4, S-6: piece by piece, then entries."""
    cluster = behind()
    cluster.command("a", "z")
    cluster.settle()
    assert cluster.server("c").machine_state == ["x", "y", "snap", "z"]
    assert peer_status(cluster) is PeerStatus.NORMAL
    assert [e.meta.position.index for e in cluster["a"].effects if isinstance(e, SendSnapshot)] == [4]
    answers = [(r.chunk.flag, r.outcome) for _, r in sent(cluster["c"].effects, InstallSnapshotResult)]
    taken = (ChunkFlag.NEXT, ChunkOutcome.TAKEN)
    assert answers[:-2] == [taken] * (len(answers) - 2)
    assert answers[-2:] == [
        (ChunkFlag.LAST, ChunkOutcome.WORKING),
        (ChunkFlag.LAST, ChunkOutcome.INSTALLED),
    ]
    assert len(answers) > 2
    assert not cluster["a"].senders


def test_nothing_else_is_sent_to_who_is_sent_a_snapshot() -> None:
    """CORE-16, SEND-01: only normal peers get entries and heartbeats."""
    cluster = sending()
    effects = cluster.command("a", "z") + cluster["a"].handle(Tick(0)) + cluster.query("a")
    assert "c" not in [to for to, _ in sent(effects, AppendEntriesRpc) + sent(effects, HeartbeatRpc)]
    effects = cluster["a"].handle(NodeStatus("node_c", up=True))
    assert "c" not in [to for to, _ in sent(effects, AppendEntriesRpc) + sent(effects, HeartbeatRpc)]


def test_live_entries_travel_ahead() -> None:
    """SEND-05, RECV-02 to RECV-04, MAC-12, S-1, S-3, S-5, S-8: init, entries, pieces; the last waits for
    the disk.
    """
    cluster = behind(LiveKeeper())
    cluster["a"].handle(NodeStatus("node_c", up=True))
    flags: list[ChunkFlag] = []
    for _ in range(60):
        for _, to, message in cluster.network:
            if isinstance(message, InstallSnapshotRpc) and to.name == "c":
                flags.append(message.chunk.flag)
        if not cluster.deliver():
            break
    server = cluster.server("c")
    assert flags[:3] == [ChunkFlag.INIT, ChunkFlag.PRE, ChunkFlag.NEXT]
    assert flags[-1] is ChunkFlag.LAST
    assert server.raft_state is RaftState.RECEIVE_SNAPSHOT  # S-5: not before all of it is on disk
    cluster["c"].sync()
    assert server.raft_state is RaftState.FOLLOWER
    assert server.machine_state == ["x", "y", "snap"]
    assert [batch.first_index for batch in cluster["c"].log.snapshots.live_entries()] == [2]
    assert cluster["c"].log.read_sparse([Index(2)])


def test_a_disk_report_before_all_is_there_is_only_taken() -> None:
    """S-8: nothing waits for it."""
    cluster = receiving(LiveKeeper())
    assert cluster["c"].handle(WalFailed("EIO")) != []  # S-9 as well: nothing can be written
    assert cluster.server("c").raft_state is RaftState.FOLLOWER


@pytest.mark.parametrize("failures", range(6))
def test_a_sending_that_failed_is_tried_again_later_and_later(failures: int) -> None:
    """SEND-07, L-17: 5 s, 10 s … one minute at most."""
    cluster = sending()
    delays = []
    for _ in range(failures):
        effects = cluster["a"].handle(SnapshotSenderDown(cluster["c"].id, SenderOutcome.FAILED))
        delays += [effect.after_ms for effect in effects if isinstance(effect, StartSnapshotRetry)]
        assert peer_status(cluster) is PeerStatus.SNAPSHOT_BACKOFF
        again = cluster["a"].handle(SnapshotRetryTimeout(cluster["c"].id))
        assert any(isinstance(effect, SendSnapshot) for effect in again)
    assert delays == [5_000, 10_000, 20_000, 40_000, 60_000][:failures]


def test_a_node_that_is_back_need_not_wait_for_the_retry() -> None:
    """SEND-07, ELEC-10, REPL-23: neither after a failure nor after a lost connection; the timer is
    cancelled.
    """
    for outcome in (SenderOutcome.FAILED, SenderOutcome.DISCONNECTED):
        cluster = sending()
        cluster["a"].handle(SnapshotSenderDown(cluster["c"].id, outcome))
        assert cluster["a"].handle(SnapshotSenderDown(cluster["c"].id, outcome)) == []
        effects = cluster["a"].handle(NodeStatus("node_c", up=True))
        assert any(isinstance(effect, SendSnapshot) for effect in effects)
        assert cluster["a"].retries == {}
        assert peer_status(cluster) is PeerStatus.SENDING_SNAPSHOT


def test_a_retry_that_nobody_waits_for_is_nothing() -> None:
    """L-17: the member may have caught up, or left."""
    cluster = led("a", "b")
    for member in (cluster["b"].id, cluster["a"].id.__class__("z", "n")):
        assert cluster["a"].handle(SnapshotRetryTimeout(member)) == []
        assert cluster["a"].handle(SnapshotSenderDown(member, SenderOutcome.NORMAL)) == []


@pytest.mark.parametrize("term", [0, 1, 9])
def test_results_of_strangers_and_other_terms(term: int) -> None:
    """L-14, L-15: an unknown sender is ignored, a higher term deposes, a lower one says nothing."""
    cluster = sending()
    c = cluster["c"].id
    for sender in (cluster["a"].id.__class__("z", "n"), cluster["a"].id):
        result = result_of(sender, 4, 1, term=term)
        assert cluster["a"].handle(result) == []
    if term != 1:
        cluster["a"].handle(result_of(c, 4, 1, term=term))
    state = cluster.server("a").raft_state
    assert state is (RaftState.FOLLOWER if term == 9 else RaftState.LEADER)
    if term != 9:
        assert peer_status(cluster) is PeerStatus.SENDING_SNAPSHOT


@pytest.mark.parametrize(("next_index", "status"), [(4, "SENDING_SNAPSHOT"), (5, "NORMAL")])
def test_who_needs_nothing_of_the_snapshot_gets_entries(next_index: int, status: str) -> None:
    """SEND-08: the snapshot stands for entries 1 to 4; who goes on behind it needs no snapshot."""
    cluster = sending()
    assert cluster["a"].log.snapshot_index_term().index == 4
    reply = AppendEntriesReply(cluster["c"].id, ONE, False, Index(next_index), Index(1), ONE)
    effects = cluster["a"].handle(reply)
    assert peer_status(cluster) is PeerStatus[status]
    assert not any(isinstance(effect, SendSnapshot) for effect in effects)  # it is under way already


def test_a_result_for_a_snapshot_that_was_replaced_meanwhile_counts() -> None:
    """L-15: the leader may have made a newer one; the member is where the old one ends, and goes on."""
    cluster = sending()
    cluster.partition("ab", "c")
    cluster.command("a", "more", "snap")
    cluster.settle("a", "b")
    assert cluster["a"].log.snapshot_index_term().index == 6
    cluster["a"].handle(result_of(cluster["c"].id, 4, 1))
    assert cluster.server("a").cluster[cluster["c"].id].match_index == 4
    assert peer_status(cluster) is PeerStatus.SENDING_SNAPSHOT  # of the newer one


def test_a_result_that_our_log_contradicts_proves_nothing() -> None:
    """L-15: no snapshot of ours ends there."""
    cluster = sending()
    cluster["a"].handle(result_of(cluster["c"].id, 4, 0))
    assert peer_status(cluster) is PeerStatus.SENDING_SNAPSHOT
    assert cluster.server("a").cluster[cluster["c"].id].match_index < 4


def test_a_member_that_is_further_than_thought_gets_entries() -> None:
    """SEND-08, F-14: it says how far it is, and the leader goes on from there, without the snapshot."""
    cluster = sending()
    cluster.network.clear()
    reply = AppendEntriesReply(cluster["c"].id, ONE, False, Index(5), Index(4), ONE)
    cluster["a"].handle(reply)
    assert peer_status(cluster) is PeerStatus.NORMAL
    assert cluster.server("a").cluster[cluster["c"].id].next_index == 5


def test_a_promotable_member_is_promoted_by_its_snapshot() -> None:
    """MEMB-11, L-15: what it has by the snapshot counts towards its target."""
    cluster = led("a", "b")
    cluster.command("a", "x", "y", "snap")
    cluster.settle()
    cluster.add("d")
    cluster.join("a", "d", Membership.PROMOTABLE)
    cluster.settle()
    assert cluster.server("d").membership is Membership.VOTER
    assert cluster.server("d").machine_state == ["x", "y", "snap"]


def test_a_peer_that_has_neither_entry_nor_snapshot_is_our_bug() -> None:
    """SEND-01: asserted, since silence would keep a member out without end."""
    cluster = led("a", "b")
    server = cluster.server("a")
    server.cluster[cluster["b"].id].next_index = Index(9)
    with pytest.raises(InvariantViolation, match="neither entry"):
        cluster["a"].handle(NodeStatus("node_b", up=True))


def test_a_sender_goes_on_only_by_the_answer_it_waits_for() -> None:
    """SEND-03, SEND-06, RECV-06: other answers are nothing; a newer snapshot does not disturb it."""
    cluster = sending()
    c, meta = cluster["c"].id, meta_of(cluster)
    sender = cluster["a"].senders[c]

    def answer(number: int, flag: ChunkFlag, index: int = 4) -> bool:
        position = IndexTerm(Index(index), ONE)
        return sender.take(SnapshotAcked(c, position, ChunkState(number, flag), ChunkOutcome.TAKEN))

    assert not answer(9, ChunkFlag.NEXT)
    assert not answer(1, ChunkFlag.LAST)
    assert not answer(1, ChunkFlag.NEXT, index=3)
    assert sender.rpc.chunk.number == 1
    assert answer(1, ChunkFlag.NEXT)
    assert sender.rpc.chunk.number == 2
    assert not answer(1, ChunkFlag.NEXT)
    cluster.command("a", "snap")
    cluster.settle("a", "b")
    assert meta_of(cluster) != meta
    assert answer(2, sender.rpc.chunk.flag)
    assert sender.rpc.meta == meta


# --- a leader or candidate is sent one -----------------------------------------------------


@pytest.mark.parametrize("state", ["leader", "candidate", "pre_vote"])
def test_others_are_told_the_term_or_followed(state: str) -> None:
    """L-18, C-12, C-13, P-5: of a lower term refused; of a higher one, received as a follower."""
    cluster = led("a", "b", "c")
    if state != "leader":
        cluster.partition("a", "bc")
        cluster["b"].handle(ElectionTimeout())
        if state == "candidate":
            cluster.deliver()
            cluster.deliver()
        cluster.heal()
    member = cluster["a" if state == "leader" else "b"]
    other = cluster["c"].id
    assert str(member.server.raft_state) == state
    term = member.server.current_term
    meta = SnapshotMeta(IndexTerm(Index(50), ONE), (MemberRecord(other, Uid("uid_c")),), 0)
    first = ChunkState(1, ChunkFlag.NEXT)
    [(_, result)] = sent(
        member.handle(InstallSnapshotRpc(Term(term - 1), other, meta, first, b"x")), InstallSnapshotResult
    )
    assert result.term == term
    member.handle(InstallSnapshotRpc(Term(term + 1), other, meta, first, b"x"))
    assert member.server.raft_state is RaftState.RECEIVE_SNAPSHOT
    assert member.server.current_term == term + 1


def test_a_leader_ignores_a_strangers_snapshot_and_refuses_a_second_leader() -> None:
    """L-18: a stranger cannot depose it; two leaders in one term are our bug."""
    cluster = led("a", "b")
    meta = SnapshotMeta(IndexTerm(Index(50), ONE), (), 0)
    first = ChunkState(1, ChunkFlag.NEXT)
    stranger = cluster["a"].id.__class__("z", "n")
    assert cluster["a"].handle(InstallSnapshotRpc(Term(9), stranger, meta, first)) == []
    with pytest.raises(InvariantViolation, match="both lead"):
        cluster["a"].handle(InstallSnapshotRpc(ONE, cluster["b"].id, meta, first))


# --- receiving -----------------------------------------------------------------------------


def test_an_old_leader_is_told_the_term() -> None:
    """F-12, S-1: and nothing is received, in either state."""
    cluster = behind()
    old = chunk(cluster, 1, ChunkFlag.NEXT, term=0)
    [(_, result)] = sent(cluster["c"].handle(old), InstallSnapshotResult)
    assert (result.term, result.chunk) == (1, old.chunk)
    cluster = receiving()
    [(_, result)] = sent(cluster["c"].handle(old), InstallSnapshotResult)
    assert result.term == 1
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT


@pytest.mark.parametrize(("number", "flag"), [(2, ChunkFlag.NEXT), (0, ChunkFlag.PRE), (3, ChunkFlag.LAST)])
def test_whoever_missed_the_beginning_says_where_it_is(number: int, flag: ChunkFlag) -> None:
    """F-14, RECV-01: stray chunks begin nothing."""
    cluster = behind()
    effects = cluster["c"].handle(chunk(cluster, number, flag))
    [(_, reply)] = sent(effects, AppendEntriesReply)
    assert (reply.success, reply.next_index, reply.last_index) == (False, 2, 1)
    assert cluster.server("c").raft_state is RaftState.FOLLOWER


def test_whoever_has_it_applied_says_so() -> None:
    """F-14, SEND-08: the snapshot is not newer than its state."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x", "y", "snap")
    cluster.settle()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    [(_, reply)] = sent(cluster["c"].handle(chunk(cluster, 1, ChunkFlag.NEXT)), AppendEntriesReply)
    assert (reply.next_index, reply.last_index, reply.last_term) == (5, 4, 1)


@pytest.mark.parametrize("flag", [ChunkFlag.INIT, ChunkFlag.LAST])
def test_a_snapshot_costs_no_entries_that_were_acknowledged(flag: ChunkFlag) -> None:
    """§5: a member with its last entry keeps its log, since its acknowledged end may be committed.

    The leader sent entries and then, by a reply that was under way, the snapshot.
    """
    cluster = led("a", "b", "c")
    cluster["b"].crash()
    entries = [EntryBatch(Index(i), ONE, 1, 0, encode_body([b"\xa1x"])) for i in range(2, 7)]
    rpc = AppendEntriesRpc(ONE, cluster["a"].id, Index(1), Index(1), ONE, tuple(entries))
    cluster["c"].handle(rpc)
    cluster["c"].sync()
    cluster.observer.committed += [(entry, ONE) for entry in entries]
    members = tuple(MemberRecord(i, Uid(f"uid_{i.name}")) for i in cluster.ids)
    meta = SnapshotMeta(IndexTerm(Index(4), ONE), members, 0)
    number = 0 if flag is ChunkFlag.INIT else 1
    effects = cluster["c"].handle(chunk(cluster, number, flag, meta=meta))
    server = cluster.server("c")
    assert server.log.last_index_term().index == 6
    assert server.last_applied == 4
    [(_, reply)] = sent(effects, AppendEntriesReply)
    assert reply.next_index == 5


def test_a_snapshot_of_a_newer_machine_is_met_with_silence() -> None:
    """F-15, VER-07: the sender keeps its log and tries again; we could not read it."""
    cluster = behind()
    meta = SnapshotMeta(IndexTerm(Index(4), ONE), (), 7)
    assert not sent(cluster["c"].handle(chunk(cluster, 1, ChunkFlag.NEXT, meta=meta)), object)
    assert cluster.server("c").raft_state is RaftState.FOLLOWER


def test_an_announcement_leaves_the_log_whole() -> None:
    """F-13, RECV-02: entries that we have acknowledged may be needed, until the snapshot is installed.

    Ra drops them here. A crash before the installation would then forget what a majority counts on.
    """
    cluster = led("a", "b", "c")
    cluster.add("d")
    cluster.join("a", "d")
    cluster.deliver(link=("a", "c"))
    server = cluster.server("c")
    server_members = len(server.cluster)
    assert server_members == 4
    meta = SnapshotMeta(IndexTerm(Index(9), ONE), (), 0)
    cluster["c"].handle(chunk(cluster, 0, ChunkFlag.INIT, meta=meta))
    assert server.raft_state is RaftState.RECEIVE_SNAPSHOT
    assert server.log.last_index_term().index > server.last_applied == 1
    assert len(server.cluster) == 4


def test_a_full_disk_receives_nothing() -> None:
    """RECV-01, RECV-07: neither at the beginning nor in the middle; the leader will try again."""
    cluster = sending()
    cluster["c"].log.snapshots.full = True
    cluster.deliver(only=InstallSnapshotRpc)
    assert cluster.server("c").raft_state is RaftState.FOLLOWER
    cluster = receiving()
    cluster["c"].log.snapshots.full = True
    cluster["c"].handle(chunk(cluster, 2, ChunkFlag.NEXT))
    assert cluster.server("c").raft_state is RaftState.FOLLOWER
    assert cluster.server("c").leader_id is None


def test_a_chunk_that_was_taken_is_answered_again() -> None:
    """S-4, RECV-06: the answer may have been lost."""
    cluster = receiving()
    [(_, result)] = sent(cluster["c"].handle(chunk(cluster, 1, ChunkFlag.NEXT)), InstallSnapshotResult)
    assert result.chunk == ChunkState(1, ChunkFlag.NEXT)


@pytest.mark.parametrize("flag", [ChunkFlag.NEXT, ChunkFlag.LAST])
def test_a_gap_ends_the_receiving(flag: ChunkFlag) -> None:
    """S-4: Ra's receiver crashes; ours forgets what it has, and the sending begins anew."""
    cluster = receiving()
    cluster["c"].handle(chunk(cluster, 5, flag))
    assert cluster.server("c").raft_state is RaftState.FOLLOWER


def test_a_sending_that_begins_anew_is_followed() -> None:
    """S-2, RECV-05: another snapshot, or another announcement, is received from its beginning."""
    cluster = receiving()
    other = SnapshotMeta(IndexTerm(Index(7), ONE), meta_of(cluster).cluster, 0)
    effects = cluster["c"].handle(chunk(cluster, 1, ChunkFlag.NEXT, meta=other))
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT
    assert cluster.server("c").role.meta == other
    assert sent(effects, InstallSnapshotResult)
    cluster["c"].handle(chunk(cluster, 0, ChunkFlag.INIT, meta=other))
    assert cluster.server("c").role.live_chunks == 0
    cluster["c"].handle(chunk(cluster, 0, ChunkFlag.INIT, meta=other))  # S-1: again the same
    assert cluster.server("c").role.live_chunks == 0


def test_another_leaders_entries_end_the_receiving() -> None:
    """S-7, RECV-07: entries of the present term are dropped; an older leader learns the term."""
    cluster = receiving()
    old = AppendEntriesRpc(Term(0), cluster["b"].id, Index(1), Index(1), ONE)
    [(_, reply)] = sent(cluster["c"].handle(old), AppendEntriesReply)
    assert not reply.success
    rpc = AppendEntriesRpc(ONE, cluster["a"].id, Index(1), Index(1), ONE)
    assert not sent(cluster["c"].handle(rpc), AppendEntriesReply)
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT
    cluster["c"].handle(AppendEntriesRpc(Term(2), cluster["b"].id, Index(1), Index(1), ONE))
    server = cluster.server("c")
    assert (server.raft_state, server.current_term) == (RaftState.FOLLOWER, 2)
    assert server.leader_id == cluster["b"].id


def test_silence_ends_the_receiving() -> None:
    """S-9, TIME-04: after 30 s without a chunk."""
    cluster = receiving()
    cluster["c"].expire_receiving()
    assert cluster.server("c").raft_state is RaftState.FOLLOWER
    assert cluster.server("c").leader_id is None


def test_a_question_in_a_higher_term_ends_the_receiving() -> None:
    """S-10: the leader's own question is answered with nothing, and replies are ignored."""
    cluster = receiving()
    a, b = cluster["a"].id, cluster["b"].id
    [(_, reply)] = sent(cluster["c"].handle(InfoRpc(a, ONE, ("uid",))), InfoReply)
    assert reply.info == {}
    assert cluster["c"].handle(InfoReply(b, ONE, ("uid",), {})) == []
    for message in (InfoRpc(b, Term(2), ("uid",)), InfoReply(b, Term(2), ("uid",), {})):
        cluster = receiving()
        cluster["c"].handle(message)
        server = cluster.server("c")
        assert (server.raft_state, server.current_term) == (RaftState.FOLLOWER, 2)


def test_a_candidate_in_a_higher_term_ends_the_receiving() -> None:
    """S-11: and in ours is refused."""
    cluster = receiving()
    b = cluster["b"].id
    [(_, result)] = sent(cluster["c"].handle(RequestVoteRpc(ONE, b, Index(9), ONE)), RequestVoteResult)
    assert not result.vote_granted
    effects = cluster["c"].handle(RequestVoteRpc(Term(2), b, Index(9), ONE))
    assert [result.vote_granted for _, result in sent(effects, RequestVoteResult)] == [True]
    assert cluster.server("c").raft_state is RaftState.FOLLOWER


def test_a_trial_election_is_answered_while_receiving() -> None:
    """S-12: by the same rules as anywhere; a worse log is refused aloud."""
    cluster = receiving()
    b = cluster["b"].id
    for index, granted in ((9, True), (0, False)):
        rpc = PreVoteRpc(1, 0, ONE, 7, b, Index(index), Term(min(index, 1)))
        effects = cluster["c"].handle(rpc)
        assert [r.vote_granted for _, r in sent(effects, PreVoteResult)] == [granted]
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT


def test_everything_else_is_dropped_while_receiving() -> None:
    """S-13: heartbeats and replies of our term change nothing (QRY-19)."""
    cluster = receiving()
    a, b = cluster["a"].id, cluster["b"].id
    for message in (
        HeartbeatRpc(1, ONE, a),
        HeartbeatReply(b, 1, ONE),
        AppendEntriesReply(b, ONE, True, Index(1), Index(0), Term(0)),
        ElectionTimeout(),
    ):
        assert not sent(cluster["c"].handle(message), object)
    assert cluster.server("c").raft_state is RaftState.RECEIVE_SNAPSHOT


def test_a_higher_term_ends_the_receiving() -> None:
    """§3.3, where Ra's S-13 keeps the old term: the leader that sends the snapshot is deposed."""
    b = CoreCluster("a", "b").ids[1]
    for message in (
        HeartbeatRpc(1, Term(9), b),
        HeartbeatReply(b, 1, Term(9)),
        AppendEntriesReply(b, Term(9), True, Index(1), Index(0), Term(0)),
    ):
        cluster = receiving()
        cluster["c"].handle(message)
        server = cluster.server("c")
        assert (server.raft_state, server.current_term) == (RaftState.FOLLOWER, 9)
        assert not cluster["c"].log.snapshots.accepting


def test_a_leader_that_is_gone_ends_the_receiving() -> None:
    """§10.10, RECV-07: by its own word, or the failure detector's; others are no concern of ours."""
    a, b = CoreCluster("a", "b").ids
    for message in (ServerDown(a, True), NodeStatus("node_a", False)):
        cluster = receiving()
        assert cluster["c"].handle(ServerDown(b, True)) == []
        assert cluster["c"].handle(NodeStatus("node_b", False)) == []
        assert cluster["c"].handle(NodeStatus("node_a", True)) == []
        cluster["c"].handle(message)
        assert cluster.server("c").raft_state is RaftState.FOLLOWER
        assert not cluster["c"].log.snapshots.accepting


def test_an_installed_snapshot_takes_the_place_of_everything() -> None:
    """S-6, RECV-08, MAC-11: log, state, members and position; the machine is told."""
    cluster = behind()
    cluster["a"].handle(NodeStatus("node_c", up=True))
    cluster.settle()
    server = cluster.server("c")
    assert (server.commit_index, server.last_applied) == (4, 4)
    assert server.persisted_last_applied == 4
    assert server.log.snapshot_index_term() == IndexTerm(Index(4), ONE)
    assert server.cluster_index_term == IndexTerm(Index(4), ONE)
    assert server.leader_id == cluster["a"].id
    assert Aux(["installed", 4, 1, 0]) in cluster["c"].machine_effects
    cluster["c"].restart()
    assert cluster.server("c").machine_state == ["x", "y", "snap"]


def test_a_snapshot_may_bring_a_newer_version() -> None:
    """S-6, VER-08: it is in force from there on."""

    class Newer(Keeper):
        version = 2

    cluster = CoreCluster("a", "b", "c", machine=Newer(), settings={"machine_upgrade_strategy": "quorum"})
    cluster.partition("ab", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "b")
    cluster.command("a", "snap")
    cluster.settle("a", "b")
    cluster.heal()
    cluster["a"].handle(NodeStatus("node_c", up=True))
    cluster.settle()
    server = cluster.server("c")
    assert meta_of(cluster).machine_version == server.effective_machine_version == 2
    assert version_at(server, Index(9)) == 2


# --- what would lose data (K1 to K3, K11) ----------------------------------------------------


class Clockwork(Keeper):
    """Writes the time down that it sees."""

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """The time instead of the command."""
        if isinstance(command, Builtin):
            return state, None
        state.append(meta.system_time_ms)
        wishes = {"snap": Index(meta.index), "old": Index(meta.index - 1)}
        wish = wishes.get(str(command))
        kept = state if command == "snap" else state[:-1]
        return state, "ok", [] if wish is None else [ReleaseCursor(wish, kept)]


@pytest.mark.parametrize("word", ["snap", "old"])
@pytest.mark.parametrize("how", ["restart", "install"])
def test_k1_machine_time_is_part_of_a_snapshot(word: str, how: str) -> None:
    """K1: a clock that stepped back must not show after a restart from a snapshot, or after an install.

    The snapshot is at the last entry or one before it, so its time is that of its entry, not of the moment.
    """
    cluster = led("a", "b", "c", machine=Clockwork())
    if how == "install":
        cluster.partition("ab", "c")
    for time_ms, command in ((5_000, "x"), (1_000, "y"), (1_500, word)):
        cluster.environment.time_ms = time_ms
        cluster.command("a", command)
        cluster.settle("a", "b")
    assert meta_of(cluster).machine_time_ms == 5_000
    if how == "install":
        cluster.heal()
        cluster["a"].handle(NodeStatus("node_c", up=True))
    else:
        cluster.settle()
        cluster["c"].handle(Tick(0))
        cluster["c"].restart()
        cluster["a"].handle(NodeStatus("node_c", up=True))
    cluster.settle()
    cluster.environment.time_ms = 2_000
    cluster.command("a", "z")
    cluster.settle()
    states = [cluster.server(name).machine_state for name in "abc"]
    assert states[0] == [5_000] * 4
    assert states[1] == states[2] == states[0]


class InPlace(Keeper):
    """Hands out its very state, and changes it in place."""

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """No copy."""
        if isinstance(command, Builtin):
            return state, None
        state.append(command)
        wish = {"snap": ReleaseCursor, "check": Checkpoint}.get(str(command))
        return state, "ok", [] if wish is None else [wish(Index(meta.index), state)]


@pytest.mark.parametrize("wish", ["snap", "check"])
def test_k2_a_state_is_captured_at_its_effect(wish: str) -> None:
    """K2: later commands, of the same commit too, are no part of it: a restart would repeat them."""
    cluster = led("a", "b", machine=InPlace())
    cluster.command("a", "x", wish, "y", "z")  # one batch
    cluster.command("a", "more")
    cluster.settle()
    cluster["b"].restart()
    server = cluster.server("b")
    assert server.last_applied == 3
    assert server.machine_state == ["x", wish]
    cluster["a"].handle(NodeStatus("node_b", up=True))
    cluster.settle()
    assert cluster.server("b").machine_state == ["x", wish, "y", "z", "more"]


@pytest.mark.parametrize("outcome", ChunkOutcome)
def test_k3_an_answer_to_an_earlier_leadership_proves_nothing(outcome: ChunkOutcome) -> None:
    """K3: a late chunk of term 1 is refused in term 2, by whom it deposed; the answer carries term 2."""
    cluster = sending()
    late = next(m for _, to, m in cluster.network if to.name == "c" and isinstance(m, InstallSnapshotRpc))
    cluster.network.clear()
    cluster["a"].handle(AppendEntriesRpc(Term(2), cluster["b"].id, Index(1), Index(1), ONE))
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "b")
    server = cluster.server("a")
    assert server.raft_state is RaftState.LEADER
    term = server.current_term
    assert term > 2
    cluster["c"].handle(HeartbeatRpc(0, term, server.id))
    [(_, answer)] = sent(cluster["c"].handle(late), InstallSnapshotResult)
    assert (answer.term, answer.request_term, answer.outcome) == (term, 1, ChunkOutcome.REFUSED)
    peer = server.cluster[cluster["c"].id]
    before = (peer.match_index, peer.next_index, peer.status)
    position = late.meta.position
    cluster["a"].handle(
        result_of(cluster["c"].id, position.index, position.term, term=term, request_term=1, outcome=outcome)
    )
    assert (peer.match_index, peer.next_index, peer.status) == before


def test_a_lost_chunk_or_answer_is_repeated_and_silence_ends_the_sending() -> None:
    """TIME-03, SEND-07: the chunk of a transfer, not the transfer, is sent again after a tick."""
    cluster = sending()
    leader, c = cluster["a"], cluster["c"].id
    first = leader.senders[c].rpc
    for ticks in range(leader.server.cfg.snapshot_silent_ticks_max):
        cluster.network.clear()
        chunks = [m for _, m in sent(leader.handle(Tick(0)), InstallSnapshotRpc)]
        repeated = [m for _, to, m in cluster.network if to == c and isinstance(m, InstallSnapshotRpc)]
        assert chunks == []  # the performer repeats it, not the core
        assert repeated == ([first] if ticks else [])
    leader.handle(Tick(0))
    assert peer_status(cluster) is PeerStatus.SNAPSHOT_BACKOFF
    assert not leader.senders


def test_a_chunk_is_repeated_until_it_is_answered() -> None:
    """RECV-06: a transfer in which every second message is lost comes to its end, chunk by chunk."""
    cluster = sending()
    c = cluster["c"].id
    lost = 0
    for _ in range(200):
        if peer_status(cluster) is PeerStatus.NORMAL:
            break
        between = [e for e in cluster.network if c in e[:2]]
        if between and lost < 20:
            cluster.network.remove(between[0])
            lost += 1
        cluster["a"].handle(Tick(0))
        cluster.deliver()
        cluster["c"].sync()
    cluster.settle()
    assert lost == 20
    assert cluster.server("c").machine_state == ["x", "y", "snap"]
    assert [type(e) for e in cluster["a"].effects].count(SendSnapshot) == 1
    assert cluster["a"].counters.snapshots_sent == 1


def test_a_snapshot_at_an_older_entry_names_the_members_of_that_entry() -> None:
    """SNAP-03: the configuration as of the snapshot's entry, with uids, though others have joined since."""
    cluster = led("a", "b")
    cluster.command("a", "x")
    cluster.settle()
    at = cluster["a"].log.last_index_term().index
    cluster.add("d")
    cluster.join("a", "d")
    cluster.settle()
    assert len(cluster.server("a").cluster) == 3
    cluster["a"].perform([ReleaseCursor(at, ["x"])])
    cluster["a"].sync()
    meta = meta_of(cluster)
    assert meta.position.index == at
    assert [(r.id.name, r.uid) for r in meta.cluster] == [("a", "uid_a"), ("b", "uid_b")]


def test_a_peer_that_could_not_use_the_snapshot_is_asked_again_later() -> None:
    """SEND-02: the leader knows that its code is too old, and sends nothing."""
    cluster = behind()
    peer = cluster.server("a").cluster[cluster["c"].id]
    snapshots = cluster["a"].log.snapshots
    assert snapshots._current is not None
    snapshots._current = snapshots._current._replace(
        meta=msgspec.structs.replace(snapshots._current.meta, machine_version=3)
    )
    peer.machine_version = 2
    peer.next_index = Index(2)
    effects = cluster["a"].handle(NodeStatus("node_c", up=True))
    assert not any(isinstance(effect, SendSnapshot) for effect in effects)
    assert any(isinstance(effect, StartSnapshotRetry) for effect in effects)
    peer.machine_version = 3
    again = cluster["a"].handle(SnapshotRetryTimeout(cluster["c"].id))
    assert any(isinstance(effect, SendSnapshot) for effect in again)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_entries_that_a_snapshot_covers_are_there(count: int) -> None:
    """§3.5, F-1: an RPC from the very beginning, late, changes nothing at a member whose log begins later."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x", "y", "snap", "z")
    cluster.settle()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    batches = [entry.cut(entry.first_index, entry.first_index) for entry, _ in cluster.observer.committed]
    rpc = AppendEntriesRpc(ONE, cluster["a"].id, Index(1), Index(0), Term(0), tuple(batches[:count]))
    [(_, reply)] = sent(cluster["c"].handle(rpc), AppendEntriesReply)
    assert reply.success
    assert cluster.server("c").machine_state == ["x", "y", "snap", "z"]
