"""Machine versions: which is in force, and when it may rise (VER-01 to VER-10; L-33, L-34, F-19, F-20)."""

from typing import Any

import pytest

from barque.core.applying import newest_version
from barque.core.messages import (
    AppendNoop,
    ElectionTimeout,
    InfoReply,
    InfoRpc,
    PreVoteResult,
    PreVoteRpc,
    Tick,
)
from barque.core.state import RaftState, ServerConfig
from barque.errors import ConfigurationError
from barque.machine.effects import Aux
from barque.machine.machine import CommandMeta, Machine, MachineVersion
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ServerId, Term, Uid

ONE = Term(1)


class Versioned(Machine[list[Any]]):
    """Writes down each command with the version that applied it; keeps its older selves."""

    def __init__(self, version: int, acts_as: int | None = None) -> None:
        self.version = version  # type: ignore[misc]  # of this member only
        self.acts_as = version if acts_as is None else acts_as

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """As this version would."""
        what = (command.old, command.new) if isinstance(command, MachineVersion) else command
        state.append((self.acts_as, meta.machine_version, what))
        return state, self.acts_as

    def state_enter(self, raft_state: str, state: list[Any]) -> Any:
        """A leader's machine tells which version was asked."""
        return [Aux(self.acts_as)] if raft_state == "leader" else []

    def which_module(self, version: int) -> Machine[list[Any]]:
        """The machine of that version."""
        return Versioned(self.version, version)


def upgraded(versions: str, *, strategy: str = "all", initial: int = 0) -> CoreCluster:
    """Members a, b, … whose machines have these versions; a leads."""
    cluster = CoreCluster(
        *"abcde"[: len(versions)],
        machine=Versioned(int(versions[0])),
        settings={"machine_upgrade_strategy": strategy, "initial_machine_version": initial},
    )
    for name, version in zip("abcde", versions, strict=False):
        cluster[name].machine = Versioned(int(version))
        cluster[name].start()
    cluster.elect("a")
    return cluster


def effective(cluster: CoreCluster) -> list[int]:
    """The version in force on each member."""
    return [member.server.effective_machine_version for member in cluster.members.values()]


def test_who_enters_a_state_is_asked_in_the_version_in_force() -> None:
    """MAC-05, MAC-10: newer code does not know the state that the older one has left."""
    cluster = upgraded("220")
    assert cluster["a"].machine_effects == [Aux(0)]
    cluster = upgraded("222")
    cluster.partition("a", "bc")
    cluster.elect("b")
    assert cluster["b"].machine_effects == [Aux(2)]


# --- strategies ----------------------------------------------------------------------------


def test_with_strategy_all_everybody_has_to_have_the_version() -> None:
    """VER-04, L-34, C-1: the leader asks, and moves to the highest version that all have."""
    assert effective(upgraded("222")) == [2, 2, 2]
    assert effective(upgraded("123")) == [1, 1, 1]
    assert effective(upgraded("220")) == [0, 0, 0]


def test_with_strategy_quorum_a_leader_moves_at_once() -> None:
    """VER-03: members that lack the version apply nothing."""
    assert effective(upgraded("220", strategy="quorum")) == [2, 2, 2]


def test_a_single_member_moves_at_once() -> None:
    """VER-04: there is nobody to ask."""
    assert effective(upgraded("3")) == [3]


def test_an_unknown_version_counts_as_the_one_in_force() -> None:
    """L-34, VER-05: a member that has not answered holds the cluster back, and is asked again at each
    tick.
    """
    cluster = CoreCluster("a", "b", "c", machine=Versioned(2))
    cluster.partition("ab", "c")
    cluster["a"].handle(ElectionTimeout())
    cluster.settle("a", "b")
    assert cluster.server("a").effective_machine_version == 0
    assert [to for to, _ in sent(cluster["a"].handle(Tick(0)), InfoRpc)] == ["c"]
    cluster.heal()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert effective(cluster) == [2, 2, 2]
    assert sent(cluster["a"].handle(Tick(0)), InfoRpc) == []


def test_a_version_is_proposed_once() -> None:
    """L-34: answers that come before the noop is applied start no second one."""
    cluster = upgraded("222")
    noops = [batch for batch, _ in cluster.observer.committed]
    assert len(noops) == 2
    before = cluster.server("a").log.next_index()
    reply = InfoReply(cluster["b"].id, ONE, ("machine_version",), {"machine_version": 2})
    assert cluster["a"].handle(reply) == []
    assert cluster.server("a").log.next_index() == before


def test_an_old_member_that_is_replaced_lets_the_cluster_move() -> None:
    """VER-04, VER-05: it is asked at each tick until it has the version."""
    cluster = upgraded("220")
    cluster["c"].machine = Versioned(2)
    cluster["c"].restart()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert effective(cluster) == [2, 2, 2]


def test_answers_that_tell_nothing_are_remembered_as_that() -> None:
    """L-34: a peer loses a key that it does not report; late and foreign answers are ignored."""
    cluster = upgraded("220")
    peer = cluster.server("a").cluster[cluster["b"].id]
    assert peer.machine_version == 2
    stranger = ServerId("z", "n")
    for reply in (
        InfoReply(stranger, ONE, ("machine_version",), {}),
        InfoReply(stranger, Term(9), ("machine_version",), {}),
        InfoReply(cluster["b"].id, Term(0), ("machine_version",), {}),
        InfoReply(cluster["a"].id, ONE, ("machine_version",), {}),
    ):
        assert cluster["a"].handle(reply) == []
    assert peer.machine_version == 2
    cluster["a"].handle(InfoReply(cluster["b"].id, ONE, ("machine_version", "else"), {"else": 1}))
    assert peer.machine_version is None


# --- being asked ---------------------------------------------------------------------------


def test_leaders_and_followers_tell_what_they_know() -> None:
    """L-33, F-19: of the keys that were asked for; a higher term is taken first."""
    cluster = upgraded("222")
    keys = ("machine_version", "uid", "colour")
    [(_, reply)] = sent(cluster["b"].handle(InfoRpc(cluster["a"].id, ONE, keys)), InfoReply)
    assert reply.info == {"machine_version": 2, "uid": "uid_b"}
    assert reply.keys == keys
    for name in "ab":
        [(_, reply)] = sent(cluster[name].handle(InfoRpc(cluster["c"].id, Term(5), keys)), InfoReply)
        assert reply.term == cluster.server(name).current_term == 5
        assert reply.info == {"machine_version": 2, "uid": f"uid_{name}"}
    assert cluster.server("a").raft_state is RaftState.FOLLOWER


@pytest.mark.parametrize("state", ["candidate", "pre_vote"])
def test_who_stands_for_election_tells_nothing(state: str) -> None:
    """C-17, P-10: and yields to a higher term, in questions and in answers."""
    for message in (InfoRpc, InfoReply):
        cluster = CoreCluster("a", "b", "c", machine=Versioned(1))
        cluster["a"].handle(ElectionTimeout())
        if state == "candidate":
            cluster.deliver()
            cluster.deliver()
        server = cluster.server("a")
        assert str(server.raft_state) == state
        b, term = cluster["b"].id, server.current_term
        extra = ((),) if message is InfoRpc else ((), {})
        effects = cluster["a"].handle(message(b, term, *extra))
        assert [reply.info for _, reply in sent(effects, InfoReply)] == ([{}] if message is InfoRpc else [])
        cluster["a"].handle(message(b, Term(9), *extra))
        assert (server.raft_state, server.current_term) == (RaftState.FOLLOWER, 9)


def test_a_follower_takes_the_term_of_an_answer() -> None:
    """F-20: that is all that it is to a follower."""
    cluster = upgraded("000")
    assert cluster["b"].handle(InfoReply(cluster["c"].id, ONE, (), {})) == []
    cluster["b"].handle(InfoReply(cluster["c"].id, Term(4), (), {}))
    assert cluster.server("b").current_term == 4


def test_an_answer_of_a_member_in_a_higher_term_deposes_a_leader() -> None:
    """L-34."""
    cluster = upgraded("000")
    cluster["a"].handle(InfoReply(cluster["c"].id, Term(4), (), {}))
    assert cluster.server("a").raft_state is RaftState.FOLLOWER


# --- what a version means ------------------------------------------------------------------


def test_the_machine_of_the_version_in_force_applies() -> None:
    """VER-01, MAC-10: old commands mean what they meant; the new machine is told of the change."""
    cluster = upgraded("220")
    cluster.command("a", "x")
    cluster.settle()
    cluster["c"].machine = Versioned(2)
    cluster["c"].restart()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    cluster.command("a", "y")
    cluster.settle()
    for name in "abc":
        assert cluster.server(name).machine_state == [(0, 0, "x"), (2, 2, (0, 2)), (2, 2, "y")]
    cluster["b"].remember_applied()
    cluster["b"].restart()
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("b").machine_state == cluster.server("a").machine_state


def test_an_unversioned_machine_hears_of_no_version() -> None:
    """VER-09: version 0 is in force from the start."""
    cluster = upgraded("000")
    assert cluster.server("a").machine_state == []


def test_who_lacks_the_version_stands_still_and_keeps_the_log() -> None:
    """VER-02: replication and commit go on; with the new code it catches up. It cannot be elected
    (ELEC-06).
    """
    cluster = upgraded("110", strategy="quorum")
    cluster.command("a", "x")
    cluster.settle()
    server = cluster.server("c")
    assert (server.last_applied, server.effective_machine_version) == (0, 1)
    assert server.log.last_index_term() == cluster.server("a").log.last_index_term()
    cluster["c"].handle(ElectionTimeout())
    cluster.settle()
    assert server.raft_state is not RaftState.LEADER
    cluster["c"].machine = Versioned(1)
    cluster["c"].restart()
    cluster["c"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("c").machine_state[-1] == (1, 1, "x")


@pytest.mark.parametrize(
    ("own", "in_force", "theirs", "granted"),
    [
        (0, 0, 0, True),
        (0, 1, 1, True),
        (1, 1, 0, False),
        (2, 3, 2, False),
        (3, 1, 2, True),
        (1, 0, 0, True),
        (0, 0, 9, False),
        (2, 0, 2, True),
    ],
)
def test_who_gets_a_pre_vote(own: int, in_force: int, theirs: int, granted: bool) -> None:
    """S-12, P-8, ELEC-06: the truth table of the semantics' §5, by messages."""
    cluster = CoreCluster("a", "b", machine=Versioned(own))
    cluster.server("b").effective_machine_version = in_force
    rpc = PreVoteRpc(1, theirs, Term(0), 1, cluster["a"].id, Index(0), Term(0))
    [(_, result)] = sent(cluster["b"].handle(rpc), PreVoteResult)
    assert result.vote_granted is granted


def test_a_new_cluster_may_start_with_a_version() -> None:
    """VER-06: at most our own; the machine is told of no change."""
    cluster = upgraded("222", initial=2)
    assert effective(cluster) == [2, 2, 2]
    assert cluster.server("a").machine_state == []
    assert effective(upgraded("111", strategy="quorum", initial=5)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"machine_upgrade_strategy": "some"}, "machine_upgrade_strategy"),
        ({"initial_machine_version": 3}, "invalid_initial_machine_version"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], problem: str) -> None:
    """VER-06, VER-10, CFG-04: before anything runs, with the setting's name."""
    config = ServerConfig(
        id=ServerId("a", "n"),
        uid=Uid("u"),
        cluster_name="c",
        initial_members=(),
        machine=Versioned(1),
        **settings,
    )
    with pytest.raises(ConfigurationError, match=problem):
        config.check()


def test_a_noop_of_an_old_version_changes_nothing() -> None:
    """VER-01: a version in force never falls."""
    cluster = upgraded("222")
    cluster["a"].handle(AppendNoop(1))
    cluster.settle()
    assert effective(cluster) == [2, 2, 2]


def test_with_quorum_nobody_is_waited_for() -> None:
    """VER-03: answers about versions are remembered, and decide nothing."""
    cluster = upgraded("111", strategy="quorum")
    leader = cluster.server("a")
    reply = InfoReply(
        ServerId("b", "node_b"), leader.current_term, ("machine_version",), {"machine_version": 9}
    )
    assert cluster["a"].handle(reply) == []
    assert leader.cluster[ServerId("b", "node_b")].machine_version == 9


def noop_in_all_logs() -> CoreCluster:
    """Leader a has put version 1 into all logs and is cut off; b has that version, c has not.

    Neither knows that the entry is committed.
    """
    cluster = CoreCluster(
        "a", "b", "c", machine=Versioned(1), settings={"machine_upgrade_strategy": "quorum"}
    )
    cluster["c"].machine = Versioned(0)
    cluster["c"].start()
    cluster["a"].handle(ElectionTimeout())
    for _ in range(10):
        if newest_version(cluster.server("b")) == newest_version(cluster.server("c")) == 1:
            break
        for member in cluster.members.values():
            member.sync_meta()
        cluster.deliver()
    cluster.partition("a", "bc")
    cluster.settle()
    assert [newest_version(cluster.server(name)) for name in "bc"] == [1, 1]
    assert [cluster.server(name).effective_machine_version for name in "bc"] == [0, 0]
    return cluster


def test_k5_a_member_without_the_version_in_its_log_does_not_campaign() -> None:
    """K5, VER-02: it would win, commit that entry, and apply nothing from there on."""
    cluster = noop_in_all_logs()
    cluster["c"].handle(ElectionTimeout())
    cluster.settle()
    assert cluster.server("c").raft_state is RaftState.FOLLOWER
    cluster.elect("b")
    cluster.command("b", "x")
    cluster.settle()
    assert cluster.replies() == [1]


def test_k5_a_pre_vote_looks_at_the_versions_in_the_log() -> None:
    """K5, ELEC-06: a candidate needs the version that our log asks for, committed or not."""
    for voter in "bc":
        for theirs, granted in ((0, False), (1, True)):
            rpc = PreVoteRpc(1, theirs, ONE, 1, ServerId("a", "node_a"), Index(99), ONE)
            [(_, result)] = sent(noop_in_all_logs()[voter].handle(rpc), PreVoteResult)
            assert result.vote_granted is granted


def test_k5_a_leader_that_lacks_the_version_gives_way() -> None:
    """VER-02: a sole survivor leads by order, finds that it cannot apply, and lets nobody wait for it."""
    cluster = noop_in_all_logs()
    cluster.partition("a", "b", "c")
    cluster.force("c")
    cluster.settle()
    assert cluster.server("c").raft_state is RaftState.FOLLOWER
    cluster.command("c", "x")
    assert cluster.refusals() == ["not_leader"]
    cluster["c"].machine = Versioned(1)
    cluster["c"].restart()
    cluster.elect("c")
    cluster.command("c", "y")
    cluster.settle()
    assert cluster.replies()[-1] == 1
