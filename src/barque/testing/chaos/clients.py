"""Clients of a key-value cluster over real sockets, and the record of their operations.

Each operation is recorded as answered, refused (it did not happen), or of unknown outcome. Clients use a key
for a while and then leave it, so that no single history grows too long to search.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from barque.client.client import Client
from barque.client.connection import Connection, Link
from barque.errors import BarqueError, InvalidCommand, OutcomeUnknown, QueryTimeout, Refused
from barque.machine.kv_commands import Append, Cas, Del, Exists, Get, IncrBy, Keys, Set
from barque.testing.checkers.history import Outcome
from barque.testing.checkers.records import Record, encode_record
from barque.transport.client_link import ClientLink

CLUSTER = "kv"
_WIDTH = 9  # of an element in a list, with its comma
_REFUSED_S = 0.05
_HANG_S = 5.0
"""An operation must have an outcome this long after its deadline."""


def connect_client(
    addresses: dict[str, str], home: str, secret: bytes, installation: str, timeout_s: float
) -> Client:
    """A client that reaches each node by the address given here, whatever the nodes say.

    The nodes' own tables name the links between nodes, which clients must not use. `addresses` has every way
    to write a node: its name, and all addresses that stand for it. The client asks `home` first, and the
    others in turn while `home` does not answer.
    """
    names = [home, *(name for name in addresses if ":" not in name and name != home)]
    turn = 0

    async def connect(
        address: str, connection: Connection, on_closed: Callable[[str], None]
    ) -> tuple[Link, str]:
        nonlocal turn
        if address not in addresses:
            address, turn = names[turn % len(names)], turn + 1
        link = await ClientLink.connect(
            addresses[address], installation, secret, on_answers=connection.on_answers, on_closed=on_closed
        )
        return link, link.node

    return Client.over(connect, timeout_s=timeout_s)


# --- operations -----------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One kind of object, and the operations on it."""

    model: str
    """The name in `models.MODELS`, or `list-append`."""
    draw: "Callable[[random.Random, int, Any], tuple[str, Any]]"
    """(chance, unique number, the value seen last) → f and value."""
    perform: Callable[[Client, str, str, Any], Awaitable[Any]]
    operations_per_key: int = 50


def _draw_register(rng: random.Random, number: int, seen: Any) -> tuple[str, Any]:
    return ("read", None) if rng.random() < 0.5 else ("write", f"v{number}")


def _draw_cas(rng: random.Random, number: int, seen: Any) -> tuple[str, Any]:
    chance = rng.random()
    if chance < 0.4:
        return "read", None
    if chance < 0.8:
        return "cas", [seen, f"v{number}"]
    return ("write", f"v{number}") if chance < 0.95 else ("delete", None)


async def _register(client: Client, key: str, f: str, value: Any) -> Any:
    name = key.encode()
    match f:
        case "read":
            found = await client.consistent_query(CLUSTER, Get(name))
            return None if found is None else found.decode()
        case "write":
            await client.process_command(CLUSTER, Set(name, value.encode()))
            return None
        case "cas":
            expected, new = value
            old = None if expected is None else expected.encode()
            return await client.process_command(CLUSTER, Cas(name, old, new.encode())) == 1
    return await client.process_command(CLUSTER, Del([name])) == 1


def _draw_set(rng: random.Random, number: int, seen: Any) -> tuple[str, Any]:
    chance = rng.random()
    if chance < 0.6 or not seen:
        return ("add", number) if chance < 0.7 else ("read", None)
    if chance < 0.8:
        return "read", None
    return ("contains" if chance < 0.95 else "remove"), rng.choice(seen)


async def _set(client: Client, key: str, f: str, value: Any) -> Any:
    name = f"{key}/{value}".encode()
    match f:
        case "add":
            await client.process_command(CLUSTER, Set(name, b""))
            return None
        case "remove":
            return await client.process_command(CLUSTER, Del([name])) == 1
        case "contains":
            return await client.consistent_query(CLUSTER, Exists([name])) == 1
    found = await client.consistent_query(CLUSTER, Keys(f"{key}/*".encode()))
    return sorted(int(element.rpartition(b"/")[2]) for element in found)


def _draw_counter(rng: random.Random, number: int, seen: Any) -> tuple[str, Any]:
    return ("read", None) if rng.random() < 0.3 else ("add", rng.choice((1, 1, 2)))


async def _counter(client: Client, key: str, f: str, value: Any) -> Any:
    if f == "add":
        return await client.process_command(CLUSTER, IncrBy(key.encode(), value))
    return int(await client.consistent_query(CLUSTER, Get(key.encode())) or 0)


def _draw_list(rng: random.Random, number: int, seen: Any) -> tuple[str, Any]:
    return ("read", None) if rng.random() < 0.4 else ("append", f"{number:0{_WIDTH - 1}d}")


async def _list(client: Client, key: str, f: str, value: Any) -> Any:
    if f == "append":
        length = await client.process_command(CLUSTER, Append(key.encode(), value.encode() + b","))
        return length // _WIDTH if length % _WIDTH == 0 else -1
    found = await client.consistent_query(CLUSTER, Get(key.encode())) or b""
    return [element.decode() for element in found.split(b",") if element]


KINDS: dict[str, Kind] = {
    "register": Kind("register", _draw_register, _register),
    "cas": Kind("register", _draw_cas, _register),
    "set": Kind("set", _draw_set, _set),
    "counter": Kind("counter", _draw_counter, _counter),
    "list-append": Kind("list-append", _draw_list, _list, 400),
}
"""The workloads by name."""


# --- clients --------------------------------------------------------------------------------------------


class Workload:
    """Processes that work on objects of one kind, each with one operation at a time.

    They are spread over the clients. Every other process of a client only reads: on a leader that was cut
    off, writers soon wait for answers, and nobody would see what that leader still says.
    """

    def __init__(
        self,
        name: str,
        clients: Sequence[Client],
        seed: int,
        directory: Path,
        *,
        processes: int,
        rate: float,
        timeout_s: float,
        origin_ns: int,
        operations_per_key: int | None = None,
    ) -> None:
        self.name = name
        self.kind = KINDS[name]
        self.records: list[Record] = []
        self.counts: Counter[Outcome] = Counter()
        self.hangs: list[str] = []
        self.path = directory / f"{name}.jsonl"
        self._clients = clients
        self._seed = seed
        self._count = processes
        self._timeout_s = timeout_s
        self._origin_ns = origin_ns
        self._think_s = processes / rate
        self._per_key = operations_per_key or self.kind.operations_per_key
        self._number = 0
        self._seen: dict[str, Any] = {}
        self._stopping = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self._file = self.path.open("wb")

    @property
    def acknowledged(self) -> int:
        """How many operations were answered."""
        return self.counts[Outcome.OK]

    def start(self) -> None:
        """Start all processes."""
        self.tasks = [asyncio.create_task(self._work(i)) for i in range(self._count)]

    async def stop(self) -> None:
        """Finish the operations under way. Raises what a process raised."""
        self._stopping.set()
        await asyncio.gather(*self.tasks)

    async def cancel(self) -> None:
        """Stop at once, whatever waits."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def close(self) -> None:
        """Close the history: it is complete."""
        self._file.close()

    async def read_all(self, patience_s: float) -> list[str]:
        """Read every object that was ever used; return the keys that could not be read."""
        missing = []
        deadline = time.monotonic() + patience_s
        for key in sorted({record.key for record in self.records}):
            while await self.do(self._clients[0], "final", key, "read", None) is not Outcome.OK:
                if time.monotonic() > deadline:
                    missing.append(key)
                    break
                await asyncio.sleep(_REFUSED_S)
        return missing

    async def _work(self, i: int) -> None:
        rng = random.Random(f"{self._seed}/{self.name}/{i}")  # noqa: S311  # repeatable on purpose
        client = self._clients[i % len(self._clients)]
        reads = i // len(self._clients) % 2 == 1
        lives = 1
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(rng.expovariate(1 / self._think_s)):
                    await self._stopping.wait()
                break
            except TimeoutError:
                pass
            self._number += 1
            key = f"{self.name}-{2 * (self._number // (2 * self._per_key)) + rng.randrange(2)}"
            f, value = ("read", None) if reads else self.kind.draw(rng, self._number, self._seen.get(key))
            told = await self.do(client, f"{self.name}.{i}.{lives}", key, f, value)
            if told is Outcome.UNKNOWN:
                lives += 1  # a process has one operation at a time, and this one may still be under way
            elif told is Outcome.FAIL:
                await asyncio.sleep(_REFUSED_S)

    async def do(self, client: Client, process: str, key: str, f: str, value: Any) -> Outcome:
        """Perform one operation, and record it."""
        call = time.monotonic_ns() - self._origin_ns
        result, error = None, ""
        limit_s = self._timeout_s + _HANG_S
        try:
            async with asyncio.timeout(limit_s):
                result = await self.kind.perform(client, key, f, value)
            outcome = Outcome.OK
        except InvalidCommand:
            raise  # clients ask nothing that the machine does not know
        except Refused as refusal:
            outcome, error = Outcome.FAIL, f"{type(refusal).__name__}: {refusal}"
        except (OutcomeUnknown, QueryTimeout) as unknown:
            outcome, error = Outcome.UNKNOWN, f"{type(unknown).__name__}: {unknown}"
        except TimeoutError:
            outcome, error = Outcome.UNKNOWN, f"no outcome after {limit_s:g} s"
            self.hangs.append(f"{process}: {f} on {key}: {error}")
        returned = None if outcome is Outcome.UNKNOWN else time.monotonic_ns() - self._origin_ns
        record = Record(
            process=process,
            f=f,
            key=key,
            value=value,
            call=call,
            returned=returned,
            outcome=outcome,
            result=result,
            error=error,
        )
        self.records.append(record)
        self.counts[outcome] += 1
        self._file.write(encode_record(record))
        if outcome is Outcome.OK and self.kind.model != "list-append":
            self._learn(key, f, value, result)
        return outcome

    def _learn(self, key: str, f: str, value: Any, result: Any) -> None:
        """Remember what to swap, or to look for, next time."""
        if f == "read":
            self._seen[key] = result
        elif f == "write" or (f == "cas" and result):
            self._seen[key] = value if f == "write" else value[1]


async def until(
    condition: Callable[[], Awaitable[str]], patience_s: float, poll_s: float = 0.1
) -> str | None:
    """Wait until the condition returns "". Returns None then, or its last text when patience ends.

    An error of the cluster counts as "not yet".
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            async with asyncio.timeout(max(poll_s, deadline - time.monotonic())):
                said = await condition()
        except (BarqueError, OSError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}"
        if not said:
            return None
        if time.monotonic() >= deadline:
            return said
        await asyncio.sleep(poll_s)
