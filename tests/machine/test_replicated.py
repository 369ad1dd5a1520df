"""Machines from classes: commands, reads, failures, effects, snapshots and versions, on nodes and by hand."""

import asyncio
import threading
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from tests.nodes import nodes, until

import barque
from barque.client.objects import encoded
from barque.machine.machine import Timeout


class Bank(barque.Replicated):
    """Accounts that never go below zero."""

    accounts: dict[str, int] = {}  # noqa: RUF012  # msgspec copies it
    alarms: int = 0

    @barque.command
    def deposit(self, name: str, amount: int = 1) -> int:
        """Add to an account, which need not exist."""
        self.accounts[name] = self.accounts.get(name, 0) + amount
        return self.accounts[name]

    @barque.command
    def withdraw(self, name: str, amount: int) -> int:
        """Take from an account."""
        if self.accounts[name] < amount:
            raise barque.CommandFailed(f"{name} has {self.accounts[name]}")
        return self.deposit(name, -amount)

    @barque.command
    def stamp(self, meta: barque.CommandMeta, effects: barque.Effects, after_ms: int) -> int:
        """Set a timer; the reply is the entry's index."""
        effects.append(barque.Timer("alarm", after_ms=after_ms))
        return meta.index

    @barque.command
    def break_down(self) -> None:
        """A bug."""
        raise RuntimeError("a bug")

    @barque.query
    def total(self) -> int:
        """The sum of all accounts."""
        return sum(self.accounts.values())

    @barque.query
    def balance(self, name: str) -> int:
        """One account."""
        return self.accounts[name]

    @barque.query
    def alarms_heard(self) -> int:
        """How often a timer expired."""
        return self.alarms

    def on_event(self, event: Any, meta: barque.CommandMeta, effects: barque.Effects) -> None:
        """Count timers."""
        self.alarms += isinstance(event, Timeout)

    def facts(self) -> dict[str, Any]:
        """How many accounts there are."""
        return {"accounts": len(self.accounts)}


async def test_methods_are_commands_and_reads_of_a_cluster(tmp_path: Path) -> None:
    """Commands and queries go by method, with defaults and names; answers have the types of the methods."""
    async with nodes(tmp_path, 1) as made:
        await made.stop()
        await made.start(machines={"bank": Bank})
        async with made.client() as client:
            await client.start_cluster("bank", "bank", arguments={"accounts": {"ann": 5}})
            bank = client.cluster("bank").object(Bank)
            assert await bank.call(Bank.deposit, "bob") == 1
            assert await bank.call(Bank.deposit, name="bob", amount=9) == 10
            assert await bank.call(Bank.total) == 15
            for reads in ("leader", "local"):
                assert await client.cluster("bank").object(Bank, reads=reads).call(Bank.balance, "ann") == 5
            assert await bank.call(Bank.stamp, 1) > 3
            await _until_alarm(bank)
            assert (await client.overview("bank")).machine["accounts"] == 2


async def _until_alarm(bank: barque.ObjectClient) -> None:
    async def heard() -> bool:
        return await bank.call(Bank.alarms_heard) == 1

    await until(heard, "the alarm")


async def test_a_method_that_fails_is_an_answer_and_a_bug_is_a_fault(tmp_path: Path) -> None:
    """`CommandFailed` and errors about values reach the caller; arguments that do not fit are refused."""
    async with nodes(tmp_path, 1) as made:
        await made.stop()
        await made.start(machines={"bank": Bank})
        async with made.client() as client:
            await client.start_cluster("bank", "bank")
            bank = client.cluster("bank").object(Bank)
            await bank.call(Bank.deposit, "ann", 5)
            with pytest.raises(barque.CommandFailed, match="ann has 5"):
                await bank.call(Bank.withdraw, "ann", 6)
            with pytest.raises(barque.CommandFailed, match="KeyError: 'eve'"):
                await bank.call(Bank.withdraw, "eve", 6)
            with pytest.raises(barque.CommandFailed, match="KeyError"):
                await bank.call(Bank.balance, "eve")
            with pytest.raises(barque.InvalidCommand, match="deposit"):
                await bank.call(Bank.deposit, "ann", "much")  # type: ignore[arg-type]  # a wrong type, on purpose
            with pytest.raises(barque.InvalidCommand):
                await bank.call(Bank.deposit, "ann", 1, 2)  # type: ignore[call-arg]  # likewise
            with pytest.raises(barque.InvalidCommand):
                await client.process_command("bank", ["deposit", "ann", "much"])
            assert await bank.call(Bank.balance, "ann") == 5
            with pytest.raises(barque.BarqueError):
                await bank.call(Bank.break_down)
            status = await client.status()
            assert "break_down" in str(status) or "a bug" in str(status)


async def test_threads_call_methods_too(tmp_path: Path) -> None:
    """`barque.sync` has the same objects."""
    async with nodes(tmp_path, 1) as made:
        await made.stop()
        await made.start(machines={"bank": Bank})
        async with made.client() as client:
            await client.start_cluster("bank", "bank")
        found: list[int] = []

        def work() -> None:
            with barque.sync.Client(list(made.addresses.values()), secret="a secret for tests only") as bank:
                found.append(bank.cluster("bank").object(Bank).call(Bank.deposit, "ann", 3))

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert found == [3]


def test_an_object_is_an_object() -> None:
    """A method is an ordinary one on an object, so that a machine is tested by calling it."""
    bank = Bank()
    assert bank.deposit("ann", 2) == 2
    assert bank.total() == 2
    with pytest.raises(barque.CommandFailed):
        bank.withdraw("ann", 3)


def test_a_snapshot_holds_the_fields() -> None:
    """What `capture` wrote, `restore` reads, with the fields' types."""
    machine = barque.machine_of(Bank)
    state = Bank(accounts={"ann": 3}, alarms=2)
    assert machine.restore(iter(list(machine.capture(state))), {}) == state


class Account(barque.Replicated):
    """A version 0."""

    balance: int = 0

    @barque.command
    def add(self, amount: int) -> int:
        """Add."""
        self.balance += amount
        return self.balance


class AccountInCents(barque.Replicated):
    """A version 1: cents, and a name."""

    version: ClassVar[int] = 1
    previous: ClassVar[type[barque.Replicated] | None] = Account
    balance: int = 0
    owner: str = "nobody"

    @barque.command
    def add(self, amount: int, cents: int = 0) -> int:
        """Add."""
        self.balance += 100 * amount + cents
        return self.balance

    @classmethod
    def upgraded(cls, old: Account) -> "AccountInCents":
        """From whole units."""
        return cls(balance=100 * old.balance)


async def test_a_class_follows_another(tmp_path: Path) -> None:
    """VER-01: the state moves to the next class at one entry, and its commands follow."""
    async with nodes(tmp_path, 1) as made:
        await made.stop()
        await made.start(machines={"account": Account})
        async with made.client() as client:
            await client.start_cluster("account", "account")
            assert await client.cluster("account").object(Account).call(Account.add, 3) == 3
        await made.stop()
        await made.start(machines={"account": AccountInCents})
        async with made.client() as client:
            account = client.cluster("account").object(AccountInCents)
            assert await account.call(AccountInCents.add, 1, cents=5) == 405


def test_classes_that_cannot_be_machines_are_refused() -> None:
    """Each says what is wrong."""

    class Empty(barque.Replicated):
        value: int = 0

    class Many(barque.Replicated):
        @barque.command
        def add(self, *amounts: int) -> None:
            """Add them all."""

    class Late(barque.Replicated):
        @barque.command
        def add(self, amount: int, meta: barque.CommandMeta) -> None:
            """Add."""

    for kind, text in ((Empty, "no method"), (Many, r"\*amounts"), (Late, "comes first")):
        with pytest.raises(barque.ConfigurationError, match=text):
            barque.machine_of(kind)


def test_commands_of_others_are_no_commands() -> None:
    """A method of another class, or no method at all, is refused before anything is sent."""
    barque.machine_of(Bank)
    for method in (Account.add, "add", None, Bank.facts):
        with pytest.raises(barque.InvalidCommand):
            encoded(method, Bank, (1,), {})
    assert msgspec.msgpack.encode(encoded(Bank.deposit, Bank, ("ann",), {})) == msgspec.msgpack.encode(
        ["deposit", "ann", 1]
    )


class Anything(barque.Replicated):
    """Keeps whatever it is given."""

    kept: Any = None

    @barque.command
    def keep(self, value: Any) -> Any:
        """Keep it."""
        self.kept = value
        return value


@pytest.mark.parametrize("value", [b"raw", "text", 2**64 - 1, -(2**63), 1.5, [1, [2]], {"a": b""}, None])
def test_what_travels_is_what_was_given(value: Any) -> None:
    """Bytes stay bytes, also where the parameter may be anything."""
    barque.machine_of(Anything)
    assert encoded(Anything.keep, Anything, (value,), {}).value == value


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {1: {2: {3}}, "x": object}])
def test_what_cannot_travel_is_refused(value: Any) -> None:
    """Before anything is sent, with the method's name."""
    barque.machine_of(Anything)
    with pytest.raises(barque.InvalidCommand, match=r"Anything\.keep"):
        encoded(Anything.keep, Anything, (value,), {})
