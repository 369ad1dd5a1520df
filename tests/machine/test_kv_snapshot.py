"""Captures of the key-value state: consistent while commands go on, and restored to go on alike."""

import copy
import gc
import threading
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from barque.machine import kv_commands as kv, kv_snapshot, kv_state
from barque.machine.effects import ReleaseCursor, Timer
from barque.machine.kv import KvMachine
from barque.machine.kv_snapshot import KvCapture
from barque.machine.kv_state import KvState
from barque.machine.machine import CommandMeta, Timeout
from barque.types import NOBODY, Index, ReplyMode, Term

MACHINE = KvMachine()
INTERVAL = KvMachine.release_interval


def meta(index: int, at_ms: int) -> CommandMeta:
    """Where and when a command stands."""
    return CommandMeta(Index(index), Term(1), 1, at_ms, NOBODY, ReplyMode.AWAIT_CONSENSUS)


def facts(state: KvState) -> list[Any]:
    """All that belongs to the state."""
    apart = ("scan_index", "captures")
    return [(name, copy.deepcopy(getattr(state, name))) for name in KvState.__slots__ if name not in apart]


def restored(capture: Any) -> KvState:
    """The state of a capture."""
    return MACHINE.restore(iter(capture), {})


keys = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
values = st.binary(max_size=6) | st.sampled_from([b"1", b"-7", b"2.5", bytes(100)])
times = st.none() | st.integers(-5, 60)
commands = st.one_of(
    st.builds(kv.Set, keys, values),
    st.builds(kv.SetWith, keys, values, st.integers(0, 15), st.none() | st.integers(1, 40)),
    st.builds(kv.Del, st.lists(keys, max_size=3).map(tuple)),
    st.builds(kv.Append, keys, values),
    st.builds(kv.IncrBy, keys, st.integers(-3, 3)),
    st.builds(kv.Expire, keys, st.integers(-5, 60), st.integers(0, 8)),
    st.builds(kv.Persist, keys),
    st.builds(kv.GetDel, keys),
    st.builds(kv.Rename, keys, keys),
    st.builds(kv.Copy, keys, keys, st.booleans()),
    st.builds(kv.FlushAll),
    st.just(Timeout("expire")),
)
steps = st.lists(st.tuples(commands, st.integers(0, 20)), max_size=25)


class Life:
    """A machine's state under a sequence of commands."""

    def __init__(self, state: KvState | None = None, index: int = 1000, now_ms: int = 1000) -> None:
        self.state = state if state is not None else MACHINE.init({})
        self.index = index
        self.now_ms = now_ms

    def do(self, command: Any, later_ms: int) -> tuple[Any, list[Any]]:
        """Apply a command; the reply and the effects, without states."""
        self.index += 1
        self.now_ms += later_ms
        _, reply, *effects = MACHINE.apply(meta(self.index, self.now_ms), command, self.state)
        shown = [
            effect if isinstance(effect, Timer) else (type(effect), effect.index)
            for effect in (effects[0] if effects else ())
        ]
        return reply, shown


@settings(max_examples=300, deadline=None)
@given(before=steps, during=steps, after=steps, pause=st.integers(1, 5))
def test_a_capture_is_the_state_at_its_moment(before: Any, during: Any, after: Any, pause: int) -> None:
    """Whatever commands run between its pieces; and the restored state goes on as the captured one did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_snapshot, "_FRAME_BYTES", 20)  # a frame for each key or two
        patch.setattr(kv_state, "RECENT_BYTES", 800)  # generations of eight changes
        life = Life()
        for command, later in before:
            life.do(command, later)
        expected = facts(life.state)
        twin = Life(copy.deepcopy(life.state), life.index, life.now_ms)
        pieces, source = [], iter(MACHINE.capture(life.state))
        others = list(during)
        ended = False
        while not ended:
            for _ in range(pause):
                piece = next(source, None)
                if piece is None:
                    ended = True
                    break
                pieces.append(piece)
            if others:
                life.do(*others.pop(0))
        state = restored(pieces)
        assert facts(state) == expected
        again = Life(state, twin.index, twin.now_ms)
        for command, later in after:
            assert again.do(command, later) == twin.do(command, later)
            assert facts(again.state) == facts(twin.state)


def test_captures_of_two_moments_do_not_disturb_each_other() -> None:
    """Each has its own state; when they are gone, a command costs nothing more."""
    life = Life()
    life.do(kv.Set(b"a", b"1"), 0)
    first, expected_first = MACHINE.capture(life.state), facts(life.state)
    life.do(kv.SetWith(b"a", b"2", 0, 50), 0)
    life.do(kv.Set(b"b", b"new"), 0)
    second, expected_second = MACHINE.capture(life.state), facts(life.state)
    life.do(kv.FlushAll(), 0)
    life.do(kv.Set(b"a", b"3"), 0)
    assert facts(restored(second)) == expected_second
    assert facts(restored(first)) == expected_first
    del first, second
    gc.collect()
    life.do(kv.Set(b"a", b"4"), 0)
    assert life.state.captures == []


def test_another_thread_encodes_while_commands_run() -> None:
    """The real arrangement: the loop changes every key while a thread reads."""
    life = Life()
    for number in range(20_000):
        life.state.values[b"key%d" % number] = b"old"
    capture = MACHINE.capture(life.state)
    expected = facts(life.state)
    pieces: list[bytes] = []
    thread = threading.Thread(target=lambda: pieces.extend(capture))
    thread.start()
    for number in range(0, 20_000, 2):
        life.do(kv.Set(b"key%d" % number, b"new"), 0)
        life.do(kv.Del((b"key%d" % (number + 1),)), 0)
        life.do(kv.Set(b"more%d" % number, b"new"), 0)
    thread.join()
    assert facts(restored(pieces)) == expected


def test_a_capture_copies_no_values_and_comes_in_pieces() -> None:
    """Large states never exist twice: a piece has about 256 KiB, and is made when it is asked for."""
    life = Life()
    for number in range(64):
        life.do(kv.Set(b"key%d" % number, bytes(64 * 1024)), 0)
    sizes = [len(piece) for piece in MACHINE.capture(life.state)]
    assert sum(sizes) > 4 << 20
    assert max(sizes) < 330 * 1024


def test_the_machine_offers_its_state_now_and_then() -> None:
    """Once in so many indexes, beside its other effects; the log decides."""
    life = Life(index=INTERVAL - 2)
    assert life.do(kv.Set(b"a", b"1"), 0)[1] == []
    reply, effects = life.do(kv.SetWith(b"a", b"1", 0, 50), 0)
    assert (reply, effects) == (True, [Timer("expire", at_ms=1050), (ReleaseCursor, INTERVAL)])
    assert life.do(kv.Set(b"a", b"1"), 0)[1] == []
    state, _, effects = MACHINE.apply(meta(2 * INTERVAL, 1000), kv.Set(b"b", b"2"), life.state)
    assert effects == (ReleaseCursor(Index(2 * INTERVAL), state),)


def test_the_state_of_a_scan_is_not_captured() -> None:
    """Members may differ in it; a restored machine begins its own."""
    life = Life()
    life.do(kv.Set(b"a", b"1"), 0)
    MACHINE.query(kv.Scan(0), life.state)
    assert life.state.scan_index is not None
    state = restored(KvCapture(life.state))
    assert state.scan_index is None
    assert MACHINE.query(kv.Scan(0), state) == MACHINE.query(kv.Scan(0), life.state)
