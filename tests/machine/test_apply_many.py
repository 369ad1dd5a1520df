"""`Machine.apply_many`: what a run of commands does is what `apply` does, one after the other."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from tests.simulation.users import Counter

from barque.bench.machine import BenchMachine
from barque.errors import InvalidCommand
from barque.machine import kv_commands as kv
from barque.machine.effects import LATER, Checkpoint, ReleaseCursor, Timer
from barque.machine.kv import KvMachine, KvMachineV0
from barque.machine.kv_state import KvState
from barque.machine.machine import CommandMeta, Machine, RunMeta, apply_many_of
from barque.machine.skipping import skipping
from barque.testing.determinism import NotDeterministic, check_machine
from barque.testing.sim.redis_machine import SimKvMachine, SimKvState
from barque.types import ClientRef, Index, ReplyMode, Term

ME = ClientRef("n1", 7)
KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from([b"", b"1", b"x", b"22"])
TIMES = st.sampled_from([1, 3, 9, None])
PLAIN = st.one_of(
    st.builds(kv.Set, KEYS, VALUES),
    st.builds(kv.Append, KEYS, VALUES),
    st.builds(kv.IncrBy, KEYS, st.integers(-2, 2)),
    st.builds(kv.SetWith, KEYS, VALUES, st.integers(0, 15), TIMES),
    st.builds(kv.Expire, KEYS, st.sampled_from([0, 2, 5])),
    st.builds(kv.Persist, KEYS),
    st.builds(kv.GetDel, KEYS),
    st.builds(kv.Rename, KEYS, KEYS, st.booleans()),
    st.builds(kv.FlushAll),
)
COMMANDS = st.one_of(
    PLAIN,
    st.builds(
        kv.Transaction,
        st.lists(st.tuples(KEYS, st.integers(0, 30)), max_size=1),
        st.lists(st.builds(kv.Set, KEYS, VALUES), max_size=2),
    ),
)


class Offers(KvMachine):
    """Offers its state often, so that runs are cut there."""

    release_interval = 5

    def init(self, args: dict[str, Any]) -> KvState:
        """Start with a state that can be compared."""
        return SimKvState()


class OffersV0(KvMachineV0, Offers):
    """The same while version 0 is in force."""


def meta_of(first: int, time_ms: int) -> RunMeta:
    """Return where a run stands that begins at this index."""
    return RunMeta(Index(first), Term(3), 1, time_ms, ME, ReplyMode.AWAIT_CONSENSUS, first + 100)


def shown(effects: Any, state: KvState) -> list[Any]:
    """Return effects, with a sign of the state in the place of the state."""
    offers = [e for e in effects if isinstance(e, ReleaseCursor)]
    assert all(offer.state is state for offer in offers)
    return [msgspec.structs.replace(e, state=str(state)) if e in offers else e for e in effects]


@pytest.mark.parametrize("machine", [Offers(), OffersV0()])
@given(
    batches=st.lists(st.tuples(st.lists(COMMANDS, min_size=1, max_size=12), st.integers(0, 4)), max_size=5)
)
def test_runs_of_the_key_value_machine_do_what_single_commands_do(
    machine: Offers, batches: list[tuple[list[Any], int]]
) -> None:
    """Replies, effects with their entries and states are the same, for all commands and in both versions."""
    singly, in_runs = machine.init({}), machine.init({})
    first, time_ms = 1, 0
    for commands, passed_ms in batches:
        time_ms += passed_ms
        done = 0
        while done < len(commands):
            replies: list[Any] = []
            meta = meta_of(first + done, time_ms)
            in_runs, effects = machine.apply_many(meta, commands[done:], in_runs, replies)
            assert replies
            for offset, reply in enumerate(replies):
                asked = shown(effects, in_runs) if offset == len(replies) - 1 else []
                singly, wanted, *more = machine.apply(meta.at(offset), commands[done + offset], singly)
                assert (reply, asked) == (wanted, shown(more[0], singly) if more else [])
            assert in_runs == singly
            done += len(replies)
        first += len(commands)


def test_a_run_of_the_key_value_machine_ends_where_it_asks_for_effects() -> None:
    """The state is offered at its own entry, and a timer belongs to the command that needs it."""
    machine = Offers()
    commands = [kv.Set(b"a", b"1"), kv.SetWith(b"b", b"1", ttl_ms=5), kv.Set(b"c", b"1"), kv.Set(b"d", b"1")]
    state, replies = machine.init({}), list[Any]()
    assert machine.apply_many(meta_of(2, 10), commands, state, replies) == (
        state,
        (Timer("expire", at_ms=15),),
    )
    assert replies == [True, True]
    assert machine.apply_many(meta_of(4, 10), commands[2:], state, replies) == (
        state,
        (ReleaseCursor(5, state),),
    )
    assert (len(replies), state.index) == (4, 5)


def test_an_unknown_command_raises_where_it_stands() -> None:
    """The replies so far tell which command it was."""
    replies: list[Any] = []
    commands = [kv.Set(b"a", b"1"), "what?", kv.Set(b"b", b"1")]
    with pytest.raises(InvalidCommand, match="str"):
        KvMachine().apply_many(meta_of(1, 0), commands, KvState(), replies)
    assert replies == [True]


def test_a_run_tells_what_a_single_command_would_be_told() -> None:
    """Each command's place, its waiting caller and its random numbers are those of a single command."""
    alone = CommandMeta(Index(12), Term(3), 1, 50, ME, ReplyMode.AWAIT_CONSENSUS, 112)
    found = meta_of(10, 50).at(2)
    assert found == alone
    assert (found.reply_from, found.random.random()) == (alone.reply_from, alone.random.random())


class Runs(Counter):
    """Counts in runs too."""

    def apply_many(self, meta: RunMeta, commands: Any, state: Any, replies: Any) -> Any:
        """Apply one after the other."""
        for offset, command in enumerate(commands):
            state, reply = self.apply(meta.at(offset), command, state)[:2]
            replies.append(reply)
        return state, ()


class Other(Runs):
    """Its `apply` is newer than its `apply_many`."""

    def apply(self, meta: CommandMeta, command: Any, state: Any) -> Any:
        """See `Counter`."""
        return super().apply(meta, command, state)


def test_apply_many_counts_only_if_it_knows_of_the_apply_in_force() -> None:
    """A subclass that defines `apply` alone, or an operator who skips an entry, must not be passed over."""
    assert apply_many_of(Counter()) is None
    runs = Runs()
    assert apply_many_of(runs) == runs.apply_many
    assert apply_many_of(Other()) is None
    assert apply_many_of(skipping(Runs(), {3})) is None
    assert apply_many_of(SimKvMachine(lambda _meta, _text: None)) is not None


class Forgets(Runs):
    """Does something else from the second command of a run on."""

    def apply_many(self, meta: RunMeta, commands: Any, state: Any, replies: Any) -> Any:
        """Forget what came before."""
        return super().apply_many(meta, commands, self.init({}), replies)


class Effectful(Machine[int]):
    """Asks for effects with each third command, and answers each fifth later; `in_runs` says how well."""

    keeps_effects = True
    ends_runs = True

    def init(self, args: dict[str, Any]) -> int:
        """Zero."""
        return 0

    def apply(self, meta: CommandMeta, command: Any, state: int) -> Any:
        """Count."""
        effects = (
            [Checkpoint(meta.index, state), [Timer("t", after_ms=meta.index)]] if not meta.index % 3 else []
        )
        return state + 1, (state if meta.index % 5 else LATER), effects

    def apply_many(self, meta: RunMeta, commands: Any, state: int, replies: Any) -> Any:
        """Apply one after the other."""
        effects = []
        for offset, command in enumerate(commands):
            state, reply, effects = self.apply(meta.at(offset), command, state)
            replies.append(reply)
            if (effects or reply is LATER) and self.ends_runs:
                break
        return state, effects if self.keeps_effects else ()


class Drops(Effectful):
    """Loses effects."""

    keeps_effects = False


class GoesOn(Effectful):
    """Applies on after a command with effects."""

    ends_runs = False


class Idle(Effectful):
    """Applies nothing."""

    def apply_many(self, meta: RunMeta, commands: Any, state: int, replies: Any) -> Any:
        """Do nothing."""
        return state, ()


@pytest.mark.parametrize("machine", [Runs, BenchMachine, Effectful])
def test_the_kit_accepts_good_runs(machine: type[Machine[Any]]) -> None:
    """A machine that does the same in runs is deterministic, wherever they are cut."""
    assert check_machine(machine, list("abcabcabcabcabc"), other_processes=False) == 15


@pytest.mark.parametrize("machine", [Forgets, Drops, GoesOn, Idle])
def test_the_kit_finds_bad_runs(machine: type[Machine[Any]]) -> None:
    """A machine that does something else in runs is refused, with the run and both outcomes."""
    with pytest.raises(NotDeterministic, match=f"{machine.__name__}.apply_many does not do what"):
        check_machine(machine, list("abcabcabcabcabc"), other_processes=False)
