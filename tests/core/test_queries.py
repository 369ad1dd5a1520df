"""Reads beside §6.4: local ones, errors, heartbeats of strangers (QRY-01 to QRY-17, L-26)."""

from typing import Any

import msgspec

from barque.core.configuration import is_change_under_way, may_change
from barque.core.messages import HeartbeatReply, Queries, Tick
from barque.core.queries import describe, machine_query
from barque.errors import InvalidCommand
from barque.machine.simple import SimpleMachine
from barque.testing.core.cluster import CLIENT, CoreCluster
from barque.types import IndexTerm, ServerId, Term

NIL = msgspec.msgpack.encode(None)


class Touchy(SimpleMachine[int]):
    """Dislikes the query 13, and refuses 14 politely."""

    def query(self, query: Any, state: int) -> int:
        """The state, usually."""
        if query == 13:
            raise ZeroDivisionError("thirteen")
        if query == 14:
            raise InvalidCommand("fourteen is no query")
        return state


def test_a_query_that_raises_harms_only_its_asker() -> None:
    """QRY-17: its neighbours are answered, the server goes on; our own errors speak for themselves."""
    cluster = CoreCluster("a", machine=Touchy(lambda command, state: state + command, 0))
    cluster.elect("a")
    payloads = tuple(msgspec.msgpack.encode(value) for value in (1, 13, 14, 2))
    cluster["a"].handle(Queries(CLIENT, 5, (*payloads, b"\xc1"), True))
    [answer] = cluster.answers
    assert answer.replies == [0, None, None, 0, None]
    assert answer.errors[1] == "ZeroDivisionError: thirteen"
    assert answer.errors[2] == "fourteen is no query"
    assert 4 in answer.errors
    assert describe(InvalidCommand("so")) == "so"


def test_a_local_read_says_how_far_the_machine_is() -> None:
    """QRY-02: with the position it has applied, on any member."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    assert machine_query(cluster.server("c"), NIL) == (IndexTerm(2, Term(1)), ("x",))


def test_a_leaders_read_asks_nobody() -> None:
    """QRY-03: it promises less than a consistent one."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a", consistent=False)
    assert cluster.replies() == [()]
    assert not cluster.network


def test_a_stranger_can_neither_confirm_nor_depose_a_leader() -> None:
    """L-26, L-27: a heartbeat's answer counts only if a member gives it."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    for term in (1, 9):
        cluster["a"].handle(HeartbeatReply(ServerId("z", "node_z"), 1, Term(term)))
    assert cluster.replies() == []
    assert cluster.server("a").current_term == 1


def test_an_answer_to_a_round_that_was_never_asked_proves_nothing() -> None:
    """QRY-09: no member can confirm rounds of the future."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.query("a")
    cluster["a"].handle(HeartbeatReply(cluster["b"].id, 99, Term(1)))
    assert cluster.replies() == [()]
    cluster.query("a")
    assert cluster.replies() == []


def test_rounds_of_a_former_leadership_prove_nothing_in_a_new_one() -> None:
    """Historical bug 36: what peers have confirmed is forgotten with the term."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    for _ in range(3):
        cluster.query("a")
    cluster.settle()
    cluster.partition("a", "bc")
    cluster.elect("b")
    cluster.heal()
    cluster["b"].handle(Tick(0))
    cluster.settle()
    cluster.partition("ac", "b")
    cluster.elect("a")
    assert {peer.query_index for _, peer in cluster.server("a").peers} == {0}


def test_a_read_does_not_wait_for_a_change_of_members() -> None:
    """§6.4: only this term's noop makes a read wait; a pending change of members (§4.1) does not."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    cluster.add("d")
    cluster.join("a", "d")
    leader = cluster.server("a")
    assert is_change_under_way(leader)
    assert not may_change(leader)
    cluster.network.clear()  # nobody has the change, so it stays pending
    cluster.query("a")
    for name in "bc":
        cluster["a"].handle(HeartbeatReply(cluster[name].id, leader.query_index, leader.current_term))
    assert cluster.replies()[-1] == ("x",)
    assert is_change_under_way(leader)
