"""What a snapshot holds: the machine's state and all that `apply` can see, as of one entry (SNAP-03, K2).

A machine may change its state in place, and a batch goes on being applied after the command that asked for a
snapshot. So the state is captured at the moment of the effect, before the next command. The store writes the
capture later, in another thread.
"""

import enum
from typing import Any, TypeVar

import msgspec

from barque.core.configuration import configuration_at
from barque.core.log_contract import Capture, SnapshotKind, SnapshotMeta
from barque.core.state import Server
from barque.errors import MachineFault
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.machine.machine import bound_module
from barque.types import Index, IndexTerm

Wish = TypeVar("Wish", bound=ReleaseCursor | Checkpoint)


class NotDue(enum.Enum):
    """What takes the place of a state that need not be kept now."""

    NOT_DUE = "not due"


class Captured(msgspec.Struct, frozen=True, gc=False):
    """A state as it was at `meta.position`. `live` are the entries that it needs of the log (MAC-12)."""

    meta: SnapshotMeta
    pieces: Capture
    live: tuple[Index, ...]


def capture_effect(server: Server, effect: Wish, applied: Index) -> Wish:
    """The same wish with the state captured now, after entry `applied`; without one if no snapshot is due."""
    if isinstance(effect.state, (Captured, NotDue)) or (isinstance(effect, ReleaseCursor) and effect.promote):
        return effect
    kind = SnapshotKind.SNAPSHOT if isinstance(effect, ReleaseCursor) else SnapshotKind.CHECKPOINT
    kept = capture(server, kind, effect.index, effect.state, applied)
    return msgspec.structs.replace(effect, state=NotDue.NOT_DUE if kept is None else kept)


def capture(server: Server, kind: SnapshotKind, index: Index, state: Any, applied: Index) -> Captured | None:
    """The state at an entry that is applied; None if it is not, or is gone, or no snapshot is due there."""
    if not 0 < index <= applied or not server.log.snapshots.wants(kind, index):
        return None
    meta = meta_at(server, index, applied)
    if meta is None:
        return None
    machine, module = server.machine, None
    try:
        module = bound_module(machine, server.cfg.machine_args)
        pieces: Capture = machine.capture(state) if module is None else module.prepare(meta.position, state)
        return Captured(meta, pieces, tuple(machine.live_indexes(state)))
    except Exception as error:
        if module is not None:
            raise MachineFault(f"{module}: prepare at index {index}: {error!r}") from error
        raise MachineFault(
            f"{type(machine).__name__} cannot capture its state at index {index}: {error!r}. A state that "
            "msgspec cannot encode needs its own `capture` and `restore`"
        ) from error


def meta_at(server: Server, index: Index, applied: Index) -> SnapshotMeta | None:
    """What a snapshot at this entry stands for. None if what was in force there is no longer known."""
    term = server.log.fetch_term(index)
    members, version = configuration_at(server, index), version_at(server, index)
    time_ms = time_at(server, index, applied)
    if term is None or members is None or version is None or time_ms is None:
        return None
    return SnapshotMeta(IndexTerm(index, term), members, version, time_ms)


def version_at(server: Server, index: Index) -> int | None:
    """VER-08: the machine version that was in force at this entry; None below where we began."""
    for since, version in reversed(server.machine_versions):
        if since <= index:
            return version
    return None


def time_at(server: Server, index: Index, applied: Index) -> int | None:
    """The machine's time after this entry, in Unix ms (K1): the newest timestamp up to it."""
    if index == applied:
        return server.machine_time_ms
    for since, time_ms in reversed(server.time_marks):
        if since <= index:
            entry = server.log.read(index, index, 1, 1)
            return max(time_ms, entry[0].timestamp_ms) if entry else None
    return None


def note_time(server: Server, index: Index) -> None:
    """Remember the machine's time at entry `index`, whose own timestamp is older and does not tell it."""
    marks, begun = server.time_marks, server.log.snapshot_index_term().index
    marks.append((index, server.machine_time_ms))
    while len(marks) > 1 and marks[1][0] <= begun:
        del marks[0]
