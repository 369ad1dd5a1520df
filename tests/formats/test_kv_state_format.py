"""Golden bytes of the key-value state, and what is refused (docs/formats/kv-state.md)."""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from barque.machine import kv_commands as kv
from barque.machine.kv import KvMachine
from barque.machine.kv_state import KvState
from barque.machine.machine import CommandMeta
from barque.types import NOBODY, Index, ReplyMode, Term

STATE = bytes.fromhex(
    "150000009c01cd03efcd03ef0107ce00fffc730201030204011a0000009393c40161c40131c093c40162c40132cd05e093c4"
    "0163c400c00f0000009292cd0519c4016392cd05e0c40162150000009492c401610392c401620492c401630792c401640708"
    "0000009192c4036f6c6402"
)


def golden_state() -> KvState:
    """Keys with and without expiry, a stale pair of the heap, both generations of changes, an armed timer."""
    machine = KvMachine()
    state = machine.init({})
    for index, command in enumerate(
        (
            kv.Set(b"a", b"1"),
            kv.SetWith(b"b", b"2", 0, 500),
            kv.SetWith(b"c", b"", 0, 300),
            kv.SetWith(b"d", b"gone", 0, 1),
            kv.Persist(b"c"),
        ),
        3,
    ):
        meta = CommandMeta(Index(index), Term(1), 1, 1000 + index, NOBODY, ReplyMode.NOREPLY)
        machine.apply(meta, command, state)
    state.older = {b"old": 2}
    state.rotated, state.floor = 2, 1
    return state


def facts(state: KvState) -> list[Any]:
    """All that belongs to the state."""
    apart = ("scan_index", "captures")
    return [(name, getattr(state, name)) for name in KvState.__slots__ if name not in apart]


def restored(data: bytes) -> KvState:
    """The state of these bytes."""
    return KvMachine().restore(iter([data]), {})


def test_the_state_is_as_it_always_was() -> None:
    """Golden bytes, both ways, in pieces of any size."""
    state = golden_state()
    assert b"".join(KvMachine().capture(state)) == STATE
    assert facts(restored(STATE)) == facts(state)
    for size in (1, 3, 50):
        pieces = iter([STATE[at : at + size] for at in range(0, len(STATE), size)])
        assert facts(KvMachine().restore(pieces, {})) == facts(state)


def test_every_cut_and_addition_is_refused() -> None:
    """Also a cut between two frames."""
    for end in range(len(STATE)):
        with pytest.raises(ValueError, match="state"):
            restored(STATE[:end])
    with pytest.raises(ValueError, match="does not end where it should"):
        restored(STATE + b"\0")


def frames_of(data: bytes) -> Iterator[Any]:
    """The values of the frames."""
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        yield msgspec.msgpack.decode(data[offset + 4 : offset + 4 + length])
        offset += 4 + length


def bytes_of(frames: list[Any]) -> bytes:
    """Frames as bytes."""
    encoded = [msgspec.msgpack.encode(frame) for frame in frames]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


@pytest.mark.parametrize(
    ("frame", "content", "reason"),
    [
        (0, [2, 0, None, 0, 0, 0, 0, 0, 0, 0, 0, 0], "format 2"),
        (0, [1, 0], "cannot be decoded"),
        (1, [], "0 items"),
        (1, [[b"a", b"", None]] * 4, "4 items"),
        (1, [[b"a", b"", None]] * 3, "does not end"),
        (1, [["text", b"", None]] * 3, "cannot be decoded"),
        (2, [[b"a", b"", None]], "cannot be decoded"),
    ],
)
def test_other_frames_are_refused(frame: int, content: Any, reason: str) -> None:
    """A later format, another shape, another count, a key twice."""
    frames = list(frames_of(STATE))
    assert bytes_of(frames) == STATE
    frames[frame] = content
    with pytest.raises(ValueError, match=reason):
        restored(bytes_of(frames))
