"""Scripts: each plays the story of one known mistake, and fails if the code makes this mistake.

Random search finds these too rarely. A script is a function that raises (an invariant, the observer, an
assertion) if the property is violated. `SCRIPTS` lists them. Other stories are transcripts (tests/scenarios).
"""

from collections.abc import Callable

from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    ElectionTimeout,
    HeartbeatReply,
    PreVoteResult,
    RequestVoteResult,
    Tick,
    Written,
)
from barque.core.roles import CandidateRole, PreVoteRole
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster
from barque.types import Index, Membership, Term

Script = Callable[[], None]
SCRIPTS: dict[str, Script] = {}


def _script(script: Script) -> Script:
    SCRIPTS[script.__name__] = script
    return script


def _elect_among(cluster: CoreCluster, name: str, voters: str) -> None:
    """Elect a member with the votes of these members only; nothing of its log is delivered."""
    rest = [other for other in cluster.members if other not in voters]
    cluster.partition(voters, *rest)
    for _ in range(3):  # a candidate of an old term first learns the new one
        cluster[name].handle(ElectionTimeout())
        for _ in range(4):
            if cluster.server(name).raft_state is not RaftState.LEADER:
                cluster.deliver()
        if cluster.server(name).raft_state is RaftState.LEADER:
            return
    raise AssertionError(f"{name} was not elected by {voters}")


def _lead_in_turn(cluster: CoreCluster, *turns: tuple[str, str]) -> None:
    """Let one member after the other lead, elected by the given members; then all members learn of it."""
    for name, voters in turns:
        _elect_among(cluster, name, voters)
        cluster.settle(*voters)
        cluster.heal()
        cluster.command(name, name)
        cluster[name].handle(Tick(0))
        cluster.settle()


@_script
def figure_8() -> None:
    """§3.6.2: an entry of an earlier term on a majority may still be replaced, so it is not committed."""
    cluster = CoreCluster(
        *"abcde", settings={"max_append_entries_rpc_batch_size": 1, "max_pipeline_count": 1}
    )
    for name, terms in (("a", [1, 2]), ("b", [1, 2]), ("c", [1]), ("d", [1]), ("e", [1, 3])):
        cluster.load(name, terms, current_term=3)
    _elect_among(cluster, "a", "abcd")
    a = cluster.server("a")
    cluster["a"].sync()
    for _ in range(12):  # until c and d have entry 2, and not yet the noop behind it
        for other in "cd":
            if cluster.server(other).log.last_index_term().index < 2:
                cluster.deliver(link=("a", other))
                cluster[other].sync()
        for other in "cd":
            cluster.deliver(link=(other, "a"))
    holders = [name for name in "abcd" if cluster.server(name).log.fetch_term(Index(2)) == 2]
    assert len(holders) >= 3, f"the story needs entry 2 on a majority: {holders}"
    assert a.commit_index < 2, f"entry 2 of term 2 was committed by counting, in term {a.current_term}"
    cluster.network.clear()
    _elect_among(cluster, "e", "bcde")  # its last term is newer than theirs
    cluster.settle("b", "c", "d", "e")
    cluster.observer.check_logs()


@_script
def a_reply_of_a_former_term_is_ignored() -> None:
    """A follower may have lost since then what it had in an earlier term (row 16)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    _lead_in_turn(cluster, ("c", "bc"))
    _elect_among(cluster, "a", "ab")
    cluster.partition("a", "bc")
    a = cluster.server("a")
    peer = a.cluster[cluster["b"].id]
    before = (peer.match_index, peer.next_index)
    for success in (True, False):
        reply = AppendEntriesReply(
            cluster["b"].id, Term(a.current_term - 1), success, Index(2), Index(1), Term(1)
        )
        cluster["a"].handle(reply)
        after = (peer.match_index, peer.next_index)
        assert after == before, f"a reply of an old term moved (match, next) from {before} to {after}"


@_script
def an_answer_of_a_former_term_proves_nothing() -> None:
    """A reply to a heartbeat counts in its own term only, and a new leader starts from nothing (row 36)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    cluster.query("a")
    cluster.settle()
    a, b = cluster.server("a"), cluster["b"].id
    assert a.cluster[b].query_index == 1
    _lead_in_turn(cluster, ("c", "bc"), ("a", "ab"))
    assert a.cluster[b].query_index == 0, "a new leader believes in answers that others gave it before"
    cluster["a"].handle(HeartbeatReply(b, 1, Term(a.current_term - 1)))
    assert a.cluster[b].query_index == 0, "an answer of a former term was counted"


@_script
def a_read_is_confirmed_by_its_own_round() -> None:
    """A reply to an earlier round says nothing about a later read (row 35)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    cluster.query("a")
    cluster.deliver(link=("a", "c"))  # c answers the first round, and its reply is slow
    late = [e for e in cluster.network if e[0].name == "c"]
    cluster.network.clear()
    _elect_among(cluster, "b", "bc")
    cluster.settle("b", "c")
    cluster.command("b", "new")
    cluster.settle("b", "c")
    assert ("new",) in cluster.replies()
    cluster.heal()
    cluster.query("a")
    for envelope in late:
        cluster.arrive(*envelope)
    stale = [reply for reply in cluster.replies()[1:] if "new" not in reply]
    assert not stale, f"a read that was asked after 'new' was acknowledged shows {stale}"


@_script
def two_removals_by_two_leaders() -> None:
    """Two leaders remove members too early, and do not know of each other: disjoint majorities.

    This is the bug of single-server changes that their author reported in 2015; I22.
    """
    cluster = CoreCluster(*"abcd")
    cluster.elect("a")
    cluster.partition("a", "bcd")
    cluster.leave("a", "d")  # a, b and c; no other member learns of it
    cluster["a"].sync()
    _elect_among(cluster, "b", "bcd")
    cluster.leave("b", "a")  # b, c and d, of which two are enough
    assert "change_not_permitted" in cluster.refusals(), "a change before the first commit of a term"
    cluster.partition("bd", "a", "c")
    cluster.settle("b", "d")
    _lead_again(cluster, "a", "ac")


def _lead_again(cluster: CoreCluster, name: str, voters: str) -> None:
    """Tell a leader of its deposition and elect it again, with the given votes; then tell all members."""
    cluster.partition(voters, *(other for other in cluster.members if other not in voters))
    cluster[name].handle(Tick(0))
    cluster.settle(*voters)
    assert cluster.server(name).raft_state is not RaftState.LEADER
    _elect_among(cluster, name, voters)
    cluster.heal()
    cluster[name].handle(Tick(0))
    cluster.settle()


@_script
def a_removal_and_an_addition_by_two_leaders() -> None:
    """The same with an addition that comes too early: two of three here, three of five there."""
    cluster = CoreCluster(*"abcd")
    cluster.elect("a")
    cluster.partition("a", "bcd")
    cluster.leave("a", "d")
    cluster["a"].sync()
    _elect_among(cluster, "b", "bcd")
    cluster.add("e", membership=Membership.NON_VOTER)
    cluster.join("b", "e")
    assert "change_not_permitted" in cluster.refusals(), "a change before the first commit of a term"
    cluster.partition("bde", "a", "c")
    cluster.settle("b", "d", "e")
    _lead_again(cluster, "a", "ac")


@_script
def a_follower_commits_only_what_is_proved() -> None:
    """An RPC proves a log up to its own last entry, whatever follows in the log (row 20)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("b")
    common = cluster.server("b").log.last_index_term()
    cluster.partition("ac", "b")
    for _ in range(2):
        cluster.command("b", "lost")
    _elect_among(cluster, "a", "ac")
    cluster.command("a", "kept")
    cluster.settle("a", "c")
    leader = cluster.server("a")
    assert leader.commit_index == cluster.server("b").log.last_index_term().index
    rpc = AppendEntriesRpc(leader.current_term, leader.id, leader.commit_index, common.index, common.term, ())
    cluster["b"].handle(rpc)
    assert cluster.server("b").commit_index == common.index, (
        "the follower committed entries that were not compared"
    )


@_script
def who_lost_its_data_finds_no_vote() -> None:
    """MEMB-10: a server without data takes itself for a voter; members without data would elect it."""
    cluster = CoreCluster(*"abc")
    _elect_among(cluster, "a", "ab")
    cluster.command("a", "x")
    cluster.settle("a", "b")
    cluster["b"].wipe("b2")
    cluster["a"].crash()
    cluster.heal()
    cluster["b"].handle(ElectionTimeout())
    cluster.settle("b", "c")
    assert cluster.replies() == [("x",)]
    assert cluster.server("b").raft_state is RaftState.PRE_VOTE, "it leads without what was acknowledged"


@_script
def a_copy_of_a_vote_is_one_vote() -> None:
    """Five members; one of them answers three times."""
    cluster = CoreCluster(*"abcde")
    cluster.elect("b")
    member = cluster["a"]
    member.handle(ElectionTimeout())
    server, voter = member.server, cluster["b"].id
    role: object = server.role
    assert isinstance(role, PreVoteRole)
    for _ in range(3):
        member.handle(PreVoteResult(voter, server.current_term, role.token, True))
        assert server.raft_state is RaftState.PRE_VOTE, "one pre-vote was counted three times"
    member.handle(PreVoteResult(cluster["c"].id, server.current_term, role.token, True))
    role = server.role
    assert isinstance(role, CandidateRole)
    for _ in range(3):
        member.handle(RequestVoteResult(voter, server.current_term, True))
        assert server.raft_state is RaftState.CANDIDATE, "one vote was counted three times"


@_script
def a_pre_vote_counts_in_its_own_round() -> None:
    """A round of pre-votes raises no term, so only its token tells its results from older ones (row 5)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("b")
    cluster.partition("a", "bc")
    member = cluster["a"]
    member.handle(ElectionTimeout())
    role = member.server.role
    assert isinstance(role, PreVoteRole)
    old = PreVoteResult(cluster["b"].id, member.server.current_term, role.token, True)
    member.handle(ElectionTimeout())
    member.handle(old)
    assert member.server.raft_state is RaftState.PRE_VOTE, "an answer to an earlier round was counted"


@_script
def a_late_report_confirms_nothing_new() -> None:
    """The disk's report about entries that have been replaced since confirms nothing (row 22)."""
    cluster = CoreCluster(*"abc")
    a, c = cluster["a"].id, cluster["c"].id
    cluster.load("b", [1])
    member = cluster["b"]
    first = CoreCluster("a")
    first.load("a", [1, 1, 1])
    second = CoreCluster("a")
    second.load("a", [1, 2, 2])
    old = tuple(first["a"].log.entries[1:])
    new = tuple(second["a"].log.entries[1:])
    member.handle(AppendEntriesRpc(Term(1), a, Index(0), Index(1), Term(1), old))
    member.flush()
    member.handle(AppendEntriesRpc(Term(2), c, Index(0), Index(1), Term(1), new))
    member.sync_meta()
    member.hear()
    assert member.server.log.last_written().index == 1, "what was replaced is taken for what replaced it"
    member.handle(Written(member.log.uid, Term(1), Index(2), Index(3)))
    assert member.server.log.last_written().index == 1


@_script
def those_who_wait_hear_of_a_deposition() -> None:
    """A leader that steps down refuses the waiting reads, so that clients can ask elsewhere at once."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    cluster.partition("a", "bc")
    cluster.query("a")
    _elect_among(cluster, "b", "bc")
    cluster.settle("b", "c")
    cluster.heal()
    cluster["b"].handle(Tick(0))
    cluster.command("b", "x")
    cluster.settle()
    assert cluster.server("a").raft_state is not RaftState.LEADER
    assert "not_leader" in cluster.refusals(), "a read waits for an answer that never comes"


@_script
def a_new_leader_reads_after_its_noop() -> None:
    """§6.4: before its noop is applied, a new leader does not know what is committed (row 34)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster["a"].sync()
    cluster.deliver(link=("a", "b"))
    cluster["b"].sync()
    cluster.deliver(link=("b", "a"))
    assert ("x",) in cluster.replies()
    cluster.network.clear()
    _elect_among(cluster, "b", "bc")
    cluster.network.clear()
    cluster.query("b")
    for other in "c":
        cluster.deliver(link=("b", other))
        cluster.deliver(link=(other, "b"))
    stale = [reply for reply in cluster.replies() if "x" not in reply]
    assert not stale, f"a read that was asked after 'x' was acknowledged shows {stale}"


@_script
def a_refusal_claims_only_what_is_on_the_disk() -> None:
    """A follower may apply before its own sync, but a leader resumes from its durable entries (row 24)."""
    cluster = CoreCluster(*"abc")
    cluster.elect("a")
    cluster.partition("ac", "b")
    cluster.command("a", "x")
    cluster.settle("a", "c")
    cluster.network.clear()
    cluster.partition("ab", "c")
    cluster.command("a", "y")
    for _ in range(3):  # b asks for what it missed, and its own disk is slow
        cluster["a"].handle(Tick(0))
        cluster.deliver(link=("a", "b"))
        cluster.deliver(link=("b", "a"))
    member = cluster["b"]
    log = member.server.log
    assert (member.server.last_applied, log.last_written().index, log.next_index()) == (2, 1, 4)
    cluster.network.clear()
    cluster.heal()
    member.handle(AppendEntriesRpc(Term(2), cluster["c"].id, Index(2), Index(3), Term(2), ()))
    claimed = [e[2].last_index for e in cluster.network if isinstance(e[2], AppendEntriesReply)]
    assert claimed == [1], f"entry {claimed} is claimed, and 1 is on the disk"
