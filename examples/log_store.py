"""Large values that stay in the log: the state holds only where each one is, and so do snapshots.

`live_indexes` tells Barque which entries a snapshot still needs; they survive it. Reading a key is two steps:
the aux machine of a member looks the index up, and reads the entry from the member's own log.
"""

import asyncio
from typing import Any

import msgspec
from three_nodes import three_nodes

import barque


class Put(msgspec.Struct, array_like=True, tag="put"):
    """Keep a value under a key."""

    key: str
    value: bytes


class LogStore(barque.Machine[dict[str, int]]):
    """The index of the newest value of each key."""

    command_type = Put

    def init(self, args: dict[str, Any]) -> dict[str, int]:
        """No keys."""
        return {}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, int]) -> Any:
        """Remember where the value is; now and then, a snapshot may be made."""
        match command:
            case Put(key, _):
                state[key] = meta.index
                wish = [barque.ReleaseCursor(meta.index, state)] if meta.index % 64 == 0 else []
                return state, meta.index, wish
            case _:
                return state, None

    def live_indexes(self, state: dict[str, int]) -> list[barque.Index]:
        """The entries that hold values which somebody may still read."""
        return [barque.Index(index) for index in sorted(state.values())]

    def handle_aux(
        self, raft_state: str, kind: barque.AuxKind, command: Any, aux: Any, member: barque.Member
    ) -> barque.AuxResult:
        """A client asks for a key: read its entry back from the log."""
        index = member.machine_state.get(command) if kind is barque.AuxKind.CALL else None
        found = member.read_commands([index]) if index is not None else []
        return barque.AuxResult(aux, found[0].value if found else None)


async def main() -> None:
    """Overwrite one key many times; another one, from the beginning, is still there."""
    async with three_nodes(store=LogStore()) as (client, _):
        store = client.cluster("store")
        await store.process_command(Put("first", b"written at the beginning"))
        for number in range(200):
            await store.process_command(Put("last", b"%d" % number))
        print("last:", await store.aux_command("last", consistent=True))
        print("first:", await store.aux_command("first", consistent=True))
        print("absent:", await store.aux_command("absent", consistent=True))


if __name__ == "__main__":
    asyncio.run(main())
