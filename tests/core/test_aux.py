"""The aux machine: of one member, volatile, outside the log (AUX-01 to AUX-07; L-13, L-24; MON-01 to
MON-03).
"""

from typing import Any

import msgspec
import pytest

from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AppendEntriesRpc,
    AuxCommand,
    Component,
    ElectionTimeout,
    InstallSnapshotRpc,
    NodeEvent,
    ProcessDown,
    Tick,
)
from barque.core.state import RaftState
from barque.core.step import has_unfinished_business
from barque.machine.effects import Aux, ReadLog, SendMsg
from barque.machine.machine import AuxKind, AuxResult, CommandMeta, Down, Machine, NodeDown, NodeUp
from barque.testing.core.cluster import CLIENT, CoreCluster
from barque.types import NOBODY, Index, IndexTerm, Term


class Noted(Machine[list[Any]]):
    """Keeps commands; its aux machine keeps what it is told, with the state that its member was in."""

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """Write it down; `read` asks for the log, `aux` for the aux machine."""
        state.append(command)
        if command == "read":
            return state, "ok", [ReadLog([2, 99], lambda found: [Aux(["found", found])])]
        return state, "ok", [Aux("from the machine")] if command == "aux" else []

    def init_aux(self, name: str) -> Any:
        """One list for each member."""
        return [f"born on {name}"]

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Any) -> AuxResult:
        """Write it down, and answer by it."""
        if command == "raise":
            raise LookupError("as told")
        if command == "look":
            facts = (
                member.machine_state,
                member.effective_machine_version,
                member.leader_id and member.leader_id.name,
                member.current_term,
                member.last_applied,
                member.last_index_term().index,
                member.read_commands([2, 99, 1]),
                len(member.members_info()),
                member.overview()["raft_state"],
            )
            return AuxResult(aux, reply=facts)
        effects = [SendMsg(CLIENT, "hello")] if command == "send" else []
        return AuxResult([*aux, (raft_state, kind.value, command)], reply=len(aux), effects=effects)


def led(machine: Machine[Any] | None = None) -> CoreCluster:
    """Three members at rest; a leads."""
    cluster = CoreCluster("a", "b", "c", machine=machine or Noted())
    cluster.elect("a")
    return cluster


def ask(command: Any, *, consistent: bool = False, call: bool = True) -> AuxCommand:
    """An aux command of a client's."""
    return AuxCommand(CLIENT if call else NOBODY, 7, msgspec.msgpack.encode(command), consistent)


def told(cluster: CoreCluster, name: str = "a") -> list[Any]:
    """What the aux machine was told, but for `eval`."""
    return [item for item in cluster.server(name).aux_state[1:] if item[2] != "eval"]


def test_an_aux_command_is_answered_by_its_member_alone() -> None:
    """L-13, AUX-01, AUX-02: not replicated; its state is the member's own, and is lost by a restart."""
    cluster = led()
    cluster["b"].handle(ask("x"))
    assert told(cluster, "b") == [("follower", "call", "x")]
    assert told(cluster, "a") == []
    [answer] = cluster.answers
    assert answer.first_correlation == 7
    cluster["b"].restart()
    assert cluster.server("b").aux_state == ["born on b"]


def test_a_cast_is_not_answered() -> None:
    """AUX-02: even if it raises."""
    cluster = led()
    cluster["a"].handle(ask("x", call=False))
    cluster["a"].handle(ask("raise", call=False))
    assert told(cluster) == [("leader", "cast", "x")]
    assert cluster.answers == []


def test_an_aux_machine_that_raises_harms_nobody() -> None:
    """AUX-02, QRY-17: the exception is the answer."""
    cluster = led()
    cluster["a"].handle(ask("raise"))
    [answer] = cluster.answers
    assert answer.errors == {0: "LookupError: as told"}


def test_a_machine_without_one_refuses_calls() -> None:
    """AUX-04: and ignores casts; nothing is handed to it."""

    class Plain(Noted):
        handle_aux = Machine.handle_aux  # type: ignore[assignment]

    cluster = led(Plain())
    cluster["a"].handle(ask("x", call=False))
    cluster["a"].handle(ask("x"))
    assert cluster.refusals() == ["aux_handler_not_implemented"]
    assert cluster["a"].handle(Tick(0)) is not None


def test_a_consistent_aux_command_needs_proof_of_leadership() -> None:
    """L-24, QRY-05: answered after a round of heartbeats; elsewhere refused with the leader's name."""
    cluster = led()
    cluster["a"].handle(ask("x", consistent=True))
    assert told(cluster) == []
    cluster.settle()
    assert told(cluster) == [("leader", "call", "x")]
    cluster.answers.clear()
    cluster["b"].handle(ask("x", consistent=True))
    [answer] = cluster.answers
    assert (answer.reason, answer.leader) == ("not_leader", cluster["a"].id)


def test_a_consistent_aux_command_waits_for_the_noop() -> None:
    """L-24, L-23: as reads do, and is refused as they are if the leader falls."""
    cluster = CoreCluster("a", "b", "c", machine=Noted())
    cluster["a"].handle(ElectionTimeout())
    for _ in range(4):
        cluster.deliver()
    cluster["a"].handle(ask("x", consistent=True))
    assert told(cluster) == []
    cluster.settle()
    assert told(cluster) == [("leader", "call", "x")]


def test_what_happens_around_the_member_is_told() -> None:
    """AUX-03, COMMIT-06: `eval` after progress, ticks on leader and follower, and the machine's own word."""
    cluster = led()
    cluster.command("a", "aux")
    cluster.settle()
    assert ("leader", "cast", "eval") in cluster.server("a").aux_state
    assert ("leader", "cast", "from the machine") in told(cluster)
    cluster["a"].handle(Tick(0))
    cluster["b"].handle(Tick(0))
    assert ("leader", "cast", "tick") in told(cluster)
    assert ("follower", "cast", "tick") in told(cluster, "b")
    assert has_unfinished_business(cluster.server("b"))


def test_monitors_of_the_aux_machine_tell_it_alone() -> None:
    """MON-01 to MON-03, AUX-07: `handle_down` and `handle_node_status` of the component that asked."""
    cluster = led()
    for name in "ab":
        cluster[name].handle(ProcessDown(Component.AUX, CLIENT, "gone"))
        cluster[name].handle(NodeEvent(Component.AUX, "n", True))
        cluster[name].handle(NodeEvent(Component.AUX, "n", False))
        assert [item[2] for item in told(cluster, name)] == [
            Down(CLIENT, "gone"),
            NodeUp("n"),
            NodeDown("n"),
        ]
    assert cluster.server("a").log.next_index() == 2


def test_monitors_of_the_machine_become_commands() -> None:
    """MON-02, MON-03: on a leader; `Down` comes behind what that client had sent, and followers are not
    asked.
    """
    cluster = led()
    cluster.command("a", "sent before", low_priority=True)
    cluster["a"].handle(ProcessDown(Component.MACHINE, CLIENT, "gone"))
    cluster["a"].handle(NodeEvent(Component.MACHINE, "n", True))
    cluster["a"].handle(NodeEvent(Component.MACHINE, "n", False))
    assert cluster["b"].handle(ProcessDown(Component.MACHINE, CLIENT, "gone")) == []
    assert cluster["b"].handle(NodeEvent(Component.MACHINE, "n", True)) == []
    cluster.settle()
    state = cluster.server("b").machine_state
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("a").machine_state == [
        "sent before",
        Down(CLIENT, "gone"),
        NodeUp("n"),
        NodeDown("n"),
    ]
    assert state == cluster.server("a").machine_state[: len(state)]


def test_an_aux_machine_may_look_at_its_member() -> None:
    """AUX-05, EFF-11: state, version, leader, positions, members and user commands; what is missing is left
    out.
    """
    cluster = led()
    cluster.command("a", "x")
    cluster.settle()
    cluster.answers.clear()
    cluster["a"].handle(ask("look"))
    [answer] = cluster.answers
    assert answer.replies == [(["x"], 0, "a", 1, 2, 2, ["x"], 3, "leader")]


def test_effects_of_an_aux_machine_are_performed() -> None:
    """AUX-02, EFF-12: also those that lead back to it."""
    cluster = led()
    cluster["a"].handle(ask("send"))
    assert SendMsg(CLIENT, "hello") in cluster["a"].machine_effects
    cluster.command("a", "read")
    cluster.settle()
    assert ("leader", "cast", ["found", ["read"]]) in told(cluster)


@pytest.mark.parametrize(
    "state", ["leader", "follower", "candidate", "pre_vote", "await_condition", "receive_snapshot"]
)
def test_the_aux_machine_is_there_in_every_state(state: str) -> None:
    """AUX-06."""
    cluster = led()
    name = "a" if state == "leader" else "b"
    member = cluster[name]
    if state in ("candidate", "pre_vote"):
        cluster.partition("a", "bc")
        member.handle(ElectionTimeout())
    if state == "candidate":
        cluster.deliver()
        cluster.deliver()
    if state == "await_condition":
        member.handle(AppendEntriesRpc(Term(1), cluster["a"].id, Index(1), Index(99), Term(1)))
    if state == "receive_snapshot":
        meta = SnapshotMeta(IndexTerm(Index(50), Term(1)), (), 0)
        member.handle(InstallSnapshotRpc(Term(1), cluster["a"].id, meta, ChunkState(1, ChunkFlag.NEXT), b"x"))
    assert str(member.server.raft_state) == state
    member.handle(ask("x"))
    member.handle(ProcessDown(Component.AUX, CLIENT, "gone"))
    member.handle(NodeEvent(Component.AUX, "n", True))
    assert [item[0] for item in told(cluster, name)] == [state] * 3
    assert member.server.raft_state is RaftState(state)
