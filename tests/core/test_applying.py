"""Applying committed entries to the machine (COMMIT-05, VER-01, VER-02)."""

from typing import Any

import pytest

from barque.core import commands
from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    MachineAppend,
    MachineTimeout,
    Written,
)
from barque.errors import BarqueError, MachineFault
from barque.machine.effects import Aux, SendMsg, Timer
from barque.machine.machine import CommandMeta, Machine, MachineVersion, Timeout
from barque.testing.core.cluster import CLIENT, CoreCluster
from barque.types import Index, ReplyMode, Term


@pytest.mark.parametrize(
    "payloads",
    [[b"\x01\x02", b""], [b"", b"\x01\x02"], [b"\x92\x01", b"\x02\x03"], [b"\xa3ab", b"c\x01"]],
    ids=["two-and-none", "none-and-two", "broken-array", "broken-text"],
)
def test_entries_mean_the_same_however_their_batch_is_cut(payloads: list[bytes]) -> None:
    """Payloads whose bytes are good commands only together are refused: members cut batches differently."""

    def state_after(parts: list[EntryBatch]) -> Any:
        cluster = CoreCluster("a", "b")
        rpc = AppendEntriesRpc(
            Term(1), cluster["a"].id, Index(len(payloads)), Index(0), Term(0), tuple(parts)
        )
        cluster.observer.committed += [(part, Term(1)) for part in parts]
        server = cluster.server("b")
        cluster.observer.look = lambda *_: None  # type: ignore[method-assign]  # no leader here
        cluster["b"].handle(rpc)
        return server.last_applied, server.machine_state

    body = encode_body(payloads, mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    whole = EntryBatch(Index(1), Term(1), len(payloads), 0, body)
    assert state_after([whole]) == state_after([whole.cut(1, 1), whole.cut(2, 2)])


def test_a_command_that_is_none_is_refused_and_its_neighbours_are_not() -> None:
    """The reply of each entry stands at its place; only the broken one has an error."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    body = encode_body([b"\x01", b"\xc1", b"\x02"], mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    cluster["a"].handle(Commands(3, body))
    cluster.settle()
    [answer] = cluster.answers
    assert answer.replies == [(1,), None, (1, 2)]
    assert list(answer.errors) == [1]


class Scripted(Machine[list[Any]]):
    """Does what the command says."""

    def __init__(self, version: int = 0) -> None:
        self.version = version  # type: ignore[misc]  # of this member only

    def init(self, args: dict[str, Any]) -> list[Any]:
        """Nothing yet."""
        return []

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """Raise, wish, or write down."""
        if command == "raise" or (isinstance(command, Timeout) and command.name == "raise"):
            raise ZeroDivisionError("as told")
        state.append((meta.index, command))
        if command == "wish":
            return state, "wished", [Timer("t", after_ms=1), [Aux(1), (SendMsg(CLIENT, 2),)], None]
        if command == "nonsense":
            return state, None, ["not an effect"]
        if isinstance(command, Timeout | MachineVersion):
            return state, None, Aux(type(command).__name__)
        return state, "done"


def scripted(version: int = 0) -> CoreCluster:
    """A single member that leads."""
    cluster = CoreCluster("a", machine=Scripted(version))
    cluster.elect("a")
    return cluster


def test_wishes_are_taken_in_their_order_and_flat() -> None:
    """EFF-31: one effect, a list, or nested lists."""
    cluster = scripted()
    cluster.command("a", "wish", "plain")
    cluster.settle()
    assert cluster["a"].machine_effects == [Timer("t", after_ms=1), Aux(1), SendMsg(CLIENT, 2)]
    assert cluster.replies() == ["wished", "done"]


@pytest.mark.parametrize("command", ["raise", "nonsense"])
def test_a_machine_that_fails_stops_its_server(command: str) -> None:
    """It would fail everywhere; the performer has to stop the server, and is told the index."""
    cluster = scripted()
    cluster.command("a", command)
    with pytest.raises(MachineFault, match="index 2"):
        cluster.settle()


def test_a_machine_that_fails_on_a_timer_stops_its_server_as_well() -> None:
    """Built-in commands are commands."""
    cluster = scripted()
    cluster["a"].handle(MachineTimeout("raise"))
    with pytest.raises(MachineFault, match="Timeout"):
        cluster.settle()


def test_timers_and_appended_commands_are_entries() -> None:
    """EFF-04, EFF-09: every member sees them at the same place; nobody is answered."""
    cluster = scripted()
    cluster["a"].handle(MachineTimeout("t"))
    cluster["a"].handle(MachineAppend(b"\xa1x"))
    cluster.settle()
    assert cluster.server("a").machine_state == [(2, Timeout("t")), (3, "x")]
    assert cluster["a"].machine_effects == [Aux("Timeout")]
    assert cluster.answers == []


def test_a_noop_raises_the_version_and_tells_the_machine() -> None:
    """VER-01: once, when it is applied; a noop of the same version changes nothing."""
    cluster = scripted(3)
    assert cluster.server("a").machine_state == [(1, MachineVersion(0, 3))]
    cluster["a"].restart()
    cluster.elect("a")
    assert cluster.server("a").machine_state == [(1, MachineVersion(0, 3))]


def test_a_member_without_the_version_applies_nothing_until_it_has_it() -> None:
    """VER-02: it keeps the log and the commit index, and goes on after an upgrade."""
    cluster = CoreCluster("a", "b", "c", machine=Scripted(0), settings={"machine_upgrade_strategy": "quorum"})
    for name in "ab":
        cluster[name].machine = Scripted(2)
        cluster[name].start()
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle()
    frozen = cluster.server("c")
    assert (frozen.last_applied, frozen.commit_index, frozen.effective_machine_version) == (0, 2, 2)
    cluster["c"].machine = Scripted(2)
    cluster["c"].remember_applied()
    cluster["c"].restart()
    cluster.command("a", "y")
    cluster.settle()
    assert cluster.server("c").machine_state == cluster.server("a").machine_state


@pytest.mark.parametrize(
    "body",
    [b"\x05" + encode_body([b"\x01"])[1:], encode_body([b"\x01"], EntryKind.CLUSTER_CHANGE)],
    ids=["unknown kind", "unknown configuration"],
)
def test_an_entry_of_a_newer_release_stops_a_server(body: bytes) -> None:
    """Better to stop than to go on without what it says; neither a leader nor a follower applies it."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    batch = EntryBatch(Index(2), Term(1), 1, 0, body)
    cluster["a"].log.append(batch)
    cluster["a"].log.take_written()
    server = cluster.server("a")
    cluster["a"].handle(Written(server.cfg.uid, Term(1), Index(2), Index(2)))
    with pytest.raises(BarqueError):
        cluster["a"].handle(AppendEntriesReply(cluster["b"].id, Term(1), True, Index(3), Index(2), Term(1)))
    assert server.last_applied == 1
    rpc = AppendEntriesRpc(Term(1), cluster["a"].id, Index(2), Index(1), Term(1), (batch,))
    with pytest.raises(BarqueError):
        cluster["b"].handle(rpc)
    assert cluster.server("b").last_applied == 1


def test_machine_time_never_runs_back() -> None:
    """MAC-03: the clock of a new leader may be behind the old one's."""
    cluster = scripted()
    cluster.environment.time_ms = 500
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.server("a").machine_time_ms == 1_000


def test_only_those_who_wait_are_answered() -> None:
    """CMD-09, CMD-10: by reply mode."""
    cluster = scripted()
    for mode in ReplyMode:
        cluster.command("a", "x", mode=mode)
    cluster.settle()
    assert sorted(map(str, cluster.replies())) == ["(3, 1)", "done", "done"]


def test_a_machine_that_appends_too_much_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could be sent such an entry: the cluster would wait for it without end."""
    monkeypatch.setattr(commands, "COMMAND_BYTES_MAX", 10)
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    with pytest.raises(MachineFault, match="appends a command of 11 bytes, above 10"):
        cluster["a"].handle(MachineAppend(b"\xaaxxxxxxxxxx"))
    assert cluster.server("a").log.last_index_term().index == 1
