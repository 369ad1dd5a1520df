"""Who belongs to the cluster: joining, leaving, identity, and the loss of a quorum (§4; MEMB-01 to
MEMB-17).
"""

import pytest

from barque.core.configuration import hears_candidate, is_in_own_config, is_removed, may_change, recognises
from barque.core.effects import MembersGone, StopReason
from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.membership import name_members, promotables_wait
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    AppendNoop,
    AwaitConditionTimeout,
    ElectionTimeout,
    HeartbeatRpc,
    InfoReply,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
    NodeStatus,
    PreVoteRpc,
    Tick,
    TimeoutNow,
    WalFailed,
)
from barque.core.state import RaftState, make_cluster
from barque.core.step import has_unfinished_business
from barque.testing.core.cluster import CLIENT, CoreCluster, sent
from barque.types import (
    Index,
    IndexTerm,
    MemberRecord,
    Membership,
    ReplyMode,
    ServerId,
    Term,
    Uid,
)


def led(*names: str) -> CoreCluster:
    """A cluster at rest whose first member leads."""
    cluster = CoreCluster(*names)
    cluster.elect(names[0])
    return cluster


def members(cluster: CoreCluster, name: str) -> str:
    """The names of the members that this member goes by."""
    return "".join(member.name for member in cluster.server(name).cluster)


# --- joining and leaving -------------------------------------------------------------------


def test_a_new_member_gets_everything_and_counts() -> None:
    """MEMB-05, MEMB-14: started empty, added, it receives the whole log and votes."""
    cluster = led("a", "b")
    cluster.command("a", "x")
    cluster.add("c")
    cluster.join("a", "c")
    cluster.settle()
    assert cluster.replies() == [("x",), "ok"]
    assert cluster.server("c").machine_state == ("x",)
    assert cluster.server("c").membership is Membership.VOTER
    assert [members(cluster, name) for name in "abc"] == ["abc"] * 3
    assert cluster.server("a").quorum() == 2


def test_a_change_waits_for_the_noop_of_the_term() -> None:
    """MEMB-01, L-8: before it is applied the leader may go by a configuration that is void (the 2015 bug)."""
    cluster = CoreCluster("a", "b", "c")
    cluster.add("d")
    cluster["a"].handle(ElectionTimeout())
    cluster.deliver()
    cluster.deliver()
    cluster.deliver()
    cluster.deliver()
    assert cluster.server("a").raft_state is RaftState.LEADER
    cluster.join("a", "d")
    cluster.leave("a", "b")
    assert cluster.refusals() == ["change_not_permitted"] * 2
    cluster.settle()
    cluster.join("a", "d")
    cluster.settle()
    assert cluster.replies() == ["ok"]


def test_one_change_at_a_time() -> None:
    """MEMB-01: the next one waits until this one is applied."""
    cluster = led("a", "b", "c")
    cluster.add("d")
    cluster.join("a", "d")
    cluster.leave("a", "b")
    assert cluster.refusals() == ["change_not_permitted"]
    cluster.settle()
    cluster.leave("a", "b")
    cluster.settle()
    assert cluster.replies() == ["ok", "ok"]
    assert members(cluster, "a") == "acd"


def test_an_upgrade_under_way_permits_no_second_change() -> None:
    """MEMB-01, VER-04: a noop that is applied while a change is not committed permits nothing."""
    cluster = led("a", "b", "c")
    cluster.add("d")
    leader = cluster.server("a")
    cluster["a"].handle(AppendNoop(0))
    cluster.deliver(only=AppendEntriesRpc)
    for name in "bc":
        cluster[name].sync()
    cluster.join("a", "d")
    cluster["a"].sync()
    cluster.deliver(only=AppendEntriesReply)
    assert leader.last_applied == 2 < leader.cluster_index_term.index
    assert not may_change(leader)
    cluster.settle()
    assert may_change(leader)


def test_a_change_is_in_force_when_it_is_appended() -> None:
    """MEMB-02, MEMB-03, F-1: on the leader at once, on a follower with the entry; committed or not."""
    cluster = led("a", "b", "c")
    cluster.add("d")
    cluster.join("a", "d")
    assert members(cluster, "a") == "abcd"
    assert cluster.server("a").quorum() == 3
    cluster.deliver(link=("a", "b"))
    assert members(cluster, "b") == "abcd"
    assert members(cluster, "c") == "abc"
    assert cluster.server("b").previous_cluster is not None


def test_an_overwritten_change_is_void() -> None:
    """MEMB-03, MEMB-04, F-1: the configuration before it is in force again, own membership too."""
    cluster = led("a", "b", "c")
    cluster.partition("a", "bc")
    cluster.leave("a", "a")
    cluster["a"].sync()
    assert cluster.server("a").membership is Membership.NON_VOTER
    cluster.elect("b")
    cluster.command("b", "x")
    cluster.settle()
    cluster.heal()
    cluster["b"].handle(Tick(0))
    cluster.settle()
    assert members(cluster, "a") == "abc"
    assert cluster.server("a").membership is Membership.VOTER
    assert cluster.server("a").machine_state == ("x",)


def test_a_change_that_replaces_another_is_taken_up() -> None:
    """F-1: the entry at the same place is a change as well, and that one counts."""
    cluster = led("a", "b", "c")
    for name in "de":
        cluster.add(name)
    cluster.partition("a", "bc")
    cluster.join("a", "d")
    cluster["a"].sync()
    cluster.elect("b")
    cluster.leave("b", "a")
    cluster.settle()
    cluster.heal()
    old = cluster.server("b").log.read(Index(2), Index(9), 99, 1 << 20)
    rpc = AppendEntriesRpc(Term(2), cluster["b"].id, Index(3), Index(1), Term(1), tuple(old))
    cluster["a"].handle(rpc)
    assert members(cluster, "a") == "bc"
    assert cluster.server("a").membership is Membership.NON_VOTER


def test_a_follower_that_forgot_what_is_committed_can_fall_back_twice() -> None:
    """MEMB-03, MEMB-04: two changes lie beyond its commit index, of which the first is committed."""
    cluster = led("a", "b", "c")
    cluster.add("d")
    cluster.join("a", "d")
    cluster.settle()
    cluster.leave("a", "d")
    cluster.deliver(only=AppendEntriesRpc, link=("a", "c"))
    cluster["c"].sync()
    cluster["c"].restart()
    server = cluster.server("c")
    assert (members(cluster, "c"), server.commit_index) == ("abc", 0)
    last = server.log.last_index_term().index
    batch = EntryBatch(last, Term(2), 1, 0, encode_body([b"\x00"], EntryKind.NOOP))
    cluster["c"].handle(
        AppendEntriesRpc(Term(2), cluster["b"].id, Index(0), Index(last - 1), Term(1), (batch,))
    )
    assert members(cluster, "c") == "abcd"
    assert server.previous_cluster is not None


def test_after_a_restart_an_uncommitted_change_is_in_force() -> None:
    """MEMB-02, CORE-12: recovery goes by the newest configuration of the log (§1, recover 3)."""
    cluster = led("a", "b", "c")
    cluster.add("d")
    cluster.join("a", "d")
    cluster["a"].sync()
    cluster["a"].restart()
    assert members(cluster, "a") == "abcd"
    assert cluster.server("a").commit_index < cluster.server("a").cluster_index_term.index


def test_who_is_a_member_already_is_told_so() -> None:
    """MEMB-05, L-8: only another membership is a change."""
    cluster = led("a", "b")
    cluster.join("a", "b")
    assert cluster.refusals() == ["already_member"]
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    assert cluster.server("b").membership is Membership.NON_VOTER
    cluster.join("a", "b")
    cluster.settle()
    assert cluster.replies() == ["ok", "ok"]
    assert cluster.server("b").membership is Membership.VOTER


def test_a_stranger_cannot_leave() -> None:
    """MEMB-12: Ra's `not_member`."""
    cluster = led("a", "b")
    cluster.leave("a", "z")
    assert cluster.refusals() == ["unknown_member"]


def test_the_last_voter_cannot_leave() -> None:
    """MEMB-12: that would be a deletion, and is refused; non-voters do not make a cluster."""
    cluster = led("a")
    cluster.add("b")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    cluster.leave("a", "a")
    assert "last_voter" in cluster.refusals()


@pytest.mark.parametrize("membership", [Membership.NON_VOTER, Membership.PROMOTABLE])
def test_the_last_voter_keeps_its_vote(membership: Membership) -> None:
    """MEMB-05, MEMB-12: without a voter nobody could ever lead again; found on a random schedule."""
    cluster = led("a")
    cluster.add("b")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    cluster.join("a", "a", membership)
    assert cluster.refusals() == ["last_voter"]
    assert cluster.server("a").membership is Membership.VOTER


@pytest.mark.parametrize("mode", [ReplyMode.AWAIT_CONSENSUS, ReplyMode.AFTER_LOG_APPEND, ReplyMode.NOREPLY])
def test_a_change_answers_as_it_was_asked_to(mode: ReplyMode) -> None:
    """L-7, L-8: the reply modes of commands; a refused one that wants no reply gets none."""
    cluster = led("a")
    asked = JoinMember(CLIENT, 7, mode, ServerId("b", "node_b"), Uid("uid_b"), Membership.NON_VOTER)
    cluster["a"].handle(asked)
    cluster.settle("a")
    expected = {
        ReplyMode.AWAIT_CONSENSUS: ["ok"],
        ReplyMode.AFTER_LOG_APPEND: [(2, 1)],
        ReplyMode.NOREPLY: [],
    }
    assert cluster.replies() == expected[mode]
    cluster["a"].handle(asked)
    assert cluster.refusals() == ([] if mode is ReplyMode.NOREPLY else ["already_member"])


@pytest.mark.parametrize("state", ["follower", "pre_vote", "await_condition"])
def test_only_a_leader_changes_the_cluster(state: str) -> None:
    """CMD-14: everybody else says who leads, if they know."""
    cluster = led("a", "b", "c")
    if state == "pre_vote":
        cluster["b"].handle(ElectionTimeout())
    if state == "await_condition":
        cluster["b"].handle(AppendEntriesRpc(Term(1), cluster["a"].id, Index(1), Index(99), Term(1)))
    cluster.leave("b", "c")
    [answer] = cluster.answers
    assert (answer.reason, answer.leader) == ("not_leader", None if state == "pre_vote" else cluster["a"].id)


def test_a_change_while_the_log_is_down_is_refused() -> None:
    """L-9, CMD-18: nothing has happened, and the leader waits for its log."""
    cluster = led("a", "b", "c")
    cluster["a"].log.handle_event(WalFailed("EIO"))
    cluster.leave("a", "c")
    assert cluster.refusals() == ["wal_down"]
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    assert members(cluster, "a") == "abc"


# --- promotion -----------------------------------------------------------------------------


def test_a_promotable_member_becomes_a_voter_when_it_has_caught_up() -> None:
    """MEMB-07, MEMB-11, L-2: its target is the index of its own join entry unless one is named."""
    cluster = led("a", "b")
    cluster.add("c")
    cluster.join("a", "c", Membership.PROMOTABLE)
    assert cluster.server("a").cluster[cluster["c"].id].target == 2
    assert cluster.server("a").quorum() == 2
    cluster.settle()
    assert cluster.server("c").membership is Membership.VOTER
    assert all(peer.voter for peer in cluster.server("b").cluster.values())


def test_a_promotable_member_waits_for_its_target() -> None:
    """MEMB-07: below it the member receives, and does not count (§3, subtle)."""
    cluster = led("a")
    cluster.add("b")
    cluster.join("a", "b", Membership.PROMOTABLE, target=4)
    cluster.settle()
    assert cluster.server("b").membership is Membership.PROMOTABLE
    cluster.command("a", "x", "y")
    cluster.settle()
    assert cluster.server("b").membership is Membership.VOTER


def test_a_promotion_that_was_not_permitted_comes_with_a_tick() -> None:
    """MEMB-11: the change under way is waited for."""
    cluster = led("a", "b", "c")
    leader = cluster.server("a")
    cluster.add("d")
    cluster.join("a", "d", Membership.PROMOTABLE)
    cluster.settle("a", "b", "c")
    leader.leader_role().established = False
    cluster.settle()
    assert leader.cluster[cluster["d"].id].membership is Membership.PROMOTABLE
    leader.leader_role().established = True
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("d").membership is Membership.VOTER


def test_a_promotable_member_needs_a_uid() -> None:
    """MEMB-07 (Ra crashes here, LIM-08): whom the data of the address belongs to must be known."""
    cluster = led("a")
    asked = JoinMember(
        CLIENT, 7, ReplyMode.AWAIT_CONSENSUS, ServerId("b", "node_b"), None, Membership.PROMOTABLE
    )
    cluster["a"].handle(asked)
    assert cluster.refusals() == ["missing_uid"]
    cluster.add("b")
    cluster.join("a", "b", Membership.PROMOTABLE, target=99)
    cluster.settle()
    cluster.join("a", "b", Membership.PROMOTABLE)
    assert cluster.refusals() == ["already_member"]


def test_a_non_voter_receives_for_ever() -> None:
    """MEMB-08: it has everything, is not promoted, and calls no election (ELEC-21)."""
    cluster = led("a", "b")
    cluster.add("c", membership=Membership.NON_VOTER)
    cluster.join("a", "c", Membership.NON_VOTER)
    cluster.command("a", "x")
    cluster.settle()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("c").machine_state == ("x",)
    assert cluster.server("c").membership is Membership.NON_VOTER
    assert cluster["c"].handle(ElectionTimeout()) == []


# --- the leader leaves ---------------------------------------------------------------------


def test_a_leader_that_was_removed_commits_that_and_stops() -> None:
    """L-2, MEMB-13: it leads until its removal is committed, tells the others, asks one to lead, and
    stops.
    """
    cluster = led("a", "b", "c")
    cluster.leave("a", "a")
    cluster["a"].sync()
    assert cluster.server("a").raft_state is RaftState.LEADER
    cluster.settle()
    assert cluster["a"].stopped is StopReason.REMOVED
    assert cluster.replies() == ["ok"]
    assert sorted(str(cluster.server(name).raft_state) for name in "bc") == ["follower", "leader"]
    assert members(cluster, "b") == "bc"


def test_a_leader_of_two_leaves_by_the_others_disk() -> None:
    """L-2, §4.2.2: its own write decides nothing any more."""
    cluster = led("a", "b")
    cluster.leave("a", "a")
    cluster["a"].sync()
    cluster.deliver()
    assert cluster["a"].stopped is None
    cluster["b"].sync()
    cluster.deliver()
    assert cluster["a"].stopped is StopReason.REMOVED


def test_a_leader_that_gave_up_its_vote_hands_over() -> None:
    """MEMB-08, MEMB-13: it stays a member, so it follows; the most advanced voter is asked to lead."""
    cluster = led("a", "b", "c")
    cluster.join("a", "a", Membership.NON_VOTER)
    cluster.settle()
    assert cluster["a"].up
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
    assert cluster.server("a").membership is Membership.NON_VOTER
    assert sum(bool(sent(cluster["a"].effects, TimeoutNow)) for _ in "a") == 1
    assert RaftState.LEADER in (cluster.server("b").raft_state, cluster.server("c").raft_state)


def test_a_leader_that_gave_up_its_vote_asks_again_until_somebody_leads() -> None:
    """MEMB-13: the others take it for their leader and would wait without end; found on a random schedule."""
    cluster = led("a", "b", "c")
    cluster.join("a", "a", Membership.NON_VOTER)
    cluster["a"].sync()
    cluster.deliver(only=AppendEntriesRpc)
    cluster["b"].sync()
    cluster["c"].sync()
    cluster.deliver(only=AppendEntriesReply)
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster.network.clear()  # the question is lost
    cluster["a"].expire()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.FOLLOWER


def test_a_leader_that_gave_up_its_vote_asks_who_has_most() -> None:
    """MEMB-13, §3.10: it goes on to learn who has what; found with core seed 84001826.

    When it asked first, it took two for equal; one has an entry more, and nobody else can win.
    """
    cluster = led("a", "b", "c")
    cluster.join("a", "a", Membership.NON_VOTER)
    cluster.deliver(only=AppendEntriesRpc)
    cluster["b"].sync()
    cluster["c"].sync()
    cluster.cut = {(cluster["a"].id, cluster["b"].id)}
    cluster.command("a", "x")
    cluster.deliver(only=AppendEntriesRpc)
    cluster.heal()
    cluster["c"].sync()
    cluster.deliver(only=AppendEntriesReply)
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.PRE_VOTE  # b was asked; c has more
    cluster["a"].expire()
    assert has_unfinished_business(cluster.server("a"))
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("c").raft_state is RaftState.LEADER


def test_a_voter_that_does_not_know_it_yet_gives_its_vote() -> None:
    """F-6, F-7, §4.1: the candidate's configuration is newer; without this vote nobody could lead any more.

    Ra's members without a vote are silent. Found on random schedules.
    """
    cluster = led("a", "b")
    cluster.add("c", membership=Membership.NON_VOTER)
    cluster.join("a", "c")
    cluster["a"].sync()
    cluster["b"].crash()
    cluster["a"].restart()
    cluster.network.clear()
    assert cluster.server("c").membership is Membership.NON_VOTER
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "c")
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert cluster.server("c").membership is Membership.VOTER


def test_who_may_have_lost_its_vote_still_stands() -> None:
    """F-17, §4.2.2: only its own log has the change, and no other log is long enough to win."""
    cluster = led("a", "b")
    cluster.join("a", "a", Membership.NON_VOTER)
    cluster["a"].sync()
    cluster.network.clear()
    cluster["a"].restart()
    assert cluster.server("a").membership is Membership.NON_VOTER
    cluster["b"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.PRE_VOTE
    cluster["a"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.LEADER
    assert cluster["a"].handle(ElectionTimeout()) == []  # committed: now it has none


@pytest.mark.parametrize("leaves", [True, False])
def test_a_leader_without_a_vote_does_not_count_itself(leaves: bool) -> None:
    """§4.2.2: its removal, or the loss of its vote, is committed by a majority of the others."""
    cluster = led("a", "b", "c")
    cluster.partition("ab", "c")
    if leaves:
        cluster.leave("a", "a")
    else:
        cluster.join("a", "a", Membership.NON_VOTER)
    cluster.settle("a", "b")
    assert cluster.server("a").commit_index == 1
    cluster.heal()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.replies() == ["ok"]


def test_the_members_that_are_gone_are_named() -> None:
    """MEMB-12: once the removal is committed, its node may stop that server."""
    cluster = led("a", "b", "c")
    cluster.leave("a", "c")
    cluster.settle()
    assert cluster.gone == [(cluster["c"].id, Uid("uid_c"))]
    assert sum(isinstance(effect, MembersGone) for effect in cluster["a"].effects) == 1


# --- identity ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "membership"),
    [("uid_c", Membership.VOTER), (None, Membership.VOTER), ("other", Membership.NON_VOTER)],
)
def test_own_membership_is_looked_up_by_address_and_uid(uid: str | None, membership: Membership) -> None:
    """MEMB-10: another incarnation of an address inherits nothing."""
    cluster = led("a", "b", "c")
    server = cluster.server("c")
    records = [MemberRecord(server.id, None if uid is None else Uid(uid))]
    server.adopt_cluster(IndexTerm(Index(0), Term(0)), records)
    assert server.membership is membership


def test_another_uid_is_another_server() -> None:
    """MEMB-10: what was known of the old one's log says nothing of the new one's."""
    one = ServerId("a", "n")
    old = make_cluster([MemberRecord(one, Uid("x"))])
    old[one].match_index, old[one].next_index = Index(7), Index(8)
    assert make_cluster([MemberRecord(one, Uid("x"), Membership.NON_VOTER)], old)[one].match_index == 7
    assert make_cluster([MemberRecord(one, Uid("y"))], old)[one].match_index == 0
    nameless = make_cluster([MemberRecord(one)])
    assert make_cluster([MemberRecord(one, Uid("x"))], nameless)[one] is nameless[one]


def test_a_wiped_member_is_not_counted() -> None:
    """MEMB-10: its vote under the old address is not heard; only a change makes it a member again."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x")
    cluster.settle()
    cluster.partition("a", "bc")
    cluster["c"].wipe("new")
    assert not recognises(cluster.server("b"), cluster["c"].id, Uid("new"))
    cluster["b"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("b").raft_state is RaftState.PRE_VOTE


def replace_by(cluster: CoreCluster, leader: str, name: str, uid: str) -> None:
    """Remove a server and let a new one take its place as a voter."""
    cluster.leave(leader, name)
    cluster.settle()
    member = cluster[name]
    member.knows_uids, member.membership = False, Membership.NON_VOTER
    member.wipe(uid)
    cluster.join(leader, name)


def behind_the_times(*, told: bool) -> CoreCluster:
    """a2 is the only voter but c2, which has the log only up to the days of the first a.

    `told`: c2 knows from the start what was committed when it was made to join.
    """
    cluster = led("a", "b", "c")
    cluster.leave("a", "c")
    cluster.settle()
    cluster.transfer("a", "b")
    cluster.settle()
    replace_by(cluster, "b", "a", "a2")
    cluster.settle()
    cluster.transfer("b", "a")
    cluster.settle()
    cluster.leave("a", "b")
    cluster.settle()
    replacement = cluster["c"]
    replacement.knows_uids, replacement.membership = False, Membership.NON_VOTER
    if told:
        leader = cluster.server("a")
        replacement.joined_at = IndexTerm(leader.commit_index, leader.current_term)
    replacement.wipe("c2")
    cluster.join("a", "c")
    cluster["a"].sync()
    cluster.network.clear()
    return cluster


def hand_over(cluster: CoreCluster, name: str, last: int, commit: int) -> None:
    """The log of a, up to an entry, reaches a member."""
    entries = tuple(cluster["a"].log.entries[:last])
    term = cluster.server("a").current_term
    rpc = AppendEntriesRpc(term, cluster["a"].id, Index(commit), Index(0), Term(0), entries)
    cluster[name].handle(rpc)
    cluster[name].sync()
    cluster.network.clear()


@pytest.mark.parametrize(("commit", "told"), [(2, False), (1, False), (1, True)])
def test_a_candidate_of_later_days_is_heard(commit: int, told: bool) -> None:
    """MEMB-10, §4.1: whose log says that it is a member may ask, whatever we know to be committed.

    Else nobody could lead: our vote is needed, and only a leader could tell us of the new uid.
    """
    cluster = behind_the_times(told=told)
    hand_over(cluster, "c", last=2, commit=commit)
    assert not recognises(cluster.server("c"), cluster["a"].id, Uid("a2"))
    cluster["a"].restart()
    cluster["a"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.LEADER


@pytest.mark.parametrize(("name", "says"), [("b", True), ("c", False)])
def test_a_change_of_its_own_log_names_a_member(name: str, says: bool) -> None:
    """MEMB-10: what it was configured with says nothing; an entry that names its own uid does."""
    cluster = led("a", "b", "c")
    assert not is_in_own_config(cluster.server(name))
    cluster.leave("a", "c")
    cluster.settle()
    assert is_in_own_config(cluster.server(name)) is says


def test_a_leader_hears_no_candidate_but_its_members() -> None:
    """MEMB-10: it knows the newest configuration; another uid would only disturb."""
    cluster = led("a", "b", "c")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    assert hears_candidate(cluster.server("c"), cluster["b"].id, Uid("new"), in_own_config=True)
    assert not hears_candidate(cluster.server("a"), cluster["b"].id, Uid("new"), in_own_config=True)


def test_a_voter_cannot_become_another_server_in_one_change() -> None:
    """§4.1, MEMB-10: that is a removal and an addition; majorities before and after need not meet."""
    cluster = led("a", "b", "c")
    cluster["c"].wipe("new")
    cluster.join("a", "c")
    assert cluster.refusals() == ["wrong_uid"]
    cluster.join("a", "c", Membership.PROMOTABLE)
    cluster.settle()
    assert cluster.replies() == ["ok"]
    assert cluster.server("c").membership is Membership.VOTER
    assert cluster.server("a").cluster[cluster["c"].id].uid == "new"


def test_a_removed_members_campaign_disturbs_nobody() -> None:
    """§4.2.3: a leader that can prove the removal does not even look at its requests."""
    cluster = led("a", "b", "c")
    cluster.partition("ab", "c")
    cluster.leave("a", "c")
    cluster.settle("a", "b")
    cluster.heal()
    cluster.gone.clear()
    assert is_removed(cluster.server("a"), cluster["c"].id, Uid("uid_c"))
    assert not is_removed(cluster.server("b"), cluster["c"].id, Uid("uid_c"))
    assert not is_removed(cluster.server("a"), cluster["b"].id, Uid("uid_b"))
    cluster["c"].handle(ElectionTimeout())
    cluster.deliver(only=PreVoteRpc)
    assert cluster.gone == [(cluster["c"].id, Uid("uid_c"))]
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert cluster.server("a").current_term == 1


def test_a_removal_is_no_proof_before_it_is_committed() -> None:
    """§4.1: an uncommitted change may yet be void."""
    cluster = led("a", "b", "c")
    cluster.leave("a", "c")
    assert not is_removed(cluster.server("a"), cluster["c"].id, Uid("uid_c"))
    cluster.settle()
    assert is_removed(cluster.server("a"), cluster["c"].id, Uid("uid_c"))


def test_who_alone_has_its_own_demotion_stands_when_it_is_asked() -> None:
    """ELEC-07, §4.2.2: the leader that made the change has lost it, and cannot win with the shorter log.

    Found by the simulator: a late copy had made the other follow the leader that was none any more; it
    refused that one's pre-votes, waited for it, and nobody was elected again.
    """
    cluster = led("a", "c")
    cluster.join("a", "c", Membership.PROMOTABLE)
    cluster.deliver()  # to c alone, and nothing is synced
    cluster["c"].sync()
    cluster.network.clear()
    assert cluster.server("c").leader_id == cluster["a"].id
    cluster["a"].restart()
    cluster["a"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster["c"].timer is not None
    cluster["c"].expire()
    cluster.settle()
    leader = cluster["a"] if cluster.server("a").raft_state is RaftState.LEADER else cluster["c"]
    cluster.command(leader.id.name, "x")
    cluster.settle()
    assert cluster.server("a").last_applied == cluster.server("c").last_applied


def test_uids_are_written_down_when_they_are_known() -> None:
    """MEMB-10: a member that was configured by address alone is named by the answer to the first question."""
    cluster = led("a", "b", "c")
    leader = cluster.server("a")
    for peer in leader.cluster.values():
        peer.uid = None
    cluster["a"].handle(InfoReply(cluster["b"].id, Term(1), ("uid",), {"uid": "uid_b"}))
    assert leader.cluster[cluster["b"].id].uid is None
    cluster["a"].handle(InfoReply(cluster["c"].id, Term(1), ("uid",), {"uid": "uid_c"}))
    assert [peer.uid for peer in leader.cluster.values()] == ["uid_a", "uid_b", "uid_c"]
    assert name_members(leader) == []  # one change at a time
    cluster.settle()
    assert name_members(leader) == []  # nothing new
    assert cluster.gone == []


def test_a_tick_names_those_who_have_told_meanwhile() -> None:
    """MEMB-10: one that stays silent does not keep the others nameless."""
    cluster = led("a", "b", "c")
    leader = cluster.server("a")
    for peer in leader.cluster.values():
        peer.uid = None
    cluster["a"].handle(InfoReply(cluster["b"].id, Term(1), ("uid",), {"uid": "uid_b"}))
    cluster["a"].handle(Tick(0))
    assert [peer.uid for peer in leader.cluster.values()] == ["uid_a", "uid_b", None]


# --- the quorum is lost for good -----------------------------------------------------------


def prepared(state: str) -> CoreCluster:
    """Member c in this state, its two neighbours gone for good."""
    cluster = led("a", "b", "c")
    cluster.command("a", "x")
    cluster.settle()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    c = cluster["c"]
    match state:
        case "leader" | "candidate":
            cluster.partition("a", "bc")
            c.handle(ElectionTimeout())
            cluster.deliver()
            cluster.deliver()
            if state == "leader":
                cluster.settle()
        case "pre_vote":
            c.handle(ElectionTimeout())
        case "non_voter":
            cluster.join("a", "c", Membership.NON_VOTER)
            cluster.settle()
        case "await_condition":
            c.handle(AppendEntriesRpc(Term(1), cluster["a"].id, Index(1), Index(99), Term(1)))
        case "receive_snapshot":
            meta = SnapshotMeta(IndexTerm(Index(50), Term(1)), (), 0)
            chunk = ChunkState(1, ChunkFlag.NEXT)
            c.handle(InstallSnapshotRpc(Term(1), cluster["a"].id, meta, chunk, b"x"))
    for name in "ab":
        cluster[name].crash()
    cluster.network.clear()
    expected = "follower" if state == "non_voter" else state
    assert str(cluster.server("c").raft_state) == expected
    return cluster


STATES = ["leader", "follower", "candidate", "pre_vote", "non_voter", "await_condition", "receive_snapshot"]


@pytest.mark.parametrize("state", STATES)
def test_a_single_survivor_can_be_made_the_cluster(state: str) -> None:
    """MEMB-15, LIFE-09, F-18, L-36, C-16, P-11: from every state, and with a term that nobody else has
    led.
    """
    cluster = prepared(state)
    term = cluster.server("c").current_term
    cluster.force("c")
    cluster.settle("c")
    server = cluster.server("c")
    assert server.raft_state is RaftState.LEADER
    assert server.current_term > term
    assert members(cluster, "c") == "c"
    assert "ok" in cluster.replies()
    cluster.command("c", "y")
    cluster.settle("c")
    assert server.machine_state[-1] == "y"


def test_a_survivor_without_a_log_cannot_be_forced() -> None:
    """MEMB-15, F-18: nothing happens while nothing can be written."""
    cluster = prepared("follower")
    cluster["c"].handle(WalFailed("EIO"))
    cluster.force("c")
    assert cluster.refusals() == ["wal_down"]
    assert members(cluster, "c") == "abc"


def test_a_leader_waiting_for_a_transfer_can_be_forced() -> None:
    """MEMB-15: Ra lets the caller wait in vain."""
    cluster = led("a", "b", "c")
    cluster.transfer("a", "b")
    cluster.network.clear()
    cluster.force("a")
    cluster.settle("a")
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert members(cluster, "a") == "a"
    assert cluster["a"].handle(AwaitConditionTimeout()) == []


def test_a_leave_without_reply_is_still_a_leave() -> None:
    """MEMB-12: nobody has to wait for it."""
    cluster = led("a", "b", "c")
    cluster["a"].handle(LeaveMember(CLIENT, 1, ReplyMode.NOREPLY, cluster["c"].id))
    cluster.settle()
    assert members(cluster, "b") == "ab"
    assert cluster.answers == []


def test_who_lost_its_vote_for_good_does_not_stand() -> None:
    """ELEC-21, §4.2.2: the change that took the vote is the last entry, and known to be committed."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.join("a", "b", Membership.NON_VOTER)
    cluster.settle()
    server = cluster.server("b")
    assert server.commit_index == server.cluster_index_term.index
    cluster["b"].handle(ElectionTimeout())
    assert server.raft_state is RaftState.FOLLOWER


def test_a_promotion_that_could_not_be_made_keeps_the_ticks_going() -> None:
    """MEMB-11: it was not permitted when it was due; the very target is far enough."""
    cluster = CoreCluster("a", "b")
    leader = cluster.elect("a")
    assert not promotables_wait(leader)
    peer = leader.cluster[ServerId("b", "node_b")]
    peer.assign(MemberRecord(ServerId("b", "node_b"), peer.uid, Membership.PROMOTABLE, peer.match_index))
    assert promotables_wait(leader)


def test_k8_a_forced_leader_takes_a_term_that_nobody_can_have_used() -> None:
    """K8, MEMB-15: the lost members led terms that the survivor never heard of. A late message of theirs
    neither stops the survivor nor deposes it.
    """
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    lost_term = Term(cluster.server("c").current_term + 1_000)
    late = HeartbeatRpc(1, lost_term, cluster["a"].id)
    cluster.force("c")
    cluster.settle("c")
    survivor = cluster.server("c")
    assert survivor.raft_state is RaftState.LEADER
    cluster["c"].handle(late)
    assert survivor.raft_state is RaftState.LEADER


def test_k7_the_removal_of_others_does_not_name_the_leader_itself() -> None:
    """K7: a leader whose uid the configuration did not know is the same member before and after."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.leave("a", "c")
    cluster.settle()
    assert [member.name for member, _ in cluster.gone] == ["c"]
    cluster.gone.clear()
    cluster.leave("a", "a")
    cluster.settle()
    assert cluster.gone == []


def with_down(cluster: CoreCluster, *down: str) -> CoreCluster:
    """The leader a hears that the nodes of these members are gone."""
    for name in down:
        cluster[name].up = False
        cluster["a"].handle(NodeStatus(f"node_{name}", up=False))
    cluster.settle(*(name for name in cluster.members if name not in down))
    return cluster


@pytest.mark.parametrize(
    ("names", "down", "leaves", "refused"),
    [
        ("abc", "c", "b", True),  # a and c would be left, and c is down
        ("abc", "c", "a", True),  # the leader itself
        ("abc", "c", "c", False),
        ("abc", "", "b", False),
        ("abcde", "de", "c", True),
        ("abcde", "de", "b", True),
        ("abcde", "e", "b", False),
        ("abcd", "d", "c", False),
    ],
)
def test_d3_a_removal_that_would_lose_the_quorum_is_refused(
    names: str, down: str, leaves: str, refused: bool
) -> None:
    """D3: a configuration counts at once, so its majority must be up before."""
    cluster = with_down(led(*names), *down)
    cluster.leave("a", leaves)
    assert (cluster.refusals() == ["would_lose_quorum"]) is refused
    assert (leaves in members(cluster, "a")) is refused


def test_d3_a_demotion_and_a_promotion_that_would_lose_the_quorum_are_refused() -> None:
    """D3: every change that counts at once, not only a removal."""
    cluster = with_down(led("a", "b", "c"), "c")
    cluster.join("a", "b", Membership.NON_VOTER)
    assert cluster.refusals() == ["would_lose_quorum"]
    cluster = led("a", "b")
    cluster.add("c", membership=Membership.NON_VOTER)
    cluster.join("a", "c", Membership.NON_VOTER)
    cluster.settle()
    cluster.answers.clear()
    with_down(cluster, "b", "c")
    cluster.join("a", "c", Membership.VOTER)
    assert cluster.refusals() == ["would_lose_quorum"]


def test_d3_force_makes_the_change_all_the_same() -> None:
    """D3: the operator may know better."""
    cluster = with_down(led("a", "b", "c"), "c")
    b = cluster["b"].id
    cluster["a"].handle(LeaveMember(CLIENT, 7, ReplyMode.AWAIT_CONSENSUS, b, force=True))
    assert members(cluster, "a") == "ac"


def test_d3_a_new_leader_counts_only_members_that_answered_it() -> None:
    """D3: the failure detector tells a change once, perhaps to an earlier leader."""
    cluster = led("a", "b", "c")
    cluster["c"].up = False
    cluster.transfer("a", "b")
    cluster.settle("a", "b")
    assert cluster.server("b").raft_state is RaftState.LEADER
    cluster.leave("b", "a")
    assert cluster.refusals()[-1] == "would_lose_quorum"


def test_d3_a_member_that_answers_again_counts_again() -> None:
    """D3: a connection that broke for a moment must not keep a change out."""
    cluster = with_down(led("a", "b", "c"), "c")
    cluster["c"].up = True
    cluster["a"].handle(NodeStatus("node_c", up=True))
    cluster.settle()
    cluster.leave("a", "b")
    assert members(cluster, "a") == "ac"
