"""Settings that programs watch: who subscribes hears of each change."""

import asyncio

from three_nodes import three_nodes

import barque


class Settings(barque.Replicated):
    """Settings by name, and who wants to hear of changes."""

    values: dict[str, str] = {}
    watchers: list[barque.Pid] = []

    @barque.command
    def watch(self, who: barque.Pid) -> dict[str, str]:
        """Subscribe; the answer is what is set now."""
        if who not in self.watchers:
            self.watchers.append(who)
        return dict(self.values)

    @barque.command
    def put(self, effects: barque.Effects, name: str, value: str) -> None:
        """Change a setting, and tell everybody."""
        self.values[name] = value
        effects += [barque.SendMsg(who, [name, value]) for who in self.watchers]


async def main() -> None:
    """Watch, change, hear."""
    async with three_nodes(settings=Settings) as (client, _):
        settings = client.cluster("settings").object(Settings)
        await settings.call(Settings.put, "colour", "red")
        print("now:", await settings.call(Settings.watch, await client.pid()))
        await settings.call(Settings.put, "colour", "blue")
        async for _, message in client.machine_events():
            print("heard:", message)
            break


if __name__ == "__main__":
    asyncio.run(main())
