"""Locks that end with their holder: the machine watches the client that holds one, and tells who is next."""

import asyncio
from typing import Any

import msgspec
from three_nodes import SECRET, three_nodes

import barque


class Acquire(msgspec.Struct, array_like=True, tag="acquire"):
    """Ask for a lock; whoever has to wait hears of it when it is free."""

    name: str
    who: barque.Pid


class Lock(msgspec.Struct):
    """Who has a lock, and who waits for it."""

    holder: barque.Pid
    waiting: list[barque.Pid]


class Locks(barque.Machine[dict[str, Lock]]):
    """Locks by name."""

    command_type = Acquire

    def init(self, args: dict[str, Any]) -> dict[str, Lock]:
        """No lock is held."""
        return {}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, Lock]) -> Any:
        """Give the lock to the first who asks, and to the next when that one is gone."""
        match command:
            case Acquire(name, who):
                lock = state.setdefault(name, Lock(who, []))
                if lock.holder != who:
                    lock.waiting.append(who)
                return state, lock.holder == who, barque.MonitorProcess(who)
            case barque.Down(gone, _):
                return state, None, [self._leave(name, gone, state) for name in list(state)]
            case _:
                return state, None

    def _leave(self, name: str, gone: barque.Pid, state: dict[str, Lock]) -> list[Any]:
        lock = state[name]
        lock.waiting = [who for who in lock.waiting if who != gone]
        if lock.holder != gone:
            return []
        if not lock.waiting:
            del state[name]
            return []
        lock.holder = lock.waiting.pop(0)
        return [barque.SendMsg(lock.holder, f"you have {name}")]

    def state_enter(self, raft_state: str, state: dict[str, Lock]) -> Any:
        """Watch everybody again: monitors end with the leadership that set them."""
        if raft_state != "leader":
            return []
        everybody = [who for lock in state.values() for who in (lock.holder, *lock.waiting)]
        return [barque.MonitorProcess(who) for who in dict.fromkeys(everybody)]


async def main() -> None:
    """Two clients want a lock; the first one leaves without a word."""
    async with three_nodes(locks=Locks()) as (_, nodes):
        first = barque.Client(list(nodes.values()), secret=SECRET)
        await first.connect()
        async with barque.Client(list(nodes.values()), secret=SECRET) as second:
            print("first:", await first.process_command("locks", Acquire("backup", await first.pid())))
            print("second:", await second.process_command("locks", Acquire("backup", await second.pid())))
            await first.close()
            async for _, message in second.machine_events():
                print("second hears:", message)
                break


if __name__ == "__main__":
    asyncio.run(main())
