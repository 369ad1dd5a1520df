"""The machine of core worlds: lists by key, which asks for snapshots."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from barque.machine.effects import Checkpoint, MachineEffect, ReleaseCursor
from barque.machine.machine import Builtin, CommandMeta, Machine
from barque.testing.checkers.digests import Digests
from barque.types import Index


class SnapshotWishes(msgspec.Struct, frozen=True, kw_only=True):
    """How often the machine asks for snapshots, in entries; 0: never. `chunk_bytes`: how they are sent."""

    every: int = 0
    checkpoint_every: int = 0
    promote_every: int = 0
    back: int = 0
    """A checkpoint is promoted only if it is so many entries old."""
    late: bool = False
    """Snapshots are asked for one interval late, as machines do that keep a queue."""
    live_every: int = 0
    """Each entry that this divides survives below snapshots."""
    chunk_bytes: int = 100


class Lists(Machine[dict[str, Any]]):
    """Lists by key: a command `[key, element]` appends and replies with the new length.

    The state holds all that a member can see, such as the machine's time, and goes on being changed in place.
    """

    def __init__(self, wishes: SnapshotWishes) -> None:
        self.wishes = wishes
        self._kept: dict[Index, dict[str, Any]] = {}
        self.digests = Digests(lambda state: state["at"])

    def init(self, args: dict[str, Any]) -> dict[str, Any]:
        """Start without lists."""
        return {"at": 0, "time": 0}

    def apply(self, meta: CommandMeta, command: Any, state: dict[str, Any]) -> Any:
        """Append the element, and perhaps ask for a snapshot."""
        if isinstance(command, Builtin):
            return state, None
        state["at"], state["time"] = meta.index, state["time"] * 31 % 997 + meta.system_time_ms
        found = state.setdefault(command[0], [])
        found.append(command[1])
        return state, len(found), self._wishes(meta.index, state)

    def _wishes(self, index: Index, state: dict[str, Any]) -> list[MachineEffect]:
        wishes, found = self.wishes, list[MachineEffect]()
        if wishes.every and index % wishes.every == 0:
            self.digests.applied(state)
            found += self._release(index, state)
        if wishes.checkpoint_every and index % wishes.checkpoint_every == 0:
            self.digests.applied(state)
            found.append(Checkpoint(index, state))
        if wishes.promote_every and index % wishes.promote_every == 0:
            found.append(ReleaseCursor(Index(max(1, index - wishes.back)), promote=True))
        return found

    def _release(self, index: Index, state: dict[str, Any]) -> list[MachineEffect]:
        """Ask for a snapshot at this entry; or at the one before it at which the machine could have asked."""
        if not self.wishes.late:
            return [ReleaseCursor(index, state)]
        self._kept[index] = msgspec.msgpack.decode(msgspec.msgpack.encode(state))
        before = Index(index - self.wishes.every)
        return [ReleaseCursor(before, self._kept[before])] if before in self._kept else []

    def capture(self, state: dict[str, Any]) -> Iterable[bytes]:
        """Encode it now."""
        return self.digests.capture(state)

    def restore(self, pieces: Iterator[bytes], args: dict[str, Any]) -> dict[str, Any]:
        """Decode it."""
        restored: dict[str, Any] = self.digests.restore(pieces)
        return restored

    def live_indexes(self, state: dict[str, Any]) -> Sequence[Index]:
        """Every so many entries one survives."""
        every = self.wishes.live_every
        return [Index(i) for i in range(every, state["at"] + 1, every)][-3:] if every else ()

    def query(self, query: Any, state: dict[str, Any]) -> Any:
        """Return the list under this key."""
        return list(state.get("k", ()))
