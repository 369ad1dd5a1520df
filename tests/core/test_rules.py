"""Rules of Ra's server that no other file shows by itself."""

from typing import Any

import pytest

from barque.core.effects import PersistTermAndVote, SendRpc, SendSnapshot
from barque.core.messages import (
    AppendEntriesRpc,
    HeartbeatRpc,
    RequestVoteResult,
    RequestVoteRpc,
    ResendWrite,
    WalUp,
)
from barque.core.state import RaftState
from barque.errors import InvariantViolation
from barque.machine.machine import CommandMeta, Machine
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ReplyMode, Term


def led() -> CoreCluster:
    """Three members at rest; a leads."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    return cluster


def test_commands_that_come_together_are_appended_together() -> None:
    """L-10, CMD-02: one batch in the log and in each RPC; those that wait for the append are answered at
    once.
    """
    cluster = led()
    effects = cluster.command("a", "x", "y", "z", mode=ReplyMode.AFTER_LOG_APPEND)
    assert [len(rpc.entries) for _, rpc in sent(effects, AppendEntriesRpc)] == [1, 1]
    assert cluster.replies() == [(2, 1), (3, 1), (4, 1)]


def test_other_news_of_the_disk_change_nothing_but_the_log() -> None:
    """L-12: nothing is committed by it, nothing is sent."""
    cluster = led()
    cluster.command("a", "x")
    before = cluster.server("a").commit_index
    for event in (ResendWrite(cluster["a"].log.uid, Index(2)), WalUp()):
        effects = cluster["a"].handle(event)
        assert not any(isinstance(effect, SendRpc | SendSnapshot) for effect in effects)
    assert cluster.server("a").commit_index == before


@pytest.mark.parametrize("entries", [True, False])
def test_two_leaders_in_a_term_are_a_bug_that_stops_the_server(entries: bool) -> None:
    """L-20, L-25: before harm is done."""
    cluster = led()
    b = cluster["b"].id
    rpc = (
        AppendEntriesRpc(Term(1), b, Index(0), Index(1), Term(1)) if entries else HeartbeatRpc(1, Term(1), b)
    )
    with pytest.raises(InvariantViolation, match="both lead"):
        cluster["a"].handle(rpc)


def test_one_vote_a_term() -> None:
    """F-8, F-9: the first candidate gets it, and gets it again; the second does not."""
    cluster = CoreCluster("a", "b", "c")
    granted = []
    for name in ("b", "c", "b"):
        rpc = RequestVoteRpc(Term(1), cluster[name].id, Index(0), Term(0))
        granted += [r.vote_granted for _, r in sent(cluster["a"].handle(rpc), RequestVoteResult)]
    assert granted == [True, False, True]


def test_a_message_that_ends_a_role_is_handled_in_the_next() -> None:
    """L-19: in the same step, and what was decided is stored before the reply leaves."""
    cluster = led()
    rpc = AppendEntriesRpc(Term(2), cluster["b"].id, Index(1), Index(1), Term(1))
    effects = cluster["a"].handle(rpc)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(PersistTermAndVote) < kinds.index(SendRpc)
    assert cluster.server("a").raft_state is RaftState.FOLLOWER
    assert cluster.server("a").leader_id == cluster["b"].id


def test_a_machine_knows_where_and_when_a_command_stands() -> None:
    """CMD-19: index, term, version and the leader's time, the same on every member."""

    class Curious(Machine[list[Any]]):
        def init(self, args: dict[str, Any]) -> list[Any]:
            """Nothing yet."""
            return []

        def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
            """Write down what is known."""
            return [*state, (meta.index, meta.term, meta.machine_version, meta.system_time_ms)], None

    cluster = CoreCluster("a", "b", machine=Curious())
    cluster.elect("a")
    cluster.environment.time_ms = 7_000
    cluster.command("a", "x")
    cluster.settle()
    cluster.command("a", "y")
    cluster.settle()
    assert cluster.server("b").machine_state[0] == (2, 1, 0, 7_000) == cluster.server("a").machine_state[0]
