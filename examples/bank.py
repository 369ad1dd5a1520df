"""Accounts that never go below zero, whatever clients do at the same time."""

import asyncio

from three_nodes import three_nodes

import barque


class Bank(barque.Replicated):
    """Balances by name."""

    balances: dict[str, int] = {}

    @barque.command
    def pay_in(self, name: str, amount: int) -> int:
        """Add to an account; the answer is its balance."""
        self.balances[name] = self.balances.get(name, 0) + amount
        return self.balances[name]

    @barque.command
    def transfer(self, source: str, target: str, amount: int) -> None:
        """Move money, or fail and change nothing."""
        if self.balances.get(source, 0) < amount:
            raise barque.CommandFailed(f"{source} has {self.balances.get(source, 0)}")
        self.balances[source] -= amount
        self.pay_in(target, amount)

    @barque.query
    def total(self) -> int:
        """All money there is."""
        return sum(self.balances.values())


async def main() -> None:
    """Many transfers at once; no money appears or is lost."""
    async with three_nodes(bank=Bank) as (client, _):
        bank = client.cluster("bank").object(Bank)
        await bank.call(Bank.pay_in, "ann", 10)
        tries = (bank.call(Bank.transfer, "ann", "bob", 3) for _ in range(5))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, barque.CommandFailed)]
        print(f"{len(outcomes) - len(failures)} transfers, {len(failures)} failed: {failures[0]}")
        print("in all:", await bank.call(Bank.total))


if __name__ == "__main__":
    asyncio.run(main())
