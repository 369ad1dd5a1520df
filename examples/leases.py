"""Leases: a name belongs to somebody until a time, unless it is renewed. Time comes from the log."""

import asyncio
from typing import Any

from three_nodes import three_nodes

import barque


class Leases(barque.Replicated):
    """Who has what, and until when."""

    owners: dict[str, str] = {}
    until_ms: dict[str, int] = {}

    @barque.command
    def take(self, meta: barque.CommandMeta, effects: barque.Effects, name: str, owner: str, ms: int) -> bool:
        """Take a lease that is free, or renew one's own."""
        if self.owners.setdefault(name, owner) != owner:
            return False
        self.until_ms[name] = meta.system_time_ms + ms
        effects.append(barque.Timer(name, at_ms=self.until_ms[name]))
        return True

    @barque.query
    def owner(self, name: str) -> str | None:
        """Who has it now."""
        return self.owners.get(name)

    def on_event(self, event: Any, meta: barque.CommandMeta, effects: barque.Effects) -> None:
        """A lease ends when its time has come."""
        if isinstance(event, barque.Timeout) and self.until_ms.get(event.name, 0) <= meta.system_time_ms:
            del self.owners[event.name], self.until_ms[event.name]

    def on_state_enter(self, raft_state: str) -> list[barque.MachineEffect]:
        """A new leader sets the timers again."""
        leads = raft_state == "leader"
        return [barque.Timer(name, at_ms=at) for name, at in self.until_ms.items()] if leads else []


async def main() -> None:
    """A lease is refused to another owner, and is free again after its time."""
    async with three_nodes(leases=Leases) as (client, _):
        leases = client.cluster("leases").object(Leases)
        print("ann:", await leases.call(Leases.take, "reports", "ann", 300))
        print("bob:", await leases.call(Leases.take, "reports", "bob", 300))
        while await leases.call(Leases.owner, "reports") is not None:  # noqa: ASYNC110  # others do the same
            await asyncio.sleep(0.05)
        print("bob:", await leases.call(Leases.take, "reports", "bob", 300))


if __name__ == "__main__":
    asyncio.run(main())
