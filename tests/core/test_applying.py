"""Applying committed entries to the machine (COMMIT-05, VER-01, VER-02)."""

from typing import Any

import msgspec
import pytest

from barque.core import applying, commands, user_commands
from barque.core.applying import RUN_COMMANDS_MAX
from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    ElectionTimeout,
    MachineAppend,
    MachineTimeout,
    Tick,
    Written,
)
from barque.core.state import RaftState
from barque.errors import BarqueError, MachineFault
from barque.machine.effects import LATER, Append, Aux, ModCall, SendMsg, Timer, TryAppend
from barque.machine.machine import CommandMeta, Machine, MachineVersion, RunMeta, Timeout
from barque.testing.core.cluster import CLIENT, CoreCluster
from barque.testing.sim.test_machine import singly
from barque.types import Index, ReplyMode, Term

PIECES = pytest.mark.parametrize(
    "payloads",
    [[b"\x01\x02", b""], [b"", b"\x01\x02"], [b"\x92\x01", b"\x02\x03"], [b"\xa3ab", b"c\x01"]],
    ids=["two-and-none", "none-and-two", "broken-array", "broken-text"],
)
"""Payloads whose bytes are good commands only together. Members may cut batches differently."""


@PIECES
def test_bytes_that_are_commands_only_together_are_not_admitted(payloads: list[bytes]) -> None:
    """Each entry must be a command by itself."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    before = cluster.server("a").log.last_index_term()
    body = encode_body(payloads, mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    cluster["a"].handle(Commands(2, body))
    assert [list(answer.errors) for answer in cluster.answers] == [[0], [0]]
    assert cluster.server("a").log.last_index_term() == before


@PIECES
def test_entries_mean_nothing_else_however_their_batch_is_cut(payloads: list[bytes]) -> None:
    """A leader admits no such entries. Members that get them apply the same commands, or stop."""

    def state_of(parts: list[EntryBatch]) -> Any:
        cluster = CoreCluster("a", "b")
        rpc = AppendEntriesRpc(Term(1), cluster["a"].id, Index(2), Index(0), Term(0), tuple(parts))
        cluster.observer.committed += [(part, Term(1)) for part in parts]
        cluster.observer.look = lambda *_: None  # type: ignore[method-assign]  # no leader here
        try:
            cluster["b"].handle(rpc)
        except MachineFault as fault:
            return str(fault)[:20]
        return cluster.server("b").machine_state

    body = encode_body(payloads, mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    whole = EntryBatch(Index(1), Term(1), 2, 0, body)
    commands = tuple(msgspec.msgpack.decode(b"\x92" + b"".join(payloads)))
    outcomes = commands, "entry 1 is committed"
    assert state_of([whole]) in outcomes
    assert state_of([whole.cut(1, 1), whole.cut(2, 2)]) in outcomes


def test_a_leader_decodes_a_command_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decoded to be admitted is applied; a follower decodes when it applies. Large ones too."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    decoded: list[int] = []
    real = user_commands.decode_commands

    def decode(*args: Any, **options: Any) -> Any:
        decoded.append(args[2])
        return real(*args, **options)

    monkeypatch.setattr(user_commands, "decode_commands", decode)
    monkeypatch.setattr(applying, "decode_commands", decode)
    cluster.command("a", *["x" * 4_000] * 100)
    assert decoded == [100]
    cluster.settle()
    assert decoded == [100, 100]
    assert (cluster.server("a").leader_role().decoded, cluster.server("a").leader_role().decoded_bytes) == (
        {},
        0,
    )


def test_a_leader_keeps_only_so_much_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: what has no room is decoded again, and what was applied makes room."""
    monkeypatch.setattr(user_commands, "_KEPT_BYTES_MAX", 100)
    cluster = CoreCluster("a", "b")
    role = cluster.elect("a").leader_role()
    for text in ("x" * 20, "y" * 100, "z" * 5):
        cluster.command("a", text)
    assert [commands for _, commands in role.decoded.values()] == [["x" * 20], ["z" * 5]]
    assert role.decoded_bytes <= 100
    cluster.settle()
    assert cluster.server("a").machine_state == ("x" * 20, "y" * 100, "z" * 5)
    assert (role.decoded, role.decoded_bytes) == ({}, 0)


@pytest.mark.parametrize("low_priority", [False, True])
def test_a_command_that_is_none_is_refused_and_its_neighbours_are_not(low_priority: bool) -> None:
    """The refusal comes before the log: that command did not happen. The others are appended in order."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    none = b"\xc1"
    body = encode_body(
        [none, b"\x01", none, none, b"\x02", none], mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT
    )
    cluster["a"].handle(Commands(6, body, low_priority))
    cluster.settle()
    errors = [a.first_correlation + at for a in cluster.answers for at in a.errors or ()]
    assert errors == [0, 2, 3, 5]
    good = {a.first_correlation: a.replies for a in cluster.answers if not a.errors}
    assert good == {1: [(1,)], 4: [(1, 2)]}


def test_nobody_is_told_of_a_bad_command_that_wanted_no_reply() -> None:
    """`noreply`: it is dropped, and its neighbours are not."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    cluster["a"].handle(Commands(2, encode_body([b"\xc1", b"\x01"])))
    cluster.settle()
    assert cluster.answers == []
    assert cluster.server("a").machine_state == (1,)


class Add(msgspec.Struct, frozen=True, array_like=True, tag="add"):
    """Every member knows this command."""

    by: int


class Mul(msgspec.Struct, frozen=True, array_like=True, tag="mul"):
    """Only newer code knows it."""

    by: int


class Sum(Machine[int]):
    """A number; `knows` are the types of its commands."""

    def __init__(self, knows: Any) -> None:
        self.command_type = knows  # type: ignore[misc]  # of this member only

    def init(self, args: dict[str, Any]) -> int:
        """Zero."""
        return 0

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
        """Add, or multiply."""
        state = state + command.by if isinstance(command, Add) else state * command.by
        return state, state


def mixed_code() -> CoreCluster:
    """Leader a knows `Add` and `Mul`; b and c only `Add`, under the same version."""
    cluster = CoreCluster("a", "b", "c", machine=Sum(Add))
    cluster["a"].machine = Sum(Add | Mul)
    cluster["a"].start()
    cluster.elect("a")
    return cluster


def test_d5_a_member_that_cannot_decode_a_committed_command_stops() -> None:
    """D5: it runs other code than the leader. If it went on, its state would differ for good."""
    cluster = mixed_code()
    cluster.command("a", Add(4))
    cluster.settle()
    cluster.command("a", Mul(10))
    with pytest.raises(MachineFault, match=r"entry 3 is committed.*runs other code"):
        cluster.settle()
    assert [cluster.server(name).machine_state for name in "bc"] == [4, 4]


def test_d5_a_leader_admits_only_what_it_can_decode() -> None:
    """D5: a command of newer code is refused by an older leader, and did not happen."""
    cluster = mixed_code()
    cluster.transfer("a", "b")
    cluster.settle()
    cluster.command("b", Mul(10))
    [answer] = [answer for answer in cluster.answers if answer.errors]
    assert "not a command of Sum" in answer.errors[0]
    cluster.command("b", Add(1))
    cluster.settle()
    assert {server.machine_state for server in map(cluster.server, "abc")} == {1}


def test_d5_admission_uses_the_version_that_will_apply_the_command() -> None:
    """D5: commands behind the noop of a new version belong to that version, before the noop is applied."""

    class Grown(Sum):
        version = 1

        def which_module(self, version: int) -> Machine[int]:
            return self if version else Sum(Add)

        def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
            return (
                (state, None) if isinstance(command, MachineVersion) else super().apply(meta, command, state)
            )

    cluster = CoreCluster("a", "b", machine=Grown(Add | Mul), settings={"machine_upgrade_strategy": "quorum"})
    cluster["a"].handle(ElectionTimeout())
    while cluster.server("a").raft_state is not RaftState.LEADER:
        cluster.deliver()
    assert cluster.server("a").effective_machine_version == 0
    cluster.command("a", Add(4))
    cluster.command("a", Mul(10))
    cluster.settle()
    assert [answer.errors for answer in cluster.answers] == [None, None]
    assert cluster.server("b").machine_state == 40


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


class Returning(Scripted):
    """Returns what the test has put there; in `at_tick` from its tick."""

    wanted: Any = None
    at_tick: Any = ()

    def apply(self, meta: CommandMeta, command: Any, state: list[Any]) -> Any:
        """As told, for the command "return" and for timers."""
        if command == "return" or isinstance(command, Timeout):
            return self.wanted
        return super().apply(meta, command, state)

    def tick(self, now_ms: int, state: list[Any]) -> Any:
        """As told."""
        return self.at_tick


@pytest.mark.parametrize(
    "wanted", ["ab", "abc", [0, 1], (), (0,), (0, 1, None, None), None, 7, {"a": 1, "b": 2}]
)
@pytest.mark.parametrize("builtin", [False, True])
def test_what_is_no_tuple_of_two_or_three_is_no_result(wanted: Any, builtin: bool) -> None:
    """A string of two letters would become the state and the reply, on all members, in silence."""
    machine = Returning()
    machine.wanted = wanted
    cluster = CoreCluster("a", machine=machine)
    cluster.elect("a")
    if builtin:
        cluster["a"].handle(MachineTimeout("t"))
    else:
        cluster.command("a", "return")
    with pytest.raises(
        MachineFault, match=r"Returning.apply at index 2.*neither \(state, reply\) nor"
    ) as fault:
        cluster.settle()
    assert fault.value.index == 2
    server = cluster.server("a")
    assert (server.last_applied, server.machine_state) == (1, [])


SURROGATE = "\ud800"
NO_ENCODING = [
    (SendMsg(CLIENT, object()), "SendMsg holds what msgpack cannot encode"),
    (SendMsg(CLIENT, SURROGATE), "SendMsg holds"),
    (SendMsg(CLIENT, [2**70]), "SendMsg holds"),
    (Append(object()), "Append holds"),
    (TryAppend({"a": object()}), "TryAppend holds"),
    (ModCall("f", [object()]), "ModCall holds"),
    (Timer(SURROGATE, after_ms=1), "Timer holds"),
    (Timer(5, after_ms=1), "the name of a Timer is not a str: 5"),  # type: ignore[arg-type]
    (["no effect"], "not an effect: str"),
]


@pytest.mark.parametrize(("effect", "text"), NO_ENCODING)
def test_an_effect_without_an_encoding_is_a_fault_of_the_machine_on_every_member(
    effect: Any, text: str
) -> None:
    """Each member stops at the same entry and names machine, effect and entry, so that it can be skipped."""
    machine = Returning()
    machine.wanted = ([], None, [Aux(1), [effect]])
    cluster = CoreCluster("a", "b", machine=machine)
    cluster.elect("a")
    cluster.command("a", "return")
    text = f"Returning.apply at index 2: {text}"
    with pytest.raises(MachineFault, match=text) as leaders:
        cluster.settle()
    commit = AppendEntriesRpc(Term(1), cluster["a"].id, Index(2), Index(2), Term(1), ())
    with pytest.raises(MachineFault, match=text) as followers:
        cluster["b"].handle(commit)
    assert leaders.value.index == followers.value.index == 2
    assert [cluster.server(name).last_applied for name in "ab"] == [1, 1]


def test_a_callback_that_asks_for_what_is_no_effect_names_itself() -> None:
    """No entry is to blame for it, and none may be skipped: the error has no index, but says where it was."""
    machine = Returning()
    cluster = CoreCluster("a", machine=machine)
    cluster.elect("a")
    machine.at_tick = SendMsg(CLIENT, object())
    with pytest.raises(MachineFault, match=r"Returning\.tick, after index 1: SendMsg holds") as fault:
        cluster["a"].handle(Tick(1))
    assert fault.value.index is None


def test_a_replay_does_not_look_at_effects_that_nobody_performs() -> None:
    """Entries that an older release has applied stay applied; what they asked for may be lost anyway."""
    machine = Returning()
    machine.wanted = ([], None, SendMsg(CLIENT, 1))
    cluster = CoreCluster("a", machine=machine)
    cluster.elect("a")
    cluster.command("a", "return")
    cluster.settle()
    machine.wanted = ([], None, SendMsg(CLIENT, object()))
    cluster["a"].remember_applied()
    cluster["a"].restart()
    assert cluster.server("a").last_applied == 2


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


class Adder(Machine[int]):
    """Adds numbers, singly or in runs of which some end early. `calls` says how it was asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def init(self, args: dict[str, Any]) -> int:
        """Zero."""
        return 0

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
        """Add. A hundred is too much; a tenth entry asks for a message; a zero is answered later."""
        if command == 100:
            raise ValueError("too much")
        effects = [SendMsg(meta.origin, meta.index)] if not meta.index % 10 else []
        return state + command, (state + command if command else LATER), effects

    def apply_many(self, meta: RunMeta, commands: list[Any], state: int, replies: list[Any]) -> Any:
        """Likewise."""
        self.calls.append(len(commands))
        effects: list[Any] = []
        for offset, command in enumerate(commands):
            state, reply, effects = self.apply(meta.at(offset), command, state)
            replies.append(reply)
            if effects or reply is LATER:
                break
        return state, effects


def adders(*, in_runs: bool) -> tuple[CoreCluster, Adder]:
    """A leader of two whose members apply in runs, or singly."""
    machine = Adder() if in_runs else singly(Adder())
    assert isinstance(machine, Adder)
    cluster = CoreCluster("a", "b", machine=machine)
    cluster.elect("a")
    return cluster, machine


@pytest.mark.parametrize("commands", [[1] * 30, [0, 1, 1, 0, 0, 2], [1] * 1_300, [5, 6], [0, 0]])
def test_runs_give_the_answers_and_effects_of_single_commands(commands: list[int]) -> None:
    """Replies, later replies, effects and states are those of `apply`; a run has at most 512 commands."""
    found = []
    for in_runs in (True, False):
        cluster, machine = adders(in_runs=in_runs)
        cluster.command("a", *commands)
        cluster.settle()
        found.append(
            (
                [(answer.first_correlation, answer.replies) for answer in cluster.answers],
                [cluster[name].machine_effects for name in "ab"],
                [cluster.server(name).machine_state for name in "ab"],
                [cluster.server(name).last_applied for name in "ab"],
            )
        )
        assert bool(machine.calls) is in_runs
        assert max(machine.calls, default=0) <= RUN_COMMANDS_MAX
    assert found[0] == found[1]


def test_single_commands_are_applied_by_apply() -> None:
    """One command needs no run."""
    cluster, machine = adders(in_runs=True)
    cluster.command("a", 5)
    cluster.settle()
    assert (machine.calls, cluster.replies()) == ([], [5])


def test_a_run_that_raises_names_the_entry() -> None:
    """An operator must know which entry to leave out; the members' machines have that entry in common."""
    cluster, _ = adders(in_runs=True)
    cluster.command("a", *[1] * 12, 100, 1)  # behind the noop, the thirteenth is entry 14
    with pytest.raises(MachineFault, match=r"Adder\.apply_many raised at index 14: ValueError") as fault:
        cluster.settle()
    assert fault.value.index == 14


def test_an_entry_that_is_left_out_is_left_out_of_its_run() -> None:
    """With `skipped` entries the machine is asked for single commands: the others are applied as ever."""
    machine = Adder()
    cluster = CoreCluster("a", machine=machine, settings={"skipped": frozenset({4})})
    cluster.elect("a")
    cluster.command("a", 1, 1, 100, 1)
    cluster.settle()
    assert (cluster.replies(), machine.calls) == ([1, 2, None, 3], [])


@pytest.mark.parametrize("answers", [0, 3])
def test_a_run_must_give_a_reply_to_each_command_that_it_applies(answers: int) -> None:
    """A machine that applies nothing would be asked again and again; one that answers too much is wrong."""

    class Wrong(Adder):
        def apply_many(self, meta: RunMeta, commands: list[Any], state: int, replies: list[Any]) -> Any:
            replies += [0] * answers
            return state, ()

    cluster = CoreCluster("a", machine=Wrong())
    cluster.elect("a")
    cluster.command("a", 1, 2)
    with pytest.raises(MachineFault, match=f"{answers} replies to 2 commands"):
        cluster.settle()
